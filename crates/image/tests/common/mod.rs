//! Helpers of the integration tests: a tar writer that can also write what no tool would, and a view of an image by an independent reader.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use belljar_image::convert::{Compression, ConvertError, Converted, Expected, convert};
use belljar_image::{Limits, sha256_of};
use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use std::os::unix::fs::PermissionsExt;

/// One ustar header and its data.
#[derive(Debug, Clone)]
pub struct Raw {
    pub kind: u8,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub device: (u32, u32),
    pub data: Vec<u8>,
}

impl Raw {
    pub fn new(kind: u8, path: &str) -> Self {
        Self {
            kind,
            path: path.into(),
            link: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            device: (0, 0),
            data: Vec::new(),
        }
    }

    pub fn link(mut self, link: &str) -> Self {
        self.link = link.into();
        self
    }

    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    pub fn header(&self, size: u64) -> [u8; 512] {
        let mut h = [0_u8; 512];
        let put = |h: &mut [u8; 512], at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(self.path.len() <= 100 && self.link.len() <= 100, "use pax for long names");
        put(&mut h, 0, &self.path);
        put(&mut h, 100, format!("{:07o}", self.mode).as_bytes());
        put(&mut h, 108, format!("{:07o}", self.uid).as_bytes());
        put(&mut h, 116, format!("{:07o}", self.gid).as_bytes());
        put(&mut h, 124, format!("{size:011o}").as_bytes());
        put(&mut h, 136, format!("{:011o}", self.mtime).as_bytes());
        h[156] = self.kind;
        put(&mut h, 157, &self.link);
        put(&mut h, 257, b"ustar\x0000");
        put(&mut h, 329, format!("{:07o}", self.device.0).as_bytes());
        put(&mut h, 337, format!("{:07o}", self.device.1).as_bytes());
        checksum(&mut h);
        h
    }
}

pub fn checksum(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A tar stream in the making.
#[derive(Debug, Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn raw(mut self, raw: &Raw) -> Self {
        self.0.extend(raw.header(raw.data.len() as u64));
        self.0.extend(&raw.data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, data: impl Into<Vec<u8>>) -> Self {
        self.raw(&Raw { data: data.into(), ..Raw::new(b'0', path) })
    }

    pub fn dir(self, path: &str) -> Self {
        self.raw(&Raw { mode: 0o755, ..Raw::new(b'5', path) })
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(&Raw::new(b'2', path).link(target))
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.raw(&Raw::new(b'1', path).link(target))
    }

    /// A pax header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.raw(&Raw { data, ..Raw::new(b'x', "pax") })
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len != body + len.to_string().len() {
        len = body + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// What a manifest would say about an uncompressed layer.
pub fn expected(tar: &[u8]) -> Expected {
    let digest = sha256_of(tar).unwrap();
    Expected { digest: digest.clone(), size: tar.len() as u64, diff_id: digest, compression: Compression::None }
}

/// Converts an uncompressed layer; returns the whole file with its tree.
pub fn converted(tar: &[u8]) -> Result<(Converted, Vec<u8>), ConvertError> {
    converted_as(tar, &expected(tar), &Limits::default())
}

pub fn converted_as(blob: &[u8], expected: &Expected, limits: &Limits) -> Result<(Converted, Vec<u8>), ConvertError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let image = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let done = convert(blob, expected, limits, image, dir.path(), |_| {})?;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "spools must have no names");
    Ok((done, std::fs::read(path).unwrap()))
}

/// What an independent reader sees of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// As the types of directory entries: 1 regular, 2 directory, 3 char, 4 block, 5 fifo, 7 symlink.
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub nlink: u32,
    pub device: Option<(u32, u32)>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a file, or the target of a link.
    pub content: Vec<u8>,
    pub nid: u64,
}

/// All of an image by path, the root as `/`.
pub fn tree(image: &[u8]) -> BTreeMap<String, Seen> {
    let fs = EroFS::new(SliceImage::new(image)).expect("superblock");
    let mut found = BTreeMap::new();
    let see = |inode: erofs_rs::types::Inode, kind: u8| {
        let content = match kind {
            1 => {
                let mut content = Vec::new();
                fs.open_inode_file(inode).unwrap().read_to_end(&mut content).unwrap();
                content
            }
            7 => fs.read_link_inode(inode).unwrap().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        Seen {
            kind,
            mode: inode.permissions().mode() & 0o7777,
            uid: inode.uid(),
            gid: inode.gid(),
            mtime: inode.modified_unix(),
            nlink: inode.nlink(),
            device: inode.device().filter(|_| kind == 3 || kind == 4),
            xattrs: fs.xattrs_inode(inode).unwrap(),
            content,
            nid: inode.id(),
        }
    };
    let root = fs.get_inode(fs.super_block().root_inode_id()).unwrap();
    found.insert("/".to_owned(), see(root, 2));
    for entry in fs.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        let path = String::from_utf8_lossy(entry.dir_entry.path().as_bytes()).into_owned();
        let seen = see(entry.inode, entry.dir_entry.file_type() as u8);
        // A lookup goes another way (binary search) than the walk.
        let looked_up = fs.open(path.as_str());
        assert_eq!(looked_up.is_ok(), seen.kind == 1, "{path}");
        assert!(found.insert(path, seen).is_none(), "a name twice");
    }
    found
}

/// The erofs part of a converted layer.
pub fn data<'a>(done: &Converted, file: &'a [u8]) -> &'a [u8] {
    &file[..usize::try_from(done.data_blocks).unwrap() * 4096]
}

/// Runs a tool that the tests need; its absence fails the test with the package to install.
pub fn run(tool: &str, package: &str, args: &[&str], dir: &Path) -> std::process::Output {
    std::process::Command::new(tool)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {tool} ({error}): apt-get install {package}"))
}
