//! What Belljar puts on a Kubernetes node, and how it is taken away again.
//!
//! [`install`] puts programs and guest image in place, tells containerd of the handlers, and restarts it only when its configuration
//! changed; when containerd does not come up, the former file is put back. [`uninstall`] undoes all of it. [`status`] looks and
//! changes nothing. The order of the steps is such that a crash after any of them leaves a node that works: a file is there before
//! anything names it, and is named by nothing when it goes.
//!
//! [`containerd`] reads and edits containerd's configuration as text, so that what a person wrote stays as it was.

#![forbid(unsafe_code)]

pub mod containerd;
mod facts;
mod files;
mod handlers;
mod install;
mod layout;
mod payload;
mod process;
mod status;
mod uninstall;

pub use facts::{Facts, Tee};
pub use files::FileError;
pub use handlers::{ANNOTATIONS, HANDLERS, Handler};
pub use install::{Installed, NodeError, Options, Restart, Step, install};
pub use layout::Layout;
pub use payload::{PayloadError, Source};
pub use status::{Handlers, State, Status, label_patch, status, unlabel_patch};
pub use uninstall::{Uninstalled, uninstall};
