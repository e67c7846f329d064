//! Work inside another network namespace.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::NetworkError;

/// Runs `work` in the network namespace at `path`, in a thread that ends with it: no other thread ever changes its
/// namespace. Sockets and tap devices that are made there belong to that namespace for good.
pub(super) fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    let failed = |error: std::io::Error| NetworkError::Namespace { path: path.to_owned(), error };
    let namespace = File::open(path).map_err(failed)?;
    let enter = || move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("belljar-netns".into()).stack_size(256 * 1024);
        let thread = thread.spawn_scoped(scope, || enter().map(|()| work())).map_err(failed)?;
        match thread.join() {
            Ok(done) => done.map_err(|error| failed(error.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
