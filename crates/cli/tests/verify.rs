//! `belljar verify`, `logs` and `exec` against a real pod VM with a software TEE, reached as through `kubectl port-forward`. Needs QEMU and
//! a guest image; `make test` sets BELLJAR_GUEST and runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "../../agent/tests/boot/harness.rs"]
mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use belljar_attested::{Client, tls::Key, wire::EvidenceRequest};
use belljar_contract::{Contract, Initdata, Operator, Permission, digest};
use belljar_guest_api::api::StartContainerRequest;
use belljar_guest_image::GuestImage;
use belljar_launch::{Blueprint, LayerDisk, Tunnel, accelerator, options};
use belljar_softtee::Keys;
use belljar_vmm::{PodVm, Qemu, Tee};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use ttrpc::context::with_duration;

struct Place {
    dir: tempfile::TempDir,
    guest: PathBuf,
}

impl Place {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs `belljar`; gives exit status, stdout and stderr.
    async fn belljar(&self, args: &[&str], stdin: &str) -> (i32, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_belljar"))
            .args(args)
            .env("BELLJAR_GUEST", &self.guest)
            .env("BELLJAR_OPERATOR_KEY", self.path("operator.key"))
            .env("BELLJAR_KUBECTL", self.path("kubectl"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

/// Starts a pod of `contract` and offers its attested service on a port of the loopback.
async fn pod(place: &Place, image: &harness::Image, contract: &Contract) -> (PodVm, u16) {
    let keys = Arc::new(Keys::load_or_create(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("softtee")).unwrap());
    fs::write(place.dir.path().join("ark.der"), keys.ark()).unwrap();
    let guest = GuestImage::open(&place.guest).unwrap();
    let raw = Initdata::with_contract(contract).to_toml();
    let mut verity_root = [0; 32];
    hex::decode_to_slice(&image.root, &mut verity_root).unwrap();
    let qemu = Qemu::find(place.dir.path()).unwrap();
    let blueprint = Blueprint {
        id: "verify-test",
        tee: Tee::Software { host_data: digest(raw.as_bytes()).unwrap().host_data() },
        accel: accelerator(&qemu, &guest, place.dir.path()).await,
        guest: &guest,
        initdata: &raw,
        layers: vec![LayerDisk { path: image.file.clone(), verity_root }],
        vcpus: 1,
        memory_mib: 256,
        debug: false,
        nic: None,
    };
    let mut options = options(place.dir.path(), Some(keys));
    // A machine that builds at the same time.
    options.boot_timeout = Duration::from_secs(120);
    let vm = PodVm::start(&blueprint.machine().unwrap(), options).await.unwrap();
    let agent = vm.agent();
    let start = StartContainerRequest { name: "main".into(), ..Default::default() };
    agent.start_container(with_duration(Duration::from_secs(60)), &start).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let agent = agent.clone();
            tokio::spawn(async move {
                let tunnel = Tunnel::open(agent, "attested").await.unwrap();
                let _ = tunnel.carry_inward(stream).await;
                tunnel.close("").await;
            });
        }
    });
    (vm, port)
}

/// A host that stands in between: it ends TLS with a key of its own, asks the pod with the same nonce, and passes the pod's evidence on.
async fn relay(pod: u16) -> u16 {
    let (key, _) = Key::generate().unwrap();
    let acceptor = TlsAcceptor::from(belljar_attested::tls::server(&key).unwrap());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let body = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
            let nonce = EvidenceRequest::parse(&request[body..]).unwrap();
            let pod = tokio::net::TcpStream::connect(("127.0.0.1", pod)).await.unwrap();
            let reply = Client::connect(pod, None).await.unwrap().evidence(&nonce).await.unwrap();
            let body = serde_json::to_string(&reply).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a VM; `make test` sets BELLJAR_GUEST and runs it"]
async fn a_pod_is_what_its_user_expects_or_the_differences_are_said() {
    let guest = std::env::var_os("BELLJAR_GUEST").expect("`make test` sets BELLJAR_GUEST").into();
    let place = Place { dir: tempfile::tempdir().unwrap(), guest };
    let image = harness::Image::build(place.dir.path());
    let (code, key, _) = place.belljar(&["operator", "show"], "").await;
    assert_eq!((code, key.trim().len()), (0, 64));
    let mut contract = image.contract(&["/bin/program", "serve"], "");
    contract.debug = false;
    let spki_sha256 = key.trim().to_owned();
    contract.operator = Some(Operator { spki_sha256, exec: Permission::Allow, logs: Permission::Allow });
    let mut other = contract.clone();
    other.containers.get_mut("main").unwrap().logs = Permission::Allow;
    for (name, contract) in [("contract.toml", &contract), ("other.toml", &other)] {
        fs::write(place.dir.path().join(name), contract.to_toml()).unwrap();
    }
    fs::write(place.dir.path().join("initdata.toml"), Initdata::with_contract(&contract).to_toml()).unwrap();
    let (vm, port) = pod(&place, &image, &contract).await;

    let target = format!("tcp:127.0.0.1:{port}");
    let root = place.path("ark.der");
    let with = |verb: &str, more: &[&str]| {
        let mut args = vec![verb.to_owned(), target.clone(), "--allow-software-tee".into()];
        args.extend(["--software-root".to_owned(), root.clone()]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args
    };
    let run = async |args: Vec<String>, stdin: &str| {
        place.belljar(&args.iter().map(String::as_str).collect::<Vec<_>>(), stdin).await
    };
    let (mine, theirs, initdata) = (place.path("contract.toml"), place.path("other.toml"), place.path("initdata.toml"));

    for file in [&mine, &initdata] {
        let (code, out, err) = run(with("verify", &["-f", file]), "").await;
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.starts_with(&format!("{target}: yes, this is {file}\n")), "{out}");
        assert!(out.contains("software tee: nothing protects this pod from its host\n"), "{out}");
        assert!(out.contains("1 vCPU\n"), "{out}");
    }
    let (code, out, _) = run(with("verify", &["-f", &theirs]), "").await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("no, it runs another contract than") && out.contains("containers.main.logs: "), "{out}");
    let mut args = with("verify", &["-f", &mine]);
    args[1] = format!("tcp:127.0.0.1:{}", relay(port).await);
    let (code, out, _) = run(args, "").await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("no, its evidence does not hold\n  report-data: expected "), "{out}");
    let (code, out, _) = run(with("verify", &[]), "").await;
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("its evidence holds, and it was compared with nothing"), "{out}");
    let (code, out, _) = place.belljar(&["verify", &target, "-f", &mine], "").await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("no, its evidence does not hold\n  chain-to-anchor: "), "{out}");
    let (code, out, _) = run(with("verify", &["-f", &mine, "--format", "json"]), "").await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["verdict"], &json["software_tee"]), (0, &"yes".into(), &true.into()));

    // As through a cluster: what stands for kubectl says where it forwards to, and must be gone afterwards.
    let script = format!(
        "#!/bin/sh\necho $$ \"$@\" > {0}\necho 'Forwarding from 127.0.0.1:{port} -> 8007'\nexec sleep 600\n",
        place.path("kubectl.log")
    );
    fs::write(place.dir.path().join("kubectl"), script).unwrap();
    fs::set_permissions(place.dir.path().join("kubectl"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut args = with("verify", &["-n", "shop", "-f", &mine]);
    args[1] = "pod/web-0".into();
    let (code, out, err) = run(args, "").await;
    assert_eq!(code, 0, "{out}{err}");
    let said = fs::read_to_string(place.dir.path().join("kubectl.log")).unwrap();
    let (pid, said) = said.trim().split_once(' ').unwrap();
    assert_eq!(said, "port-forward --address=127.0.0.1 --namespace=shop pod/web-0 :8007");
    let running = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!running.contains("sleep"), "{running}");

    let (code, out, err) = run(with("exec", &["--expect", &mine, "-i", "--", "/bin/program", "cat"]), "one\n").await;
    assert_eq!((code, out.as_str()), (7, "hello from 2 args, uid 0\ngot one\n"), "{err}");
    let (code, out, err) = run(with("logs", &["--expect", &mine]), "").await;
    assert_eq!((code, out.as_str()), (0, "hello from 2 args, uid 0\nlistening\n"), "{err}");
    let (code, out, err) = run(with("exec", &["--expect", &theirs, "--", "/bin/program"]), "").await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("it runs another contract than yours; nothing was sent"), "{err}");
    fs::remove_file(place.dir.path().join("operator.key")).unwrap();
    let (code, _, err) = run(with("logs", &["--expect", &mine]), "").await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("the pod refused (403): operator expected key"), "{err}");
    vm.kill().await;
}
