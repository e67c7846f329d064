//! What is mounted in a container.

use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::VOLUMES;
use crate::model::{Container, Contract, Volume};

/// What the kernel fills, the contract's memory file systems, and its volumes, in this order.
pub(super) fn all(contract: &Contract, container: &Container) -> Result<Vec<Mount>, OciSpecError> {
    let fixed: [(&str, &str, &str, &[&str]); 7] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "mode=755", "size=65536"]),
        ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup2", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    let mount = |destination: &str, kind: &str, source: &str, options: Vec<String>| {
        MountBuilder::default()
            .destination(Path::new(destination))
            .typ(kind)
            .source(Path::new(source))
            .options(options)
            .build()
    };
    let fixed = fixed.into_iter().map(|(destination, kind, source, options)| {
        mount(destination, kind, source, options.iter().map(|option| (*option).to_owned()).collect())
    });
    let own = container.tmpfs.iter().map(|tmpfs| {
        let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
        options.push(format!("mode={:o}", tmpfs.mode));
        options.push(format!("size={}", tmpfs.size_bytes));
        mount(&tmpfs.path, "tmpfs", "tmpfs", options)
    });
    let bind = |source: String, destination: &str, read_only: bool| {
        let mut options: Vec<String> = ["rbind", "nosuid", "nodev"].map(str::to_owned).to_vec();
        options.push(if read_only { "ro" } else { "rw" }.to_owned());
        mount(destination, "bind", &source, options)
    };
    let volumes = container.mounts.iter().map(|mount| {
        let below = mount.sub_path.as_ref().map(|path| format!("/{path}")).unwrap_or_default();
        let writable = contract.volumes.get(&mount.volume).is_some_and(Volume::writable);
        bind(format!("{VOLUMES}/{}{below}", mount.volume), &mount.path, mount.read_only || !writable)
    });
    fixed.chain(own).chain(volumes).collect()
}
