//! Which QEMU there is, and which TEEs it knows.

use std::ffi::OsString;

use crate::machine::{Failure, Machine};
use crate::report::{Area, Inputs, Row, Rows, State};
use crate::version::Version;

/// Older ones lack arguments that Belljar uses.
const LEAST: Version = Version(10, 0, 0);
const INSTALL: &str = "apt install -t bookworm-backports qemu-system-x86 (10.0)";

/// Must stand behind the rows of SNP and TDX: their first row says whether the CPU has any use for the object.
pub(crate) fn examine(machine: &dyn Machine, inputs: &Inputs, all: &mut Vec<Row>) {
    let wanted = [("sev-snp-guest", Area::Snp, "SNP"), ("tdx-guest", Area::Tdx, "TDX")]
        .map(|(object, area, tee)| (object, tee, !nothing_to_use(all, area)));
    let mut rows = Rows { area: Area::Qemu, rows: all };
    let program: OsString = match &inputs.qemu {
        Some(path) => path.into(),
        None => "qemu-system-x86_64".into(),
    };
    let shown = program.to_string_lossy().into_owned();
    let version = match machine.run(&program, &["--version"]) {
        Ok(text) => Version::find(text.lines().next().unwrap_or_default()),
        Err(Failure::NotFound) => return rows.missing("version", format!("no {shown}"), INSTALL),
        Err(Failure::Failed(why)) => return rows.problem("version", format!("{shown} {why}"), INSTALL),
    };
    match version {
        Some(version) if version >= LEAST => rows.ok("version", format!("{version} (needs {LEAST})")),
        Some(version) => rows.problem("version", format!("{version}, needs {LEAST}"), INSTALL),
        None => rows.problem("version", format!("{shown} names no version"), INSTALL),
    }
    let objects = match machine.run(&program, &["-object", "help"]) {
        Ok(text) => text,
        Err(_) => return rows.problem("objects", format!("{shown} -object help fails"), INSTALL),
    };
    for (object, tee, useful) in wanted {
        let what = format!("{object} object");
        if objects.split_ascii_whitespace().any(|word| word == object) {
            rows.ok(&what, "known");
        } else if !useful {
            rows.not_applicable(&what, format!("unknown, and of no use: no {tee} here"));
        } else if tee == "TDX" {
            rows.missing(
                &what,
                "unknown; QEMU from 10.1 on has it",
                "run Debian 13 and apt install -t trixie-backports qemu-system-x86",
            );
        } else {
            rows.missing(&what, "unknown", INSTALL);
        }
    }
}

/// Whether the CPU row of that area says that this machine has no such TEE.
fn nothing_to_use(rows: &[Row], area: Area) -> bool {
    rows.iter().any(|row| {
        row.area == area && row.what == "cpu" && (row.state == State::Missing || row.found.starts_with("not an "))
    })
}
