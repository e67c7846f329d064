//! Pull and push: against Debian's `docker-registry` on loopback, and against small servers that misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]
#![allow(missing_docs, dead_code)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use belljar_image::convert::ConvertError;
use belljar_image::{
    Image, ImageError, PackConfig, PackContent, PackEntry, PullPolicy, Reference, Silent, Store, pack, push, sha256_of,
};
use common::run;

struct Registry {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let data = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'}}\n",
            data.display()
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", "config.yml"])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("apt-get install docker-registry");
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < until, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, host, dir }
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn packed() -> (tempfile::TempDir, Reference, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = |path: &str, bytes: Vec<u8>| PackEntry {
        path: path.into(),
        content: PackContent::Bytes(bytes),
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let layers = [vec![file("a", vec![1; 3_000_000])], vec![file("b", b"b".to_vec())]];
    let layout = dir.path().join("layout");
    let digest = pack(&layout, "v1", &layers, &PackConfig::default()).unwrap();
    let reference = format!("oci:{}:v1", layout.display()).parse().unwrap();
    (dir, reference, digest)
}

async fn pull(dir: &Path, reference: &Reference, policy: PullPolicy) -> Result<Image, ImageError> {
    Store::open(&dir.join("store"))?.with_docker_config(None).ensure(reference, policy, &Silent).await
}

#[tokio::test]
async fn push_then_pull() {
    let registry = Registry::start();
    let (dir, from, digest) = packed();
    let to = registry.reference("demo/app:v1");
    assert_eq!(push(&from, &to).await.unwrap(), digest);
    assert_eq!(push(&from, &to).await.unwrap(), digest, "again, with every blob there");
    let pulled = pull(dir.path(), &to, PullPolicy::Missing).await.unwrap();
    assert_eq!(pulled.manifest_digest, digest);
    let local = tempfile::tempdir().unwrap();
    let imported = pull(local.path(), &from, PullPolicy::Missing).await.unwrap();
    for (a, b) in pulled.layers.iter().zip(&imported.layers) {
        assert_eq!((a.verity_root, a.data_blocks), (b.verity_root, b.data_blocks));
        assert_eq!(fs::read(&a.path).unwrap(), fs::read(&b.path).unwrap());
    }
    // By digest, with and without a tag.
    for rest in [format!("demo/app@{digest}"), format!("demo/app:v1@{digest}")] {
        let pinned = registry.reference(&rest);
        assert_eq!(pull(dir.path(), &pinned, PullPolicy::Missing).await.unwrap().manifest_digest, digest);
    }
    let missing = registry.reference("demo/app:v2");
    let error = pull(dir.path(), &missing, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound { registry: host, .. } if host == registry.host));
    let other = registry.reference(&format!("demo/app@sha256:{}", "0".repeat(64)));
    assert!(matches!(pull(dir.path(), &other, PullPolicy::Missing).await.unwrap_err(), ImageError::NotFound { .. }));
}

#[tokio::test]
async fn a_known_image_needs_no_registry() {
    let mut registry = Registry::start();
    let (dir, from, digest) = packed();
    let to = registry.reference("demo/app:v1");
    push(&from, &to).await.unwrap();
    pull(dir.path(), &to, PullPolicy::Missing).await.unwrap();
    registry.child.kill().unwrap();
    registry.child.wait().unwrap();
    assert_eq!(pull(dir.path(), &to, PullPolicy::Missing).await.unwrap().manifest_digest, digest);
    let start = Instant::now();
    let error = pull(dir.path(), &to, PullPolicy::Always).await.unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryDown { registry: host, why } if host == registry.host && why.contains("refused"))
    );
    let error = push(&from, &to).await.unwrap_err();
    assert!(matches!(error, ImageError::RegistryDown { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(15));
}

/// skopeo is a peer: it reads what we push, and we read its docker schema 2 images.
#[tokio::test]
async fn agrees_with_skopeo() {
    let registry = Registry::start();
    let (dir, from, _) = packed();
    push(&from, &registry.reference("a:v1")).await.unwrap();
    let (source, target) = (format!("docker://{}/a:v1", registry.host), format!("docker://{}/a:docker", registry.host));
    let args = [
        "copy",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--format",
        "v2s2",
        &source,
        &target,
    ];
    let out = run("skopeo", "skopeo", &args, dir.path());
    assert!(out.status.success(), "{out:?}");
    let oci = pull(dir.path(), &registry.reference("a:v1"), PullPolicy::Missing).await.unwrap();
    let docker = pull(dir.path(), &registry.reference("a:docker"), PullPolicy::Missing).await.unwrap();
    assert_eq!(oci.layers, docker.layers);
    assert_ne!(oci.manifest_digest, docker.manifest_digest);
}

#[tokio::test]
async fn a_registry_that_changed_a_blob() {
    let registry = Registry::start();
    let (dir, from, digest) = packed();
    let to = registry.reference("a:v1");
    push(&from, &to).await.unwrap();
    let blob = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap();
        registry.dir.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    };
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(blob(&digest)).unwrap()).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let mut bytes = fs::read(blob(layer)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(blob(layer), bytes).unwrap();
    let error = pull(dir.path(), &to, PullPolicy::Missing).await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Layer { source: ConvertError::Digest { what: "layer blob", expected, .. }, .. } if expected == layer),
        "{error:?}"
    );
    assert_eq!(fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 0);
}

/// Answers every request by `answer(request line and headers)`, one connection at a time, until the test ends.
fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let _ = stream.write_all(&answer(&String::from_utf8_lossy(&head)));
        }
    });
    host
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn logins() {
    let (layout, from, digest) = packed();
    let blobs = layout.path().join("layout/blobs/sha256");
    let manifest = digest.clone();
    let host = serve(move |request| {
        if !request.to_ascii_lowercase().contains("authorization: basic dtpwdw==\r\n") {
            return response("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", b"");
        }
        let path = request.split(' ').nth(1).unwrap();
        let wanted = path.rsplit('/').next().unwrap();
        let digest = if wanted == "v1" { manifest.as_str() } else { wanted };
        match fs::read(blobs.join(digest.trim_start_matches("sha256:"))) {
            Ok(body) => response("200 OK", "", &body),
            Err(_) => response("200 OK", "", b"{}"),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let reference: Reference = format!("{host}/a:v1").parse().unwrap();
    let error = pull(dir.path(), &reference, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(&error, ImageError::AuthRequired { registry, .. } if *registry == host), "{error:?}");
    let with = |auth: &str| {
        let file = dir.path().join("config.json");
        fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#)).unwrap();
        Store::open(&dir.path().join("store")).unwrap().with_docker_config(Some(file))
    };
    // user "u", password "x": wrong; "pw": right.
    let error = with("dTp4").ensure(&reference, PullPolicy::Missing, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::AuthRequired { .. }), "{error:?}");
    // The right password; the server compares without case, so it is sent as "dTpwdw==".
    let image = with("dTpwdw==").ensure(&reference, PullPolicy::Missing, &Silent).await.unwrap();
    assert_eq!(image.manifest_digest, digest);
    drop(from);
}

#[tokio::test]
async fn a_manifest_other_than_pinned() {
    let body = br#"{"schemaVersion":2,"manifests":[]}"#;
    let host = serve(move |_| response("200 OK", "", body));
    let dir = tempfile::tempdir().unwrap();
    let other = format!("sha256:{}", "0".repeat(64));
    let reference: Reference = format!("{host}/a@{other}").parse().unwrap();
    let error = pull(dir.path(), &reference, PullPolicy::Missing).await.unwrap_err();
    let real = sha256_of(body.as_slice()).unwrap();
    assert!(
        matches!(&error, ImageError::Digest { what: "manifest", expected, found } if *expected == other && *found == real),
        "{error:?}"
    );
    // Its own digest is accepted, and then there is nothing for this platform in it.
    let reference: Reference = format!("{host}/a@{real}").parse().unwrap();
    let error = pull(dir.path(), &reference, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(error, ImageError::Platform { found } if found.is_empty()));
}

#[tokio::test]
async fn a_registry_that_breaks_off() {
    let (layout, _, digest) = packed();
    let blobs = layout.path().join("layout/blobs/sha256");
    let host = serve(move |request| {
        let wanted = request.split(' ').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        let name = if wanted == "v1" { digest.clone() } else { wanted };
        let body = fs::read(blobs.join(name.trim_start_matches("sha256:"))).unwrap_or_default();
        let mut full = response("200 OK", "", &body);
        if body.starts_with(&[0x1f, 0x8b]) {
            full.truncate(full.len() - 20);
        }
        full
    });
    let dir = tempfile::tempdir().unwrap();
    let reference: Reference = format!("{host}/a:v1").parse().unwrap();
    let error = pull(dir.path(), &reference, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(&error, ImageError::Layer { source: ConvertError::Source(_), .. }), "{error:?}");
    assert_eq!(fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 0);
}

#[tokio::test]
async fn errors_of_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let host = serve(|_| response("503 Service Unavailable", "", b"busy"));
    let error = pull(dir.path(), &format!("{host}/a").parse().unwrap(), PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(error, ImageError::Registry { why, .. } if why.contains("503") && why.contains("busy")));
}

#[tokio::test]
async fn push_goes_one_way() {
    let (_dir, from, _) = packed();
    let registry: Reference = "127.0.0.1:1/a".parse().unwrap();
    for (from, to) in [(&registry, &registry), (&from, &from)] {
        assert!(matches!(push(from, to).await.unwrap_err(), ImageError::PushTarget { .. }));
    }
}
