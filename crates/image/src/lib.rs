//! OCI images for pod VMs: pulled or imported once, each layer a read-only erofs image with an appended dm-verity tree, in a store that all
//! pods of the host share.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use belljar_image::{PullPolicy, Reference, Silent, Store};
//!
//! let store = Store::open("/var/lib/belljar/images".as_ref())?;
//! let reference: Reference = "127.0.0.1:5000/scorer:v1".parse()?;
//! let image = store.ensure(&reference, PullPolicy::Missing, &Silent).await?;
//! for layer in &image.layers {
//!     println!("{} {}", layer.path.display(), layer.data_blocks);
//! }
//! # Ok(()) }
//! ```
//!
//! * [`Reference`]: names of images. [`Store::ensure`]: from a name to layer files. [`Progress`]: how far it is.
//! * [`convert`]: one layer tar to one image file; [`Limits`] bound it. [`verity`]: the tree. [`tar`]: the reader.
//! * [`pack`] and [`push`]: the other direction, for demos and tests.
//!
//! Nothing here is trusted by a guest: it gets the root hashes from the pod contract. What is checked here (digests, sizes, bounds) protects
//! this host and gives early, clear errors. Formats: `docs/layers.md`.

#![forbid(unsafe_code)]

pub mod convert;
mod credentials;
mod erofs;
mod error;
mod layer;
mod layout;
mod limits;
mod manifest;
mod pack;
mod progress;
mod push;
mod record;
mod reference;
mod registry;
mod source;
mod store;
pub mod tar;
pub mod verity;

pub use convert::sha256_of;
pub use error::ImageError;
pub use layer::LayerError;
pub use limits::Limits;
pub use manifest::fuzz as fuzz_documents;
pub use pack::{PackConfig, PackContent, PackEntry, PackError, archive, pack};
pub use progress::{Progress, Silent};
pub use push::push;
pub use reference::{Reference, ReferenceError};
pub use store::{Image, LayerImage, PullPolicy, Store};
