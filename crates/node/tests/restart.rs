//! Restarts of real containerds: when they happen, what happens when containerd does not come up, and crashes at every step.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use belljar_node::containerd::{RestartError, cri_version};
use belljar_node::{NodeError, State, Step, install, label_patch, status, uninstall};
use common::{Node, Which};

fn process(node: &Node) -> u32 {
    cri_version(&node.options.containerd_socket, Duration::from_secs(10)).unwrap().process
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("IGNORED: containerd needs root");
    }
    root
}

#[test]
fn containerd_is_restarted_once_and_only_when_something_changed() {
    for which in Which::there().into_iter().filter(|_| root()) {
        let mut node = Node::new(which);
        node.serve(which, None);
        node.start();
        let text = fs::read(&node.options.containerd_config).unwrap();
        assert_eq!(status(&node.options).unwrap().state, State::Absent);
        let first = process(&node);
        assert!(node.install().unwrap().restarted);
        let second = process(&node);
        assert_ne!(first, second);
        assert!(!node.install().unwrap().restarted);
        assert_eq!((process(&node), node.restarts()), (second, 2));
        let told = status(&node.options).unwrap();
        assert_eq!((told.state, told.problem.as_deref()), (State::Ready, None));
        assert_eq!(told.serves, ["belljar", "belljar-software"]);
        let patch = label_patch(&told);
        assert_eq!(patch["metadata"]["labels"]["belljar.dev/tee"], "software");
        assert!(patch["metadata"]["labels"]["runtime.belljar.dev/belljar-snp"].is_null());
        // a shim that lost its mode is named, and put right without a restart
        fs::remove_file(node.path("/opt/belljar/bin/containerd-shim-belljar-tdx-v2")).unwrap();
        let told = status(&node.options).unwrap();
        assert_eq!(told.state, State::Broken);
        assert!(told.problem.unwrap().contains("containerd-shim-belljar-tdx-v2 is not executable"));
        assert!(!node.install().unwrap().restarted);
        assert_eq!(status(&node.options).unwrap().state, State::Ready);
        assert!(node.uninstall().unwrap().restarted);
        assert_eq!((fs::read(&node.options.containerd_config).unwrap(), node.restarts()), (text, 3));
        assert!(!node.path("/opt/belljar").exists() && !node.path("/var/lib/belljar").exists());
    }
}

#[test]
fn a_containerd_that_does_not_come_up_gets_its_former_configuration() {
    for which in Which::there().into_iter().filter(|_| root()) {
        let mut node = Node::new(which);
        node.serve(which, Some("belljar-snp"));
        node.options.limit = Duration::from_secs(8);
        node.start();
        let text = fs::read(&node.options.containerd_config).unwrap();
        let error = node.install().unwrap_err();
        assert!(matches!(error, NodeError::Restart(RestartError::RolledBack { .. })), "{error}");
        assert_eq!(fs::read(&node.options.containerd_config).unwrap(), text);
        process(&node);
        assert!(!node.path("/var/lib/belljar/node/journal.json").exists());
        // the twin: a word that is not in our part
        node.serve(which, Some("belljam-snp"));
        assert!(node.install().unwrap().restarted);
    }
}

#[test]
fn a_command_that_restarts_nothing_is_noticed() {
    for which in Which::there().into_iter().filter(|_| root()) {
        let mut node = Node::new(which);
        node.serve(which, None);
        node.start();
        let right = node.options.restart.clone();
        node.options.limit = Duration::from_secs(2);
        node.options.restart = belljar_node::Restart::Command("true".into());
        let error = node.install().unwrap_err().to_string();
        assert!(error.contains("`true` did not restart it"), "{error}");
        assert!(!fs::read_to_string(&node.options.containerd_config).unwrap().contains("belljar-snp"));
        node.options.restart = belljar_node::Restart::Command("echo no unit >&2; exit 5".into());
        let error = node.install().unwrap_err().to_string();
        assert!(error.contains("exit 5`: no unit"), "{error}");
        node.options.limit = Duration::from_secs(30);
        node.options.restart = right;
        assert!(node.install().unwrap().restarted);
    }
}

const INSTALL: [Step; 8] = [
    Step::Recorded,
    Step::Programs,
    Step::Links,
    Step::Guest,
    Step::ShimConfig,
    Step::Noted,
    Step::Written,
    Step::Restarted,
];
const UNINSTALL: [Step; 5] = [Step::Noted, Step::Written, Step::Restarted, Step::ProgramsGone, Step::ConfigGone];

/// Runs one of the verbs in a process of its own, which is killed after the step.
fn crash(node: &Node, verb: &str, step: Step) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--ignored"])
        .env(
            "NODE_CRASH",
            format!("{verb} {step:?} {} {}", node.options.containerd_socket.display(), node.dir().display()),
        )
        .status()
        .unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(status.signal(), Some(9), "{verb} {step:?}: {status}");
}

#[test]
#[ignore = "the process that crash() starts"]
fn the_process_that_is_killed() {
    let Ok(what) = std::env::var("NODE_CRASH") else { return };
    let [verb, step, socket, dir] = what.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
    let (mut options, source) = Node::of(Path::new(dir), Which::System);
    options.containerd_socket = socket.into();
    let moment = |at: Step| {
        if format!("{at:?}") == step {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            std::thread::sleep(Duration::from_secs(10));
        }
    };
    if verb == "install" {
        install(&options, &source, &moment).unwrap();
    } else {
        uninstall(&options, false, &moment).unwrap();
    }
}

#[test]
fn a_crash_at_any_step_leaves_a_node_that_works() {
    if !Which::System.program().exists() || !root() {
        return eprintln!("IGNORED: containerd is not there");
    }
    let mut node = Node::new(Which::System);
    node.serve(Which::System, None);
    node.start();
    let before = node.tree();
    // What must hold after every crash: containerd accepts its file and has its runc, and each handler that it has names a shim.
    let works = |node: &Node| {
        let runtimes = node.runtimes();
        assert!(runtimes.contains(&"runc".to_owned()), "{runtimes:?}");
        for handler in belljar_node::HANDLERS.iter().filter(|handler| runtimes.contains(&handler.name.to_owned())) {
            assert!(node.path("/opt/belljar/bin").join(handler.shim).exists(), "{}", handler.name);
        }
        // and so it starts with it
        node.start();
        process(node);
    };
    for step in INSTALL {
        crash(&node, "install", step);
        works(&node);
        node.install().unwrap_or_else(|error| panic!("after {step:?}: {error}"));
        assert_eq!(status(&node.options).unwrap().state, State::Ready, "after {step:?}");
        node.uninstall().unwrap();
        assert_eq!(node.tree(), before, "after {step:?}");
    }
    for step in UNINSTALL {
        node.install().unwrap();
        crash(&node, "uninstall", step);
        works(&node);
        node.uninstall().unwrap_or_else(|error| panic!("after {step:?}: {error}"));
        assert_eq!(node.tree(), before, "after {step:?}");
    }
    // cut off before the restart: the next installation makes up for it, although no file is left to change
    crash(&node, "install", Step::Written);
    let count = node.restarts();
    assert!(node.install().unwrap().restarted);
    assert_eq!(node.restarts(), count + 1);
}
