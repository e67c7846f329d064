//! The end of an image: directories, link counts, superblock.
//!
//! Directory blocks (kernel documentation, "Directories"): entries of 12 bytes {inode number u64, name offset u16, type u8, 0}, then the names;
//! the offset of the first name tells the number of entries. All names of a directory, `.` and `..` among them, are in byte order.

use std::io;

use super::data::{Behind, block_number};
use super::inode::{self, BLOCK, FileType, INLINE_MAX, INODE, SLOT, Super};
use super::spool::Medium;
use super::tree::{NodeId, ROOT};
use super::{Builder, place_for, set_down};

const DIRENT: u64 = 12;
/// Where a draft keeps its directory's final inode number until the inode is set down (reserved bytes).
const NUMBER_OFFSET: u64 = 48;
/// `.` and `..` in a list of node numbers.
const OWN: u32 = u32::MAX;
const PARENT: u32 = u32::MAX - 1;

/// Size of a directory, and whether its last piece stands behind the inode.
#[derive(Debug, Clone, Copy)]
struct Shape {
    size: u64,
    inline: bool,
}

impl<M: Medium> Builder<M> {
    /// Writes directories and superblock, pads to whole blocks. Returns the medium and the number of 4 KiB blocks in it.
    pub(crate) fn finish(mut self) -> io::Result<(M, u64)> {
        self.tree.bury();
        let order = self.tree.sorted()?;
        let links = self.count_links(&order)?;
        let (meta_bytes, directory_blocks) = self.number_directories(&order)?;
        let meta_block = block_number(self.image.len())?
            .checked_add(u32::try_from(directory_blocks).map_err(|_| io::ErrorKind::FileTooLarge)?)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let shift = meta_bytes.next_multiple_of(BLOCK) / SLOT;
        self.write_directories(&order, shift)?;
        self.placed.align(BLOCK)?;
        self.image.append_all(&self.placed)?;
        self.image.append_all(&self.inodes)?;
        self.image.align(BLOCK)?;
        let blocks = block_number(self.image.len())?;
        let root = self.directory_number(ROOT)?;
        let sb = Super {
            root_nid: u16::try_from(root).map_err(|_| io::ErrorKind::InvalidData)?,
            inodes: links.saturating_add(1),
            blocks,
            meta_block,
        };
        self.image.patch(&inode::encode_super(&sb), 0)?;
        Ok((self.image.finish()?, u64::from(blocks)))
    }

    /// Sets the link count of every inode that more than one live name has; returns the number of live inodes without the root.
    fn count_links(&mut self, order: &[NodeId]) -> io::Result<u64> {
        let mut slots: Vec<u32> = Vec::new();
        let mut directories = 0;
        for id in order {
            if self.tree.kind(*id) == FileType::Directory {
                directories += 1;
            } else {
                slots.push(self.tree.inode(*id));
            }
        }
        slots.sort_unstable();
        let mut inodes = directories;
        for group in slots.chunk_by(|a, b| a == b) {
            inodes += 1;
            let (Some(first), Ok(count)) = (group.first(), u32::try_from(group.len())) else { continue };
            if count > 1 {
                self.inodes.patch(&count.to_le_bytes(), inode::nlink_at(u64::from(*first) * SLOT))?;
            }
        }
        Ok(inodes)
    }

    /// Decides where every directory's inode goes. Returns the bytes these take, and the blocks of directory data.
    fn number_directories(&mut self, order: &[NodeId]) -> io::Result<(u64, u64)> {
        let (mut end, mut blocks) = (INODE, 0);
        let mut children = order;
        for id in 0..self.tree.len() {
            if !self.is_live_directory(id) {
                continue;
            }
            let own = self.take_children(id, &mut children);
            let head = self.draft(id)?.len() as u64;
            let shape = self.shape(&self.listing(own)?, head)?;
            let tail = if shape.inline { shape.size % BLOCK } else { 0 };
            let at = place_for(end, head, tail);
            self.drafts.patch(&(at / SLOT).to_le_bytes(), u64::from(self.tree.inode(id)) * SLOT + NUMBER_OFFSET)?;
            end = at + head + tail;
            blocks += if shape.inline { shape.size / BLOCK } else { shape.size.div_ceil(BLOCK) };
        }
        Ok((end, blocks))
    }

    fn write_directories(&mut self, order: &[NodeId], shift: u64) -> io::Result<()> {
        self.placed.append_zeros(INODE)?;
        let mut children = order;
        for id in 0..self.tree.len() {
            if !self.is_live_directory(id) {
                continue;
            }
            let own = self.take_children(id, &mut children);
            let mut record = self.draft(id)?;
            let listing = self.listing(own)?;
            let shape = self.shape(&listing, record.len() as u64)?;
            let first_block = block_number(self.image.len())?;
            let tail = self.write_entries(id, &listing, shape, shift)?;
            let subdirectories = own.iter().filter(|c| self.tree.kind(**c) == FileType::Directory).count();
            let nlink = u32::try_from(subdirectories + 2).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let format: u16 = if shape.inline { 2 << 1 | 1 } else { 1 };
            put(&mut record, 0, &format.to_le_bytes());
            put(&mut record, 8, &shape.size.to_le_bytes());
            put(&mut record, 16, &first_block.to_le_bytes());
            put(&mut record, 44, &nlink.to_le_bytes());
            put(&mut record, 48, &[0; 8]);
            let behind = if shape.inline { Behind::Tail(tail) } else { Behind::Nothing };
            set_down(&mut self.placed, &record, &behind)?;
        }
        Ok(())
    }

    /// Writes the blocks of a directory to the image, all but the tail that stands behind the inode, which is returned.
    fn write_entries(&mut self, id: NodeId, listing: &[u32], shape: Shape, shift: u64) -> io::Result<Vec<u8>> {
        let (own, parent) = (self.directory_number(id)?, self.directory_number(self.tree.parent(id))?);
        let mut block = Block::default();
        let mut name = Vec::new();
        for listed in listing {
            let (number, kind) = match *listed {
                OWN => (own, FileType::Directory),
                PARENT => (parent, FileType::Directory),
                child => match self.tree.kind(child) {
                    FileType::Directory => (self.directory_number(child)?, FileType::Directory),
                    kind => (u64::from(self.tree.inode(child)) + shift, kind),
                },
            };
            self.listed_name(*listed, &mut name)?;
            if !block.fits(&name) {
                self.image.append(&block.take())?;
                self.image.align(BLOCK)?;
            }
            block.push(number, kind, &name);
        }
        let last = block.take();
        if shape.inline {
            return Ok(last);
        }
        self.image.append(&last)?;
        self.image.align(BLOCK)?;
        Ok(Vec::new())
    }

    fn shape(&self, listing: &[u32], head: u64) -> io::Result<Shape> {
        let (mut full, mut used) = (0, 0);
        let mut name = Vec::new();
        for listed in listing {
            self.listed_name(*listed, &mut name)?;
            let need = DIRENT + name.len() as u64;
            if used + need > BLOCK {
                full += 1;
                used = 0;
            }
            used += need;
        }
        let inline = used <= INLINE_MAX && head + used <= BLOCK;
        Ok(Shape { size: full * BLOCK + used, inline })
    }

    /// The children with `.` and `..` in their places.
    fn listing(&self, children: &[NodeId]) -> io::Result<Vec<u32>> {
        let mut listing = Vec::with_capacity(children.len() + 2);
        let mut dots = [(OWN, &b"."[..]), (PARENT, b"..")].into_iter().peekable();
        let mut name = Vec::new();
        for child in children {
            if dots.peek().is_some() {
                self.tree.name(*child, &mut name)?;
                while let Some((dot, _)) = dots.next_if(|(_, dot)| *dot < name.as_slice()) {
                    listing.push(dot);
                }
            }
            listing.push(*child);
        }
        listing.extend(dots.map(|(dot, _)| dot));
        Ok(listing)
    }

    fn listed_name(&self, listed: u32, target: &mut Vec<u8>) -> io::Result<()> {
        match listed {
            OWN => b"."[..].clone_into(target),
            PARENT => b".."[..].clone_into(target),
            child => return self.tree.name(child, target),
        }
        Ok(())
    }

    /// The draft inode of a directory with its attributes, and the mark of an opaque one.
    fn draft(&self, id: NodeId) -> io::Result<Vec<u8>> {
        let start = u64::from(self.tree.inode(id)) * SLOT;
        let mut head = [0; 64];
        self.drafts.read_at(&mut head, start)?;
        let units = match head {
            [_, _, low, high, ..] => usize::from(u16::from_le_bytes([low, high])),
        };
        let xattrs = if units == 0 { 0 } else { 12 + (units - 1) * 4 };
        let mut record = head.to_vec();
        record.resize(head.len() + xattrs, 0);
        self.drafts.read_at(record.get_mut(head.len()..).unwrap_or_default(), start + INODE)?;
        if self.tree.is_opaque(id) {
            if xattrs == 0 {
                record.resize(head.len() + 12, 0);
            }
            record.extend(inode::OPAQUE_ENTRY);
            let units =
                u16::try_from((record.len() - head.len() - 12) / 4 + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
            put(&mut record, 2, &units.to_le_bytes());
        }
        Ok(record)
    }

    fn directory_number(&self, id: NodeId) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.drafts.read_at(&mut bytes, u64::from(self.tree.inode(id)) * SLOT + NUMBER_OFFSET)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn is_live_directory(&self, id: NodeId) -> bool {
        !self.tree.is_dead(id) && self.tree.kind(id) == FileType::Directory
    }

    /// Splits the children of `id` off the front of `rest`, which is in order of parents.
    fn take_children<'a>(&self, id: NodeId, rest: &mut &'a [NodeId]) -> &'a [NodeId] {
        let (own, next) = rest.split_at(rest.partition_point(|child| self.tree.parent(*child) <= id));
        *rest = next;
        own
    }
}

/// A directory block being filled.
#[derive(Debug, Default)]
struct Block {
    entries: Vec<(u64, FileType, u16)>,
    names: Vec<u8>,
}

impl Block {
    fn fits(&self, name: &[u8]) -> bool {
        let used = self.entries.len() as u64 * DIRENT + self.names.len() as u64;
        used + DIRENT + name.len() as u64 <= BLOCK
    }

    /// `name` is one that fits.
    fn push(&mut self, number: u64, kind: FileType, name: &[u8]) {
        self.entries.push((number, kind, u16::try_from(self.names.len()).unwrap_or(u16::MAX)));
        self.names.extend_from_slice(name);
    }

    fn take(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        let base = u16::try_from(self.entries.len() as u64 * DIRENT).unwrap_or(u16::MAX);
        for (number, kind, offset) in self.entries.drain(..) {
            out.extend(number.to_le_bytes());
            out.extend(base.saturating_add(offset).to_le_bytes());
            out.extend([kind as u8, 0]);
        }
        out.append(&mut self.names);
        out
    }
}

/// Overwrites bytes of a record that is long enough.
fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = record.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}
