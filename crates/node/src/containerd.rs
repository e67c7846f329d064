//! containerd: its configuration, its program, whether it answers.

mod change;
mod cri;
mod edit;
mod imports;
mod plan;
mod program;

pub(crate) use change::is_pending;
pub use change::{Change, RestartError, Restarting};
pub use cri::{CriError, RuntimeVersion, fuzz, version as cri_version};
pub use edit::{ConfigError, Configuration, Dialect, Naming, Told, told};
pub use plan::{Edit, Found, Place, Plan, PlanError, find, plan_install, plan_removal};
pub use program::{Containerd, ProgramError};
