//! The cluster, through the `kubectl` program: it brings the user's credentials and plugins (docs/adr/0011).

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::failure::{Failure, one_line};

/// How `kubectl` is called.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: String,
    /// Options that stand before each command: context, kubeconfig, namespace.
    options: Vec<String>,
}

impl Kubectl {
    /// `BELLJAR_KUBECTL`, or `kubectl`.
    pub fn new(kubeconfig: Option<&str>, context: Option<&str>, namespace: Option<&str>) -> Self {
        let program = std::env::var("BELLJAR_KUBECTL").ok().filter(|program| !program.is_empty());
        let given = [("--kubeconfig", kubeconfig), ("--context", context), ("--namespace", namespace)];
        let options = given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        Self { program: program.unwrap_or_else(|| "kubectl".to_owned()), options: options.collect() }
    }

    /// The same for objects of another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: Option<&str>) -> Self {
        let Some(namespace) = namespace else { return self.clone() };
        let mut other = self.clone();
        other.options.retain(|option| !option.starts_with("--namespace="));
        other.options.push(format!("--namespace={namespace}"));
        other
    }

    /// Applies a manifest, given on stdin; the result is what `kubectl` said.
    pub async fn apply(&self, yaml: &str) -> Result<String, Failure> {
        self.run(&["apply", "-f", "-"], Some(yaml)).await
    }

    /// `kubectl get … -o json`; none when the object is not there.
    pub async fn get(&self, what: &[&str]) -> Result<Option<Value>, Failure> {
        let mut arguments = vec!["get"];
        arguments.extend_from_slice(what);
        arguments.extend(["--ignore-not-found", "-o", "json"]);
        let text = self.run(&arguments, None).await?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let broken = |e| Failure::undecided(format!("{} get {}: not JSON: {e}", self.program, what.join(" ")));
        serde_json::from_str(&text).map(Some).map_err(broken)
    }

    async fn run(&self, arguments: &[&str], stdin: Option<&str>) -> Result<String, Failure> {
        let missing = |e: std::io::Error| {
            Failure::undecided(format!("cannot run {}: {e}", self.program))
                .hint("install kubectl, or name it in BELLJAR_KUBECTL")
        };
        let mut command = Command::new(&self.program);
        command.args(&self.options).args(arguments).kill_on_drop(true);
        command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(missing)?;
        let pipe = child.stdin.take();
        let feed = async {
            if let (Some(mut pipe), Some(text)) = (pipe, stdin) {
                // One that ends early says why on stderr.
                let _ = pipe.write_all(text.as_bytes()).await;
            }
        };
        let (ended, ()) = tokio::join!(child.wait_with_output(), feed);
        let ended = ended.map_err(missing)?;
        let says = String::from_utf8_lossy(&ended.stderr).into_owned();
        if !ended.status.success() {
            let verb = arguments.first().copied().unwrap_or_default();
            let lines = says.lines().map(one_line).filter(|line| !line.is_empty());
            return Err(Failure::undecided(format!("{} {verb} failed ({})", self.program, ended.status)).details(lines));
        }
        Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
    }
}
