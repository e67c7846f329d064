//! Parsing, bounds, canonical form. Each refusal has a positive twin: the valid base contract, which differs in one field.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod arbitrary;

use arbitrary::{contract, values};
use belljar_contract::model::DEFAULT_PIDS;
use belljar_contract::{Contract, ContractError, HostType, Permission, Resources, User};
use proptest::prelude::*;

const BASE: &str = include_str!("data/scorer.toml");

/// The base contract with one text replaced; fails when the text is not there exactly once.
fn with(from: &str, to: &str) -> String {
    assert_eq!(BASE.matches(from).count(), 1, "{from:?} must be in the base contract once");
    BASE.replace(from, to)
}

fn refused(from: &str, to: &str) -> ContractError {
    Contract::parse(BASE).expect("the positive twin");
    Contract::parse(&with(from, to)).expect_err("the changed contract")
}

fn conflict(key: &str, other: &str, found: ContractError) {
    match found {
        ContractError::Conflict { key: k, other: o, .. } => assert_eq!((k.as_str(), o.as_str()), (key, other)),
        found => panic!("{found:?}"),
    }
}

fn malformed(key: &str, found: ContractError) {
    match found {
        ContractError::Malformed { key: k, .. } => assert_eq!(k, key),
        found => panic!("{found:?}"),
    }
}

fn out_of_bounds(key: &str, number: i128, found: ContractError) {
    match found {
        ContractError::OutOfBounds { key: k, found, .. } => assert_eq!((k.as_str(), found), (key, number)),
        found => panic!("{found:?}"),
    }
}

#[test]
fn the_base_contract_is_canonical_and_means_what_it_says() {
    let contract = Contract::parse(BASE).unwrap();
    assert_eq!(contract.to_toml(), BASE);
    let scorer = &contract.containers["scorer"];
    assert_eq!(scorer.user, User { uid: 1000, gid: 1000, additional_gids: vec![44], name: None });
    assert_eq!(scorer.resources, Resources { memory_bytes: Some(268_435_456), cpu_millis: None, pids: DEFAULT_PIDS });
    assert_eq!((scorer.logs, scorer.stdin), (Permission::Allow, Permission::Deny));
    assert_eq!((scorer.secrets[0].mode, scorer.hostname.as_str()), (0o400, "scorer"));
    assert_eq!((scorer.tmpfs[0].mode, scorer.tmpfs[0].size_bytes), (0o1777, 1_048_576));
    assert!(scorer.no_new_privileges && scorer.read_only_root && !contract.debug);
}

#[test]
fn unknown_keys_are_refused_by_their_full_name() {
    let unknown = |key: &str| ContractError::UnknownKey { key: key.into() };
    assert_eq!(refused("version = 1\n", "version = 1\nprivileged = true\n"), unknown("privileged"));
    assert_eq!(refused("[broker]\n", "[broker]\nurl = \"x\"\n"), unknown("broker.url"));
    assert_eq!(
        refused("cwd = \"/app\"\n", "cwd = \"/app\"\nprivileged = true\n"),
        unknown("containers.scorer.privileged")
    );
    assert_eq!(refused("data_blocks = 300 }", "data_blocks = 300, x = 1 }"), unknown("containers.scorer.layers[0].x"));
    assert_eq!(refused("uid = 1000,", "uid = 1000, umask = 0,"), unknown("containers.scorer.user.umask"));
    assert_eq!(
        refused("memory_bytes = 268435456", "memory_bytes = 268435456, swap = 1"),
        unknown("containers.scorer.resources.swap")
    );
    assert_eq!(
        refused("size_bytes = 1048576", "size_bytes = 1048576, uid = 1"),
        unknown("containers.scorer.tmpfs[0].uid")
    );
    assert_eq!(
        refused("name = \"model\",", "name = \"model\", env = \"X\","),
        unknown("containers.scorer.secrets[0].env")
    );
}

#[test]
fn missing_keys_wrong_types_and_versions_are_refused() {
    let missing = |key: &str| ContractError::MissingKey { key: key.into() };
    assert_eq!(refused("version = 1\n", ""), missing("version"));
    assert_eq!(refused("args = [\"/app/score\", \"--all\"]\n", ""), missing("containers.scorer.args"));
    assert_eq!(refused(", data_blocks = 300 }", " }"), missing("containers.scorer.layers[0].data_blocks"));
    let wrong = ContractError::WrongType { key: "containers.scorer.cwd".into(), expected: "string", found: "integer" };
    assert_eq!(refused("cwd = \"/app\"", "cwd = 7"), wrong);
    assert_eq!(refused("version = 1\n", "version = 2\nnew = 1\n"), ContractError::Version { found: 2, supported: 1 });
    assert!(matches!(refused("version = 1\n", "version = 1\nversion = 1\n"), ContractError::Toml { .. }));
    let none = Contract::parse("version = 1\n[containers]\n").unwrap_err();
    out_of_bounds("containers", 0, none);
    let big = format!("{BASE}# {}", "x".repeat(256 * 1024));
    assert_eq!(Contract::parse(&big), Err(ContractError::TooLarge { found: big.len(), limit: 256 * 1024 }));
}

#[test]
fn bounds_of_text() {
    let at = |field: &str| format!("containers.scorer.{field}");
    malformed(
        "containers.Scorer",
        Contract::parse(&BASE.replace("containers.scorer", "containers.Scorer")).unwrap_err(),
    );
    malformed(&at("image_digest"), refused("sha256:d", "sha256:D"));
    malformed(&at("image_digest"), refused("sha256:d", "md5:d"));
    malformed(&at("layers[0].verity_root"), refused("verity_root = \"a", "verity_root = \"A"));
    malformed(&at("layers[0].verity_root"), refused("verity_root = \"a", "verity_root = \""));
    malformed(&at("layers[0].salt"), refused("salt = \"00ff\"", "salt = \"00f\""));
    malformed("broker.spki_sha256", refused("spki_sha256 = \"b", "spki_sha256 = \"g"));
    for path in ["app", "/app/", "/a//b", "/a/../b", "/a/.", "", "/a\\u0007"] {
        malformed(&at("cwd"), refused("cwd = \"/app\"", &format!("cwd = \"{path}\"")));
    }
    malformed(&at("env"), refused("MODE = \"fast\"", "\"MO=DE\" = \"fast\""));
    malformed(&at("env"), refused("MODE = \"fast\"", "\"\" = \"fast\""));
    malformed(&at("env.MODE"), refused("MODE = \"fast\"", "MODE = \"fa\\u0000st\""));
    malformed(&at("args[0]"), refused("[\"/app/score\", \"--all\"]", "[\"\"]"));
    malformed(&at("capabilities[0]"), refused("CAP_CHOWN", "CAP_EVERYTHING"));
    malformed(&at("secrets[0].resource"), refused("kbs:///default/key/model", "kbs:///default/../model"));
    malformed(&at("secrets[0].resource"), refused("kbs:///default/key/model", "kbs://host/default/key/model"));
    malformed(&at("secrets[0].resource"), refused("kbs:///default/key/model", "kbs:///default/key"));
    malformed(&at("secrets[0].name"), refused("name = \"model\"", "name = \"../model\""));
    malformed(&at("logs"), refused("logs = \"allow\"", "logs = \"maybe\""));
    malformed(&at("hostname"), refused("logs = \"allow\"", "hostname = \"-x\""));
    malformed(&at("user.name"), refused("{ uid = 1000, gid = 1000,", "{ name = \"a:b:c\","));
}

#[test]
fn bounds_of_numbers() {
    let at = |field: &str| format!("containers.scorer.{field}");
    out_of_bounds(&at("user.uid"), 4_294_967_295, refused("uid = 1000", "uid = 4294967295"));
    out_of_bounds(&at("user.uid"), -1, refused("uid = 1000", "uid = -1"));
    out_of_bounds(&at("layers[0].data_blocks"), 0, refused("data_blocks = 300", "data_blocks = 0"));
    out_of_bounds(&at("layers"), 0, Contract::parse(&strip_array("layers")).unwrap_err());
    out_of_bounds(&at("args"), 0, refused("[\"/app/score\", \"--all\"]", "[]"));
    out_of_bounds(&at("resources.memory_bytes"), 5, refused("268435456", "5"));
    out_of_bounds(&at("resources.pids"), 0, refused("memory_bytes = 268435456", "pids = 0"));
    out_of_bounds(&at("resources.cpu_millis"), 9, refused("memory_bytes = 268435456", "cpu_millis = 9"));
    out_of_bounds(&at("tmpfs[0].size_bytes"), 0, refused("1048576", "0"));
    out_of_bounds(&at("tmpfs[0].mode"), 0o4777, refused("size_bytes = 1048576", "mode = 0o4777"));
    out_of_bounds(&at("scratch_bytes"), 1, refused("logs = \"allow\"", "scratch_bytes = 1"));
    let mode = "path = \"/run/secrets/model\", mode = 0o1400";
    out_of_bounds(&at("secrets[0].mode"), 0o1400, refused("path = \"/run/secrets/model\"", mode));
}

fn strip_array(name: &str) -> String {
    let (before, rest) = BASE.split_once(&format!("{name} = [\n")).unwrap();
    let (_, after) = rest.split_once("]\n").unwrap();
    format!("{before}{name} = []\n{after}")
}

#[test]
fn rules_between_fields() {
    let at = |field: &str| format!("containers.scorer.{field}");
    let secret = "\", path = \"/run/secrets/model\" },\n";
    let second = |path: &str, name: &str| {
        format!("{secret}  {{ name = \"{name}\", resource = \"kbs:///default/key/other\", path = \"{path}\" }},\n")
    };
    assert!(Contract::parse(&with(secret, &second("/run/secrets/other", "other"))).is_ok());
    let equal = refused(secret, &second("/run/secrets/model", "other"));
    conflict(&at("secrets[1].path"), &at("secrets[0].path"), equal);
    let below = refused(secret, &second("/run/secrets/model/x", "other"));
    conflict(&at("secrets[1].path"), &at("secrets[0].path"), below);
    conflict(&at("secrets[1].name"), &at("secrets[0].name"), refused(secret, &second("/run/secrets/other", "model")));

    // The tmpfs of the base contract is /run, above the secret: allowed. On or below it: not.
    for path in ["/run/secrets/model", "/run/secrets/model/deep"] {
        let found = refused("path = \"/run\"", &format!("path = \"{path}\""));
        conflict(&at("tmpfs[0].path"), &at("secrets[0].path"), found);
    }
    for path in ["/proc/x", "/sys", "/dev/secret", "/"] {
        malformed(&at("secrets[0].path"), refused("/run/secrets/model", path));
        malformed(&at("tmpfs[0].path"), refused("path = \"/run\"", &format!("path = \"{path}\"")));
    }
    assert!(Contract::parse(&with("/run/secrets/model", "/process/model")).is_ok());
    let hide = "path = \"/run/x\" },\n  { path = \"/run\"";
    conflict(&at("tmpfs[1].path"), &at("tmpfs[0].path"), refused("path = \"/run\"", hide));
    let twice = "path = \"/run\" },\n  { path = \"/run\"";
    conflict(&at("tmpfs[1].path"), &at("tmpfs[0].path"), refused("path = \"/run\"", twice));
    let found = refused("[\"CAP_CHOWN\"]", "[\"CAP_CHOWN\", \"CAP_CHOWN\"]");
    conflict(&at("capabilities[1]"), &at("capabilities"), found);
    conflict(&at("user.name"), &at("user.uid"), refused("{ uid = 1000,", "{ name = \"app\", uid = 1000,"));

    let (pin, rest) = BASE.split_at(BASE.find("[containers").unwrap());
    assert!(pin.contains("[broker]"));
    let unpinned = Contract::parse(&format!("version = 1\n{rest}")).unwrap_err();
    assert_eq!(unpinned, ContractError::NoBroker { key: at("secrets") });
}

#[test]
fn plain_words_name_what_matters() {
    let words = Contract::parse(BASE).unwrap().plain_words();
    let all = words.join("\n");
    for part in [
        "This pod may run one container, scorer, and nothing else.",
        "scorer: runs the command /app/score --all in /app.",
        "scorer: runs as user 1000, group 1000 and also groups 44.",
        "scorer: cannot change its files.",
        "scorer: gets the secret model (kbs:///default/key/model) as the file /run/secrets/model, if the broker agrees.",
        "scorer: its output leaves the pod, so whoever runs the host can read it.",
        "scorer: is limited to 256 MiB of memory.",
    ] {
        assert!(all.contains(part), "{part:?} is not in\n{all}");
    }
    assert!(words.iter().all(|word| !word.contains('\n')));
    let debug = Contract::parse(&with("version = 1\n", "version = 1\ndebug = true\n")).unwrap().plain_words();
    assert!(debug.iter().any(|word| word.starts_with("DEBUGGING IS ALLOWED")));
    let powerful = Contract::parse(&with("CAP_CHOWN", "CAP_SYS_ADMIN")).unwrap().plain_words().join("\n");
    assert!(powerful.contains("scorer: CAN TAKE OVER THE WHOLE POD, and read every secret in it, by CAP_SYS_ADMIN."));
    assert!(!all.contains("CAN TAKE OVER"));
    let with_api = Contract::parse(&with("logs = \"allow\"", "logs = \"allow\"\nsecret_api = true"))
        .unwrap()
        .plain_words()
        .join("\n");
    let sentence = "scorer: every program of the pod can also read this container's secrets at http://127.0.0.1:8006.";
    assert!(with_api.contains(sentence) && !all.contains(sentence), "{with_api}");
    // A command that would print as another one is shown escaped.
    let tricky = with("--all", "a\\nb \\u202Ec");
    let tricky = Contract::parse(&tricky).unwrap().plain_words().join("\n");
    assert!(tricky.contains(r"'a\nb \u{202e}c'"), "{tricky}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_contract_survives_its_canonical_form(
        contract in contract(),
    ) {
        prop_assert_eq!(contract.check(), Ok(()));
        let text = contract.to_toml();
        let read = Contract::parse(&text);
        prop_assert_eq!(read.as_ref(), Ok(&contract));
        prop_assert_eq!(read.unwrap().to_toml(), text);
        for (name, container) in &contract.containers {
            let host = values(&contract, container);
            // No value is at hand for a digest.
            let digest = container.env_from_host.values().any(|kind| matches!(kind, HostType::Sha256(_)));
            match belljar_contract::oci_spec(&contract, name, &host) {
                Ok(_) => prop_assert!(!digest),
                Err(ContractError::HostValue { .. }) => prop_assert!(digest),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
        prop_assert!(contract.plain_words().iter().chain(&contract.summary()).all(|line| !line.contains('\n')));
        prop_assert!(contract.summary().len() <= 10 + 2 * contract.containers.len());
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "\\PC{0,200}") {
        belljar_contract::parse::fuzz(text.as_bytes());
    }

    #[test]
    fn a_damaged_contract_is_parsed_without_panic(at in 0..BASE.len(), byte: u8) {
        let mut bytes = BASE.as_bytes().to_vec();
        bytes[at] = byte;
        belljar_contract::parse::fuzz(&bytes);
    }
}
