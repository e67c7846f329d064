//! Is this machine itself a confidential VM?

use crate::machine::{Access, Machine};
use crate::report::{Area, Row, Rows};

pub(crate) fn examine(machine: &dyn Machine, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::TeeGuest, rows };
    let devices = [("AMD SEV-SNP", "/dev/sev-guest"), ("Intel TDX", "/dev/tdx_guest")];
    let Some((name, path)) = devices.into_iter().find(|(_, path)| machine.exists(path)) else {
        return rows.not_applicable("kind", "this machine is not a confidential VM");
    };
    match machine.open(path) {
        Access::Opens => rows.ok("kind", format!("{name} guest")),
        Access::Denied => {
            rows.problem("kind", format!("{name} guest; {path}: permission denied"), "run as root to get reports");
        }
        Access::Missing => rows.problem("kind", format!("{name} guest; {path} vanished"), "run the doctor again"),
        Access::Fails(why) => {
            rows.problem("kind", format!("{name} guest; {path}: {why}"), "dmesg | grep -i guest tells why")
        }
    }
    if machine.exists("/sys/kernel/config/tsm/report") {
        rows.ok("reports", "through configfs (TSM)");
    } else if machine.exists("/sys/kernel/config") {
        rows.missing(
            "reports",
            "no /sys/kernel/config/tsm/report",
            "mount -t configfs none /sys/kernel/config (as root); needs a kernel from 6.7 on",
        );
    } else {
        rows.missing(
            "reports",
            "no configfs",
            "modprobe configfs && mount -t configfs none /sys/kernel/config (as root)",
        );
    }
}
