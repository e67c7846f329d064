//! Owns a pod VM until it is killed: `owner KERNEL INITRD`. Prints QEMU's process id when the guest has answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use belljar_vmm::{Accel, GuestFiles, Machine, Options, PodVm, Tee};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let machine = Machine {
        id: "owner".into(),
        tee: Tee::Software { host_data: [0; 32] },
        accel: Accel::Tcg,
        vcpus: 1,
        memory_mib: 256,
        guest: GuestFiles {
            firmware: "/usr/share/qemu/qboot.rom".into(),
            kernel: arguments[1].clone().into(),
            initrd: arguments[2].clone().into(),
            cmdline: "console=hvc0 8250.nr_uarts=0 cryptomgr.notests quiet panic=-1".into(),
        },
        disks: Vec::new(),
        nic: None,
    };
    let cache = std::env::temp_dir().join("belljar-vmm-test-cache");
    let vm = PodVm::start(&machine, Options::new(cache)).await.unwrap();
    println!("{}", vm.qemu_pid());
    std::future::pending::<()>().await;
}
