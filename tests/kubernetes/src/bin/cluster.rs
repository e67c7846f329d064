//! `belljar-test-cluster up|down`: the cluster for a whole run of tests, each of which is a process of its own under nextest.
//! `up` prints what the tests need in their environment: where the cluster is, or why there is none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::ExitCode;

use belljar_kubernetes_tests::cluster::{Cluster, MISSING, RUN, missing};

fn main() -> ExitCode {
    let run = PathBuf::from(std::env::var_os("K8S_RUN").unwrap_or_else(|| "/run/belljar-k8s".into()));
    match std::env::args().nth(1).as_deref() {
        Some("up") => {
            if let Some(reason) = missing() {
                println!("export {MISSING}='{}'", reason.replace('\'', "'\\''"));
                eprintln!("belljar-test-cluster: no cluster: {reason}");
                return ExitCode::SUCCESS;
            }
            match Cluster::up(&run) {
                Ok(cluster) => {
                    println!("export {RUN}='{}'", run.display());
                    cluster.keep();
                    ExitCode::SUCCESS
                }
                Err(why) => {
                    eprintln!("belljar-test-cluster: {why}");
                    ExitCode::FAILURE
                }
            }
        }
        Some("down") => {
            Cluster::down(&run);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: belljar-test-cluster up|down");
            ExitCode::from(2)
        }
    }
}
