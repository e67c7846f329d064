//! Where a PostgreSQL server is, and how much its TLS has to prove.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use zeroize::Zeroizing;

/// Longest file with an address or a password.
const MAX_FILE: u64 = 4096;

/// Why an address of PostgreSQL is not taken. None of these shows a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Not an address.
    #[error("not an address of PostgreSQL ({0}): write postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full")]
    Form(String),
    /// It holds a password, and is not a secret.
    #[error("the address of PostgreSQL holds a password: put it into a file of mode 600 or into PGPASSWORD")]
    Password,
    /// A parameter that would not be heeded.
    #[error("parameter {0:?} in the address of PostgreSQL is not known: leave it out")]
    Parameter(String),
    /// A parameter twice.
    #[error("parameter {0:?} stands twice in the address of PostgreSQL: leave one out")]
    Twice(String),
    /// A mode of TLS that would prove less than it says.
    #[error("sslmode={mode} {why}: say verify-full, or disable where the network is trusted")]
    Tls {
        /// The mode.
        mode: String,
        /// Why it is not taken.
        why: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What failed.
        why: String,
    },
    /// Others may read a file with a secret.
    #[error("{path} has mode {mode:03o}, others may read it: chmod 600, and consider the password known")]
    Mode {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
}

/// How to reach PostgreSQL. What it shows has no password.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) connect: PgConnectOptions,
    shown: String,
    /// Most connections of this process beside the one that listens.
    pub connections: u32,
    /// How long a call waits for a server that is away before it fails, tries included.
    pub patience: Duration,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("address", &self.shown)
            .field("connections", &self.connections)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// From an address without a password, which may stand in a configuration. The password comes from
    /// [`PostgresOptions::password_file`], `PGPASSWORD` or `PGPASSFILE`.
    pub fn new(address: &str) -> Result<Self, UrlError> {
        let options = Self::secret(address)?;
        let url = url::Url::parse(address).map_err(|error| UrlError::Form(error.to_string()))?;
        if url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password") {
            return Err(UrlError::Password);
        }
        Ok(options)
    }

    /// From an address that is a secret itself, since a password may stand in it: from the environment.
    pub fn secret(address: &str) -> Result<Self, UrlError> {
        let roots = std::env::var_os("PGSSLROOTCERT").is_some();
        Self::with_tls(address, std::env::var("PGSSLMODE").ok().as_deref(), roots)
    }

    /// From an address in a file that only its owner may read.
    pub fn secret_file(path: &Path) -> Result<Self, UrlError> {
        Self::secret(&read_secret(path)?)
    }

    /// With the password in a file that only its owner may read; an end of line is not part of it.
    pub fn password_file(mut self, path: &Path) -> Result<Self, UrlError> {
        self.connect = self.connect.password(&read_secret(path)?);
        Ok(self)
    }

    /// The address without its password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Parses an address; `mode` is the mode of TLS when the address says none, `roots` says whether there is a file of
    /// authorities even so.
    fn with_tls(address: &str, mode: Option<&str>, mut roots: bool) -> Result<Self, UrlError> {
        let mut url = url::Url::parse(address).map_err(|error| UrlError::Form(error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(UrlError::Form(format!("its scheme is {}", url.scheme())));
        }
        let mut seen = Vec::new();
        let mut mode = mode.map(str::to_owned);
        let mut named = false;
        for (name, value) in url.query_pairs() {
            match &*name {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = true,
                "application_name" => named = true,
                "host" | "hostaddr" | "port" | "dbname" | "user" | "password" | "sslcert" | "sslkey" | "options" => {}
                other => return Err(UrlError::Parameter(other.chars().take(40).collect())),
            }
            if seen.contains(&name) {
                return Err(UrlError::Twice(name.into_owned()));
            }
            seen.push(name);
        }
        if let Some(mode) = &mode {
            tls(mode, roots)?;
        }
        // Its message could show the address.
        let parsed = PgConnectOptions::from_str(address);
        let connect = parsed.map_err(|_| UrlError::Form("a part of it has the wrong form".into()))?;
        let near = connect.get_socket().is_some() || is_near(connect.get_host());
        let default = if near { "prefer" } else { "verify-full" };
        let mode = tls(mode.as_deref().unwrap_or(default), roots)?;
        // What is shown has neither password nor parameters, one of which may be a password.
        let _ = url.set_password(None);
        url.set_query(None);
        let connect = if named { connect } else { connect.application_name("belljar") };
        let connect = connect.ssl_mode(mode).disable_statement_logging();
        Ok(Self { connect, shown: url.to_string(), connections: 10, patience: Duration::from_secs(3) })
    }
}

/// The mode of TLS, when it proves what it says.
fn tls(mode: &str, roots: bool) -> Result<PgSslMode, UrlError> {
    let refused = |why| Err(UrlError::Tls { mode: mode.chars().take(40).collect(), why });
    match mode {
        "disable" => Ok(PgSslMode::Disable),
        "prefer" => Ok(PgSslMode::Prefer),
        // libpq checks the server's certificate in this case, and sqlx does not.
        "require" if roots => refused("with sslrootcert does not look at the server's certificate here"),
        "require" => Ok(PgSslMode::Require),
        "verify-full" => Ok(PgSslMode::VerifyFull),
        // The machine's roots are trusted beside sslrootcert, so any name's certificate of any public authority would do.
        "verify-ca" => refused("takes any certificate that any authority of this machine has issued"),
        "allow" => refused("is not different from disable here"),
        _ => refused("is not known"),
    }
}

/// On this machine.
fn is_near(host: &str) -> bool {
    host == "localhost"
        || host.starts_with('/')
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The text in a file that only its owner may read, without an end of line.
fn read_secret(path: &Path) -> Result<Zeroizing<String>, UrlError> {
    use std::io::Read as _;
    let name = path.display().to_string();
    let failed = |why: std::io::Error| UrlError::File { path: name.clone(), why: why.to_string() };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(UrlError::Mode { path: name, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE.try_into().unwrap_or(0)));
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(address: &str, environment: Option<&str>) -> Result<String, UrlError> {
        PostgresOptions::with_tls(address, environment, false)
            .map(|options| format!("{:?}", options.connect.get_ssl_mode()))
    }

    #[test]
    fn tls_proves_what_its_mode_says() {
        for (address, expected) in [
            ("postgres://db.example/b", "VerifyFull"),
            ("postgres://db.example/b?sslmode=verify-full&sslrootcert=/x.pem", "VerifyFull"),
            ("postgres://db.example/b?sslmode=require", "Require"),
            ("postgres://db.example/b?sslmode=disable", "Disable"),
            ("postgres://10.0.0.1/b", "VerifyFull"),
            ("postgres://localhost/b", "Prefer"),
            ("postgres://127.0.0.2/b", "Prefer"),
            ("postgres://[::1]/b", "Prefer"),
            ("postgres://%2Frun%2Fpostgresql/b", "Prefer"),
            ("postgres:///b?host=/run/postgresql", "Prefer"),
            ("postgres://localhost/b?host=db.example", "VerifyFull"),
        ] {
            assert_eq!(mode(address, None).as_deref(), Ok(expected), "{address}");
        }
        assert_eq!(mode("postgres://db.example/b", Some("disable")).as_deref(), Ok("Disable"));
        assert_eq!(mode("postgres://db.example/b?sslmode=require", Some("disable")).as_deref(), Ok("Require"));
        for (query, refused) in [
            ("sslmode=verify-ca", "verify-ca"),
            ("sslmode=allow", "allow"),
            ("sslmode=on", "on"),
            ("sslmode=require&sslrootcert=/x.pem", "require"),
        ] {
            let error = mode(&format!("postgres://db.example/b?{query}"), None).unwrap_err();
            assert!(matches!(&error, UrlError::Tls { mode, .. } if mode == refused), "{error}");
        }
    }

    #[test]
    fn nothing_in_an_address_is_ignored_and_no_password_shown() {
        let address = "postgres://user:hunter2@db.example:5433/base?application_name=x";
        let options = PostgresOptions::secret(address).unwrap();
        assert_eq!(options.shown(), "postgres://user@db.example:5433/base");
        assert!(!format!("{options:?}").contains("hunter2"));
        assert_eq!(PostgresOptions::new(address).unwrap_err(), UrlError::Password);
        PostgresOptions::new("postgres://user@db.example:5433/base").unwrap();
        let hidden = "postgres://db.example/base?password=hunter2";
        assert_eq!(PostgresOptions::new(hidden).unwrap_err(), UrlError::Password);
        assert_eq!(PostgresOptions::secret(hidden).unwrap().shown(), "postgres://db.example/base");
        for (address, error) in [
            ("postgres://h/b?connect_timeout=1", UrlError::Parameter("connect_timeout".into())),
            ("postgres://h/b?sslmode=disable&sslmode=verify-full", UrlError::Twice("sslmode".into())),
            ("mysql://h/b", UrlError::Form("its scheme is mysql".into())),
            ("postgres://h/b?port=hunter2", UrlError::Form("a part of it has the wrong form".into())),
        ] {
            assert_eq!(PostgresOptions::secret(address).unwrap_err(), error, "{address}");
        }
        assert!(matches!(PostgresOptions::secret("db.example"), Err(UrlError::Form(_))));
    }

    #[test]
    fn secrets_come_from_files_of_their_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        std::fs::write(&path, "postgres://user:hunter2@db.example/base\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let open = UrlError::Mode { path: path.display().to_string(), mode: 0o640 };
        assert_eq!(PostgresOptions::secret_file(&path).unwrap_err(), open);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let options = PostgresOptions::secret_file(&path).unwrap();
        assert_eq!(options.shown(), "postgres://user@db.example/base");
        options.password_file(&path).unwrap();
        assert!(matches!(PostgresOptions::secret_file(&folder.path().join("none")), Err(UrlError::File { .. })));
    }
}
