//! `belljar probe memory`: can this host read a running pod?

use belljar_guest_api::canary::{PRIVATE, SHARED, canary};
use belljar_vmm::control::{Request, Session};
use belljar_vmm::probe::{Verdict, search};
use belljar_vmm::{Pod, Pods, RunDirError};
use clap::Subcommand;

use crate::failure::{Exit, Failure};
use crate::output::{Format, json};

/// Copies of the private canary in the guest.
const COPIES: u32 = 16;

/// Look from the host into a running pod.
#[derive(Debug, Subcommand)]
pub enum Probe {
    /// Put a fresh canary into a pod VM's private memory, and search QEMU's memory for it
    #[command(
        after_help = "Exit codes: 0 the memory is encrypted · 1 this host can read the pod · 3 the probe failed.\nExample: belljar probe memory vault"
    )]
    Memory {
        /// The pod's name or id
        pod: String,
    },
}

impl Probe {
    /// Carries the verb out.
    pub fn execute(self, format: Format) -> Result<i32, Failure> {
        let Self::Memory { pod } = self;
        let pods = Pods::of_user().map_err(Failure::undecided)?;
        let found = find(&pods, &pod)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::undecided(format!("cannot start: {e}")))?;
        runtime.block_on(memory(&pods, &found, format))
    }
}

fn find(pods: &Pods, wanted: &str) -> Result<Pod, Failure> {
    pods.find(wanted).map_err(|error| match error {
        RunDirError::NotFound { .. } => {
            let running: Vec<String> = pods.list().unwrap_or_default().into_iter().map(|pod| pod.name).collect();
            let running = if running.is_empty() { "none is running".to_owned() } else { running.join(", ") };
            Failure::usage(format!("no running pod is called {wanted:?}")).hint(format!("running: {running}"))
        }
        RunDirError::Ambiguous { .. } => Failure::usage(error),
        _ => Failure::undecided(error),
    })
}

async fn memory(pods: &Pods, pod: &Pod, format: Format) -> Result<i32, Failure> {
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| Failure::undecided("no random numbers"))?;
    let mut session = Session::connect(&pods.control_socket(pod)).await.map_err(Failure::undecided)?;
    let info = session.call(&Request::Info).await.map_err(Failure::undecided)?;
    let qemu = info.qemu_pid.ok_or_else(|| Failure::undecided("the pod's owner does not name its QEMU process"))?;
    let start = Request::ProbeStart { seed: hex::encode(seed), copies: COPIES };
    session.call(&start).await.map_err(Failure::undecided)?;
    let found = search(qemu, &[&canary(&seed, PRIVATE), &canary(&seed, SHARED)]);
    session.call(&Request::ProbeEnd).await.map_err(Failure::undecided)?;
    let found = found.map_err(Failure::undecided)?;
    let (private, shared) = match found.counts.as_slice() {
        [private, shared] => (*private, *shared),
        _ => return Err(Failure::undecided("the search gave no counts")),
    };
    let verdict = Verdict::of(private, shared);
    let (words, code) = words(verdict);
    match format {
        Format::Json => json(&serde_json::json!({
            "pod": pod.name, "tee": pod.tee, "verdict": verdict, "private_found": private, "shared_found": shared,
            "searched_bytes": found.searched_bytes,
        }))?,
        Format::Text => {
            println!(
                "pod {} ({:?} TEE), searched {} of guest memory",
                pod.name,
                pod.tee,
                crate::output::size(found.searched_bytes)
            );
            println!("private canary found {private} times, shared canary {shared} times");
            println!("{words}");
        }
    }
    Ok(code)
}

fn words(verdict: Verdict) -> (&'static str, i32) {
    match verdict {
        Verdict::Encrypted => ("encrypted: this host sees what the guest shares, and not what it keeps", 0),
        Verdict::Readable => ("NOT protected: this host can read the pod's memory", Exit::Refused.code()),
        Verdict::ProbeFailed => {
            ("the probe failed: not even the shared canary was found, so this proves nothing", Exit::Undecided.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_its_exit_code() {
        assert_eq!(words(Verdict::of(0, 3)).1, 0);
        assert_eq!(words(Verdict::of(1, 3)).1, 1);
        assert_eq!(words(Verdict::of(1, 0)).1, 1);
        assert_eq!(words(Verdict::of(0, 0)).1, 3);
    }
}
