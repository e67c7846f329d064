//! Contracts that pass their check.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use belljar_contract::model::{DEFAULT_SCRATCH, SYSCTLS};
use belljar_contract::{
    BrokerPin, Container, Contract, Dns, HostFile, HostType, HostValues, Layer, MeasuredFile, Network, Operator,
    Permission, PodSettings, Resolver, Resources, Restart, Secret, Tmpfs, User, Volume, VolumeMount,
};
use proptest::prelude::*;

const LABEL: &str = "[a-z]([a-z0-9-]{0,10}[a-z0-9])?";

fn hex(length: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(b"0123456789abcdef".to_vec()), length)
        .prop_map(|bytes| String::from_utf8(bytes).unwrap())
}

fn path(top: &'static str) -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-zA-Z0-9_ é'\"\\\\-]{1,12}", 1..4)
        .prop_map(move |parts| format!("/{top}/{}", parts.join("/")))
}

prop_compose! {
    pub fn container()(
        (digest, root, salt) in (hex(64), hex(64), hex(64)),
        args in proptest::collection::vec("[^\0]{1,20}", 1..5),
        env in proptest::collection::btree_map("[!-<>-~]{1,12}", "[^\0]{0,30}", 0..5),
        (cwd, tmpfs, secret) in (path("w"), path("t"), path("s")),
        user in prop_oneof![
            (0..1_000_000_u32, 0..1_000_000_u32).prop_map(|(uid, gid)| User { uid, gid, ..User::default() }),
            "[a-z]{1,8}(:[a-z]{1,8})?".prop_map(|name| User { name: Some(name), ..User::default() }),
        ],
        additional_gids in proptest::collection::vec(0..70_000_u32, 0..4),
        flags in proptest::array::uniform7(any::<bool>()),
        (memory_bytes, cpu_millis, pids) in
            (proptest::option::of(1_u64 << 20..1 << 40), proptest::option::of(10..1_000_u64), 1..2000_u64),
        (scratch, mode) in (65_536..1_u64 << 30, 0..0o777_u32),
        exec in proptest::collection::vec(proptest::collection::vec("[^\0]{1,9}", 1..3), 0..3),
        hostname in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?",
        env_from_host in proptest::collection::btree_map("h_[a-z0-9]{0,8}", kind(), 0..3),
    ) -> Container {
        let permission = |allowed| if allowed { Permission::Allow } else { Permission::Deny };
        Container {
            image: "registry.example/a:1".into(),
            image_digest: format!("sha256:{digest}"),
            layers: vec![Layer { verity_root: root, salt, data_blocks: pids }],
            args,
            env: env.into_iter().filter(|(name, _)| !env_from_host.contains_key(name)).collect(),
            cwd,
            user: User { additional_gids, ..user },
            capabilities: if flags[0] { vec!["CAP_KILL".into(), "CAP_CHOWN".into()] } else { vec![] },
            no_new_privileges: flags[1],
            read_only_root: flags[2],
            tmpfs: vec![Tmpfs { path: tmpfs, size_bytes: scratch, mode }],
            scratch_bytes: if flags[3] { scratch } else { DEFAULT_SCRATCH },
            resources: Resources { memory_bytes, cpu_millis, pids },
            secrets: vec![Secret { name: "a".into(), resource: "kbs:///a/b/c".into(), path: secret, mode }],
            logs: permission(flags[4]),
            stdin: permission(flags[5]),
            exec,
            secret_api: flags[6],
            hostname,
            terminal: flags[0] != flags[1],
            init: 0,
            restart: [Restart::Never, Restart::OnFailure, Restart::Always][usize::from(flags[2]) + usize::from(flags[4])],
            env_from_host,
            service_links: flags[3],
            mounts: Vec::new(),
        }
    }
}

pub fn kind() -> impl Strategy<Value = HostType> {
    prop_oneof![
        (0..HostType::NAMED.len()).prop_map(|index| HostType::NAMED[index].0.clone()),
        hex(64).prop_map(HostType::Sha256),
    ]
}

pub fn permission() -> impl Strategy<Value = Permission> {
    prop_oneof![Just(Permission::Allow), Just(Permission::Deny)]
}

fn dns() -> impl Strategy<Value = Dns> {
    let list = proptest::collection::vec("[a-z]{1,8}(\\.[a-z_]{0,5}[a-z])?\\.?", 0..3);
    let options = proptest::collection::vec("[a-z]{1,8}(:[0-9]{1,3})?", 0..3);
    prop_oneof![
        Just(Dns::None),
        Just(Dns::Host),
        (proptest::collection::vec(any::<IpAddr>(), 1..4), list, options)
            .prop_map(|(nameservers, searches, options)| Dns::Fixed(Resolver { nameservers, searches, options })),
    ]
}

prop_compose! {
    pub fn settings()(
        host in any::<bool>(),
        hostname_from_host in any::<bool>(),
        dns in dns(),
        host_aliases in proptest::collection::btree_map(any::<IpAddr>(), proptest::collection::vec(LABEL, 1..3), 0..3),
        ports in proptest::collection::btree_set(8008_u16.., 0..3),
        sysctls in proptest::collection::btree_map(prop::sample::select(vec![SYSCTLS[0], SYSCTLS[4]]), "[01]", 0..2),
    ) -> PodSettings {
        PodSettings {
            network: if host { Network::Host } else { Network::None },
            hostname_from_host: hostname_from_host && host,
            dns: if !host && dns == Dns::Host { Dns::None } else { dns },
            host_aliases,
            ports: ports.into_iter().collect(),
            sysctls: sysctls.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }
}

pub fn operator() -> impl Strategy<Value = Operator> {
    (hex(64), permission(), permission()).prop_map(|(spki_sha256, exec, logs)| Operator { spki_sha256, exec, logs })
}

pub fn volume() -> impl Strategy<Value = Volume> {
    let paths = || "[a-zé_-][a-z.é '\"]{0,8}(/d[a-z]{1,4})?".prop_map(|path| path.replacen('/', ".d/", 1));
    let mode = || 0..=0o777_u32;
    let measured = (hex(64), mode()).prop_map(|(sha256, mode)| MeasuredFile { sha256, mode });
    let host = (kind(), mode(), any::<bool>()).prop_map(|(kind, mode, optional)| HostFile { kind, mode, optional });
    prop_oneof![
        (4096..1_u64 << 40).prop_map(|size_bytes| Volume::Scratch { size_bytes }),
        Just(Volume::Scratch { size_bytes: DEFAULT_SCRATCH }),
        proptest::collection::btree_map(paths(), measured, 0..4).prop_map(|files| Volume::Measured { files }),
        (proptest::collection::btree_map(paths(), host, 0..4), any::<bool>())
            .prop_map(|(files, others)| Volume::Host { others: others || files.is_empty(), files }),
    ]
}

prop_compose! {
    pub fn contract()(
        containers in proptest::collection::btree_map(LABEL, container(), 1..4),
        broker in hex(64).prop_map(|spki_sha256| BrokerPin { spki_sha256 }),
        (pod, operator) in (settings(), proptest::option::of(operator())),
        volumes in proptest::collection::btree_map(LABEL, volume(), 0..4),
        init in 0..3_usize,
        read_only: bool,
        debug: bool,
    ) -> Contract {
        let mut containers = containers;
        let last = init.min(containers.len() - 1);
        for (index, container) in containers.values_mut().take(last).enumerate() {
            // Places in the opposite order of names.
            container.init = u32::try_from(last - index).unwrap();
            if container.restart == Restart::Always {
                container.restart = Restart::OnFailure;
            }
        }
        for container in containers.values_mut() {
            let mounts = volumes.iter().map(|(name, volume)| VolumeMount {
                volume: name.clone(),
                path: format!("/v/{name}"),
                sub_path: match volume {
                    Volume::Scratch { .. } => read_only.then(|| "a/b".to_owned()),
                    Volume::Measured { files } => files.keys().next().cloned(),
                    Volume::Host { files, .. } => files.keys().next().cloned(),
                },
                read_only,
            });
            container.mounts = mounts.collect();
        }
        Contract { version: 1, broker: Some(broker), pod, operator, volumes, containers, debug }
    }
}

/// Values of the host for all that a container's contract leaves to it, except for contents with a digest.
pub fn values(contract: &Contract, container: &Container) -> HostValues {
    let env = container.env_from_host.iter().map(|(name, kind)| (name.clone(), example(kind)));
    HostValues {
        env: env.collect::<BTreeMap<_, _>>(),
        hostname: contract.pod.hostname_from_host.then(|| "pod-0".to_owned()),
    }
}

pub fn example(kind: &HostType) -> String {
    match kind {
        HostType::Ip => "10.0.0.1".into(),
        HostType::IpList => "10.0.0.1,fd00::1".into(),
        HostType::Port => "80".into(),
        HostType::Endpoint => "tcp://10.0.0.1:80".into(),
        HostType::Protocol => "tcp".into(),
        HostType::DnsName => "a.b".into(),
        HostType::DnsLabel => "a".into(),
        HostType::Uuid => "3f1c2a6e-0b1d-4c7e-9f00-aabbccddeeff".into(),
        HostType::Integer => "-7".into(),
        HostType::Token => "e30.e30.e30".into(),
        HostType::Certificates => "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".into(),
        HostType::Any | HostType::Sha256(_) => "anything".into(),
    }
}
