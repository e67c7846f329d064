//! The verbs and what they take.

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::output::Format;
use crate::paths::Paths;
use crate::run::options::RunOptions;
use crate::verbs::kube::apply;
use crate::verbs::{
    broker, collateral, contract, doctor, evidence, guest, image, k8s, measure, node, operator, probe, sealed, secret,
    verify,
};

/// Confidential containers that explain themselves.
#[derive(Debug, Parser)]
#[command(
    name = "belljar",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 yes · 1 refused · 2 usage · 3 could not decide.\nExample: belljar run docker.io/library/alpine:3.22 -- echo hello"
)]
pub struct Belljar {
    /// What to print: for a person, or JSON for a program
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Log to stderr (`info`, `debug`, or a filter such as `belljar_vmm=debug`)
    #[arg(long, global = true, env = "BELLJAR_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// The verb
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `belljar` does.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a container image in an attested pod VM
    Run(Box<RunOptions>),
    /// Contracts for a Kubernetes manifest, broker, cluster, and each pod's verdict
    Apply(Box<apply::Apply>),
    /// What this machine can do, and the one next step for each lack
    Doctor(doctor::Doctor),
    /// Look from the host into a running pod
    #[command(subcommand)]
    Probe(probe::Probe),
    /// The guest image
    #[command(subcommand)]
    Guest(guest::Guest),
    /// Predicted launch measurements
    #[command(subcommand)]
    Measure(measure::Measure),
    /// What AMD and Intel publish about their hardware: get it, keep it, carry it to machines without network
    #[command(subcommand)]
    Collateral(collateral::CollateralVerb),
    /// Evidence in files: decode it, judge it
    #[command(subcommand)]
    Evidence(evidence::EvidenceVerb),
    /// The pod contract by itself
    #[command(subcommand)]
    Contract(contract::ContractVerb),
    /// Images: prepare, push
    #[command(subcommand)]
    Image(image::ImageVerb),
    /// Challenge a running pod with a fresh nonce, and compare it with your contract
    #[command(
        after_help = "Example: belljar verify pod/web -f web.yaml\nExit codes: 0 it is what you expect, 1 it is not, 3 nothing was compared or no answer."
    )]
    Verify(Box<verify::Verify>),
    /// Output of a container, end to end encrypted from the attested guest
    #[command(after_help = "Example: belljar logs pod/web -c main --expect web.yaml -f")]
    Logs(Box<sealed::Logs>),
    /// A command in a container, end to end encrypted to the attested guest
    #[command(after_help = "Example: belljar exec pod/web -c main --expect web.yaml -- cat /etc/os-release")]
    Exec(Box<sealed::Exec>),
    /// The key by which pods know their operator
    #[command(subcommand)]
    Operator(operator::OperatorVerb),
    /// A broker for pods on this and other machines
    #[command(subcommand)]
    Broker(broker::BrokerVerb),
    /// Secrets that a broker releases to workloads
    #[command(subcommand)]
    Secret(secret::SecretVerb),
    /// This machine as a node of a Kubernetes cluster
    #[command(subcommand)]
    Node(node::Node),
    /// Belljar on a whole Kubernetes cluster
    #[command(subcommand)]
    K8s(k8s::K8s),
    /// Completions for a shell, on stdout
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Belljar {
    /// Carries the command out; the result is the process exit status.
    pub fn execute(self) -> i32 {
        start_log(self.log.as_deref());
        let format = self.format;
        match self.verb.execute(format) {
            Ok(code) => code,
            Err(failure) => {
                report(format, &failure);
                failure.exit.code()
            }
        }
    }
}

impl Verb {
    fn execute(self, format: Format) -> Result<i32, Failure> {
        let paths = Paths::from_env();
        match self {
            Self::Run(options) => block_on(crate::run::run(*options, &paths, format)),
            Self::Apply(verb) => block_on(verb.execute(&paths, format)),
            Self::Doctor(verb) => verb.execute(&paths, format),
            Self::Probe(verb) => verb.execute(format),
            Self::Guest(verb) => verb.execute(&paths, format),
            Self::Measure(verb) => verb.execute(&paths, format),
            Self::Collateral(verb) => block_on(verb.execute(&paths, format)),
            Self::Evidence(verb) => verb.execute(format),
            Self::Contract(verb) => block_on(verb.execute(&paths, format)),
            Self::Image(verb) => block_on(verb.execute(&paths, format)),
            Self::Verify(verb) => block_on(verb.execute(&paths, format)),
            Self::Logs(verb) => block_on(verb.execute(&paths)),
            Self::Exec(verb) => block_on(verb.execute(&paths)),
            Self::Operator(verb) => verb.execute(format),
            Self::Broker(verb) => block_on(verb.execute(&paths, format)),
            Self::Secret(verb) => block_on(verb.execute(&paths, format)),
            Self::Node(verb) => verb.execute(&paths, format),
            Self::K8s(verb) => verb.execute(&paths, format),
            Self::Completions { shell } => {
                clap_complete::generate(shell, &mut Belljar::command(), "belljar", &mut std::io::stdout());
                Ok(0)
            }
        }
    }
}

/// Runs a verb that needs the asynchronous runtime.
fn block_on(verb: impl Future<Output = Result<i32, Failure>>) -> Result<i32, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::undecided(format!("cannot start threads: {e}")))?;
    let result = runtime.block_on(verb);
    // A read of stdin that never returns, or a layer in the middle of its conversion, must not keep the process alive.
    runtime.shutdown_background();
    result
}

fn start_log(filter: Option<&str>) {
    let Some(filter) = filter else { return };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .init();
}

fn report(format: Format, failure: &Failure) {
    match format {
        Format::Text => {
            eprintln!("belljar: {failure}");
            for line in &failure.details {
                eprintln!("  {}", crate::failure::one_line(line));
            }
        }
        Format::Json => eprintln!(
            "{}",
            serde_json::json!({
                "error": failure.cause, "hint": failure.hint, "details": failure.details, "exit_code": failure.exit.code(),
            })
        ),
    }
}
