//! The cluster, asked and changed by running `kubectl`: it brings the user's credentials and plugins.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::Value;

use crate::failure::{Failure, one_line};

/// Names another kubectl than the one in `PATH`.
pub const VARIABLE: &str = "BELLJAR_KUBECTL";
/// Most time of one request.
const REQUEST_LIMIT: &str = "--request-timeout=30s";

/// Which cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct Cluster {
    /// The context of the kubeconfig, as for kubectl
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig, as for kubectl
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
}

/// kubectl for one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: OsString,
    global: Vec<String>,
}

impl Cluster {
    /// kubectl for this cluster.
    pub fn kubectl(&self) -> Kubectl {
        let program = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).unwrap_or_else(|| "kubectl".into());
        let mut global = vec![REQUEST_LIMIT.to_owned()];
        for (name, value) in [("--context", &self.context), ("--kubeconfig", &self.kubeconfig)] {
            global.extend(value.as_ref().map(|value| format!("{name}={value}")));
        }
        Kubectl { program, global }
    }
}

impl Kubectl {
    /// Fails with exit code 3 unless the cluster answers.
    pub fn reach(&self) -> Result<(), Failure> {
        self.run(&["get", "--raw=/version"], None).map(|_| ()).map_err(|why| {
            Failure::undecided(format!("cannot reach the cluster: {why}")).hint("kubectl cluster-info tells more")
        })
    }

    /// Runs it, with `input` as its stdin; its stdout. A failure is the cluster's refusal, exit code 1.
    pub fn ask(&self, arguments: &[&str], input: Option<&str>) -> Result<String, Failure> {
        self.run(arguments, input).map_err(|why| {
            let verb: Vec<&str> = arguments.iter().take(3).copied().collect();
            Failure::refused(format!("kubectl {}: {why}", verb.join(" ")))
        })
    }

    /// The objects that `kubectl get ARGUMENTS -o json` lists.
    pub fn items(&self, arguments: &[&str]) -> Result<Vec<Value>, Failure> {
        let mut all = vec!["get"];
        all.extend(arguments);
        all.extend(["--output=json", "--ignore-not-found"]);
        let text = self.ask(&all, None)?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let answer: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::undecided(format!("kubectl's answer is not JSON: {error}")))?;
        Ok(match answer.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![answer],
        })
    }

    fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut child = Command::new(&self.program)
            .args(&self.global)
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!(
                    "{} does not start: {error}; install kubectl, or name it in {VARIABLE}",
                    self.program.to_string_lossy()
                )
            })?;
        // The input is smaller than what kubectl reads before it says a word; what it does not read is told by its exit status.
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            let _ = stdin.write_all(text.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return String::from_utf8(output.stdout).map_err(|_| "its answer is not UTF-8".to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        Err(last.map_or_else(|| output.status.to_string(), one_line))
    }
}
