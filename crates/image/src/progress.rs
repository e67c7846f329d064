//! Telling how far a pull is.

/// Receives the progress of [`crate::Store::ensure`]. Called from several threads; must not block.
pub trait Progress: Send + Sync {
    /// The image has these layers (diff_id and compressed size in bytes), lowest first.
    fn layers(&self, layers: &[(String, u64)]) {
        let _ = layers;
    }

    /// Layer number `index` is in the store already: nothing to do.
    fn cached(&self, index: usize) {
        let _ = index;
    }

    /// `done` of `total` compressed bytes of layer `index` were read and converted.
    fn advance(&self, index: usize, done: u64, total: u64) {
        let _ = (index, done, total);
    }

    /// Layer `index` is in the store.
    fn finished(&self, index: usize) {
        let _ = index;
    }
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
