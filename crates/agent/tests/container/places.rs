//! Volumes in containers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use belljar_agent::container::ContainerError;
use belljar_agent::volumes::Volumes;
use belljar_contract::{Contract, HostFile, HostType, User, Volume, VolumeMount};
use belljar_guest_api::api::VolumeFile;

use crate::harness::{Case, root};

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { volume: volume.into(), path: path.into(), sub_path: None, read_only }
}

#[test]
fn a_volume_is_shared_and_written_only_where_it_may_be() {
    if !root() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut writer = Case::new(&["append:hello:/data/greeting", "stat:/data"]);
    writer.container.user = User { uid: 1000, gid: 1000, ..User::default() };
    writer.volumes = vec![(mount("shared", "/data", false), shared.path().to_owned())];
    let out = writer.output();
    assert!(out.starts_with("append /data/greeting: 0\nstat /data: 40777 0:0 "), "{out}");

    let mut reader = Case::new(&["cat:/in/greeting", "append:x:/in/more", "cat:/proc/self/mountinfo"]);
    reader.container.read_only_root = true;
    reader.volumes = vec![(mount("shared", "/in", true), shared.path().to_owned())];
    let out = reader.output();
    assert!(out.starts_with(&format!("helloappend /in/more: {}\n", libc::EROFS)), "{out}");
    let line = out.lines().find(|line| line.contains(" /in ")).unwrap();
    assert!(line.contains(" ro,nosuid,nodev"), "{line}");
    // Only this clone of the mount is read-only.
    fs::write(shared.path().join("more"), "").unwrap();
}

#[test]
fn a_volume_may_be_a_file_and_lie_in_another() {
    if !root() {
        return;
    }
    let from = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("dir")).unwrap();
    fs::write(from.path().join("file"), "one file\n").unwrap();
    let mut case = Case::new(&["cat:/dir/deep/file", "ls:/dir", "ls:/dir/deep"]);
    case.volumes = vec![
        (mount("outer", "/dir", false), from.path().join("dir")),
        (mount("inner", "/dir/deep/file", true), from.path().join("file")),
    ];
    assert_eq!(case.output(), "one file\nls /dir: deep\nls /dir/deep: file\n");
    // A symbolic link of the image leads nowhere else.
    case.volumes.truncate(1);
    case.layers = vec![|layer| symlink("/proc", layer.join("dir")).unwrap()];
    match case.run() {
        Err(ContainerError::MountPoint { path, .. }) => assert_eq!(path, "/dir"),
        other => panic!("{other:?}"),
    }
}

/// Who can write a volume (the host, another container) does not decide as whom a container runs.
#[test]
fn a_volume_over_the_user_list_makes_nobody_another_user() {
    if !root() {
        return;
    }
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("passwd"), "app:x:0:0::/:/\n").unwrap();
    fs::write(from.path().join("group"), "app:x:0:\nvideo:x:44:app\n").unwrap();
    let mut case = Case::new(&["ids", "cat:/etc/passwd"]);
    case.container.user = User { name: Some("app".into()), ..User::default() };
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/passwd"), "app:x:1234:2345::/srv:/\n").unwrap();
    }];
    case.volumes = vec![(mount("list", "/etc/passwd", true), from.path().join("passwd"))];
    assert_eq!(case.output(), "ids: 1234 2345 []\napp:x:0:0::/:/\n");
    case.volumes = vec![(mount("list", "/etc", true), from.path().to_owned())];
    assert_eq!(case.output(), "ids: 1234 2345 []\napp:x:0:0::/:/\n");
    // Without the image's word nobody has the name, whatever the volume says.
    case.layers.clear();
    match case.run() {
        Err(ContainerError::User(error)) => {
            assert!(error.to_string().contains("\"app\" is not in the image's /etc/passwd"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// A contract whose one container, of the probe, has these volumes.
fn contract(volumes: &[(&str, Volume)], mounts: Vec<VolumeMount>) -> Contract {
    let mut contract = Contract::parse(include_str!("container.toml")).unwrap();
    contract.volumes = volumes.iter().map(|(name, volume)| ((*name).to_owned(), volume.clone())).collect();
    contract.containers.get_mut("probe").unwrap().mounts = mounts;
    contract.check().unwrap();
    contract
}

fn any() -> Volume {
    let file = HostFile { kind: HostType::Any, mode: 0o640, optional: true };
    Volume::Host { files: [("a".into(), file)].into(), others: true }
}

fn file(path: &str, data: &str) -> VolumeFile {
    VolumeFile { path: path.into(), data: data.into(), ..Default::default() }
}

#[test]
fn files_of_the_host_appear_change_at_once_and_stay_where_a_part_is_mounted() {
    if !root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let part = VolumeMount { sub_path: Some("a".into()), ..mount("config", "/etc/a", true) };
    let contract = contract(&[("config", any())], vec![mount("config", "/config", true), part]);
    let volumes = Volumes::in_directory(place.path().to_owned());
    let missing = volumes.binds(&contract, "probe").unwrap_err().to_string();
    assert!(missing.starts_with("volume \"config\" has no files yet, which container \"probe\" needs"), "{missing}");
    volumes.put(&contract, "config", vec![file("a", "one"), file("deep/b", "two")]).unwrap();

    let mut case =
        Case::new(&["cat:/config/a", "cat:/config/deep/b", "stat:/config/a", "cat:/etc/a", "append:x:/config/a"]);
    case.container.mounts = contract.containers["probe"].mounts.clone();
    case.given = Some(volumes.binds(&contract, "probe").unwrap()).into();
    let errno = libc::EROFS;
    assert_eq!(case.output(), format!("onetwostat /config/a: 100640 0:0 3\noneappend /config/a: {errno}\n"));

    // A running container: the update comes in the directory, and not in the file that is mounted by itself.
    case.container.args =
        ["/bin/probe", "stdin-line", "cat:/config/a", "cat:/etc/a", "ls:/config"].map(str::to_owned).to_vec();
    case.given = Some(volumes.binds(&contract, "probe").unwrap()).into();
    let (running, [mut stdout, _], mut stdin, _layers) = case.start_interactive();
    volumes.put(&contract, "config", vec![file("a", "new")]).unwrap();
    std::io::Write::write_all(&mut stdin, b"\n").unwrap();
    let mut out = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut out).unwrap();
    assert_eq!(out, "newonels /config: ..data ..v2 a\n");
    running.wait().unwrap();
    running.cleanup().unwrap();
}

#[test]
fn a_part_of_a_volume_is_never_found_through_a_link() {
    if !root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let scratch = Volume::Scratch { size_bytes: 1 << 20 };
    let at = |sub: &str| {
        let part = VolumeMount { sub_path: Some(sub.into()), ..mount("work", "/work", false) };
        contract(&[("work", scratch.clone())], vec![part])
    };
    let volumes = Volumes::in_directory(place.path().to_owned());
    let root = place.path().join("work");
    fs::create_dir(&root).unwrap();
    // Missing, it is made, for everybody.
    assert_eq!(volumes.binds(&at("a/b"), "probe").unwrap().len(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&root.join("a")), mode(&root.join("a/b"))), (0o777, 0o777));
    for (name, target) in [("link", outside.path().to_str().unwrap()), ("up", "../.."), ("in", "a")] {
        symlink(target, root.join(name)).unwrap();
        for sub in [name.to_owned(), format!("{name}/b")] {
            let error = volumes.binds(&at(&sub), "probe").unwrap_err().to_string();
            assert!(error.starts_with(&format!("volume \"work\" has no usable sub_path {sub:?}: ")), "{error}");
        }
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn an_update_that_fails_half_way_leaves_content_and_can_be_repeated() {
    let place = tempfile::tempdir().unwrap();
    let contract = contract(&[("config", any())], vec![mount("config", "/config", true)]);
    let volumes = Volumes::in_directory(place.path().to_owned());
    let root = place.path().join("config");
    let read = || fs::read_to_string(root.join("a")).unwrap();
    volumes.put(&contract, "config", vec![file("a", "one")]).unwrap();
    // What cannot be cleared away stops an update after its content is there.
    fs::create_dir(root.join("stray")).unwrap();
    for _ in 0..2 {
        let error = volumes.put(&contract, "config", vec![file("a", "two")]).unwrap_err();
        assert!(error.to_string().starts_with("volume \"config\": "), "{error}");
        assert_eq!(read(), "two");
    }
    fs::remove_dir(root.join("stray")).unwrap();
    volumes.put(&contract, "config", vec![file("a", "two")]).unwrap();
    assert_eq!(read(), "two");
    assert_eq!(volumes.binds(&contract, "probe").unwrap().len(), 1);
}
