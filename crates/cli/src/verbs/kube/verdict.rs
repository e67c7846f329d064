//! Waiting for the pods of workloads, and what is to be said of each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use belljar_broker::{HandshakeRecord, RemoteBroker};
use belljar_kube::Workload;
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Failure, one_line};
use crate::output::{Format, json, table};
use crate::run::broker::denial;
use crate::verbs::kube::kubectl::Kubectl;
use crate::verbs::kube::pods::{self, Pod, State};
use crate::verbs::kube::register;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a pod may look as if it never came up before that is believed: the kubelet tries again, and so does a controller.
const PATIENCE: Duration = Duration::from_secs(20);

/// A wait for pods.
#[derive(Debug)]
pub struct Watch<'a> {
    /// The broker.
    pub remote: &'a RemoteBroker,
    /// The cluster.
    pub kubectl: &'a Kubectl,
    /// Names of the handshakes that the broker had seen of these workloads before the manifest was applied.
    pub before: &'a BTreeSet<String>,
    /// Longest wait in all.
    pub limit: Duration,
}

/// What came of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `Deployment web`.
    pub workload: String,
    /// Digest of its initdata, hex.
    pub initdata_digest: String,
    /// Its pods.
    pub pods: Vec<PodVerdict>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What came of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodVerdict {
    /// Its name.
    pub pod: String,
    /// Its node.
    pub node: Option<String>,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
    /// The latest warning among its events, when it is not up.
    pub event: Option<String>,
}

/// How the wait for a workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "says")]
pub enum Outcome {
    /// Its pods run, and the broker has admitted them; what the broker says.
    Admitted(String),
    /// No pod starts now.
    Later,
    /// The broker refused a pod, or pods failed.
    Refused(String),
    /// Not within the time, or the broker has not seen them.
    Undecided(String),
}

impl Watch<'_> {
    /// Waits for all of them, one after the other within one limit.
    ///
    /// # Errors
    /// [`Failure`] when the cluster or the broker cannot be asked.
    pub async fn all(&self, workloads: &[Workload]) -> Result<Vec<Verdict>, Failure> {
        let end = Instant::now().checked_add(self.limit);
        let mut verdicts = Vec::new();
        for workload in workloads {
            verdicts.push(self.one(workload, end).await?);
        }
        Ok(verdicts)
    }

    async fn one(&self, workload: &Workload, end: Option<Instant>) -> Result<Verdict, Failure> {
        let kubectl = self.kubectl.in_namespace(workload.namespace.as_deref());
        let annotation = belljar_contract::to_annotation(workload.initdata.as_bytes());
        let mut told = BTreeMap::new();
        let mut unwell: Option<Instant> = None;
        loop {
            let list = kubectl.get(&["pods"]).await?.unwrap_or_default();
            let pods = pods::of(&list, &workload.kind, &workload.name, &annotation);
            let judged = self.judge(&kubectl, &pods).await?;
            tell(&judged, &mut told);
            let done = |outcome| Verdict {
                workload: workload.title(),
                initdata_digest: workload.digest.to_hex(),
                pods: judged.clone(),
                outcome,
            };
            let records = self.remote.handshakes(&workload.digest.host_data()).await.map_err(register::failure)?;
            if let Some(why) = records.iter().filter(|record| !self.before.contains(&record.id)).find_map(denial) {
                return Ok(done(Outcome::Refused(why)));
            }
            let wanted = match workload.kind.as_str() {
                "CronJob" => return Ok(done(Outcome::Later)),
                "DaemonSet" => daemons(&kubectl, &workload.name).await?,
                _ => workload.replicas,
            };
            let up = judged.iter().filter(|pod| pod.state == State::Up).count();
            if wanted == Some(0) {
                return Ok(done(Outcome::Later));
            }
            if wanted.is_some_and(|wanted| u64::try_from(up).is_ok_and(|up| up >= wanted)) {
                return Ok(done(admitted(&records)));
            }
            if let Some(pod) = judged.iter().find(|pod| pod.is_lost(&workload.kind)) {
                return Ok(done(Outcome::Refused(pod.says())));
            }
            let now = Instant::now();
            let since = judged.iter().find(|pod| pod.is_unwell());
            unwell = since.map(|_| unwell.unwrap_or(now));
            if let (Some(pod), Some(since)) = (since, unwell)
                && now.duration_since(since) >= PATIENCE
            {
                return Ok(done(Outcome::Refused(pod.says())));
            }
            if end.is_some_and(|end| now >= end) {
                let wanted = wanted.map_or_else(|| "an unknown number".to_owned(), |wanted| wanted.to_string());
                let seconds = self.limit.as_secs();
                return Ok(done(Outcome::Undecided(format!("{up} of {wanted} pods run after {seconds} s"))));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Adds to each pod that is not up the warning among its events.
    async fn judge(&self, kubectl: &Kubectl, pods: &[Pod]) -> Result<Vec<PodVerdict>, Failure> {
        let mut judged = Vec::new();
        for Pod { name, uid, node, state } in pods.iter().cloned() {
            let event = match state {
                State::Up => None,
                _ => {
                    let selector = format!("--field-selector=involvedObject.uid={uid}");
                    kubectl.get(&["events", &selector]).await?.as_ref().and_then(pods::warning)
                }
            };
            judged.push(PodVerdict { pod: name, node, state, event });
        }
        Ok(judged)
    }
}

impl PodVerdict {
    /// Nothing will start it again.
    fn is_lost(&self, kind: &str) -> bool {
        kind == "Pod" && matches!(self.state, State::Failed(_))
    }

    fn is_unwell(&self) -> bool {
        match &self.state {
            State::Up => false,
            State::Waiting(_) => self.event.is_some(),
            State::Failing(_) | State::Failed(_) => true,
        }
    }

    fn words(&self) -> String {
        match &self.state {
            State::Up => "up".to_owned(),
            State::Waiting(why) if why.is_empty() => "waiting".to_owned(),
            State::Waiting(why) | State::Failing(why) => why.clone(),
            State::Failed(why) => format!("failed: {why}"),
        }
    }

    fn says(&self) -> String {
        let event = self.event.as_ref().map(|event| format!("; {event}")).unwrap_or_default();
        format!("pod {}: {}{event}", self.pod, self.words())
    }
}

/// Pods that a DaemonSet wants, once its controller has counted the nodes for this version of it.
async fn daemons(kubectl: &Kubectl, name: &str) -> Result<Option<u64>, Failure> {
    let Some(set) = kubectl.get(&["daemonset", name]).await? else { return Ok(None) };
    let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_u64);
    let is_counted = number("/status/observedGeneration") >= number("/metadata/generation");
    Ok(is_counted.then(|| number("/status/desiredNumberScheduled")).flatten())
}

/// Tells of each pod when its state changes.
fn tell(pods: &[PodVerdict], told: &mut BTreeMap<String, String>) {
    for pod in pods {
        let line = pod.says();
        if told.insert(pod.pod.clone(), line.clone()).as_ref() != Some(&line) {
            eprintln!("belljar: {}", one_line(&line));
        }
    }
}

/// What the broker says of pods that run: its last admission.
fn admitted(records: &[HandshakeRecord]) -> Outcome {
    let Some(record) = records.iter().rev().find(|record| record.admitted && denial(record).is_none()) else {
        let seen = if records.is_empty() { "seen no attestation of them" } else { "not admitted them" };
        return Outcome::Undecided(format!("the pods run, but the broker has {seen}"));
    };
    Outcome::Admitted(match record.tee.as_str() {
        "software-tee" => "admitted with a SOFTWARE TEE, which protects nothing from its host".to_owned(),
        tee => format!("admitted: attested by {tee}"),
    })
}

/// Prints a table, and gives the exit code or the failure.
pub fn print(verdicts: &[Verdict], format: Format) -> Result<i32, Failure> {
    match format {
        Format::Json => json(&verdicts)?,
        Format::Text => {
            let mut rows = Vec::new();
            for verdict in verdicts {
                let says = match &verdict.outcome {
                    Outcome::Admitted(says) => says.clone(),
                    Outcome::Later => "no pod starts now; the broker knows the contract".to_owned(),
                    Outcome::Refused(says) => format!("REFUSED: {says}"),
                    Outcome::Undecided(says) => format!("not decided: {says}"),
                };
                if verdict.pods.is_empty() {
                    rows.push(vec![verdict.workload.clone(), "-".into(), "-".into(), "-".into(), says.clone()]);
                }
                for pod in &verdict.pods {
                    let node = pod.node.clone().unwrap_or_else(|| "-".to_owned());
                    let state = match pod.state {
                        State::Up => "up",
                        State::Waiting(_) => "waiting",
                        State::Failing(_) => "failing",
                        State::Failed(_) => "failed",
                    };
                    rows.push(vec![verdict.workload.clone(), pod.pod.clone(), node, state.to_owned(), says.clone()]);
                }
            }
            print!("{}", table(&["WORKLOAD", "POD", "NODE", "STATE", "VERDICT"], &rows));
        }
    }
    let mut undecided = None;
    for verdict in verdicts {
        match &verdict.outcome {
            Outcome::Refused(says) => return Err(Failure::refused(format!("{}: {says}", verdict.workload))),
            Outcome::Undecided(says) => undecided = Some(format!("{}: {says}", verdict.workload)),
            Outcome::Admitted(_) | Outcome::Later => {}
        }
    }
    match undecided {
        Some(says) => Err(Failure::undecided(says).hint("kubectl describe pods")),
        None => Ok(0),
    }
}
