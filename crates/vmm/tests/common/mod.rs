//! What the tests share: a kernel, a guest, a machine.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::OnceLock;

use belljar_vmm::{Accel, GuestFiles, Machine, Options, Tee};

/// The PVH kernel of the guest image that `belljar guest build` made, or `BELLJAR_TEST_VMLINUX`.
pub fn kernel() -> PathBuf {
    let kernel = std::env::var_os("BELLJAR_TEST_VMLINUX").map(PathBuf::from);
    let kernel = kernel.unwrap_or_else(|| belljar_guest_image::default_dir().join("current/vmlinux"));
    assert!(kernel.exists(), "no {}: run `belljar guest build`", kernel.display());
    kernel
}

/// `examples/test_guest.rs` as PID 1.
pub fn initrd() -> PathBuf {
    static INITRD: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = INITRD.get_or_init(|| {
        // target/TRIPLE/PROFILE/deps/test-HASH → target/TRIPLE/PROFILE/examples/test_guest
        let exe = std::env::current_exe().unwrap();
        let guest = exe.parent().unwrap().parent().unwrap().join("examples/test_guest");
        assert!(guest.exists(), "no {}: run `cargo build -p belljar-vmm --examples`", guest.display());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd");
        std::fs::write(&path, belljar_guest_image::bare_initrd(&guest).unwrap()).unwrap();
        (dir, path)
    });
    path.clone()
}

pub fn machine(test: &str) -> Machine {
    Machine {
        id: format!("test-{}-{test}", std::process::id()),
        tee: Tee::Software { host_data: [0xab; 32] },
        accel: Accel::Tcg,
        vcpus: 1,
        memory_mib: 256,
        guest: GuestFiles {
            firmware: "/usr/share/qemu/qboot.rom".into(),
            kernel: kernel(),
            initrd: initrd(),
            cmdline: format!(
                "console=hvc0 8250.nr_uarts=0 cryptomgr.notests \
                 initcall_blacklist=jent_mod_init,trace_eval_init panic=-1 quiet test={test}"
            ),
        },
        disks: Vec::new(),
    }
}

pub fn options() -> Options {
    Options::new(std::env::temp_dir().join("belljar-vmm-test-cache"))
}
