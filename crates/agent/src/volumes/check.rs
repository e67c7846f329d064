//! Whether files that the host brings are those that the contract wants. Pure: nothing is stored here.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use belljar_contract::{
    Volume,
    model::{DEFAULT_FILE_MODE, MAX_PATH},
};
use belljar_guest_api::{
    api::VolumeFile,
    limits::{MAX_VOLUME, MAX_VOLUME_FILES, one_line},
};

use super::VolumeError;

/// Longest name in a directory (`NAME_MAX`).
const MAX_COMPONENT: usize = 255;

/// A file that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Path relative to the volume's root; see [`is_path`].
    pub path: String,
    /// Mode, at most 0777.
    pub mode: u32,
    /// Content.
    pub data: Vec<u8>,
}

/// Judges all files of the volume `name`, which is `volume` in the contract, if it is there.
pub fn judge(name: &str, volume: Option<&Volume>, files: Vec<VolumeFile>) -> Result<Vec<Accepted>, VolumeError> {
    let volume = volume.ok_or_else(|| VolumeError::Unknown(one_line(name)))?;
    let this = || name.to_owned();
    if matches!(volume, Volume::Scratch { .. }) {
        return Err(VolumeError::Scratch { volume: this() });
    }
    if files.len() > MAX_VOLUME_FILES {
        return Err(VolumeError::TooMany { volume: this(), found: files.len() });
    }
    let found = files.iter().map(|file| file.data.len()).fold(0_usize, usize::saturating_add);
    if found > MAX_VOLUME {
        return Err(VolumeError::TooLarge { volume: this(), found });
    }
    if let Some(file) = files.iter().find(|file| !is_path(&file.path)) {
        return Err(VolumeError::Path { volume: this(), file: one_line(&file.path) });
    }
    distinct(name, &files)?;
    let found: BTreeMap<&str, &[u8]> = files.iter().map(|file| (file.path.as_str(), file.data.as_slice())).collect();
    let missing =
        |file: &str, expected: String| VolumeError::Missing { volume: this(), file: file.to_owned(), expected };
    let mut modes = BTreeMap::new();
    let others = match volume {
        Volume::Scratch { .. } => false,
        Volume::Measured { files } => {
            for (path, file) in files {
                let data = found.get(path.as_str()).ok_or_else(|| missing(path, format!("sha256 {}", file.sha256)))?;
                let sha256 = hex::encode(digest(&SHA256, data));
                if sha256 != file.sha256 {
                    let (file, expected) = (path.clone(), file.sha256.clone());
                    return Err(VolumeError::Content { volume: this(), file, expected, found: sha256 });
                }
                modes.insert(path.as_str(), file.mode);
            }
            false
        }
        Volume::Host { files, others } => {
            for (path, file) in files {
                match found.get(path.as_str()) {
                    Some(data) => file.kind.check(data).map_err(|error| VolumeError::HostType {
                        volume: this(),
                        file: path.clone(),
                        why: one_line(&error.to_string()),
                    })?,
                    None if file.optional => {}
                    None => return Err(missing(path, "it from the host".to_owned())),
                }
                modes.insert(path.as_str(), file.mode);
            }
            *others
        }
    };
    let accept = |file: VolumeFile| match modes.get(file.path.as_str()) {
        Some(mode) => Ok(Accepted { mode: *mode, path: file.path, data: file.data }),
        None if others => Ok(Accepted { mode: DEFAULT_FILE_MODE, path: file.path, data: file.data }),
        None => Err(VolumeError::NotListed { volume: this(), file: one_line(&file.path) }),
    };
    files.into_iter().map(accept).collect()
}

/// Whether it is relative, normalised, without NUL, and does not begin with `..`, as the names that make an update atomic do.
fn is_path(path: &str) -> bool {
    let component = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= MAX_COMPONENT;
    path.len() <= MAX_PATH && !path.starts_with("..") && !path.contains('\0') && path.split('/').all(component)
}

/// Refuses a path that comes twice, or that is a directory of another one.
fn distinct(name: &str, files: &[VolumeFile]) -> Result<(), VolumeError> {
    let clash = |file: &str| VolumeError::Clash { volume: name.to_owned(), file: one_line(file) };
    let mut seen = BTreeSet::new();
    if let Some(twice) = files.iter().find(|file| !seen.insert(file.path.as_str())) {
        return Err(clash(&twice.path));
    }
    for file in files {
        let above = file.path.match_indices('/').filter_map(|(at, _)| file.path.get(..at));
        if let Some(above) = above.into_iter().find(|above| seen.contains(above)) {
            return Err(clash(above));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_contract::model::{HostFile, HostType, MeasuredFile};
    use proptest::prelude::*;

    fn file(path: &str, data: &[u8]) -> VolumeFile {
        VolumeFile { path: path.into(), data: data.to_vec(), ..Default::default() }
    }

    fn sha(data: &[u8]) -> String {
        hex::encode(digest(&SHA256, data))
    }

    fn measured() -> Volume {
        let file = |data: &[u8], mode| MeasuredFile { sha256: sha(data), mode };
        Volume::Measured { files: [("a".into(), file(b"one", 0o644)), ("dir/b".into(), file(b"two", 0o755))].into() }
    }

    fn host(others: bool) -> Volume {
        let file = |kind, optional| HostFile { kind, mode: 0o600, optional };
        let files = [("address".into(), file(HostType::Ip, false)), ("note".into(), file(HostType::Any, true))];
        Volume::Host { files: files.into(), others }
    }

    #[test]
    fn a_measured_volume_is_exactly_its_files() {
        let volume = measured();
        let judge = |files| judge("v", Some(&volume), files);
        let right = vec![file("a", b"one"), file("dir/b", b"two")];
        let accepted = [("a", 0o644, b"one"), ("dir/b", 0o755, b"two")];
        let accepted = accepted.map(|(path, mode, data)| Accepted { path: path.into(), mode, data: data.to_vec() });
        assert_eq!(judge(right.clone()), Ok(accepted.to_vec()));

        let (volume, a) = ("v".to_owned(), "a".to_owned());
        let changed = vec![file("a", b"onE"), file("dir/b", b"two")];
        let expected = VolumeError::Content { volume, file: a, expected: sha(b"one"), found: sha(b"onE") };
        assert_eq!(judge(changed), Err(expected));
        let swapped = vec![file("a", b"two"), file("dir/b", b"one")];
        assert!(matches!(judge(swapped), Err(VolumeError::Content { .. })));
        let missing = VolumeError::Missing {
            volume: "v".into(),
            file: "dir/b".into(),
            expected: format!("sha256 {}", sha(b"two")),
        };
        assert_eq!(judge(vec![file("a", b"one")]), Err(missing));
        let mut more = right.clone();
        more.push(file("c", b""));
        assert_eq!(judge(more), Err(VolumeError::NotListed { volume: "v".into(), file: "c".into() }));
    }

    #[test]
    fn a_host_volume_has_typed_files_and_others_only_where_the_contract_says() {
        let (closed, open) = (host(false), host(true));
        let address = || file("address", b"10.0.0.1");
        let accepted = judge("v", Some(&closed), vec![address()]).unwrap();
        assert_eq!((accepted.len(), accepted[0].mode), (1, 0o600));
        assert!(judge("v", Some(&closed), vec![address(), file("note", b"x\0y")]).is_ok());
        match judge("v", Some(&closed), vec![file("address", b"10.0.0.256")]) {
            Err(VolumeError::HostType { volume, file, why }) => {
                assert_eq!((volume.as_str(), file.as_str()), ("v", "address"));
                assert!(why.contains("10.0.0.256") && why.contains("expected"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        let missing =
            VolumeError::Missing { volume: "v".into(), file: "address".into(), expected: "it from the host".into() };
        assert_eq!(judge("v", Some(&closed), vec![file("note", b"")]), Err(missing));
        let more = || vec![address(), file("deep/other", b"z")];
        assert_eq!(
            judge("v", Some(&closed), more()),
            Err(VolumeError::NotListed { volume: "v".into(), file: "deep/other".into() })
        );
        let accepted = judge("v", Some(&open), more()).unwrap();
        assert_eq!(accepted[1], Accepted { path: "deep/other".into(), mode: 0o644, data: b"z".to_vec() });
    }

    #[test]
    fn unknown_and_scratch_volumes_take_no_files() {
        assert_eq!(judge("w", None, vec![]), Err(VolumeError::Unknown("w".into())));
        let scratch = Volume::Scratch { size_bytes: 4096 };
        assert_eq!(judge("w", Some(&scratch), vec![]), Err(VolumeError::Scratch { volume: "w".into() }));
    }

    #[test]
    fn paths_stay_inside_and_sizes_are_bounded() {
        let open = host(true);
        let with = |path: &str| judge("v", Some(&open), vec![file("address", b"::1"), file(path, b"")]).map(drop);
        for good in ["a", "a/b", ".hidden", "a/..b", "a b", "ü"] {
            assert_eq!(with(good), Ok(()), "{good}");
        }
        let (long, deep) = ("x".repeat(256), "x/".repeat(2100) + "x");
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "../a", "..data", "..a/b", "a\0b", &long, &deep]
        {
            let refused = VolumeError::Path { volume: "v".into(), file: one_line(bad) };
            assert_eq!(with(bad), Err(refused), "{bad}");
        }
        let clash = VolumeError::Clash { volume: "v".into(), file: "address".into() };
        assert_eq!(with("address"), Err(clash.clone()));
        assert_eq!(with("address/x"), Err(clash));
        let large = |bytes: usize| {
            let files = [address(), file("x", &vec![0; bytes / 2]), file("y", &vec![0; bytes - bytes / 2])];
            judge("v", Some(&open), files.to_vec()).map(drop)
        };
        fn address() -> VolumeFile {
            file("address", b"::1")
        }
        assert_eq!(large(MAX_VOLUME - 3), Ok(()));
        assert_eq!(large(MAX_VOLUME - 2), Err(VolumeError::TooLarge { volume: "v".into(), found: MAX_VOLUME + 1 }));
        let many = |count: usize| {
            let files = (1..count).map(|number| file(&number.to_string(), b""));
            judge("v", Some(&open), files.chain([address()]).collect()).map(drop)
        };
        assert_eq!(many(MAX_VOLUME_FILES), Ok(()));
        let found = MAX_VOLUME_FILES + 1;
        assert_eq!(many(found), Err(VolumeError::TooMany { volume: "v".into(), found }));
    }

    proptest! {
        #[test]
        fn what_is_accepted_was_listed(paths in proptest::collection::vec("[ab./]{0,4}", 0..6), data in any::<u8>()) {
            let volume = measured();
            let files: Vec<_> = paths.iter().map(|path| file(path, &[data])).collect();
            prop_assert!(judge("v", Some(&volume), files).is_err());
        }
    }
}
