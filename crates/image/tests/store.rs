//! The store: import from layouts, sharing, crash safety, disk full; and `pack`, which makes the layouts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]
#![allow(missing_docs, dead_code)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use belljar_image::convert::ConvertError;
use belljar_image::{
    Image, ImageError, LayerError, Limits, PackConfig, PackContent, PackEntry, Progress, PullPolicy, Reference, Silent,
    Store, pack, sha256_of,
};
use common::*;
use serde_json::{Value, json};

fn entry(path: &str, content: PackContent) -> PackEntry {
    PackEntry { path: path.to_owned(), content, mode: 0o755, uid: 1, gid: 2 }
}

fn sample_layers() -> Vec<Vec<PackEntry>> {
    let bytes = |b: &[u8]| PackContent::Bytes(b.to_vec());
    vec![
        vec![
            entry("/bin", PackContent::Directory),
            entry("/bin/app", bytes(b"#!app")),
            entry("sh", PackContent::Symlink("bin/app".into())),
        ],
        vec![entry("data/model", bytes(&[9; 100_000]))],
    ]
}

fn sample_config() -> PackConfig {
    PackConfig {
        entrypoint: vec!["/bin/app".into()],
        env: vec!["A=b".into()],
        user: Some("1:2".into()),
        working_dir: Some("/data".into()),
        labels: BTreeMap::from([("l".into(), "m".into())]),
        ..PackConfig::default()
    }
}

/// A folder with a packed image `v1` in `layout`.
fn packed() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let digest = pack(&dir.path().join("layout"), "v1", &sample_layers(), &sample_config()).unwrap();
    (dir, digest)
}

fn reference(dir: &Path) -> Reference {
    format!("oci:{}:v1", dir.join("layout").display()).parse().unwrap()
}

async fn import(dir: &Path) -> Result<Image, ImageError> {
    Store::open(&dir.join("store"))?.ensure(&reference(dir), PullPolicy::Missing, &Silent).await
}

fn blob_path(dir: &Path, digest: &str) -> PathBuf {
    dir.join("layout/blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Puts a document into the layout and returns its descriptor.
fn put(dir: &Path, document: &Value, media_type: &str) -> Value {
    let bytes = document.to_string().into_bytes();
    let digest = sha256_of(bytes.as_slice()).unwrap();
    fs::write(blob_path(dir, &digest), &bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

/// Replaces the image by one whose manifest was edited.
fn edit_manifest(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let index = dir.join("layout/index.json");
    let mut top = read_json(&index);
    let media_type = top["manifests"][0]["mediaType"].as_str().unwrap().to_owned();
    let mut manifest = read_json(&blob_path(dir, top["manifests"][0]["digest"].as_str().unwrap()));
    edit(&mut manifest);
    let mut descriptor = put(dir, &manifest, &media_type);
    descriptor["annotations"] = top["manifests"][0]["annotations"].take();
    top["manifests"][0] = descriptor;
    fs::write(index, top.to_string()).unwrap();
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    edit_manifest(dir, |manifest| {
        let mut config = read_json(&blob_path(dir, manifest["config"]["digest"].as_str().unwrap()));
        edit(&mut config);
        manifest["config"] = put(dir, &config, "application/vnd.oci.image.config.v1+json");
    });
}

fn files(dir: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for folder in ["layers", "images", "locks"] {
        for entry in fs::read_dir(dir.join("store").join(folder)).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            found.insert(
                format!("{folder}/{}", entry.file_name().to_str().unwrap()),
                (meta.len(), meta.modified().unwrap()),
            );
        }
    }
    found
}

#[tokio::test]
async fn imports_what_pack_wrote() {
    let (dir, digest) = packed();
    let image = import(dir.path()).await.unwrap();
    assert_eq!(image.manifest_digest, digest);
    assert_eq!(image.reference, reference(dir.path()).to_string());
    let config = image.config.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_deref(), Some(&["/bin/app".to_owned()][..]));
    assert_eq!((config.user().as_deref(), config.working_dir().as_deref()), (Some("1:2"), Some("/data")));
    assert_eq!(image.layers.len(), 2);
    let file = fs::read(&image.layers[0].path).unwrap();
    let seen = tree(&file[..image.layers[0].data_blocks as usize * 4096]);
    assert_eq!(
        (seen["/bin/app"].content.as_slice(), seen["/bin/app"].mode, seen["/bin/app"].uid),
        (&b"#!app"[..], 0o755, 1)
    );
    assert_eq!(seen["/sh"].content, b"bin/app");
    let file = fs::read(&image.layers[1].path).unwrap();
    assert_eq!(tree(&file[..image.layers[1].data_blocks as usize * 4096])["/data/model"].content, vec![9; 100_000]);
}

#[test]
fn pack_is_deterministic_and_keeps_other_tags() {
    let (one, digest) = packed();
    let (two, again) = packed();
    assert_eq!(digest, again);
    let listing = |dir: &Path| -> Vec<_> {
        let mut names: Vec<_> =
            fs::read_dir(dir.join("layout/blobs/sha256")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(listing(one.path()), listing(two.path()));
    let layout = one.path().join("layout");
    pack(&layout, "v2", &sample_layers(), &PackConfig::default()).unwrap();
    let changed = pack(&layout, "v1", &sample_layers(), &PackConfig::default()).unwrap();
    assert_ne!(changed, digest);
    let tags: Vec<_> = read_json(&layout.join("index.json"))["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(tags, ["v2", "v1"]);
}

/// umoci is a peer: it must unpack what we pack, and we must read what it repacks.
#[tokio::test]
async fn agrees_with_umoci() {
    let (dir, _) = packed();
    let umoci = |args: &[&str]| {
        let out = run("umoci", "umoci", args, dir.path());
        assert!(out.status.success(), "{out:?}");
    };
    umoci(&["unpack", "--rootless", "--image", "layout:v1", "bundle"]);
    let root = dir.path().join("bundle/rootfs");
    assert_eq!(fs::read(root.join("bin/app")).unwrap(), b"#!app");
    assert_eq!(fs::read(root.join("data/model")).unwrap(), vec![9; 100_000]);
    fs::remove_file(root.join("data/model")).unwrap();
    fs::write(root.join("bin/new"), "new").unwrap();
    umoci(&["repack", "--image", "layout:v1", "bundle"]);
    let image = import(dir.path()).await.unwrap();
    assert_eq!(image.layers.len(), 3);
    let top = &image.layers[2];
    let seen = tree(&fs::read(&top.path).unwrap()[..top.data_blocks as usize * 4096]);
    assert_eq!((seen["/data/model"].kind, seen["/data/model"].device), (3, Some((0, 0))));
    assert_eq!(seen["/bin/new"].content, b"new");
}

#[tokio::test]
async fn a_warm_image_writes_nothing() {
    let (dir, _) = packed();
    import(dir.path()).await.unwrap();
    let before = files(dir.path());
    let written = || -> u64 {
        let io = fs::read_to_string("/proc/self/io").unwrap();
        io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
    };
    let store = Store::open(&dir.path().join("store")).unwrap();
    let bytes = written();
    for policy in [PullPolicy::Missing, PullPolicy::Always, PullPolicy::Never] {
        store.ensure(&reference(dir.path()), policy, &Silent).await.unwrap();
    }
    assert!(written() - bytes < 4096, "{} bytes written", written() - bytes);
    assert_eq!(files(dir.path()), before);
}

#[tokio::test]
async fn policy_never_needs_the_store_alone() {
    let (dir, _) = packed();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let error = store.ensure(&reference(dir.path()), PullPolicy::Never, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::NotInStore { .. }));
    let image = import(dir.path()).await.unwrap();
    fs::remove_dir_all(dir.path().join("layout")).unwrap();
    let known = store.ensure(&reference(dir.path()), PullPolicy::Never, &Silent).await.unwrap();
    assert_eq!((known.layers, known.manifest_digest), (image.layers, image.manifest_digest));
}

#[derive(Default)]
struct Count {
    converted: AtomicUsize,
    cached: AtomicUsize,
    last: Mutex<BTreeMap<usize, (u64, u64)>>,
    sizes: Mutex<Vec<u64>>,
}

impl Progress for Count {
    fn layers(&self, layers: &[(String, u64)]) {
        *self.sizes.lock().unwrap() = layers.iter().map(|(_, size)| *size).collect();
    }
    fn cached(&self, _: usize) {
        self.cached.fetch_add(1, Ordering::SeqCst);
    }
    fn advance(&self, index: usize, done: u64, total: u64) {
        self.last.lock().unwrap().insert(index, (done, total));
    }
    fn finished(&self, _: usize) {
        self.converted.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_imports_convert_a_layer_once() {
    let (dir, _) = packed();
    let count = Count::default();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let reference = reference(dir.path());
    let one = || store.ensure(&reference, PullPolicy::Missing, &count);
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    let layers: Vec<_> = [a, b, c, d].into_iter().map(|image| image.unwrap().layers).collect();
    assert!(layers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!((count.converted.load(Ordering::SeqCst), count.cached.load(Ordering::SeqCst)), (2, 6));
    let sizes = count.sizes.lock().unwrap().clone();
    for (index, (done, total)) in count.last.lock().unwrap().iter() {
        assert_eq!((*done, *total), (sizes[*index], sizes[*index]));
    }
}

#[tokio::test]
async fn leftovers_of_dead_processes_go_and_live_ones_stay() {
    let (dir, _) = packed();
    let image = import(dir.path()).await.unwrap();
    let layers = dir.path().join("store/layers");
    let hex = image.layers[0].diff_id.strip_prefix("sha256:").unwrap();
    let left = layers.join(format!(".tmp-{hex}-dead"));
    fs::write(&left, "half").unwrap();
    let lock = fs::File::open(dir.path().join(format!("store/locks/{hex}.lock"))).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    Store::open(&dir.path().join("store")).unwrap();
    assert!(left.exists(), "its owner lives");
    drop(lock);
    Store::open(&dir.path().join("store")).unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_damaged_store_is_repaired() {
    let (dir, _) = packed();
    let image = import(dir.path()).await.unwrap();
    let (first, second) = (&image.layers[0].path, &image.layers[1].path);
    fs::OpenOptions::new().write(true).open(first).unwrap().set_len(4096).unwrap();
    fs::write(second.with_extension("json"), "{").unwrap();
    assert_eq!(import(dir.path()).await.unwrap().layers, image.layers);
    assert!(fs::metadata(first).unwrap().len() > 4096);
}

#[tokio::test]
async fn archives() {
    let (dir, digest) = packed();
    let tar = |args: &[&str]| assert!(run("tar", "tar", args, &dir.path().join("layout")).status.success());
    tar(&["-cf", "../image.tar", "."]);
    tar(&["-czf", "../image.tar.gz", "."]);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let ensure = async |name: &str| {
        let reference: Reference = format!("oci-archive:{}", dir.path().join(name).display()).parse().unwrap();
        store.ensure(&reference, PullPolicy::Missing, &Silent).await
    };
    assert_eq!(ensure("image.tar").await.unwrap().manifest_digest, digest);
    let error = ensure("image.tar.gz").await.unwrap_err();
    assert!(matches!(error, ImageError::Archive { why, .. } if why.starts_with("it is not a tar")));
    assert!(matches!(ensure("none.tar").await.unwrap_err(), ImageError::NoSuchLayout { .. }));
    let cut = fs::read(dir.path().join("image.tar")).unwrap();
    // Inside of the fourth header: where the middle is, depends on the order in which the file system lists the layout.
    fs::write(dir.path().join("cut.tar"), &cut[..3 * 512 + 100]).unwrap();
    assert!(matches!(ensure("cut.tar").await.unwrap_err(), ImageError::Archive { .. }));
}

#[tokio::test]
async fn no_such_image() {
    let (dir, _) = packed();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let ensure = async |text: String| store.ensure(&text.parse().unwrap(), PullPolicy::Missing, &Silent).await;
    let layout = dir.path().join("layout").display().to_string();
    let error = ensure(format!("oci:{layout}x:v1")).await.unwrap_err();
    assert!(matches!(error, ImageError::NoSuchLayout { .. }));
    let error = ensure(format!("oci:{layout}:v2")).await.unwrap_err();
    assert!(matches!(error, ImageError::NoSuchTag { wanted, found, .. } if wanted == "v2" && found == ["v1"]));
    ensure(format!("oci:{layout}")).await.expect("the only image needs no tag");
    pack(&dir.path().join("layout"), "v2", &sample_layers(), &sample_config()).unwrap();
    let error = ensure(format!("oci:{layout}")).await.unwrap_err();
    assert!(matches!(error, ImageError::NoSuchTag { wanted, .. } if wanted == "without a tag"));
}

#[tokio::test]
async fn wrong_digests() {
    let (dir, digest) = packed();
    let manifest = read_json(&blob_path(dir.path(), &digest));
    let config = manifest["config"]["digest"].as_str().unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    for (blob, what) in [(digest.as_str(), "manifest"), (config, "config"), (layer, "layer")] {
        let path = blob_path(dir.path(), blob);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(&path, bad).unwrap();
        match import(dir.path()).await.unwrap_err() {
            ImageError::Digest { what: found, expected, .. } => assert_eq!((found, expected.as_str()), (what, blob)),
            ImageError::Layer { source: ConvertError::Digest { what: "layer blob", expected, .. }, .. } => {
                assert_eq!(("layer", expected.as_str()), (what, blob));
            }
            other => panic!("{what}: {other:?}"),
        }
        fs::write(&path, [&good, &b"x"[..]].concat()).unwrap();
        match import(dir.path()).await.unwrap_err() {
            ImageError::Size { what: found, .. } => assert_eq!(found, what),
            ImageError::Layer { source: ConvertError::Size { .. }, .. } => assert_eq!(what, "layer"),
            other => panic!("{what}: {other:?}"),
        }
        fs::remove_file(&path).unwrap();
        let error = import(dir.path()).await.unwrap_err();
        assert!(matches!(error, ImageError::NoSuchBlob { digest, .. } if digest == blob), "{what}");
        assert!(!files(dir.path()).keys().any(|name| name.contains(".tmp-")), "{what}");
        fs::write(&path, good).unwrap();
    }
    import(dir.path()).await.unwrap();
}

#[tokio::test]
async fn wrong_diff_ids() {
    let (dir, _) = packed();
    let other = format!("sha256:{}", "0".repeat(64));
    edit_config(dir.path(), |config| config["rootfs"]["diff_ids"][0] = json!(other));
    let error = import(dir.path()).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Layer { source: ConvertError::Digest { what: "layer tar (diff_id)", expected, .. }, .. } if expected == other)
    );
    edit_config(dir.path(), |config| drop(config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop()));
    let error = import(dir.path()).await.unwrap_err();
    assert!(matches!(error, ImageError::Document { what: "config", why } if why == "it has 1 diff_ids for 2 layers"));
    edit_config(dir.path(), |config| config["rootfs"]["diff_ids"] = json!(["sha256:../../x", "y"]));
    assert!(matches!(import(dir.path()).await.unwrap_err(), ImageError::Document { what: "config", .. }));
}

#[tokio::test]
async fn media_types() {
    let (dir, _) = packed();
    let layer =
        |media_type: &'static str| edit_manifest(dir.path(), move |m| m["layers"][1]["mediaType"] = json!(media_type));
    for unknown in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+xz",
        "text/plain",
    ] {
        layer(unknown);
        let error = import(dir.path()).await.unwrap_err();
        assert!(matches!(error, ImageError::MediaType { what: "layer", found } if found == unknown));
    }
    layer("application/vnd.docker.image.rootfs.diff.tar.gzip");
    import(dir.path()).await.unwrap();
    edit_manifest(dir.path(), |m| m["mediaType"] = json!("application/vnd.cncf.helm"));
    let error = import(dir.path()).await.unwrap_err();
    assert!(matches!(error, ImageError::MediaType { what: "manifest", found } if found == "application/vnd.cncf.helm"));
    edit_manifest(dir.path(), |m| m["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json"));
    import(dir.path()).await.unwrap();
    edit_manifest(dir.path(), |m| m["config"]["mediaType"] = json!("application/vnd.unknown.config"));
    let error = import(dir.path()).await.unwrap_err();
    assert!(matches!(error, ImageError::MediaType { what: "config", .. }));
}

#[tokio::test]
async fn documents_that_mean_two_things() {
    let (dir, _) = packed();
    edit_manifest(dir.path(), |m| m["manifests"] = json!([]));
    assert!(matches!(import(dir.path()).await.unwrap_err(), ImageError::Document { what: "manifest", .. }));
    edit_manifest(dir.path(), |m| drop(m.as_object_mut().unwrap().remove("manifests")));
    import(dir.path()).await.unwrap();
    edit_manifest(dir.path(), |m| m["schemaVersion"] = json!(1));
    assert!(matches!(import(dir.path()).await.unwrap_err(), ImageError::MediaType { what: "manifest", .. }));
}

#[tokio::test]
async fn platforms() {
    let (dir, digest) = packed();
    let index_path = dir.path().join("layout/index.json");
    let plain = read_json(&index_path)["manifests"][0].clone();
    let with = |platform: Value| {
        let mut d = plain.clone();
        d["platform"] = platform;
        d
    };
    let amd64 = json!({ "os": "linux", "architecture": "amd64" });
    let arm64 = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    let index = |manifests: Vec<Value>| {
        let inner = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests });
        let mut descriptor = put(dir.path(), &inner, "application/vnd.oci.image.index.v1+json");
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
        fs::write(&index_path, json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string()).unwrap();
        descriptor
    };
    let other = with(arm64.clone());
    let nested = index(vec![other.clone(), with(amd64)]);
    assert_eq!(import(dir.path()).await.unwrap().manifest_digest, digest);
    let nested = index(vec![other.clone(), nested]);
    assert_eq!(import(dir.path()).await.unwrap().manifest_digest, digest);
    index(vec![nested]);
    assert!(matches!(import(dir.path()).await.unwrap_err(), ImageError::Document { what: "index", .. }), "too deep");
    index(vec![other]);
    let error = import(dir.path()).await.unwrap_err();
    assert!(matches!(error, ImageError::Platform { found } if found == ["linux/arm64/v8"]));
    // An index may lie about the platform; the config does not.
    index(vec![plain]);
    import(dir.path()).await.unwrap();
    let (dir, _) = packed();
    edit_config(dir.path(), |config| config["architecture"] = json!("arm64"));
    let error = import(dir.path()).await.unwrap_err();
    assert!(matches!(error, ImageError::Platform { found } if found == ["linux/arm64"]));
}

#[tokio::test]
async fn refused_layers_leave_nothing() {
    let (dir, _) = packed();
    let evil = gzip(&Tar::default().file("../x", "").end());
    let digest = sha256_of(evil.as_slice()).unwrap();
    let diff_id = sha256_of(Tar::default().file("../x", "").end().as_slice()).unwrap();
    fs::write(blob_path(dir.path(), &digest), &evil).unwrap();
    edit_config(dir.path(), |config| config["rootfs"]["diff_ids"][1] = json!(diff_id));
    edit_manifest(dir.path(), |m| {
        m["layers"][1]["digest"] = json!(digest);
        m["layers"][1]["size"] = json!(evil.len());
    });
    let error = import(dir.path()).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Layer { source: ConvertError::Layer(LayerError::Climbs { .. }), .. }),
        "{error:?}"
    );
    let left: Vec<String> = files(dir.path()).into_keys().filter(|name| !name.starts_with("locks/")).collect();
    assert_eq!(left.len(), 2, "the first layer and its record only: {left:?}");
    let limits = Limits { uncompressed_bytes: 1024, ..Limits::default() };
    let (dir, _) = packed();
    let store = Store::open(&dir.path().join("store")).unwrap().with_limits(limits);
    let error = store.ensure(&reference(dir.path()), PullPolicy::Missing, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Layer { source: ConvertError::Explodes { limit: 1024, .. }, .. }));
}

/// Needs root for a small tmpfs; without it the test says so and proves nothing.
#[tokio::test]
async fn disk_full() {
    let (dir, _) = packed();
    let mut noise = vec![0; 3 << 20];
    aws_lc_rs::rand::fill(&mut noise).unwrap();
    let layer = vec![entry("noise", PackContent::Bytes(noise))];
    pack(&dir.path().join("layout"), "v1", &[layer], &sample_config()).unwrap();
    let small = dir.path().join("store");
    fs::create_dir(&small).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("tmpfs", &small, "tmpfs", flags, c"size=2M") {
        eprintln!("IGNORED: disk_full needs root to mount a tmpfs ({error}); run the tests as root");
        return;
    }
    let failed = import(dir.path()).await;
    let left: Vec<String> = files(dir.path()).into_keys().filter(|name| !name.starts_with("locks/")).collect();
    let grown = rustix::mount::mount_remount(&small, flags, c"size=8M");
    let twin = import(dir.path()).await;
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    let error = failed.unwrap_err();
    assert!(matches!(&error, ImageError::DiskFull { path, .. } if *path == small), "{error:?}");
    assert_eq!(left, Vec::<String>::new());
    grown.unwrap();
    twin.unwrap();
}

#[tokio::test]
async fn a_folder_of_blobs_needs_no_index() {
    let (dir, digest) = packed();
    let layout = dir.path().join("layout");
    fs::remove_file(layout.join("index.json")).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let image = store.ensure_blobs(&layout, &digest, &Silent).await.unwrap();
    assert_eq!(image.manifest_digest, digest);
    assert_eq!(image.layers.len(), 2);
    let roots: Vec<_> = image.layers.iter().map(|layer| layer.verity_root).collect();
    let mut found = store.layers_by_root(&roots).unwrap();
    found.sort_by_key(|layer| roots.iter().position(|root| *root == layer.verity_root));
    assert_eq!(found, image.layers);
    assert_eq!(store.layers_by_root(&[[0; 32]]).unwrap(), []);

    let other = format!("sha256:{}", "0".repeat(64));
    let error = store.ensure_blobs(&layout, &other, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::NoSuchBlob { .. }), "{error}");
    let manifest = layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let bytes = fs::read(&manifest).unwrap();
    fs::write(&manifest, [&bytes[..], b" "].concat()).unwrap();
    let error = store.ensure_blobs(&layout, &digest, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Digest { what: "manifest", .. }), "{error}");
}
