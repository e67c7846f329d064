//! Child processes of PID 1: the agent's own are waited for by name, orphans of containers are reaped.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Exit status of a process as a shell has it: 0 to 255, or 128 and the signal that ended it.
pub type ExitCode = u32;

/// The one place that calls `wait`.
#[derive(Debug, Default)]
pub struct Reaper {
    watched: Mutex<HashMap<i32, watch::Sender<Option<ExitCode>>>>,
}

impl Reaper {
    /// Runs `spawn`, which starts a process, while no child is reaped, so that not even a short-lived process escapes.
    /// `spawn` may wait for helper processes of its own. Gives its result and a receiver of the exit status.
    pub fn adopt<T, E>(
        &self,
        spawn: impl FnOnce() -> Result<T, E>,
        pid: impl FnOnce(&T) -> Pid,
    ) -> Result<(T, watch::Receiver<Option<ExitCode>>), E> {
        let mut watched = self.watched();
        let started = spawn()?;
        let sender = watch::Sender::new(None);
        let receiver = sender.subscribe();
        watched.insert(pid(&started).as_raw_pid(), sender);
        Ok((started, receiver))
    }

    /// Reaps for ever, woken by `SIGCHLD`.
    pub async fn run(&self) -> std::io::Result<()> {
        let mut signals = signal(SignalKind::child())?;
        loop {
            self.collect();
            if signals.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    /// Reaps every child that has ended.
    pub fn collect(&self) {
        let mut watched = self.watched();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(sender) = watched.remove(&pid.as_raw_pid()) {
                sender.send_replace(Some(shell_status(status)));
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<Option<ExitCode>>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shell_status(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u32::try_from(code).ok()).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn outcome(reaper: &Reaper, script: &str) -> ExitCode {
        let pid = |child: &std::process::Child| Pid::from_child(child);
        let (_child, exit) = reaper.adopt(|| Command::new("sh").args(["-c", script]).spawn(), pid).unwrap();
        loop {
            reaper.collect();
            if let Some(code) = *exit.borrow() {
                return code;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn statuses_are_those_of_a_shell() {
        let reaper = Reaper::default();
        assert_eq!(outcome(&reaper, "exit 0"), 0);
        assert_eq!(outcome(&reaper, "exit 7"), 7);
        assert_eq!(outcome(&reaper, "kill -TERM $$"), 143);
        assert!(reaper.watched().is_empty());
    }
}
