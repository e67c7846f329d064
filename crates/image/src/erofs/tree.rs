//! The names of an image: nodes of 12 bytes, a hash table of 4 bytes a slot, and the names themselves in a spool. Two million
//! entries fit in about 50 MB.

use std::hash::{BuildHasher, RandomState};
use std::io;

use super::inode::FileType;
use super::spool::{Medium, Spool};

/// Index of a node. The root is 0; a parent's index is below its children's.
pub(crate) type NodeId = u32;

/// The root directory.
pub(crate) const ROOT: NodeId = 0;
/// Longest name in bytes.
const MAX_NAME: u64 = 255;
/// Node numbers use 24 bits.
pub(crate) const MAX_NODES: u32 = (1 << 24) - 1;

const ID_MASK: u32 = MAX_NODES;
const KIND_SHIFT: u32 = 24;
const KIND_MASK: u32 = 7 << KIND_SHIFT;
const WHITEOUT: u32 = 1 << 27;
const OPAQUE: u32 = 1 << 28;
const DEAD: u32 = 1 << 29;
const EMPTY: u32 = u32::MAX;

/// `packed`: parent (24 bits), type (3), flags (3). `inode`: a file's slot in the inode spool, a directory's in the drafts.
#[derive(Debug, Clone, Copy)]
struct Node {
    packed: u32,
    name: u32,
    inode: u32,
}

#[derive(Debug)]
pub(crate) struct Tree<M> {
    nodes: Vec<Node>,
    names: Spool<M>,
    /// Open addressing: 8 bits of the name's hash and a node number, or [`EMPTY`].
    table: Vec<u32>,
    hasher: RandomState,
}

impl<M: Medium> Tree<M> {
    /// A tree of a root directory.
    pub(crate) fn new(names: M) -> Self {
        let root = Node { packed: (FileType::Directory as u32) << KIND_SHIFT, name: 0, inode: 0 };
        Self {
            nodes: vec![root],
            names: Spool::new(names, 64 * 1024),
            table: vec![EMPTY; 1024],
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// The live node `name` in `parent`.
    pub(crate) fn find(&self, parent: NodeId, name: &[u8]) -> io::Result<Option<NodeId>> {
        let hash = self.hash(parent, name);
        Ok(self.probe(parent, name, hash)?.1)
    }

    /// Adds `name` to `parent`, replacing a node of that name, which dies with all below it. `None` when the tree is full.
    pub(crate) fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: FileType,
        inode: u32,
    ) -> io::Result<Option<NodeId>> {
        let id = self.len();
        let (Ok(offset), Ok(len)) = (u32::try_from(self.names.len()), u8::try_from(name.len())) else {
            return Ok(None);
        };
        if id >= MAX_NODES {
            return Ok(None);
        }
        if self.nodes.len() * 4 > self.table.len() * 3 {
            self.grow()?;
        }
        self.names.append(&[len])?;
        self.names.append(name)?;
        self.nodes.push(Node { packed: parent | (kind as u32) << KIND_SHIFT, name: offset, inode });
        let hash = self.hash(parent, name);
        let (slot, old) = self.probe(parent, name, hash)?;
        if let Some(old) = old {
            self.node_mut(old).packed |= DEAD;
        }
        self.set_slot(slot, tag(hash) | id);
        Ok(Some(id))
    }

    pub(crate) fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).packed & ID_MASK
    }

    pub(crate) fn kind(&self, id: NodeId) -> FileType {
        let raw = u8::try_from((self.node(id).packed & KIND_MASK) >> KIND_SHIFT).unwrap_or(0);
        FileType::from_raw(raw).unwrap_or(FileType::Regular)
    }

    pub(crate) fn inode(&self, id: NodeId) -> u32 {
        self.node(id).inode
    }

    pub(crate) fn set_inode(&mut self, id: NodeId, inode: u32) {
        self.node_mut(id).inode = inode;
    }

    pub(crate) fn is_whiteout(&self, id: NodeId) -> bool {
        self.node(id).packed & WHITEOUT != 0
    }

    pub(crate) fn set_whiteout(&mut self, id: NodeId) {
        self.node_mut(id).packed |= WHITEOUT;
    }

    pub(crate) fn is_opaque(&self, id: NodeId) -> bool {
        self.node(id).packed & OPAQUE != 0
    }

    pub(crate) fn set_opaque(&mut self, id: NodeId) {
        self.node_mut(id).packed |= OPAQUE;
    }

    pub(crate) fn is_dead(&self, id: NodeId) -> bool {
        self.node(id).packed & DEAD != 0
    }

    /// Marks every node below a dead one dead, and gives up finding and inserting.
    pub(crate) fn bury(&mut self) {
        self.table = Vec::new();
        for id in 1..self.len() {
            if self.is_dead(self.parent(id)) {
                self.node_mut(id).packed |= DEAD;
            }
        }
    }

    /// Live nodes but the root, by parent, then by name in byte order.
    pub(crate) fn sorted(&self) -> io::Result<Vec<NodeId>> {
        let mut order: Vec<NodeId> = (1..self.len()).filter(|id| !self.is_dead(*id)).collect();
        order.sort_unstable_by_key(|id| self.parent(*id));
        let mut rest = order.as_mut_slice();
        while let Some(first) = rest.first() {
            let parent = self.parent(*first);
            let end = rest.partition_point(|id| self.parent(*id) <= parent);
            let (group, next) = std::mem::take(&mut rest).split_at_mut(end);
            self.sort_group(group)?;
            rest = next;
        }
        Ok(order)
    }

    /// Puts the name of `id` into `target`.
    pub(crate) fn name(&self, id: NodeId, target: &mut Vec<u8>) -> io::Result<()> {
        // Length and name in one read, at the cost of reading what follows, too.
        let offset = u64::from(self.node(id).name);
        let there = self.names.len().saturating_sub(offset).min(1 + MAX_NAME);
        target.clear();
        target.resize(usize::try_from(there).unwrap_or(0), 0);
        self.names.read_at(target, offset)?;
        let len = target.first().copied().map_or(0, usize::from);
        if !target.is_empty() {
            target.copy_within(1.., 0);
        }
        target.truncate(len);
        Ok(())
    }

    /// Sorts in memory, or for a directory too large for that, by reading names on every comparison.
    fn sort_group(&self, group: &mut [NodeId]) -> io::Result<()> {
        const IN_MEMORY: usize = 50_000;
        if group.len() <= IN_MEMORY {
            let mut named = Vec::with_capacity(group.len());
            for id in group.iter() {
                let mut name = Vec::new();
                self.name(*id, &mut name)?;
                named.push((name, *id));
            }
            named.sort_unstable();
            for (place, (_, id)) in group.iter_mut().zip(named) {
                *place = id;
            }
            return Ok(());
        }
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut failure = None;
        group.sort_unstable_by(|a, b| {
            match self.name(*a, &mut left).and_then(|()| self.name(*b, &mut right)) {
                Ok(()) => left.cmp(&right),
                // An order is still needed; the failure is returned below.
                Err(error) => {
                    failure.get_or_insert(error);
                    a.cmp(b)
                }
            }
        });
        failure.map_or(Ok(()), Err)
    }

    /// The slot for (parent, name), and the node there, if any.
    fn probe(&self, parent: NodeId, name: &[u8], hash: u64) -> io::Result<(usize, Option<NodeId>)> {
        let mask = self.table.len() - 1;
        let mut slot = usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & mask;
        let mut found = Vec::new();
        loop {
            let entry = self.table.get(slot).copied().unwrap_or(EMPTY);
            if entry == EMPTY {
                return Ok((slot, None));
            }
            let id = entry & ID_MASK;
            if entry & !ID_MASK == tag(hash) && self.parent(id) == parent {
                self.name(id, &mut found)?;
                if found == name {
                    return Ok((slot, Some(id)));
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self) -> io::Result<()> {
        let old = std::mem::take(&mut self.table);
        self.table = vec![EMPTY; old.len() * 2];
        let mask = self.table.len() - 1;
        let mut name = Vec::new();
        for entry in old.into_iter().filter(|entry| *entry != EMPTY) {
            let id = entry & ID_MASK;
            self.name(id, &mut name)?;
            let mut slot = usize::try_from(self.hash(self.parent(id), &name) & 0xffff_ffff).unwrap_or(0) & mask;
            while self.table.get(slot).is_some_and(|entry| *entry != EMPTY) {
                slot = (slot + 1) & mask;
            }
            self.set_slot(slot, entry);
        }
        Ok(())
    }

    fn set_slot(&mut self, slot: usize, entry: u32) {
        if let Some(place) = self.table.get_mut(slot) {
            *place = entry;
        }
    }

    fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    fn node(&self, id: NodeId) -> Node {
        // Ids come from this tree only; a dead node stands in for what cannot happen.
        self.nodes.get(id as usize).copied().unwrap_or(Node { packed: DEAD, name: 0, inode: 0 })
    }

    #[allow(clippy::indexing_slicing, reason = "ids come from this tree only, which never shrinks")]
    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }
}

/// The top 8 bits of a hash, in the place beside a node number. All ones together with all id bits would be [`EMPTY`], which
/// [`MAX_NODES`] excludes.
fn tag(hash: u64) -> u32 {
    u32::try_from(hash >> 56).unwrap_or(0) << KIND_SHIFT
}
