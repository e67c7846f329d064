//! Volumes and where they are mounted.

use std::collections::BTreeMap;

use belljar_contract::model::{DEFAULT_FILE_MODE, DEFAULT_SCRATCH};
use belljar_contract::{HostFile, HostType, MeasuredFile, Volume, VolumeMount};

use crate::beside::{Source, sha256};
use crate::downward::{self, Known};
use crate::error::Reason;
use crate::plan::Context;
use crate::quantity::Quantity;
use crate::resources;
use crate::walk::{At, Fields};

/// Where the service account's files appear.
pub(crate) const ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The ConfigMap with the cluster's CA that is in each namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

/// Kinds of volumes that are refused, and why.
pub const REFUSED_VOLUMES: [(&str, &str); 29] = [
    ("hostPath", "a pod VM shares no files with its host; use emptyDir, a ConfigMap or a Secret"),
    (
        "persistentVolumeClaim",
        "its data would lie in the host's hands; use emptyDir, or an encrypted store over the network",
    ),
    ("ephemeral", "its data would lie in the host's hands; use emptyDir"),
    ("csi", "its files would come from the host unchecked; use belljar.dev/secret.NAME for secrets, or emptyDir"),
    ("image", "images as volumes are not supported by this version"),
    ("nfs", "its data would lie in the host's hands; let the program speak to an encrypted store"),
    ("iscsi", "its data would lie in the host's hands"),
    ("fc", "its data would lie in the host's hands"),
    ("cephfs", "its data would lie in the host's hands"),
    ("rbd", "its data would lie in the host's hands"),
    ("glusterfs", "its data would lie in the host's hands"),
    ("flexVolume", "its files would come from the host unchecked"),
    ("flocker", "its files would come from the host unchecked"),
    ("gitRepo", "the host would bring the files; build them into the image"),
    ("awsElasticBlockStore", "its data would lie in the host's hands"),
    ("azureDisk", "its data would lie in the host's hands"),
    ("azureFile", "its data would lie in the host's hands"),
    ("gcePersistentDisk", "its data would lie in the host's hands"),
    ("cinder", "its data would lie in the host's hands"),
    ("vsphereVolume", "its data would lie in the host's hands"),
    ("photonPersistentDisk", "its data would lie in the host's hands"),
    ("portworxVolume", "its data would lie in the host's hands"),
    ("scaleIO", "its data would lie in the host's hands"),
    ("storageos", "its data would lie in the host's hands"),
    ("quobyte", "its data would lie in the host's hands"),
    ("local", "its data would lie in the host's hands"),
    ("clusterTrustBundle", "this source is not supported by this version"),
    ("podCertificate", "this source is not supported by this version"),
    ("hostProcess", "a pod VM runs no process of the host"),
];

/// The pod's volumes by name.
pub(crate) type Volumes = BTreeMap<String, Volume>;

/// Reads `spec.volumes`.
pub(crate) fn read(at: Option<At<'_>>, context: &Context<'_>) -> Volumes {
    let mut volumes = Volumes::new();
    for at in at.iter().flat_map(At::list) {
        let mut fields = at.fields();
        let Some(name) = fields.need("name", "name the volume").and_then(|at| at.text()) else {
            fields.forget();
            continue;
        };
        if volumes.contains_key(&name) {
            at.malformed("a name that no other volume has", &name);
        }
        // A volume with a problem is known nevertheless, so that its mounts are no further problem.
        let volume = volume(&mut fields, context).unwrap_or(Volume::Scratch { size_bytes: DEFAULT_SCRATCH });
        volumes.insert(name, volume);
    }
    volumes
}

fn volume(fields: &mut Fields<'_>, context: &Context<'_>) -> Option<Volume> {
    let mut refused = false;
    for (kind, why) in REFUSED_VOLUMES {
        if let Some(at) = fields.take(kind) {
            at.refuse(why);
            refused = true;
        }
    }
    if refused {
        return None;
    }
    if let Some(at) = fields.take("emptyDir") {
        return empty_dir(&at);
    }
    for (key, source) in [("configMap", Source::ConfigMap), ("secret", Source::Secret)] {
        if let Some(at) = fields.take(key) {
            let mut files = Files::default();
            let mut inner = at.fields();
            let mode = mode(inner.take("defaultMode"), context).unwrap_or(DEFAULT_FILE_MODE);
            let name_key = if source == Source::Secret { "secretName" } else { "name" };
            files.object(&mut inner, name_key, source, mode, context)?;
            return Some(files.volume());
        }
    }
    if let Some(at) = fields.take("projected") {
        return projected(&at, context);
    }
    if let Some(at) = fields.take("downwardAPI") {
        let mut files = Files::default();
        let mut inner = at.fields();
        let mode = mode(inner.take("defaultMode"), context).unwrap_or(DEFAULT_FILE_MODE);
        files.downward(inner.take("items"), mode, context);
        return Some(files.volume());
    }
    if fields.left().is_empty() {
        // Kubernetes takes a volume without a kind for an emptyDir.
        return Some(Volume::Scratch { size_bytes: DEFAULT_SCRATCH });
    }
    None
}

fn empty_dir(at: &At<'_>) -> Option<Volume> {
    let mut fields = at.fields();
    if let Some(medium) = fields.take("medium")
        && let Some(text) = medium.text()
        && !matches!(text.as_str(), "" | "Memory")
    {
        medium.refuse("emptyDir is in the pod VM's memory, without huge pages; remove it or write Memory");
    }
    let size_bytes = match fields.take("sizeLimit") {
        None => DEFAULT_SCRATCH,
        Some(at) => match Quantity::of(&at.node.value).and_then(Quantity::units) {
            Some(bytes) => bytes,
            None => {
                at.malformed("a quantity such as 64Mi", resources::describe(&at));
                return None;
            }
        },
    };
    Some(Volume::Scratch { size_bytes })
}

fn projected(at: &At<'_>, context: &Context<'_>) -> Option<Volume> {
    let mut fields = at.fields();
    let mode = mode(fields.take("defaultMode"), context).unwrap_or(DEFAULT_FILE_MODE);
    let mut files = Files::default();
    for at in fields.need("sources", "say what it holds")?.list() {
        let mut source = at.fields();
        for (kind, why) in REFUSED_VOLUMES {
            if let Some(at) = source.take(kind) {
                at.refuse(why);
            }
        }
        if let Some(at) = source.take("serviceAccountToken") {
            let mut token = at.fields();
            token.pass(&["expirationSeconds", "audience"]);
            if let Some(path) = token.need("path", "say where the token goes").and_then(|at| path(&at)) {
                files.host(path, HostType::Token, mode, false);
                files.has_token = true;
            }
        }
        for (key, kind) in [("configMap", Source::ConfigMap), ("secret", Source::Secret)] {
            if let Some(at) = source.take(key) {
                files.object(&mut at.fields(), "name", kind, mode, context);
            }
        }
        if let Some(at) = source.take("downwardAPI") {
            files.downward(at.fields().take("items"), mode, context);
        }
    }
    if files.has_token {
        context.has_token.set(true);
    }
    Some(files.volume())
}

/// The service account's token, CA and namespace, as the API server mounts them into each container.
pub(crate) fn account_volume() -> Volume {
    let mut files = Files::default();
    files.host("token".to_owned(), HostType::Token, DEFAULT_FILE_MODE, false);
    files.host("ca.crt".to_owned(), HostType::Certificates, DEFAULT_FILE_MODE, false);
    files.host("namespace".to_owned(), HostType::DnsLabel, DEFAULT_FILE_MODE, false);
    files.volume()
}

/// Files of a volume, from one or several sources.
#[derive(Default)]
struct Files {
    measured: BTreeMap<String, MeasuredFile>,
    host: BTreeMap<String, HostFile>,
    others: bool,
    has_token: bool,
}

impl Files {
    /// Measured when all content is known, else the host's, with the known digests as types.
    fn volume(self) -> Volume {
        if self.host.is_empty() && !self.others {
            return Volume::Measured { files: self.measured };
        }
        let mut files = self.host;
        for (path, file) in self.measured {
            files.insert(path, HostFile { kind: HostType::Sha256(file.sha256), mode: file.mode, optional: false });
        }
        Volume::Host { files, others: self.others }
    }

    fn host(&mut self, path: String, kind: HostType, mode: u32, optional: bool) {
        self.measured.remove(&path);
        self.host.insert(path, HostFile { kind, mode, optional });
    }

    fn measured(&mut self, path: String, sha256: String, mode: u32) {
        self.host.remove(&path);
        self.measured.insert(path, MeasuredFile { sha256, mode });
    }

    /// A ConfigMap or Secret: `name`, `items`, `optional`.
    fn object(
        &mut self,
        fields: &mut Fields<'_>,
        name_key: &str,
        source: Source,
        default_mode: u32,
        context: &Context<'_>,
    ) -> Option<()> {
        let items = fields.take("items").map(|at| items(&at, default_mode, context));
        let optional = fields.flag("optional").unwrap_or(false);
        let at = fields.need(name_key, "say which object")?;
        let name = at.text()?;
        if let Some(contents) = context.beside.find(source, context.namespace, &name) {
            context.say_measured(source, &name);
            let all = || contents.keys().map(|key| Item { key: key.clone(), path: key.clone(), mode: default_mode });
            for item in items.unwrap_or_else(|| all().collect()) {
                match contents.get(&item.key) {
                    Some(content) => self.measured(item.path, content.sha256.clone(), item.mode),
                    None if optional => {}
                    None => at.problem(Reason::Needs(format!(
                        "names {} {name:?}, which has no key {:?} in the manifest: add it, or remove the item",
                        source.kind(),
                        item.key
                    ))),
                }
            }
            return Some(());
        }
        if source == Source::ConfigMap && name == ROOT_CA {
            let all = || vec![Item { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: default_mode }];
            for item in items.unwrap_or_else(all) {
                self.host(item.path, HostType::Certificates, item.mode, optional);
            }
            return Some(());
        }
        if !context.is_host_provided(source, &name) {
            at.problem(context.not_beside(source, &name));
            return None;
        }
        context.warn_host(source, &name);
        match items {
            Some(items) => items.into_iter().for_each(|item| self.host(item.path, HostType::Any, item.mode, optional)),
            None => self.others = true,
        }
        Some(())
    }

    fn downward(&mut self, items: Option<At<'_>>, default_mode: u32, context: &Context<'_>) {
        for at in items.iter().flat_map(At::list) {
            let mut item = at.fields();
            let mode = mode(item.take("mode"), context).unwrap_or(default_mode);
            let to = item.need("path", "say where the file goes").and_then(|at| path(&at));
            let known = if let Some(at) = item.take("fieldRef") {
                let mut reference = at.fields();
                reference.take("apiVersion").map(|at| at.word(&["v1"]));
                reference.need("fieldPath", "say which field").and_then(|at| {
                    let known = downward::field(&at.text()?, true, context).map_err(|reason| at.problem(reason)).ok();
                    if known == Some(Known::Host(HostType::Any)) {
                        context.note(format!(
                            "the file {} holds labels or annotations: whoever runs the cluster chooses what stands there",
                            to.clone().unwrap_or_default()
                        ));
                    }
                    known
                })
            } else if let Some(at) = item.take("resourceFieldRef") {
                resources::field(&at, None, context).map(Known::Fixed)
            } else {
                item.missing("fieldRef", "say what the file holds");
                None
            };
            match (to, known) {
                (Some(to), Some(Known::Fixed(text))) => self.measured(to, sha256(text.as_bytes()), mode),
                (Some(to), Some(Known::Host(kind))) => self.host(to, kind, mode, false),
                _ => {}
            }
        }
    }
}

struct Item {
    key: String,
    path: String,
    mode: u32,
}

fn items(at: &At<'_>, default_mode: u32, context: &Context<'_>) -> Vec<Item> {
    at.list()
        .iter()
        .filter_map(|at| {
            let mut item = at.fields();
            let mode = mode(item.take("mode"), context).unwrap_or(default_mode);
            let key = item.need("key", "say which key").and_then(|at| at.text());
            let path = item.need("path", "say where its file goes").and_then(|at| path(&at));
            Some(Item { key: key?, path: path?, mode })
        })
        .collect()
}

/// A mode. With an `fsGroup`, the kubelet would give files to that group; in the guest they belong to root, so they must be readable by all.
fn mode(at: Option<At<'_>>, context: &Context<'_>) -> Option<u32> {
    let at = at?;
    let mode = at.number::<u32>(0, 0o777)?;
    if context.fs_group.is_some() && mode & 0o004 == 0 {
        at.refuse(format!(
            "with fsGroup the files would belong to that group, and in a pod VM they belong to root, \
             so mode {mode:04o} would keep the group out; write {:04o}",
            mode | 0o444
        ));
    }
    Some(mode)
}

/// A path inside a volume: relative, without `..`.
fn path(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let inside =
        !text.is_empty() && !text.starts_with('/') && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !inside {
        at.malformed("a path inside the volume: relative, without `.` and `..`", text);
        return None;
    }
    Some(text)
}

/// Reads a container's `volumeMounts`.
pub(crate) fn mounts(at: Option<At<'_>>, volumes: &Volumes) -> Vec<VolumeMount> {
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for at in at.iter().flat_map(At::list) {
        let mut fields = at.fields();
        fields.refuse(&[(
            "subPathExpr",
            "the path would depend on values that the host gives; write the path itself as subPath",
        )]);
        for (key, only, why) in [
            ("mountPropagation", "None", "mounts of the host do not reach into a pod VM; remove it"),
            ("recursiveReadOnly", "Disabled", "volumes of a pod VM hold no other mounts; remove it"),
        ] {
            if let Some(at) = fields.take(key)
                && at.text().is_some_and(|text| text != only)
            {
                at.refuse(why);
            }
        }
        let read_only = fields.flag("readOnly").unwrap_or(false);
        let sub_path = match fields.take("subPath") {
            Some(at) if at.node.text() == Some("") => None,
            Some(at) => path(&at),
            None => None,
        };
        let target = fields.need("mountPath", "say where it is mounted");
        let Some(name) = fields.need("name", "say which volume") else { continue };
        let (Some(volume), Some(target)) = (name.text(), target.and_then(|at| mount_path(&at))) else { continue };
        let Some(kind) = volumes.get(&volume) else {
            name.malformed("the name of one of the pod's volumes", volume);
            continue;
        };
        // Only scratch can be written; the kubelet mounts the other kinds read-only as well.
        let read_only = read_only || !matches!(kind, Volume::Scratch { .. });
        mounts.push(VolumeMount { volume, path: target, sub_path, read_only });
    }
    mounts
}

fn mount_path(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let path = match text.trim_end_matches('/') {
        "" if text.starts_with('/') => {
            at.refuse("a volume cannot replace the root file system");
            return None;
        }
        path => path.to_owned(),
    };
    let normal =
        path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    if !normal {
        at.malformed("an absolute path without `.`, `..` and `//`", text);
        return None;
    }
    if path == "/dev/shm" {
        at.refuse("/dev/shm is there in each container, with 64 MiB; mount the volume somewhere else, or remove it");
        return None;
    }
    if let Some(place) =
        ["/proc", "/sys", "/dev"].iter().find(|place| path == **place || path.starts_with(&format!("{place}/")))
    {
        at.refuse(format!("{place} belongs to the kernel; mount the volume somewhere else"));
        return None;
    }
    Some(path)
}
