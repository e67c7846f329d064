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
        let reference = oci_client::Reference::from_str(text)
            .map_err(|error| ReferenceError::Grammar { text: text.to_owned(), why: error.to_string() })?;
        if reference.digest().is_some_and(|digest| !is_digest(digest)) {
            return Err(ReferenceError::Digest(text.to_owned()));
        }
        Ok(Self::Registry(reference))
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
