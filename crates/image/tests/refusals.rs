//! Layers that must be refused, each with the twin that differs in one thing and is accepted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]
#![allow(missing_docs, dead_code)]

mod common;

use belljar_image::convert::{Compression, ConvertError, Expected};
use belljar_image::tar::TarError;
use belljar_image::{LayerError, Limits, sha256_of};
use common::*;

/// The refusal of the layer's content.
fn refusal(tar: Tar) -> LayerError {
    match converted(&tar.end()) {
        Err(ConvertError::Layer(error)) => error,
        other => panic!("{:?}", other.map(|(done, _)| done)),
    }
}

fn accepted(tar: Tar) {
    converted(&tar.end()).unwrap();
}

fn gzipped(tar: &[u8]) -> (Vec<u8>, Expected) {
    let blob = gzip(tar);
    let (digest, diff_id) = (sha256_of(blob.as_slice()).unwrap(), sha256_of(tar).unwrap());
    let expected = Expected { digest, size: blob.len() as u64, diff_id, compression: Compression::Gzip };
    (blob, expected)
}

#[test]
fn climbing_out() {
    for path in ["../x", "a/../../x", "/../x", "a/../b"] {
        assert!(matches!(refusal(Tar::default().file(path, "")), LayerError::Climbs { .. }), "{path}");
    }
    for path in ["x", "/x", "./x", "a/./b", "a//b", "..a/b..", "..."] {
        accepted(Tar::default().file(path, ""));
    }
    // A hard link to above the root.
    let climbs = refusal(Tar::default().file("x", "").hard_link("y", "/../x"));
    assert!(matches!(climbs, LayerError::Climbs { path, .. } if path == "y"));
    accepted(Tar::default().file("x", "").hard_link("y", "/x"));
    // A path below a link to above the root; the link itself is only data.
    accepted(Tar::default().symlink("out", "../../etc"));
    let climbs = refusal(Tar::default().symlink("out", "../../etc").file("out/passwd", ""));
    assert!(matches!(climbs, LayerError::Climbs { path, .. } if path == "out/passwd"));
    accepted(Tar::default().symlink("a/in", "../etc").file("a/in/passwd", ""));
}

#[test]
fn loops_of_links() {
    let error = refusal(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", ""));
    assert!(matches!(error, LayerError::Path { why: "lies below too many symbolic links", .. }));
    accepted(Tar::default().symlink("a", "b").symlink("b", "c").file("a/x", ""));
}

#[test]
fn bad_paths() {
    let pax = |path: &[u8]| Tar::default().pax(&[("path", path)]).file("x", "");
    let why = |tar: Tar| match refusal(tar) {
        LayerError::Path { why, .. } => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(pax(&[b'n'; 256])), "has a name longer than 255 bytes");
    accepted(pax(&[b'n'; 255]));
    assert_eq!(why(pax("d/".repeat(2049).as_bytes())), "longer than the bound on paths");
    assert_eq!(why(pax(format!("{}f", "d/".repeat(512)).as_bytes())), "has more components than the bound on depth");
    accepted(pax(format!("{}f", "d/".repeat(511)).as_bytes()));
    assert_eq!(why(pax(b"a\0b")), "has a NUL byte");
    assert_eq!(why(Tar::default().file(".", "")), "the root must be a directory");
    accepted(Tar::default().dir("./"));
    assert_eq!(why(Tar::default().symlink("s", "")), "its link target is empty, too long or has a NUL");
    for name in [".wh.", ".wh..", ".wh..."] {
        assert_eq!(why(Tar::default().file(name, "")), "a whiteout must name a file");
    }
    assert_eq!(why(Tar::default().file(".wh.a/b", "")), "lies below a whiteout");
    accepted(Tar::default().file(".wh.a", ""));
}

#[test]
fn below_a_file() {
    let error = refusal(Tar::default().file("a", "").file("a/b", ""));
    assert!(matches!(error, LayerError::NotADirectory { path, parent } if path == "a/b" && parent == "a"));
    accepted(Tar::default().dir("a").file("a/b", ""));
}

#[test]
fn hard_links_to_nothing() {
    let links = |tar: Tar| assert!(matches!(refusal(tar), LayerError::HardLink { path, .. } if path == "l"));
    links(Tar::default().hard_link("l", "missing"));
    links(Tar::default().hard_link("l", "missing/deep"));
    links(Tar::default().dir("d").hard_link("l", "d"));
    links(Tar::default().file(".wh.gone", "").hard_link("l", "gone"));
    links(Tar::default().file("x", "").hard_link("l", ""));
    accepted(Tar::default().file("x", "").hard_link("l", "x"));
    accepted(Tar::default().symlink("x", "y").hard_link("l", "x"));
}

#[test]
fn forged_overlay_marks() {
    let forged = |tar: Tar, wanted: &str| {
        assert!(matches!(refusal(tar), LayerError::Forged { what, .. } if what == wanted), "{wanted}");
    };
    forged(Tar::default().raw(&Raw::new(b'3', "x")), "character device 0:0");
    accepted(Tar::default().raw(&Raw::new(b'3', "x").device(0, 1)));
    accepted(Tar::default().raw(&Raw::new(b'4', "x")));
    for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.whiteout"] {
        forged(Tar::default().pax(&[(&format!("SCHILY.xattr.{name}"), b"y")]).dir("d"), name);
    }
    accepted(Tar::default().pax(&[("SCHILY.xattr.trusted.overlayish", b"y")]).dir("d"));
}

#[test]
fn oversized_attributes_and_devices() {
    let xattr = |len: usize| Tar::default().pax(&[("SCHILY.xattr.user.a", &vec![b'x'; len])]).file("f", "");
    let limit = 65_536;
    let error = refusal(xattr(limit));
    assert!(matches!(error, LayerError::Xattrs { found, limit: 65_536, .. } if found == limit + 6));
    accepted(xattr(limit - 6));
    let error = refusal(Tar::default().raw(&Raw::new(b'4', "b").device(4096, 0)));
    assert!(matches!(error, LayerError::Device { major: 4096, minor: 0, .. }));
    accepted(Tar::default().raw(&Raw::new(b'4', "b").device(4095, 1_048_575)));
}

#[test]
fn too_many_entries() {
    let limits = Limits { entries: 4, ..Limits::default() };
    let two = Tar::default().file("a/b", "").end();
    converted_as(&two, &expected(&two), &limits).unwrap();
    let more = Tar::default().file("a/b", "").file("c", "").file("d", "").end();
    let error = converted_as(&more, &expected(&more), &limits).unwrap_err();
    assert!(matches!(error, ConvertError::Layer(LayerError::TooManyEntries { limit: 4 })));
    // Implied directories count as well.
    let deep = Tar::default().file("a/b/c/d/e/f", "").end();
    let error = converted_as(&deep, &expected(&deep), &limits).unwrap_err();
    assert!(matches!(error, ConvertError::Layer(LayerError::TooManyEntries { limit: 4 })));
}

#[test]
fn explosions() {
    let tar = Tar::default().file("zeros", vec![0; 3 << 20]).end();
    let (blob, expected) = gzipped(&tar);
    assert!(blob.len() < 40_000);
    let limits = |ratio| Limits { ratio, ratio_allowance: 1 << 20, ..Limits::default() };
    converted_as(&blob, &expected, &limits(1000)).unwrap();
    let error = converted_as(&blob, &expected, &limits(10)).unwrap_err();
    let wanted = (blob.len() as u64 * 10) + (1 << 20);
    assert!(matches!(error, ConvertError::Explodes { limit, .. } if limit == wanted));
    let small = Limits { uncompressed_bytes: 2 << 20, ..Limits::default() };
    let error = converted_as(&blob, &expected, &small).unwrap_err();
    assert!(matches!(error, ConvertError::Layer(LayerError::TooLarge { limit: 2_097_152 })));
}

/// A kilobyte of tar that claims a file of terabytes.
#[test]
fn logical_sizes_are_bounded() {
    let sparse = |size: &str| {
        Tar::default()
            .pax(&[
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.minor", b"1"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.map", b"0,1"),
                ("GNU.sparse.size", size.as_bytes()),
            ])
            .file("x", "1")
    };
    let error = refusal(sparse("4398046511104"));
    assert!(matches!(error, LayerError::TooLarge { limit } if limit == 32 << 30));
    accepted(sparse("1073741824"));
}

#[test]
fn wrong_digests_and_sizes() {
    let tar = Tar::default().file("f", vec![b'x'; 5000]).end();
    let (blob, good) = gzipped(&tar);
    let limits = Limits::default();
    converted_as(&blob, &good, &limits).unwrap();
    let other = format!("sha256:{}", "0".repeat(64));
    let error = converted_as(&blob, &Expected { digest: other.clone(), ..good.clone() }, &limits).unwrap_err();
    assert!(
        matches!(error, ConvertError::Digest { what: "layer blob", expected, found } if expected == other && found == good.digest)
    );
    let error = converted_as(&blob, &Expected { diff_id: other.clone(), ..good.clone() }, &limits).unwrap_err();
    assert!(
        matches!(error, ConvertError::Digest { what: "layer tar (diff_id)", expected, found } if expected == other && found == good.diff_id)
    );
    let len = blob.len() as u64;
    for size in [len - 1, len + 1] {
        let error = converted_as(&blob, &Expected { size, ..good.clone() }, &limits).unwrap_err();
        assert!(
            matches!(error, ConvertError::Size { expected, found } if expected == size && found == len),
            "{error:?}"
        );
    }
    // A flipped byte breaks gzip first; the digest is the reason that counts. A cut blob has the wrong size.
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 0x55;
    let error = converted_as(&flipped, &good, &limits).unwrap_err();
    assert!(matches!(error, ConvertError::Digest { what: "layer blob", .. }), "{error:?}");
    let error = converted_as(&blob[..blob.len() - 9], &good, &limits).unwrap_err();
    assert!(matches!(error, ConvertError::Size { found, .. } if found == len - 9), "{error:?}");
}

#[test]
fn broken_compression() {
    let tar = Tar::default().file("f", vec![b'x'; 5000]).end();
    let (blob, good) = gzipped(&tar);
    let mut broken = blob.clone();
    let middle = blob.len() / 2;
    broken[middle] ^= 0x55;
    for (bytes, compression, name) in [
        (broken, Compression::Gzip, "gzip"),
        (blob[..blob.len() - 4].to_vec(), Compression::Gzip, "gzip"),
        ([blob.as_slice(), b"tail"].concat(), Compression::Gzip, "gzip"),
        (tar.clone(), Compression::Gzip, "gzip"),
        (blob.clone(), Compression::Zstd, "zstd"),
    ] {
        let digest = sha256_of(bytes.as_slice()).unwrap();
        let expected = Expected { digest, size: bytes.len() as u64, compression, ..good.clone() };
        let error = converted_as(&bytes, &expected, &Limits::default()).unwrap_err();
        assert!(matches!(error, ConvertError::Compression { format, .. } if format == name), "{error:?}");
    }
}

#[test]
fn broken_tars() {
    let tar_error = |bytes: &[u8]| match converted(bytes) {
        Err(ConvertError::Layer(LayerError::Tar(error))) => error,
        other => panic!("{:?}", other.map(|(done, _)| done)),
    };
    let good = Tar::default().file("f", vec![b'x'; 600]).end();
    converted(&good).unwrap();
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    assert!(matches!(tar_error(&flipped), TarError::Checksum { at: 0 }));
    assert!(matches!(tar_error(&good[..1000]), TarError::Truncated { at: 0 }));
    assert!(matches!(tar_error(&good[..1200]), TarError::Truncated { .. }));
    assert!(matches!(tar_error(&good[..100]), TarError::Truncated { at: 0 }));
    converted(&good[..1536]).expect("an end without zeros is an end");
    let mut leftover = good.clone();
    leftover.extend(b"more");
    assert!(matches!(tar_error(&leftover), TarError::Leftover { at: 1536 }));
    assert!(matches!(
        tar_error(&Tar::default().raw(&Raw::new(b'V', "volume")).end()),
        TarError::EntryType { kind: 'V', .. }
    ));
    let mut header = Raw::new(b'0', "f").header(0);
    header[124] = b'9';
    checksum(&mut header);
    assert!(matches!(tar_error(&header), TarError::Number { field: "size", at: 0 }));
    let global =
        |key: &str| Tar::default().raw(&Raw { data: pax_record(key, b"1"), ..Raw::new(b'g', "g") }).file("f", "").end();
    assert!(matches!(tar_error(&global("uid")), TarError::GlobalHeader { at: 0 }));
    converted(&global("comment")).unwrap();
    let dangling = Tar::default().pax(&[("uid", b"1")]).end();
    assert!(matches!(tar_error(&dangling), TarError::Truncated { .. }));
}

#[test]
fn extended_headers_are_bounded() {
    // The claim alone is refused: nothing of it is read or allocated.
    let claim = Raw::new(b'x', "pax").header(8 << 30);
    let error = converted(&claim).unwrap_err();
    assert!(
        matches!(error, ConvertError::Layer(LayerError::Tar(TarError::ExtendedHeader { at: 0, size })) if size == 8 << 30)
    );
    accepted(Tar::default().pax(&[("comment", &vec![b'c'; 1_000_000])]).file("f", ""));
}

#[test]
fn bad_sparse_maps() {
    let sparse = |map: &str, size: &str, data: &str| {
        let keys = [("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", size.as_bytes())];
        converted(&Tar::default().pax(&keys).file("f", data).end())
    };
    sparse("0,1,5,2", "10", "abc").unwrap();
    for (map, size) in [
        ("0,1,5", "10"),
        ("0,1,0,2", "10"),
        ("0,1,5,3", "10"),
        ("0,1,9,2", "10"),
        ("0,1,5,1", "10"),
        ("x", "10"),
        ("", "10"),
        ("0,1,18446744073709551615,2", "10"),
    ] {
        let error = sparse(map, size, "abc").unwrap_err();
        assert!(matches!(error, ConvertError::Layer(LayerError::Tar(TarError::SparseMap { .. }))), "{map}: {error:?}");
    }
}
