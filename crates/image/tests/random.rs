//! Random layers: whatever is in the tar is in the image, by a model that knows nothing of images and a reader that is not ours.
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

use belljar_image::convert::fuzz;
use common::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    File { data: Vec<u8>, mtime: u32 },
    Dir,
    Symlink(String),
    Fifo,
    HardLink(prop::sample::Index),
    Whiteout,
    Opaque,
}

#[derive(Debug, Clone, PartialEq)]
struct Node {
    kind: u8,
    content: Vec<u8>,
    mode: u32,
    uid: u32,
    mtime: i64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names of one inode share this.
    inode: usize,
}

type Entry = (Vec<u8>, u32, u32, BTreeMap<String, Vec<u8>>, Op);

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u8>(), 1500..9000_usize).prop_map(|(b, n)| vec![b; n]),
        // Runs of zeros and data around the units of holes.
        vec((any::<bool>(), 1..100_000_usize), 1..5)
            .prop_map(|runs| runs.into_iter().flat_map(|(zero, n)| vec![if zero { 0 } else { 7 }; n]).collect()),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let op = prop_oneof![
        6 => (content(), any::<u32>()).prop_map(|(data, mtime)| Op::File { data, mtime }),
        3 => Just(Op::Dir),
        1 => "[a-z/.]{1,60}".prop_map(Op::Symlink),
        1 => Just(Op::Fifo),
        2 => any::<prop::sample::Index>().prop_map(Op::HardLink),
        1 => Just(Op::Whiteout),
        1 => Just(Op::Opaque),
    ];
    // Few names, so that they meet.
    let path = vec(0..4_u8, 1..4);
    let xattrs = btree_map("user\\.[a-z]{1,8}", vec(any::<u8>(), 1..50), 0..3);
    vec((path, 0..0o10_000_u32, any::<u16>().prop_map(u32::from), xattrs, op), 0..40)
}

fn name(path: &[u8]) -> String {
    // Of different lengths, and on both sides of `.` and `..` in the order.
    let names = ["!x", "a", ".hidden", "a-rather-long-name-of-a-file"];
    path.iter().map(|n| names[usize::from(*n)]).collect::<Vec<_>>().join("/")
}

fn parents(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
}

/// Writes the tar and the model side by side. Operations that would be refused (below a file or link) are left out.
fn play(entries: Vec<Entry>) -> (Vec<u8>, BTreeMap<String, Node>) {
    let mut tar = Tar::default();
    let mut model: BTreeMap<String, Node> = BTreeMap::new();
    for (inode, (path, mode, uid, xattrs, op)) in entries.into_iter().enumerate() {
        let path = name(&path);
        let blocked = |node: &Node| node.kind != 2 && node.kind != 3;
        if parents(&path).iter().any(|p| model.get(p).is_some_and(blocked)) {
            continue;
        }
        let (parent, last) = path.rsplit_once('/').map_or(("", path.as_str()), |(p, l)| (p, l));
        let sibling = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        let mut raw = Raw { mode, uid, ..Raw::new(b'0', &path) };
        let mut node = Node {
            kind: 1,
            content: Vec::new(),
            mode,
            uid,
            mtime: raw.mtime.cast_signed(),
            xattrs: xattrs.iter().map(|(k, v)| (k.clone().into_bytes(), v.clone())).collect(),
            inode,
        };
        let mut with_xattrs = true;
        match op {
            Op::File { data, mtime } => {
                (raw.data, raw.mtime) = (data.clone(), u64::from(mtime));
                (node.content, node.mtime) = (data, i64::from(mtime));
            }
            Op::Dir => (raw.kind, node.kind) = (b'5', 2),
            Op::Symlink(target) => {
                (raw.kind, raw.link) = (b'2', target.clone().into_bytes());
                (node.kind, node.content) = (7, target.into_bytes());
            }
            Op::Fifo => (raw.kind, node.kind) = (b'6', 5),
            Op::HardLink(index) => {
                let files: Vec<_> = model.iter().filter(|(_, n)| n.kind != 2 && n.kind != 3).collect();
                if files.is_empty() {
                    continue;
                }
                let (target, found) = index.get(&files);
                (raw.kind, raw.link) = (b'1', target.as_bytes().to_vec());
                node = (*found).clone();
                with_xattrs = false;
            }
            Op::Whiteout => {
                raw.path = sibling(&format!(".wh.{last}")).into_bytes();
                let whiteout = Node { kind: 3, mode: 0, uid: 0, xattrs: BTreeMap::new(), ..node };
                make_parents(&mut model, &path, inode);
                match model.get_mut(&path) {
                    Some(dir) if dir.kind == 2 => opaque(dir),
                    Some(_) => {}
                    None => drop(model.insert(path, whiteout)),
                }
                tar = tar.raw(&raw);
                continue;
            }
            Op::Opaque => {
                raw.path = sibling(".wh..wh..opq").into_bytes();
                if parent.is_empty() {
                    continue;
                }
                make_parents(&mut model, &path, inode);
                opaque(model.get_mut(parent).unwrap());
                tar = tar.raw(&raw);
                continue;
            }
        }
        make_parents(&mut model, &path, inode);
        let before = model.get(&path).cloned();
        if node.kind == 2 {
            match before {
                // An opaque directory stays so when its entry comes again.
                Some(old) if old.kind == 2 && old.xattrs.contains_key(&b"trusted.overlay.opaque"[..]) => {
                    opaque(&mut node)
                }
                Some(old) if old.kind != 2 => opaque(&mut node),
                _ => {}
            }
        } else if before.is_some_and(|old| old.kind == 2) {
            model.retain(|p, _| !p.starts_with(&format!("{path}/")));
        }
        model.insert(path, node);
        let records: Vec<(String, Vec<u8>)> =
            xattrs.into_iter().map(|(k, v)| (format!("SCHILY.xattr.{k}"), v)).filter(|_| with_xattrs).collect();
        if !records.is_empty() {
            let records: Vec<(&str, &[u8])> = records.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
            tar = tar.pax(&records);
        }
        tar = tar.raw(&raw);
    }
    (tar.end(), model)
}

fn opaque(node: &mut Node) {
    node.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
}

fn make_parents(model: &mut BTreeMap<String, Node>, path: &str, inode: usize) {
    for parent in parents(path) {
        let mut implied = Node {
            kind: 2,
            content: Vec::new(),
            mode: 0o755,
            uid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
            inode: inode + 1_000_000,
        };
        match model.get(&parent).map(|node| node.kind) {
            Some(3) => opaque(&mut implied),
            Some(_) => continue,
            None => {}
        }
        model.insert(parent, implied);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn images_hold_what_tars_say(entries in entries()) {
        let (tar, model) = play(entries);
        let image = fuzz(&tar).expect("a well-formed layer");
        prop_assert!(fuzz(&tar).is_some_and(|again| again == image));
        let seen = tree(&image);
        let names: Vec<String> = seen.keys().skip(1).map(|path| path[1..].to_owned()).collect();
        let wanted: Vec<String> = model.keys().cloned().collect();
        prop_assert_eq!(sorted(names), wanted);
        for (path, node) in &model {
            let found = &seen[&format!("/{path}")];
            prop_assert_eq!((found.kind, found.mode, found.uid, found.mtime.0), (node.kind, node.mode, node.uid, node.mtime), "{}", path);
            prop_assert!(found.content == node.content, "{}", path);
            prop_assert_eq!(&found.xattrs, &node.xattrs, "{}", path);
            let links = if node.kind == 2 {
                2 + model.iter().filter(|(p, n)| n.kind == 2 && p.rsplit_once('/').is_some_and(|(parent, _)| parent == path)).count()
            } else {
                model.values().filter(|other| other.inode == node.inode && other.kind == node.kind).count()
            };
            prop_assert_eq!(found.nlink as usize, links, "{}", path);
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused(data in vec(any::<u8>(), 0..3000)) {
        let _ = fuzz(&data);
    }

    /// Valid headers with one field made wild: reaches further than random bytes.
    #[test]
    fn wild_fields(kind in any::<u8>(), path in "[a./]{0,20}", link in "[a./]{0,20}", at in 0..512_usize, byte in any::<u8>(), size in 0..2000_u64) {
        let mut header = Raw::new(kind, &path).link(&link).header(size);
        header[at] = byte;
        checksum(&mut header);
        let mut tar = header.to_vec();
        tar.extend(vec![b'1'; 3000]);
        if let Some(image) = fuzz(&tar) {
            tree(&image);
        }
    }

    #[test]
    fn wild_pax(key in "(path|linkpath|size|mtime|uid|GNU\\.sparse\\.(major|minor|map|size|name|offset|numbytes)|SCHILY\\.xattr\\.user\\.a)", value in "[-0-9,./a]{0,20}") {
        let tar = Tar::default().pax(&[(&key, value.as_bytes())]).file("f", "content").end();
        if let Some(image) = fuzz(&tar) {
            tree(&image);
        }
    }

    #[test]
    fn documents(text in "\\{[\"a-z:,0-9\\[\\]{}]{0,80}\\}", data in vec(any::<u8>(), 0..200)) {
        belljar_image::fuzz_documents(text.as_bytes());
        belljar_image::fuzz_documents(&data);
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}
