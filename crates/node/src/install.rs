//! `belljar node install`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::containerd::{
    Change, Containerd, Place, PlanError, ProgramError, RestartError, Restarting, find, plan_install,
};
use crate::facts::{Facts, Tee};
use crate::files::{self, FileError, at};
use crate::layout::Layout;
use crate::payload::{self, PayloadError, ShimConfig, Source};

/// This release.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const RECORD: &str = "installed.json";

/// What the node's administrator chose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the node's file system is seen.
    pub layout: Layout,
    /// containerd's configuration.
    pub containerd_config: PathBuf,
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// containerd's program, when it is not in a usual folder.
    pub containerd: Option<PathBuf>,
    /// How to restart containerd.
    pub restart: Restart,
    /// Most time until containerd answers again.
    pub limit: Duration,
    /// Whether pods may run in the software TEE.
    pub software: bool,
    /// Broker of pods that name none.
    pub broker: Option<String>,
    /// QEMU on the node, where it is not the one in `PATH`.
    pub qemu: Option<PathBuf>,
}

/// How containerd is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restart {
    /// By a line for `sh`.
    Command(String),
    /// Not at all: somebody else does it.
    Never,
}

impl Options {
    /// The usual ones, for the node seen at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let layout = Layout::new(root);
        Self {
            containerd_config: layout.containerd_config(),
            containerd_socket: layout.containerd_socket(),
            containerd: None,
            restart: Restart::Command("systemctl restart containerd".to_owned()),
            limit: Duration::from_secs(60),
            software: false,
            broker: None,
            qemu: None,
            layout,
        }
    }

    pub(crate) fn restarting(&self) -> Restarting {
        let command = match &self.restart {
            Restart::Command(command) => Some(command.clone()),
            Restart::Never => None,
        };
        Restarting { command, socket: self.containerd_socket.clone(), limit: self.limit }
    }

    pub(crate) fn program(&self) -> Result<Containerd, ProgramError> {
        Containerd::find(&self.layout, self.containerd.as_deref())
    }
}

/// A moment of an installation or of its removal; tests cut it off there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// `belljar` and the shim are there.
    Programs,
    /// The shim's other names are there.
    Links,
    /// The guest image is there.
    Guest,
    /// The shim's configuration is there.
    ShimConfig,
    /// The record of the installation is written.
    Recorded,
    /// The change of containerd's configuration is noted.
    Noted,
    /// containerd's configuration is written.
    Written,
    /// containerd runs with it.
    Restarted,
    /// The programs are gone.
    ProgramsGone,
    /// The shim's configuration is gone.
    ConfigGone,
}

impl From<Change> for Step {
    fn from(change: Change) -> Self {
        match change {
            Change::Noted => Self::Noted,
            Change::Written => Self::Written,
            Change::Restarted => Self::Restarted,
        }
    }
}

/// Why a node was not prepared, or not cleaned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Programs or guest image.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The doctor gives no answer.
    #[error("the node cannot be examined: {0}")]
    Examine(String),
    /// No pod can run here, whatever the TEE.
    #[error("no pod can run on this node: {what}; containerd was left as it is; next: {next}")]
    Blocked {
        /// What is missing.
        what: String,
        /// The next step.
        next: String,
    },
    /// containerd's program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// containerd's configuration.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// containerd's restart.
    #[error(transparent)]
    Restart(#[from] RestartError),
    /// Pods of ours run.
    #[error(
        "{0} pods of belljar run on this node; drain it first (kubectl drain), or take --force, which leaves them without a runtime"
    )]
    Pods(usize),
    /// Another installer is at work.
    #[error("another `belljar node` is at work on this node; wait for it")]
    Busy,
}

/// What an installation did.
#[derive(Debug, Clone, Serialize)]
pub struct Installed {
    /// Files that changed, containerd's included; empty when everything was there.
    pub changed: Vec<String>,
    /// Whether containerd was restarted.
    pub restarted: bool,
    /// containerd's version; `None` where containerd was not touched, because no pod could run.
    pub containerd: Option<String>,
    /// The file that has the handlers.
    pub handlers_in: Option<PathBuf>,
    /// What kind of file.
    pub place: Option<Place>,
    /// The TEE of this node's pods.
    pub tee: Tee,
    /// Whether VMs run on the CPU.
    pub kvm: bool,
    /// QEMU's version.
    pub qemu: Option<String>,
    /// Why there is no hardware TEE, and the next step.
    pub no_hardware: Option<(String, String)>,
}

/// What is remembered about an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The release.
    pub version: String,
    /// Folders that were made and are to go, the topmost first.
    pub folders: Vec<PathBuf>,
}

impl Record {
    pub(crate) fn read(layout: &Layout) -> Result<Option<Self>, FileError> {
        let path = layout.memory().join(RECORD);
        let Some(bytes) = files::read(&path, 1 << 20)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| at(&path)(error.into()))
    }

    fn write(&self, layout: &Layout) -> Result<(), FileError> {
        let path = layout.memory().join(RECORD);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| at(&path)(error.into()))?;
        files::write(&path, &bytes, 0o644)
    }
}

/// Keeps a second installer away until it is dropped.
pub(crate) fn lock(layout: &Layout) -> Result<File, NodeError> {
    let folder = layout.memory();
    files::folder(&folder)?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(NodeError::Busy),
        Err(std::fs::TryLockError::Error(error)) => Err(at(&path)(error).into()),
    }
}

/// Prepares the node. What is there already stays untouched; containerd is restarted only when its configuration changed, or when a
/// change that was cut off had not got so far. `moment` is called after each step.
///
/// # Errors
/// [`NodeError`]. Whatever the error, containerd's configuration is the former one, or the new one and complete.
pub fn install(options: &Options, source: &Source, moment: &dyn Fn(Step)) -> Result<Installed, NodeError> {
    let layout = &options.layout;
    let config_folder = options.containerd_config.parent().map(Path::to_owned);
    let wanted = [
        Some(layout.bin()),
        layout.shim_config().parent().map(Path::to_owned),
        config_folder.clone(),
        Some(layout.memory()),
    ];
    // The record comes first, so that what a killed installer leaves can be taken away.
    let mut folders: Vec<PathBuf> = Record::read(layout)?.map(|record| record.folders).unwrap_or_default();
    for folder in wanted.into_iter().flatten().filter(|folder| Some(folder) != config_folder.as_ref()) {
        folders.extend(files::folder(&folder)?);
    }
    if let Some(folder) = config_folder {
        folders.extend(
            folder.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect::<Vec<_>>().into_iter().rev(),
        );
    }
    let _lock = lock(layout)?;
    Record { version: VERSION.to_owned(), folders }.write(layout)?;
    moment(Step::Recorded);

    let containerd = options.program();
    let content = containerd.as_ref().ok().and_then(|containerd| containerd.content_store(&options.containerd_config));
    let shim =
        ShimConfig { software: options.software, broker: options.broker.clone(), content, qemu: options.qemu.clone() };
    let mut changed = payload::place(layout, source, &shim, moment)?;
    let told = payload::told(layout)?;
    let facts = Facts::of(layout, told.qemu.as_deref()).map_err(NodeError::Examine)?;
    if let Some((what, next)) = facts.blocked {
        return Err(NodeError::Blocked { what, next });
    }
    let tee = match facts.hardware {
        Tee::None if told.software => Tee::Software,
        tee => tee,
    };
    let mut installed = Installed {
        changed: Vec::new(),
        restarted: false,
        containerd: None,
        handlers_in: None,
        place: None,
        tee,
        kvm: facts.kvm,
        qemu: facts.qemu,
        no_hardware: facts.no_hardware,
    };
    if tee != Tee::None {
        let containerd = containerd?;
        let found = find(&options.containerd_config)?;
        let plan = plan_install(&found, &containerd, &layout.memory().join("candidate"))?;
        changed.extend(plan.edits.iter().map(|edit| edit.path.display().to_string()));
        installed.restarted =
            options.restarting().carry_out(&plan, &layout.memory(), &|change| moment(Step::from(change)))?;
        installed.containerd = Some(containerd.version);
        installed.handlers_in = Some(plan.file);
        installed.place = Some(plan.place);
    }
    installed.changed = changed;
    Ok(installed)
}
