//! Kernel facilities, the guest image, and room on disks.

use super::size;
use crate::machine::Machine;
use crate::report::{Area, Directory, GuestImage, Row, Rows};

pub(crate) fn examine(machine: &dyn Machine, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::System, rows };
    control_groups(machine, &mut rows);
    user_namespaces(machine, &mut rows);
    memory_probe(machine, &mut rows);
}

fn control_groups(machine: &dyn Machine, rows: &mut Rows<'_>) {
    let what = "cgroup v2";
    let Some(controllers) = machine.read("/sys/fs/cgroup/cgroup.controllers") else {
        let found =
            if machine.exists("/sys/fs/cgroup/unified/cgroup.controllers") { "mixed with v1" } else { "not mounted" };
        return rows.missing(
            what,
            found,
            "add systemd.unified_cgroup_hierarchy=1 to GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub, reboot",
        );
    };
    let lacking: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|wanted| controllers.split_ascii_whitespace().all(|there| there != *wanted))
        .collect();
    if lacking.is_empty() {
        rows.ok(what, "with cpu, memory and pids");
    } else {
        rows.problem(
            what,
            format!("without {}", lacking.join(", ")),
            "remove cgroup_disable=, cgroup_no_v1= and the like from the kernel parameters; in a container, delegate the controllers",
        );
    }
}

fn user_namespaces(machine: &dyn Machine, rows: &mut Rows<'_>) {
    let what = "user namespaces";
    let number = |path| machine.read(path).and_then(|text| text.trim().parse::<u64>().ok());
    match number("/proc/sys/user/max_user_namespaces") {
        None => rows.missing(what, "the kernel has none", "boot a kernel with CONFIG_USER_NS (Debian's have it)"),
        Some(0) => rows.problem(what, "switched off", "sysctl -w user.max_user_namespaces=15000 (as root)"),
        Some(_) if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) && !machine.is_root() => {
            rows.problem(what, "for root only", "sysctl -w kernel.unprivileged_userns_clone=1 (as root)");
        }
        Some(most) => rows.ok(what, format!("at most {most}")),
    }
}

/// `belljar probe memory` reads `/proc/PID/mem` of QEMU, which is not its child (Linux documentation, LSM/Yama).
fn memory_probe(machine: &dyn Machine, rows: &mut Rows<'_>) {
    let what = "reading a pod's memory";
    let scope = machine.read("/proc/sys/kernel/yama/ptrace_scope");
    match (scope.as_deref().map(str::trim), machine.is_root()) {
        (Some("3"), _) => rows.problem(
            what,
            "forbidden until the next boot (yama ptrace_scope is 3)",
            "take kernel.yama.ptrace_scope=3 out of /etc/sysctl.d and reboot, to use belljar probe memory",
        ),
        (_, true) => rows.ok(what, "allowed, to root"),
        (None | Some("0"), false) => rows.ok(what, "allowed, for pods of this user"),
        (Some(scope), false) => rows.problem(
            what,
            format!("for root only (yama ptrace_scope is {scope})"),
            "run belljar probe memory as root",
        ),
    }
}

pub(crate) fn guest_image(image: &GuestImage, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::GuestImage, rows };
    match image {
        GuestImage::Complete { dir, version } => rows.ok("files", format!("{version} in {}", dir.display())),
        GuestImage::Absent { dir } => {
            rows.missing("files", format!("none in {}", dir.display()), "belljar guest build")
        }
        GuestImage::Broken { dir, why } => {
            rows.problem("files", format!("{}: {why}", dir.display()), "belljar guest build");
        }
    }
}

pub(crate) fn space(machine: &dyn Machine, directories: &[Directory], rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Space, rows };
    for Directory { name, path, need_bytes } in directories {
        match machine.free_bytes(path) {
            Some(free) if free >= *need_bytes => rows.ok(name, format!("{} free in {}", size(free), path.display())),
            Some(free) => rows.problem(
                name,
                format!("{} free in {}", size(free), path.display()),
                format!("free some: it should be {}", size(*need_bytes)),
            ),
            None => rows.problem(
                name,
                format!("{} cannot be looked at", path.display()),
                format!("mkdir -p {}", path.display()),
            ),
        }
    }
}
