//! From an image's configuration to a contract, from a contract to an OCI specification, and users by name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::collections::BTreeMap;
use std::path::Path;

use belljar_contract::build::DEFAULT_PATH;
use belljar_contract::model::{CAPABILITIES, DEFAULT_CAPABILITIES};
use belljar_contract::spec::{ALLOWED_SYSCALLS, MASKED_PATHS};
use belljar_contract::{
    Container, Contract, ContractError, HostValues, ImageFacts, Layer, ResolvedUser, RunOptions, User, oci_spec,
};
use oci_spec::image::ImageConfiguration;

fn config(config: &str) -> ImageConfiguration {
    let text = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    ImageConfiguration::from_reader(text.as_bytes()).unwrap()
}

fn run(config_json: &str, options: &RunOptions) -> Result<Container, ContractError> {
    Ok(contract(config_json, options)?.containers.remove("scorer").unwrap())
}

fn contract(config_json: &str, options: &RunOptions) -> Result<Contract, ContractError> {
    let config = config(config_json);
    let digest = format!("sha256:{}", "d4".repeat(32));
    let layers = vec![Layer { verity_root: "a5".repeat(32), salt: String::new(), data_blocks: 1 }];
    let facts = ImageFacts { reference: "oci:dir:tag", manifest_digest: &digest, config: &config, layers };
    Contract::from_image("scorer", &facts, options, None)
}

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn commands_as_docker_run_builds_them() {
    let both = r#"{"Entrypoint":["/app"],"Cmd":["-d"]}"#;
    let own = |entrypoint: Option<&[&str]>, rest: &[&str]| RunOptions {
        entrypoint: entrypoint.map(args),
        args: args(rest),
        ..RunOptions::default()
    };
    let command = |json, options: &RunOptions| run(json, options).map(|container| container.args);
    assert_eq!(command(both, &own(None, &[])), Ok(args(&["/app", "-d"])));
    assert_eq!(command(both, &own(None, &["-x"])), Ok(args(&["/app", "-x"])));
    assert_eq!(command(both, &own(Some(&["/sh"]), &["-x"])), Ok(args(&["/sh", "-x"])));
    assert_eq!(command(both, &own(Some(&["/sh"]), &[])), Ok(args(&["/sh"])));
    assert_eq!(command(both, &own(Some(&[]), &["/sh"])), Ok(args(&["/sh"])));
    assert_eq!(command(r#"{"Cmd":["/sh"]}"#, &own(None, &[])), Ok(args(&["/sh"])));
    assert_eq!(command("{}", &own(None, &[])), Err(ContractError::NoCommand { image: "oci:dir:tag".into() }));
    assert_eq!(command("null", &own(None, &["/sh"])), Ok(args(&["/sh"])));
}

#[test]
fn environment_directory_and_defaults() {
    let json = r#"{"Cmd":["/sh"],"Env":["A=1","B=x=y"],"WorkingDir":"srv/./app/"}"#;
    let options = RunOptions { env: BTreeMap::from([("A".into(), "2".into())]), ..RunOptions::default() };
    let container = run(json, &options).unwrap();
    let env: Vec<String> = container.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=2", "B=x=y", "HOSTNAME=scorer", &format!("PATH={DEFAULT_PATH}")]);
    assert_eq!(container.cwd, "/srv/app");
    assert_eq!(container.capabilities, DEFAULT_CAPABILITIES);
    assert!(container.no_new_privileges && container.logs.allowed() && !container.stdin.allowed());
    let terminal = run(json, &RunOptions { terminal: true, hostname: Some("h".into()), ..options.clone() }).unwrap();
    assert_eq!((terminal.env["TERM"].as_str(), terminal.env["HOSTNAME"].as_str()), ("xterm", "h"));
    let path = run(r#"{"Cmd":["/sh"],"Env":["PATH=/bin"]}"#, &RunOptions::default()).unwrap();
    assert_eq!(path.env["PATH"], "/bin");
    let broken = run(r#"{"Cmd":["/sh"],"Env":["PATH"]}"#, &RunOptions::default()).unwrap_err();
    assert!(matches!(broken, ContractError::Malformed { key, .. } if key == "containers.scorer.env"));
}

#[test]
fn users_keep_their_names_until_the_guest_resolves_them() {
    let user = |json: &str, flag: Option<&str>| {
        let options = RunOptions { user: flag.map(str::to_owned), ..RunOptions::default() };
        run(json, &options).map(|container| (container.user, container.capabilities.len()))
    };
    let numeric = |uid, gid| User { uid, gid, ..User::default() };
    let named = |name: &str| User { name: Some(name.into()), ..User::default() };
    let image = r#"{"Cmd":["/sh"],"User":"app"}"#;
    assert_eq!(user(r#"{"Cmd":["/sh"]}"#, None), Ok((numeric(0, 0), 8)));
    assert_eq!(user(image, None), Ok((named("app"), 8)));
    assert_eq!(user(image, Some("7:8")), Ok((numeric(7, 8), 0)));
    assert_eq!(user(image, Some("7")), Ok((named("7"), 8)));
    assert!(matches!(user(image, Some("a:b:c")), Err(ContractError::Malformed { .. })));
    assert!(matches!(user(image, Some("4294967295:1")), Err(ContractError::Malformed { .. })));

    let passwd =
        "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001::/srv:/bin/sh\n7:x:70:71::/seven:/\n";
    let group = "root:x:0:\napp:x:1001:\nvideo:x:44:app,other\naudio:x:29:other\nwheel:x:10:root,app\n";
    let resolve = |name: &str| User::from_text("user", name).unwrap().resolve(passwd, group);
    let resolved = |uid, gid, groups: &[u32], home: &str| {
        Ok(ResolvedUser { uid, gid, additional_gids: groups.to_vec(), home: home.into() })
    };
    assert_eq!(resolve("app"), resolved(1000, 1001, &[10, 44], "/srv"));
    assert_eq!(resolve("1000"), resolved(1000, 1001, &[10, 44], "/srv"));
    assert_eq!(resolve("app:video"), resolved(1000, 44, &[], "/srv"));
    assert_eq!(resolve("app:5"), resolved(1000, 5, &[], "/srv"));
    assert_eq!(resolve("5000"), resolved(5000, 0, &[], "/"));
    assert_eq!(resolve("1000:1000"), resolved(1000, 1000, &[], "/srv"));
    assert_eq!(resolve(""), resolved(0, 0, &[], "/root"));
    let unknown = |kind, name: &str, file| Err(ContractError::UnknownUser { kind, name: name.into(), file });
    assert_eq!(resolve("ghost"), unknown("user", "ghost", "/etc/passwd"));
    assert_eq!(resolve("app:ghost"), unknown("group", "ghost", "/etc/group"));
    let more = User { additional_gids: vec![9, 1001], ..named("app") };
    assert_eq!(more.resolve(passwd, group), resolved(1000, 1001, &[9, 10, 44], "/srv"));
}

#[test]
fn the_specification_says_what_the_contract_says() {
    let contract = Contract::parse(include_str!("data/scorer.toml")).unwrap();
    let spec = oci_spec(&contract, "scorer", &HostValues::default()).unwrap();
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(json["process"]["args"], serde_json::json!(["/app/score", "--all"]));
    assert_eq!(json["process"]["env"], serde_json::json!(["MODE=fast", "PATH=/usr/bin:/bin"]));
    assert_eq!(json["process"]["cwd"], "/app");
    assert_eq!(json["process"]["noNewPrivileges"], true);
    let user = serde_json::json!({"uid": 1000, "gid": 1000, "umask": 0o022, "additionalGids": [44]});
    assert_eq!(json["process"]["user"], user);
    assert_eq!(json["process"]["capabilities"]["bounding"], serde_json::json!(["CAP_CHOWN"]));
    assert_eq!(json["process"]["capabilities"]["ambient"], serde_json::json!([]));
    assert_eq!((&json["root"]["readonly"], &json["hostname"]), (&true.into(), &"scorer".into()));
    assert_eq!(
        json["linux"]["resources"],
        serde_json::json!({
            "memory": {"limit": 268_435_456, "swap": 268_435_456}, "pids": {"limit": 1024}
        })
    );
    let kinds: Vec<&str> =
        json["linux"]["namespaces"].as_array().unwrap().iter().map(|ns| ns["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["pid", "mount", "ipc", "uts", "cgroup"]);
    let own = spec.mounts().as_ref().unwrap().last().unwrap();
    assert_eq!(own.destination(), Path::new("/run"));
    assert!(own.options().as_ref().unwrap().contains(&"size=1048576".to_owned()));
    assert_eq!(spec.linux().as_ref().unwrap().masked_paths().as_ref().unwrap(), &MASKED_PATHS);
    assert!(json.get("annotations").is_none_or(|value| value.is_null() || value.as_object().unwrap().is_empty()));
    assert!(json.get("hooks").is_none());

    let mut wrong = contract.clone();
    wrong.containers.get_mut("scorer").unwrap().cwd = "app".into();
    let refused = oci_spec(&wrong, "scorer", &HostValues::default());
    assert!(matches!(refused, Err(ContractError::Malformed { key, .. }) if key == "containers.scorer.cwd"));
    let unknown = oci_spec(&contract, "other", &HostValues::default()).unwrap_err();
    assert_eq!(unknown, ContractError::NoContainer { name: "other".into(), known: "scorer".into() });
}

#[test]
fn capabilities_open_their_system_calls_and_no_others() {
    let contract = contract(r#"{"Cmd":["/sh"]}"#, &RunOptions::default()).unwrap();
    let mut container = contract.containers["scorer"].clone();
    let spec = |container: &Container| {
        let containers = BTreeMap::from([("scorer".to_owned(), container.clone())]);
        oci_spec(&Contract { containers, ..contract.clone() }, "scorer", &HostValues::default()).unwrap()
    };
    let calls = |container: &Container| {
        let spec = spec(container);
        let syscalls = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap().syscalls().clone().unwrap();
        syscalls.into_iter().filter(|call| call.args().is_none()).collect::<Vec<_>>()
    };
    let allowed = |container: &Container, name: &str| {
        let allow = oci_spec::runtime::LinuxSeccompAction::ScmpActAllow;
        calls(container).iter().any(|call| call.action() == allow && call.names().iter().any(|n| n == name))
    };
    for name in ["mount", "bpf", "keyctl", "setns", "unshare", "clone", "clone3", "io_uring_setup", "socket", "chroot"]
    {
        assert!(!allowed(&container, name) && !ALLOWED_SYSCALLS.contains(&name), "{name}");
    }
    assert!(allowed(&container, "execve"));
    container.capabilities = vec!["CAP_SYS_CHROOT".into()];
    assert!(allowed(&container, "chroot") && !allowed(&container, "mount"));
    container.capabilities = vec!["CAP_SYS_ADMIN".into()];
    assert!(allowed(&container, "mount") && allowed(&container, "clone3") && !allowed(&container, "keyctl"));
    assert!(ALLOWED_SYSCALLS.is_sorted());
    // The OCI library knows every capability that a contract can name.
    container.capabilities = CAPABILITIES.map(str::to_owned).to_vec();
    spec(&container);
}
