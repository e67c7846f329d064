//! The dm-verity tree (kernel documentation, "dm-verity", and cryptsetup's "DMVerity" page): version 1, SHA-256, 4096-byte data and
//! hash blocks, the salt before the data. The tree stands right behind the data, top level first, without a superblock.

use std::io;

use aws_lc_rs::digest::{Context, SHA256};

use crate::erofs::Medium;

const BLOCK: usize = 4096;
const DIGEST: usize = 32;
const PER_BLOCK: u64 = (BLOCK / DIGEST) as u64;

/// The salt of a layer's tree: SHA-256 over a label and the layer's diff_id, so that the same layer gives the same tree everywhere.
#[must_use]
pub fn salt(diff_id: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(b"belljar layer salt v1\0");
    context.update(diff_id.as_bytes());
    finish(context)
}

/// Number of blocks of the tree over `data_blocks` blocks.
#[must_use]
pub fn tree_blocks(data_blocks: u64) -> u64 {
    levels(data_blocks).iter().sum()
}

/// Writes the tree over the first `data_blocks` blocks of `image` behind them and returns the root hash. Memory: two blocks per level.
///
/// # Errors
/// Of the storage.
pub(crate) fn append<M: Medium>(image: &mut M, data_blocks: u64, salt: &[u8]) -> io::Result<[u8; 32]> {
    let sizes = levels(data_blocks);
    // The top level is stored first, the leaves last.
    let mut start = data_blocks + sizes.iter().sum::<u64>();
    let mut tree: Vec<Level> = Vec::new();
    for size in &sizes {
        start -= size;
        tree.push(Level { next: start, block: Vec::with_capacity(BLOCK) });
    }
    let mut root = [0; DIGEST];
    let mut buffer = vec![0; 64 * BLOCK];
    let mut done = 0;
    while done < data_blocks {
        let now = usize::try_from(data_blocks - done).unwrap_or(usize::MAX).min(64);
        let piece = buffer.get_mut(..now * BLOCK).unwrap_or_default();
        image.read_exact_at(piece, done * BLOCK as u64)?;
        for block in piece.chunks_exact(BLOCK) {
            root = push(&mut tree, image, hash(salt, block), salt)?;
        }
        done += now as u64;
    }
    // What is left in each level is its last, partial block.
    for index in 0..tree.len() {
        if let Some(digest) = close(&mut tree, index, image, salt)? {
            root = push(tree.get_mut(index + 1..).unwrap_or_default(), image, digest, salt)?;
        }
    }
    Ok(root)
}

struct Level {
    /// Block number of the next block of this level.
    next: u64,
    block: Vec<u8>,
}

/// Adds a digest to the lowest of `levels`, and full blocks' digests to those above. Without a level the digest is the root.
fn push<M: Medium>(levels: &mut [Level], image: &mut M, digest: [u8; DIGEST], salt: &[u8]) -> io::Result<[u8; DIGEST]> {
    let mut digest = digest;
    for index in 0..levels.len() {
        let Some(level) = levels.get_mut(index) else { break };
        level.block.extend_from_slice(&digest);
        if level.block.len() < BLOCK {
            return Ok(digest);
        }
        match close(levels, index, image, salt)? {
            Some(above) => digest = above,
            None => return Ok(digest),
        }
    }
    Ok(digest)
}

/// Writes the block of a level, if there is one, and returns its digest.
fn close<M: Medium>(
    levels: &mut [Level],
    index: usize,
    image: &mut M,
    salt: &[u8],
) -> io::Result<Option<[u8; DIGEST]>> {
    let Some(level) = levels.get_mut(index).filter(|level| !level.block.is_empty()) else { return Ok(None) };
    level.block.resize(BLOCK, 0);
    image.write_all_at(&level.block, level.next * BLOCK as u64)?;
    level.next += 1;
    let digest = hash(salt, &level.block);
    level.block.clear();
    Ok(Some(digest))
}

/// Blocks of each level, leaves first, up to the level of one block. One data block needs no tree.
fn levels(data_blocks: u64) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut count = data_blocks;
    while count > 1 {
        count = count.div_ceil(PER_BLOCK);
        sizes.push(count);
    }
    sizes
}

fn hash(salt: &[u8], block: &[u8]) -> [u8; DIGEST] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(block);
    finish(context)
}

fn finish(context: Context) -> [u8; DIGEST] {
    let mut out = [0; DIGEST];
    out.copy_from_slice(context.finish().as_ref());
    out
}
