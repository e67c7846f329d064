//! From tars to images: what is in the tar is in the image, as an independent reader and the tools of erofs and cryptsetup see it.
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

use belljar_image::convert::{Compression, Expected};
use belljar_image::{Limits, sha256_of};
use common::*;

fn see(tar: Tar) -> BTreeMap<String, Seen> {
    let (done, file) = converted(&tar.end()).unwrap();
    tree(data(&done, &file))
}

#[test]
fn every_kind_of_entry() {
    let mut fancy = Raw::new(b'0', "etc/fancy");
    (fancy.mode, fancy.uid, fancy.gid, fancy.data) = (0o4755, 70_000, 80_000, b"hello".to_vec());
    let seen = see(Tar::default()
        .dir("./")
        .dir("etc/")
        .raw(&fancy)
        .symlink("etc/link", "../somewhere/else")
        .hard_link("hard", "etc/fancy")
        .raw(&Raw::new(b'3', "dev/null").device(1, 3))
        .raw(&Raw::new(b'4', "dev/disk").device(259, 70_000))
        .raw(&Raw::new(b'6', "pipe"))
        .file("empty", ""));
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    let wanted = ["/", "/dev", "/dev/disk", "/dev/null", "/empty", "/etc", "/etc/fancy", "/etc/link", "/hard", "/pipe"];
    assert_eq!(names, wanted);
    let fancy = &seen["/etc/fancy"];
    assert_eq!((fancy.kind, fancy.mode, fancy.uid, fancy.gid), (1, 0o4755, 70_000, 80_000));
    assert_eq!((fancy.mtime, fancy.nlink, fancy.content.as_slice()), ((1_700_000_000, 0), 2, &b"hello"[..]));
    assert_eq!(&seen["/hard"], fancy);
    assert_eq!((seen["/etc/link"].kind, seen["/etc/link"].content.as_slice()), (7, &b"../somewhere/else"[..]));
    assert_eq!((seen["/dev/null"].kind, seen["/dev/null"].device), (3, Some((1, 3))));
    assert_eq!((seen["/dev/disk"].kind, seen["/dev/disk"].device), (4, Some((259, 70_000))));
    assert_eq!(seen["/pipe"].kind, 5);
    // A missing parent is made, and directories count their subdirectories.
    assert_eq!((seen["/dev"].mode, seen["/dev"].uid, seen["/dev"].mtime), (0o755, 0, (0, 0)));
    assert_eq!((seen["/"].nlink, seen["/etc"].nlink, seen["/etc"].mtime.0), (4, 2, 1_700_000_000));
}

#[test]
fn an_empty_layer_is_an_empty_root() {
    for tar in [Vec::new(), vec![0; 512], vec![0; 1024], vec![0; 10_240]] {
        let (done, file) = converted(&tar).unwrap();
        let seen = tree(data(&done, &file));
        assert_eq!(seen.len(), 1);
        assert_eq!((seen["/"].mode, seen["/"].nlink), (0o755, 2));
    }
}

#[test]
fn pax_and_gnu_extensions() {
    let long = format!("a/{}/{}", "d".repeat(200), "f".repeat(255));
    let target = "t/".repeat(1500);
    let seen = see(Tar::default()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"-1.25"),
            ("uid", b"3000000000"),
            ("gid", b"7"),
            ("SCHILY.xattr.user.note", b"a=b\nc\0"),
            ("SCHILY.xattr.security.capability", b"\x01\x02"),
            ("SCHILY.xattr.com.apple.provenance", b"dropped"),
            ("comment", b"ignored"),
        ])
        .file("short", "x")
        .pax(&[("linkpath", target.as_bytes())])
        .symlink("sym", "short")
        .raw(&Raw { data: [b"gnu/".as_slice(), &[b'n'; 150], b"\0"].concat(), ..Raw::new(b'L', "././@LongLink") })
        .file("cut", "y")
        .raw(&Raw { data: [target.as_bytes(), b"\0"].concat(), ..Raw::new(b'K', "././@LongLink") })
        .symlink("gnusym", "cut"));
    let file = &seen[&format!("/{long}")];
    assert_eq!((file.mtime, file.uid, file.gid), ((-2, 750_000_000), 3_000_000_000, 7));
    let xattrs: Vec<(&[u8], &[u8])> = file.xattrs.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
    assert_eq!(xattrs, [(&b"security.capability"[..], &b"\x01\x02"[..]), (b"user.note", b"a=b\nc\0")]);
    assert_eq!(seen["/sym"].content, target.as_bytes());
    assert_eq!(seen["/gnusym"].content, target.as_bytes());
    assert_eq!(seen[&format!("/gnu/{}", "n".repeat(150))].content, b"y");
}

#[test]
fn whiteouts_and_opaque_directories() {
    let seen = see(Tar::default()
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .dir("b/")
        .file(".wh..wh.plnk", "aufs bookkeeping")
        .dir(".wh..wh.orph/")
        .file(".wh..wh.orph/x", "")
        // A name and its whiteout in one layer: the whiteout is for what lies below.
        .file("c/.wh.file", "")
        .file("c/file", "new")
        .dir("d/sub/")
        .file("d/.wh.sub", "")
        .file("e/.wh.sub", "")
        .file("e/sub/file", "below an implied directory")
        .file("f", "")
        .dir("f/"));
    let opaque = BTreeMap::from([(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())]);
    let gone = &seen["/a/gone"];
    assert_eq!((gone.kind, gone.device, gone.mode), (3, Some((0, 0)), 0));
    assert_eq!(seen["/b"].xattrs, opaque);
    assert_eq!(seen["/a"].xattrs, BTreeMap::new());
    assert_eq!((seen["/c/file"].kind, seen["/c/file"].content.as_slice()), (1, &b"new"[..]));
    assert_eq!((seen["/d/sub"].kind, &seen["/d/sub"].xattrs), (2, &opaque));
    assert_eq!((seen["/e/sub"].kind, &seen["/e/sub"].xattrs), (2, &opaque));
    assert_eq!((seen["/f"].kind, &seen["/f"].xattrs), (2, &opaque));
    assert!(!seen.keys().any(|path| path.contains(".wh.")));
}

#[test]
fn opaque_mark_joins_other_attributes() {
    let seen = see(Tar::default().pax(&[("SCHILY.xattr.user.a", b"1")]).dir("d/").file("d/.wh..wh..opq", ""));
    let wanted = [(&b"trusted.overlay.opaque"[..], &b"y"[..]), (b"user.a", b"1")];
    let wanted = wanted.map(|(k, v)| (k.to_vec(), v.to_vec()));
    assert_eq!(seen["/d"].xattrs, BTreeMap::from(wanted));
}

#[test]
fn the_last_of_duplicates_wins() {
    let mut later = Raw::new(b'5', "dir/");
    later.mode = 0o700;
    let seen = see(Tar::default()
        .file("x", "first")
        .hard_link("keep", "x")
        .file("x", "second")
        .dir("dir/")
        .file("dir/child", "stays")
        .raw(&later)
        .dir("gone/deep/")
        .file("gone/deep/file", "")
        .hard_link("outside", "gone/deep/file")
        .symlink("gone", "elsewhere"));
    assert_eq!(seen["/x"].content, b"second");
    assert_eq!((seen["/keep"].content.as_slice(), seen["/keep"].nlink), (&b"first"[..], 1));
    assert_eq!((seen["/dir"].mode, seen["/dir/child"].content.as_slice()), (0o700, &b"stays"[..]));
    assert_eq!(seen["/gone"].kind, 7);
    assert_eq!(seen["/outside"].nlink, 1);
    assert!(!seen.contains_key("/gone/deep"));
}

#[test]
fn paths_through_symlinks_stay_inside() {
    let seen = see(Tar::default()
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr")
        .symlink("usr/up", "../usr/./lib")
        .file("lib/one", "1")
        .file("abs/lib/two", "2")
        .file("usr/up/three", "3")
        .hard_link("four", "lib/one")
        .symlink("dangling", "to/nowhere")
        .file("dangling/five", "5"));
    for (path, content) in
        [("/usr/lib/one", "1"), ("/usr/lib/two", "2"), ("/usr/lib/three", "3"), ("/to/nowhere/five", "5")]
    {
        assert_eq!(seen[path].content, content.as_bytes(), "{path}");
    }
    assert_eq!(seen["/four"].nid, seen["/usr/lib/one"].nid);
    assert_eq!(seen["/lib"].kind, 7);
}

#[test]
fn sizes_around_blocks_and_chunks() {
    let mut tar = Tar::default();
    let mut contents = BTreeMap::new();
    let chunk = 64 * 1024;
    for size in
        [1, 2047, 2048, 2049, 4095, 4096, 4097, 6144, 8192, chunk - 1, chunk, chunk + 1, chunk + 4096, 3 * chunk + 5]
    {
        for (fill, name) in [(b'x', "full"), (0, "zero")] {
            let path = format!("{name}-{size}");
            tar = tar.file(&path, vec![fill; size]);
            contents.insert(format!("/{path}"), vec![fill; size]);
        }
        // Data at the end, in the middle and at the start of zeros.
        for at in [0, size / 2, size - 1] {
            let mut bytes = vec![0; size];
            bytes[at] = 1;
            let path = format!("one-{size}-{at}");
            tar = tar.file(&path, bytes.clone());
            contents.insert(format!("/{path}"), bytes);
        }
    }
    let tar = tar.end();
    let (done, file) = converted(&tar).unwrap();
    let seen = tree(data(&done, &file));
    for (path, content) in contents {
        assert!(seen[&path].content == content, "{path}");
    }
    assert!(done.data_blocks * 4096 < tar.len() as u64, "zeros take no space");
}

/// GNU tar writes the sparse files; the reader must see them as they were.
#[test]
fn sparse_files_of_gnu_tar() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("holes")).unwrap();
    let mut wanted = vec![0; 3_000_001];
    // More segments than fit in one header, two at least in one chunk.
    for at in (0..60).map(|n| n * 49_152 + 8192) {
        file.write_all_at(b"data", at as u64).unwrap();
        wanted[at..at + 4].copy_from_slice(b"data");
    }
    file.set_len(wanted.len() as u64).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let args = [&["-S", "-cf", "out.tar"], format, &["holes"]].concat();
        assert!(run("tar", "tar", &args, dir.path()).status.success());
        let tar = std::fs::read(dir.path().join("out.tar")).unwrap();
        assert!(tar.len() < 1_000_000, "tar was to make it sparse");
        let (done, file) = converted(&tar).unwrap();
        let seen = tree(data(&done, &file));
        assert!(seen["/holes"].content == wanted, "{format:?}");
    }
}

#[test]
fn large_directories_are_sorted() {
    let mut tar = Tar::default();
    // Names that sort before, between and after `.` and `..`.
    let mut names: Vec<String> = ["!", "-", ".!", ".a", "...", "..a", "/", "0", "~"]
        .iter()
        .filter(|n| **n != "/")
        .map(|n| (*n).to_owned())
        .collect();
    names.extend((0..3000).map(|n| format!("{}-{n}", "name".repeat(1 + n % 20))));
    for name in &names {
        tar = tar.file(&format!("d/{name}"), name.as_bytes());
    }
    let seen = see(tar);
    assert_eq!(seen.len(), names.len() + 2);
    for name in &names {
        assert_eq!(seen[&format!("/d/{name}")].content, name.as_bytes());
    }
}

#[test]
fn same_bytes_from_any_compression() {
    let tar = Tar::default().dir("d/").file("d/f", vec![7; 10_000]).end();
    let plain = converted(&tar).unwrap();
    let diff_id = sha256_of(tar.as_slice()).unwrap();
    // Two members and two frames, as parallel compressors write them.
    let (head, rest) = tar.split_at(700);
    let gz = [gzip(head), gzip(rest)].concat();
    let zst = [zstd::encode_all(head, 3).unwrap(), zstd::encode_all(rest, 3).unwrap()].concat();
    for (blob, compression) in [(gz, Compression::Gzip), (zst, Compression::Zstd)] {
        let digest = sha256_of(blob.as_slice()).unwrap();
        let expected = Expected { digest, size: blob.len() as u64, diff_id: diff_id.clone(), compression };
        assert_eq!(converted_as(&blob, &expected, &Limits::default()).unwrap(), plain);
    }
}

/// The format is a promise: contracts hold these roots. A change of bytes needs a new format version (salt label and store version).
#[test]
fn bytes_are_pinned() {
    let tar = Tar::default().dir("bin/").file("bin/sh", vec![1; 9000]).symlink("sh", "bin/sh").end();
    let (done, file) = converted(&tar).unwrap();
    assert_eq!(done.data_blocks, 5);
    assert_eq!(hex::encode(done.verity_root), "844bf2fc42e8207c18e2509d7682dc528bed80327a3eb7125cceb33c37d2bc37");
    assert_eq!(file.len(), (5 + 1) * 4096);
}

#[test]
fn veritysetup_and_erofs_tools_accept_the_image() {
    let mut tar = Tar::default().dir("d/").file("sparse", vec![0; 200_000]).symlink("s", "d").file("d/.wh.x", "");
    for n in 0..300_u32 {
        // 300 files of 8 KiB: a tree of two levels.
        tar = tar.pax(&[("SCHILY.xattr.user.n", b"1")]).file(&format!("d/{n}"), n.to_le_bytes().repeat(2048));
    }
    let (done, file) = converted(&tar.end()).unwrap();
    assert!(done.data_blocks > 128);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("layer"), &file).unwrap();
    std::fs::write(dir.path().join("erofs"), data(&done, &file)).unwrap();
    let verify = |root: &[u8]| {
        let (blocks, offset) = (done.data_blocks.to_string(), (done.data_blocks * 4096).to_string());
        let (salt, root) = (hex::encode(done.salt), hex::encode(root));
        let sizes = ["--data-block-size", "4096", "--hash-block-size", "4096", "--hash", "sha256"];
        let place = ["--data-blocks", &blocks, "--hash-offset", &offset, "--salt", &salt, "layer", "layer", &root];
        let args = [&["verify", "--no-superblock", "--format", "1"][..], &sizes, &place].concat();
        run("/usr/sbin/veritysetup", "cryptsetup-bin", &args, dir.path())
    };
    let good = verify(&done.verity_root);
    assert!(good.status.success(), "{good:?}");
    let mut other = done.verity_root;
    other[0] ^= 1;
    assert!(!verify(&other).status.success());
    let checked = run("fsck.erofs", "erofs-utils", &["erofs"], dir.path());
    assert!(checked.status.success(), "{checked:?}");
    let dumped = run("dump.erofs", "erofs-utils", &["-s", "erofs"], dir.path());
    let dumped = String::from_utf8(dumped.stdout).unwrap();
    assert!(dumped.contains("sb_csum mtime chunked_file"), "{dumped}");
}
