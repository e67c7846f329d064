//! A pod template, read: all that its contract will say except what only the images tell.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use belljar_contract::{Dns, Network, Operator, PodSettings, Resolver, Restart, Volume};

use crate::annotations::Wishes;
use crate::beside::{Beside, Source};
use crate::container::{self, ContainerPlan};
use crate::error::Reason;
use crate::manifest::RUNTIME_CLASSES;
use crate::resources::Limits;
use crate::security::PodSecurity;
use crate::volumes;
use crate::walk::{At, Fields, Report};

/// Fields of a pod's spec that are the cluster's business, and why they need no place in a contract.
pub const CLUSTER: [(&str, &str); 17] = [
    ("nodeSelector", "where the pod runs; no node is trusted"),
    ("nodeName", "where the pod runs; no node is trusted"),
    ("affinity", "where the pod runs; no node is trusted"),
    ("tolerations", "where the pod runs; no node is trusted"),
    ("topologySpreadConstraints", "where the pod runs; no node is trusted"),
    ("schedulerName", "who chooses the node"),
    ("schedulingGates", "when the pod is scheduled"),
    ("priorityClassName", "what is evicted first"),
    ("priority", "what is evicted first"),
    ("preemptionPolicy", "what is evicted first"),
    ("overhead", "what the scheduler books for the VM itself; the RuntimeClass fills it in"),
    ("imagePullSecrets", "how the node pulls; the contract pins digests"),
    ("readinessGates", "when the pod counts as ready"),
    ("terminationGracePeriodSeconds", "how long the kubelet waits at the end"),
    ("activeDeadlineSeconds", "when the kubelet ends the pod"),
    ("subdomain", "names in the cluster's DNS; the guest's host name has no domain"),
    ("serviceAccount", "the old name of serviceAccountName, whose token is typed and not trusted"),
];

/// Fields of a pod's spec that are refused, and why. False and empty values say nothing and are taken.
pub const REFUSED: [(&str, &str); 8] = [
    ("hostNetwork", "a pod VM has a kernel of its own and no part in the host's network; remove it"),
    ("hostPID", "a pod VM cannot see the host's processes; remove it"),
    ("hostIPC", "a pod VM cannot share memory with the host's processes; remove it"),
    (
        "shareProcessNamespace",
        "containers of a pod VM do not see each other's processes; put the programs into one container",
    ),
    ("setHostnameAsFQDN", "the guest's host name has no domain; remove it"),
    ("ephemeralContainers", "containers that are not in the contract cannot be started; use belljar.dev/exec.NAME"),
    ("resourceClaims", "devices of the node cannot be given to a pod VM; remove it"),
    ("resources", "limits of the whole pod are not supported by this version; set them for each container"),
];

/// What is known where a template is read.
pub(crate) struct Context<'a> {
    /// The pod's name, when it is fixed.
    pub(crate) pod_name: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) wishes: Wishes,
    pub(crate) service_account: String,
    pub(crate) beside: &'a Beside,
    pub(crate) host_provided: &'a BTreeSet<(Source, String)>,
    /// Whether each pod gets an index from an Indexed Job.
    pub(crate) is_indexed: bool,
    pub(crate) limits: BTreeMap<String, Limits>,
    pub(crate) fs_group: Option<u32>,
    pub(crate) has_token: Cell<bool>,
    pub(crate) notes: RefCell<Vec<String>>,
}

impl Context<'_> {
    pub(crate) fn note(&self, note: String) {
        let mut notes = self.notes.borrow_mut();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    pub(crate) fn is_host_provided(&self, source: Source, name: &str) -> bool {
        self.host_provided.contains(&(source, name.to_owned()))
    }

    pub(crate) fn not_beside(&self, source: Source, name: &str) -> Reason {
        Reason::Needs(format!(
            "names {} {name:?}, which is not in the manifest, so its content cannot be measured: give it along with -f, \
             or let the host choose its content with --host-provided {}",
            source.kind(),
            source.flag(name)
        ))
    }

    /// A Secret's content is known to the cluster, and its digest to all who can read the pod.
    pub(crate) fn say_measured(&self, source: Source, name: &str) {
        if source == Source::Secret {
            self.note(format!(
                "Secret {name} is fixed, but no secret from the host and the cluster, and its digest stands in the contract: \
                 use belljar.dev/secret.NAME for what they must not know"
            ));
        }
    }

    pub(crate) fn warn_host(&self, source: Source, name: &str) {
        self.note(format!(
            "WHOEVER RUNS THE HOST OR THE CLUSTER CHOOSES the content of {} {name} (--host-provided)",
            source.kind()
        ));
    }
}

/// A pod template, read.
pub(crate) struct PodPlan {
    pub(crate) settings: PodSettings,
    pub(crate) operator: Option<Operator>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) containers: Vec<ContainerPlan>,
    pub(crate) has_token: bool,
    pub(crate) notes: Vec<String>,
}

/// What a controller makes of the template, beside its kind.
pub(crate) struct Owner<'a> {
    pub(crate) kind: &'a str,
    /// The pod's name, when it is fixed.
    pub(crate) pod_name: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) is_indexed: bool,
    pub(crate) beside: &'a Beside,
    pub(crate) host_provided: &'a BTreeSet<(Source, String)>,
    pub(crate) runtime_class: &'a str,
}

/// Fields of a template's or pod's metadata; none of them means anything for protection.
const METADATA: [&str; 13] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
];

/// Reads a pod template (or a pod), whose fields `metadata` and `spec` are taken out of `template`.
pub(crate) fn read(template: &mut Fields<'_>, owner: &Owner<'_>) -> Option<PodPlan> {
    let metadata = template.take("metadata");
    let spec = template.need("spec", "say what runs")?;
    let mut fields = spec.fields();
    let init = fields.take("initContainers");
    let main = fields.need("containers", "a pod has at least one container");
    let mut found: Vec<(String, At<'_>, bool)> = Vec::new();
    for (list, is_init) in [(&init, true), (&main, false)] {
        for at in list.iter().flat_map(At::list) {
            match at.node.at(&["name"]).and_then(|node| node.text()) {
                Some(name) if found.iter().any(|(known, ..)| known == name) => {
                    at.malformed("a name that no other container has", name);
                }
                Some(name) => found.push((name.to_owned(), at, is_init)),
                None => {
                    let fields = at.fields();
                    fields.missing("name", "name the container");
                    fields.forget();
                }
            }
        }
    }
    let names: Vec<String> = found.iter().map(|(name, ..)| name.clone()).collect();
    let (mut annotations, mut labels) = (None, BTreeMap::new());
    if let Some(at) = metadata {
        let mut metadata = at.fields();
        metadata.pass(&METADATA);
        annotations = metadata.take("annotations");
        labels = metadata.take("labels").iter().flat_map(At::strings).collect();
    }
    fields.pass(&CLUSTER.map(|(name, _)| name));
    fields.refuse(&REFUSED);
    if let Some(at) = fields.take("runtimeClassName")
        && let Some(class) = at.text()
        && !RUNTIME_CLASSES.contains(&class.as_str())
        && class != owner.runtime_class
    {
        at.refuse(format!("its pods would run without a pod VM; remove it, or write {}", owner.runtime_class));
    }
    if let Some(at) = fields.take("hostUsers")
        && at.flag() == Some(false)
    {
        at.refuse("a pod VM has a kernel of its own, whose users are not the host's; remove it");
    }
    if let Some(at) = fields.take("os") {
        at.fields().take("name").map(|at| at.word(&["linux"]));
    }
    let security = PodSecurity::read(fields.take("securityContext"));
    let context = Context {
        pod_name: owner.pod_name,
        namespace: owner.namespace,
        labels,
        wishes: Wishes::read(annotations, &names),
        service_account: fields.text("serviceAccountName").unwrap_or_else(|| "default".to_owned()),
        beside: owner.beside,
        host_provided: owner.host_provided,
        is_indexed: owner.is_indexed,
        limits: found
            .iter()
            .map(|(name, at, _)| {
                let quiet = Report::new(String::new());
                let node = at.node.at(&["resources"]);
                (name.clone(), Limits::read(node.map(|node| At { report: &quiet, path: String::new(), node })))
            })
            .collect(),
        fs_group: security.fs_group,
        has_token: Cell::new(false),
        notes: RefCell::new(Vec::new()),
    };
    let (mut settings, hostname) = settings(&mut fields, owner, &context);
    settings.sysctls = security.sysctls.clone();
    let restart = restart(&mut fields, owner.kind);
    let service_links = fields.flag("enableServiceLinks");
    if service_links.is_none() {
        context.note(
            "addresses of Services are not in the environment; write enableServiceLinks: true to have them".to_owned(),
        );
    }
    let mut volumes = volumes::read(fields.take("volumes"), &context);
    let account = account(&mut fields, &context).then(|| free_name(&volumes));
    if let Some(name) = &account {
        volumes.insert(name.clone(), volumes::account_volume());
        context.has_token.set(true);
    }
    drop(fields);
    let pod = container::PodFacts {
        security: &security,
        restart,
        service_links: service_links == Some(true),
        hostname: hostname.as_deref(),
        account: account.as_deref(),
    };
    let mut containers: Vec<ContainerPlan> = Vec::new();
    let mut inits = 0;
    for (name, at, is_init) in found {
        let order = if is_init {
            inits += 1;
            inits
        } else {
            0
        };
        let mut fields = at.fields();
        let plan = container::read(&name, order, &mut fields, &pod, &volumes, &context);
        containers.extend(plan);
    }
    for container in &containers {
        settings.ports.extend(container.ports.iter().copied());
    }
    settings.ports.sort_unstable();
    settings.ports.dedup();
    // A volume that no container mounts has no meaning for the guest.
    volumes.retain(|name, _| {
        containers.iter().any(|container| container.mounts.iter().any(|mount| mount.volume == *name))
    });
    let operator = context.wishes.operator.clone();
    Some(PodPlan {
        settings,
        operator,
        volumes,
        containers,
        has_token: context.has_token.get(),
        notes: context.notes.take(),
    })
}

/// Network, names and name resolution; and the pod's host name when it is fixed.
fn settings(fields: &mut Fields<'_>, owner: &Owner<'_>, context: &Context<'_>) -> (PodSettings, Option<String>) {
    let mut settings = PodSettings { network: Network::Host, dns: Dns::Host, ..PodSettings::default() };
    let hostname = fields.take("hostname");
    let mut name = hostname.as_ref().and_then(At::text);
    if owner.is_indexed {
        // The Job's controller replaces it by NAME-INDEX.
        name = None;
    } else if name.is_none()
        && let Some(pod) = context.pod_name
    {
        let cut: String = pod.chars().take(63).collect();
        name = Some(cut.trim_end_matches(['-', '.']).to_owned());
    }
    if let Some(found) = name.as_ref().filter(|name| name.contains('.')) {
        hostname.as_ref().unwrap_or(&fields.at).problem(Reason::Needs(format!(
            "makes {found:?} the pod's host name, which must be a DNS label: set spec.hostname to a name without dots"
        )));
        name = None;
    }
    settings.hostname_from_host = name.is_none();
    for at in fields.take("hostAliases").iter().flat_map(At::list) {
        let mut alias = at.fields();
        let names = alias.need("hostnames", "give its names").map(|at| at.texts()).unwrap_or_default();
        let Some(at) = alias.need("ip", "give its address") else { continue };
        let Some(text) = at.text() else { continue };
        match text.parse() {
            Ok(address) => settings.host_aliases.entry(address).or_default().extend(names),
            Err(_) => at.malformed("an IP address", text),
        }
    }
    let policy = fields.take("dnsPolicy").and_then(|at| {
        let policy = at.word(&["ClusterFirst", "Default", "None", "ClusterFirstWithHostNet"])?;
        if policy == "ClusterFirstWithHostNet" {
            at.refuse("a pod VM has no part in the host's network; write ClusterFirst");
        }
        Some(policy)
    });
    let config = fields.take("dnsConfig");
    let resolver = config.as_ref().map(resolver);
    if policy.as_deref() == Some("None") {
        match resolver {
            Some(resolver) if !resolver.nameservers.is_empty() => settings.dns = Dns::Fixed(resolver),
            _ => fields.missing("dnsConfig", "dnsPolicy None needs nameservers here"),
        }
    }
    (settings, name)
}

/// `dnsConfig`. With another policy than None, the kubelet merges it into what the host says.
fn resolver(at: &At<'_>) -> Resolver {
    let mut fields = at.fields();
    let mut resolver = Resolver::default();
    for at in fields.take("nameservers").iter().flat_map(At::list) {
        let Some(text) = at.text() else { continue };
        match text.parse() {
            Ok(address) => resolver.nameservers.push(address),
            Err(_) => at.malformed("an IP address", text),
        }
    }
    resolver.searches = fields.take("searches").map(|at| at.texts()).unwrap_or_default();
    for at in fields.take("options").iter().flat_map(At::list) {
        let mut option = at.fields();
        let value = option.text("value");
        if let Some(name) = option.need("name", "name the option").and_then(|at| at.text()) {
            resolver.options.push(value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    resolver
}

/// How containers are started again.
fn restart(fields: &mut Fields<'_>, kind: &str) -> Restart {
    let allowed: &[&str] = match kind {
        "Pod" => &["Always", "OnFailure", "Never"],
        "Job" | "CronJob" => &["OnFailure", "Never"],
        _ => &["Always"],
    };
    let policy = fields.take("restartPolicy");
    if policy.is_none() && !allowed.contains(&"Always") {
        fields.missing("restartPolicy", "a Job's pods need OnFailure or Never");
    }
    match policy.and_then(|at| at.word(allowed)).as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    }
}

/// Whether the API server mounts the service account's token.
fn account(fields: &mut Fields<'_>, context: &Context<'_>) -> bool {
    match fields.flag("automountServiceAccountToken") {
        Some(wanted) => wanted,
        None => !context.beside.is_silent_account(context.namespace, &context.service_account),
    }
}

/// A name for the volume with the service account's files.
fn free_name(volumes: &BTreeMap<String, Volume>) -> String {
    let names = std::iter::once("service-account".to_owned()).chain((1..).map(|n| format!("service-account-{n}")));
    names.into_iter().find(|name| !volumes.contains_key(name)).unwrap_or_default()
}
