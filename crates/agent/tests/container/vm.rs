//! The test binary as init of a VM, for kernels whose limits this machine cannot set (`tests/container/vm.sh`).

/// Mounts what the agent mounts, leaves the initramfs as the agent does, and lets the test harness go on.
pub fn be_init() {
    std::fs::create_dir_all("/root.new").unwrap();
    belljar_agent::mounts::prepare().unwrap();
    belljar_agent::modules::load(None).unwrap();
    let own = std::fs::read("/init").unwrap();
    belljar_agent::mounts::switch_root().unwrap();
    std::fs::create_dir_all("/tmp").unwrap();
    drop(own);
}
