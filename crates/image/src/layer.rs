//! From the entries of a layer's tar to the tree of an image, as the OCI image specification ("Image Layer Filesystem Changeset") says.
//!
//! | in the tar | in the image |
//! |---|---|
//! | `.wh.NAME` | character device 0:0 named NAME: an overlayfs whiteout |
//! | `.wh..wh..opq` | `trusted.overlay.opaque` = `y` on the directory |
//! | `.wh..wh.*` else | nothing (bookkeeping of aufs) |
//! | the same path twice | the last one; two directories keep their children |
//! | NAME and `.wh.NAME` | NAME; a directory becomes opaque, since what is below it is gone |
//! | a directory in place of a file | opaque as well |
//! | a parent that is missing | a directory, mode 0755, root, 1970 |
//! | a parent that is a symbolic link in this layer | the directory it leads to, resolved inside the root |
//!
//! A layer cannot forge overlayfs' own marks: a plain device 0:0 and attributes of `trusted.overlay.` and `user.overlay.` are refused.
//! Attributes outside the namespaces of Linux (`com.apple.…`) are dropped with a warning, as every unpacker on Linux must.

use std::io::{self, Read};

use crate::erofs::{self, Builder, FileType, Medium, Metadata, NodeId, ROOT};
use crate::limits::Limits;
use crate::tar::{Entry, Kind, Piece, TarError, TarReader};

/// Most symbolic links that are followed for one path, as in Linux.
const MAX_LINKS: usize = 40;
const MAX_NAME: usize = 255;
const MAX_TARGET: usize = 4095;

/// Why the content of a layer was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The tar stream is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The image could not be written.
    #[error("cannot write the layer image: {0}")]
    Write(#[source] io::Error),
    /// A path or a hard link leaves the root of the layer.
    #[error("the layer climbs out of its root: {path:?} {how}; do not use this image")]
    Climbs {
        /// Path of the entry, lossily decoded.
        path: String,
        /// What leads out.
        how: &'static str,
    },
    /// A path breaks a bound or has a NUL byte.
    #[error("layer entry {path:?} has a bad path: {why}")]
    Path {
        /// Path of the entry, lossily decoded, cut at 256 bytes.
        path: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// An entry lies below something that is not a directory.
    #[error("layer entry {path:?} lies below {parent:?}, which is not a directory")]
    NotADirectory {
        /// Path of the entry.
        path: String,
        /// The component that is not a directory.
        parent: String,
    },
    /// A hard link's target is not in the layer, or is a directory or a whiteout.
    #[error("layer entry {path:?} is a hard link to {target:?}, which the layer does not have as a file")]
    HardLink {
        /// Path of the entry.
        path: String,
        /// The target.
        target: String,
    },
    /// Something that only overlayfs itself may write.
    #[error("layer entry {path:?} forges a mark of overlayfs ({what}); use `.wh.` files for whiteouts")]
    Forged {
        /// Path of the entry.
        path: String,
        /// The device or attribute.
        what: String,
    },
    /// More extended attributes than allowed.
    #[error("layer entry {path:?} has {found} bytes of extended attributes, more than the {limit} allowed")]
    Xattrs {
        /// Path of the entry.
        path: String,
        /// Bytes of names and values.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// A device number that the format cannot hold.
    #[error("layer entry {path:?} has device number {major}:{minor}, beyond 4095:1048575")]
    Device {
        /// Path of the entry.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// More entries than allowed.
    #[error("the layer has more than {limit} entries; raise the limit if you trust the image")]
    TooManyEntries {
        /// The bound.
        limit: u32,
    },
    /// Logical file sizes exceed the bound.
    #[error("the layer's files claim more than {limit} bytes; raise the limit if you trust the image")]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
}

/// Reads all of `tar` into `builder`.
///
/// # Errors
/// [`LayerError`]; the builder is then worthless.
pub(crate) fn read<R: Read, M: Medium>(
    tar: &mut TarReader<R>,
    builder: &mut Builder<M>,
    limits: &Limits,
) -> Result<(), LayerError> {
    let entries = limits.entries.min(erofs::MAX_ENTRIES);
    let mut apply = Apply { builder, limits, logical: 0, entries };
    while let Some(entry) = tar.next_entry()? {
        apply.entry(tar, &entry)?;
    }
    Ok(())
}

struct Apply<'a, M> {
    builder: &'a mut Builder<M>,
    limits: &'a Limits,
    /// Sum of logical file sizes.
    logical: u64,
    entries: u32,
}

impl<M: Medium> Apply<'_, M> {
    fn entry<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry) -> Result<(), LayerError> {
        let shown = || show(&entry.path);
        if self.builder.entries() >= self.entries {
            return Err(LayerError::TooManyEntries { limit: self.entries });
        }
        let components = self.components(&entry.path, &entry.path)?;
        let Some((name, parents)) = components.split_last() else {
            return self.root(entry);
        };
        if parents.iter().any(|part| part.starts_with(b".wh..wh.")) {
            return Ok(());
        }
        if parents.iter().any(|part| part.starts_with(b".wh.")) {
            return Err(LayerError::Path { path: shown(), why: "lies below a whiteout" });
        }
        let parent = self
            .walk(parents, true, &entry.path)?
            .ok_or_else(|| LayerError::NotADirectory { path: shown(), parent: shown() })?;
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parent, hidden, entry);
        }
        let existing = self.builder.find(parent, name).map_err(LayerError::Write)?;
        if let Kind::HardLink = entry.kind {
            return self.hard_link(parent, name, existing, entry);
        }
        let meta = self.metadata(entry)?;
        match entry.kind {
            Kind::Directory => {
                let same = existing.filter(|id| self.builder.kind(*id) == FileType::Directory);
                match same {
                    Some(id) => self.builder.update_directory(id, &meta),
                    None => self.builder.directory(parent, name, &meta).map(|id| {
                        // What a file or whiteout hid below this name must not come back.
                        if existing.is_some() {
                            self.builder.set_opaque(id);
                        }
                    }),
                }
                .map_err(LayerError::Write)
            }
            Kind::File => self.file(tar, parent, name, entry, &meta),
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > MAX_TARGET || entry.link.contains(&0) {
                    return Err(LayerError::Path {
                        path: shown(),
                        why: "its link target is empty, too long or has a NUL",
                    });
                }
                self.builder.symlink(parent, name, &meta, &entry.link).map(drop).map_err(LayerError::Write)
            }
            Kind::Fifo => {
                self.builder.device(parent, name, &meta, FileType::Fifo, (0, 0)).map(drop).map_err(LayerError::Write)
            }
            Kind::Char(0, 0) => Err(LayerError::Forged { path: shown(), what: "character device 0:0".to_owned() }),
            Kind::Char(major, minor) => self.device(parent, name, &meta, FileType::Char, (major, minor), entry),
            Kind::Block(major, minor) => self.device(parent, name, &meta, FileType::Block, (major, minor), entry),
            Kind::HardLink => Ok(()),
        }
    }

    /// The root itself may only be a directory.
    fn root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != Kind::Directory {
            return Err(LayerError::Path { path: show(&entry.path), why: "the root must be a directory" });
        }
        let meta = self.metadata(entry)?;
        self.builder.update_directory(ROOT, &meta).map_err(LayerError::Write)
    }

    fn whiteout(&mut self, parent: NodeId, hidden: &[u8], entry: &Entry) -> Result<(), LayerError> {
        if hidden == b".wh..opq" {
            self.builder.set_opaque(parent);
            return Ok(());
        }
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::Path { path: show(&entry.path), why: "a whiteout must name a file" });
        }
        match self.builder.find(parent, hidden).map_err(LayerError::Write)? {
            Some(id) if self.builder.kind(id) == FileType::Directory => self.builder.set_opaque(id),
            Some(_) => {}
            None => self.builder.whiteout(parent, hidden, entry.mtime).map_err(LayerError::Write)?,
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        existing: Option<NodeId>,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let missing = || LayerError::HardLink { path: show(&entry.path), target: show(&entry.link) };
        let components = self.components(&entry.link, &entry.path)?;
        let (last, parents) = components.split_last().ok_or_else(missing)?;
        let target = match self.walk(parents, false, &entry.path)? {
            Some(directory) => self.builder.find(directory, last).map_err(LayerError::Write)?,
            None => None,
        };
        let target = target.filter(|id| !self.builder.is_whiteout(*id)).ok_or_else(missing)?;
        if self.builder.kind(target) == FileType::Directory {
            return Err(missing());
        }
        if existing != Some(target) {
            self.builder.hard_link(parent, name, target).map_err(LayerError::Write)?;
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        parent: NodeId,
        name: &[u8],
        entry: &Entry,
        meta: &Metadata,
    ) -> Result<(), LayerError> {
        self.logical = self.logical.saturating_add(entry.size);
        if self.logical > self.limits.uncompressed_bytes {
            return Err(LayerError::TooLarge { limit: self.limits.uncompressed_bytes });
        }
        let mut content = self.builder.content(entry.size).map_err(LayerError::Write)?;
        tar.content(entry, |piece| {
            match piece {
                Piece::Data(bytes) => self.builder.data(&mut content, bytes),
                Piece::Hole(count) => self.builder.hole(&mut content, count),
            }
            .map_err(LayerError::Write)
        })?;
        self.builder.file(parent, name, meta, content, entry.size).map(drop).map_err(LayerError::Write)
    }

    fn device(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: &Metadata,
        kind: FileType,
        (major, minor): (u32, u32),
        entry: &Entry,
    ) -> Result<(), LayerError> {
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(LayerError::Device { path: show(&entry.path), major, minor });
        }
        self.builder.device(parent, name, meta, kind, (major, minor)).map(drop).map_err(LayerError::Write)
    }

    fn metadata(&self, entry: &Entry) -> Result<Metadata, LayerError> {
        let mut xattrs = entry.xattrs.clone();
        for name in entry.xattrs.keys() {
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                return Err(LayerError::Forged { path: show(&entry.path), what: show(name) });
            }
            if !erofs::xattr_is_storable(name) {
                tracing::warn!(
                    path = show(&entry.path),
                    name = show(name),
                    "attribute dropped: Linux has no such namespace"
                );
                xattrs.remove(name);
            }
        }
        let found = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let limit = self.limits.xattr_bytes;
        if found > limit || xattrs.values().any(|value| value.len() > usize::from(u16::MAX)) {
            return Err(LayerError::Xattrs { path: show(&entry.path), found, limit });
        }
        Ok(Metadata { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs })
    }

    /// The components of a stored path, without empty ones and `.`. `..` is refused: no packer writes it, and it climbs.
    fn components<'p>(&self, path: &'p [u8], entry: &[u8]) -> Result<Vec<&'p [u8]>, LayerError> {
        let bad = |why| LayerError::Path { path: show(entry), why };
        if path.len() > self.limits.path_bytes {
            return Err(bad("longer than the bound on paths"));
        }
        if path.contains(&0) {
            return Err(bad("has a NUL byte"));
        }
        let components: Vec<&[u8]> =
            path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if components.contains(&&b".."[..]) {
            return Err(LayerError::Climbs { path: show(entry), how: "has a `..` in its path or link target" });
        }
        if components.iter().any(|part| part.len() > MAX_NAME) {
            return Err(bad("has a name longer than 255 bytes"));
        }
        if components.len() > self.limits.depth {
            return Err(bad("has more components than the bound on depth"));
        }
        Ok(components)
    }

    /// The directory at `components`, following symbolic links of this layer inside its root. Missing directories are made when
    /// `make` is set, else give `None`.
    fn walk(&mut self, components: &[&[u8]], make: bool, entry: &[u8]) -> Result<Option<NodeId>, LayerError> {
        let mut todo: Vec<Vec<u8>> = components.iter().rev().map(|part| part.to_vec()).collect();
        let mut at = ROOT;
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                if at == ROOT {
                    return Err(LayerError::Climbs {
                        path: show(entry),
                        how: "lies below a symbolic link to above the root",
                    });
                }
                at = self.builder.parent(at);
                continue;
            }
            let found = self.builder.find(at, &part).map_err(LayerError::Write)?;
            match found.map(|id| (id, self.builder.kind(id), self.builder.is_whiteout(id))) {
                Some((id, FileType::Directory, _)) => at = id,
                Some((id, FileType::Symlink, _)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(LayerError::Path { path: show(entry), why: "lies below too many symbolic links" });
                    }
                    let target = self.builder.read_link(id).map_err(LayerError::Write)?;
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    let parts = target.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
                    todo.extend(parts.rev().map(<[u8]>::to_vec));
                    if todo.len() > self.limits.path_bytes || todo.iter().any(|part| part.len() > MAX_NAME) {
                        return Err(LayerError::Path {
                            path: show(entry),
                            why: "lies below a symbolic link with a bad target",
                        });
                    }
                }
                Some((_, _, whiteout)) if !(whiteout && make) => {
                    return Err(LayerError::NotADirectory { path: show(entry), parent: show(&part) });
                }
                None if !make => return Ok(None),
                missing => {
                    if self.builder.entries() >= self.entries {
                        return Err(LayerError::TooManyEntries { limit: self.entries });
                    }
                    let meta = Metadata { mode: 0o755, ..Metadata::default() };
                    at = self.builder.directory(at, &part, &meta).map_err(LayerError::Write)?;
                    if missing.is_some() {
                        self.builder.set_opaque(at);
                    }
                }
            }
        }
        Ok(Some(at))
    }
}

/// A path for an error message.
fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..256).unwrap_or(path)).into_owned()
}
