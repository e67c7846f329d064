//! Everything that needs a Kubernetes. The scenarios share one cluster: the one that `BELLJAR_K8S_RUN` names (`make test` brings it up),
//! or one for this process. Where none can run they are reported as ignored, with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod cri;
mod faults;
mod hostile;
mod pods;
mod runc;
mod talk;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use belljar_kubernetes_tests::cluster::{Cluster, MISSING, RUN, missing};
use libtest_mimic::{Arguments, Trial};

/// A test in the cluster.
type Scenario = (&'static str, fn(&Cluster));

fn main() {
    let mut arguments = Arguments::from_args();
    let running = std::env::var_os(RUN).map(PathBuf::from);
    let nextest = std::env::var_os("NEXTEST").is_some();
    let ignored = match (&running, std::env::var(MISSING)) {
        (Some(_), _) => None,
        (None, Ok(reason)) => Some(reason),
        // One process for each test: the cluster must be there before.
        (None, Err(_)) if nextest => Some("no cluster: run `make test`, or set BELLJAR_K8S_RUN to one".to_owned()),
        (None, Err(_)) => missing(),
    };
    let wanted = !arguments.list && ignored.is_none();
    let cluster = wanted.then(|| {
        let cluster = match &running {
            Some(run) => Cluster::attach(run),
            None => Cluster::up(Path::new("/run/belljar-k8s")),
        };
        Arc::new(cluster.unwrap_or_else(|why| panic!("{why}")))
    });
    // Two pod VMs keep two cores busy.
    arguments.test_threads.get_or_insert(2);
    // Under nextest, .config/nextest.toml keeps the others away meanwhile.
    let gate = Arc::new(RwLock::new(()));
    let alone = faults::ALONE.iter().map(|(name, scenario)| (*name, *scenario, true));
    let scenarios =
        [runc::SCENARIOS, cri::SCENARIOS, pods::SCENARIOS, talk::SCENARIOS, faults::SCENARIOS, hostile::SCENARIOS];
    let together = scenarios.concat().into_iter().map(|(name, scenario)| (name, scenario, false));
    let trials = together.chain(alone).map(|(name, scenario, alone)| {
        let (cluster, gate) = (cluster.clone(), gate.clone());
        let trial = Trial::test(name, move || {
            // A failed test poisons nothing.
            let _all = alone.then(|| gate.write().unwrap_or_else(PoisonError::into_inner));
            let _one = (!alone).then(|| gate.read().unwrap_or_else(PoisonError::into_inner));
            let cluster = cluster.ok_or("no cluster")?;
            scenario(&cluster);
            Ok(())
        });
        match &ignored {
            // The reason is the test's kind, which stands before its name.
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(cluster);
    conclusion.exit();
}
