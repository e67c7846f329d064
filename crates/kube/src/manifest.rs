//! A manifest: which of its objects are workloads, their contracts, and the manifest with these in it.

use std::collections::{BTreeMap, BTreeSet};

use belljar_contract::{BrokerPin, Contract, Digest, Initdata, digest};
use oci_spec::image::ImageConfiguration;

use crate::annotations::BROKER;
use crate::beside::{Beside, Source};
use crate::error::{KubeError, Problem, Reason};
use crate::image::{Images, ResolvedImage, pinned};
use crate::plan::{self, Owner, PodPlan};
use crate::policy::network_policy;
use crate::walk::{At, Report};
use crate::yaml::{self, Node, Value};

/// Kinds that make pods: kind, API group, and where their pod template is.
pub const WORKLOADS: [(&str, &str, &[&str]); 8] = [
    ("Pod", "", &[]),
    ("Deployment", "apps", &["spec", "template"]),
    ("StatefulSet", "apps", &["spec", "template"]),
    ("DaemonSet", "apps", &["spec", "template"]),
    ("ReplicaSet", "apps", &["spec", "template"]),
    ("ReplicationController", "", &["spec", "template"]),
    ("Job", "batch", &["spec", "template"]),
    ("CronJob", "batch", &["spec", "jobTemplate", "spec", "template"]),
];

/// RuntimeClasses of Belljar; one that a manifest has already stays.
pub const RUNTIME_CLASSES: [&str; 4] = ["belljar", "belljar-snp", "belljar-tdx", "belljar-software"];

/// How contracts are made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The broker that pods may ask for secrets.
    pub broker: Option<BrokerPin>,
    /// Its address, `https://host:port`, for the host that carries the bytes.
    pub broker_address: Option<String>,
    /// RuntimeClass of pods that name none; empty: `belljar`.
    pub runtime_class: String,
    /// Add a NetworkPolicy for each workload, see [`crate::policy`].
    pub network_policy: bool,
    /// Keep the images' names as they are, for a cluster that knows them by a tag only.
    pub keep_image_names: bool,
    /// Namespace of objects that name none.
    pub namespace: Option<String>,
    /// ConfigMaps and Secrets whose content the host may choose.
    pub host_provided: BTreeSet<(Source, String)>,
}

/// A manifest that was read.
#[derive(Debug, Clone)]
pub struct Manifest {
    documents: Vec<Node>,
}

/// A workload and its contract.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace, when it is known.
    pub namespace: Option<String>,
    /// What its pods may do.
    pub contract: Contract,
    /// The initdata document.
    pub initdata: String,
    /// The document's digest, which the hardware binds to each pod.
    pub digest: Digest,
    /// What a person should know beside the contract's own words.
    pub notes: Vec<String>,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Whether a pod holds a token for the API server.
    pub has_token: bool,
    /// Ports of its containers: protocol and number.
    pub ports: BTreeSet<(String, u16)>,
    /// How many pods it asks for; none where only the cluster knows (DaemonSet), or none start now (CronJob).
    pub replicas: Option<u64>,
}

impl Workload {
    /// `Deployment web`.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// What generation gives.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The manifest with contracts in it.
    pub yaml: String,
    /// Its workloads, in order.
    pub workloads: Vec<Workload>,
    /// Objects that are no workloads, as `Kind name`: they pass through as they are.
    pub unprotected: Vec<String>,
}

/// Kind, group, name and namespace of an object.
struct Identity {
    kind: String,
    group: String,
    name: Option<String>,
    namespace: Option<String>,
}

impl Identity {
    fn of(object: &Node, options: &Options) -> Self {
        let text = |path: &[&str]| object.at(path).and_then(Node::text).map(str::to_owned);
        let version = text(&["apiVersion"]).unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
        Self {
            kind: text(&["kind"]).unwrap_or_default(),
            group,
            name: text(&["metadata", "name"]),
            namespace: text(&["metadata", "namespace"]).or_else(|| options.namespace.clone()),
        }
    }

    fn title(&self, node: &Node) -> String {
        match (&self.name, node.at(&["metadata", "generateName"]).and_then(Node::text)) {
            (Some(name), _) => format!("{} {name}", self.kind),
            (None, Some(stem)) => format!("{} {stem}*", self.kind),
            (None, None) => format!("{} without a name", self.kind),
        }
    }

    fn template(&self) -> Option<&'static [&'static str]> {
        WORKLOADS.iter().find(|(kind, group, _)| *kind == self.kind && *group == self.group).map(|(.., path)| *path)
    }

    fn is_list(&self) -> bool {
        self.kind == "List" && self.group.is_empty()
    }
}

impl Manifest {
    /// Reads a manifest of one or several documents.
    ///
    /// # Errors
    /// [`KubeError::Yaml`] when it is no YAML that all readers agree about.
    pub fn parse(text: &str) -> Result<Self, KubeError> {
        Ok(Self { documents: yaml::read(text)? })
    }

    /// One manifest of several files.
    pub fn join(parts: Vec<Self>) -> Self {
        Self { documents: parts.into_iter().flat_map(|part| part.documents).collect() }
    }

    /// Every problem that shows without the images.
    ///
    /// # Errors
    /// [`KubeError::Problems`] with all of them.
    pub fn check(&self, options: &Options) -> Result<(), KubeError> {
        let (_, problems) = self.plans(options);
        if problems.is_empty() { Ok(()) } else { Err(KubeError::Problems(problems)) }
    }

    /// The images of all workloads, as the manifest names them.
    pub fn images(&self) -> BTreeSet<String> {
        let (plans, _) = self.plans(&Options::default());
        let plans = plans.into_iter().filter_map(|planned| planned.plan);
        plans.flat_map(|plan| plan.containers.into_iter().map(|container| container.image)).collect()
    }

    /// Makes the contracts, and the manifest with them in it.
    ///
    /// # Errors
    /// [`KubeError::Problems`] with every problem at once.
    pub fn generate(&self, images: &Images, options: &Options) -> Result<Generated, KubeError> {
        let (plans, mut problems) = self.plans(options);
        if !problems.is_empty() {
            return Err(KubeError::Problems(problems));
        }
        let mut documents = self.documents.clone();
        let mut objects: Vec<&mut Node> = Vec::new();
        documents.iter_mut().for_each(|document| flatten_mut(document, options, &mut objects));
        let (mut workloads, mut unprotected) = (Vec::new(), Vec::new());
        for (object, mut planned) in objects.into_iter().zip(plans) {
            let Some(plan) = planned.plan.take() else {
                unprotected.extend(planned.unprotected);
                continue;
            };
            let report = Report::new(planned.title.clone());
            let contract = contract(&plan, images, options, &report);
            let identity = &planned.identity;
            let workload = contract.and_then(|contract| workload(identity, &planned, plan, contract, &report));
            problems.extend(report.take());
            if let (Some(workload), Some(path)) = (workload, identity.template()) {
                annotate(object, path, &workload, images, options);
                workloads.push(workload);
            }
        }
        if !problems.is_empty() {
            return Err(KubeError::Problems(problems));
        }
        if options.network_policy {
            for workload in &mut workloads {
                match network_policy(workload) {
                    // A second run finds the policy of the first.
                    Some(policy) if self.has_object(&policy) => {}
                    Some(policy) => documents.push(policy),
                    None => workload.notes.push("has no labels, so no NetworkPolicy can name its pods".to_owned()),
                }
            }
        }
        Ok(Generated { yaml: yaml::write(&documents), workloads, unprotected })
    }

    /// Workloads that carry an initdata annotation: their title and the annotation's value.
    pub fn annotated(&self) -> Vec<(String, String)> {
        let options = Options::default();
        let mut objects = Vec::new();
        self.documents.iter().for_each(|document| flatten(document, &options, &mut objects));
        let found = objects.into_iter().filter_map(|object| {
            let identity = Identity::of(object, &options);
            let template = object.at(identity.template()?)?;
            let annotation = template.at(&["metadata", "annotations", belljar_contract::disk::ANNOTATION])?;
            Some((identity.title(object), annotation.text()?.to_owned()))
        });
        found.collect()
    }

    /// Whether there is an object of the same kind, name and namespace.
    fn has_object(&self, wanted: &Node) -> bool {
        let options = Options::default();
        let mut objects = Vec::new();
        self.documents.iter().for_each(|document| flatten(document, &options, &mut objects));
        let key = |object: &Node| {
            [&["apiVersion"][..], &["kind"], &["metadata", "name"], &["metadata", "namespace"]]
                .map(|path| object.at(path).and_then(Node::text).map(str::to_owned))
        };
        objects.into_iter().any(|object| key(object) == key(wanted))
    }

    fn plans(&self, options: &Options) -> (Vec<Planned>, Vec<Problem>) {
        let mut objects = Vec::new();
        self.documents.iter().for_each(|document| flatten(document, options, &mut objects));
        let mut beside = Beside::default();
        let mut problems = Vec::new();
        let mut known = Vec::new();
        for object in &objects {
            let identity = Identity::of(object, options);
            let report = Report::new(identity.title(object));
            if identity.kind.is_empty() {
                report.push(
                    object.line,
                    "kind",
                    Reason::Missing("every object has an apiVersion and a kind".to_owned()),
                );
            }
            let is_known = identity.group.is_empty()
                && identity
                    .name
                    .as_ref()
                    .is_some_and(|name| beside.add(&identity.kind, identity.namespace.clone(), name, object, &report));
            problems.extend(report.take());
            known.push((identity, is_known));
        }
        let planned = objects.into_iter().zip(known).map(|(object, (identity, is_known))| {
            let title = identity.title(object);
            let report = Report::new(title.clone());
            let plan = identity.template().and_then(|path| plan(object, path, &identity, &beside, options, &report));
            problems.extend(report.take());
            let unprotected = (plan.is_none() && !is_known).then(|| title.clone());
            let (labels, ports) = identity
                .template()
                .and_then(|path| object.at(path))
                .map(|template| (labels_of(template), ports_of(template)))
                .unwrap_or_default();
            let replicas = replicas_of(&identity.kind, object);
            Planned { identity, title, plan, unprotected, labels, ports, replicas }
        });
        (planned.collect(), problems)
    }
}

/// An object and, when it is a workload without problems, its plan.
struct Planned {
    identity: Identity,
    title: String,
    plan: Option<PodPlan>,
    unprotected: Option<String>,
    labels: BTreeMap<String, String>,
    ports: BTreeSet<(String, u16)>,
    replicas: Option<u64>,
}

fn plan(
    object: &Node,
    path: &[&str],
    identity: &Identity,
    beside: &Beside,
    options: &Options,
    report: &Report,
) -> Option<PodPlan> {
    let at = At { report, path: String::new(), node: object };
    if let Some(node) = object.at(&["spec", "volumeClaimTemplates"])
        && !matches!(&node.value, Value::Null)
        && !matches!(&node.value, Value::List(list) if list.is_empty())
    {
        let at = At { path: "spec.volumeClaimTemplates".to_owned(), node, ..at.clone() };
        at.refuse(
            "its volumes' data would lie in the host's hands; use emptyDir, or an encrypted store over the network",
        );
    }
    let job = match identity.kind.as_str() {
        "Job" => object.at(&["spec"]),
        "CronJob" => object.at(&["spec", "jobTemplate", "spec"]),
        _ => None,
    };
    let is_indexed = job.and_then(|job| job.at(&["completionMode"])?.text()) == Some("Indexed");
    let Some(node) = object.at(path) else {
        report.push(object.line, &path.join("."), Reason::Missing("it says what its pods run".to_owned()));
        return None;
    };
    let template = At { path: path.join("."), node, ..at };
    let mut fields = template.fields();
    if path.is_empty() {
        fields.pass(&["apiVersion", "kind", "status"]);
    }
    let runtime_class = if options.runtime_class.is_empty() { "belljar" } else { &options.runtime_class };
    let owner = Owner {
        kind: &identity.kind,
        pod_name: identity.name.as_deref().filter(|_| identity.kind == "Pod"),
        namespace: identity.namespace.as_deref(),
        is_indexed,
        beside,
        host_provided: &options.host_provided,
        runtime_class,
    };
    plan::read(&mut fields, &owner)
}

fn contract(plan: &PodPlan, images: &Images, options: &Options, report: &Report) -> Option<Contract> {
    let mut containers = BTreeMap::new();
    for container in &plan.containers {
        let problem = |reason| report.push(container.image_line, &container.image_path, reason);
        match images.get(&container.image) {
            None => problem(Reason::Image("it was not looked for".to_owned())),
            Some(Err(why)) => problem(Reason::Image(why.clone())),
            Some(Ok(image)) => {
                let reference = if options.keep_image_names {
                    container.image.clone()
                } else {
                    pinned(&container.image, &image.digest)
                };
                match container.container(image, &reference) {
                    Ok(made) => drop(containers.insert(container.name.clone(), made)),
                    Err(reason) => problem(reason),
                }
            }
        }
    }
    if containers.len() < plan.containers.len() {
        return None;
    }
    Some(Contract {
        version: belljar_contract::model::VERSION,
        broker: options.broker.clone(),
        pod: plan.settings.clone(),
        operator: plan.operator.clone(),
        volumes: plan.volumes.clone(),
        containers,
        debug: false,
    })
}

fn workload(
    identity: &Identity,
    planned: &Planned,
    plan: PodPlan,
    contract: Contract,
    report: &Report,
) -> Option<Workload> {
    let refused = |reason: Reason| report.push(0, "the pod template", reason);
    contract.check().map_err(|error| refused(error.into())).ok()?;
    let initdata = Initdata::with_contract(&contract).to_toml();
    // Refuses what is longer than a guest reads.
    let digest = digest(initdata.as_bytes()).map_err(|error| refused(Reason::Needs(error.to_string()))).ok()?;
    Some(Workload {
        kind: identity.kind.clone(),
        name: identity.name.clone().unwrap_or_else(|| planned.title.clone()),
        namespace: identity.namespace.clone(),
        contract,
        initdata,
        digest,
        notes: plan.notes,
        labels: planned.labels.clone(),
        has_token: plan.has_token,
        ports: planned.ports.clone(),
        replicas: planned.replicas,
    })
}

/// Writes annotations, runtime class and image names into the pod template.
fn annotate(object: &mut Node, path: &[&str], workload: &Workload, images: &Images, options: &Options) {
    let Some(template) = object.at_mut(path).and_then(Node::map_mut) else { return };
    if let Some(annotations) = template.map_mut("metadata").and_then(|metadata| metadata.map_mut("annotations")) {
        let initdata = belljar_contract::to_annotation(workload.initdata.as_bytes());
        annotations.set(belljar_contract::disk::ANNOTATION, Value::Text(initdata));
        match &options.broker_address {
            Some(address) => annotations.set(BROKER, Value::Text(address.clone())),
            None => annotations.remove(BROKER),
        }
    }
    let Some(spec) = template.get_mut("spec").and_then(Node::map_mut) else { return };
    if spec.get("runtimeClassName").is_none_or(|node| node.value == Value::Null) {
        let class = if options.runtime_class.is_empty() { "belljar" } else { &options.runtime_class };
        spec.set("runtimeClassName", Value::Text(class.to_owned()));
    }
    if options.keep_image_names {
        return;
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Node::list_mut).into_iter().flatten() {
            let Some(image) = container.map_mut().and_then(|container| container.get_mut("image")) else { continue };
            if let Some(Ok(found)) = image.text().and_then(|name| images.get(name)) {
                let name = image.text().unwrap_or_default();
                image.value = Value::Text(pinned(name, &found.digest));
            }
        }
    }
}

/// Reads any bytes as a manifest and makes its contracts; for fuzzing. What is written gives the same again.
pub fn fuzz(data: &[u8]) {
    let generate = |text: &str| -> Option<Generated> {
        let manifest = Manifest::parse(text).ok()?;
        let layer = belljar_contract::Layer { verity_root: "ab".repeat(32), salt: String::new(), data_blocks: 1 };
        let (digest, layers) = (format!("sha256:{}", "cd".repeat(32)), vec![layer]);
        let image = ResolvedImage { digest, config: ImageConfiguration::default(), layers };
        let images = manifest.images().into_iter().map(|name| (name, Ok(image.clone()))).collect();
        manifest.generate(&images, &Options::default()).ok()
    };
    let Some(first) = std::str::from_utf8(data).ok().and_then(generate) else { return };
    if first.yaml.len() <= yaml::MAX_TEXT {
        let again = generate(&first.yaml).map(|again| again.yaml);
        assert_eq!(again.as_ref(), Some(&first.yaml), "a manifest that was written is read in another way");
    }
}

/// Objects in order, those inside of Lists too.
fn flatten<'a>(object: &'a Node, options: &Options, out: &mut Vec<&'a Node>) {
    match object.at(&["items"]).map(|items| &items.value) {
        Some(Value::List(items)) if Identity::of(object, options).is_list() => {
            items.iter().for_each(|item| flatten(item, options, out));
        }
        _ => out.push(object),
    }
}

fn flatten_mut<'a>(object: &'a mut Node, options: &Options, out: &mut Vec<&'a mut Node>) {
    let has_items = object.at(&["items"]).is_some_and(|items| matches!(items.value, Value::List(_)));
    if !(has_items && Identity::of(object, options).is_list()) {
        out.push(object);
        return;
    }
    for item in object.at_mut(&["items"]).and_then(Node::list_mut).into_iter().flatten() {
        flatten_mut(item, options, out);
    }
}

/// How many pods run at once when all is well.
fn replicas_of(kind: &str, object: &Node) -> Option<u64> {
    let number = |path: &[&str]| match object.at(path).map(|node| &node.value) {
        Some(Value::Integer(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    match kind {
        "Pod" => Some(1),
        "CronJob" | "DaemonSet" => None,
        "Job" => {
            let (parallelism, completions) = (number(&["spec", "parallelism"]), number(&["spec", "completions"]));
            Some(parallelism.unwrap_or(1).min(completions.unwrap_or(u64::MAX)))
        }
        _ => Some(number(&["spec", "replicas"]).unwrap_or(1)),
    }
}

fn labels_of(template: &Node) -> BTreeMap<String, String> {
    let labels = template.at(&["metadata", "labels"]).and_then(Node::map);
    labels
        .iter()
        .flat_map(|map| map.iter())
        .filter_map(|(key, node)| Some((key.to_owned(), node.text()?.to_owned())))
        .collect()
}

fn ports_of(template: &Node) -> BTreeSet<(String, u16)> {
    let mut ports = BTreeSet::new();
    let Some(Value::List(containers)) = template.at(&["spec", "containers"]).map(|node| &node.value) else {
        return ports;
    };
    for container in containers {
        let Some(Value::List(list)) = container.at(&["ports"]).map(|node| &node.value) else { continue };
        for port in list {
            let protocol = port.at(&["protocol"]).and_then(Node::text).unwrap_or("TCP").to_owned();
            if let Some(Value::Integer(number)) = port.at(&["containerPort"]).map(|node| &node.value) {
                ports.extend(u16::try_from(*number).ok().map(|number| (protocol, number)));
            }
        }
    }
    ports
}
