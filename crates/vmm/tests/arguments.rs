//! QEMU's argument list, word for word, for one machine of each kind. A changed line is a changed VM: look at it, then
//! run with `BELLJAR_UPDATE_SNAPSHOTS=1`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::path::Path;

use belljar_vmm::{
    Accel, Disk, DiskContent, Fds, GuestFiles, Machine, MachineError, Nic, QuoteSocket, Tee, TeeKind, arguments,
};

fn machine(tee: Tee, accel: Accel) -> Machine {
    let (firmware, kernel) = match tee {
        Tee::Software { .. } => ("qboot.rom", "vmlinux"),
        Tee::Snp { .. } => ("OVMF.amdsev.fd", "vmlinuz"),
        Tee::Tdx { .. } => ("OVMF.inteltdx.ms.fd", "vmlinuz"),
    };
    let file = |name: &str| Path::new("/guest, with comma").join(name);
    Machine {
        id: "quiet-otter".into(),
        tee,
        accel,
        vcpus: 2,
        memory_mib: 512,
        guest: GuestFiles {
            firmware: file(firmware),
            kernel: file(kernel),
            initrd: file("initrd"),
            cmdline: "console=hvc0 quiet, panic=-1".into(),
        },
        disks: vec![
            Disk { content: DiskContent::Bytes(vec![0; 512].into()), serial: "initdata".into() },
            Disk { content: DiskContent::File("/store/a \"b\",c".into()), serial: "layer-0123456789abcd".into() },
        ],
        nic: None,
    }
}

fn software() -> Tee {
    Tee::Software { host_data: [0xab; 32] }
}

fn snp() -> Tee {
    Tee::Snp { cbitpos: 51, reduced_phys_bits: 1, policy: 0x30000, host_data: [0xab; 32] }
}

fn tdx(quote_socket: QuoteSocket) -> Tee {
    Tee::Tdx { mr_config_id: [0xcd; 48], quote_socket }
}

fn snapshot(name: &str, machine: &Machine) {
    let fds = Fds { qmp: 10, console: 11, agent: 12, tee: 13, probe: 14, memory_disks: vec![15], tap: Some(16) };
    let mut found = String::new();
    for argument in arguments(machine, &fds) {
        let argument = argument.into_string().unwrap();
        let first = found.is_empty();
        found.push_str(if first {
            ""
        } else if argument.starts_with('-') {
            "\n"
        } else {
            " "
        });
        found.push_str(&argument);
    }
    found.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("BELLJAR_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{}", path.display());
}

#[test]
fn software_tcg() {
    snapshot("software-tcg.txt", &machine(software(), Accel::Tcg));
}

#[test]
fn software_kvm() {
    snapshot("software-kvm.txt", &machine(software(), Accel::Kvm));
}

#[test]
fn snp_kvm() {
    snapshot("snp.txt", &machine(snp(), Accel::Kvm));
}

#[test]
fn tdx_kvm() {
    let unix = QuoteSocket::Unix("/run/qgs".into());
    snapshot("tdx-unix.txt", &machine(tdx(unix), Accel::Kvm));
    snapshot("tdx-vsock.txt", &machine(tdx(QuoteSocket::Vsock { cid: 2, port: 4050 }), Accel::Kvm));
}

/// QEMU's translator keeps the memory barriers of a machine that has room for a second vCPU.
#[test]
fn one_emulated_vcpu_has_room_for_another() {
    let fds = Fds { qmp: 10, console: 11, agent: 12, tee: 13, probe: 14, memory_disks: vec![15], tap: None };
    let smp = |accel, vcpus| {
        let mut machine = machine(software(), accel);
        machine.vcpus = vcpus;
        let list = arguments(&machine, &fds);
        let at = list.iter().position(|argument| argument == "-smp").unwrap();
        list[at + 1].clone().into_string().unwrap()
    };
    assert_eq!(smp(Accel::Tcg, 1), "1,maxcpus=2");
    assert_eq!(smp(Accel::Tcg, 4), "4");
    assert_eq!(smp(Accel::Kvm, 1), "1");
}

#[test]
fn with_a_network() {
    let mut machine = machine(software(), Accel::Tcg);
    let tap = std::fs::File::open("/dev/null").unwrap().into();
    machine.nic = Some(Nic { tap: std::sync::Arc::new(tap), mac: [0x02, 0x42, 0x0a, 0x58, 0, 5] });
    assert_eq!(machine.check(), Ok(()));
    snapshot("software-nic.txt", &machine);
    for mac in [[0; 6], [0x01, 0, 0, 0, 0, 1], [0xff; 6]] {
        machine.nic.as_mut().unwrap().mac = mac;
        assert_eq!(machine.check(), Err(MachineError::Mac { found: mac }));
    }
}

#[test]
fn many_disks() {
    let mut many = machine(software(), Accel::Kvm);
    many.disks = (0..40)
        .map(|n| Disk { content: DiskContent::File(format!("/store/{n}").into()), serial: format!("layer-{n:014}") })
        .collect();
    snapshot("software-40-disks.txt", &many);
}

/// What `check` says of a good machine after `change`; the unchanged machine is good.
fn checked(change: impl FnOnce(&mut Machine)) -> Result<(), MachineError> {
    let mut machine = machine(software(), Accel::Tcg);
    assert_eq!(machine.check(), Ok(()));
    change(&mut machine);
    machine.check()
}

#[test]
fn every_bound_is_checked() {
    assert_eq!(checked(|m| m.vcpus = 3), Err(MachineError::Vcpus { found: 3 }));
    assert_eq!(checked(|m| m.vcpus = 32), Ok(()));
    assert_eq!(checked(|m| m.memory_mib = 127), Err(MachineError::Memory { found: 127 }));
    assert_eq!(checked(|m| m.memory_mib = 128), Ok(()));
    assert_eq!(checked(|m| m.id = "a,b".into()), Err(MachineError::Id { found: "a,b".into() }));
    assert_eq!(checked(|m| m.guest.cmdline = "x".repeat(2048)), Err(MachineError::Cmdline { found: 2048 }));
    assert_eq!(checked(|m| m.guest.cmdline = "x".repeat(2047)), Ok(()));
    assert_eq!(checked(|m| m.guest.cmdline = "a\nb".into()), Err(MachineError::Cmdline { found: 3 }));
    for serial in ["", "a,b", "layer-0123456789abcde"] {
        let error = MachineError::Serial { found: serial.into() };
        assert_eq!(checked(|m| m.disks[1].serial = serial.into()), Err(error));
    }
    let twice = MachineError::SerialTwice { found: "initdata".into() };
    assert_eq!(checked(|m| m.disks[1].serial = "initdata".into()), Err(twice));
    let bytes = |n: usize| move |m: &mut Machine| m.disks[0].content = DiskContent::Bytes(vec![0; n].into());
    assert_eq!(checked(bytes(511)), Err(MachineError::DiskLength { serial: "initdata".into(), found: 511 }));
    assert_eq!(checked(bytes(1024)), Ok(()));
    let disks = |n: usize| {
        move |m: &mut Machine| {
            let disk = |n| Disk { content: DiskContent::File("/x".into()), serial: format!("layer-{n}") };
            m.disks = (0..n).map(disk).collect();
        }
    };
    assert_eq!(checked(disks(128)), Ok(()));
    assert_eq!(checked(disks(129)), Err(MachineError::Disks { found: 129 }));
}

#[test]
fn hardware_needs_kvm() {
    assert_eq!(machine(snp(), Accel::Kvm).check(), Ok(()));
    assert_eq!(machine(snp(), Accel::Tcg).check(), Err(MachineError::TeeNeedsKvm { tee: TeeKind::Snp }));
    let tdx = tdx(QuoteSocket::Unix("/run/qgs".into()));
    assert_eq!(machine(tdx.clone(), Accel::Kvm).check(), Ok(()));
    assert_eq!(machine(tdx, Accel::Tcg).check(), Err(MachineError::TeeNeedsKvm { tee: TeeKind::Tdx }));
}

#[test]
fn debugging_is_a_word_of_the_measured_command_line() {
    let mut machine = machine(software(), Accel::Tcg);
    assert!(!machine.debug());
    machine.guest.cmdline.push_str(" belljar.debug");
    assert!(machine.debug());
    machine.guest.cmdline.push('x');
    assert!(!machine.debug());
}
