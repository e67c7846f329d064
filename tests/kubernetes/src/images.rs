//! Images of the test cluster, as OCI archives that containerd imports and `belljar` converts.

use std::fs::File;
use std::path::{Path, PathBuf};

use belljar_e2e::images::{busybox_base, bytes, file};
use belljar_e2e::programs::program;
use belljar_image::{PackConfig, PackContent, PackEntry, pack};
use serde_json::Value;

/// The image of sandboxes under runc.
pub const PAUSE: &str = "registry.local/pause:3.6";
/// Busybox with all its names, and `belljar-probe` as `/bin/probe`.
pub const PROBE: &str = "registry.local/probe:1";
/// The same with another file, `/data/version`, in a layer of its own.
pub const OTHER: &str = "registry.local/probe:2";

/// More names of busybox than other tests need.
const APPLETS: [&str; 24] = [
    "nc",
    "ps",
    "ip",
    "date",
    "tail",
    "tar",
    "rm",
    "mkdir",
    "ln",
    "chmod",
    "sync",
    "df",
    "du",
    "tr",
    "cut",
    "sort",
    "uname",
    "printenv",
    "test",
    "[",
    "mv",
    "cp",
    "nslookup",
    "sha256sum",
];

/// Writes an archive of each image to `directory` and returns name and path of each.
pub fn write_all(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    std::fs::create_dir_all(directory).expect("a directory");
    let probe = program("belljar-probe");
    let base = base(&probe);
    let other = vec![bytes("/data/version", b"2\n", 0o644)];
    let shell = PackConfig { cmd: vec!["/bin/sh".to_owned()], ..PackConfig::default() };
    let pause = PackConfig { entrypoint: vec!["/pause".to_owned(), "pause".to_owned()], ..PackConfig::default() };
    [
        (PAUSE, vec![vec![file("/pause", &probe, 0o755)]], pause),
        (PROBE, vec![base.clone()], shell.clone()),
        (OTHER, vec![base, other], shell),
    ]
    .into_iter()
    .map(|(name, layers, config)| (name, archive(directory, name, &layers, &config)))
    .collect()
}

/// The test image with one more file, in a layer of its own.
pub fn with_file(directory: &Path, name: &str, path: &str, content: &[u8]) -> PathBuf {
    let layers = [base(&program("belljar-probe")), vec![bytes(path, content, 0o644)]];
    archive(directory, name, &layers, &PackConfig { cmd: vec!["/bin/sh".to_owned()], ..PackConfig::default() })
}

fn base(probe: &Path) -> Vec<PackEntry> {
    let link = |name: &str| PackEntry {
        path: format!("/bin/{name}"),
        content: PackContent::Symlink("busybox".to_owned()),
        mode: 0o777,
        uid: 0,
        gid: 0,
    };
    let mut base = busybox_base();
    base.extend(APPLETS.map(link));
    base.push(file("/bin/probe", probe, 0o755));
    base
}

/// Packs one image and writes it as an archive: the layout in a tar, and the full name where containerd looks for it.
pub fn archive(directory: &Path, name: &str, layers: &[Vec<PackEntry>], config: &PackConfig) -> PathBuf {
    let layout = tempfile::tempdir_in(directory).expect("a directory");
    let (repository, tag) = name.rsplit_once(':').expect("a name with a tag");
    pack(layout.path(), tag, layers, config).expect("the layout is packed");
    let index = layout.path().join("index.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&index).expect("an index")).expect("which is JSON");
    value["manifests"][0]["annotations"]["io.containerd.image.name"] = name.into();
    std::fs::write(&index, value.to_string()).expect("a file");
    let short = repository.rsplit('/').next().expect("the last part");
    let path = directory.join(format!("{short}-{tag}.tar"));
    let mut tar = tar::Builder::new(File::create(&path).expect("a file"));
    tar.append_dir_all(".", layout.path()).and_then(|()| tar.finish()).expect("the archive is written");
    path
}
