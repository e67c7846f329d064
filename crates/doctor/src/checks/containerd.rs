//! The container runtime that Kubernetes uses. `belljar run` does without it.

use std::ffi::OsStr;

use belljar_node::containerd::{Naming, Told, told};

use crate::machine::{Access, Failure, Machine};
use crate::report::{Area, Row, Rows};
use crate::version::Version;

/// The first that can tell a shim about sandboxes as we need it.
const LEAST: Version = Version(1, 6, 0);
const INSTALL: &str = "apt install containerd (only Kubernetes needs it)";

pub(crate) fn examine(machine: &dyn Machine, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Containerd, rows };
    let mut naming = Naming::Type;
    match machine.run(OsStr::new("containerd"), &["--version"]) {
        Ok(text) => match Version::find(&text).inspect(|version| naming = Naming::of((version.0, version.1))) {
            Some(version) if version >= LEAST => rows.ok("version", format!("{version} (needs {LEAST})")),
            Some(version) => rows.problem("version", format!("{version}, needs {LEAST}"), INSTALL),
            None => rows.problem("version", "it names no version", INSTALL),
        },
        Err(Failure::NotFound) => return rows.missing("version", "no containerd", INSTALL),
        Err(Failure::Failed(why)) => return rows.problem("version", why, INSTALL),
    }
    handlers(machine, naming, &mut rows);
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

/// What containerd makes of its configuration, about our handlers. A machine that is no node of a cluster has none, and needs none.
fn handlers(machine: &dyn Machine, naming: Naming, rows: &mut Rows<'_>) {
    let install = "belljar node install (as root; only Kubernetes needs it)";
    let what = "handlers";
    let dump = match machine.run(OsStr::new("containerd"), &["config", "dump"]) {
        Ok(text) => text,
        Err(Failure::NotFound) => return,
        Err(Failure::Failed(why)) => {
            return rows.problem(what, format!("containerd config dump {why}"), "correct /etc/containerd/config.toml");
        }
    };
    let handlers = match told(&dump, naming) {
        Ok(handlers) => handlers,
        Err(why) => return rows.problem(what, format!("containerd config dump: {why}"), "use containerd 1.6 or newer"),
    };
    let named: Vec<&Told> = handlers.iter().filter(|handler| handler.there).collect();
    if named.is_empty() {
        return rows.missing(what, "containerd has none of belljar", install);
    }
    let lacking: Vec<&str> = handlers.iter().filter(|told| told.shim.is_none()).map(|told| told.name).collect();
    match lacking.as_slice() {
        [] => rows.ok(what, handlers.each_ref().map(|handler| handler.name).join(", ")),
        lacking => rows.problem(what, format!("without {}", lacking.join(", ")), install),
    }
    let closed: Vec<&str> = named.iter().filter(|handler| !handler.annotations).map(|handler| handler.name).collect();
    match closed.as_slice() {
        [] => rows.ok("annotations", "handed on to the shim"),
        closed => rows.problem("annotations", format!("kept from {}", closed.join(", ")), install),
    }
    let shims = named.iter().filter_map(|handler| handler.shim.as_deref());
    let broken = shims.filter_map(|path| match machine.run(OsStr::new(path), &["-v"]) {
        Ok(_) => None,
        Err(Failure::NotFound) => Some(format!("{path} is not there or not executable")),
        Err(Failure::Failed(why)) => Some(format!("{path} -v {why}")),
    });
    match broken.collect::<Vec<_>>().first() {
        None => rows.ok("shim", "starts"),
        Some(why) => rows.problem("shim", why, install),
    }
}
