//! The two dialects in which containerd asks for a shim, and is answered.
//!
//! Until 2.2: flags, environment, the runtime's options as a protobuf `Any` on stdin; the answer is the bare address (which means version
//! 2 of the task service), or JSON with a version where the environment names the highest version that containerd knows. From 2.3 on: a
//! protobuf `BootstrapParams` on stdin and a `BootstrapResult` on stdout; the flags are given still.
//! An older containerd cannot read the newer answer, so each is answered in its own.

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use protobuf::Message as _;

use crate::flags::Flags;

/// Environment variable with the highest version of the task service that containerd knows (1.7 to 2.2).
pub const MAX_VERSION: &str = "MAX_SHIM_VERSION";
/// Environment variable with containerd's socket for events.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Most bytes on stdin.
pub const MAX_STDIN: u64 = 1 << 20;
/// The task service that we answer with where containerd does not bound it; version 2 is served as well.
const TASK_VERSION: i32 = 3;

/// How containerd asked, and so how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The bare address.
    Address,
    /// JSON, with this version.
    Json(i32),
    /// `BootstrapResult`.
    Protobuf,
}

/// What containerd wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How it asked.
    pub dialect: Dialect,
    /// Namespace.
    pub namespace: String,
    /// Id of the container.
    pub id: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// containerd's socket for events; none with CRI-O.
    pub ttrpc_address: Option<String>,
    /// Where sockets of shims belong, if not at the usual place.
    pub socket_dir: Option<String>,
    /// Debug messages in the log.
    pub debug: bool,
}

/// Why a request is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// It names no container.
    #[error("no container id is given; a shim is started by containerd")]
    NoId,
    /// The id could lead elsewhere, or is no id of containerd.
    #[error("container id {found:?} is not 1 to 128 of letters, digits, '-', '_' and '.'")]
    Id {
        /// The id.
        found: String,
    },
}

impl Request {
    /// From the flags, the bytes on stdin, and the environment.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub fn read(
        flags: &Flags,
        stdin: &[u8],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BootstrapError> {
        let request = match params(flags, stdin) {
            Some(params) => Self {
                dialect: Dialect::Protobuf,
                namespace: params.namespace,
                id: params.instance_id,
                address: params.containerd_grpc_address,
                ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
                socket_dir: params.socket_dir.filter(|folder| !folder.is_empty()),
                debug: params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
            },
            None => Self {
                dialect: match environment(MAX_VERSION).and_then(|version| version.parse::<i32>().ok()) {
                    Some(version) if version >= 2 => Dialect::Json(version.min(TASK_VERSION)),
                    _ => Dialect::Address,
                },
                namespace: flags.namespace.clone(),
                id: flags.id.clone(),
                address: flags.address.clone(),
                ttrpc_address: environment(TTRPC_ADDRESS).filter(|address| !address.is_empty()),
                socket_dir: None,
                debug: flags.debug,
            },
        };
        check_id(&request.id)?;
        Ok(request)
    }
}

/// Whether `id` may be part of paths and names.
///
/// # Errors
/// [`BootstrapError`].
pub fn check_id(id: &str) -> Result<(), BootstrapError> {
    let fits = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && id != "." && id != "..";
    match id.len() {
        0 => Err(BootstrapError::NoId),
        1..=128 if fits => Ok(()),
        _ => Err(BootstrapError::Id { found: id.chars().take(128).collect() }),
    }
}

/// `BootstrapParams`, if that is what stdin has. The options of an older containerd, an `Any`, have the same wire types in their first two
/// fields: their type's name would be the id.
fn params(flags: &Flags, stdin: &[u8]) -> Option<BootstrapParams> {
    let params = BootstrapParams::parse_from_bytes(stdin).ok().filter(|_| !stdin.is_empty())?;
    let same = |flag: &str, found: &str| flag.is_empty() || flag == found;
    (same(&flags.id, &params.instance_id) && same(&flags.namespace, &params.namespace)).then_some(params)
}

impl Dialect {
    /// The bytes for stdout.
    pub fn answer(self, address: &str) -> Vec<u8> {
        match self {
            Self::Address => address.as_bytes().to_vec(),
            Self::Json(version) => {
                serde_json::json!({ "version": version, "address": address, "protocol": "ttrpc" }).to_string().into()
            }
            Self::Protobuf => {
                let mut result = BootstrapResult::new();
                result.version = TASK_VERSION;
                address.clone_into(&mut result.address);
                "ttrpc".clone_into(&mut result.protocol);
                // Writing into a Vec cannot fail; containerd refuses an empty answer.
                result.write_to_bytes().unwrap_or_default()
            }
        }
    }
}

/// Any bytes on stdin, for fuzzing: with the flags of both dialects.
pub fn fuzz(data: &[u8]) {
    let flags = Flags { id: "a".into(), namespace: "k8s.io".into(), ..Flags::default() };
    for flags in [Flags::default(), flags] {
        if let Ok(request) = Request::read(&flags, data, |_| None) {
            assert!(check_id(&request.id).is_ok());
            assert!(flags.id.is_empty() || flags.id == request.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Field 1, 2 and 5 of `BootstrapParams`, written by hand from the wire format.
    const PARAMS: &[u8] =
        b"\x0a\x03abc\x12\x06k8s.io\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01\x2a\x0a/c.sock.tt\x32\x07/c.sock";
    /// An `Any` as containerd 2.2 gives it: `containerd.runc.v1.Options` with `systemd_cgroup`.
    const ANY: &[u8] = b"\x0a\x1acontainerd.runc.v1.Options\x12\x02\x48\x01";

    fn flags() -> Flags {
        Flags { namespace: "k8s.io".into(), id: "abc".into(), address: "/c.sock".into(), ..Flags::default() }
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_older_dialect_is_flags_and_environment() {
        for stdin in [b"".as_slice(), ANY] {
            let request = Request::read(&flags(), stdin, none).unwrap();
            assert_eq!(request.dialect, Dialect::Address);
            assert_eq!((request.id.as_str(), request.ttrpc_address), ("abc", None));
        }
        let environment = |name: &str| match name {
            MAX_VERSION => Some("3".to_owned()),
            TTRPC_ADDRESS => Some("/c.sock.ttrpc".to_owned()),
            _ => None,
        };
        let request = Request::read(&flags(), ANY, environment).unwrap();
        assert_eq!(request.dialect, Dialect::Json(3));
        assert_eq!(request.ttrpc_address.as_deref(), Some("/c.sock.ttrpc"));
        let two = Request::read(&flags(), ANY, |name| (name == MAX_VERSION).then(|| "2".to_owned())).unwrap();
        assert_eq!(two.dialect, Dialect::Json(2));
        let nine = Request::read(&flags(), ANY, |name| (name == MAX_VERSION).then(|| "9".to_owned())).unwrap();
        assert_eq!(nine.dialect, Dialect::Json(3));
    }

    #[test]
    fn the_newer_dialect_is_a_message() {
        // With the flags that 2.3 still gives, and without them.
        for flags in [flags(), Flags::default()] {
            let request = Request::read(&flags, PARAMS, none).unwrap();
            let expected = Request {
                dialect: Dialect::Protobuf,
                namespace: "k8s.io".into(),
                id: "abc".into(),
                address: "/c.sock".into(),
                ttrpc_address: Some("/c.sock.tt".into()),
                socket_dir: None,
                debug: true,
            };
            assert_eq!(request, expected);
        }
    }

    #[test]
    fn options_are_not_taken_for_the_newer_dialect() {
        // The type's name would be the id: as with flags of another id, the flags count.
        assert!(BootstrapParams::parse_from_bytes(ANY).is_ok());
        let other = Flags { id: "abd".into(), ..flags() };
        assert_eq!(Request::read(&other, PARAMS, none).unwrap().dialect, Dialect::Address);
        let elsewhere = Flags { namespace: "moby".into(), ..flags() };
        assert_eq!(Request::read(&elsewhere, PARAMS, none).unwrap().dialect, Dialect::Address);
    }

    #[test]
    fn answers_have_these_bytes() {
        assert_eq!(Dialect::Address.answer("unix:///run/s"), b"unix:///run/s");
        assert_eq!(
            String::from_utf8(Dialect::Json(3).answer("unix:///run/s")).unwrap(),
            r#"{"address":"unix:///run/s","protocol":"ttrpc","version":3}"#
        );
        assert_eq!(Dialect::Protobuf.answer("unix:///run/s"), b"\x08\x03\x12\x0dunix:///run/s\x1a\x05ttrpc");
    }

    #[test]
    fn ids_lead_nowhere_else() {
        assert_eq!(check_id(""), Err(BootstrapError::NoId));
        assert_eq!(check_id(".."), Err(BootstrapError::Id { found: "..".into() }));
        assert_eq!(check_id("a/b"), Err(BootstrapError::Id { found: "a/b".into() }));
        assert_eq!(check_id("a.b"), Ok(()));
        assert_eq!(Request::read(&Flags::default(), b"", none), Err(BootstrapError::NoId));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&data);
        }
    }
}
