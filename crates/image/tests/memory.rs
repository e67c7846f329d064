//! Conversion streams: resident memory stays under 64 MiB, with half a gigabyte of content and with many entries. The only test of this binary, since
//! the peak is the process's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]
#![allow(missing_docs, dead_code)]

mod common;

use std::fs::File;
use std::io::{self, Read};

use belljar_image::convert::{Compression, Expected, convert};
use belljar_image::{Limits, sha256_of};
use common::Raw;

const LARGE: u64 = 256 << 20;
const PIECE: usize = 64 << 10;

/// A layer of 512 MiB in two files, and 100,000 small files, piece by piece.
fn pieces() -> impl Iterator<Item = Vec<u8>> {
    let large = |name: &'static str, fill: u8| {
        let header = Raw::new(b'0', name).header(LARGE).to_vec();
        let content = (0..LARGE / PIECE as u64).map(move |n| {
            let mut piece = vec![fill; PIECE];
            piece[..8].copy_from_slice(&(n * u64::from(fill)).to_le_bytes());
            piece
        });
        std::iter::once(header).chain(content)
    };
    let small = (0..100_000).map(|n| {
        let mut piece = Raw::new(b'0', &format!("dir-{}/a-file-with-a-name-{n}", n / 50)).header(100).to_vec();
        piece.extend([b'x'; 100]);
        piece.resize(1024, 0);
        piece
    });
    large("noise", 7).chain(large("zeros", 0)).chain(small).chain(std::iter::once(vec![0; 1024]))
}

struct Stream<I> {
    pieces: I,
    piece: Vec<u8>,
    at: usize,
}

impl<I: Iterator<Item = Vec<u8>>> Read for Stream<I> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            (self.piece, self.at) = (self.pieces.next().unwrap_or_default(), 0);
        }
        let now = target.len().min(self.piece.len() - self.at);
        target[..now].copy_from_slice(&self.piece[self.at..self.at + now]);
        self.at += now;
        Ok(now)
    }
}

fn stream() -> Stream<impl Iterator<Item = Vec<u8>>> {
    Stream { pieces: pieces(), piece: Vec::new(), at: 0 }
}

#[test]
fn peak_memory_is_under_64_mib() {
    let size = io::copy(&mut stream(), &mut io::sink()).unwrap();
    let digest = sha256_of(stream()).unwrap();
    let expected = Expected { digest: digest.clone(), size, diff_id: digest, compression: Compression::None };
    let dir = tempfile::tempdir().unwrap();
    let image = File::options().read(true).write(true).create_new(true).open(dir.path().join("image")).unwrap();
    let done = convert(stream(), &expected, &Limits::default(), image, dir.path(), |_| {}).unwrap();
    assert!((65_536..80_000).contains(&done.data_blocks), "the noise, not the zeros: {}", done.data_blocks);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    eprintln!("peak resident memory: {kib} KiB for a tar of {size} bytes");
    assert!(kib < 64 * 1024, "{kib} KiB");
}
