//! Errors of a call, in both directions: a typed code and one bounded line.

use crate::limits::one_line;

/// Codes that the agent answers with; they are gRPC's (and ttrpc's) of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// A field is missing, malformed or too large.
    InvalidArgument,
    /// No container or tunnel of that name.
    NotFound,
    /// The container was already started, or the stream is already closed.
    AlreadyExists,
    /// The contract forbids it.
    PermissionDenied,
    /// The guest is in no state for this call: no `Hello` yet, refused, or not started.
    FailedPrecondition,
    /// A bound is reached.
    ResourceExhausted,
    /// The guest cannot do this on this VM.
    Unavailable,
    /// The guest itself failed.
    Internal,
    /// Any other code that the other side sent.
    Other,
}

/// An error of a call that the other side answered with, as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// What kind of error it is.
    pub code: Code,
    /// One line, cause first; at most [`crate::limits::MAX_TEXT`] bytes without control characters. It comes from the
    /// other side: show it as such.
    pub message: String,
}

impl Code {
    /// The ttrpc error that a handler returns to answer with this code and `message`.
    pub fn error(self, message: impl AsRef<str>) -> ttrpc::Error {
        ttrpc::Error::RpcStatus(ttrpc::get_status(self.wire(), one_line(message.as_ref())))
    }

    fn wire(self) -> ttrpc::Code {
        match self {
            Self::InvalidArgument => ttrpc::Code::INVALID_ARGUMENT,
            Self::NotFound => ttrpc::Code::NOT_FOUND,
            Self::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
            Self::PermissionDenied => ttrpc::Code::PERMISSION_DENIED,
            Self::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
            Self::ResourceExhausted => ttrpc::Code::RESOURCE_EXHAUSTED,
            Self::Unavailable => ttrpc::Code::UNAVAILABLE,
            Self::Internal => ttrpc::Code::INTERNAL,
            Self::Other => ttrpc::Code::UNKNOWN,
        }
    }
}

impl CallError {
    /// What the other side answered, or `None` when the call did not get as far as an answer (connection lost, deadline).
    pub fn of(error: &ttrpc::Error) -> Option<Self> {
        let ttrpc::Error::RpcStatus(status) = error else {
            return None;
        };
        let code = match status.code.enum_value_or(ttrpc::Code::UNKNOWN) {
            ttrpc::Code::INVALID_ARGUMENT => Code::InvalidArgument,
            ttrpc::Code::NOT_FOUND => Code::NotFound,
            ttrpc::Code::ALREADY_EXISTS => Code::AlreadyExists,
            ttrpc::Code::PERMISSION_DENIED => Code::PermissionDenied,
            ttrpc::Code::FAILED_PRECONDITION => Code::FailedPrecondition,
            ttrpc::Code::RESOURCE_EXHAUSTED => Code::ResourceExhausted,
            ttrpc::Code::UNAVAILABLE => Code::Unavailable,
            ttrpc::Code::INTERNAL => Code::Internal,
            _ => Code::Other,
        };
        Some(Self { code, message: one_line(&status.message) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        let codes = [
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::FailedPrecondition,
            Code::ResourceExhausted,
            Code::Unavailable,
            Code::Internal,
            Code::Other,
        ];
        for code in codes {
            let found = CallError::of(&code.error("cause\nthen what to do"));
            assert_eq!(found, Some(CallError { code, message: "cause then what to do".into() }));
        }
        assert_eq!(CallError::of(&ttrpc::Error::LocalClosed), None);
    }
}
