//! What only root can do: a pod's network namespace joined to a tap device, judged by `ip(8)`, `tc(8)` and real frames;
//! QEMU in the pod's cgroup. Without root these tests are reported as ignored, never as passed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_vmm::PodVm;
use belljar_vmm::cgroup::{Cgroup, CgroupError};
use belljar_vmm::machine::Nic;
use belljar_vmm::network::{self, NetworkError, TAP};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let ready = rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    let tests: [(&str, fn()); 8] = [
        ("frames_pass_both_ways", frames_pass_both_ways),
        ("the_pod_is_described", the_pod_is_described),
        ("everything_goes_away_again_and_again", everything_goes_away_again_and_again),
        ("the_tap_ends_with_its_holder", the_tap_ends_with_its_holder),
        ("a_pod_without_one_interface_is_refused", a_pod_without_one_interface_is_refused),
        ("loopback_listeners_work_from_outside", loopback_listeners_work_from_outside),
        ("qemu_takes_the_tap", qemu_takes_the_tap),
        ("qemu_runs_in_the_pods_cgroup", qemu_runs_in_the_pods_cgroup),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(!ready)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// A network namespace that lives as long as this.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let namespace = Self(child);
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(namespace.path()).is_ok_and(|theirs| theirs == ours) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
        namespace
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// A command inside; its output.
    fn run(&self, line: &str) -> String {
        let pid = self.0.id().to_string();
        let mut words = vec!["-t", &pid, "-n"];
        words.extend(line.split(' '));
        let done = Command::new("nsenter").args(words).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = || {
                rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const MAC: [u8; 6] = [0x02, 0x42, 0x0a, 0x58, 0, 5];

/// A pod and its node, as a bridge plugin of CNI leaves them, without the bridge.
fn pod() -> (Namespace, Namespace) {
    let (pod, node) = (Namespace::new(), Namespace::new());
    pod.run("ip link set lo up");
    pod.run(&format!("ip link add eth0 mtu 1450 type veth peer name peer0 mtu 1450 netns {}", node.0.id()));
    pod.run("ip link set eth0 address 02:42:0a:58:00:05 up");
    node.run("ip link set peer0 up");
    node.run("ip address add 10.88.0.1/16 dev peer0");
    pod.run("ip address add 10.88.0.5/16 dev eth0");
    pod.run("ip address add fd00::5/64 dev eth0 nodad");
    pod.run("ip route add default via 10.88.0.1");
    pod.run("ip route add 10.99.0.0/16 dev eth0 scope link");
    (pod, node)
}

/// The next frame of that type on the tap within 5 s.
fn frame(tap: &mut std::fs::File, kind: [u8; 2]) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        assert!(Instant::now() < deadline, "no frame of type {kind:02x?} came");
        let mut polled = [rustix::event::PollFd::new(tap, rustix::event::PollFlags::IN)];
        let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        if rustix::event::poll(&mut polled, Some(&second)).unwrap() == 0 {
            continue;
        }
        let mut bytes = vec![0; 65536];
        let length = tap.read(&mut bytes).unwrap();
        if bytes[12..14] == kind {
            bytes.truncate(length);
            return bytes;
        }
    }
}

fn frames_pass_both_ways() {
    let (pod, node) = pod();
    let network = network::attach(&pod.path()).unwrap();
    let mut tap = std::fs::File::from(network.tap);
    let socket = node.within(|| {
        let socket = UdpSocket::bind("10.88.0.1:7000").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(b"to the guest", "10.88.0.5:7001").unwrap();
        socket
    });
    // We are the guest: the node asks who 10.88.0.5 is, and the pod's own stack must not answer.
    let asked = frame(&mut tap, [8, 6]);
    assert_eq!(&asked[38..42], [10, 88, 0, 5]);
    let answer = [&asked[6..12], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &MAC, &[10, 88, 0, 5], &asked[22..32]].concat();
    tap.write_all(&answer).unwrap();
    let packet = frame(&mut tap, [8, 0]);
    assert!(packet.ends_with(b"to the guest"));
    // The other way: the same packet with source and destination swapped.
    let mut back = packet.clone();
    back[0..6].copy_from_slice(&packet[6..12]);
    back[6..12].copy_from_slice(&packet[0..6]);
    back[26..30].copy_from_slice(&packet[30..34]);
    back[30..34].copy_from_slice(&packet[26..30]);
    back[34..36].copy_from_slice(&packet[36..38]);
    back[36..38].copy_from_slice(&packet[34..36]);
    tap.write_all(&back).unwrap();
    let mut bytes = [0; 100];
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..length], from), (b"to the guest".as_slice(), "10.88.0.5:7001".parse::<SocketAddr>().unwrap()));
}

fn the_pod_is_described() {
    let (pod, _node) = pod();
    let network = network::attach(&pod.path()).unwrap();
    assert_eq!((network.interface.as_str(), network.mac, network.mtu), ("eth0", MAC, 1450));
    let request = network.request();
    assert_eq!(request.addresses, ["10.88.0.5/16", "fd00::5/64"]);
    let routes: Vec<_> = request.routes.iter().map(|route| (&*route.destination, &*route.gateway)).collect();
    assert_eq!(routes, [("10.99.0.0/16", ""), ("", "10.88.0.1")]);
    // In the kernel's own words.
    for (from, to) in [("eth0", TAP), (TAP, "eth0")] {
        let filters = pod.run(&format!("tc filter show dev {from} parent ffff:"));
        for expected in [
            "protocol all pref 1 u32",
            "match 00000000/00000000 at 0",
            &format!("(Egress Redirect to device {to}) stolen"),
        ] {
            assert!(filters.contains(expected), "{expected:?} is not in {filters}");
        }
    }
    let tap = pod.run(&format!("ip -d link show dev {TAP}"));
    for expected in ["mtu 1450", "UP", "tun type tap pi off vnet_hdr off persist off", "addrgenmode none"] {
        assert!(tap.contains(expected), "{expected:?} is not in {tap}");
    }
    // CNI still finds what it has set up.
    assert!(pod.run("ip address show dev eth0").contains("10.88.0.5/16"));
    assert!(!pod.run(&format!("ip address show dev {TAP}")).contains("inet"));
}

fn everything_goes_away_again_and_again() {
    let (pod, _node) = pod();
    let before = pod.run("ip -o link show") + &pod.run("tc qdisc show");
    network::detach(&pod.path()).unwrap();
    for _ in 0..3 {
        // The second one replaces what the first one has made.
        let first = network::attach(&pod.path()).unwrap();
        let second = network::attach(&pod.path()).unwrap();
        drop(first);
        assert!(pod.run("ip -o link show").contains(TAP));
        network::detach(&pod.path()).unwrap();
        network::detach(&pod.path()).unwrap();
        drop(second);
    }
    let names = |text: &str| text.lines().map(|line| line.split(": ").nth(1).unwrap_or(line).to_owned()).collect();
    let after: Vec<String> = names(&(pod.run("ip -o link show") + &pod.run("tc qdisc show")));
    assert_eq!(after, names(&before) as Vec<String>);
    // Another program's queue is left alone.
    pod.run("tc qdisc add dev eth0 ingress");
    network::detach(&pod.path()).unwrap();
    assert!(pod.run("tc qdisc show dev eth0").contains("ingress"));
    let gone = pod.path();
    drop(pod);
    network::detach(&gone).unwrap();
    assert!(matches!(network::attach(&gone), Err(NetworkError::Namespace { path, .. }) if path == gone));
}

fn the_tap_ends_with_its_holder() {
    let (pod, _node) = pod();
    let network = network::attach(&pod.path()).unwrap();
    assert!(pod.run("ip -o link show").contains(TAP));
    drop(network);
    let deadline = Instant::now() + Duration::from_secs(5);
    while pod.run("ip -o link show").contains(TAP) {
        assert!(Instant::now() < deadline);
    }
}

fn a_pod_without_one_interface_is_refused() {
    let (pod, node) = pod();
    pod.run(&format!("ip link add net1 type veth peer name peer1 netns {}", node.0.id()));
    assert!(network::attach(&pod.path()).is_ok(), "an interface that is down is none");
    network::detach(&pod.path()).unwrap();
    pod.run("ip link set net1 up");
    let error = network::attach(&pod.path()).unwrap_err();
    assert!(matches!(&error, NetworkError::Several { found } if found.len() == 2), "{error}");
    assert!(!pod.run("ip -o link show").contains(TAP));
    let empty = Namespace::new();
    assert!(matches!(network::attach(&empty.path()), Err(NetworkError::NoInterface)));
    // A route that the guest cannot have undoes everything.
    pod.run("ip link delete net1");
    pod.run("ip route add blackhole 10.77.0.0/16");
    let error = network::attach(&pod.path()).unwrap_err();
    assert!(matches!(&error, NetworkError::Route { destination, .. } if destination == "10.77.0.0/16"), "{error}");
    assert!(!pod.run("ip -o link show").contains(TAP));
}

fn loopback_listeners_work_from_outside() {
    let (pod, node) = pod();
    let listener = network::listen_in(&pod.path(), 8007).unwrap();
    let client = std::thread::spawn(move || {
        pod.within(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 8007)).unwrap();
            stream.write_all(b"hello").unwrap();
        });
        pod
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    let pod = client.join().unwrap();
    let taken = network::listen_in(&pod.path(), 8007).unwrap_err();
    assert!(taken.to_string().starts_with("cannot listen on the pod's loopback: Address already in use"), "{taken}");
    // It is the pod's port, not ours and not the node's.
    node.run("ip link set lo up");
    assert!(node.within(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 8007))).is_err());
}

fn qemu_takes_the_tap() {
    let (pod, _node) = pod();
    let network = network::attach(&pod.path()).unwrap();
    let mut machine = common::machine("nic");
    machine.nic = Some(Nic { tap: Arc::new(network.tap), mac: network.mac });
    let asks = ["query-pci", "query-rx-filter"];
    let (answers, stderr) = common::run("qemu-system-x86_64".as_ref(), &machine, |_| {}, &asks);
    assert_eq!(stderr, "");
    let devices = answers[1][0]["devices"].as_array().unwrap();
    let nic = devices.iter().find(|device| device["id"]["device"] == 0x1000 && device["id"]["vendor"] == 0x1af4);
    assert_eq!(nic.unwrap()["slot"], 0x1e);
    assert_eq!(answers[2][0]["main-mac"], "02:42:0a:58:00:05");
}

fn qemu_runs_in_the_pods_cgroup() {
    let name = format!("belljar-test-{}", std::process::id());
    // The hierarchies' roots stand for the pod's cgroup; under version 2 with controllers there they may hold no process.
    let cgroup = Cgroup::create(&format!("/{name}")).unwrap();
    let mut options = common::options();
    options.cgroups = cgroup.folders().to_vec();
    options.cgroups.push("/sys/fs/cgroup/no-such-hierarchy".into());
    // Lowering it needs a capability that not every root has: the VM starts all the same.
    options.oom_score_adj = Some(-997);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let vm = runtime.block_on(PodVm::start(&common::machine("hello"), options)).unwrap();
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", vm.qemu_pid())).unwrap();
    let inside = cgroups.lines().filter(|line| line.ends_with(&format!("/{name}"))).count();
    assert_eq!(inside, cgroup.folders().len(), "{cgroups}");
    assert!(matches!(cgroup.remove(), Err(CgroupError::System { .. })), "QEMU is in it");
    runtime.block_on(vm.kill());
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = cgroup.remove() {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
