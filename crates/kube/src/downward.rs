//! Values that the kubelet fills in: which of them are known beforehand, and of what type the others are.

use belljar_contract::HostType;

use crate::error::Reason;
use crate::plan::Context;

/// A value, or its type when the host gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// The value.
    Fixed(String),
    /// From the host.
    Host(HostType),
}

/// Labels and annotations that controllers put on pods.
const CONTROLLERS: [(&str, HostType); 9] = [
    ("pod-template-hash", HostType::DnsLabel),
    ("controller-revision-hash", HostType::DnsName),
    ("pod-template-generation", HostType::Integer),
    ("statefulset.kubernetes.io/pod-name", HostType::DnsName),
    ("apps.kubernetes.io/pod-index", HostType::Integer),
    ("job-name", HostType::DnsName),
    ("batch.kubernetes.io/job-name", HostType::DnsName),
    ("controller-uid", HostType::Uuid),
    ("batch.kubernetes.io/controller-uid", HostType::Uuid),
];
/// The annotation behind `JOB_COMPLETION_INDEX`; a label of the same name too.
pub(crate) const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The value of a `fieldRef.fieldPath`. `whole` allows all labels or annotations at once, as in a downward API volume.
pub(crate) fn field(path: &str, whole: bool, context: &Context<'_>) -> Result<Known, Reason> {
    use HostType::{Any, DnsLabel, DnsName, Ip, IpList, Uuid};
    let fixed_or = |value: Option<&str>, kind| Known::fixed(value).unwrap_or(Known::Host(kind));
    if let Some((map, key)) = path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        let known = match map {
            "metadata.labels" => context.labels.get(key),
            "metadata.annotations" => context.wishes.all.get(key),
            _ => return Err(unknown(path)),
        };
        if let Some(value) = known {
            return Ok(Known::Fixed(value.clone()));
        }
        let controllers = || CONTROLLERS.iter().find(|(name, _)| *name == key).map(|(_, kind)| kind.clone());
        let kind = if key == COMPLETION_INDEX { Some(HostType::Integer) } else { controllers() };
        return kind.map(Known::Host).ok_or_else(|| {
            Reason::Needs(format!("is {path}, and the pod template has no such key: add it to {map} of the template"))
        });
    }
    Ok(match path {
        "metadata.name" => fixed_or(context.pod_name, DnsName),
        "metadata.namespace" => fixed_or(context.namespace, DnsLabel),
        "metadata.uid" => Known::Host(Uuid),
        "spec.nodeName" => Known::Host(DnsName),
        "spec.serviceAccountName" => Known::Fixed(context.service_account.clone()),
        "status.podIP" | "status.hostIP" => Known::Host(Ip),
        "status.podIPs" | "status.hostIPs" => Known::Host(IpList),
        "metadata.labels" | "metadata.annotations" if whole => Known::Host(Any),
        _ => return Err(unknown(path)),
    })
}

impl Known {
    fn fixed(value: Option<&str>) -> Option<Self> {
        value.map(|value| Self::Fixed(value.to_owned()))
    }
}

fn unknown(path: &str) -> Reason {
    Reason::Malformed {
        expected: "metadata.name, .namespace, .uid, .labels['KEY'], .annotations['KEY'], spec.nodeName, \
                   spec.serviceAccountName, status.podIP, .podIPs, .hostIP or .hostIPs"
            .to_owned(),
        found: crate::error::cut(path),
    }
}
