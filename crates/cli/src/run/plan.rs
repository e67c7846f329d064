//! What a run will start: image, contract, initdata, machine.

use std::collections::BTreeMap;

use belljar_contract::{
    BrokerPin, Contract, Digest, ImageFacts, Initdata, Layer, Permission, Resources, Secret, digest,
};
use belljar_guest_image::GuestImage;
use belljar_image::Image;
use belljar_launch::{Blueprint, LayerDisk, memory_mib, shape};
use belljar_vmm::{Accel, Machine, Tee};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::run::options::{RunOptions, pair};

/// Name of the one container of a run.
pub const CONTAINER: &str = "main";
/// Largest secret in bytes.
const MAX_SECRET: u64 = 1 << 20;

/// A secret of this run.
pub struct GivenSecret {
    /// Its name.
    pub name: String,
    /// Path of the resource at the broker: `repository/type/tag`.
    pub resource: String,
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for GivenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GivenSecret({}, {} bytes)", self.resource, self.content.len())
    }
}

/// Reads the secrets that were named on the command line. Their content never stands in an argument.
pub fn read_secrets(options: &RunOptions, pod: &str) -> Result<Vec<GivenSecret>, Failure> {
    let mut secrets: Vec<GivenSecret> = Vec::new();
    for text in &options.secret {
        let (name, file) = pair("secret", text)?;
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        if !plain || name.starts_with('.') || name.len() > 63 {
            return Err(Failure::usage(format!("secret name {name:?} is not 1 to 63 of a-z, 0-9, '-' and '.'")));
        }
        if secrets.iter().any(|s| s.name == name) {
            return Err(Failure::usage(format!("secret {name} is given twice")));
        }
        let broken = |e: std::io::Error| Failure::usage(format!("secret {name}: {file}: {e}"));
        let length = std::fs::metadata(file).map_err(broken)?.len();
        if length > MAX_SECRET {
            return Err(Failure::usage(format!("secret {name}: {file} has {length} bytes, at most {MAX_SECRET}")));
        }
        let content = Zeroizing::new(std::fs::read(file).map_err(broken)?);
        secrets.push(GivenSecret { name: name.to_owned(), resource: format!("run/{pod}/{name}"), content });
    }
    Ok(secrets)
}

/// The contract that the flags and the image ask for.
pub fn contract(
    options: &RunOptions,
    image: &Image,
    secrets: &[GivenSecret],
    broker: BrokerPin,
    hostname: &str,
) -> Result<Contract, Failure> {
    let mut env = BTreeMap::new();
    for text in &options.env {
        let (name, value) = pair("env", text)?;
        env.insert(name.to_owned(), value.to_owned());
    }
    let layers = image.layers.iter().map(|layer| Layer {
        verity_root: hex::encode(layer.verity_root),
        salt: hex::encode(&layer.salt),
        data_blocks: layer.data_blocks,
    });
    let facts = ImageFacts {
        reference: &options.image,
        manifest_digest: &image.manifest_digest,
        config: &image.config,
        layers: layers.collect(),
    };
    let flags = belljar_contract::RunOptions {
        args: options.command.clone(),
        entrypoint: options.entrypoint.as_ref().map(|program| vec![program.clone()]),
        env,
        cwd: options.workdir.clone(),
        user: options.user.clone(),
        read_only_root: options.read_only,
        scratch_bytes: options.scratch,
        resources: Resources {
            memory_bytes: Some(options.memory),
            cpu_millis: Some(options.cpus),
            ..Resources::default()
        },
        secrets: secrets
            .iter()
            .map(|secret| Secret {
                name: secret.name.clone(),
                resource: format!("kbs:///{}", secret.resource),
                path: format!("/run/secrets/{}", secret.name),
                mode: belljar_contract::model::DEFAULT_SECRET_MODE,
            })
            .collect(),
        logs: Permission::Allow,
        stdin: Permission::Allow,
        secret_api: options.secret_api,
        hostname: Some(hostname.to_owned()),
        ..belljar_contract::RunOptions::default()
    };
    let mut contract = Contract::from_image(CONTAINER, &facts, &flags, Some(broker)).map_err(Failure::usage)?;
    contract.debug = options.debug;
    contract.check().map_err(Failure::usage)?;
    Ok(contract)
}

/// The initdata document and its digest.
pub fn initdata(contract: &Contract) -> Result<(String, Digest), Failure> {
    let text = Initdata::with_contract(contract).to_toml();
    // Refuses what is longer than a guest reads.
    Initdata::parse(text.as_bytes()).map_err(|e| {
        Failure::usage(e)
            .hint("shorten the command, the environment or the number of layers: they all stand in the contract")
    })?;
    let digest = digest(text.as_bytes()).map_err(Failure::usage)?;
    Ok((text, digest))
}

/// The machine for this run.
pub fn machine(
    pod: &str,
    options: &RunOptions,
    guest: &GuestImage,
    tee: Tee,
    accel: Accel,
    initdata: &str,
    image: &Image,
) -> Result<Machine, Failure> {
    let layers =
        image.layers.iter().map(|layer| LayerDisk { path: layer.path.clone(), verity_root: layer.verity_root });
    let memory_mib = memory_mib(options.memory.saturating_add(options.scratch))
        .map_err(|e| Failure::usage(e).hint("choose a smaller --memory"))?;
    let blueprint = Blueprint {
        id: pod,
        tee,
        accel,
        guest,
        initdata,
        layers: layers.collect(),
        vcpus: shape(options.cpus),
        memory_mib,
        debug: options.debug,
        nic: None,
    };
    blueprint.machine().map_err(Failure::undecided)
}
