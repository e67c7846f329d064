//! What one contract allows that another did not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod arbitrary;

use arbitrary::{container, contract, operator, settings, volume};
use belljar_contract::diff::Kind::{Changed, Narrowed, Widened};
use belljar_contract::{Container, Contract, HostType, Kind, Restart};
use proptest::prelude::*;

const BASE: &str = include_str!("data/scorer.toml");
const POD: &str = include_str!("data/pod.toml");

/// The differences that replacing one text makes, as kind, key and words.
fn differences(base: &str, from: &str, to: &str) -> Vec<(Kind, String, String)> {
    assert_eq!(base.matches(from).count(), 1, "{from:?} must be there once");
    let old = Contract::parse(base).unwrap();
    let new = Contract::parse(&base.replace(from, to)).unwrap();
    let forth = Contract::diff(&old, &new);
    let back = Contract::diff(&new, &old);
    // The way back is the mirror of the way there.
    let mirrored = |kind| match kind {
        Widened => Narrowed,
        Narrowed => Widened,
        Changed => Changed,
    };
    if forth.len() == back.len() {
        let keys = |changes: &[belljar_contract::Change]| {
            let mut keys: Vec<_> = changes.iter().map(|change| (change.key.clone(), change.kind)).collect();
            keys.sort();
            keys
        };
        let mut there: Vec<_> = keys(&forth).into_iter().map(|(key, kind)| (key, mirrored(kind))).collect();
        there.sort();
        assert_eq!(there, keys(&back));
    }
    forth.into_iter().map(|change| (change.kind, change.key, change.words)).collect()
}

fn one(base: &str, from: &str, to: &str) -> (Kind, String, String) {
    let mut all = differences(base, from, to);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn said(kind: Kind, key: &str, words: &str) -> (Kind, String, String) {
    (kind, key.to_owned(), words.to_owned())
}

#[test]
fn a_container_that_may_do_more() {
    let at = |field: &str| format!("containers.scorer.{field}");
    let words = "the output of scorer does not leave";
    assert_eq!(one(BASE, "logs = \"allow\"\n", ""), said(Narrowed, &at("logs"), words));
    let words = "scorer reads input of the host";
    assert_eq!(
        one(BASE, "logs = \"allow\"\n", "logs = \"allow\"\nstdin = \"allow\"\n"),
        said(Widened, &at("stdin"), words)
    );
    let words = "the host may start sh -c 'rm -rf /' in scorer";
    let exec = "logs = \"allow\"\nexec = [[\"sh\", \"-c\", \"rm -rf /\"]]\n";
    assert_eq!(one(BASE, "logs = \"allow\"\n", exec), said(Widened, &at("exec"), words));
    let words = "scorer has the right CAP_SYS_ADMIN";
    let found = one(BASE, "[\"CAP_CHOWN\"]", "[\"CAP_CHOWN\", \"CAP_SYS_ADMIN\"]");
    assert_eq!(found, said(Widened, &at("capabilities"), words));
    let words = "scorer may change its files";
    assert_eq!(one(BASE, "read_only_root = true\n", ""), said(Widened, &at("read_only_root"), words));
    let words = "scorer may use memory 512 MiB instead of 256 MiB";
    assert_eq!(
        one(BASE, "memory_bytes = 268435456", "memory_bytes = 536870912"),
        said(Widened, &at("resources.memory_bytes"), words)
    );
    let words = "scorer may use memory without limit instead of 256 MiB";
    assert_eq!(
        one(BASE, "resources = { memory_bytes = 268435456 }\n", ""),
        said(Widened, &at("resources.memory_bytes"), words)
    );
    let words = "scorer runs as user 0, group 0 and also groups 44 instead of user 1000, group 1000 and also groups 44";
    assert_eq!(one(BASE, "uid = 1000, gid = 1000", "uid = 0, gid = 0"), said(Widened, &at("user"), words));
    let words =
        "scorer runs as user 7, group 1000 and also groups 44 instead of user 1000, group 1000 and also groups 44";
    assert_eq!(one(BASE, "uid = 1000", "uid = 7"), said(Changed, &at("user"), words));
    let words = "scorer runs the command /app/score --none instead of /app/score --all";
    assert_eq!(one(BASE, "--all", "--none"), said(Changed, &at("args"), words));
    let words = "the variable MODE of scorer is 'slow' instead of 'fast'";
    assert_eq!(one(BASE, "MODE = \"fast\"", "MODE = \"slow\""), said(Changed, &at("env.MODE"), words));
    let words = "the secret model of scorer is kbs:///default/key/other instead of kbs:///default/key/model";
    assert_eq!(
        one(BASE, "default/key/model", "default/key/other"),
        said(Changed, &at("secrets.model.resource"), words)
    );
    let digest = "sha256:d5d4";
    let (kind, key, _) = one(BASE, "sha256:d4d4", digest);
    assert_eq!((kind, key), (Changed, at("image_digest")));
    let words = "the host can read the guest's console";
    assert_eq!(one(BASE, "version = 1\n", "version = 1\ndebug = true\n"), said(Widened, "debug", words));
    // From a fixed value to one of the host: the fixed value is gone, and the host has a say.
    let old = "MODE = \"fast\"\nPATH = \"/usr/bin:/bin\"\n";
    let new = "PATH = \"/usr/bin:/bin\"\n[containers.scorer.env_from_host]\nMODE = \"integer\"\n";
    let expected = vec![
        said(Changed, &at("env.MODE"), "the variable MODE of scorer is nothing instead of 'fast'"),
        said(
            Widened,
            &at("env_from_host.MODE"),
            "the host chooses the variable MODE of scorer: an integer in decimal digits",
        ),
    ];
    assert_eq!(differences(BASE, old, new), expected);
}

#[test]
fn a_pod_that_may_do_more() {
    let words = "the pod has no network";
    let without = "ports = [8080]";
    let found =
        differences(POD, "network = \"host\"\nhostname_from_host = true\ndns = \"host\"\nports = [8080]", without);
    assert_eq!(found[0], said(Narrowed, "pod.network", words));
    assert_eq!(found[1], said(Narrowed, "pod.hostname_from_host", "the host does not choose the host name"));
    let words = "names are resolved by nobody instead of the servers that the host chooses";
    assert_eq!(found[2], said(Narrowed, "pod.dns", words));
    let words = "the host may connect to port 9090 of the loopback interface";
    assert_eq!(one(POD, "ports = [8080]", "ports = [8080, 9090]"), said(Widened, "pod.ports", words));
    let words = "the operator may run any command";
    assert_eq!(
        one(POD, "logs = \"allow\"\n\n[volumes", "exec = \"allow\"\nlogs = \"allow\"\n\n[volumes"),
        said(Widened, "operator.exec", words)
    );
    let words = "the host chooses the file token of the volume token: anything instead of a JSON web token of at most 16384 bytes";
    assert_eq!(one(POD, "type = \"token\"", "type = \"any\""), said(Widened, "volumes.token.files.token.type", words));
    let words = "the host may put any further file into the volume token";
    assert_eq!(
        one(POD, "[volumes.token]\nkind = \"host\"\n", "[volumes.token]\nkind = \"host\"\nothers = true\n"),
        said(Widened, "volumes.token.others", words)
    );
    let (kind, key, _) = one(POD, "sha256 = \"c0", "sha256 = \"c1");
    assert_eq!((kind, key.as_str()), (Changed, "volumes.config.files.\"app.conf\".sha256"));
    let words = "the volume cache may take 2 MiB of memory instead of 1 MiB";
    assert_eq!(
        one(POD, "size_bytes = 1048576", "size_bytes = 2097152"),
        said(Widened, "volumes.cache.size_bytes", words)
    );
    let words = "web may be started again by the host when it has failed";
    assert_eq!(
        one(POD, "restart = \"always\"", "restart = \"on-failure\""),
        said(Narrowed, "containers.web.restart", words)
    );
    let words = "web may write to the volume cache at /var/cache";
    assert_eq!(
        one(POD, "path = \"/var/cache\", read_only = true", "path = \"/var/cache\""),
        said(Widened, "containers.web.mounts.\"/var/cache\".read_only", words)
    );
    let words = "the host chooses the variable POD_IP of web: 1 to 32 IP addresses with commas between them instead of an IP address";
    assert_eq!(
        one(POD, "POD_IP = \"ip\"", "POD_IP = \"ip-list\""),
        said(Widened, "containers.web.env_from_host.POD_IP", words)
    );
}

#[test]
fn a_new_container_is_told_with_all_its_rights() {
    let old = Contract::parse(BASE).unwrap();
    let mut new = old.clone();
    new.containers.insert("other".into(), old.containers["scorer"].clone());
    let found: Vec<(Kind, String)> =
        Contract::diff(&old, &new).into_iter().map(|change| (change.kind, change.key)).collect();
    let expected = ["", ".capabilities", ".tmpfs.\"/run\"", ".secrets.model", ".logs"];
    assert_eq!(found, expected.map(|field| (Widened, format!("containers.other{field}"))));
    let gone: Vec<(Kind, String)> =
        Contract::diff(&new, &old).into_iter().map(|change| (change.kind, change.key)).collect();
    assert_eq!(gone, [(Narrowed, "containers.other".to_owned())]);
}

#[test]
fn an_order_alone_is_a_change() {
    let base = BASE.replace("[\"CAP_CHOWN\"]", "[\"CAP_CHOWN\", \"CAP_KILL\"]");
    let found = one(&base, "[\"CAP_CHOWN\", \"CAP_KILL\"]", "[\"CAP_KILL\", \"CAP_CHOWN\"]");
    let words = "the same entries stand in another order, or another number of times";
    assert_eq!(found, said(Changed, "containers.scorer.capabilities", words));
}

macro_rules! each_field {
    ($old:expr, $new:expr, $type:ident { $($field:ident),* $(,)? }, $check:expr) => {{
        // Does not compile when the list lacks a field.
        let $type { $($field: _),* } = &$old;
        $({
            let mut changed = $old.clone();
            changed.$field = $new.$field.clone();
            $check(stringify!($field), changed.$field != $old.$field, changed);
        })*
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_differs_from_itself(contract in contract()) {
        prop_assert_eq!(Contract::diff(&contract, &contract), vec![]);
    }

    #[test]
    fn different_contracts_differ_and_the_way_back_is_the_mirror(old in contract(), new in contract()) {
        let (forth, back) = (Contract::diff(&old, &new), Contract::diff(&new, &old));
        prop_assert_eq!(forth.is_empty(), old == new);
        let has = |changes: &[belljar_contract::Change], kind| changes.iter().any(|change| change.kind == kind);
        prop_assert_eq!(has(&forth, Widened), has(&back, Narrowed));
        prop_assert_eq!(has(&forth, Narrowed), has(&back, Widened));
        prop_assert!(forth.iter().all(|change| !change.words.contains('\n') && !change.key.contains('\n')));
    }

    #[test]
    fn each_field_of_a_container_is_compared(base in contract(), other in container()) {
        let (name, old) = base.containers.iter().next().unwrap();
        each_field!(old, other, Container {
            image, image_digest, layers, args, env, cwd, user, capabilities, no_new_privileges, read_only_root, tmpfs,
            scratch_bytes, resources, secrets, logs, stdin, exec, secret_api, hostname, terminal, init, restart, env_from_host,
            service_links, mounts,
        }, |field: &str, differs: bool, changed: Container| {
            let mut new = base.clone();
            new.containers.insert(name.clone(), changed);
            let found = Contract::diff(&base, &new);
            assert_eq!(!found.is_empty(), differs, "{field}: {found:?}");
            let key = format!("containers.{name}.{field}");
            assert!(found.iter().all(|change| change.key.starts_with(&key)), "{field}: {found:?}");
        });
    }

    #[test]
    fn each_field_of_the_pod_is_compared(base in contract(), other in contract()) {
        each_field!(base, other, Contract { version, broker, pod, operator, volumes, containers, debug },
            |field: &str, differs: bool, new: Contract| {
                let found = Contract::diff(&base, &new);
                assert_eq!(!found.is_empty(), differs, "{field}: {found:?}");
                assert!(found.iter().all(|change| change.key.starts_with(field)), "{field}: {found:?}");
            });
    }

    #[test]
    fn what_containers_share_is_compared(
        base in contract(), pod in settings(), operator in operator(), volumes in (volume(), volume()),
    ) {
        let mut new = base.clone();
        new.pod = pod;
        prop_assert_eq!(Contract::diff(&base, &new).is_empty(), base.pod == new.pod);
        let mut new = base.clone();
        new.operator = Some(operator);
        prop_assert_eq!(Contract::diff(&base, &new).is_empty(), base.operator == new.operator);
        let (mut old, mut new) = (base.clone(), base);
        old.volumes.insert("v".into(), volumes.0);
        new.volumes.insert("v".into(), volumes.1);
        prop_assert_eq!(Contract::diff(&old, &new).is_empty(), old.volumes == new.volumes);
    }

    #[test]
    fn a_type_that_is_wider_takes_what_the_narrower_takes(old in arbitrary::kind(), new in arbitrary::kind()) {
        let mut contract = Contract::parse(BASE).unwrap();
        let with = |contract: &mut Contract, kind: &HostType| {
            contract.containers.get_mut("scorer").unwrap().env_from_host.insert("X".into(), kind.clone());
            contract.clone()
        };
        let (before, after) = (with(&mut contract, &old), with(&mut contract, &new));
        let found = Contract::diff(&before, &after);
        let takes = |kind: &HostType, value: &HostType| kind.check(arbitrary::example(value).as_bytes()).is_ok();
        match found.first().map(|change| change.kind) {
            None => prop_assert_eq!(old, new),
            Some(Widened) => prop_assert!(takes(&new, &old) || matches!(old, HostType::Sha256(_))),
            Some(Narrowed) => prop_assert!(takes(&old, &new) || matches!(new, HostType::Sha256(_))),
            Some(Changed) => {}
        }
    }
}

#[test]
fn restarts_are_ordered() {
    assert!(Restart::Never < Restart::OnFailure && Restart::OnFailure < Restart::Always);
}
