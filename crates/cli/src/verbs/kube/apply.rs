//! `belljar apply`: contracts, broker, cluster, and each pod's verdict.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use belljar_broker::{RemoteBroker, WorkloadId};
use belljar_kube::{Generated, Workload};
use clap::Args;

use crate::failure::{Failure, one_line};
use crate::output::Format;
use crate::paths::Paths;
use crate::run::SOFTWARE_NOTICE;
use crate::run::broker::read_token;
use crate::verbs::guest;
use crate::verbs::kube::generate::Generate;
use crate::verbs::kube::kubectl::Kubectl;
use crate::verbs::kube::manifest::{ManifestOptions, unprotected, words};
use crate::verbs::kube::register::{self, Given};
use crate::verbs::kube::verdict::{self, Watch};

/// Options of `belljar apply`.
#[derive(Debug, Args)]
#[command(after_help = "Example: belljar apply -f web.yaml -f config.yaml --secret kbs:///default/key/1=./model.key
Exit codes: 0 all pods run and the broker has admitted them · 1 a pod was refused or failed · 2 usage · 3 could not decide")]
pub struct Apply {
    /// What is read, and how
    #[command(flatten)]
    pub manifest: ManifestOptions,
    /// A file with the broker's admin token, to register the workloads
    #[arg(long, value_name = "FILE", env = "BELLJAR_BROKER_TOKEN_FILE")]
    pub broker_token: Option<PathBuf>,
    /// A secret that a contract asks for: the file's content is released to its pods, after attestation
    #[arg(long, value_name = "kbs:///REPOSITORY/TYPE/TAG=FILE")]
    pub secret: Vec<String>,
    /// Also let pods of a software TEE have the secrets, which protects nothing from its host
    #[arg(long)]
    pub allow_software_tee: bool,
    /// Only write the manifest with contracts to stdout, as `belljar contract generate` does
    #[arg(long)]
    pub dry_run: bool,
    /// Do not wait for the pods
    #[arg(long)]
    pub no_wait: bool,
    /// Longest wait for the pods, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// For kubectl
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// For kubectl
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

impl Apply {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        if self.dry_run {
            return Generate { manifest: self.manifest, output: None }.execute(paths, format).await;
        }
        let url = self.manifest.broker()?.ok_or_else(|| {
            Failure::usage("apply needs a broker that judges the pods")
                .hint("give --broker URL or BELLJAR_BROKER, as `belljar broker serve` prints it")
        })?;
        let token = self.broker_token.as_ref().ok_or_else(|| {
            Failure::usage("apply needs the broker's admin token")
                .hint("give --broker-token FILE or BELLJAR_BROKER_TOKEN_FILE")
        })?;
        let remote = RemoteBroker::new(url, read_token(token)?);
        let given = register::given(&self.secret)?;
        let generated = self.manifest.generate(paths).await?;
        check(&generated, &given)?;
        for line in generated.workloads.iter().flat_map(words) {
            eprintln!("{line}");
        }
        if let Some(line) = unprotected(&generated.unprotected) {
            eprintln!("{line}");
        }
        let kubectl =
            Kubectl::new(self.kubeconfig.as_deref(), self.context.as_deref(), self.manifest.namespace.as_deref());
        for workload in generated.workloads.iter().filter(|workload| workload.kind == "Pod") {
            not_another(&kubectl, workload).await?;
        }
        let former = self.register(&remote, &generated, &given, paths).await?;
        let mut before = BTreeSet::new();
        for workload in &generated.workloads {
            let records = remote.handshakes(&workload.digest.host_data()).await.map_err(register::failure)?;
            before.extend(records.into_iter().map(|record| record.id));
        }
        for line in kubectl.apply(&generated.yaml).await?.lines().map(one_line) {
            eprintln!("{line}");
        }
        if self.no_wait {
            eprintln!("belljar: not waiting; `belljar apply` again tells how the pods are");
            return Ok(0);
        }
        let watch =
            Watch { remote: &remote, kubectl: &kubectl, before: &before, limit: Duration::from_secs(self.timeout) };
        let verdicts = watch.all(&generated.workloads).await?;
        let result = verdict::print(&verdicts, format);
        if result.is_ok() {
            // All pods have the new contract; nobody needs the former ones.
            for (title, ids) in former.iter().filter(|(_, ids)| !ids.is_empty()) {
                for id in ids {
                    register::withdraw(&remote, id).await?;
                }
                eprintln!("belljar: the broker admits the former contract of {title} no longer");
            }
        }
        result
    }

    /// Tells the broker of each workload; gives former registrations by the workload's title.
    async fn register(
        &self,
        remote: &RemoteBroker,
        generated: &Generated,
        given: &Given,
        paths: &Paths,
    ) -> Result<Vec<(String, Vec<WorkloadId>)>, Failure> {
        let image = guest::open(&paths.guest())?;
        if self.allow_software_tee {
            eprintln!("belljar: --allow-software-tee: {SOFTWARE_NOTICE}");
        }
        let mut former = Vec::new();
        for workload in &generated.workloads {
            let references = register::references(&image, workload, self.allow_software_tee)?;
            let names: Vec<String> = references
                .iter()
                .map(|reference| {
                    let value = reference.launch.values().next().map_or("", String::as_str);
                    format!("{} ({value:.16}…)", reference.name)
                })
                .collect();
            let registered = register::register(remote, workload, references, given).await?;
            let knows = if registered.unchanged { "knows already" } else { "knows now" };
            eprintln!("belljar: the broker {knows} {}: it may run as {}", workload.title(), names.join(" or "));
            former.push((workload.title(), registered.former));
        }
        Ok(former)
    }
}

/// What can be refused before anything is changed.
fn check(generated: &Generated, given: &Given) -> Result<(), Failure> {
    if generated.workloads.is_empty() {
        return Err(Failure::usage("no workload is in the manifest: nothing to protect").hint("use kubectl apply"));
    }
    let wanted: BTreeSet<String> = generated.workloads.iter().flat_map(register::wanted).collect();
    match given.keys().find(|path| !wanted.contains(*path)) {
        Some(path) => Err(Failure::usage(format!("--secret kbs:///{path}: no contract of the manifest asks for it"))
            .hint("name it in the annotation belljar.dev/secret.CONTAINER of the pod template")),
        None => Ok(()),
    }
}

/// A bare pod keeps its VM and contract for life, and `kubectl apply` would only put another annotation on it.
async fn not_another(kubectl: &Kubectl, workload: &Workload) -> Result<(), Failure> {
    let kubectl = kubectl.in_namespace(workload.namespace.as_deref());
    let Some(pod) = kubectl.get(&["pod", &workload.name]).await? else { return Ok(()) };
    let annotations = pod.pointer("/metadata/annotations");
    let found =
        annotations.and_then(|map| map.get(belljar_contract::disk::ANNOTATION)).and_then(|value| value.as_str());
    if found == Some(belljar_contract::to_annotation(workload.initdata.as_bytes()).as_str()) {
        return Ok(());
    }
    Err(Failure::usage(format!("pod {} runs already, with another contract or none", workload.name))
        .hint(format!("kubectl delete pod {}, or use a Deployment", workload.name)))
}
