//! Sessions: one challenge, one attestation.

use crate::state::random_hex;
use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_rcar::{Jwk, Tee, wire};
use std::collections::HashMap;

/// A session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Unix seconds; the session is gone in this second.
    pub(crate) expires: u64,
    /// The TEE that the client named.
    pub(crate) tee: Tee,
    pub(crate) state: State,
}

#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Waits for evidence over this nonce.
    Challenged { nonce: String },
    /// The nonce was used, and what came of it is being decided or was refused.
    Used,
    /// Admitted.
    Attested(Box<Identity>),
}

/// Who attested: all that a release is decided by.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) host_data: [u8; 32],
    pub(crate) measurement: [u8; 48],
    pub(crate) tee_key: Jwk,
    /// Unix seconds.
    pub(crate) token_expires: u64,
    pub(crate) record: String,
}

/// All sessions. A session id is 128 random bits, so that it cannot be found by asking.
#[derive(Debug)]
pub(crate) struct Sessions {
    sessions: HashMap<String, Session>,
    limit: usize,
}

/// Why there is no new session.
pub(crate) enum NoSession {
    Full,
    Random,
}

impl Sessions {
    pub(crate) fn new(limit: usize) -> Self {
        Self { sessions: HashMap::new(), limit }
    }

    /// Opens a session: its id and its nonce.
    pub(crate) fn open(&mut self, tee: Tee, now: u64, lifetime: u64) -> Result<(String, String), NoSession> {
        if self.sessions.len() >= self.limit {
            self.sessions.retain(|_, session| session.expires > now);
            if self.sessions.len() >= self.limit {
                return Err(NoSession::Full);
            }
        }
        let id = random_hex::<16>().ok_or(NoSession::Random)?;
        let mut nonce = [0_u8; wire::NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| NoSession::Random)?;
        let nonce = STANDARD.encode(nonce);
        let state = State::Challenged { nonce: nonce.clone() };
        self.sessions.insert(id.clone(), Session { expires: now.saturating_add(lifetime), tee, state });
        Ok((id, nonce))
    }

    /// A session that has not expired.
    pub(crate) fn live(&mut self, id: &str, now: u64) -> Option<&mut Session> {
        if self.sessions.get(id).is_some_and(|session| session.expires <= now) {
            self.sessions.remove(id);
        }
        self.sessions.get_mut(id)
    }
}
