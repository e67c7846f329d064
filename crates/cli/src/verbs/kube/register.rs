//! What the broker is told of a workload before its pods exist.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use belljar_broker::{
    KnownWorkload, Reference, RemoteBroker, RemoteError, Resource, Rule, Workload as Registration, WorkloadId,
};
use belljar_guest_image::GuestImage;
use belljar_kube::Workload;
use belljar_launch::{predict_snp, predict_software, shape};
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};

/// Largest secret in bytes.
const MAX_SECRET: u64 = 1 << 20;

/// Secrets of the command line, by their path `repository/type/tag`.
pub type Given = BTreeMap<String, PathBuf>;

/// Reads `--secret kbs:///repository/type/tag=FILE`.
pub fn given(secrets: &[String]) -> Result<Given, Failure> {
    let mut given = Given::new();
    for text in secrets {
        let parts = text.strip_prefix("kbs:///").and_then(|rest| rest.split_once('='));
        let Some((path, file)) = parts.filter(|(path, file)| !path.is_empty() && !file.is_empty()) else {
            return Err(Failure::usage(format!("--secret {text:?} is not kbs:///REPOSITORY/TYPE/TAG=FILE")));
        };
        if given.insert(path.to_owned(), PathBuf::from(file)).is_some() {
            return Err(Failure::usage(format!("secret kbs:///{path} is given twice")));
        }
    }
    Ok(given)
}

/// Paths of the secrets that a contract asks for.
pub fn wanted(workload: &Workload) -> BTreeSet<String> {
    let secrets = workload.contract.containers.values().flat_map(|container| &container.secrets);
    secrets.map(|secret| secret.resource.trim_start_matches("kbs:///").to_owned()).collect()
}

/// The name under which the broker knows a workload.
pub fn name(workload: &Workload) -> String {
    format!("{}/{}/{}", workload.namespace.as_deref().unwrap_or("-"), workload.kind, workload.name)
}

/// Measurements of the pod's launch, each with what it is of.
pub fn references(guest: &GuestImage, workload: &Workload, software: bool) -> Result<Vec<Reference>, Failure> {
    let vcpus = shape(workload.contract.needs().cpu_millis);
    let broken = |e| Failure::undecided(e).hint("run `belljar guest build`");
    let name = |tee: &str| format!("guest image {:.12}, {vcpus} vCPU, {tee}", guest.id());
    let snp = predict_snp(guest, workload.contract.debug, vcpus).map_err(broken)?;
    let mut references = vec![Reference::snp(name("SNP"), owner(), snp)];
    if software {
        let measurement = predict_software(guest, workload.contract.debug, vcpus).map_err(broken)?;
        references.push(Reference::software(name("software TEE"), owner(), measurement));
    }
    Ok(references)
}

/// What became of a registration.
#[derive(Debug)]
pub struct Registered {
    /// Registrations of the same workload with other contracts, which its new pods do not use.
    pub former: Vec<WorkloadId>,
    /// Whether the broker knew exactly this already.
    pub unchanged: bool,
}

/// Registers a workload in place of its former registration with the same contract.
pub async fn register(
    remote: &RemoteBroker,
    workload: &Workload,
    references: Vec<Reference>,
    given: &Given,
) -> Result<Registered, Failure> {
    let name = name(workload);
    let digest = workload.digest.host_data();
    let wanted = wanted(workload);
    let known = remote.known(&name).await.map_err(failure)?;
    let (same, former): (Vec<_>, Vec<_>) = known.into_iter().partition(|known| known.initdata_digest == digest);
    let former = former.into_iter().map(|known| known.id).collect();
    let is_given = wanted.iter().any(|path| given.contains_key(path));
    let covers = |known: &KnownWorkload| {
        references.iter().all(|reference| known.launches.contains(&reference.launch))
            && wanted.iter().all(|path| known.resources.contains(path))
    };
    // A software measurement that is not wanted any more must go as well.
    let exact = |known: &KnownWorkload| covers(known) && known.launches.len() == references.len();
    if !is_given && same.len() == 1 && same.iter().all(exact) {
        return Ok(Registered { former, unchanged: true });
    }
    let mut resources = Vec::new();
    let mut rules = Vec::new();
    for path in &wanted {
        let Some(file) = given.get(path) else {
            return Err(Failure::usage(format!(
                "{} asks for the secret kbs:///{path}, which the broker does not have for it",
                workload.title()
            ))
            .hint(format!("give it by --secret kbs:///{path}=FILE")));
        };
        rules.push(path.parse::<Rule>().map_err(Failure::usage)?);
        resources.push(Resource { path: path.clone(), content: secret(path, file)? });
    }
    let registration =
        Registration { name, owner: owner(), initdata_digest: digest, references, resources, rules, ttl: None };
    remote.register(&registration).await.map_err(failure)?;
    // Only now, so that pods that run do not lose their secrets in between.
    for known in same {
        withdraw(remote, &known.id).await?;
    }
    Ok(Registered { former, unchanged: false })
}

/// Withdraws a registration; one that is gone already is as good.
pub async fn withdraw(remote: &RemoteBroker, id: &WorkloadId) -> Result<(), Failure> {
    match remote.withdraw(id).await {
        Ok(()) | Err(RemoteError::Refused { status: 404, .. }) => Ok(()),
        Err(error) => Err(failure(error)),
    }
}

/// An error of the broker as this program's: one that says no to the request is a mistake in it.
pub fn failure(error: RemoteError) -> Failure {
    let exit = match &error {
        RemoteError::Refused { status: 400 | 401 | 413, .. } => Exit::Usage,
        RemoteError::Refused { status: 403 | 404 | 409, .. } => Exit::Refused,
        _ => Exit::Undecided,
    };
    Failure::new(exit, error)
}

fn secret(path: &str, file: &std::path::Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let broken = |e: std::io::Error| Failure::usage(format!("secret kbs:///{path}: {}: {e}", file.display()));
    let opened = std::fs::File::open(file).map_err(broken)?;
    let length = opened.metadata().map_err(broken)?.len();
    if length > MAX_SECRET {
        return Err(Failure::usage(format!(
            "secret kbs:///{path}: {} has {length} bytes, at most {MAX_SECRET}",
            file.display()
        )));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0)));
    opened.take(MAX_SECRET).read_to_end(&mut content).map_err(broken)?;
    Ok(content)
}

fn owner() -> String {
    std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "this user".to_owned())
}
