//! Carries a plan out: files, restart, and the way back when containerd does not come up.
//!
//! Before the first file changes, its former bytes and the intention are on disk (the journal), so that whoever comes after a crash
//! knows that containerd may still run with the former configuration, and what to go back to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::containerd::cri;
use crate::containerd::plan::{Edit, Plan};
use crate::files::{self, FileError, at};
use crate::process;

const JOURNAL: &str = "journal.json";
const MAX_JOURNAL: u64 = 8 << 20;
/// A try of the CRI call.
const TRY: Duration = Duration::from_secs(5);

/// How containerd is restarted, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarting {
    /// A line for `sh`; `None` leaves the restart to somebody else.
    pub command: Option<String>,
    /// containerd's socket.
    pub socket: PathBuf,
    /// Most time until it answers.
    pub limit: Duration,
}

/// Why containerd does not run with the new configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It did not come up, and does again with the former configuration.
    #[error(
        "containerd did not come up with the new configuration ({why}); the former one is back, and containerd runs with it"
    )]
    RolledBack {
        /// Why.
        why: String,
    },
    /// It came up neither way.
    #[error(
        "containerd did not come up with the new configuration ({why}), and not with the former one either ({again}), which is back; \
         look at `journalctl -u containerd`"
    )]
    Down {
        /// Why not with the new one.
        why: String,
        /// Why not with the former one.
        again: String,
    },
    /// The record of a change that was cut off is damaged.
    #[error("{path} is damaged: {why}; compare containerd's configuration with the files beside it, then remove it")]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    files: Vec<Former>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Former {
    path: PathBuf,
    /// Hexadecimal; `None` when it was not there.
    bytes: Option<String>,
}

/// The moments of a change, for tests that cut it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The journal is written.
    Noted,
    /// The files are written.
    Written,
    /// containerd runs with them.
    Restarted,
}

impl Restarting {
    /// Carries `plan` out. `memory` is a folder for the journal. Returns whether containerd was restarted.
    ///
    /// # Errors
    /// [`RestartError`]. After [`RestartError::RolledBack`] everything is as before.
    pub(crate) fn carry_out(&self, plan: &Plan, memory: &Path, moment: &dyn Fn(Change)) -> Result<bool, RestartError> {
        let path = memory.join(JOURNAL);
        let pending = read(&path)?;
        if plan.edits.is_empty() && pending.is_none() {
            return Ok(false);
        }
        // What an earlier change, that was cut off, had found is what to go back to.
        let mut former = pending.map(|journal| journal.files).unwrap_or_default();
        for edit in &plan.edits {
            if former.iter().all(|file| file.path != edit.path) {
                former.push(Former { path: edit.path.clone(), bytes: edit.before.as_ref().map(hex::encode) });
            }
        }
        let journal = Journal { files: former };
        let text = serde_json::to_vec_pretty(&journal)
            .map_err(|error| RestartError::Journal { path: path.clone(), why: error.to_string() })?;
        files::folder(memory)?;
        files::write(&path, &text, 0o600)?;
        moment(Change::Noted);
        for edit in &plan.edits {
            put(&edit.path, edit.after.as_deref())?;
        }
        moment(Change::Written);
        let Some(command) = &self.command else {
            // Whoever restarts containerd some day takes the responsibility; there is nothing to wait for.
            files::remove(&path)?;
            return Ok(false);
        };
        let result = self.restart(command);
        if let Err(why) = result {
            for file in journal.files {
                let bytes = file.bytes.map(hex::decode).transpose();
                let bytes =
                    bytes.map_err(|error| RestartError::Journal { path: path.clone(), why: error.to_string() })?;
                put(&file.path, bytes.as_deref())?;
            }
            let again = self.restart(command);
            files::remove(&path)?;
            return Err(match again {
                Ok(()) => RestartError::RolledBack { why },
                Err(again) => RestartError::Down { why, again },
            });
        }
        moment(Change::Restarted);
        files::remove(&path)?;
        Ok(true)
    }

    /// Restarts containerd and waits until another process answers.
    fn restart(&self, command: &str) -> Result<(), String> {
        let former =
            cri::version(&self.socket, TRY).ok().map(|runtime| runtime.process).filter(|process| *process != 0);
        let deadline = Instant::now() + self.limit;
        let answer = process::run(Command::new("sh").args(["-c", command]), self.limit)?;
        if !answer.status.success() {
            return Err(format!("`{command}`: {}", answer.complaint()));
        }
        loop {
            let why = match cri::version(&self.socket, TRY) {
                Ok(runtime) if former == Some(runtime.process) => {
                    format!("`{command}` did not restart it: process {} still answers", runtime.process)
                }
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(format!("{why}, after {} s", self.limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Whether a change was cut off.
pub(crate) fn is_pending(memory: &Path) -> bool {
    memory.join(JOURNAL).exists()
}

fn read(path: &Path) -> Result<Option<Journal>, RestartError> {
    let Some(bytes) = files::read(path, MAX_JOURNAL)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| RestartError::Journal { path: path.to_owned(), why: error.to_string() })
}

/// Puts a file into the state that it is to have.
fn put(path: &Path, bytes: Option<&[u8]>) -> Result<(), FileError> {
    match bytes {
        None => files::remove(path),
        Some(bytes) => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(at(folder))?;
            }
            files::write(path, bytes, 0o644)
        }
    }
}

impl Edit {
    /// Whether the file is new.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.before.is_none()
    }
}
