//! From files on the command line to a manifest with contracts in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use belljar_broker::BrokerUrl;
use belljar_contract::{BrokerPin, Layer};
use belljar_image::{Image, PullPolicy, Reference, Store};
use belljar_kube::yaml::MAX_TEXT;
use belljar_kube::{Generated, Images, KubeError, Manifest, Options, Problem, ResolvedImage, Source, Workload};
use clap::Args;

use crate::failure::{Failure, one_line};
use crate::paths::Paths;
use crate::run::{image_failure, progress};

/// What both verbs take.
#[derive(Debug, Args)]
pub struct ManifestOptions {
    /// A manifest: Kubernetes YAML or JSON, one or several documents; `-` is stdin. Give ConfigMaps and Secrets along
    #[arg(long = "filename", short = 'f', value_name = "FILE", required = true)]
    pub files: Vec<String>,
    /// Where an image's content is, when it is not in the registry that its name says: NAME=oci-archive:FILE, NAME=oci:DIR:TAG
    /// or NAME=REFERENCE
    #[arg(long, value_name = "NAME=REF")]
    pub image: Vec<String>,
    /// Do not ask a registry for images that the store knows
    #[arg(long)]
    pub offline: bool,
    /// Keep images' names as they are, instead of NAME@sha256:…, for a cluster that has them under a tag only
    #[arg(long)]
    pub keep_image_names: bool,
    /// Add a NetworkPolicy for each workload that lets in only its containers' ports, and out only DNS (and the API server)
    #[arg(long)]
    pub network_policy: bool,
    /// A ConfigMap or Secret whose content whoever runs the host may choose: configmap/NAME or secret/NAME
    #[arg(long, value_name = "KIND/NAME")]
    pub host_provided: Vec<String>,
    /// RuntimeClass of pods that name none
    #[arg(long, default_value = "belljar", value_name = "NAME")]
    pub runtime_class: String,
    /// The broker that pods attest to: https://HOST:PORT#sha256=KEY, as `belljar broker serve` prints it
    #[arg(long, value_name = "URL", env = "BELLJAR_BROKER")]
    pub broker: Option<String>,
    /// Namespace of objects that name none
    #[arg(long, short = 'n', value_name = "NAME")]
    pub namespace: Option<String>,
}

impl ManifestOptions {
    /// The broker, when one is given.
    pub fn broker(&self) -> Result<Option<BrokerUrl>, Failure> {
        self.broker.as_ref().map(|url| url.parse().map_err(Failure::usage)).transpose()
    }

    /// Reads the manifest, looks up its images and makes the contracts.
    pub async fn generate(&self, paths: &Paths) -> Result<Generated, Failure> {
        let broker = self.broker()?;
        let options = Options {
            broker: broker.as_ref().map(|url| BrokerPin { spki_sha256: url.pin.to_string() }),
            broker_address: broker.as_ref().map(address),
            runtime_class: self.runtime_class.clone(),
            network_policy: self.network_policy,
            keep_image_names: self.keep_image_names,
            namespace: self.namespace.clone(),
            host_provided: self.host_provided()?,
        };
        let manifest = self.read()?;
        // Mistakes in the manifest are told before anything is pulled.
        manifest.check(&options).map_err(refused)?;
        let images = self.images(&manifest, paths).await?;
        manifest.generate(&images, &options).map_err(refused)
    }

    fn read(&self) -> Result<Manifest, Failure> {
        let mut parts = Vec::new();
        for file in &self.files {
            let text = read_file(file)?;
            let part = Manifest::parse(&text).map_err(|error| Failure::usage(format!("{file}: {error}")))?;
            parts.push(part);
        }
        Ok(Manifest::join(parts))
    }

    fn host_provided(&self) -> Result<BTreeSet<(Source, String)>, Failure> {
        let read = |text: &String| match text.split_once('/') {
            Some(("configmap", name)) if !name.is_empty() => Ok((Source::ConfigMap, name.to_owned())),
            Some(("secret", name)) if !name.is_empty() => Ok((Source::Secret, name.to_owned())),
            _ => Err(Failure::usage(format!("--host-provided {text:?} is neither configmap/NAME nor secret/NAME"))),
        };
        self.host_provided.iter().map(read).collect()
    }

    async fn images(&self, manifest: &Manifest, paths: &Paths) -> Result<Images, Failure> {
        let mut given = BTreeMap::new();
        for text in &self.image {
            let (name, reference) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                Failure::usage(format!("--image {text:?} is not NAME=REF")).hint("write --image NAME=oci-archive:FILE")
            })?;
            let reference: Reference = reference.parse().map_err(Failure::usage)?;
            given.insert(name.to_owned(), reference);
        }
        let store = Store::open(&paths.store()).map_err(image_failure)?;
        let mut images = Images::new();
        let mut used = BTreeSet::new();
        for name in manifest.images() {
            let bare = name.split('@').next().unwrap_or_default().to_owned();
            let own = [&name, &bare].into_iter().find_map(|name| given.get_key_value(name));
            let reference = match own {
                Some((key, reference)) => {
                    used.insert(key.clone());
                    Ok(reference.clone())
                }
                None => name.parse::<Reference>().map_err(|error| error.to_string()),
            };
            let found = match reference {
                Ok(reference) => self.image(&store, &name, &reference).await?,
                Err(why) => Err(why),
            };
            images.insert(name, found);
        }
        match given.keys().find(|name| !used.contains(*name)) {
            Some(name) => Err(Failure::usage(format!("--image {name}=…: no container of the manifest has this image"))),
            None => Ok(images),
        }
    }

    /// An image; the inner error is one of the manifest's.
    async fn image(
        &self,
        store: &Store,
        name: &str,
        reference: &Reference,
    ) -> Result<Result<ResolvedImage, String>, Failure> {
        let pin = name.split_once('@').map(|(_, digest)| digest);
        // A tag may have moved; a digest has not.
        let policy = if self.offline || pin.is_some() { PullPolicy::Missing } else { PullPolicy::Always };
        match store.ensure(reference, policy, &progress::Bars::default()).await {
            Ok(image) => {
                let is_given = !matches!(reference, Reference::Registry(_)) || reference.to_string() != name;
                if let Some(pin) = pin.filter(|pin| is_given && *pin != image.manifest_digest) {
                    return Ok(Err(format!("{reference} is {}, and the manifest pins {pin}", image.manifest_digest)));
                }
                Ok(Ok(resolved(image)))
            }
            Err(error) => {
                let failure = image_failure(error);
                match failure.exit {
                    crate::failure::Exit::Undecided => Err(failure),
                    _ => Ok(Err(failure.to_string())),
                }
            }
        }
    }
}

fn resolved(image: Image) -> ResolvedImage {
    let layers = image.layers.iter().map(|layer| Layer {
        verity_root: hex::encode(layer.verity_root),
        salt: hex::encode(&layer.salt),
        data_blocks: layer.data_blocks,
    });
    ResolvedImage { digest: image.manifest_digest, layers: layers.collect(), config: image.config }
}

/// The broker's address without its key: the host only carries bytes there.
fn address(url: &BrokerUrl) -> String {
    let text = url.to_string();
    text.split('#').next().unwrap_or_default().to_owned()
}

fn read_file(file: &str) -> Result<String, Failure> {
    let broken = |e: std::io::Error| Failure::usage(format!("{file}: {e}"));
    let mut text = String::new();
    let limit = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
    if file == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text).map_err(broken)?;
    } else {
        std::fs::File::open(Path::new(file)).and_then(|f| f.take(limit).read_to_string(&mut text)).map_err(broken)?;
    }
    Ok(text)
}

/// Problems of a manifest, one a line.
fn refused(error: KubeError) -> Failure {
    let lines = match &error {
        KubeError::Problems(problems) => problems.iter().map(Problem::to_string).collect(),
        _ => Vec::new(),
    };
    Failure::usage(error).details(lines)
}

/// What a person reads of one workload, line by line.
pub fn words(workload: &Workload) -> Vec<String> {
    let mut lines = vec![format!("{}: initdata digest {}", workload.title(), workload.digest.to_hex())];
    lines.extend(workload.contract.summary().iter().map(|line| format!("- {line}")));
    lines.extend(workload.notes.iter().map(|line| format!("- note: {line}")));
    lines.iter().map(|line| one_line(line)).collect()
}

/// What a person reads of objects that are no workloads.
pub fn unprotected(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| {
        format!("passed through as they are, for whoever runs the cluster to change: {}", one_line(&names.join(", ")))
    })
}
