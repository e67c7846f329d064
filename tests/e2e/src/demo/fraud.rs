//! The workload: the example `fraud-scoring`, from training to the registry.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use belljar_e2e::images::file;
use belljar_e2e::programs::program;
use belljar_e2e::workplace::Registry;
use belljar_image::{PackConfig, Reference, pack, push};

use crate::call;
use crate::show::{Doing, Trouble, say};
use crate::work::Work;

/// What the owner has on the desk.
#[derive(Debug)]
pub struct Fraud {
    directory: PathBuf,
    /// What the scorer prints on this machine, without a pod.
    pub expected: String,
}

impl Fraud {
    /// The model's key.
    pub fn key(&self) -> PathBuf {
        self.directory.join("model-key")
    }

    /// The encrypted model.
    pub fn model(&self) -> PathBuf {
        self.directory.join("image/model.enc")
    }

    fn transactions(&self) -> PathBuf {
        self.directory.join("image/transactions.enc")
    }
}

/// Trains, judges, encrypts; and scores once without a pod, to compare.
pub fn train(work: &Work) -> Result<Fraud, Trouble> {
    let directory = work.path("fraud");
    call::shown(Command::new(program("fraud-train")).arg(&directory))?.must("fraud-train")?;
    let mut fraud = Fraud { directory, expected: String::new() };
    let mut scorer = Command::new(program("fraud-score"));
    scorer.arg("--key").arg(fraud.key()).arg("--model").arg(fraud.model()).arg(fraud.transactions());
    fraud.expected = call::quietly(&mut scorer)?.must("fraud-score")?.stdout;
    say("model and transactions are AES-256-GCM encrypted; the key stays here");
    Ok(fraud)
}

/// The image in its registry, which ends with this value.
#[derive(Debug)]
pub struct Registered {
    _registry: Registry,
    /// `host:port/name:tag`.
    pub reference: String,
}

/// Packs the image, starts a registry, and pushes to it.
pub fn register(work: &Work, fraud: &Fraud) -> Result<Registered, Trouble> {
    let layers = [
        vec![file("/fraud-score", &program("fraud-score"), 0o755)],
        vec![
            file("/app/model.enc", &fraud.model(), 0o644),
            file("/app/transactions.enc", &fraud.transactions(), 0o644),
        ],
    ];
    let config = PackConfig { entrypoint: vec!["/fraud-score".to_owned()], ..PackConfig::default() };
    let layout = work.path("layout");
    let packed = pack(&layout, "1", &layers, &config).doing("pack the image")?;
    let registry = Registry::start(&work.path(""));
    let reference = format!("{}/fraud-scoring:1", registry.address());
    let from: Reference = format!("oci:{}:1", layout.display()).parse().doing("name the layout")?;
    let to: Reference = reference.parse().doing("name the image")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start a runtime")?;
    let pushed = runtime.block_on(push(&from, &to)).doing("push the image")?;
    if pushed != packed {
        return Err(Trouble(format!("the registry has {pushed}, packed was {packed}")));
    }
    let bytes = fs::metadata(program("fraud-score")).doing("look at fraud-score")?.len();
    say(format_args!("layer 1       /fraud-score, static, {bytes} bytes"));
    say("layer 2       /app/model.enc, /app/transactions.enc");
    say(format_args!("pushed        {reference}"));
    say(format_args!("digest        {pushed}"));
    Ok(Registered { _registry: registry, reference })
}
