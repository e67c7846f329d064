//! The types of values that the host gives. Each check recognises the whole value, or refuses it: nothing is trimmed, and no
//! value is longer than its type needs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::error::cut;
use crate::model::{HostType, MAX_HOST_VALUE};

/// Most addresses of an [`HostType::IpList`] (a pod has at most two, Kubernetes' node lists are short).
const MAX_IPS: usize = 32;
/// Longest [`HostType::Token`] in bytes; Kubernetes' are about 1 KiB.
const MAX_TOKEN: usize = 16 * 1024;
/// Most certificates of an [`HostType::Certificates`].
const MAX_CERTIFICATES: usize = 512;

/// Why a value from the host is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{found:?} was found, expected {expected}")]
pub struct HostValueError {
    /// What the type asks for, in words.
    pub expected: String,
    /// What was found, cut to 80 characters; its length or digest where it is no short text.
    pub found: String,
}

impl HostType {
    /// The types that have a plain name, with that name.
    pub const NAMED: [(Self, &str); 12] = [
        (Self::Ip, "ip"),
        (Self::IpList, "ip-list"),
        (Self::Port, "port"),
        (Self::Endpoint, "endpoint"),
        (Self::Protocol, "protocol"),
        (Self::DnsName, "dns-name"),
        (Self::DnsLabel, "dns-label"),
        (Self::Uuid, "uuid"),
        (Self::Integer, "integer"),
        (Self::Token, "token"),
        (Self::Certificates, "certificates"),
        (Self::Any, "any"),
    ];

    /// The type of that name, as [`Display`](fmt::Display) writes it. `sha256:` must be followed by 64 lowercase hex digits.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.strip_prefix("sha256:") {
            Some(digits) if is_sha256(digits) => Some(Self::Sha256(digits.to_owned())),
            Some(_) => None,
            None => Self::NAMED.into_iter().find(|(_, known)| *known == name).map(|(kind, _)| kind),
        }
    }

    /// Checks a value of the host.
    ///
    /// # Errors
    /// [`HostValueError`], which says what this type asks for and what was found.
    pub fn check(&self, value: &[u8]) -> Result<(), HostValueError> {
        let good = match self {
            Self::Any => value.len() <= MAX_HOST_VALUE,
            Self::Sha256(digits) => {
                let found = hex::encode(digest(&SHA256, value));
                bool::from(found.as_bytes().ct_eq(digits.as_bytes())) && value.len() <= MAX_HOST_VALUE
            }
            Self::Certificates => value.len() <= MAX_HOST_VALUE && text(value).is_some_and(certificates),
            Self::Token => value.len() <= MAX_TOKEN && text(value).is_some_and(token),
            Self::Ip => text(value).is_some_and(|text| ip(text).is_some()),
            Self::IpList => text(value).is_some_and(ip_list),
            Self::Port => text(value).is_some_and(|text| port(text).is_some()),
            Self::Endpoint => text(value).is_some_and(endpoint),
            Self::Protocol => matches!(value, b"tcp" | b"udp" | b"sctp"),
            Self::DnsName => text(value).is_some_and(is_dns_name),
            Self::DnsLabel => text(value).is_some_and(is_dns_label),
            Self::Uuid => text(value).is_some_and(uuid),
            Self::Integer => text(value).is_some_and(integer),
        };
        if good { Ok(()) } else { Err(HostValueError { expected: self.in_words(), found: self.show(value) }) }
    }

    /// What a value of this type is, as in "expected …".
    pub fn in_words(&self) -> String {
        match self {
            Self::Ip => "an IP address".into(),
            Self::IpList => format!("1 to {MAX_IPS} IP addresses with commas between them"),
            Self::Port => "a port, 1 to 65535".into(),
            Self::Endpoint => "tcp://IP:PORT, udp://IP:PORT or sctp://IP:PORT".into(),
            Self::Protocol => "tcp, udp or sctp".into(),
            Self::DnsName => "a DNS name in lowercase".into(),
            Self::DnsLabel => "a DNS label in lowercase".into(),
            Self::Uuid => "a UUID in lowercase".into(),
            Self::Integer => "an integer in decimal digits".into(),
            Self::Token => format!("a JSON web token of at most {MAX_TOKEN} bytes"),
            Self::Certificates => format!("1 to {MAX_CERTIFICATES} PEM certificates and nothing else"),
            Self::Any => format!("at most {MAX_HOST_VALUE} bytes"),
            Self::Sha256(digits) => format!("the content with SHA-256 {digits}"),
        }
    }

    fn show(&self, value: &[u8]) -> String {
        match self {
            Self::Sha256(_) => format!("SHA-256 {}", hex::encode(digest(&SHA256, value))),
            // A token that is refused may still be one that somebody accepts: it does not belong in a message.
            Self::Token | Self::Certificates | Self::Any => format!("{} bytes", value.len()),
            _ => match text(value) {
                Some(text) => cut(text),
                None => format!("{} bytes that are no text", value.len()),
            },
        }
    }
}

impl fmt::Display for HostType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Sha256(digits) = self {
            return write!(f, "sha256:{digits}");
        }
        let name = Self::NAMED.iter().find(|(kind, _)| kind == self).map_or("any", |(_, name)| name);
        f.write_str(name)
    }
}

impl From<HostType> for String {
    fn from(kind: HostType) -> Self {
        kind.to_string()
    }
}

/// The type of an environment variable that the kubelet makes for a Service, by its name; `None` when it makes none of that name.
/// Names as in the kubelet's `pkg/kubelet/envvars`: the Service's name in capitals with `_` for `-`, then `_SERVICE_HOST`,
/// `_PORT_80_TCP` alone or with `_PROTO`, `_PORT`, `_ADDR`, `_SERVICE_PORT`, `_SERVICE_PORT_` and a port's name, or `_PORT`.
///
/// A name can have two readings (`A_SERVICE_PORT` belongs to a Service `a`, or is the `_PORT` of a Service `a-service`): then this is
/// the first in the order above, and [`check_service_link`] takes a value of either type.
pub fn service_link_type(name: &str) -> Option<HostType> {
    service_link_types(name).into_iter().next()
}

/// Checks name and value of an environment variable that the kubelet makes for a Service.
///
/// # Errors
/// [`HostValueError`]: no such name, or a value of another type.
pub fn check_service_link(name: &str, value: &[u8]) -> Result<(), HostValueError> {
    let types = service_link_types(name);
    if types.iter().any(|kind| kind.check(value).is_ok()) {
        return Ok(());
    }
    match types.first() {
        Some(kind) => kind.check(value),
        None => {
            Err(HostValueError { expected: "a variable that Kubernetes makes for a Service".into(), found: cut(name) })
        }
    }
}

fn service_link_types(name: &str) -> Vec<HostType> {
    let mut types = Vec::new();
    let mut add = |condition: bool, kind: HostType| {
        if condition && !types.contains(&kind) {
            types.push(kind);
        }
    };
    let service = |prefix: &str| is_capital_label(prefix);
    let ends = |suffix: &str| name.strip_suffix(suffix).is_some_and(service);
    add(ends("_SERVICE_HOST"), HostType::Ip);
    let links =
        [("", HostType::Endpoint), ("_PROTO", HostType::Protocol), ("_PORT", HostType::Port), ("_ADDR", HostType::Ip)];
    for (suffix, kind) in links {
        let linked = name.strip_suffix(suffix).and_then(|name| name.rsplit_once("_PORT_")).is_some_and(|(of, rest)| {
            let rest = rest.split_once('_').map(|(number, protocol)| (port(number).is_some(), protocol));
            service(of) && matches!(rest, Some((true, "TCP" | "UDP" | "SCTP")))
        });
        add(linked, kind);
    }
    add(ends("_SERVICE_PORT"), HostType::Port);
    // Each place where the separator stands: a Service's name may contain it.
    let named = |(at, separator): (usize, &str)| {
        let rest = name.get(at.saturating_add(separator.len())..).unwrap_or_default();
        name.get(..at).is_some_and(service) && service(rest)
    };
    add(name.match_indices("_SERVICE_PORT_").any(named), HostType::Port);
    add(ends("_PORT"), HostType::Endpoint);
    types
}

/// A DNS label as [`is_dns_label`], in capitals and with `_` for `-`, as in the name of an environment variable.
fn is_capital_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !text.starts_with('_')
        && !text.ends_with('_')
}

/// 1 to 63 of a-z, 0-9 and `-`, which does not stand at either end (RFC 1123 as Kubernetes reads it).
pub fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// At most 253 bytes of DNS labels with dots between them.
pub fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A search domain of a resolver: `.`, or a DNS name that may have underscores and one dot at its end.
pub(crate) fn is_search_domain(text: &str) -> bool {
    text == "." || is_dns_name(&text.strip_suffix('.').unwrap_or(text).replace('_', "a"))
}

/// 64 lowercase hex digits.
pub(crate) fn is_sha256(digits: &str) -> bool {
    digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// UTF-8 of a bounded length, for the types that are short.
fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

fn ip_list(text: &str) -> bool {
    // The longest address has 45 characters, so nothing long is split.
    text.len() <= MAX_IPS * 46 && {
        let parts: Vec<&str> = text.split(',').collect();
        parts.len() <= MAX_IPS && parts.iter().all(|part| ip(part).is_some())
    }
}

fn port(text: &str) -> Option<u16> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

fn endpoint(text: &str) -> bool {
    let Some((protocol, rest)) = text.split_once("://") else { return false };
    let Some((_, digits)) = rest.rsplit_once(':') else { return false };
    matches!(protocol, "tcp" | "udp" | "sctp")
        && port(digits).is_some()
        && !rest.contains('%')
        && rest.parse::<SocketAddr>().is_ok()
}

fn uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

/// A sign, and digits without a zero in front, within 64 bits.
fn integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = (1..=19).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain && (digits == "0" || !digits.starts_with('0')) && text != "-0" && text.parse::<i64>().is_ok()
}

/// Header and payload are base64url without padding of something, and so is the signature (RFC 7515, compact form).
fn token(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(4, '.').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && URL_SAFE_NO_PAD.decode(part).is_ok())
}

/// One or more certificates in PEM (RFC 7468, strict form, lines of at most 76 characters), empty lines between them, each a DER
/// sequence that fills its block. What the certificates say is not looked at.
fn certificates(text: &str) -> bool {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = 0_usize;
    let mut body: Option<String> = None;
    for line in text.lines() {
        match (&mut body, line) {
            (None, "") => {}
            (None, BEGIN) => body = Some(String::new()),
            (Some(base64), END) => {
                if !STANDARD.decode(base64.as_str()).is_ok_and(|der| is_sequence(&der)) {
                    return false;
                }
                found = found.saturating_add(1);
                body = None;
            }
            (Some(base64), line) if (1..=76).contains(&line.len()) => base64.push_str(line),
            _ => return false,
        }
    }
    body.is_none() && (1..=MAX_CERTIFICATES).contains(&found)
}

/// Whether the bytes are one DER SEQUENCE with a definite length of at most two bytes' length, and nothing behind it.
fn is_sequence(der: &[u8]) -> bool {
    let (length, content) = match der {
        [0x30, length @ 0..=0x7f, content @ ..] => (usize::from(*length), content),
        [0x30, 0x81, length @ 0x80..=0xff, content @ ..] => (usize::from(*length), content),
        [0x30, 0x82, high @ 1..=0xff, low, content @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), content),
        _ => return false,
    };
    content.len() == length
}

/// Checks any bytes as each type, and as the name and value of a Service's variable; for fuzzing. What a type accepts obeys its
/// bounds, and a name that is accepted has a type.
pub fn fuzz(data: &[u8]) {
    for (kind, name) in HostType::NAMED {
        assert_eq!(HostType::from_name(name).as_ref(), Some(&kind), "a type's name means another type");
        match kind.check(data) {
            Ok(()) => assert!(data.len() <= MAX_HOST_VALUE, "{kind} accepts a long value"),
            Err(error) => assert!(error.found.chars().count() <= 81, "{kind} repeats a long value"),
        }
    }
    let exact = HostType::Sha256(hex::encode(digest(&SHA256, data)));
    assert_eq!(exact.check(data).is_ok(), data.len() <= MAX_HOST_VALUE, "a value differs from its own digest");
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(kind) = HostType::from_name(text) {
        assert_eq!(kind.to_string(), text, "a type changes its name");
    }
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if check_service_link(name, value.as_bytes()).is_ok() {
        assert!(service_link_type(name).is_some(), "a variable without a type is accepted");
    }
}

#[cfg(test)]
mod tests;
