//! The same tests in a VM, with the test binary as init: there, the guest's own kernel sets all limits, and the agent's way off the initramfs
//! is taken before the first `pivot_root`.
//!
//! Needs QEMU, and from the guest image `vmlinux` and `overlay.ko`: `BELLJAR_TEST_VMLINUX` and `BELLJAR_TEST_OVERLAY_KO`.

use std::fs;
use std::process::Command;

/// Where the program of the containers lies in the VM.
pub const PROGRAM: &str = "/tmp/belljar-container-probe";

/// Mounts what the agent mounts, leaves the initramfs as the agent does, and lets the test harness go on.
pub fn be_init() {
    fs::create_dir_all("/root.new").unwrap();
    belljar_agent::mounts::prepare().unwrap();
    belljar_agent::modules::load(None, Default::default()).unwrap();
    let own = fs::read("/init").unwrap();
    belljar_agent::mounts::switch_root().unwrap();
    fs::create_dir("/tmp").unwrap();
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", "/tmp", "tmpfs", none, Some(c"size=80%")).unwrap();
    fs::write(PROGRAM, own).unwrap();
    fs::set_permissions(PROGRAM, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
#[ignore = "boots a VM; `make test` sets BELLJAR_TEST_VMLINUX and BELLJAR_TEST_OVERLAY_KO and runs it"]
fn all_of_this_in_a_vm() {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; `make test` sets it"));
    let (kernel, overlay) = (variable("BELLJAR_TEST_VMLINUX"), variable("BELLJAR_TEST_OVERLAY_KO"));
    let directory = tempfile::tempdir().unwrap();
    let initrd = directory.path().join("initrd");
    let program = directory.path().join("init");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    // Symbols are most of a test binary; without `strip` it is only slower.
    let _ = Command::new("strip").arg(&program).status();
    let mut cpio = Vec::new();
    for (number, (name, mode, data, device)) in [
        ("dev", 0o40_755, vec![], (0, 0)),
        ("dev/console", 0o20_600, vec![], (5, 1)),
        ("init", 0o100_755, fs::read(&program).unwrap(), (0, 0)),
        ("lib", 0o40_755, vec![], (0, 0)),
        ("lib/modules", 0o40_755, vec![], (0, 0)),
        ("lib/modules/overlay.ko", 0o100_644, fs::read(overlay).unwrap(), (0, 0)),
        ("lib/modules/order", 0o100_644, b"overlay.ko\n".to_vec(), (0, 0)),
        ("TRAILER!!!", 0, vec![], (0, 0)),
    ]
    .into_iter()
    .enumerate()
    {
        newc(&mut cpio, number, name, mode, &data, device);
    }
    fs::write(&initrd, cpio).unwrap();
    let output = Command::new("timeout")
        .args(["300", "qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max", "-m", "768", "-bios", "qboot.rom"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", &kernel, "-initrd"])
        .arg(&initrd)
        .args([
            "-append",
            "console=hvc0 8250.nr_uarts=0 cryptomgr.notests loglevel=0 panic=-1 -- --test-threads=1 --show-output",
        ])
        .args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=c0", "-chardev", "stdio,id=c0"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    assert!(console.contains("test result: ok."), "{console}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(console.contains("test limits_hold ... ok") && !console.contains("IGNORED"), "{console}");
    if let Some(time) = console.lines().find(|line| line.contains("microseconds from spawn")) {
        eprintln!("in the VM: {time}");
    }
}

/// One entry of a cpio archive (kernel documentation, "initramfs buffer format").
fn newc(out: &mut Vec<u8>, number: usize, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
    let name = format!("{name}\0");
    let fields = [
        u32::try_from(number).unwrap() + 1,
        mode,
        0,
        0,
        1,
        0,
        u32::try_from(data.len()).unwrap(),
        0,
        0,
        device.0,
        device.1,
        u32::try_from(name.len()).unwrap(),
        0,
    ];
    out.extend_from_slice(b"070701");
    fields.iter().for_each(|field| out.extend_from_slice(format!("{field:08x}").as_bytes()));
    for part in [name.as_bytes(), data] {
        out.extend_from_slice(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}
