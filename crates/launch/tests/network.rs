//! A pod VM on a pod's network as CNI leaves it: the node reaches its container, and the container the node. Needs root, and
//! the guest image that `BELLJAR_GUEST` names; without them the test is reported as ignored, never as passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_contract::{Contract, ImageFacts, Initdata, Layer, Network, RunOptions, digest};
use belljar_guest_api::api::StartContainerRequest;
use belljar_guest_image::GuestImage;
use belljar_image::{Image, PackConfig, PackContent, PackEntry, PullPolicy, Reference, Silent, Store, pack};
use belljar_launch::{Blueprint, LayerDisk, memory_mib};
use belljar_softtee::Keys;
use belljar_vmm::machine::Nic;
use belljar_vmm::{Accel, PodVm, Tee, network};
use libtest_mimic::{Arguments, Trial};
use ttrpc::context::Context;

fn main() {
    let arguments = Arguments::from_args();
    let root = rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    let ready = root && std::env::var_os("BELLJAR_GUEST").is_some() && Path::new("/bin/busybox").exists();
    let test = || {
        tokio::runtime::Runtime::new().unwrap().block_on(a_pod_is_on_its_network());
        Ok(())
    };
    let trial = Trial::test("a_pod_is_on_its_network", test).with_ignored_flag(!ready);
    libtest_mimic::run(&arguments, vec![trial]).exit();
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

    fn run(&self, line: &str) {
        let pid = self.0.id().to_string();
        let mut words = vec!["-t", &pid, "-n"];
        words.extend(line.split(' '));
        let done = Command::new("nsenter").args(words).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
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

async fn busybox(place: &Path) -> Image {
    let entry = |path: &str, content, mode| PackEntry { path: path.to_owned(), content, mode, uid: 0, gid: 0 };
    let mut layer: Vec<PackEntry> = ["/bin", "/dev", "/etc", "/proc", "/run", "/sys", "/tmp"]
        .map(|path| entry(path, PackContent::Directory, 0o755))
        .into();
    layer.push(entry("/bin/busybox", PackContent::File("/bin/busybox".into()), 0o755));
    for applet in ["sh", "cat", "nc", "wget"] {
        layer.push(entry(&format!("/bin/{applet}"), PackContent::Symlink("busybox".to_owned()), 0o777));
    }
    let layout = place.join("layout");
    pack(&layout, "1", &[layer], &PackConfig::default()).unwrap();
    let reference: Reference = format!("oci:{}:1", layout.display()).parse().unwrap();
    Store::open(&place.join("store")).unwrap().ensure(&reference, PullPolicy::Missing, &Silent).await.unwrap()
}

fn contract(image: &Image, script: &str) -> Contract {
    let layers = image.layers.iter().map(|layer| Layer {
        verity_root: layer.verity_root.iter().map(|byte| format!("{byte:02x}")).collect(),
        salt: layer.salt.iter().map(|byte| format!("{byte:02x}")).collect(),
        data_blocks: layer.data_blocks,
    });
    let facts = ImageFacts {
        reference: "busybox",
        manifest_digest: &image.manifest_digest,
        config: &image.config,
        layers: layers.collect(),
    };
    let options = RunOptions { args: ["/bin/sh", "-c", script].map(str::to_owned).into(), ..RunOptions::default() };
    let mut contract = Contract::from_image("main", &facts, &options, None).unwrap();
    contract.pod.network = Network::Host;
    contract.check().unwrap();
    contract
}

async fn a_pod_is_on_its_network() {
    let place = tempfile::tempdir().unwrap();
    let image = busybox(place.path()).await;
    let contract =
        contract(&image, "wget -q -O /dev/null http://10.88.0.1:8000/from-the-pod; exec nc -ll -p 8080 -e /bin/cat");
    let initdata = Initdata::with_contract(&contract).to_toml();
    let host_data = digest(initdata.as_bytes()).unwrap().host_data();

    let (pod, node) = (Namespace::new(), Namespace::new());
    pod.run("ip link set lo up");
    pod.run(&format!("ip link add eth0 mtu 1400 type veth peer name peer0 mtu 1400 netns {}", node.0.id()));
    pod.run("ip link set eth0 up");
    node.run("ip link set peer0 up");
    node.run("ip address add 10.88.0.1/16 dev peer0");
    node.run("ip address add 10.99.0.1/32 dev peer0");
    pod.run("ip address add 10.88.0.5/16 dev eth0");
    pod.run("ip route add default via 10.88.0.1");
    let network = network::attach(&pod.path()).unwrap();
    let request = network.request();

    let guest = GuestImage::open(Path::new(&std::env::var_os("BELLJAR_GUEST").unwrap())).unwrap();
    let layers =
        image.layers.iter().map(|layer| LayerDisk { path: layer.path.clone(), verity_root: layer.verity_root });
    let blueprint = Blueprint {
        id: "network-test",
        tee: Tee::Software { host_data },
        accel: Accel::Tcg,
        guest: &guest,
        initdata: &initdata,
        layers: layers.collect(),
        vcpus: 1,
        memory_mib: memory_mib(128 << 20).unwrap(),
        debug: false,
        nic: Some(Nic { tap: Arc::new(network.tap), mac: network.mac }),
    };
    let keys = Arc::new(Keys::load_or_create(&place.path().join("keys")).unwrap());
    let mut options = belljar_launch::options(&place.path().join("cache"), Some(keys));
    options.boot_timeout = Duration::from_secs(90);
    let vm = PodVm::start(&blueprint.machine().unwrap(), options).await.unwrap();
    let agent = vm.agent();
    agent.configure_network(Context::default(), &request).await.unwrap();

    // The container's first word goes to the node, by its default route's gateway.
    let listener = node.within(|| TcpListener::bind("10.88.0.1:8000")).unwrap();
    let asked = tokio::task::spawn_blocking(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let mut bytes = [0; 64];
        let length = stream.read(&mut bytes).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        (from.ip().to_string(), String::from_utf8_lossy(&bytes[..length]).into_owned())
    });
    let start = StartContainerRequest { name: "main".to_owned(), ..Default::default() };
    agent.start_container(Context::default(), &start).await.unwrap();
    let (from, asked) = tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap().unwrap();
    assert_eq!(from, "10.88.0.5");
    assert!(asked.starts_with("GET /from-the-pod"), "{asked}");

    // And the node reaches its port, with more than one frame.
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let echoed = tokio::task::spawn_blocking({
        let sent = sent.clone();
        move || node.within(|| echo(&sent))
    });
    assert!(tokio::time::timeout(Duration::from_secs(90), echoed).await.unwrap().unwrap() == sent);
    vm.kill().await;
    network::detach(&pod.path()).unwrap();
}

fn echo(sent: &[u8]) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match TcpStream::connect("10.88.0.5:8080") {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let began = Instant::now();
    let mut reading = stream.try_clone().unwrap();
    let expected = sent.len();
    let reader = std::thread::spawn(move || {
        let mut back = vec![0; expected];
        reading.read_exact(&mut back).unwrap();
        back
    });
    stream.write_all(sent).unwrap();
    let back = reader.join().unwrap();
    println!("{} bytes there and back in {:?}", back.len(), began.elapsed());
    back
}
