//! What a run will start: image, contract, initdata, machine, and the measurement that must come out.

use std::collections::BTreeMap;
use std::sync::Arc;

use belljar_contract::{
    BrokerPin, Contract, Digest, ImageFacts, Initdata, Layer, Permission, Resources, Secret, digest,
};
use belljar_guest_api::names;
use belljar_guest_image::GuestImage;
use belljar_image::Image;
use belljar_vmm::machine::SHAPES;
use belljar_vmm::{Accel, Disk, DiskContent, GuestFiles, Machine, Tee, TeeKind};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::run::options::{RunOptions, pair};
use crate::verbs::measure;

/// Name of the one container of a run.
pub const CONTAINER: &str = "main";
/// VM memory beside the container's limit and its scratch space: kernel, agent, page tables. SPECIFICATION.md has the measurement.
pub const OVERHEAD_MIB: u64 = 128;
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

/// The number of vCPUs for a CPU limit in thousandths: the next shape.
pub fn shape(cpu_millis: u64) -> u32 {
    SHAPES.into_iter().find(|shape| u64::from(*shape) * 1000 >= cpu_millis).unwrap_or(32)
}

/// The launch measurement that the evidence of this machine must have, where it can be predicted.
pub fn expected(guest: &GuestImage, kind: TeeKind, debug: bool, vcpus: u32) -> Result<[u8; 48], Failure> {
    match kind {
        TeeKind::Software => measure::software(guest, debug, vcpus),
        TeeKind::Snp => measure::snp(guest, debug, vcpus),
        TeeKind::Tdx => {
            Err(Failure::undecided("the launch measurement of a TDX guest cannot be predicted by this version")
                .hint("use --tee snp, or --broker with a broker that knows the reference value"))
        }
    }
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
    let software = tee.kind() == TeeKind::Software;
    let files = GuestFiles {
        firmware: match tee.kind() {
            TeeKind::Software => guest.qboot(),
            TeeKind::Snp => guest.ovmf_amdsev(),
            TeeKind::Tdx => guest.ovmf_inteltdx(),
        },
        kernel: if software { guest.vmlinux() } else { guest.vmlinuz() },
        initrd: guest.initrd(),
        cmdline: guest.cmdline(options.debug),
    };
    let disk = belljar_contract::encode_disk(initdata.as_bytes());
    let mut disks =
        vec![Disk { content: DiskContent::Bytes(Arc::from(disk)), serial: names::INITDATA_SERIAL.to_owned() }];
    for layer in &image.layers {
        let serial = names::layer_serial(&hex::encode(layer.verity_root))
            .ok_or_else(|| Failure::undecided("a layer of the store has no verity root"))?;
        // Two equal layers are one disk; the guest opens it for both.
        if disks.iter().any(|disk| disk.serial == serial) {
            continue;
        }
        disks.push(Disk { content: DiskContent::File(layer.path.clone()), serial });
    }
    let memory = options.memory.saturating_add(options.scratch).div_ceil(1 << 20).saturating_add(OVERHEAD_MIB);
    if let Some(total) = memory_of_machine().filter(|total| memory > *total) {
        return Err(Failure::usage(format!(
            "a pod VM of {memory} MiB does not fit into this machine, which has {total} MiB"
        ))
        .hint("choose a smaller --memory"));
    }
    Ok(Machine { id: pod.to_owned(), tee, accel, vcpus: shape(options.cpus), memory_mib: memory, guest: files, disks })
}

/// Memory of this machine in MiB (`MemTotal` of /proc/meminfo, which is in KiB).
fn memory_of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_round_up_to_a_shape() {
        assert_eq!(shape(10), 1);
        assert_eq!(shape(1000), 1);
        assert_eq!(shape(1001), 2);
        assert_eq!(shape(5000), 8);
        assert_eq!(shape(32_000), 32);
    }
}
