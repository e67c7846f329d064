//! Images for tests, packed by the workspace itself.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use belljar_image::{PackConfig, PackContent, PackEntry, pack};

use crate::workplace::Workplace;

/// Names under which busybox is called in tests.
const APPLETS: [&str; 20] = [
    "sh", "cat", "echo", "ls", "id", "hostname", "grep", "touch", "mount", "wc", "seq", "sleep", "true", "false",
    "stat", "env", "wget", "head", "dd", "kill",
];

/// An entry with these bytes.
pub fn bytes(path: &str, content: &[u8], mode: u32) -> PackEntry {
    PackEntry { path: path.to_owned(), content: PackContent::Bytes(content.to_vec()), mode, uid: 0, gid: 0 }
}

/// An entry with a file's bytes.
pub fn file(path: &str, from: &Path, mode: u32) -> PackEntry {
    PackEntry { path: path.to_owned(), content: PackContent::File(from.to_owned()), mode, uid: 0, gid: 0 }
}

fn directory(path: &str, mode: u32) -> PackEntry {
    PackEntry { path: path.to_owned(), content: PackContent::Directory, mode, uid: 0, gid: 0 }
}

/// Debian's static busybox with a few names; `oci:DIR:1`.
pub fn busybox(place: &Workplace) -> String {
    busybox_with(place, "/data/nothing", b"")
}

/// The same, and one more file in a layer of its own.
pub fn busybox_with(place: &Workplace, path: &str, content: &[u8]) -> String {
    let layout = place.path("layout");
    busybox_layout(&layout, path, content);
    format!("oci:{}:1", layout.display())
}

/// The same, into a directory.
pub fn busybox_layout(layout: &Path, path: &str, content: &[u8]) {
    let config = PackConfig { cmd: vec!["/bin/sh".to_owned()], ..PackConfig::default() };
    pack(layout, "1", &[busybox_base(), vec![bytes(path, content, 0o644)]], &config).expect("the layout is packed");
}

/// The layer with busybox.
pub fn busybox_base() -> Vec<PackEntry> {
    let busybox = PathBuf::from("/bin/busybox");
    assert!(busybox.exists(), "busybox-static is not installed: tools/deps.sh");
    let mut base: Vec<PackEntry> =
        ["/bin", "/etc", "/app", "/mnt", "/run", "/proc", "/dev", "/sys"].map(|path| directory(path, 0o755)).into();
    base.push(directory("/tmp", 0o1777));
    base.push(file("/bin/busybox", &busybox, 0o755));
    base.push(bytes("/etc/passwd", b"root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/app:/bin/sh\n", 0o644));
    base.push(bytes("/etc/group", b"root:x:0:\napp:x:1000:\n", 0o644));
    for applet in APPLETS {
        let link = PackContent::Symlink("busybox".to_owned());
        base.push(PackEntry { path: format!("/bin/{applet}"), content: link, mode: 0o777, uid: 0, gid: 0 });
    }
    base
}

/// Reads a stream until a line comes; panics when it ends before.
pub fn wait_for_line(from: &mut impl Read, wanted: &str) {
    let mut lines = BufReader::new(from).lines();
    let found = lines.any(|line| line.is_ok_and(|line| line == wanted));
    assert!(found, "the stream ended without the line {wanted:?}");
}
