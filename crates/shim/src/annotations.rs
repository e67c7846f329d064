//! The annotations by which containerd's CRI plugin and CRI-O tell a pod's sandbox from its containers, and those that a user sets.

use std::collections::BTreeMap;

use belljar_contract::disk::ANNOTATION as INITDATA;

/// The pod annotation with the broker's address, `https://host:port`: a hint for the host, which only carries bytes. The contract pins the key.
pub const BROKER: &str = "belljar.dev/broker";

/// containerd's annotation for what a bundle is.
pub const TYPE: &str = "io.kubernetes.cri.container-type";
/// containerd's annotation with the pod's name.
pub const POD_NAME: &str = "io.kubernetes.cri.sandbox-name";
/// containerd's annotation with the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
const TYPES: [&str; 2] = [TYPE, "io.kubernetes.cri-o.ContainerType"];
const SANDBOX_IDS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];
const CONTAINER_NAMES: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.cri-o.ContainerName"];
const POD_NAMES: [&str; 2] = [POD_NAME, "io.kubernetes.cri-o.KubeName"];
const POD_NAMESPACES: [&str; 2] = [POD_NAMESPACE, "io.kubernetes.cri-o.Namespace"];

/// What a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The pod's sandbox: the VM itself.
    Sandbox,
    /// A container in the VM of a sandbox.
    Container {
        /// Id of the sandbox.
        sandbox: String,
        /// Its name in the pod, and so in the contract.
        name: String,
    },
    /// A container without a pod (`ctr run`): VM and container at once.
    Single,
}

/// Why annotations make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnotationError {
    /// Neither sandbox nor container.
    #[error("annotation {key} is {found:?}; expected sandbox or container")]
    Type {
        /// The annotation.
        key: &'static str,
        /// Its value.
        found: String,
    },
    /// A container of a pod needs it.
    #[error("annotation {key} is missing, which a container of a pod has; is the container manager too old?")]
    Missing {
        /// The annotation.
        key: &'static str,
    },
    /// No contract.
    #[error(
        "the pod has no contract (annotation {INITDATA} is missing), so nothing says what may run in it: make it with `belljar apply`, or with `belljar contract generate`; \
         if the pod has the annotation, `pod_annotations` of the runtime in containerd's configuration lacks \"io.katacontainers.*\""
    )]
    NoInitdata,
}

fn find<'a>(annotations: &'a BTreeMap<String, String>, keys: [&'static str; 2]) -> Option<&'a str> {
    keys.iter().find_map(|key| annotations.get(*key)).map(String::as_str).filter(|value| !value.is_empty())
}

impl Role {
    /// What the bundle with these annotations is.
    ///
    /// # Errors
    /// [`AnnotationError`].
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Self, AnnotationError> {
        let missing = |keys: [&'static str; 2]| AnnotationError::Missing { key: keys[0] };
        match find(annotations, TYPES) {
            None => Ok(Self::Single),
            Some("sandbox") => Ok(Self::Sandbox),
            Some("container") => Ok(Self::Container {
                sandbox: find(annotations, SANDBOX_IDS).ok_or_else(|| missing(SANDBOX_IDS))?.to_owned(),
                name: find(annotations, CONTAINER_NAMES).ok_or_else(|| missing(CONTAINER_NAMES))?.to_owned(),
            }),
            Some(found) => Err(AnnotationError::Type { key: TYPE, found: found.to_owned() }),
        }
    }
}

/// The container's name in the pod, where the container manager says one.
pub fn container_name(annotations: &BTreeMap<String, String>) -> Option<&str> {
    find(annotations, CONTAINER_NAMES)
}

/// `NAMESPACE/NAME` of the pod, for messages.
pub fn pod_name(annotations: &BTreeMap<String, String>) -> Option<String> {
    Some(format!("{}/{}", find(annotations, POD_NAMESPACES)?, find(annotations, POD_NAMES)?))
}

/// The value of the initdata annotation.
///
/// # Errors
/// [`AnnotationError::NoInitdata`].
pub fn initdata(annotations: &BTreeMap<String, String>) -> Result<&str, AnnotationError> {
    annotations.get(INITDATA).map(String::as_str).ok_or(AnnotationError::NoInitdata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn both_spellings_say_what_a_bundle_is() {
        for (kind, sandbox, name) in
            [(TYPES[0], SANDBOX_IDS[0], CONTAINER_NAMES[0]), (TYPES[1], SANDBOX_IDS[1], CONTAINER_NAMES[1])]
        {
            assert_eq!(Role::of(&map(&[(kind, "sandbox"), (sandbox, "s")])), Ok(Role::Sandbox));
            let container = map(&[(kind, "container"), (sandbox, "s"), (name, "web")]);
            assert_eq!(Role::of(&container), Ok(Role::Container { sandbox: "s".into(), name: "web".into() }));
            assert_eq!(
                Role::of(&map(&[(kind, "container"), (sandbox, "s")])),
                Err(AnnotationError::Missing { key: CONTAINER_NAMES[0] })
            );
        }
        assert_eq!(Role::of(&map(&[])), Ok(Role::Single));
        let found = "pod".to_owned();
        assert_eq!(Role::of(&map(&[(TYPES[0], "pod")])), Err(AnnotationError::Type { key: TYPES[0], found }));
    }

    #[test]
    fn a_pod_without_a_contract_is_told_how_to_get_one() {
        let error = initdata(&map(&[("x", "y")])).unwrap_err();
        assert!(error.to_string().contains("belljar apply"), "{error}");
        assert_eq!(initdata(&map(&[(INITDATA, "abc")])), Ok("abc"));
    }
}
