//! The command line that containerd and CRI-O give a shim: flags as Go's `flag` package reads them, then one action word.

/// What the shim is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start the shim of a pod, or name the one that is there: `start`.
    Start,
    /// Remove what a dead shim left: `delete`.
    Delete,
    /// Be the shim of a pod; without an action word.
    Serve,
    /// Print the version: `-v`.
    Version,
    /// Print a `RuntimeInfo`: `-info`.
    Info,
}

/// The flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id.
    pub id: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// The program that publishes events for shims that cannot; not used.
    pub publish_binary: String,
    /// The bundle; only with `delete`. Else it is the working directory.
    pub bundle: String,
    /// Debug messages in the log.
    pub debug: bool,
}

/// Why the command line is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Not a flag of shims.
    #[error("flag {0:?} is not known; a shim is started by containerd")]
    Unknown(String),
    /// The last flag lacks its value.
    #[error("flag -{0} has no value")]
    NoValue(&'static str),
    /// Not `true` or `false`.
    #[error("flag -{name} has the value {found:?}; expected true or false")]
    NotBool {
        /// The flag.
        name: &'static str,
        /// Its value.
        found: String,
    },
    /// Not `start` or `delete`.
    #[error("action {0:?} is not known; expected start or delete")]
    Action(String),
    /// Not UTF-8.
    #[error("argument {0:?} is not UTF-8")]
    NotUtf8(std::ffi::OsString),
}

const STRINGS: [&str; 6] = ["namespace", "id", "address", "publish-binary", "bundle", "socket"];
const BOOLS: [&str; 4] = ["debug", "v", "version", "info"];

impl Flags {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn parse(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<(Self, Action), FlagError> {
        let mut flags = Self::default();
        let mut action = Action::Serve;
        let mut words = arguments.into_iter().map(|word| word.into_string().map_err(FlagError::NotUtf8));
        while let Some(word) = words.next().transpose()? {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|f| !f.is_empty())
            else {
                action = match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(FlagError::Action(word)),
                };
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if let Some(name) = BOOLS.into_iter().find(|known| *known == name) {
                let on = match value.as_deref() {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(found) => return Err(FlagError::NotBool { name, found: found.to_owned() }),
                };
                match name {
                    "debug" => flags.debug = on,
                    "info" if on => action = Action::Info,
                    _ if on => action = Action::Version,
                    _ => {}
                }
                continue;
            }
            let Some(name) = STRINGS.into_iter().find(|known| *known == name) else {
                return Err(FlagError::Unknown(word));
            };
            let value = match value {
                Some(value) => value,
                None => words.next().transpose()?.ok_or(FlagError::NoValue(name))?,
            };
            match name {
                "namespace" => flags.namespace = value,
                "id" => flags.id = value,
                "address" => flags.address = value,
                "publish-binary" => flags.publish_binary = value,
                "bundle" => flags.bundle = value,
                // The socket of the first shims; ours follows from namespace and id.
                _ => {}
            }
        }
        Ok((flags, action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(Flags, Action), FlagError> {
        Flags::parse(line.split_ascii_whitespace().map(Into::into))
    }

    #[test]
    fn the_lines_of_containerd_are_understood() {
        let (flags, action) = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id abc start",
        )
        .unwrap();
        assert_eq!(action, Action::Start);
        assert_eq!((flags.namespace.as_str(), flags.id.as_str()), ("k8s.io", "abc"));
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
        let (flags, action) = parse("--namespace=x -id=y -bundle /b -debug delete").unwrap();
        assert_eq!(action, Action::Delete);
        assert_eq!((flags.bundle.as_str(), flags.debug), ("/b", true));
        assert_eq!(parse("-v").unwrap().1, Action::Version);
        assert_eq!(parse("-info").unwrap().1, Action::Info);
        assert_eq!(parse("-debug=false -id a").unwrap(), (Flags { id: "a".into(), ..Flags::default() }, Action::Serve));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(parse("-idx a start"), Err(FlagError::Unknown("-idx".into())));
        assert_eq!(parse("-id"), Err(FlagError::NoValue("id")));
        assert_eq!(parse("-id a stop"), Err(FlagError::Action("stop".into())));
        assert_eq!(parse("-debug=maybe"), Err(FlagError::NotBool { name: "debug", found: "maybe".into() }));
    }
}
