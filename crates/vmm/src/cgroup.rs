//! The cgroup in which a pod's processes run on the host: below the pod's own one, where the kubelet has set the limits.
//!
//! A runtime gets the cgroup's path as `linux.cgroupsPath` of its bundle's configuration, and makes the cgroup itself.
//! With version 2 there is one hierarchy, with version 1 one for each controller, and some machines have both
//! (`cgroups(7)`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of a path.
const MAX_PATH: usize = 4096;

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The path cannot be used.
    #[error("cgroup path {found:?} {what}")]
    Path {
        /// The path, at most 200 bytes of it.
        found: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No hierarchy has the folder above it.
    #[error("no cgroup hierarchy has {parent:?}; is the pod still there?")]
    NoParent {
        /// The folder above.
        parent: String,
    },
    /// The system refuses.
    #[error("cgroup {path}: {error}")]
    System {
        /// The cgroup.
        path: PathBuf,
        /// The operating system's words.
        error: io::Error,
    },
}

/// A cgroup, in all hierarchies in which the one above it exists. It stays until it is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the cgroup with this `cgroupsPath`: `/kubepods/…/podUID/ID`, or in systemd's way `SLICE:PREFIX:ID`. One that
    /// exists is taken over.
    pub fn create(cgroups_path: &str) -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| CgroupError::System { path: "/proc/self/mountinfo".into(), error })?;
        Self::create_in(&hierarchies(&mounts), cgroups_path)
    }

    fn create_in(hierarchies: &[PathBuf], cgroups_path: &str) -> Result<Self, CgroupError> {
        let path = relative(cgroups_path)?;
        // Without a kubelet, containerd puts pods below a folder with its namespace's name, which is the runtime's to make and stays. A pod's
        // own folder is the kubelet's: where it is gone, so is the pod.
        if let Some(parent) = path.parent().filter(|parent| parent.components().count() == 1)
            && !hierarchies.iter().any(|hierarchy| hierarchy.join(parent).is_dir())
        {
            for hierarchy in hierarchies {
                let folder = hierarchy.join(parent);
                if fs::create_dir(&folder).is_ok() {
                    inherit_cpuset(hierarchy, &folder);
                }
            }
        }
        let mut folders = Vec::new();
        for hierarchy in hierarchies {
            let folder = hierarchy.join(&path);
            let Some(parent) = folder.parent().filter(|parent| parent.is_dir()) else { continue };
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    let undo = Self { folders };
                    let _ = undo.remove();
                    return Err(CgroupError::System { path: folder, error });
                }
                _ => {}
            }
            inherit_cpuset(parent, &folder);
            folders.push(folder);
        }
        match folders.is_empty() {
            true => Err(CgroupError::NoParent { parent: path.parent().unwrap_or(&path).display().to_string() }),
            false => Ok(Self { folders }),
        }
    }

    /// Its folders, for [`Options::cgroups`](crate::Options::cgroups).
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Removes it. One that is gone is no error; one with a process in it is.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut outcome = Ok(());
        for folder in &self.folders {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    outcome = Err(CgroupError::System { path: folder.clone(), error });
                }
                _ => {}
            }
        }
        outcome
    }
}

/// The opened `cgroup.procs` of those of the folders that exist.
pub(crate) fn procs(folders: &[PathBuf]) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for folder in folders {
        match OpenOptions::new().write(true).open(folder.join("cgroup.procs")) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// A new cpuset of version 1 has no processor and no memory node, and takes no process until it has.
fn inherit_cpuset(parent: &Path, folder: &Path) {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let ours = folder.join(name);
        // Version 2 has these files as well; there they are empty, and mean the parent's.
        if !parent.join("cgroup.controllers").exists()
            && fs::read_to_string(&ours).is_ok_and(|value| value.trim().is_empty())
            && let Ok(value) = fs::read(parent.join(name))
        {
            let _ = fs::write(&ours, value);
        }
    }
}

/// Where the hierarchies are mounted, from `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let cgroup = kind.starts_with("cgroup ") || kind.starts_with("cgroup2 ");
        if let Some(point) = place.split(' ').nth(4).filter(|_| cgroup) {
            let point = PathBuf::from(point);
            if !found.contains(&point) {
                found.push(point);
            }
        }
    }
    found
}

/// A `cgroupsPath` as a path below a hierarchy's mount point.
fn relative(cgroups_path: &str) -> Result<PathBuf, CgroupError> {
    let refused = |what| {
        let end = (0..=cgroups_path.len().min(200)).rev().find(|at| cgroups_path.is_char_boundary(*at)).unwrap_or(0);
        Err(CgroupError::Path { found: cgroups_path.get(..end).unwrap_or_default().to_owned(), what })
    };
    if cgroups_path.len() > MAX_PATH {
        return refused("is longer than 4096 bytes");
    }
    let path = match cgroups_path.split(':').collect::<Vec<_>>().as_slice() {
        [path] => (*path).to_owned(),
        [slice, prefix, id] => {
            let Some(folder) = slice_path(slice) else { return refused("names no slice of systemd") };
            match prefix.is_empty() {
                true => format!("{folder}/{id}"),
                false => format!("{folder}/{prefix}-{id}.scope"),
            }
        }
        _ => return refused("is neither a path nor SLICE:PREFIX:ID"),
    };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return refused("is empty");
    }
    if parts.iter().any(|part| matches!(*part, "." | "..")) || path.contains('\0') {
        return refused("has a part that is no name");
    }
    Ok(parts.iter().collect())
}

/// `a-b.slice` lies in `a.slice` (`systemd.slice(5)`).
fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty() && !name.contains('/'))?;
    let mut path = Vec::new();
    let mut whole = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        if !whole.is_empty() {
            whole.push('-');
        }
        whole.push_str(part);
        path.push(format!("{whole}.slice"));
    }
    Some(path.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read() {
        let read = |text: &str| relative(text).map(|path| path.display().to_string()).map_err(|e| e.to_string());
        assert_eq!(read("/kubepods/burstable/pod1/abc"), Ok("kubepods/burstable/pod1/abc".into()));
        assert_eq!(
            read("kubepods-burstable-pod1_2.slice:cri-containerd:abc"),
            Ok("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope"
                .into())
        );
        assert_eq!(read("/a/../b"), Err(r#"cgroup path "/a/../b" has a part that is no name"#.into()));
        assert_eq!(read("/"), Err(r#"cgroup path "/" is empty"#.into()));
        assert_eq!(read("a:b"), Err(r#"cgroup path "a:b" is neither a path nor SLICE:PREFIX:ID"#.into()));
        assert_eq!(read("a--b.slice:c:d"), Err(r#"cgroup path "a--b.slice:c:d" names no slice of systemd"#.into()));
        assert_eq!(read("../x.slice:c:d"), Err(r#"cgroup path "../x.slice:c:d" names no slice of systemd"#.into()));
    }

    #[test]
    fn hierarchies_are_found() {
        let mounts = "\
22 1 0:20 / /proc rw - proc proc rw
30 29 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
31 29 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
39 29 0:35 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
broken";
        let expected: Vec<PathBuf> = vec!["/sys/fs/cgroup/cpu".into(), "/sys/fs/cgroup/unified".into()];
        assert_eq!(hierarchies(mounts), expected);
    }

    #[test]
    fn the_folder_of_a_namespace_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchies = ["cpu", "memory"].map(|name| dir.path().join(name));
        for hierarchy in &hierarchies {
            fs::create_dir_all(hierarchy).unwrap();
        }
        let cgroup = Cgroup::create_in(&hierarchies, "/k8s.io/abc").unwrap();
        assert_eq!(cgroup.folders(), hierarchies.each_ref().map(|hierarchy| hierarchy.join("k8s.io/abc")));
        let error = Cgroup::create_in(&hierarchies, "/k8s.io/pod1/abc").unwrap_err();
        assert!(matches!(error, CgroupError::NoParent { .. }), "{error}");
    }

    #[test]
    fn it_is_made_where_the_pod_has_one_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchies = ["cpu", "memory", "systemd"].map(|name| dir.path().join(name));
        for (n, hierarchy) in hierarchies.iter().enumerate() {
            fs::create_dir_all(hierarchy.join(if n < 2 { "kubepods/pod1" } else { "" })).unwrap();
        }
        let cgroup = Cgroup::create_in(&hierarchies, "/kubepods/pod1/abc").unwrap();
        assert_eq!(cgroup.folders().len(), 2);
        assert_eq!(Cgroup::create_in(&hierarchies, "/kubepods/pod1/abc").unwrap(), cgroup);
        cgroup.remove().unwrap();
        cgroup.remove().unwrap();
        assert!(!hierarchies[0].join("kubepods/pod1/abc").exists());
        let error = Cgroup::create_in(&hierarchies, "/kubepods/pod2/abc").unwrap_err();
        assert_eq!(error.to_string(), r#"no cgroup hierarchy has "kubepods/pod2"; is the pod still there?"#);
        // Somebody is in it.
        let cgroup = Cgroup::create_in(&hierarchies, "/kubepods/pod1/abc").unwrap();
        fs::write(cgroup.folders()[0].join("tasks"), "1").unwrap();
        assert!(matches!(cgroup.remove(), Err(CgroupError::System { .. })));
    }
}
