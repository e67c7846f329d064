//! Names of resources: `kbs:///repository/type/tag`.

use std::{fmt, str::FromStr};

/// Longest URI that is read, in bytes.
pub const MAX_URI: usize = 1024;

/// A parsed resource URI: `kbs[+plugin]://[host[:port]]/segment[/segment…][?query]`.
///
/// The host is ignored, as the broker is known by other means. Segments hold only `A-Z a-z 0-9 . _ -` and are never `.`
/// or `..`, so that a path means the same to each party.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceUri {
    plugin: String,
    segments: Vec<String>,
    query: Option<String>,
}

/// Why a resource URI is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// Not `kbs://` or `kbs+<plugin>://`.
    #[error("not a kbs:// uri; write kbs:///repository/type/tag")]
    Scheme,
    /// More than [`MAX_URI`] bytes.
    #[error("uri of {0} bytes is longer than {MAX_URI}")]
    TooLong(usize),
    /// No path, an empty segment, `.` or `..`, or a character outside `A-Za-z0-9._-`.
    #[error("path segment {segment:?} is not allowed; use letters, digits, '.', '_' and '-'")]
    Segment {
        /// The segment, sanitised.
        segment: String,
    },
    /// The query holds a character outside `A-Za-z0-9._~=&-`.
    #[error("query holds a character that is not allowed")]
    Query,
    /// A resource of the broker's store has exactly three segments.
    #[error("path has {0} segments; a resource is kbs:///repository/type/tag")]
    NotAResource(usize),
}

impl ResourceUri {
    /// The resource `repository/type/tag`.
    pub fn resource(repository: &str, kind: &str, tag: &str) -> Result<Self, UriError> {
        format!("kbs:///{repository}/{kind}/{tag}").parse::<Self>().and_then(|uri| {
            uri.resource_path()?;
            Ok(uri)
        })
    }

    /// The broker plugin that is asked: `resource` unless the scheme names another.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The path's segments, at least one.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// `repository/type/tag`, for a URI of the plugin `resource` with exactly three segments.
    pub fn resource_path(&self) -> Result<String, UriError> {
        if self.plugin != "resource" {
            return Err(UriError::Scheme);
        }
        if self.segments.len() != 3 {
            return Err(UriError::NotAResource(self.segments.len()));
        }
        Ok(self.segments.join("/"))
    }

    /// The path (and query) of the HTTP request: `/kbs/v0/<plugin>/<segments>`.
    pub fn http_path(&self) -> String {
        let mut path = format!("/kbs/v0/{}/{}", self.plugin, self.segments.join("/"));
        if let Some(query) = &self.query {
            path.push('?');
            path.push_str(query);
        }
        path
    }
}

impl FromStr for ResourceUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_URI {
            return Err(UriError::TooLong(text.len()));
        }
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
        let plugin = match scheme.strip_prefix("kbs").ok_or(UriError::Scheme)? {
            "" => "resource",
            other => other.strip_prefix('+').filter(|name| is_segment(name)).ok_or(UriError::Scheme)?,
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        if query.is_some_and(|q| !q.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~=&-".contains(&b))) {
            return Err(UriError::Query);
        }
        let (_host, path) = rest.split_once('/').ok_or(UriError::Segment { segment: String::new() })?;
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        if let Some(bad) = segments.iter().find(|s| !is_segment(s)) {
            return Err(UriError::Segment { segment: crate::sanitize(bad, 64) });
        }
        Ok(Self { plugin: plugin.to_owned(), segments, query: query.map(str::to_owned) })
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plugin = if self.plugin == "resource" { String::new() } else { format!("+{}", self.plugin) };
        write!(f, "kbs{plugin}:///{}", self.segments.join("/"))?;
        match &self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

/// Whether `text` may be one segment of a resource path.
pub fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_of_a_uri() {
        for (text, path) in [
            ("kbs:///default/key/1", "/kbs/v0/resource/default/key/1"),
            ("kbs+resource:///default/key/1", "/kbs/v0/resource/default/key/1"),
            ("kbs://broker.example:8080/default/key/1", "/kbs/v0/resource/default/key/1"),
            ("kbs+pkcs11:///wrap-key?id=7", "/kbs/v0/pkcs11/wrap-key?id=7"),
        ] {
            assert_eq!(text.parse::<ResourceUri>().unwrap().http_path(), path);
        }
        assert_eq!("kbs+resource://h/a/b/c".parse::<ResourceUri>().unwrap().to_string(), "kbs:///a/b/c");
    }

    #[test]
    fn path_tricks_are_refused() {
        assert_eq!(ResourceUri::resource("default", "key", "1").unwrap().resource_path().unwrap(), "default/key/1");
        for text in
            ["kbs:///default/key/..", "kbs:///default//1", "kbs:///default/key/%2e", "kbs:///default/key/1/", "kbs:///"]
        {
            assert!(matches!(text.parse::<ResourceUri>(), Err(UriError::Segment { .. })), "{text}");
        }
        assert_eq!("http:///a/b/c".parse::<ResourceUri>(), Err(UriError::Scheme));
        assert_eq!("kbsx:///a/b/c".parse::<ResourceUri>(), Err(UriError::Scheme));
        assert_eq!("kbs:///a/b/c?x=\n".parse::<ResourceUri>(), Err(UriError::Query));
        assert_eq!(ResourceUri::resource("a", "b", "c/d"), Err(UriError::NotAResource(4)));
        assert_eq!(format!("kbs:///{}", "a".repeat(1016)).parse::<ResourceUri>().unwrap().segments().len(), 1);
        assert_eq!(format!("kbs:///{}", "a".repeat(1018)).parse::<ResourceUri>(), Err(UriError::TooLong(1025)));
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_display_reads_back(text in "(kbs(\\+[a-z]{1,3})?://)?.{0,40}") {
            if let Ok(uri) = text.parse::<ResourceUri>() {
                prop_assert_eq!(uri.to_string().parse::<ResourceUri>().unwrap(), uri);
            }
        }
    }
}
