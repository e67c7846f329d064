//! Files of a volume on a memory file system, replaced as a whole by one rename, in the layout that Kubernetes gives to ConfigMaps
//! (`k8s.io/kubernetes/pkg/volume/util/atomic_writer.go`): a directory for each version, `..data` a symbolic link to the present
//! one, and each name in the root a link through `..data`. Programs that watch `..data` see the update at once.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

use super::check::Accepted;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Name of the directory of a version, in the volume's root.
pub fn directory(version: u64) -> String {
    format!("..v{version}")
}

/// Makes `files` the content of the volume at `root`, as `version`, at once. On failure the content is what it was. [`tidy`] must follow.
pub fn replace(root: &Path, version: u64, files: &[Accepted]) -> io::Result<()> {
    let name = directory(version);
    let (fresh, next) = (root.join(&name), root.join(NEXT));
    let prepared = write(&fresh, files).and_then(|()| {
        // Left by an attempt that failed.
        let _ = fs::remove_file(&next);
        symlink(&name, &next)?;
        fs::rename(&next, root.join(DATA))
    });
    if prepared.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    prepared
}

/// Gives each of the `files`, which are the content already, its name in the root, and removes names and versions from before.
pub fn tidy(root: &Path, version: u64, files: &[Accepted]) -> io::Result<()> {
    let name = directory(version);
    let wanted: BTreeSet<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(root)?.flatten() {
        let found = entry.file_name();
        let found = found.to_string_lossy();
        if found == DATA || found == name.as_str() || wanted.contains(found.as_ref()) {
            continue;
        }
        match found.starts_with("..") {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn write(directory: &Path, files: &[Accepted]) -> io::Result<()> {
    let make = |path: &Path| {
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o755))
    };
    make(directory)?;
    for file in files {
        let path = directory.join(&file.path);
        let mut above: Vec<_> = path.ancestors().skip(1).take_while(|above| *above != directory).collect();
        above.reverse();
        above.into_iter().try_for_each(make)?;
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        written.write_all(&file.data)?;
        written.set_permissions(Permissions::from_mode(file.mode & 0o777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, u32, &str)]) -> Vec<Accepted> {
        let file = |(path, mode, data): &(&str, u32, &str)| Accepted {
            path: (*path).into(),
            mode: *mode,
            data: data.as_bytes().to_vec(),
        };
        files.iter().map(file).collect()
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Both steps.
    fn put(root: &Path, version: u64, files: &[Accepted]) -> io::Result<()> {
        replace(root, version, files).and_then(|()| tidy(root, version, files))
    }

    #[test]
    fn a_version_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, 1, &files(&[("a", 0o644, "one"), ("deep/er/b", 0o755, "two"), ("deep/c", 0o400, "")])).unwrap();
        assert_eq!(names(root), ["..data", "..v1", "a", "deep"]);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one");
        assert_eq!(fs::read_link(root.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::read_to_string(root.join("deep/er/b")).unwrap(), "two");
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a"), mode("deep/er/b"), mode("deep/c"), mode("deep/er")), (0o644, 0o755, 0o400, 0o755));

        let open = fs::File::open(root.join("a")).unwrap();
        put(root, 2, &files(&[("a", 0o600, "new"), ("z", 0o644, "last")])).unwrap();
        assert_eq!(names(root), ["..data", "..v2", "a", "z"]);
        assert_eq!((fs::read_to_string(root.join("a")).unwrap(), mode("a")), ("new".into(), 0o600));
        assert_eq!(io::read_to_string(open).unwrap(), "one", "who has a file open keeps it");

        put(root, 3, &[]).unwrap();
        assert_eq!(names(root), ["..data", "..v3"]);
    }

    #[test]
    fn a_failure_leaves_the_content_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, 1, &files(&[("a", 0o644, "one")])).unwrap();
        // A file where a directory is needed.
        assert!(put(root, 2, &files(&[("b", 0o644, ""), ("b/c", 0o644, "")])).is_err());
        assert_eq!(names(root), ["..data", "..v1", "a"]);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one");
        put(root, 2, &files(&[("b", 0o644, "two")])).unwrap();
        assert_eq!(names(root), ["..data", "..v2", "b"]);
    }
}
