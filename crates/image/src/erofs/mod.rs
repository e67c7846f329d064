//! A deterministic writer of uncompressed erofs images that streams: file data goes to the image as it comes, inodes and names to
//! spools, and only twelve bytes and a hash slot per entry stay in memory.
//!
//! ```text
//! block 0      superblock at 1024
//! blocks 1…    file data in order of arrival, then directory blocks that do not fit behind their inode
//! meta_block…  64 zero bytes, the root's inode, all other directories' inodes, padding to a block,
//!              then all other inodes in order of arrival
//! ```
//!
//! Every inode is an extended one, because the compact form has no time. A replaced file leaves its data and inode behind, unreachable.
//! `docs/layers.md` has the format in full, `docs/adr/0003-erofs-writer.md` the reasons.

mod data;
mod directories;
mod inode;
mod spool;
mod tree;

use std::io;

use data::Behind;
pub(crate) use data::Content;
pub(crate) use inode::FileType;
use inode::{BLOCK, INODE, Layout, SLOT};
pub(crate) use inode::{Metadata, xattr_is_storable};
pub(crate) use spool::Medium;
use spool::Spool;
use tree::{MAX_NODES, Tree};
pub(crate) use tree::{NodeId, ROOT};

/// An image under construction. All methods fail with the error of the storage, or with these kinds: `InvalidInput` for a record that
/// the format cannot hold, `FileTooLarge` for an image beyond 16 TiB, `QuotaExceeded` for more than 2^24 entries.
#[derive(Debug)]
pub(crate) struct Builder<M> {
    image: Spool<M>,
    /// Inodes of all but directories, in the form and order they have in the image.
    inodes: Spool<M>,
    /// Inodes of directories without size, address and link count; their places follow at the end.
    drafts: Spool<M>,
    /// Where `directories` sets directories' inodes down.
    placed: Spool<M>,
    tree: Tree<M>,
    count: u32,
}

impl<M: Medium> Builder<M> {
    /// An image with only a root directory (mode 0755, root, 1970). `scratch` makes an empty temporary medium.
    pub(crate) fn new(image: M, mut scratch: impl FnMut() -> io::Result<M>) -> io::Result<Self> {
        let mut builder = Self {
            image: Spool::new(image, 512 * 1024),
            inodes: Spool::new(scratch()?, 128 * 1024),
            drafts: Spool::new(scratch()?, 32 * 1024),
            placed: Spool::new(scratch()?, 32 * 1024),
            tree: Tree::new(scratch()?),
            count: 0,
        };
        builder.image.append_zeros(BLOCK)?;
        builder.update_directory(ROOT, &Metadata { mode: 0o755, ..Metadata::default() })?;
        Ok(builder)
    }

    /// Nodes made so far, dead ones included.
    pub(crate) fn entries(&self) -> u32 {
        self.tree.len()
    }

    pub(crate) fn find(&self, parent: NodeId, name: &[u8]) -> io::Result<Option<NodeId>> {
        self.tree.find(parent, name)
    }

    pub(crate) fn kind(&self, id: NodeId) -> FileType {
        self.tree.kind(id)
    }

    pub(crate) fn parent(&self, id: NodeId) -> NodeId {
        self.tree.parent(id)
    }

    pub(crate) fn is_whiteout(&self, id: NodeId) -> bool {
        self.tree.is_whiteout(id)
    }

    pub(crate) fn set_opaque(&mut self, id: NodeId) {
        self.tree.set_opaque(id);
    }

    /// A new directory, in place of whatever has that name.
    pub(crate) fn directory(&mut self, parent: NodeId, name: &[u8], meta: &Metadata) -> io::Result<NodeId> {
        let id = self.insert(parent, name, FileType::Directory, 0)?;
        self.update_directory(id, meta)?;
        Ok(id)
    }

    /// Other metadata for a directory that is there already.
    pub(crate) fn update_directory(&mut self, id: NodeId, meta: &Metadata) -> io::Result<()> {
        let record = self.record(FileType::Directory, meta, Layout::Plain(0), 0, 2)?;
        self.drafts.align(SLOT)?;
        let slot = slot(self.drafts.len())?;
        self.drafts.append(&record)?;
        self.tree.set_inode(id, slot);
        Ok(())
    }

    /// An overlayfs whiteout: a character device 0:0.
    pub(crate) fn whiteout(&mut self, parent: NodeId, name: &[u8], mtime: (i64, u32)) -> io::Result<()> {
        let meta = Metadata { mtime, ..Metadata::default() };
        let id = self.device(parent, name, &meta, FileType::Char, (0, 0))?;
        self.tree.set_whiteout(id);
        Ok(())
    }

    /// A device or FIFO (with device 0:0).
    pub(crate) fn device(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: &Metadata,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> io::Result<NodeId> {
        let number = inode::device_number(major, minor).ok_or(io::ErrorKind::InvalidInput)?;
        let record = self.record(kind, meta, Layout::Device(number), 0, 1)?;
        let inode = self.place(&record, &Behind::Nothing)?;
        self.insert(parent, name, kind, inode)
    }

    pub(crate) fn symlink(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: &Metadata,
        target: &[u8],
    ) -> io::Result<NodeId> {
        let mut content = Content::new(target.len() as u64, &self.image)?;
        content.data(target, &mut self.image)?;
        self.with_content(parent, name, meta, FileType::Symlink, content, target.len() as u64)
    }

    /// Starts a regular file of `size` bytes; give its content to [`Builder::data`] and [`Builder::hole`], end with [`Builder::file`].
    pub(crate) fn content(&self, size: u64) -> io::Result<Content> {
        Content::new(size, &self.image)
    }

    pub(crate) fn data(&mut self, content: &mut Content, bytes: &[u8]) -> io::Result<()> {
        content.data(bytes, &mut self.image)
    }

    pub(crate) fn hole(&mut self, content: &mut Content, count: u64) -> io::Result<()> {
        content.hole(count, &mut self.image)
    }

    pub(crate) fn file(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: &Metadata,
        content: Content,
        size: u64,
    ) -> io::Result<NodeId> {
        self.with_content(parent, name, meta, FileType::Regular, content, size)
    }

    /// Another name for what `target`, not a directory, is.
    pub(crate) fn hard_link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> io::Result<NodeId> {
        let (kind, inode) = (self.tree.kind(target), self.tree.inode(target));
        self.insert(parent, name, kind, inode)
    }

    /// The target of a symbolic link.
    pub(crate) fn read_link(&self, id: NodeId) -> io::Result<Vec<u8>> {
        let start = u64::from(self.tree.inode(id)) * SLOT;
        let mut head = [0; 32];
        self.inodes.read_at(&mut head, start)?;
        let bytes = |at: usize, len: usize| {
            head.iter().skip(at).take(len).rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (format, units, size, block) = (bytes(0, 2), bytes(2, 2), bytes(8, 8), bytes(16, 4));
        let mut target = vec![0; usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?];
        if format >> 1 & 7 == 2 {
            let xattrs = if units == 0 { 0 } else { 12 + (units - 1) * 4 };
            self.inodes.read_at(&mut target, start + INODE + xattrs)?;
        } else {
            self.image.read_at(&mut target, block * BLOCK)?;
        }
        Ok(target)
    }

    fn with_content(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: &Metadata,
        kind: FileType,
        content: Content,
        size: u64,
    ) -> io::Result<NodeId> {
        let head = self.record(kind, meta, Layout::Plain(0), size, 1)?.len() as u64;
        let placed = content.finish(head, &mut self.image)?;
        self.count -= 1;
        let record = self.record(kind, meta, placed.layout, size, 1)?;
        let inode = self.place(&record, &placed.behind)?;
        self.insert(parent, name, kind, inode)
    }

    fn insert(&mut self, parent: NodeId, name: &[u8], kind: FileType, inode: u32) -> io::Result<NodeId> {
        self.tree.insert(parent, name, kind, inode)?.ok_or_else(|| io::ErrorKind::QuotaExceeded.into())
    }

    fn record(
        &mut self,
        kind: FileType,
        meta: &Metadata,
        layout: Layout,
        size: u64,
        nlink: u32,
    ) -> io::Result<Vec<u8>> {
        self.count += 1;
        inode::encode(kind, meta, layout, size, nlink, self.count).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Sets an inode down where neither its head nor an inline tail crosses a block, and returns its slot.
    fn place(&mut self, record: &[u8], behind: &Behind) -> io::Result<u32> {
        set_down(&mut self.inodes, record, behind)
    }
}

fn set_down<M: Medium>(spool: &mut Spool<M>, record: &[u8], behind: &Behind) -> io::Result<u32> {
    let tail = if let Behind::Tail(tail) = behind { tail.len() as u64 } else { 0 };
    let at = place_for(spool.len(), record.len() as u64, tail);
    spool.append_zeros(at - spool.len())?;
    spool.append(record)?;
    if let Behind::Tail(bytes) | Behind::Map(bytes) = behind {
        spool.append(bytes)?;
    }
    slot(at)
}

/// The first place from `position` on for an inode of `head` bytes and its inline `tail`.
fn place_for(position: u64, head: u64, tail: u64) -> u64 {
    let at = position.next_multiple_of(SLOT);
    let together = if head + tail <= BLOCK { head + tail } else { INODE };
    if at % BLOCK + together > BLOCK { at.next_multiple_of(BLOCK) } else { at }
}

fn slot(at: u64) -> io::Result<u32> {
    u32::try_from(at / SLOT).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Whether the tree's node numbers suffice for this many entries.
pub(crate) const MAX_ENTRIES: u32 = MAX_NODES - 1;
