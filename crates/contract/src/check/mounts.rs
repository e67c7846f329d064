//! Where memory file systems, volumes and secrets stand in a container.

use super::{conflict, count, malformed, own_place, range, relative, segment, within};
use crate::error::ContractError;
use crate::host_value::is_dns_label;
use crate::model::{Container, MAX_BYTES, MAX_LIST, MAX_VOLUMES, Secret, Tmpfs, VolumeMount};

impl Container {
    /// What is mounted where: memory file systems in their order, then volumes in theirs, then secrets.
    pub(super) fn check_mounts(&self, key: &str) -> Result<(), ContractError> {
        count(&format!("{key}.tmpfs"), self.tmpfs.len(), 0, MAX_LIST)?;
        for (index, tmpfs) in self.tmpfs.iter().enumerate() {
            let at = format!("{key}.tmpfs[{index}].path");
            tmpfs.check(&format!("{key}.tmpfs[{index}]"))?;
            for (other_index, other) in self.tmpfs.iter().enumerate().take(index) {
                let other_at = format!("{key}.tmpfs[{other_index}].path");
                if tmpfs.path == other.path {
                    return Err(conflict(at, other_at, "both are mounted at the same path"));
                }
                if within(&other.path, &tmpfs.path) {
                    return Err(conflict(at, other_at, "it would hide the mount that comes before it"));
                }
            }
        }
        count(&format!("{key}.mounts"), self.mounts.len(), 0, MAX_VOLUMES)?;
        for (index, mount) in self.mounts.iter().enumerate() {
            self.check_mount(key, index, mount)?;
        }
        count(&format!("{key}.secrets"), self.secrets.len(), 0, MAX_LIST)?;
        for (index, secret) in self.secrets.iter().enumerate() {
            let at = format!("{key}.secrets[{index}].path");
            secret.check(&format!("{key}.secrets[{index}]"))?;
            for (other_index, other) in self.secrets.iter().enumerate().take(index) {
                if secret.name == other.name {
                    let at = format!("{key}.secrets[{index}].name");
                    return Err(conflict(at, format!("{key}.secrets[{other_index}].name"), "the names are equal"));
                }
                if within(&secret.path, &other.path) || within(&other.path, &secret.path) {
                    let why = "both use the same path, or one lies below the other";
                    return Err(conflict(at, format!("{key}.secrets[{other_index}].path"), why));
                }
            }
            // A tmpfs *above* a secret is usual (/run and /run/secrets/key): secrets are mounted after it.
            for (other_index, other) in self.tmpfs.iter().enumerate() {
                if within(&other.path, &secret.path) {
                    let other_at = format!("{key}.tmpfs[{other_index}].path");
                    return Err(conflict(other_at, at, "the tmpfs would shadow the secret"));
                }
            }
            for (other_index, other) in self.mounts.iter().enumerate() {
                if within(&other.path, &secret.path) || within(&secret.path, &other.path) {
                    let why = "a secret and a volume use the same path, or one lies below the other";
                    return Err(conflict(at, format!("{key}.mounts[{other_index}].path"), why));
                }
            }
        }
        Ok(())
    }

    fn check_mount(&self, key: &str, index: usize, mount: &VolumeMount) -> Result<(), ContractError> {
        let place = format!("{key}.mounts[{index}]");
        let at = format!("{place}.path");
        let VolumeMount { volume, path, sub_path, read_only: _ } = mount;
        if !is_dns_label(volume) {
            return malformed(&format!("{place}.volume"), "the name of a volume, a DNS label", volume);
        }
        own_place(&at, path)?;
        if let Some(sub_path) = sub_path {
            relative(&format!("{place}.sub_path"), sub_path)?;
        }
        for (other_index, other) in self.mounts.iter().enumerate().take(index) {
            let other_at = format!("{key}.mounts[{other_index}].path");
            if *path == other.path {
                return Err(conflict(at, other_at, "both are mounted at the same path"));
            }
            if within(&other.path, path) {
                return Err(conflict(at, other_at, "it would hide the mount that comes before it"));
            }
            if within(path, &other.path) && other.read_only {
                return Err(conflict(at, other_at, "no mount point can be made in a mount that cannot be written"));
            }
        }
        // A tmpfs above a volume is usual (/run and /run/config): volumes are mounted after it.
        for (other_index, other) in self.tmpfs.iter().enumerate() {
            if within(&other.path, path) {
                let other_at = format!("{key}.tmpfs[{other_index}].path");
                return Err(conflict(other_at, at, "the tmpfs would be hidden by the volume"));
            }
        }
        Ok(())
    }
}

impl Tmpfs {
    fn check(&self, key: &str) -> Result<(), ContractError> {
        own_place(&format!("{key}.path"), &self.path)?;
        range(&format!("{key}.size_bytes"), self.size_bytes, 4096, MAX_BYTES)?;
        range(&format!("{key}.mode"), u64::from(self.mode), 0, 0o1777)
    }
}

impl Secret {
    fn check(&self, key: &str) -> Result<(), ContractError> {
        if !segment(&self.name, 63) {
            let expected = "1 to 63 letters, digits, '.', '_' or '-', not beginning with '.'";
            return malformed(&format!("{key}.name"), expected, &self.name);
        }
        let resource = self.resource.strip_prefix("kbs:///").unwrap_or_default();
        let segments: Vec<&str> = resource.split('/').collect();
        if segments.len() != 3 || !segments.iter().all(|part| segment(part, 128)) {
            return malformed(&format!("{key}.resource"), "kbs:///repository/type/tag", &self.resource);
        }
        own_place(&format!("{key}.path"), &self.path)?;
        range(&format!("{key}.mode"), u64::from(self.mode), 0, 0o777)
    }
}
