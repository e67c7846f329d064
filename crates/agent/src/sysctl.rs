//! Kernel settings that the contract asks for.

use std::{collections::BTreeMap, fs, io, path::Path};

use belljar_contract::model::SYSCTLS;

/// Why a setting is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// It is none of those that a contract may set.
    #[error("sysctl {name} is not one that a pod may set, expected one of {}", SYSCTLS.join(", "))]
    Unknown {
        /// Its name.
        name: String,
    },
    /// The kernel refused.
    #[error("sysctl {name} cannot be set to {value:?}: {source}")]
    Kernel {
        /// Its name.
        name: String,
        /// The value.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Those of the settings that each IPC namespace, and so each container, has of its own (kernel/ipc_sysctl.c).
pub fn of_container(settings: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = |(name, _): &(&String, &String)| name.starts_with("kernel.shm");
    settings.iter().filter(own).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Applies settings, by name with dots, to the namespaces of the calling thread.
///
/// # Errors
/// [`SysctlError`] for the first that cannot be set.
pub fn apply(settings: &BTreeMap<String, String>) -> Result<(), SysctlError> {
    apply_below(Path::new("/proc/sys"), settings)
}

fn apply_below(root: &Path, settings: &BTreeMap<String, String>) -> Result<(), SysctlError> {
    for (name, value) in settings {
        if !SYSCTLS.contains(&name.as_str()) {
            return Err(SysctlError::Unknown { name: name.clone() });
        }
        let file = fs::OpenOptions::new().write(true).open(root.join(name.replace('.', "/")));
        file.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(|source| SysctlError::Kernel { name: name.clone(), value: value.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_files_with_slashes_for_dots() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("net/ipv4")).unwrap();
        let file = root.path().join("net/ipv4/tcp_syncookies");
        fs::write(&file, "1").unwrap();
        let set = |name: &str, value: &str| apply_below(root.path(), &[(name.to_owned(), value.to_owned())].into());
        set("net.ipv4.tcp_syncookies", "2").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "2");
        // Known, but this kernel has it not; and one that no pod may set.
        let missing = set("net.ipv4.ping_group_range", "0 1").unwrap_err();
        assert!(matches!(&missing, SysctlError::Kernel { source, .. } if source.kind() == io::ErrorKind::NotFound));
        let other = set("kernel.panic", "1").unwrap_err().to_string();
        assert!(
            other.starts_with("sysctl kernel.panic is not one that a pod may set, expected one of kernel."),
            "{other}"
        );
    }
}
