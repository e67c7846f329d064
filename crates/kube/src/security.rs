//! Security contexts of pods and containers.

use std::collections::{BTreeMap, BTreeSet};

use belljar_contract::model::{CAPABILITIES, MAX_ID, SYSCTLS};

use crate::error::Reason;
use crate::walk::{At, Fields};

/// Fields of both security contexts that are refused, and why.
pub const REFUSED: [(&str, &str); 4] = [
    ("seLinuxOptions", "the guest has no SELinux; remove it"),
    ("windowsOptions", "a pod VM runs Linux; remove it"),
    ("privileged", "a privileged container could take over its pod VM; name the capabilities that it needs"),
    ("seLinuxChangePolicy", "the guest has no SELinux; remove it"),
];

/// What a pod's security context says.
#[derive(Debug, Default)]
pub(crate) struct PodSecurity {
    user: UserWish,
    pub(crate) groups: Vec<u32>,
    pub(crate) fs_group: Option<u32>,
    pub(crate) sysctls: BTreeMap<String, String>,
}

/// Whom the container's process runs as, where YAML says so.
#[derive(Debug, Default, Clone)]
pub(crate) struct UserWish {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) non_root: bool,
}

/// What a container's security context says, with the pod's as default.
#[derive(Debug, Default)]
pub(crate) struct Security {
    pub(crate) user: UserWish,
    pub(crate) add: Vec<String>,
    pub(crate) drop: BTreeSet<String>,
    pub(crate) drop_all: bool,
    pub(crate) may_gain: bool,
    pub(crate) read_only_root: bool,
}

impl PodSecurity {
    pub(crate) fn read(at: Option<At<'_>>) -> Self {
        let Some(at) = at else { return Self::default() };
        let mut fields = at.fields();
        let mut security = Self { user: common(&mut fields, UserWish::default()), ..Self::default() };
        let id = |at: &At<'_>| at.number::<u32>(0, i64::from(MAX_ID));
        if let Some(at) = fields.take("supplementalGroups") {
            security.groups = at.list().iter().filter_map(id).collect();
        }
        security.fs_group = fields.take("fsGroup").and_then(|at| id(&at));
        fields.take("fsGroupChangePolicy").map(|at| at.word(&["Always", "OnRootMismatch"]));
        if let Some(at) = fields.take("supplementalGroupsPolicy")
            && at.text().is_some_and(|text| text != "Merge")
        {
            at.refuse("the groups of the image's /etc/group are added, as with Merge; remove it");
        }
        security.groups.extend(security.fs_group);
        security.groups.sort_unstable();
        security.groups.dedup();
        for at in fields.take("sysctls").iter().flat_map(At::list) {
            let mut sysctl = at.fields();
            let name = sysctl.need("name", "name the sysctl");
            let value = sysctl.need("value", "give its value").and_then(|at| at.text());
            let (Some(at), Some(value)) = (name, value) else { continue };
            let Some(name) = at.text() else { continue };
            let name = name.replace('/', ".");
            if SYSCTLS.contains(&name.as_str()) {
                security.sysctls.insert(name, value);
            } else {
                at.refuse(format!("only these can be set: {}", SYSCTLS.join(", ")));
            }
        }
        security
    }
}

impl Security {
    pub(crate) fn read(at: Option<At<'_>>, pod: &PodSecurity) -> Self {
        let mut security = Self { user: pod.user.clone(), ..Self::default() };
        let Some(at) = at else { return security };
        let mut fields = at.fields();
        security.user = common(&mut fields, security.user);
        security.may_gain = fields.flag("allowPrivilegeEscalation").unwrap_or(false);
        security.read_only_root = fields.flag("readOnlyRootFilesystem").unwrap_or(false);
        if let Some(at) = fields.take("procMount")
            && at.text().is_some_and(|text| text != "Default")
        {
            at.refuse("/proc is masked as with Default; remove it");
        }
        if let Some(at) = fields.take("capabilities") {
            let mut capabilities = at.fields();
            for at in capabilities.take("add").iter().flat_map(At::list) {
                security.add.extend(capability(&at));
            }
            for at in capabilities.take("drop").iter().flat_map(At::list) {
                match at.node.text() {
                    Some(name) if name.eq_ignore_ascii_case("ALL") => security.drop_all = true,
                    _ => security.drop.extend(capability(&at)),
                }
            }
        }
        security
    }

    /// The capabilities, from those that a container has when nothing is said.
    pub(crate) fn capabilities(&self, default: &[&str]) -> Vec<String> {
        let kept = default.iter().map(|name| (*name).to_owned()).filter(|_| !self.drop_all);
        let all: BTreeSet<String> =
            kept.filter(|name| !self.drop.contains(name)).chain(self.add.iter().cloned()).collect();
        all.into_iter().collect()
    }
}

/// Fields that pods and containers share.
fn common(fields: &mut Fields<'_>, from: UserWish) -> UserWish {
    fields.refuse(&REFUSED);
    for (key, ours, why) in [
        (
            "seccompProfile",
            "RuntimeDefault",
            "the guest always filters system calls by Belljar's own profile; write type RuntimeDefault, or remove it",
        ),
        ("appArmorProfile", "Unconfined", "the guest has no AppArmor; remove it"),
    ] {
        let Some(at) = fields.take(key) else { continue };
        let mut profile = at.fields();
        match profile.take("type") {
            Some(kind) if kind.node.text() == Some(ours) => {}
            Some(kind) => {
                kind.refuse(why);
                profile.forget();
            }
            None => {
                profile.missing("type", "say which profile");
                profile.forget();
            }
        }
    }
    let mut id = |key: &str| fields.take(key).and_then(|at| at.number::<u32>(0, i64::from(MAX_ID)));
    let (uid, gid) = (id("runAsUser").or(from.uid), id("runAsGroup").or(from.gid));
    let non_root = fields.take("runAsNonRoot");
    let wish = UserWish { uid, gid, non_root: non_root.as_ref().and_then(At::flag).unwrap_or(from.non_root) };
    if wish.non_root && wish.uid == Some(0) {
        let at = non_root.as_ref().unwrap_or(&fields.at);
        at.problem(Reason::Needs("asks for another user than root, and runAsUser is 0: change one of them".to_owned()));
    }
    wish
}

fn capability(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        at.refuse("all capabilities could take over the pod VM; name those that it needs");
        return None;
    }
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    if CAPABILITIES.contains(&name.as_str()) {
        return Some(name);
    }
    at.malformed("a capability such as NET_BIND_SERVICE", text);
    None
}
