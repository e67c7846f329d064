//! One container of a pod template.

use std::collections::BTreeMap;

use belljar_contract::model::DEFAULT_CAPABILITIES;
use belljar_contract::{
    Container, ContractError, HostType, ImageFacts, Permission, Restart, RunOptions, Volume, VolumeMount,
};

use crate::downward::{COMPLETION_INDEX, Known, field};
use crate::env::Env;
use crate::error::Reason;
use crate::image::ResolvedImage;
use crate::plan::Context;
use crate::probes;
use crate::resources::Limits;
use crate::security::{PodSecurity, Security, UserWish};
use crate::volumes::{self, ACCOUNT_PATH, Volumes};
use crate::walk::{At, Fields};

/// Fields of a container that are the cluster's business, and why.
pub const CLUSTER: [(&str, &str); 1] = [("imagePullPolicy", "when the node pulls; the contract pins digests")];

/// Fields of a container that are refused, and why.
pub const REFUSED: [(&str, &str); 3] = [
    ("volumeDevices", "a block device's data would lie in the host's hands; use emptyDir"),
    ("resizePolicy", "a pod VM keeps its size; remove it"),
    (
        "restartPolicyRules",
        "rules for single containers are not supported by this version; use the pod's restartPolicy",
    ),
];

/// Variables that the kubelet gives to each container for the API server, with their types.
const API_SERVER: [(&str, HostType); 7] = [
    ("KUBERNETES_SERVICE_HOST", HostType::Ip),
    ("KUBERNETES_SERVICE_PORT", HostType::Port),
    ("KUBERNETES_SERVICE_PORT_HTTPS", HostType::Port),
    ("KUBERNETES_PORT", HostType::Endpoint),
    ("KUBERNETES_PORT_443_TCP", HostType::Endpoint),
    ("KUBERNETES_PORT_443_TCP_PORT", HostType::Port),
    ("KUBERNETES_PORT_443_TCP_ADDR", HostType::Ip),
];
const API_SERVER_PROTO: (&str, &str) = ("KUBERNETES_PORT_443_TCP_PROTO", "tcp");

/// What all containers of a pod share.
pub(crate) struct PodFacts<'a> {
    pub(crate) security: &'a PodSecurity,
    pub(crate) restart: Restart,
    pub(crate) service_links: bool,
    /// None: the host gives it.
    pub(crate) hostname: Option<&'a str>,
    /// The volume with the service account's files.
    pub(crate) account: Option<&'a str>,
}

/// A container, read.
pub(crate) struct ContainerPlan {
    pub(crate) name: String,
    /// The image as the manifest names it.
    pub(crate) image: String,
    pub(crate) image_line: usize,
    pub(crate) image_path: String,
    pub(crate) ports: Vec<u16>,
    pub(crate) mounts: Vec<VolumeMount>,
    options: RunOptions,
    security: Security,
    groups: Vec<u32>,
    exec: Vec<Vec<String>>,
    init: u32,
    restart: Restart,
    env_from_host: BTreeMap<String, HostType>,
    service_links: bool,
    /// The host gives the pod's name, and `HOSTNAME` follows it.
    hostname_from_host: bool,
}

/// Reads a container.
pub(crate) fn read(
    name: &str,
    init: u32,
    fields: &mut Fields<'_>,
    pod: &PodFacts<'_>,
    volumes: &Volumes,
    context: &Context<'_>,
) -> Option<ContainerPlan> {
    fields.pass(&["name"]);
    fields.pass(&CLUSTER.map(|(name, _)| name));
    fields.refuse(&REFUSED);
    if let Some(at) = fields.take("restartPolicy") {
        at.refuse(match init {
            0 => "all containers of a pod follow the pod's restartPolicy; remove it",
            _ => "init containers that go on running (sidecars) are not supported by this version; make it an ordinary container",
        });
    }
    let limits = Limits::read(fields.take("resources"));
    let mut env = Env::read(fields.take("envFrom"), fields.take("env"), &limits, context);
    if context.is_indexed && !env.known.contains_key("JOB_COMPLETION_INDEX") {
        let path = format!("metadata.annotations['{COMPLETION_INDEX}']");
        if let Ok(known) = field(&path, false, context) {
            env.known.insert("JOB_COMPLETION_INDEX".to_owned(), known);
        }
    }
    let words = |at: Option<At<'_>>| -> Option<Vec<String>> {
        let list = at?.list();
        Some(list.iter().filter_map(|at| env.expand(&at.text()?, at)).collect())
    };
    // An empty list is as good as none.
    let entrypoint = words(fields.take("command")).filter(|command| !command.is_empty());
    let args = words(fields.take("args")).unwrap_or_default();
    let exec_of_probes = if init > 0 {
        for key in ["startupProbe", "readinessProbe", "livenessProbe", "lifecycle"] {
            if let Some(at) = fields.take(key) {
                at.refuse("Kubernetes does not allow it for init containers; remove it");
            }
        }
        Vec::new()
    } else {
        probes::read(fields, &env)
    };
    let security = Security::read(fields.take("securityContext"), pod.security);
    let mut mounts = volumes::mounts(fields.take("volumeMounts"), volumes);
    if let Some(volume) = pod.account
        && !mounts.iter().any(|mount| mount.path == ACCOUNT_PATH)
    {
        let (volume, path) = (volume.to_owned(), ACCOUNT_PATH.to_owned());
        mounts.push(VolumeMount { volume, path, sub_path: None, read_only: true });
    }
    let ports = ports(fields.take("ports"));
    if let Some(at) = fields.take("terminationMessagePath")
        && at.text().is_some_and(|path| path != "/dev/termination-log")
    {
        at.refuse("the message is read from /dev/termination-log; remove it");
    }
    fields.take("terminationMessagePolicy").map(|at| at.word(&["File", "FallbackToLogsOnError"]));
    let stdin = fields.flag("stdin").unwrap_or(false);
    fields.pass(&["stdinOnce"]);
    let terminal = fields.flag("tty").unwrap_or(false);
    let cwd = fields.text("workingDir").filter(|cwd| !cwd.is_empty());

    let has_token = mounts.iter().any(|mount| {
        let files = volumes.get(&mount.volume);
        matches!(files, Some(Volume::Host { files, .. }) if files.values().any(|file| file.kind == HostType::Token))
    });
    // With service links they are such links, like those of any other Service.
    if has_token && !pod.service_links {
        for (name, kind) in API_SERVER {
            env.known.entry(name.to_owned()).or_insert(Known::Host(kind));
        }
        let (name, value) = API_SERVER_PROTO;
        env.known.entry(name.to_owned()).or_insert_with(|| Known::Fixed(value.to_owned()));
    }
    let (mut fixed, mut env_from_host) = (BTreeMap::new(), BTreeMap::new());
    for (name, known) in env.known {
        match known {
            Known::Fixed(value) => drop(fixed.insert(name, value)),
            Known::Host(kind) => drop(env_from_host.insert(name, kind)),
        }
    }
    let wishes = context.wishes.containers.get(name);
    let logs = wishes.and_then(|wishes| wishes.logs).or(context.wishes.logs);
    if logs.is_none() {
        context.note(
            "output of containers leaves the pod, and the host can read it (the default); \
             write the annotation belljar.dev/logs: deny to keep it in"
                .to_owned(),
        );
    }
    let mut exec = exec_of_probes;
    for command in wishes.iter().flat_map(|wishes| &wishes.exec) {
        if !exec.contains(command) {
            exec.push(command.clone());
        }
    }
    let image = fields.need("image", "say which image")?;
    let options = RunOptions {
        args,
        entrypoint,
        env: fixed,
        cwd,
        no_new_privileges: !security.may_gain,
        read_only_root: security.read_only_root,
        scratch_bytes: limits.scratch_bytes(),
        resources: limits.resources(),
        secrets: wishes.map(|wishes| wishes.secrets.clone()).unwrap_or_default(),
        secret_api: wishes.is_some_and(|wishes| wishes.secret_api),
        logs: logs.unwrap_or(Permission::Allow),
        stdin: if stdin { Permission::Allow } else { Permission::Deny },
        hostname: pod.hostname.map(str::to_owned),
        terminal,
        ..RunOptions::default()
    };
    Some(ContainerPlan {
        name: name.to_owned(),
        image: image.text()?,
        image_line: image.node.line,
        image_path: image.path.clone(),
        ports,
        mounts,
        options,
        security,
        groups: pod.security.groups.clone(),
        exec,
        init,
        restart: match (init, pod.restart) {
            (0, restart) => restart,
            // The kubelet starts init containers again when they fail, unless the pod says Never.
            (_, Restart::Never) => Restart::Never,
            (_, Restart::OnFailure | Restart::Always) => Restart::OnFailure,
        },
        env_from_host,
        service_links: pod.service_links,
        hostname_from_host: pod.hostname.is_none(),
    })
}

/// TCP ports. UDP and SCTP ports need nothing, and a host port is the CNI plugin's business.
fn ports(at: Option<At<'_>>) -> Vec<u16> {
    let mut ports = Vec::new();
    for at in at.iter().flat_map(At::list) {
        let mut port = at.fields();
        port.pass(&["name", "hostPort", "hostIP"]);
        let protocol = port.take("protocol").and_then(|at| at.word(&["TCP", "UDP", "SCTP"]));
        let number = port.need("containerPort", "say which port").and_then(|at| at.number::<u16>(1, 65535));
        if protocol.is_none_or(|protocol| protocol == "TCP") {
            ports.extend(number);
        }
    }
    ports
}

impl ContainerPlan {
    /// The contract's container. `reference` is the image as the written manifest names it.
    pub(crate) fn container(&self, image: &ResolvedImage, reference: &str) -> Result<Container, Reason> {
        let image_user = image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
        let user = user_text(&self.security.user, image_user.trim())?;
        let known_non_root =
            first_part(user.as_deref().unwrap_or(image_user.trim())).parse::<u32>().is_ok_and(|id| id > 0);
        let default: &[&str] = if known_non_root { &[] } else { &DEFAULT_CAPABILITIES };
        let facts = ImageFacts {
            reference,
            manifest_digest: &image.digest,
            config: &image.config,
            layers: image.layers.clone(),
        };
        let options =
            RunOptions { user, capabilities: Some(self.security.capabilities(default)), ..self.options.clone() };
        let mut container = Container::from_image(&self.name, &facts, &options).map_err(no_command)?;
        container.user.additional_gids.clone_from(&self.groups);
        container.exec.clone_from(&self.exec);
        container.init = self.init;
        container.restart = self.restart;
        container.env.retain(|name, _| !self.env_from_host.contains_key(name));
        if self.hostname_from_host && !self.options.env.contains_key("HOSTNAME") {
            container.env.remove("HOSTNAME");
        }
        container.env_from_host.clone_from(&self.env_from_host);
        container.service_links = self.service_links;
        container.mounts.clone_from(&self.mounts);
        Ok(container)
    }
}

fn no_command(error: ContractError) -> Reason {
    match error {
        ContractError::NoCommand { image } => {
            Reason::Needs(format!("names {image:?}, which has no entrypoint and no command: write `command`"))
        }
        error => Reason::Contract(error),
    }
}

fn first_part(user: &str) -> &str {
    user.split(':').next().unwrap_or_default()
}

/// `USER[:GROUP]` instead of the image's user; none when the image's stands.
fn user_text(wish: &UserWish, image_user: &str) -> Result<Option<String>, Reason> {
    let text = match (wish.uid, wish.gid) {
        (Some(uid), Some(gid)) => Some(format!("{uid}:{gid}")),
        (Some(uid), None) => Some(uid.to_string()),
        (None, Some(gid)) => {
            let user = first_part(image_user);
            Some(format!("{}:{gid}", if user.is_empty() { "0" } else { user }))
        }
        (None, None) => None,
    };
    if wish.non_root && wish.uid.is_none() {
        match first_part(image_user) {
            "" | "0" | "root" => {
                return Err(Reason::Needs(
                    "runs as root, and runAsNonRoot forbids it: set securityContext.runAsUser".to_owned(),
                ));
            }
            user if user.parse::<u32>().is_err() => {
                return Err(Reason::Needs(format!(
                    "runs as user {user:?}, whose number is only known in the guest, so runAsNonRoot cannot be kept: \
                     set securityContext.runAsUser"
                )));
            }
            _ => {}
        }
    }
    Ok(text)
}
