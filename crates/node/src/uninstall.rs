//! `belljar node uninstall`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::containerd::{ProgramError, find, plan_removal};
use crate::files;
use crate::install::{NodeError, Options, Record, Step, lock};
use crate::layout::Layout;
use crate::payload;

/// What was taken away.
#[derive(Debug, Clone, Serialize)]
pub struct Uninstalled {
    /// Files and folders that are gone or got their former content.
    pub changed: Vec<String>,
    /// Whether containerd was restarted.
    pub restarted: bool,
}

/// Takes away everything that [`install`](crate::install()) put on the node and what pods left there: containerd's handlers first, so
/// that no pod comes while the files go. What a person wrote into the same files stays.
///
/// # Errors
/// [`NodeError`]; pods of ours that run are one, unless `force`.
pub fn uninstall(options: &Options, force: bool, moment: &dyn Fn(Step)) -> Result<Uninstalled, NodeError> {
    let layout = &options.layout;
    let mut changed = Vec::new();
    let had_memory = layout.memory().exists();
    let folders = Record::read(layout)?.map(|record| record.folders).unwrap_or_default();
    let running = shims();
    if running > 0 && !force {
        return Err(NodeError::Pods(running));
    }
    let _lock = lock(layout)?;
    let found = find(&options.containerd_config)?;
    // A node from which containerd was taken away can be cleaned as well.
    let program = match options.program() {
        Err(ProgramError::Missing { .. }) if options.containerd.is_none() => None,
        result => Some(result?),
    };
    let plan = plan_removal(&found, program.as_ref(), &layout.memory().join("candidate"))?;
    changed.extend(plan.edits.iter().map(|edit| edit.path.display().to_string()));
    let mut restarting = options.restarting();
    if program.is_none() {
        restarting.command = None;
    }
    let restarted = restarting.carry_out(&plan, &layout.memory(), &|change| moment(Step::from(change)))?;
    let programs = layout.bin().parent().map(Path::to_owned).unwrap_or_else(|| layout.bin());
    if files::remove_tree(&programs)? {
        changed.push(programs.display().to_string());
    }
    moment(Step::ProgramsGone);
    if payload::remove_shim_config(layout)? {
        changed.push(layout.shim_config().display().to_string());
    }
    moment(Step::ConfigGone);
    for folder in [layout.cache(), layout.run()] {
        if files::remove_tree(&folder)? {
            changed.push(folder.display().to_string());
        }
    }
    // Those that somebody else uses by now stay.
    let empty = || {
        for folder in folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    };
    empty();
    // The record of the installation goes last, so that a removal that was cut off can be finished.
    if files::remove_tree(&layout.data())? && had_memory {
        changed.push(layout.data().display().to_string());
    }
    empty();
    Ok(Uninstalled { changed, restarted })
}

/// Pods that run here: processes whose program is our shim. Their number, as far as this user may look.
fn shims() -> usize {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let programs: Vec<PathBuf> =
        entries.flatten().filter_map(|entry| fs::read_link(entry.path().join("exe")).ok()).collect();
    let ours = Layout::new(Path::new("/")).bin();
    programs.iter().filter(|program| program.starts_with(&ours) && is_shim(program)).count()
}

fn is_shim(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("containerd-shim-belljar"))
}
