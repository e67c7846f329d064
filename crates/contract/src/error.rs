use thiserror::Error;

use crate::host_value::HostValueError;

/// Why a contract is refused. Keys are full paths, such as `containers.scorer.secrets[0].path`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContractError {
    /// Larger than an initdata document can carry (unit: bytes).
    #[error("contract is {found} bytes, at most {limit} fit: shorten it")]
    TooLarge {
        /// Size that was found.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// Not TOML, or not UTF-8.
    #[error("contract is not valid TOML: {message}")]
    Toml {
        /// The parser's message, one line.
        message: String,
    },
    /// A key that this version does not know. Nothing is ignored.
    #[error("unknown key `{key}` in the contract: remove it, or use a Belljar that knows it")]
    UnknownKey {
        /// Full path of the key.
        key: String,
    },
    /// A key that must be there.
    #[error("key `{key}` is missing in the contract: add it")]
    MissingKey {
        /// Full path of the key.
        key: String,
    },
    /// A value of another TOML type.
    #[error("`{key}` is a {found}, expected a {expected}")]
    WrongType {
        /// Full path of the key.
        key: String,
        /// What belongs there.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// The contract's version is not one that this crate can honour.
    #[error("contract version {found} is not supported: this Belljar knows version {supported}")]
    Version {
        /// Version that was found.
        found: i64,
        /// Version that is known.
        supported: u32,
    },
    /// A number, size or count outside its bounds.
    #[error("`{key}` is {found}, allowed is {minimum} to {maximum}")]
    OutOfBounds {
        /// Full path of the key.
        key: String,
        /// Value or count that was found.
        found: i128,
        /// Smallest allowed.
        minimum: i128,
        /// Largest allowed.
        maximum: i128,
    },
    /// A string that has not the form it must have.
    #[error("`{key}` is {found:?}, expected {expected}")]
    Malformed {
        /// Full path of the key.
        key: String,
        /// The form.
        expected: &'static str,
        /// What was found, cut to 80 characters.
        found: String,
    },
    /// Two fields that cannot both stand.
    #[error("`{key}` conflicts with `{other}`: {why}")]
    Conflict {
        /// Full path of the key that is refused.
        key: String,
        /// Full path of the other key.
        other: String,
        /// The reason.
        why: &'static str,
    },
    /// Secrets are asked for and no broker is pinned, so anybody could pose as one.
    #[error("`{key}` needs a broker, and the contract pins none: add `[broker]` with `spki_sha256`")]
    NoBroker {
        /// The key that needs a broker.
        key: String,
    },
    /// A variable that changes what a program loads or trusts, left to the host.
    #[error("`{key}` cannot be left to the host, because {why}: give its value in `env`")]
    NotDelegable {
        /// Full path of the key.
        key: String,
        /// The reason.
        why: &'static str,
    },
    /// A container that the contract does not have.
    #[error("the contract has no container {name:?}: it allows {known}")]
    NoContainer {
        /// Name that was asked for.
        name: String,
        /// Names that the contract has.
        known: String,
    },
    /// The host did not give a value that the contract leaves to it.
    #[error("the host gave no value for {name} of container {container}, expected {expected}")]
    HostValueMissing {
        /// The container.
        container: String,
        /// The environment variable, or `the host name`.
        name: String,
        /// What the contract wants, in words.
        expected: String,
    },
    /// The host gave a value that the contract does not leave to it.
    #[error("the host gave a value for {name} of container {container}, which the contract does not leave to the host")]
    HostValueUnknown {
        /// The container.
        container: String,
        /// The environment variable, or `the host name`.
        name: String,
    },
    /// The host gave a value of another type than the contract wants.
    #[error("the host's value for {name} of container {container} is refused: {reason}")]
    HostValue {
        /// The container.
        container: String,
        /// The environment variable, or `the host name`.
        name: String,
        /// What was expected and found.
        reason: HostValueError,
    },
    /// Neither the image nor the caller says what to run.
    #[error("image {image:?} has no entrypoint and no command: say what to run after `--`")]
    NoCommand {
        /// The image reference.
        image: String,
    },
    /// A user or group that the image's `/etc/passwd` or `/etc/group` does not have.
    #[error("{kind} {name:?} is not in the image's {file}: use a numeric id, or a name that is there")]
    UnknownUser {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// The OCI specification library refused a value (a bug, not a user's mistake).
    #[error("cannot build the OCI specification: {message}")]
    Spec {
        /// The library's message.
        message: String,
    },
}

/// Why an initdata document, disk or annotation is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InitdataError {
    /// Above [`crate::MAX_INITDATA`] (unit: bytes; a compressed form is bounded likewise).
    #[error("initdata is larger than {limit} bytes: shorten the contract")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// Not UTF-8 or not TOML.
    #[error("initdata is not valid TOML: {message}")]
    Toml {
        /// The parser's message, one line.
        message: String,
    },
    /// A top-level key other than `version`, `algorithm`, `data`.
    #[error("unknown key `{key}` in the initdata: only version, algorithm and [data] belong there")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A key that must be there.
    #[error("key `{key}` is missing in the initdata")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value of another TOML type.
    #[error("`{key}` in the initdata is a {found}, expected a {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What belongs there.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// Not version 0.1.0.
    #[error("initdata version {found:?} is not supported, expected \"0.1.0\"")]
    Version {
        /// Version that was found.
        found: String,
    },
    /// Not sha256, sha384 or sha512.
    #[error("initdata algorithm {found:?} is not supported, expected sha256, sha384 or sha512")]
    Algorithm {
        /// What was found.
        found: String,
    },
    /// The disk does not begin with `initdata`.
    #[error("no initdata on this disk: the magic is missing")]
    NoMagic,
    /// The disk ends before its header or before its declared content.
    #[error("initdata disk is cut short: {needed} bytes are declared, {found} are there")]
    Truncated {
        /// Bytes that should be there.
        needed: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Something other than zeros behind the content, or bytes behind the gzip stream.
    #[error("unexpected bytes behind the initdata")]
    Trailing,
    /// The gzip stream is damaged.
    #[error("initdata cannot be decompressed: {message}")]
    Gzip {
        /// The library's message.
        message: String,
    },
    /// The annotation is not standard base64.
    #[error("initdata annotation is not base64: {message}")]
    Base64 {
        /// The library's message.
        message: String,
    },
    /// The document holds no `contract.toml`.
    #[error("initdata has no contract: the data key \"contract.toml\" is missing")]
    NoContract,
    /// The contract inside is refused.
    #[error(transparent)]
    Contract(#[from] ContractError),
}

/// Cuts untrusted text for an error message.
pub(crate) fn cut(text: &str) -> String {
    const LIMIT: usize = 80;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(LIMIT).collect();
    out.push('…');
    out
}

/// First line of a parser's message, cut.
pub(crate) fn one_line(message: &str) -> String {
    cut(message.lines().next().unwrap_or_default().trim())
}
