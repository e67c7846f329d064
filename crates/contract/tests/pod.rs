//! What containers share, and what the host may choose: bounds, words, needs and the specification. Each refusal has a positive
//! twin: the valid contract of `data/pod.toml`, which differs in one text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use belljar_contract::{
    Contract, ContractError, Dns, HostType, HostValueError, HostValues, Needs, Network, Restart, oci_spec,
};

const POD: &str = include_str!("data/pod.toml");

fn with(from: &str, to: &str) -> String {
    assert_eq!(POD.matches(from).count(), 1, "{from:?} must be in the contract once");
    POD.replace(from, to)
}

fn accepted(from: &str, to: &str) -> Contract {
    Contract::parse(&with(from, to)).unwrap_or_else(|error| panic!("{to}: {error}"))
}

/// The message of the refusal that the change leads to.
fn refused(from: &str, to: &str) -> String {
    Contract::parse(&with(from, to)).expect_err(to).to_string()
}

#[test]
fn the_contract_is_canonical_and_means_what_it_says() {
    let contract = Contract::parse(POD).unwrap();
    assert_eq!(contract.to_toml(), POD);
    let pod = &contract.pod;
    assert_eq!((pod.network, &pod.dns, pod.ports.as_slice()), (Network::Host, &Dns::Host, &[8080][..]));
    assert_eq!(pod.host_aliases[&"10.9.8.7".parse().unwrap()], ["db", "db.example"]);
    let web = &contract.containers["web"];
    assert_eq!((web.restart, web.init, web.service_links), (Restart::Always, 0, true));
    assert_eq!(web.env_from_host["POD_IP"], HostType::Ip);
    assert_eq!(contract.containers["prepare"].init, 1);
    // A default, written out, means the same.
    let same = accepted("args = [\"/web\"]", "args = [\"/web\"]\ninit = 0");
    assert_eq!(same, contract);
    let none =
        accepted("network = \"host\"\nhostname_from_host = true\ndns = \"host\"", "network = \"none\"\ndns = \"none\"");
    assert_eq!((none.pod.network, none.pod.dns), (Network::None, Dns::None));
}

#[test]
fn unknown_keys_are_refused_by_their_full_name() {
    let unknown = |key: &str| format!("unknown key `{key}` in the contract: remove it, or use a Belljar that knows it");
    assert_eq!(refused("dns = \"host\"\n", "dns = \"host\"\nhost_network = true\n"), unknown("pod.host_network"));
    assert_eq!(refused("dns = \"host\"", "dns = { nameservers = [\"1.1.1.1\"], x = 1 }"), unknown("pod.dns.x"));
    assert_eq!(refused("size_bytes = 1048576", "files = {}"), unknown("volumes.cache.files"));
    assert_eq!(
        refused("[volumes.config]\nkind = \"measured\"", "[volumes.config]\nkind = \"measured\"\nothers = true"),
        unknown("volumes.config.others")
    );
    assert_eq!(
        refused("{ type = \"token\", ", "{ type = \"token\", uid = 1, "),
        unknown("volumes.token.files.token.uid")
    );
    assert_eq!(refused("sub_path = \"web\"", "mode = 1"), unknown("containers.prepare.mounts[0].mode"));
    assert_eq!(refused("logs = \"allow\"\n", "stdin = \"allow\"\n"), unknown("operator.stdin"));
    let missing = |key: &str| format!("key `{key}` is missing in the contract: add it");
    assert_eq!(refused("spki_sha256 = \"0e", "# \"0e"), missing("operator.spki_sha256"));
    assert_eq!(refused("type = \"token\", ", ""), missing("volumes.token.files.token.type"));
    assert_eq!(refused("[volumes.cache]\nkind = \"scratch\"", "[volumes.cache]"), missing("volumes.cache.kind"));
}

#[test]
fn network_settings_are_bounded() {
    let expected = "`pod.network` is \"bridge\", expected \"none\" or \"host\"";
    assert_eq!(refused("network = \"host\"", "network = \"bridge\""), expected);
    let why =
        "`pod.dns` conflicts with `pod.network`: the host tells name servers with the network, and the pod has none";
    assert_eq!(refused("network = \"host\"\nhostname_from_host = true\n", ""), why);
    let why = "`pod.hostname_from_host` conflicts with `pod.network`: the host tells its name with the network, and the pod has none";
    assert_eq!(refused("network = \"host\"\n", ""), why);

    let dns = |text: &str| format!("dns = {{ {text} }}");
    let fixed = accepted(
        "dns = \"host\"",
        &dns(
            "nameservers = [\"10.0.0.10\", \"fd00::a\"], searches = [\"a.svc\", \"_x.b.\", \".\"], options = [\"ndots:5\", \"rotate\"]",
        ),
    );
    assert!(
        matches!(fixed.pod.dns, Dns::Fixed(resolver) if resolver.nameservers.len() == 2 && resolver.searches.len() == 3)
    );
    assert_eq!(refused("dns = \"host\"", &dns("nameservers = []")), "`pod.dns.nameservers` is 0, allowed is 1 to 3");
    let four = "nameservers = [\"1.1.1.1\", \"1.1.1.2\", \"1.1.1.3\", \"1.1.1.4\"]";
    assert_eq!(refused("dns = \"host\"", &dns(four)), "`pod.dns.nameservers` is 4, allowed is 1 to 3");
    let name = "nameservers = [\"dns.example\"]";
    assert_eq!(
        refused("dns = \"host\"", &dns(name)),
        "`pod.dns.nameservers[0]` is \"dns.example\", expected an IP address"
    );
    let search = "nameservers = [\"1.1.1.1\"], searches = [\"a\\nnameserver 6.6.6.6\"]";
    let expected = "`pod.dns.searches[0]` is \"a\\nnameserver 6.6.6.6\", expected a DNS name in lowercase";
    assert_eq!(refused("dns = \"host\"", &dns(search)), expected);
    let option = "nameservers = [\"1.1.1.1\"], options = [\"ndots:5 debug\"]";
    let expected = "`pod.dns.options[0]` is \"ndots:5 debug\", expected a resolver option such as ndots:5 or rotate";
    assert_eq!(refused("dns = \"host\"", &dns(option)), expected);

    let expected = "`pod.host_aliases` is \"fd00:0::7\", expected IP addresses in their shortest form";
    assert_eq!(refused("\"fd00::7\"", "\"fd00:0::7\""), expected);
    let expected = "`pod.host_aliases.10.9.8.7[1]` is \"db example\", expected a DNS name in lowercase";
    assert_eq!(refused("db.example", "db example"), expected);
    assert_eq!(
        refused("\"fd00::7\" = [\"db\"]", "\"fd00::7\" = []"),
        "`pod.host_aliases.fd00::7` is 0, allowed is 1 to 16"
    );

    assert_eq!(accepted("[8080]", "[8080, 1, 65535]").pod.ports, [8080, 1, 65535]);
    assert_eq!(refused("[8080]", "[0]"), "`pod.ports[0]` is 0, allowed is 1 to 65535");
    assert_eq!(refused("[8080]", "[65536]"), "`pod.ports[0]` is 65536, allowed is 1 to 65535");
    let expected = "expected another port than 8006 (the interface for secrets) and 8007 (the attested service)";
    for port in [8006, 8007] {
        assert_eq!(refused("[8080]", &format!("[80, {port}]")), format!("`pod.ports[1]` is \"{port}\", {expected}"));
    }
    assert_eq!(refused("[8080]", "[80, 81, 80]"), "`pod.ports[2]` conflicts with `pod.ports[0]`: the ports are equal");
}

#[test]
fn only_safe_sysctls_with_values_that_the_kernel_knows() {
    let line = "\"net.ipv4.ip_local_port_range\" = \"32768 60999\"";
    for (name, values) in [
        ("kernel.shm_rmid_forced", &["0", "1"][..]),
        ("net.ipv4.ip_local_port_range", &["1 65535", "1024\t2048", "5 5"]),
        ("net.ipv4.ip_unprivileged_port_start", &["0", "65535"]),
        ("net.ipv4.ping_group_range", &["0 2147483647", "1 0"]),
        ("net.ipv4.tcp_syncookies", &["2"]),
    ] {
        for value in values {
            accepted(line, &format!("\"{name}\" = {value:?}"));
        }
    }
    let expected = "`pod.sysctls` is \"kernel.core_pattern\", expected only sysctls that Kubernetes calls safe";
    assert_eq!(refused(line, "\"kernel.core_pattern\" = \"|/bin/sh\""), expected);
    let expected = "`pod.sysctls.kernel.shm_rmid_forced` is \"2\", expected 0 or 1";
    assert_eq!(refused(line, "\"kernel.shm_rmid_forced\" = \"2\""), expected);
    for value in ["0 1", "2 1", "1", "1 2 3", "+1 2", "1,2", "a b", "", "1 65536", "1 2\n"] {
        let key = "pod.sysctls.net.ipv4.ip_local_port_range";
        let found = refused(line, &format!("\"net.ipv4.ip_local_port_range\" = {value:?}"));
        let expected = "two ports with a blank between them, the lower first";
        assert_eq!(found, format!("`{key}` is {value:?}, expected {expected}"));
    }
}

#[test]
fn the_operator_has_a_key() {
    let expected = "expected 64 lowercase hex digits";
    let short = refused("spki_sha256 = \"0e0e", "spki_sha256 = \"0e");
    assert!(short.starts_with("`operator.spki_sha256` is \"0e0e") && short.ends_with(expected), "{short}");
    let found = refused("logs = \"allow\"", "logs = \"yes\"");
    assert_eq!(found, "`operator.logs` is \"yes\", expected \"allow\" or \"deny\"");
}

#[test]
fn volumes_are_bounded() {
    assert_eq!(
        refused("size_bytes = 1048576", "size_bytes = 4095"),
        "`volumes.cache.size_bytes` is 4095, allowed is 4096 to 1099511627776"
    );
    accepted("size_bytes = 1048576", "size_bytes = 4096");
    let expected = "`volumes.cache.kind` is \"hostPath\", expected \"scratch\", \"measured\" or \"host\"";
    assert_eq!(refused("kind = \"scratch\"", "kind = \"hostPath\""), expected);
    let label = "expected a DNS label: 1 to 63 of a-z, 0-9 and '-', not at either end";
    let named = POD.replace("[volumes.cache]", "[volumes.\"../cache\"]");
    assert_eq!(
        Contract::parse(&named).unwrap_err().to_string(),
        format!("`volumes.../cache` is \"../cache\", {label}")
    );

    let relative =
        "expected a relative path without '.', names that begin with '..', '//', '/' at an end or control characters";
    for path in ["/app.conf", "a/../b", "..", "..data", "a//b", "a/", "./a", "", "a\\u0000", "a/..2024/x"] {
        let shown = path.replace("\\u0000", "\\0");
        assert_eq!(
            refused("\"app.conf\"", &format!("\"{path}\"")),
            format!("`volumes.config.files` is \"{shown}\", {relative}")
        );
    }
    accepted("\"app.conf\"", "\"a/b..c/.d\"");
    let why = "`volumes.config.files.tls/ca.crt` conflicts with `volumes.config.files.tls`: one is a file, the other needs a directory there";
    assert_eq!(refused("\"app.conf\"", "tls"), why);
    let found = refused("sha256 = \"c0c0", "sha256 = \"C0c0");
    assert!(
        found.starts_with("`volumes.config.files.app.conf.sha256` is \"C0c0")
            && found.ends_with("expected 64 lowercase hex digits")
    );
    assert_eq!(
        refused("mode = 0o400", "mode = 0o4755"),
        "`volumes.config.files.tls/ca.crt.mode` is 2541, allowed is 0 to 511"
    );
    let types = "ip, ip-list, port, endpoint, protocol, dns-name, dns-label, uuid, integer, token, certificates, any, or sha256: and 64 lowercase hex digits";
    assert_eq!(
        refused("type = \"token\"", "type = \"jwt\""),
        format!("`volumes.token.files.token.type` is \"jwt\", expected {types}")
    );
    assert_eq!(
        refused("type = \"token\"", "type = \"sha256:00\""),
        format!("`volumes.token.files.token.type` is \"sha256:00\", expected {types}")
    );
    accepted("type = \"token\"", &format!("type = \"sha256:{}\"", "0f".repeat(32)));
    // The type is checked for contracts that nobody has parsed, too.
    let mut contract = Contract::parse(POD).unwrap();
    let web = contract.containers.get_mut("web").unwrap();
    web.env_from_host.insert("X".into(), HostType::Sha256("00".into()));
    let expected = "`containers.web.env_from_host.X` is \"sha256:00\", expected sha256: and 64 lowercase hex digits";
    assert_eq!(contract.check().unwrap_err().to_string(), expected);

    let empty = "[volumes.token]\nkind = \"host\"\n\n[volumes.token.files]\n\"ca.crt\" = { type = \"certificates\" }\nnamespace = { type = \"dns-label\", optional = true }\ntoken = { type = \"token\", mode = 0o600 }\n";
    let expected = "`volumes.token` is \"a volume that can never have a file\", expected files, or others = true";
    assert_eq!(refused(empty, "[volumes.token]\nkind = \"host\"\n"), expected);
    accepted(empty, "[volumes.token]\nkind = \"host\"\nothers = true\n");
    let many: String = (0..257).map(|index| format!("f{index} = {{ type = \"any\" }}\n")).collect();
    let head = "[volumes.token]\nkind = \"host\"\n\n[volumes.token.files]\n";
    assert_eq!(refused(empty, &format!("{head}{many}")), "`volumes.token.files` is 257, allowed is 0 to 256");
    accepted(empty, &format!("{head}{}", many.replace("f256 = { type = \"any\" }\n", "")));
}

#[test]
fn mounts_stand_where_nothing_else_stands() {
    let cache = "{ volume = \"cache\", path = \"/var/cache\", read_only = true }";
    let at = |path: &str| format!("{{ volume = \"cache\", path = \"{path}\" }}");
    let places = "expected a path below / that is not /proc, /sys or /dev or below these";
    for path in ["/", "/proc/x", "/sys", "/dev/shm"] {
        assert_eq!(refused(cache, &at(path)), format!("`containers.web.mounts[0].path` is \"{path}\", {places}"));
    }
    accepted(cache, &at("/process"));
    let expected = "`containers.web.mounts[0].volume` is \"cash\", expected the name of a volume in [volumes]";
    assert_eq!(refused(cache, "{ volume = \"cash\", path = \"/var/cache\" }"), expected);
    let expected = "`containers.web.mounts[0].volume` is \"../x\", expected the name of a volume, a DNS label";
    assert_eq!(refused(cache, "{ volume = \"../x\", path = \"/var/cache\" }"), expected);
    let conflict = |key: &str, other: &str, why: &str| {
        format!("`containers.web.{key}` conflicts with `containers.web.{other}`: {why}")
    };
    let why = "both are mounted at the same path";
    assert_eq!(refused(cache, &at("/etc/web")), conflict("mounts[1].path", "mounts[0].path", why));
    let why = "it would hide the mount that comes before it";
    assert_eq!(refused(cache, &at("/etc/web/cache")), conflict("mounts[1].path", "mounts[0].path", why));
    // Below a volume that can be written there may be another; not below one that cannot.
    let below = |flag: &str| format!("{{ volume = \"cache\", path = \"/etc\"{flag} }}");
    accepted(cache, &below(""));
    let why = "no mount point can be made in a mount that cannot be written";
    assert_eq!(refused(cache, &below(", read_only = true")), conflict("mounts[1].path", "mounts[0].path", why));
    let why = "no mount point can be made in a volume that cannot be written";
    assert_eq!(
        refused("path = \"/etc/ca.crt\"", "path = \"/etc/web/ca.crt\""),
        conflict("mounts[2].path", "mounts[1].path", why)
    );
    // Below a tmpfs is usual; a tmpfs at the same place or below is hidden.
    accepted(cache, &at("/run/cache"));
    let why = "the tmpfs would be hidden by the volume";
    assert_eq!(refused(cache, &at("/run")), conflict("tmpfs[0].path", "mounts[0].path", why));
    assert_eq!(
        refused("path = \"/run\" }", "path = \"/var/cache/x\" }"),
        conflict("tmpfs[0].path", "mounts[0].path", why)
    );
    let why = "a secret and a volume use the same path, or one lies below the other";
    for path in ["/secrets", "/secrets/model", "/secrets/model/x"] {
        assert_eq!(refused(cache, &at(path)), conflict("secrets[0].path", "mounts[0].path", why));
    }
    accepted(cache, &at("/secrets/other"));

    let sub = |path: &str| format!("path = \"/etc/ca.crt\", sub_path = \"{path}\"");
    let file = "path = \"/etc/ca.crt\", sub_path = \"tls/ca.crt\"";
    accepted(file, &sub("tls"));
    let expected = "`containers.web.mounts[2].sub_path` is \"tls/c\", expected a file or directory that the volume has";
    assert_eq!(refused(file, &sub("tls/c")), expected);
    let relative =
        "expected a relative path without '.', names that begin with '..', '//', '/' at an end or control characters";
    assert_eq!(
        refused(file, &sub("../token")),
        format!("`containers.web.mounts[2].sub_path` is \"../token\", {relative}")
    );
    assert_eq!(
        refused("sub_path = \"web\"", "sub_path = \"/web\""),
        format!("`containers.prepare.mounts[0].sub_path` is \"/web\", {relative}")
    );
}

#[test]
fn init_containers_stand_in_a_row() {
    let init = "args = [\"/web\"]\n";
    let second =
        |place: u32| POD.replace(init, &format!("{init}init = {place}\n")).replace("restart = \"always\"\n", "") + LAST;
    const LAST: &str = "\n[containers.zero]\nimage = \"a\"\nimage_digest = \"sha256:d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4\"\nlayers = [{ verity_root = \"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\", salt = \"\", data_blocks = 1 }]\nargs = [\"/zero\"]\n";
    Contract::parse(&second(2)).unwrap();
    let expected = "`containers.web.init` conflicts with `containers.prepare.init`: both have the same place";
    assert_eq!(Contract::parse(&second(1)).unwrap_err().to_string(), expected);
    assert_eq!(Contract::parse(&second(3)).unwrap_err().to_string(), "`containers.web.init` is 3, allowed is 1 to 2");
    let only = second(2).replace(LAST, "");
    let expected =
        "`containers` is \"init containers only\", expected at least one container that is no init container";
    assert_eq!(Contract::parse(&only).unwrap_err().to_string(), expected);
    let why = "an init container must end with 0, so it cannot be started again whenever it ends";
    let expected = format!("`containers.prepare.restart` conflicts with `containers.prepare.init`: {why}");
    assert_eq!(refused("restart = \"on-failure\"", "restart = \"always\""), expected);
    let expected = "`containers.prepare.restart` is \"sometimes\", expected \"never\", \"on-failure\" or \"always\"";
    assert_eq!(refused("restart = \"on-failure\"", "restart = \"sometimes\""), expected);
}

#[test]
fn variables_that_decide_what_is_loaded_or_trusted_stay_with_the_contract() {
    let line = "POD_IP = \"ip\"";
    for name in [
        "NODE_NAME2",
        "MODE2",
        "LDAP_URL",
        "HOMEPAGE",
        "ld_preload",
        "PATHS",
        "HOSTNAME",
        "GIT_COMMIT",
        "GITHUB_URL",
        "AWS_REGION",
        "PGHOST",
        "NODE_IP",
        "KUBE_NODE",
        "npm_package_name",
        "JAVA_VERSION",
        "OPTS",
        "LESSON",
        "GRPC_TARGET",
        "ASPNETCORE_URLS",
        "ERLANG_COOKIE_NAME",
        "JULIAN_DATE",
        "VAULT_ADDR",
    ] {
        accepted(line, &format!("{name} = \"any\""));
    }
    let loads = "linkers, libraries or interpreters read it to decide which code they load";
    let trusts = "programs read it to decide which programs, files or keys they trust";
    for (name, why) in [
        ("LD_PRELOAD", loads),
        ("LD_LIBRARY_PATH", loads),
        ("LD_ANYTHING_NEW", loads),
        ("GLIBC_TUNABLES", loads),
        ("PYTHONPATH", loads),
        ("PERL5OPT", loads),
        ("RUBYOPT", loads),
        ("DOTNET_STARTUP_HOOKS", loads),
        ("BASH_FUNC_x%%", loads),
        ("NODE_OPTIONS", trusts),
        ("JAVA_TOOL_OPTIONS", trusts),
        ("PATH", trusts),
        ("HOME", trusts),
        ("ENV", trusts),
        ("SSL_CERT_FILE", trusts),
        ("XDG_CONFIG_HOME", trusts),
        ("npm_config_registry", loads),
        ("NPM_CONFIG_IGNORE_SCRIPTS", loads),
        ("ERL_FLAGS", loads),
        ("ERL_LIBS", loads),
        ("ELIXIR_ERL_OPTIONS", loads),
        ("JULIA_LOAD_PATH", loads),
        ("UWSGI_PYTHONPATH", loads),
        ("PIP_INDEX_URL", loads),
        ("PERLLIB", loads),
        ("GIT_CONFIG", trusts),
        ("GIT_CONFIG_COUNT", trusts),
        ("GIT_CONFIG_KEY_0", trusts),
        ("GIT_CONFIG_VALUE_0", trusts),
        ("GIT_CONFIG_PARAMETERS", trusts),
        ("GIT_CONFIG_GLOBAL", trusts),
        ("GIT_ASKPASS", trusts),
        ("SSH_ASKPASS", trusts),
        ("GIT_PAGER", trusts),
        ("GIT_EXTERNAL_DIFF", trusts),
        ("GIT_PROXY_COMMAND", trusts),
        ("GIT_SSL_NO_VERIFY", trusts),
        ("GIT_SSL_CAINFO", trusts),
        ("LESSOPEN", trusts),
        ("LESSCLOSE", trusts),
        ("MANPAGER", trusts),
        ("ZDOTDIR", trusts),
        ("GUNICORN_CMD_ARGS", trusts),
        ("ASPNETCORE_HOSTINGSTARTUPASSEMBLIES", trusts),
        ("MAVEN_OPTS", trusts),
        ("GRADLE_OPTS", trusts),
        ("ES_JAVA_OPTS", trusts),
        ("JAVA_OPTS", trusts),
        ("_JAVA_OPTIONS", trusts),
        ("AWS_CONFIG_FILE", trusts),
        ("AWS_CA_BUNDLE", trusts),
        ("KUBECONFIG", trusts),
        ("PGSSLMODE", trusts),
        ("PGSSLROOTCERT", trusts),
        ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", trusts),
        ("OPENSSL_CONF", trusts),
        ("KRB5_CONFIG", trusts),
        ("VAULT_SKIP_VERIFY", trusts),
    ] {
        // Whatever the type.
        for kind in ["ip", "any"] {
            let key = format!("containers.web.env_from_host.{name}");
            let expected = ContractError::NotDelegable { key: key.clone(), why };
            assert_eq!(Contract::parse(&with(line, &format!("\"{name}\" = \"{kind}\""))), Err(expected.clone()));
            let message = format!("`{key}` cannot be left to the host, because {why}: give its value in `env`");
            assert_eq!(expected.to_string(), message);
        }
    }
    let expected =
        "`containers.web.env_from_host.MODE` conflicts with `containers.web.env.MODE`: the value is fixed already";
    assert_eq!(refused(line, "MODE = \"ip\""), expected);
    // A variable that is named is of the type that stands there, also where its name is one of a Service.
    let named = accepted(line, "DB_PORT = \"integer\"");
    let value = |value: &str| {
        let values = [("DB_PORT", value), ("NODE_NAME", "n")];
        oci_spec(&named, "web", &host(&values, Some("web-0"))).map(drop)
    };
    assert_eq!(value("-1"), Ok(()));
    let reason = HostValueError { expected: "an integer in decimal digits".into(), found: "tcp://10.0.0.1:80".into() };
    let refused_value = ContractError::HostValue { container: "web".into(), name: "DB_PORT".into(), reason };
    assert_eq!(value("tcp://10.0.0.1:80"), Err(refused_value));
    let names = "expected names of 1 to 256 printable ASCII characters without '='";
    assert_eq!(refused(line, "\"A=B\" = \"ip\""), format!("`containers.web.env_from_host` is \"A=B\", {names}"));
}

fn host(values: &[(&str, &str)], hostname: Option<&str>) -> HostValues {
    let env: BTreeMap<String, String> = values.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    HostValues { env, hostname: hostname.map(str::to_owned) }
}

#[test]
fn values_of_the_host_are_what_the_contract_leaves_to_it() {
    let contract = Contract::parse(POD).unwrap();
    let given = [("POD_IP", "10.0.0.1"), ("NODE_NAME", "node-1.example")];
    let spec = |values: &[(&str, &str)], hostname| oci_spec(&contract, "web", &host(values, hostname));
    let good = spec(&given, Some("web-0")).unwrap();
    assert_eq!(good.hostname().as_deref(), Some("web-0"));
    let env = good.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(env, ["HOSTNAME=web-0", "MODE=fast", "NODE_NAME=node-1.example", "POD_IP=10.0.0.1"]);
    // Variables of Services may be there or not.
    let more = [("DB_SERVICE_HOST", "10.0.0.9"), ("DB_PORT", "tcp://10.0.0.9:5432"), given[0], given[1]];
    assert_eq!(spec(&more, Some("web-0")).unwrap().process().as_ref().unwrap().env().as_ref().unwrap().len(), 6);

    let of_web = "of container web";
    let message =
        |result: Result<_, ContractError>| result.map(|_: oci_spec::runtime::Spec| ()).unwrap_err().to_string();
    let found = message(spec(&given[..1], Some("web-0")));
    assert_eq!(found, format!("the host gave no value for NODE_NAME {of_web}, expected a DNS name in lowercase"));
    let found = message(spec(&given, None));
    assert_eq!(found, format!("the host gave no value for the host name {of_web}, expected a DNS label in lowercase"));
    let found = message(spec(&given, Some("web.0")));
    let refusal = format!(
        "the host's value for the host name {of_web} is refused: \"web.0\" was found, expected a DNS label in lowercase"
    );
    assert_eq!(found, refusal);
    let found = message(spec(&[("POD_IP", "10.0.0.1\nX"), given[1]], Some("web-0")));
    let refusal =
        format!("the host's value for POD_IP {of_web} is refused: \"10.0.0.1\\nX\" was found, expected an IP address");
    assert_eq!(found, refusal);
    for unknown in ["LD_PRELOAD", "MODE", "db_SERVICE_HOST", ""] {
        let found = message(spec(&[given[0], given[1], (unknown, "10.0.0.1")], Some("web-0")));
        let why = "which the contract does not leave to the host";
        assert_eq!(found, format!("the host gave a value for {unknown} {of_web}, {why}"));
    }
    let reason = HostValueError { expected: "an IP address".into(), found: "evil".into() };
    let refused = spec(&[given[0], given[1], ("DB_SERVICE_HOST", "evil")], Some("web-0")).unwrap_err();
    assert_eq!(refused, ContractError::HostValue { container: "web".into(), name: "DB_SERVICE_HOST".into(), reason });

    // A container to which the contract leaves nothing gets nothing.
    let prepare = oci_spec(&contract, "prepare", &host(&[], Some("web-0"))).unwrap();
    assert_eq!(prepare.process().as_ref().unwrap().env().clone().unwrap(), ["HOSTNAME=web-0"]);
    let found = message(oci_spec(&contract, "prepare", &host(&[("DB_SERVICE_HOST", "10.0.0.9")], Some("web-0"))));
    assert!(found.starts_with("the host gave a value for DB_SERVICE_HOST of container prepare, which"), "{found}");
    // Nor does a pod with a host name of its own.
    let fixed = accepted("hostname_from_host = true\n", "");
    assert_eq!(oci_spec(&fixed, "prepare", &host(&[], None)).unwrap().hostname().as_deref(), Some("prepare"));
    let found = message(oci_spec(&fixed, "prepare", &host(&[], Some("web-0"))));
    assert!(found.starts_with("the host gave a value for the host name of container prepare, which"), "{found}");
    // A value that the kernel cannot take is refused whatever its type.
    let any = accepted("POD_IP = \"ip\"", "POD_IP = \"any\"");
    assert!(oci_spec(&any, "web", &host(&[("POD_IP", &"x".repeat(65_536)), given[1]], Some("w"))).is_ok());
    for value in ["a\0b", &"x".repeat(65_537)] {
        let found = message(oci_spec(&any, "web", &host(&[("POD_IP", value), given[1]], Some("w"))));
        let expected = "expected at most 1048576 bytes, without NUL and of at most 65536 bytes";
        let bytes = value.len();
        assert_eq!(
            found,
            format!("the host's value for POD_IP {of_web} is refused: \"{bytes} bytes\" was found, {expected}")
        );
    }
}

#[test]
fn volumes_are_bind_mounts_of_the_guests_own_directories() {
    let contract = Contract::parse(POD).unwrap();
    let spec = |name: &str, values: &[(&str, &str)]| {
        let spec = oci_spec(&contract, name, &host(values, Some("web-0"))).unwrap();
        let mounts = spec.mounts().clone().unwrap().into_iter();
        let bind = mounts.filter(|mount| mount.typ().as_deref() == Some("bind"));
        bind.map(|mount| {
            let source = mount.source().clone().unwrap().display().to_string();
            (source, mount.destination().display().to_string(), mount.options().clone().unwrap().join(","))
        })
        .collect::<Vec<_>>()
    };
    let entry = |source: &str, destination: &str, options: &str| {
        (source.to_owned(), destination.to_owned(), options.to_owned())
    };
    let volumes = "/run/belljar/volumes";
    let expected = [entry(&format!("{volumes}/cache/web"), "/cache", "rbind,nosuid,nodev,rw")];
    assert_eq!(spec("prepare", &[]), expected);
    // Only scratch can be written, whatever the mount says.
    let read = "rbind,nosuid,nodev,ro";
    let expected = [
        entry(&format!("{volumes}/cache"), "/var/cache", read),
        entry(&format!("{volumes}/config"), "/etc/web", read),
        entry(&format!("{volumes}/config/tls/ca.crt"), "/etc/ca.crt", read),
        entry(&format!("{volumes}/token"), "/run/secrets/token", read),
    ];
    assert_eq!(spec("web", &[("POD_IP", "10.0.0.1"), ("NODE_NAME", "n")]), expected);
}

#[test]
fn needs_follow_from_the_limits() {
    let mib = |mib: u64| mib << 20;
    // web without limits: 256 MiB, 64 MiB of writable layer, 64 MiB of tmpfs; prepare would need less; volumes of 1, 3 and 3 MiB.
    let contract = Contract::parse(POD).unwrap();
    assert_eq!(contract.needs(), Needs { cpu_millis: 1000, memory_bytes: mib(256 + 64 + 64 + 1 + 3 + 3) });
    // A limit bounds memory file systems as well.
    let limited = accepted(
        "args = [\"/web\"]\n",
        "args = [\"/web\"]\nresources = { memory_bytes = 104857600, cpu_millis = 250 }\n",
    );
    // Now the init container needs more: 256 + 64 MiB and a CPU.
    assert_eq!(limited.needs(), Needs { cpu_millis: 1000, memory_bytes: mib(256 + 64 + 7) });
    let mut contract = limited.clone();
    let prepare = contract.containers.get_mut("prepare").unwrap();
    prepare.resources = belljar_contract::Resources { memory_bytes: Some(mib(10)), cpu_millis: Some(100), pids: 10 };
    assert_eq!(contract.needs(), Needs { cpu_millis: 250, memory_bytes: mib(100 + 7) });
    // Containers that run together are added; those without a limit on CPU time share one CPU.
    contract.containers.get_mut("prepare").unwrap().init = 0;
    assert_eq!(contract.needs(), Needs { cpu_millis: 350, memory_bytes: mib(110 + 7) });
    let (first, second) = (contract.containers["prepare"].clone(), contract.containers["prepare"].clone());
    for (name, mut container) in [("a", first), ("b", second)] {
        container.resources.cpu_millis = None;
        contract.containers.insert(name.into(), container);
    }
    assert_eq!(contract.needs(), Needs { cpu_millis: 1350, memory_bytes: mib(130 + 7) });
}

#[test]
fn plain_words_tell_what_the_host_may_choose() {
    let words = Contract::parse(POD).unwrap().plain_words();
    let all = words.join("\n");
    for part in [
        "First it runs, one after the other and each to a good end: prepare. Only then: web.",
        "Its network is in the host's hands: the host chooses its addresses and routes, and can read, change and drop all that is not encrypted",
        "The host chooses its host name, a DNS label.",
        "The host chooses its name servers, so names lead where the host wants.",
        "The names db, db.example always mean 10.9.8.7.",
        "The host may connect to the ports 8080 of its loopback interface.",
        "Its kernel runs with net.ipv4.ip_local_port_range = 32768 60999.",
        "All output of its containers may be read, past the host, by whoever holds the operator's TLS key with the SHA-256 fingerprint 0e0e",
        "The volume cache is empty at first: up to 1 MiB of encrypted memory that its containers share.",
        "The volume config holds exactly these files, and the guest refuses any other content: app.conf, tls/ca.crt.",
        "The host chooses the file token of the volume token, now and later: a JSON web token of at most 16384 bytes.",
        "The host chooses the file namespace of the volume token, now and later: a DNS label in lowercase, or leaves it out.",
        "web: sees the volume cache at /var/cache and cannot write there.",
        "web: sees tls/ca.crt of the volume config at /etc/ca.crt and cannot write there.",
        "prepare: sees web of the volume cache at /cache and may write there.",
        "web: the host may also start /web --healthy in it.",
        "web: the host chooses its variable POD_IP: an IP address.",
        "web: the host may add the variables that Kubernetes makes for Services: addresses, ports and protocols.",
        "web: may be started again by the host whenever it has ended.",
        "prepare: may be started again by the host when it has failed.",
        "prepare: nobody can start another command in it.",
    ] {
        assert!(all.contains(part), "{part:?} is not in\n{all}");
    }
    assert!(!all.contains("ANYTHING") && !all.contains("ANY "), "{all}");
    let word = |from: &str, to: &str, part: &str| {
        let words = accepted(from, to).plain_words();
        assert!(words.iter().any(|word| word.starts_with(part)), "{part:?} is not in {words:#?}");
        assert!(!all.contains(part));
    };
    word("POD_IP = \"ip\"", "POD_IP = \"any\"", "web: THE HOST MAY PUT ANYTHING INTO ITS VARIABLE POD_IP.");
    word(
        "type = \"token\"",
        "type = \"any\"",
        "THE HOST MAY PUT ANYTHING INTO THE FILE token of the volume token, now and later.",
    );
    let token = "[volumes.token]\nkind = \"host\"\n";
    word(
        token,
        &format!("{token}others = true\n"),
        "THE HOST MAY PUT FILES OF ANY NAME AND CONTENT into the volume token",
    );
    word(
        "logs = \"allow\"",
        "exec = \"allow\"",
        "ANY COMMAND in any container may be run, past the host, by whoever holds",
    );
    word("logs = \"allow\"", "exec = \"allow\"", "prepare: nobody but the operator can start another command in it.");
    let network = "network = \"host\"\nhostname_from_host = true\ndns = \"host\"\n";
    word(network, "", "It has no network.");
    word(
        "dns = \"host\"",
        "dns = { nameservers = [\"10.0.0.1\"], searches = [\"a\"] }",
        "It asks these name servers: 10.0.0.1; search a.",
    );
}

#[test]
fn the_summary_is_short_and_keeps_its_warnings() {
    let summary = Contract::parse(POD).unwrap().summary();
    let expected = [
        "runs: web (registry.example/web:1: /web); before, in order: prepare (registry.example/prepare:1: /prepare)",
        "as: prepare root, web user 1000:1000",
        "secrets: kbs:///default/key/model to web; only from the broker b7b7b7b7b7b7b7b7…",
        "network: the host's: it can read, change and drop what is not encrypted; name servers from the host; the host may connect to 8080",
        "files: cache (shared memory, 1 MiB), config (2 fixed files), token (3 files from the host)",
        "the host chooses: the host name, NODE_NAME of web (dns-name), POD_IP of web (ip), Service variables of web, token/ca.crt (certificates), token/namespace (dns-label), token/token (token)",
        "output: that of prepare, web does not leave; the operator reads all of it",
        "commands from outside: /web --healthy in web",
        "limits: needs 391 MiB of memory and 1 CPU; started again always: web; started again when failed: prepare",
    ];
    assert_eq!(summary, expected);
    let any = with("POD_IP = \"ip\"", "POD_IP = \"any\"").replace("type = \"token\"", "type = \"any\"");
    let summary = Contract::parse(&any).unwrap().summary();
    assert_eq!(summary.len(), 10);
    assert_eq!(summary[9], "WARNING: THE HOST MAY PUT ANYTHING INTO the variable POD_IP of web, the file token/token");
    let operator = accepted("logs = \"allow\"", "exec = \"allow\"").summary();
    assert_eq!(operator[7], "commands from outside: /web --healthy in web; ANY by the operator 0e0e0e0e0e0e0e0e…");
}
