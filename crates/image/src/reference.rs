//! Names of images as a user writes them.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest reference in bytes.
const MAX_LEN: usize = 4096;

/// Where an image is.
///
/// | form | meaning |
/// |---|---|
/// | `oci:DIR[:TAG]` | an OCI layout directory; without TAG it must hold one image. A last `:word` is always the tag |
/// | `oci-archive:FILE` | a tar of such a directory, with one image |
/// | `[HOST[:PORT]/]PATH[:TAG][@sha256:HEX]` | a registry; without HOST docker.io, without TAG and digest `latest` |
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// An image in a registry.
    Registry(oci_client::Reference),
    /// An OCI layout directory.
    OciDir {
        /// The directory.
        dir: PathBuf,
        /// `org.opencontainers.image.ref.name` of the image.
        tag: Option<String>,
    },
    /// A tar of an OCI layout directory.
    OciArchive {
        /// The file.
        file: PathBuf,
    },
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing, or nothing behind `oci:` or `oci-archive:`.
    #[error("the image reference {0:?} names nothing")]
    Empty(String),
    /// Over 4096 bytes, or with a NUL.
    #[error("the image reference is longer than {MAX_LEN} bytes or has a NUL")]
    Length,
    /// Not in the grammar of registry references.
    #[error("{text:?} is no image reference ({why}); write HOST/PATH:TAG, oci:DIR:TAG or oci-archive:FILE")]
    Grammar {
        /// The text.
        text: String,
        /// What the grammar says.
        why: String,
    },
    /// A digest of another algorithm than SHA-256.
    #[error("{0:?} pins a digest that is not sha256:<64 hex digits>")]
    Digest(String),
}

impl Reference {
    /// Whether the image comes from a registry over plain HTTP: on loopback addresses only, as docker does.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        matches!(self, Self::Registry(reference) if is_loopback(reference.registry()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_LEN || text.contains('\0') {
            return Err(ReferenceError::Length);
        }
        let some = |rest: &str| {
            if rest.is_empty() { Err(ReferenceError::Empty(text.to_owned())) } else { Ok(PathBuf::from(rest)) }
        };
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return Ok(Self::OciArchive { file: some(rest)? });
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return Ok(match rest.rsplit_once(':').filter(|(_, tag)| is_tag(tag)) {
                Some((dir, tag)) => Self::OciDir { dir: some(dir)?, tag: Some(tag.to_owned()) },
                None => Self::OciDir { dir: some(rest)?, tag: None },
            });
        }
        if text.is_empty() {
            return Err(ReferenceError::Empty(String::new()));
        }
        parse_registry(text).map(Self::Registry)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::OciDir { dir, tag: Some(tag) } => write!(f, "oci:{}:{tag}", dir.display()),
            Self::OciDir { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Self::OciArchive { file } => write!(f, "oci-archive:{}", file.display()),
        }
    }
}

/// The grammar of docker's references (`distribution/reference`), with its defaults: docker.io, `library/`, `latest`.
fn parse_registry(text: &str) -> Result<oci_client::Reference, ReferenceError> {
    let bad = |why: &str| ReferenceError::Grammar { text: text.to_owned(), why: why.to_owned() };
    let (rest, digest) = match text.split_once('@') {
        Some((_, digest)) if !is_digest(digest) => return Err(ReferenceError::Digest(text.to_owned())),
        Some((rest, digest)) => (rest, Some(digest.to_owned())),
        None => (text, None),
    };
    // A colon behind the last slash starts the tag; before it, the port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(bad("its tag has other characters than letters, digits, `_`, `.`, `-`, or over 128"));
    }
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    if !is_host(host) {
        return Err(bad("its host is no name or address with an optional port"));
    }
    if path.len() > 255 || !path.split('/').all(is_component) {
        return Err(bad(
            "its path must be lowercase letters and digits, with `.`, `_`, `__` or `-` between, up to 255 bytes",
        ));
    }
    let host = host.to_owned();
    Ok(match (tag.map(str::to_owned), digest) {
        (Some(tag), Some(digest)) => oci_client::Reference::with_tag_and_digest(host, path, tag, digest),
        (None, Some(digest)) => oci_client::Reference::with_digest(host, path, digest),
        (tag, None) => oci_client::Reference::with_tag(host, path, tag.unwrap_or_else(|| "latest".to_owned())),
    })
}

/// `NAME[:PORT]`, `IPv4[:PORT]` or `[IPv6][:PORT]`.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
        Some(_) => return false,
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    port_fits && name.len() <= 253 && name.split('.').all(label)
}

/// Runs of lowercase letters and digits, with one `.`, one or two `_`, or any number of `-` between two runs.
fn is_component(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(alphanumeric)
        && part.ends_with(alphanumeric)
        && part.split(alphanumeric).all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

/// Whether `registry` (`HOST[:PORT]`) is this machine: `localhost`, 127.0.0.0/8 or `[::1]`.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => registry.split_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `sha256:` and 64 lowercase hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The tag grammar of the OCI distribution specification, "Pulling manifests".
pub(crate) fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.len() <= 128
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn forms() {
        let dir = |dir: &str, tag: Option<&str>| Reference::OciDir { dir: dir.into(), tag: tag.map(str::to_owned) };
        assert_eq!("oci:/a/b".parse(), Ok(dir("/a/b", None)));
        assert_eq!("oci:/a/b:v1".parse(), Ok(dir("/a/b", Some("v1"))));
        assert_eq!("oci:/a:b/c".parse(), Ok(dir("/a:b/c", None)));
        assert_eq!("oci:/a:b:c".parse(), Ok(dir("/a:b", Some("c"))));
        assert_eq!("oci-archive:/a:b".parse(), Ok(Reference::OciArchive { file: "/a:b".into() }));
        let canonical = |text: &str| text.parse::<Reference>().map(|r| r.to_string());
        assert_eq!(canonical("busybox").as_deref(), Ok("docker.io/library/busybox:latest"));
        let pinned = format!("127.0.0.1:5000/a/b:v1@sha256:{HEX}");
        assert_eq!(canonical(&pinned).as_deref(), Ok(pinned.as_str()));
    }

    #[test]
    fn refusals() {
        assert_eq!("".parse::<Reference>(), Err(ReferenceError::Empty(String::new())));
        assert_eq!("oci:".parse::<Reference>(), Err(ReferenceError::Empty("oci:".into())));
        assert_eq!("oci::v1".parse::<Reference>(), Err(ReferenceError::Empty("oci::v1".into())));
        assert_eq!("oci-archive:".parse::<Reference>(), Err(ReferenceError::Empty("oci-archive:".into())));
        assert_eq!("a".repeat(4097).parse::<Reference>(), Err(ReferenceError::Length));
        assert!(matches!("UPPER/case".parse::<Reference>(), Err(ReferenceError::Grammar { .. })));
        assert!(matches!("h/a b".parse::<Reference>(), Err(ReferenceError::Grammar { .. })));
        for text in [
            "a//b",
            "a/",
            "/a",
            "a/-b",
            "a/b.",
            "a/b___c",
            "a/b..c",
            "h.x:0/a",
            "h.x:x/a",
            "h.x:70000/a",
            "-h.x/a",
            "[::1/a",
            "a:b:c",
            "a:",
            "a/b:-x",
        ] {
            assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Grammar { .. })), "{text}");
        }
        for text in ["a/b__c", "a/b--c", "h.x:5/a.b_c-d", "[::1]:5000/a", "index.docker.io/a", "localhost/a"] {
            assert!(text.parse::<Reference>().is_ok(), "{text}");
        }
        let long = format!("h.x/a@sha512:{HEX}{HEX}");
        assert_eq!(long.parse::<Reference>(), Err(ReferenceError::Digest(long)));
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for (text, plain) in [
            ("127.0.0.1:5000/a", true),
            ("127.9.9.9/a", true),
            ("localhost:5000/a", true),
            ("localhost/a", true),
            ("10.0.0.1:5000/a", false),
            ("127.0.0.1.example.com/a", false),
            ("localhost.example.com/a", false),
            ("a", false),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().is_plain_http(), plain, "{text}");
        }
        assert!(is_loopback("[::1]:5000"));
        assert!(!is_loopback("[::2]:5000"));
    }

    proptest! {
        #[test]
        fn agrees_with_oci_client_on_what_it_takes(
            text in "([a-z]{1,3}(\\.[a-z0-9]{1,3}|:[1-9][0-9]{1,3})?/)?[a-z0-9]{1,3}([._-][a-z0-9]{1,3}){0,2}(/[a-z]{1,3})?(:[a-zA-Z0-9_.-]{1,5})?",
        ) {
            if let Ok(Reference::Registry(reference)) = text.parse::<Reference>() {
                prop_assert_eq!(Ok(reference), text.parse::<oci_client::Reference>());
            }
        }

        #[test]
        fn never_panics_and_display_parses_back(text in "(oci:|oci-archive:)?[a-z0-9./:@_-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn any_text(text in any::<String>()) {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
