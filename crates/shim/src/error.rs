//! Errors of a call, and the ttrpc status that containerd sees. containerd decides by the status: a `NotFound` of `Kill` or `Delete` means
//! that there is nothing left to do.

use belljar_guest_api::status::{CallError, Code as GuestCode};

/// Why a call of containerd is not answered with success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShimError {
    /// No task, or no exec process, of that id.
    #[error("{what} {id}: not found")]
    NotFound {
        /// `task` or `exec`.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// The process has ended already; containerd takes it as done.
    #[error("{id}: process already finished")]
    Finished {
        /// The id.
        id: String,
    },
    /// A task, an exec process or a sandbox of that id is there already.
    #[error("{what} {id} exists already")]
    AlreadyExists {
        /// What.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// Not in this state.
    #[error("{id} is {found}; expected {expected}")]
    State {
        /// The id of the task or exec process.
        id: String,
        /// The state it is in.
        found: &'static str,
        /// The states in which this can be done.
        expected: &'static str,
    },
    /// The request, or the bundle, is malformed.
    #[error("{0}")]
    InvalidArgument(String),
    /// Belljar does not do this.
    #[error("{0}")]
    Unimplemented(String),
    /// The contract, the guest or this node refuses.
    #[error("{0}")]
    Refused(String),
    /// The pod VM is not there (any more).
    #[error("{0}")]
    Unavailable(String),
    /// The operating system, or this program.
    #[error("{0}")]
    Internal(String),
}

impl ShimError {
    fn code(&self) -> ttrpc::Code {
        match self {
            Self::NotFound { .. } | Self::Finished { .. } => ttrpc::Code::NOT_FOUND,
            Self::AlreadyExists { .. } => ttrpc::Code::ALREADY_EXISTS,
            Self::State { .. } | Self::Refused(_) => ttrpc::Code::FAILED_PRECONDITION,
            Self::InvalidArgument(_) => ttrpc::Code::INVALID_ARGUMENT,
            Self::Unimplemented(_) => ttrpc::Code::UNIMPLEMENTED,
            Self::Unavailable(_) => ttrpc::Code::UNAVAILABLE,
            Self::Internal(_) => ttrpc::Code::INTERNAL,
        }
    }

    /// What an answer of the guest means to containerd. The guest's text is bounded, and shown as the guest's.
    pub fn of_guest(what: &str, error: &CallError) -> Self {
        let text = format!("{what}: {}", error.message);
        match error.code {
            GuestCode::InvalidArgument => Self::InvalidArgument(text),
            GuestCode::NotFound => Self::Refused(text),
            GuestCode::AlreadyExists
            | GuestCode::PermissionDenied
            | GuestCode::FailedPrecondition
            | GuestCode::ResourceExhausted => Self::Refused(text),
            GuestCode::Unavailable => Self::Unavailable(text),
            _ => Self::Internal(text),
        }
    }
}

impl From<ShimError> for ttrpc::Error {
    fn from(error: ShimError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: ShimError) -> ttrpc::Code {
        match ttrpc::Error::from(error) {
            ttrpc::Error::RpcStatus(status) => status.code.enum_value().unwrap(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn each_error_has_the_status_that_containerd_looks_for() {
        let id = || "a".to_owned();
        assert_eq!(code(ShimError::NotFound { what: "task", id: id() }), ttrpc::Code::NOT_FOUND);
        assert_eq!(code(ShimError::Finished { id: id() }), ttrpc::Code::NOT_FOUND);
        assert_eq!(code(ShimError::AlreadyExists { what: "task", id: id() }), ttrpc::Code::ALREADY_EXISTS);
        let state = ShimError::State { id: id(), found: "running", expected: "stopped" };
        assert_eq!(state.to_string(), "a is running; expected stopped");
        assert_eq!(code(state), ttrpc::Code::FAILED_PRECONDITION);
        assert_eq!(code(ShimError::Refused("x".into())), ttrpc::Code::FAILED_PRECONDITION);
        assert_eq!(code(ShimError::InvalidArgument("x".into())), ttrpc::Code::INVALID_ARGUMENT);
        assert_eq!(code(ShimError::Unimplemented("x".into())), ttrpc::Code::UNIMPLEMENTED);
        assert_eq!(code(ShimError::Unavailable("x".into())), ttrpc::Code::UNAVAILABLE);
        assert_eq!(code(ShimError::Internal("x".into())), ttrpc::Code::INTERNAL);
    }

    #[test]
    fn a_refusal_of_the_guest_is_no_missing_task() {
        // containerd would take NotFound of Start for a task that has gone.
        let of = |code| ShimError::of_guest("start web", &CallError { code, message: "why".into() });
        assert_eq!(of(GuestCode::NotFound), ShimError::Refused("start web: why".into()));
        assert_eq!(of(GuestCode::PermissionDenied), ShimError::Refused("start web: why".into()));
        assert_eq!(of(GuestCode::Unavailable), ShimError::Unavailable("start web: why".into()));
        assert_eq!(of(GuestCode::Internal), ShimError::Internal("start web: why".into()));
        assert_eq!(of(GuestCode::InvalidArgument), ShimError::InvalidArgument("start web: why".into()));
    }
}
