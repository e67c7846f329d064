//! The container runtime that Kubernetes uses. `belljar run` does without it.

use std::ffi::OsStr;

use crate::machine::{Access, Failure, Machine};
use crate::report::{Area, Row, Rows};
use crate::version::Version;

/// The first that can tell a shim about sandboxes as we need it.
const LEAST: Version = Version(1, 6, 0);
const INSTALL: &str = "apt install containerd (only Kubernetes needs it)";

pub(crate) fn examine(machine: &dyn Machine, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Containerd, rows };
    match machine.run(OsStr::new("containerd"), &["--version"]) {
        Ok(text) => match Version::find(&text) {
            Some(version) if version >= LEAST => rows.ok("version", format!("{version} (needs {LEAST})")),
            Some(version) => rows.problem("version", format!("{version}, needs {LEAST}"), INSTALL),
            None => rows.problem("version", "it names no version", INSTALL),
        },
        Err(Failure::NotFound) => return rows.missing("version", "no containerd", INSTALL),
        Err(Failure::Failed(why)) => return rows.problem("version", why, INSTALL),
    }
    let socket = "/run/containerd/containerd.sock";
    match machine.connect(socket) {
        Access::Opens => rows.ok("socket", "answers"),
        Access::Missing => rows.missing("socket", format!("no {socket}"), "systemctl start containerd (as root)"),
        Access::Denied if machine.is_root() => {
            rows.problem(
                "socket",
                format!("{socket}: permission denied, to root"),
                "leave the sandbox that forbids it",
            );
        }
        Access::Denied => rows.problem("socket", format!("{socket}: permission denied"), "run the doctor as root"),
        Access::Fails(why) => {
            rows.problem("socket", format!("{socket}: {why}"), "systemctl restart containerd (as root)")
        }
    }
}
