//! containerd's configuration: what real containerds make of it before, with our handlers, and afterwards.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::fs;

use belljar_node::containerd::{ConfigError, Place, PlanError};
use belljar_node::{NodeError, State, Tee, status};
use common::{Node, Which};

const OURS: [&str; 4] = ["belljar", "belljar-snp", "belljar-software", "belljar-tdx"];
/// Debian's own file: it names no runtime.
const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"registry.local/pause:1\" # ours\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"";
const NVIDIA: &str =
    "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\n  runtime_type = \"io.containerd.runc.v2\"\n";

fn without_ours(mut table: toml::Table) -> toml::Table {
    for plugin in ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"] {
        let runtimes = table["plugins"]
            .as_table_mut()
            .unwrap()
            .get_mut(plugin)
            .and_then(|p| p.get_mut("containerd")?.get_mut("runtimes"));
        if let Some(runtimes) = runtimes {
            runtimes.as_table_mut().unwrap().retain(|name, _| OURS.iter().all(|ours| *ours != name));
        }
    }
    table.remove("imports");
    table
}

fn place(node: &Node) -> Place {
    node.install().unwrap().place.unwrap()
}

/// Installs twice and takes all away again.
fn round(node: &Node, expected: Place) {
    let (files, before) = (node.tree(), node.dump());
    let mut runtimes: Vec<String> = node.runtimes().into_iter().chain(OURS.map(str::to_owned)).collect();
    runtimes.sort();
    let installed = node.install().unwrap();
    assert_eq!(installed.place, Some(expected));
    assert_eq!((installed.tee, installed.kvm, installed.qemu.as_deref()), (Tee::Software, false, Some("10.0.2")));
    assert_eq!(node.runtimes(), runtimes, "nothing else may be lost");
    assert_eq!(without_ours(node.dump()), without_ours(before));
    // 1.6 accepts runtime_path and ignores it: a pod only starts when the type is the shim's path
    let by_path = node.options.containerd == Some(Which::System.program());
    let text = toml::to_string(&node.dump()).unwrap();
    let kind = if by_path { "/opt/belljar/bin/containerd-shim-belljar-snp-v2" } else { "io.containerd.belljar-snp.v2" };
    assert!(text.contains(&format!("runtime_type = \"{kind}\"")), "{text}");
    let there = node.tree();
    let again = node.install().unwrap();
    assert_eq!((again.changed, again.restarted), (Vec::new(), false));
    assert_eq!(node.tree(), there);
    node.uninstall().unwrap();
    assert_eq!(node.tree(), files, "byte for byte");
}

#[test]
fn main_files_of_every_kind() {
    for which in Which::there() {
        let runc = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
        for text in [DEBIAN, runc, &format!("version = 2\n{NVIDIA}"), "version = 2\nimports = []\n"] {
            let node = Node::new(which);
            node.config(text);
            round(&node, Place::MainFile);
        }
        round(&Node::new(which), Place::MainFile);
    }
    if Which::Two.program().exists() {
        let node = Node::new(Which::Two);
        node.config(
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'registry.local/pause:1'\n",
        );
        round(&node, Place::MainFile);
    }
}

#[test]
fn imported_folders() {
    for which in Which::there() {
        let node = Node::new(which);
        let folder = node.path("/etc/containerd/conf.d");
        node.config(&format!("{DEBIAN}\n").replacen(
            "version = 2",
            &format!("version = 2\nimports = [\"{}/*.toml\"]", folder.display()),
            1,
        ));
        node.write("/etc/containerd/conf.d/90-nvidia.toml", &format!("version = 2\n{NVIDIA}"));
        // containerd 1.x takes the plugin's whole section from the last file that has one; 2.x merges
        round(&node, if which == Which::Two { Place::OwnFile } else { Place::ImportedFile });
        // relative to the file that imports
        let text = fs::read_to_string(&node.options.containerd_config).unwrap();
        node.config(&text.replace(&folder.display().to_string(), "conf.d"));
        if which == Which::Two {
            round(&node, Place::OwnFile);
        }
    }
}

#[test]
fn a_handler_of_our_name_is_refused() {
    for which in Which::there() {
        let node = Node::new(which);
        let text = format!("version = 2\n{}", NVIDIA.replace("runtimes.nvidia", "runtimes.belljar-snp"));
        node.config(&text);
        let error = node.install().unwrap_err();
        let why = ConfigError::Foreign { handler: "belljar-snp".into() };
        assert!(matches!(&error, NodeError::Plan(PlanError::Config { why: found, .. }) if *found == why), "{error}");
        assert_eq!(fs::read_to_string(&node.options.containerd_config).unwrap(), text);
        node.config(&text.replace("belljar-snp", "belljam-snp"));
        assert_eq!(place(&node), Place::MainFile);
    }
}

#[test]
fn a_handler_of_our_name_in_a_file_imported_by_an_imported_file_is_refused() {
    if !Which::Two.program().exists() {
        return eprintln!("IGNORED: containerd 2.1 is not there");
    }
    let node = Node::new(Which::Two);
    let [first, second] = ["first", "second"].map(|name| node.path(&format!("/etc/containerd/{name}.toml")));
    node.config(&format!("version = 2\nimports = [\"{}\"]\n", first.display()));
    node.write("/etc/containerd/first.toml", &format!("version = 2\nimports = [\"{}\"]\n", second.display()));
    node.write(
        "/etc/containerd/second.toml",
        &format!("version = 2\n{}", NVIDIA.replace("runtimes.nvidia", "runtimes.belljar")),
    );
    let error = node.install().unwrap_err();
    assert!(matches!(error, NodeError::Plan(PlanError::Foreign { handler: "belljar" })), "{error}");
    node.write("/etc/containerd/second.toml", &format!("version = 2\n{NVIDIA}"));
    assert_eq!(place(&node), Place::MainFile);
}

#[test]
fn what_containerd_would_not_accept_is_left_alone() {
    for which in Which::there() {
        for (text, said) in [
            ("version = 2\nroot = ", "it is not TOML: line 2"),
            ("root = \"/x\"\n", "expected 2 or 3; convert it first"),
            ("version = 2\ndisabled_plugins = [\"cri\"]\n", "disabled_plugins has \"cri\""),
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nruntimes = {}\n",
                "our handlers cannot be added",
            ),
            ("version = 2\n[grpc]\nuid = \"zero\"\n", "containerd does not accept"),
        ] {
            let node = Node::new(which);
            node.config(text);
            let error = node.install().unwrap_err().to_string();
            assert!(error.contains(said), "{which:?}: {error}");
            assert_eq!(fs::read_to_string(&node.options.containerd_config).unwrap(), text);
        }
    }
}

#[test]
fn another_file_in_our_place_is_not_overwritten() {
    if !Which::Two.program().exists() {
        return eprintln!("IGNORED: containerd 2.1 is not there");
    }
    let node = Node::new(Which::Two);
    node.config("version = 3\nimports = [\"conf.d/*.toml\"]\n");
    node.write("/etc/containerd/conf.d/belljar.toml", "version = 3\n# mine\n");
    let error = node.install().unwrap_err();
    assert!(matches!(error, NodeError::Plan(PlanError::InTheWay { .. })), "{error}");
    fs::remove_file(node.path("/etc/containerd/conf.d/belljar.toml")).unwrap();
    assert_eq!(place(&node), Place::OwnFile);
}

#[test]
fn a_node_where_no_pod_can_run_keeps_its_containerd() {
    let mut node = Node::new(Which::System);
    if !Which::System.program().exists() {
        return eprintln!("IGNORED: containerd is not there");
    }
    node.config(DEBIAN);
    let untouched = |node: &Node| fs::read_to_string(&node.options.containerd_config).unwrap() == DEBIAN;
    node.doctor(&[("qemu", "version", "missing")]);
    let error = node.install().unwrap_err();
    assert!(matches!(&error, NodeError::Blocked { next, .. } if next == "buy another one"), "{error}");
    assert!(untouched(&node));
    node.doctor(&[]);
    node.options.software = false;
    let installed = node.install().unwrap();
    assert_eq!((installed.tee, installed.containerd), (Tee::None, None));
    assert!(untouched(&node));
    let told = status(&node.options).unwrap();
    assert_eq!((told.state, told.serves.len(), told.next.as_deref()), (State::Unsuited, 0, Some("buy another one")));
    node.options.software = true;
    node.install().unwrap();
    assert!(!untouched(&node));
}
