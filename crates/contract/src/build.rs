//! A contract from an image's configuration and the flags of `belljar run`, with the meaning they have for
//! `docker run`.
//!
//! - Command: `--entrypoint`, else the image's; then the arguments behind `--`, else the image's `Cmd` (which an own
//!   entrypoint discards).
//! - Environment: the image's, overlaid by `--env`; `PATH` gets Docker's default when nobody sets it; `HOSTNAME` is the
//!   container's host name; with a terminal, `TERM=xterm`.
//! - User: `--user`, else the image's; names are kept and resolved in the guest ([`crate::user`]).
//! - Capabilities: [`DEFAULT_CAPABILITIES`], and none when the user is known not to be root. A process of another user than
//!   root never holds capabilities (there are no ambient ones, as with Docker).
//! - An image's volumes are ordinary directories of the writable layer; exposed ports, labels, health check and stop signal
//!   have no meaning for a contract.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

use crate::check::malformed;
use crate::error::ContractError;
use crate::model::{
    BrokerPin, Container, Contract, DEFAULT_CAPABILITIES, DEFAULT_SCRATCH, Layer, Permission, PodSettings, Resources,
    Restart, Secret, Tmpfs, User, VERSION,
};

/// Where programs are looked for when neither image nor caller says so (Docker's default).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is known about an image.
#[derive(Debug, Clone)]
pub struct ImageFacts<'a> {
    /// Reference as the user wrote it.
    pub reference: &'a str,
    /// Manifest digest, `sha256:…`.
    pub manifest_digest: &'a str,
    /// The image's configuration.
    pub config: &'a ImageConfiguration,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

/// Run flags; the default is `docker run IMAGE` with output allowed and everything else closed.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Arguments behind `--`; empty: the image's `Cmd`.
    pub args: Vec<String>,
    /// Instead of the image's entrypoint; `Some(vec![])` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Added to or instead of the image's environment.
    pub env: BTreeMap<String, String>,
    /// Instead of the image's working directory.
    pub cwd: Option<String>,
    /// `USER[:GROUP]` instead of the image's user.
    pub user: Option<String>,
    /// Instead of [`DEFAULT_CAPABILITIES`].
    pub capabilities: Option<Vec<String>>,
    /// Whether set-user-id files give nothing.
    pub no_new_privileges: bool,
    /// Whether the root file system cannot be written.
    pub read_only_root: bool,
    /// Memory file systems.
    pub tmpfs: Vec<Tmpfs>,
    /// Bound of the writable layer in bytes.
    pub scratch_bytes: u64,
    /// Limits.
    pub resources: Resources,
    /// Secrets that appear as files.
    pub secrets: Vec<Secret>,
    /// Whether stdout and stderr may leave.
    pub logs: Permission,
    /// Whether the host may write to stdin.
    pub stdin: Permission,
    /// Whether the REST interface for secrets is there.
    pub secret_api: bool,
    /// Instead of the container's name.
    pub hostname: Option<String>,
    /// Whether stdin and stdout are a terminal.
    pub terminal: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            entrypoint: None,
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            capabilities: None,
            no_new_privileges: true,
            read_only_root: false,
            tmpfs: Vec::new(),
            scratch_bytes: DEFAULT_SCRATCH,
            resources: Resources::default(),
            secrets: Vec::new(),
            logs: Permission::Allow,
            stdin: Permission::Deny,
            secret_api: false,
            hostname: None,
            terminal: false,
        }
    }
}

impl Contract {
    /// A contract with one container.
    ///
    /// # Errors
    /// [`ContractError`], when there is nothing to run or a value is out of bounds.
    pub fn from_image(
        name: &str,
        image: &ImageFacts<'_>,
        options: &RunOptions,
        broker: Option<BrokerPin>,
    ) -> Result<Self, ContractError> {
        let container = Container::from_image(name, image, options)?;
        let containers = BTreeMap::from([(name.to_owned(), container)]);
        let contract = Self {
            version: VERSION,
            broker,
            pod: PodSettings::default(),
            operator: None,
            volumes: BTreeMap::new(),
            containers,
            debug: false,
        };
        contract.check()?;
        Ok(contract)
    }
}

impl Container {
    /// One container. Its own bounds are checked, rules of the whole contract are not.
    ///
    /// # Errors
    /// As [`Contract::from_image`].
    pub fn from_image(name: &str, image: &ImageFacts<'_>, options: &RunOptions) -> Result<Self, ContractError> {
        let key = format!("containers.{name}");
        let config = image.config.config();
        let hostname = options.hostname.clone().unwrap_or_else(|| name.to_owned());
        let user_text = options
            .user
            .clone()
            .or_else(|| config.as_ref().and_then(|config| config.user().clone()))
            .unwrap_or_default();
        let user = User::from_text(&format!("{key}.user"), user_text.trim())?;
        let capabilities = match &options.capabilities {
            Some(capabilities) => capabilities.clone(),
            None if user.name.is_none() && user.uid != 0 => Vec::new(),
            None => DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
        };
        let cwd = options
            .cwd
            .clone()
            .or_else(|| config.as_ref().and_then(|config| config.working_dir().clone()))
            .filter(|cwd| !cwd.is_empty())
            .map_or_else(|| "/".to_owned(), |cwd| normalise(&cwd));
        let container = Self {
            image: image.reference.to_owned(),
            image_digest: image.manifest_digest.to_owned(),
            layers: image.layers.clone(),
            args: command(image, options)?,
            env: environment(&key, image, options, &hostname)?,
            cwd,
            user,
            capabilities,
            no_new_privileges: options.no_new_privileges,
            read_only_root: options.read_only_root,
            tmpfs: options.tmpfs.clone(),
            scratch_bytes: options.scratch_bytes,
            resources: options.resources.clone(),
            secrets: options.secrets.clone(),
            logs: options.logs,
            stdin: options.stdin,
            exec: Vec::new(),
            secret_api: options.secret_api,
            hostname,
            terminal: options.terminal,
            init: 0,
            restart: Restart::Never,
            env_from_host: BTreeMap::new(),
            service_links: false,
            mounts: Vec::new(),
        };
        container.check(&key)?;
        Ok(container)
    }
}

fn command(image: &ImageFacts<'_>, options: &RunOptions) -> Result<Vec<String>, ContractError> {
    let config = image.config.config().as_ref();
    let image_entrypoint = config.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
    let image_cmd = config.and_then(|config| config.cmd().clone()).unwrap_or_default();
    let (mut args, default_cmd) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        None => (image_entrypoint, image_cmd),
    };
    args.extend(if options.args.is_empty() { default_cmd } else { options.args.clone() });
    if args.is_empty() {
        return Err(ContractError::NoCommand { image: image.reference.to_owned() });
    }
    Ok(args)
}

fn environment(
    key: &str,
    image: &ImageFacts<'_>,
    options: &RunOptions,
    hostname: &str,
) -> Result<BTreeMap<String, String>, ContractError> {
    let mut env =
        BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned()), ("HOSTNAME".to_owned(), hostname.to_owned())]);
    if options.terminal {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    let of_image = image.config.config().as_ref().and_then(|config| config.env().clone()).unwrap_or_default();
    for entry in of_image {
        match entry.split_once('=') {
            Some((name, value)) => env.insert(name.to_owned(), value.to_owned()),
            None => return malformed(&format!("{key}.env"), "NAME=VALUE in the image's configuration", &entry),
        };
    }
    env.extend(options.env.clone());
    Ok(env)
}

/// `/a//b/./c/../d/` becomes `/a/b/d`, as Docker cleans a working directory; a relative one starts at `/`.
fn normalise(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
