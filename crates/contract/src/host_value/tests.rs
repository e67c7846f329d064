#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use super::*;

fn accepts(kind: &HostType, values: &[&str]) {
    for value in values {
        assert_eq!(kind.check(value.as_bytes()), Ok(()), "{kind}: {value:?}");
    }
}

fn refuses(kind: &HostType, values: &[&str]) {
    for value in values {
        let error = kind.check(value.as_bytes()).expect_err(value);
        assert_eq!(error.expected, kind.in_words(), "{value:?}");
    }
}

#[test]
fn each_type_takes_its_values_and_no_others() {
    accepts(&HostType::Ip, &["10.0.0.1", "::1", "fd00::10:2", "255.255.255.255"]);
    refuses(
        &HostType::Ip,
        &["", "10.0.0", "10.0.0.1 ", "10.0.0.01", "10.0.0.1\n", "fe80::1%eth0", "localhost", "10.0.0.1,10.0.0.2"],
    );
    accepts(&HostType::IpList, &["10.0.0.1", "10.0.0.1,fd00::1"]);
    refuses(&HostType::IpList, &["", "10.0.0.1,", "10.0.0.1, 10.0.0.2", ",", &["10.0.0.1"; 33].join(",")]);
    accepts(&HostType::IpList, &[&["10.0.0.1"; 32].join(",")]);
    accepts(&HostType::Port, &["1", "80", "65535"]);
    refuses(&HostType::Port, &["0", "65536", "080", "+80", "-1", "", "8 0", "http"]);
    accepts(&HostType::Endpoint, &["tcp://10.0.0.1:80", "udp://[fd00::1]:53", "sctp://1.2.3.4:65535"]);
    refuses(
        &HostType::Endpoint,
        &[
            "http://10.0.0.1:80",
            "tcp://10.0.0.1",
            "tcp://host:80",
            "tcp://10.0.0.1:080",
            "tcp://10.0.0.1:0",
            "tcp://fd00::1:80",
            "tcp://10.0.0.1:80/",
            "tcp://[fe80::1%1]:80",
            "TCP://10.0.0.1:80",
        ],
    );
    accepts(&HostType::Protocol, &["tcp", "udp", "sctp"]);
    refuses(&HostType::Protocol, &["TCP", "icmp", ""]);
    accepts(&HostType::DnsName, &["a", "node-1.example", "a.b.c", "a.".repeat(126).trim_end_matches('.')]);
    refuses(
        &HostType::DnsName,
        &["", "a..b", ".a", "a.", "A", "a_b", "-a", "a-.b", "a.".repeat(128).trim_end_matches('.')],
    );
    accepts(&HostType::DnsLabel, &["a", "1", "pod-5f6", &"a".repeat(63)]);
    refuses(&HostType::DnsLabel, &["", "a.b", "A", "-a", "a-", &"a".repeat(64)]);
    accepts(&HostType::Uuid, &["3f1c2a6e-0b1d-4c7e-9f00-aabbccddeeff"]);
    refuses(
        &HostType::Uuid,
        &[
            "3F1c2a6e-0b1d-4c7e-9f00-aabbccddeeff",
            "3f1c2a6e0b1d4c7e9f00aabbccddeeff",
            "",
            "3f1c2a6e-0b1d-4c7e-9f00-aabbccddeeff0",
        ],
    );
    accepts(&HostType::Integer, &["0", "-1", "268435456", "9223372036854775807", "-9223372036854775808"]);
    refuses(&HostType::Integer, &["", "-", "-0", "01", "+1", "1.5", "1e3", "0x1", "9223372036854775808", " 1"]);
    accepts(&HostType::Token, &["eyJhIjoxfQ.e30.AAAA", "e30.e30.e30"]);
    refuses(
        &HostType::Token,
        &[
            "",
            "e30.e30",
            "e30.e30.e30.e30",
            "e30..e30",
            "e30=.e30.e30",
            "e+0.e30.e30",
            "e30.e30.e30\n",
            &format!("e30.e30.{}", "A".repeat(16 * 1024)),
        ],
    );
    accepts(&HostType::Any, &["", "anything\0\n"]);
}

#[test]
fn bytes_that_are_no_text_and_long_values_are_refused_without_repeating_them() {
    for (kind, _) in HostType::NAMED.iter().filter(|(kind, _)| *kind != HostType::Any) {
        assert!(kind.check(&[0xff, 0xfe]).is_err(), "{kind}");
        let long = kind.check("1".repeat(MAX_HOST_VALUE + 1).as_bytes()).unwrap_err();
        assert!(long.found.chars().count() <= 81, "{kind}");
    }
    assert_eq!(HostType::Any.check(&vec![0xff; MAX_HOST_VALUE]), Ok(()));
    let found = HostType::Any.check(&vec![0xff; MAX_HOST_VALUE + 1]).unwrap_err();
    let expected = HostValueError { expected: "at most 1048576 bytes".into(), found: "1048577 bytes".into() };
    assert_eq!(found, expected);
    let port = HostType::Port.check(b"http").unwrap_err();
    assert_eq!(port.to_string(), "\"http\" was found, expected a port, 1 to 65535");
    // A token does not show up in a message.
    assert_eq!(HostType::Token.check(b"secret.secret").unwrap_err().found, "13 bytes");
}

#[test]
fn a_digest_takes_exactly_its_content() {
    let kind = HostType::from_name("sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae").unwrap();
    assert_eq!(kind.check(b"foo"), Ok(()));
    let error = kind.check(b"fop").unwrap_err();
    assert_eq!(error.found, format!("SHA-256 {}", hex::encode(digest(&SHA256, b"fop"))));
    assert!(kind.check(b"foo\n").is_err() && kind.check(b"").is_err());
    for name in [
        "sha256:",
        "sha256:2C26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "sha256:2c",
        "Ip",
        "",
        "sha256",
    ] {
        assert_eq!(HostType::from_name(name), None, "{name}");
    }
}

#[test]
fn certificates_are_certificates_and_nothing_else() {
    let block = |der: &[u8]| {
        let base64 = STANDARD.encode(der);
        let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    let sequence = |length: usize| {
        let mut der = match length {
            0..0x80 => vec![0x30, u8::try_from(length).unwrap()],
            0x80..0x100 => vec![0x30, 0x81, u8::try_from(length).unwrap()],
            _ => [&[0x30, 0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
        };
        der.resize(der.len() + length, 5);
        der
    };
    let one = block(&sequence(900));
    for good in [
        one.clone(),
        format!("{one}{one}"),
        format!("\n{one}\n\n{one}\n"),
        block(&sequence(10)),
        block(&sequence(200)),
        one.replace('\n', "\r\n"),
    ] {
        assert_eq!(HostType::Certificates.check(good.as_bytes()), Ok(()), "{good}");
    }
    let mut longer = sequence(900);
    longer.push(0);
    for bad in [
        String::new(),
        "\n".into(),
        one.replace("CERTIFICATE", "PRIVATE KEY"),
        format!("{one}{}", one.replace("CERTIFICATE", "PRIVATE KEY")),
        format!("comment\n{one}"),
        format!("{one}x"),
        one.replace("-----END CERTIFICATE-----\n", ""),
        block(&longer),
        block(&sequence(900)[..900]),
        block(b"text"),
        one.replacen("BQUF", "BQ F", 1),
        one.repeat(MAX_CERTIFICATES + 1),
    ] {
        assert!(HostType::Certificates.check(bad.as_bytes()).is_err(), "{}", cut(&bad));
    }
}

#[test]
fn variables_of_a_service_have_the_types_that_the_kubelet_gives_them() {
    let typed = |name: &str| service_link_type(name).map(|kind| kind.to_string());
    for (name, kind) in [
        ("REDIS_SERVICE_HOST", "ip"),
        ("REDIS_SERVICE_PORT", "port"),
        ("REDIS_SERVICE_PORT_HTTP_ADMIN", "port"),
        ("REDIS_PORT", "endpoint"),
        ("REDIS_PORT_6379_TCP", "endpoint"),
        ("REDIS_PORT_6379_TCP_PROTO", "protocol"),
        ("REDIS_PORT_6379_TCP_PORT", "port"),
        ("REDIS_PORT_53_UDP_ADDR", "ip"),
        ("MY_SERVICE_PORT_80_TCP", "endpoint"),
        ("A_PORT_1_TCP_SERVICE_HOST", "ip"),
        ("1A_SERVICE_HOST", "ip"),
    ] {
        assert_eq!(typed(name).as_deref(), Some(kind), "{name}");
    }
    for name in [
        "PATH",
        "LD_PRELOAD",
        "HOME",
        "_SERVICE_HOST",
        "SERVICE_HOST",
        "redis_SERVICE_HOST",
        "A__SERVICE_HOST_",
        "_PORT",
        "PORT",
        "A-B_SERVICE_HOST",
        "A=B_SERVICE_HOST",
        "",
        "A_SERVICE_HOST ",
        "É_SERVICE_HOST",
    ] {
        assert_eq!(typed(name), None, "{name}");
    }
    assert_eq!(service_link_type(&format!("{}_SERVICE_HOST", "A".repeat(63))), Some(HostType::Ip));
    assert_eq!(service_link_type(&format!("{}_SERVICE_HOST", "A".repeat(64))), None);
}

#[test]
fn a_variable_with_two_readings_takes_the_values_of_both() {
    // Of a Service `my`, or the first variable of a Service `my-service`.
    assert_eq!(check_service_link("MY_SERVICE_PORT", b"80"), Ok(()));
    assert_eq!(check_service_link("MY_SERVICE_PORT", b"tcp://10.0.0.1:80"), Ok(()));
    let refused = check_service_link("MY_SERVICE_PORT", b"/tmp/x").unwrap_err();
    assert_eq!(refused, HostValueError { expected: "a port, 1 to 65535".into(), found: "/tmp/x".into() });
    assert_eq!(check_service_link("REDIS_SERVICE_HOST", b"10.0.0.1"), Ok(()));
    assert!(check_service_link("REDIS_SERVICE_HOST", b"80").is_err());
    let no_such = check_service_link("LD_PRELOAD", b"80").unwrap_err();
    assert_eq!(
        (no_such.expected.as_str(), no_such.found.as_str()),
        ("a variable that Kubernetes makes for a Service", "LD_PRELOAD")
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_checked_without_panic(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        fuzz(&data);
    }

    #[test]
    fn variables_that_the_kubelet_makes_are_accepted(
        service in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", port_name in "[a-z]([a-z0-9-]{0,13}[a-z0-9])?",
        address: std::net::IpAddr, port in 1_u16.., protocol in "(tcp|udp|sctp)",
    ) {
        // As `makeEnvVariableName`, `FromServices` and `makeLinkVariables` in pkg/kubelet/envvars make them.
        let upper = |text: &str| text.to_uppercase().replace('-', "_");
        let (service, port_name) = (upper(&service), upper(&port_name));
        let endpoint = format!("{protocol}://{}", SocketAddr::new(address, port));
        let link = format!("{service}_PORT_{port}_{}", protocol.to_uppercase());
        for (name, value) in [
            (format!("{service}_SERVICE_HOST"), address.to_string()),
            (format!("{service}_SERVICE_PORT"), port.to_string()),
            (format!("{service}_SERVICE_PORT_{port_name}"), port.to_string()),
            (format!("{service}_PORT"), endpoint.clone()),
            (link.clone(), endpoint),
            (format!("{link}_PROTO"), protocol.clone()),
            (format!("{link}_PORT"), port.to_string()),
            (format!("{link}_ADDR"), address.to_string()),
        ] {
            proptest::prop_assert_eq!(check_service_link(&name, value.as_bytes()), Ok(()), "{}={}", name, value);
            proptest::prop_assert!(check_service_link(&name, b"/lib/evil.so").is_err());
        }
    }
}
