//! Hardware virtualisation, and the devices for channels and networks of VMs.

use super::device;
use crate::cpu::{Cpu, Vendor};
use crate::machine::{Access, Machine};
use crate::report::{Area, KvmProbe, Row, Rows};

pub(crate) fn examine(machine: &dyn Machine, cpu: &Cpu, probe: &KvmProbe, all: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Kvm, rows: all };
    let (feature, module) = if cpu.vendor == Vendor::Amd { ("SVM", "kvm_amd") } else { ("VT-x", "kvm_intel") };
    if cpu.virtualisation {
        rows.ok("cpu", feature);
    } else if cpu.hypervisor.is_some() {
        rows.missing("cpu", format!("no {feature}"), "turn on nested virtualisation for this virtual machine");
    } else {
        rows.missing("cpu", format!("no {feature}"), format!("enable {feature} in the BIOS set-up; then reboot"));
    }
    let opens = device(
        &mut rows,
        machine,
        "/dev/kvm",
        &format!("modprobe {module} (as root); in a container, pass --device /dev/kvm"),
        "adduser $USER kvm (as root), and log in again",
    );
    match probe {
        KvmProbe::Runs => rows.ok("runs a guest", "yes"),
        KvmProbe::Fails(why) if opens => rows.problem(
            "runs a guest",
            format!("no: {why}; pods run emulated, many times slower"),
            "use a machine whose KVM works, bare metal or with nested virtualisation",
        ),
        KvmProbe::Fails(_) | KvmProbe::NotTried if !opens => {
            rows.not_applicable("runs a guest", "no device to try with; pods run emulated, many times slower");
        }
        KvmProbe::Fails(_) | KvmProbe::NotTried => rows.not_applicable("runs a guest", "not tried"),
    }

    let mut rows = Rows { area: Area::Devices, rows: all };
    let load = |module: &str| format!("modprobe {module} (as root)");
    for (path, module, instead) in [
        ("/dev/vhost-vsock", "vhost_vsock", "a virtio-serial port"),
        ("/dev/vhost-net", "vhost_net", "QEMU's own virtio-net"),
    ] {
        match machine.open(path) {
            Access::Opens => rows.ok(path, "opens"),
            Access::Missing => rows.missing(path, format!("absent; {instead} does its work"), load(module)),
            Access::Denied => rows.problem(
                path,
                format!("permission denied; {instead} does its work"),
                "adduser $USER kvm (as root), and log in again",
            ),
            Access::Fails(why) => rows.problem(path, format!("{why}; {instead} does its work"), load(module)),
        }
    }
    device(
        &mut rows,
        machine,
        "/dev/net/tun",
        "modprobe tun (as root); in a container, pass --device /dev/net/tun",
        "chmod 666 /dev/net/tun (as root): opening it gives no right by itself",
    );
}
