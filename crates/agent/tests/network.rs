//! Boots the agent with a network interface, whose other end is this test: raw Ethernet frames over datagrams. Needs what `boot.rs` needs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "boot/harness.rs"]
mod harness;

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use belljar_contract::{Contract, Dns, Network};
use belljar_guest_api::{
    api,
    limits::MAX_CHUNK,
    status::{CallError, Code},
};

use harness::{Image, Vm, greeted, host, main_container, output, settled, wait};

const GUEST: [u8; 6] = [0x02, 0x42, 0x0a, 0x58, 0x00, 0x05];
const OURS: [u8; 6] = [0x02, 0x42, 0x0a, 0x58, 0x00, 0x01];
const GUEST_V4: [u8; 4] = [10, 88, 0, 5];
const OURS_V4: [u8; 4] = [10, 88, 0, 1];

/// The other end of the guest's wire.
struct Wire {
    socket: UnixDatagram,
    guest: std::path::PathBuf,
}

impl Wire {
    fn new(dir: &Path) -> Self {
        let socket = UnixDatagram::bind(dir.join("wire-host")).unwrap();
        Self { socket, guest: dir.join("wire-guest") }
    }

    /// QEMU's arguments for the guest's interface.
    fn arguments(&self, dir: &Path) -> Vec<String> {
        let (local, remote) = (self.guest.display(), dir.join("wire-host"));
        let remote = remote.display();
        let backend = format!("dgram,id=n0,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}");
        let mac = GUEST.map(|byte| format!("{byte:02x}")).join(":");
        ["-netdev".into(), backend, "-device".into(), format!("virtio-net-pci,netdev=n0,mac={mac},rombar=0,romfile=")]
            .into()
    }

    fn send(&self, frame: &[u8]) {
        let _ = self.socket.send_to(frame, &self.guest);
    }

    /// The first frame that `wanted` takes, within `limit`.
    fn receive(&self, limit: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 65536];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = self.socket.recv(&mut buffer) else { break };
            if wanted(&buffer[..length]) {
                return Some(buffer[..length].to_vec());
            }
        }
        None
    }

    /// Asks who has the guest's IPv4 address (RFC 826), every half second; whether the guest answers within `limit`.
    fn arp(&self, limit: Duration) -> bool {
        let ask =
            [&[0xff; 6], &OURS[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &OURS, &OURS_V4, &[0; 6], &GUEST_V4].concat();
        let answered = |frame: &[u8]| frame[6..12] == GUEST && frame[12..14] == [8, 6] && frame[28..32] == GUEST_V4;
        self.asked(&ask, limit, answered)
    }

    /// Asks who has fd00::5 (RFC 4861, 4.3), every half second; whether the guest answers within `limit`.
    fn neighbour(&self, limit: Duration) -> bool {
        let address = |last: u8| [&[0xfd, 0], &[0; 13][..], &[last]].concat();
        let group = [&[0xff, 2][..], &[0; 9], &[1, 0xff, 0, 0, 5]].concat();
        let mut solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &address(5), &[1, 1], &OURS].concat();
        let sum = checksum(&[&address(1)[..], &group, &[0, 0, 0, 32, 0, 0, 0, 58], &solicitation].concat());
        solicitation[2..4].copy_from_slice(&sum.to_be_bytes());
        let ip = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &address(1), &group, &solicitation].concat();
        let ask = [&[0x33, 0x33, 0xff, 0, 0, 5], &OURS[..], &[0x86, 0xdd], &ip].concat();
        let answered = |frame: &[u8]| {
            frame.len() >= 78 && frame[12..14] == [0x86, 0xdd] && frame[54] == 136 && frame[62..78] == address(5)
        };
        self.asked(&ask, limit, answered)
    }

    fn asked(&self, ask: &[u8], limit: Duration, answered: impl Fn(&[u8]) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            self.send(ask);
            if self.receive(Duration::from_millis(500), &answered).is_some() {
                return true;
            }
        }
        false
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum();
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

fn request() -> api::ConfigureNetworkRequest {
    let route = |destination: &str, gateway: &str| api::Route {
        destination: destination.into(),
        gateway: gateway.into(),
        ..Default::default()
    };
    api::ConfigureNetworkRequest {
        mac: GUEST.into(),
        mtu: 1400,
        addresses: vec!["10.88.0.5/16".into(), "fd00::5/64".into()],
        // With the route that the kernel makes by itself, as a host reads it from its own tables.
        routes: vec![
            route("", "10.88.0.1"),
            route("10.88.0.0/16", ""),
            route("", "fd00::1"),
            route("169.254.1.1/32", ""),
        ],
        nameservers: vec!["10.96.0.10".into()],
        searches: vec!["default.svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
        hostname: "web-0".into(),
        ..Default::default()
    }
}

async fn boot(dir: &Path, image: &Image, contract: &Contract) -> (Vm, api::AgentClient, Wire) {
    let wire = Wire::new(dir);
    let mut arguments = host(dir, image, contract, None);
    arguments.extend(wire.arguments(dir));
    let vm = Vm::start(&arguments).unwrap();
    let agent = greeted(&vm).await;
    let status = settled(&agent).await;
    assert_eq!((status.state.unwrap(), status.refusal.as_str()), (api::State::READY, ""));
    (vm, agent, wire)
}

fn code(error: &ttrpc::Error) -> (Code, String) {
    let error = CallError::of(error).unwrap();
    (error.code, error.message)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn the_network_is_what_the_host_says_once_the_contract_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let files =
        ["/bin/program", "files", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc/sys/kernel/hostname"];
    let mut contract = image.contract(&files, "logs = \"allow\"");
    contract.pod.network = Network::Host;
    contract.pod.dns = Dns::Host;
    contract.pod.hostname_from_host = true;
    contract.pod.host_aliases = [("10.1.2.3".parse().unwrap(), vec!["db".into(), "db.example".into()])].into();
    let (_vm, agent, wire) = boot(dir.path(), &image, &contract).await;

    // Nothing has come from the guest yet, and nothing answers.
    assert_eq!(wire.receive(Duration::from_millis(200), |_| true), None);
    assert!(!wire.arp(Duration::from_secs(1)));
    let early = code(&agent.start_container(wait(), &main_container()).await.unwrap_err());
    let expected =
        "pod.network of the contract is host, and the network is not configured: call ConfigureNetwork first";
    assert_eq!(early, (Code::FailedPrecondition, expected.into()));
    let mut other = request();
    other.mac[5] ^= 1;
    let other = code(&agent.configure_network(wait(), &other).await.unwrap_err());
    assert_eq!(other.0, Code::FailedPrecondition);
    assert!(other.1.starts_with("0 interfaces have the mac address 02:42:0a:58:00:04, expected 1"), "{}", other.1);
    let mut malformed = request();
    malformed.addresses[0] = "127.0.0.5/16".into();
    assert_eq!(code(&agent.configure_network(wait(), &malformed).await.unwrap_err()).0, Code::InvalidArgument);

    agent.configure_network(wait(), &request()).await.unwrap();
    assert!(wire.arp(Duration::from_secs(20)));
    assert!(wire.neighbour(Duration::from_secs(20)));
    let again = code(&agent.configure_network(wait(), &request()).await.unwrap_err());
    assert_eq!(again, (Code::AlreadyExists, "the network was configured already: it is set once for a pod".into()));

    agent.start_container(wait(), &main_container()).await.unwrap();
    let expected = "hello from 6 args, uid 0\n\
        /etc/hosts:\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.88.0.5\tweb-0\nfd00::5\tweb-0\n\
        10.1.2.3\tdb db.example\n\
        /etc/hostname:\nweb-0\n\
        /etc/resolv.conf:\nsearch default.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n\
        /proc/sys/kernel/hostname:\nweb-0\n";
    assert_eq!(output(&agent, api::Output::STDOUT).await, expected);
}

/// The twin of `the_network_is_what_the_host_says_once_the_contract_is_bound`: the same interface and request, another contract.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn without_a_network_in_the_contract_the_interface_stays_down_and_only_listed_ports_are_reached() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let mut contract = image.contract(&["/bin/program", "serve"], "logs = \"allow\"");
    contract.pod.ports = vec![8080];
    let (_vm, agent, wire) = boot(dir.path(), &image, &contract).await;
    let denied = code(&agent.configure_network(wait(), &request()).await.unwrap_err());
    let expected = "pod.network expected none by the contract, found an interface from the host";
    assert_eq!(denied, (Code::PermissionDenied, expected.into()));
    assert!(!wire.arp(Duration::from_secs(1)));

    let open = |target: &str| api::TunnelOpenRequest { target: target.into(), ..Default::default() };
    let early = code(&agent.tunnel_open(wait(), &open("port:8080")).await.unwrap_err());
    assert_eq!(early.0, Code::Unavailable);
    assert!(early.1.starts_with("cannot connect to port 8080 of the pod's loopback: "), "{}", early.1);
    let other = code(&agent.tunnel_open(wait(), &open("port:8006")).await.unwrap_err());
    let expected = "tunnel target expected attested or port:8080, found \"port:8006\"";
    assert_eq!(other, (Code::PermissionDenied, expected.into()));

    agent.start_container(wait(), &main_container()).await.unwrap();
    let read = api::ReadOutputRequest { name: "main".into(), ..Default::default() };
    let mut said = String::new();
    while !said.ends_with("listening\n") {
        said.push_str(std::str::from_utf8(&agent.read_output(wait(), &read).await.unwrap().data).unwrap());
    }
    let id = agent.tunnel_open(wait(), &open("port:8080")).await.unwrap().id;
    for data in [b"ping".to_vec(), vec![]] {
        agent.tunnel_write(wait(), &api::TunnelWriteRequest { id, data, ..Default::default() }).await.unwrap();
    }
    let mut back = Vec::new();
    loop {
        let read = api::TunnelReadRequest { id, max: MAX_CHUNK as u32, ..Default::default() };
        let reply = agent.tunnel_read(wait(), &read).await.unwrap();
        back.extend(reply.data);
        if reply.eof {
            break;
        }
    }
    assert_eq!(back, b"ping");
    assert_eq!(wire.receive(Duration::from_millis(200), |_| true), None);
}
