//! `start`: the shim of a pod is started, or the one that is there is named.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::address::{SOCKET_DIR, ShimSocket};
use crate::annotations::{AnnotationError, Role};
use crate::bootstrap::{Request, TTRPC_ADDRESS};
use crate::bundle::{BundleConfig, BundleError};

/// File of the bundle with the shim's address.
pub const ADDRESS_FILE: &str = "address";
/// File of the bundle with the shim's process id.
pub const PID_FILE: &str = "shim.pid";

/// Why there is no shim.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its annotations make no sense.
    #[error(transparent)]
    Annotations(#[from] AnnotationError),
    /// The container's pod has no shim any more.
    #[error("the shim of pod {sandbox} is gone, so container {name} cannot be started; the pod has to be made anew")]
    NoPod {
        /// Id of the sandbox.
        sandbox: String,
        /// The container's name.
        name: String,
    },
    /// The operating system refused something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// The operating system's words.
        error: io::Error,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |error| StartError::System { what, error }
}

/// Carries out `start` in the bundle `bundle`, and returns the address. `program` is the name under which we were called: it says which TEE.
///
/// # Errors
/// [`StartError`]; no process is left running.
pub fn start(request: &Request, bundle: &Path, program: &std::ffi::OsStr) -> Result<String, StartError> {
    let config = match BundleConfig::read(bundle) {
        // A sandbox of the sandbox service has none.
        Err(BundleError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => BundleConfig::default(),
        other => other?,
    };
    let folder = PathBuf::from(request.socket_dir.as_deref().unwrap_or(SOCKET_DIR));
    let socket = |id: &str| ShimSocket::of(&folder, &request.address, &request.namespace, id);
    let socket = match Role::of(&config.annotations)? {
        Role::Sandbox | Role::Single => socket(&request.id),
        Role::Container { sandbox, name } => {
            let socket = socket(&sandbox);
            if !socket.answers() {
                return Err(StartError::NoPod { sandbox, name });
            }
            write(bundle, ADDRESS_FILE, &socket.address())?;
            return Ok(socket.address());
        }
    };
    let address = socket.address();
    // A second `start` of the same sandbox, by a containerd that did not hear the first answer.
    if socket.answers() {
        write(bundle, ADDRESS_FILE, &address)?;
        return Ok(address);
    }
    let listener = listen(&socket)?;
    match spawn(request, bundle, program, listener.into()) {
        Ok(pid) => {
            write(bundle, PID_FILE, &pid.to_string())?;
            write(bundle, ADDRESS_FILE, &address)?;
            Ok(address)
        }
        Err(error) => {
            let _ = std::fs::remove_file(socket.path());
            Err(error)
        }
    }
}

fn listen(socket: &ShimSocket) -> Result<UnixListener, StartError> {
    let path = socket.path();
    let what = || format!("listen at {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(system(what()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(what())(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(system(what()))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(system(what()))?;
    Ok(listener)
}

/// The daemon: this program again, in a session of its own, with the listener as its stdin.
fn spawn(request: &Request, bundle: &Path, program: &std::ffi::OsStr, listener: OwnedFd) -> Result<u32, StartError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(program).current_dir(bundle).stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    command.args(["-namespace", &request.namespace, "-id", &request.id, "-address", &request.address]);
    if request.debug {
        command.arg("-debug");
    }
    match &request.ttrpc_address {
        Some(address) => command.env(TTRPC_ADDRESS, address),
        None => command.env_remove(TTRPC_ADDRESS),
    };
    let child = command.spawn().map_err(system("start the shim's process"))?;
    Ok(child.id())
}

/// Writes a file of the bundle by rename, since containerd may read it at any time.
fn write(bundle: &Path, name: &str, content: &str) -> Result<(), StartError> {
    let path = bundle.join(name);
    let new = bundle.join(format!(".{name}"));
    let written = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new);
    written
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(system(format!("write {}", path.display())))
}
