//! Bounds on what one layer may make this host write and hold.

/// Bounds of a conversion. The defaults stand in [`Limits::default`]; a layer beyond one is refused by name of the bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of uncompressed tar, and of logical file sizes (holes included), per layer. Default 32 GiB.
    pub uncompressed_bytes: u64,
    /// Most uncompressed bytes for each compressed byte. Default 1000.
    pub ratio: u64,
    /// Uncompressed bytes that are allowed beyond `ratio`. Default 64 MiB.
    pub ratio_allowance: u64,
    /// Most entries per layer, implied directories and replaced entries included. Default 2,000,000; at most 16,000,000.
    pub entries: u32,
    /// Most bytes of extended attributes (names and values) of one entry. Default 64 KiB, which is what Linux can hold.
    pub xattr_bytes: usize,
    /// Most bytes of a path. Default 4096 (`PATH_MAX`).
    pub path_bytes: usize,
    /// Most components of a path. Default 512.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            uncompressed_bytes: 32 << 30,
            ratio: 1000,
            ratio_allowance: 64 << 20,
            entries: 2_000_000,
            xattr_bytes: 64 << 10,
            path_bytes: 4096,
            depth: 512,
        }
    }
}

impl Limits {
    /// The most uncompressed bytes that a layer of `compressed` bytes may have.
    #[must_use]
    pub fn uncompressed_for(&self, compressed: u64) -> u64 {
        compressed.saturating_mul(self.ratio).saturating_add(self.ratio_allowance).min(self.uncompressed_bytes)
    }
}
