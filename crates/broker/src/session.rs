//! Sessions without memory: a session is its cookie, sealed by a key of this broker's start. Clients that only ask for
//! challenges cost nothing.
//!
//! What has to be remembered is which challenges were answered, until they expire: a nonce is good for one attestation.
//! Who answered one is remembered with it, for clients that go on with the cookie of their challenge; others take the one
//! that `attest` sets.

use crate::{state::random_hex, workload::Launch};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use belljar_rcar::{Jwk, Tee, wire};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};
use zeroize::Zeroizing;

/// What is sealed together with a cookie, so that the key's other uses cannot be mistaken for one.
const CONTEXT: &[u8] = b"belljar session v1";

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Session {
    /// Names it; 32 hexadecimal digits.
    pub(crate) id: String,
    /// Unix seconds; the session is gone in this second.
    pub(crate) expires: u64,
    /// Whose challenge it is.
    pub(crate) tenant: String,
    /// The TEE that the client named.
    pub(crate) tee: Tee,
    pub(crate) state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Waits for evidence over this nonce.
    Challenged { nonce: String },
    /// Admitted.
    Attested(Box<Identity>),
}

/// Who attested: all that a release is decided by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// Whose challenge was answered.
    pub(crate) tenant: String,
    /// First 32 bytes of the init-data digest that the hardware bound.
    #[serde(with = "hex")]
    pub(crate) host_data: [u8; 32],
    pub(crate) launch: Launch,
    /// What rules go by.
    pub(crate) who: belljar_appraisal::release::Identity,
    /// The chip that made the evidence, where it says.
    #[serde(with = "hex")]
    pub(crate) chip: Vec<u8>,
    pub(crate) tee_key: Jwk,
    /// Unix seconds.
    pub(crate) token_expires: u64,
    pub(crate) record: String,
}

/// The key that seals sessions.
pub(crate) struct SessionKey(LessSafeKey);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    /// No random numbers, or no memory for the cipher.
    #[error("no random numbers")]
    Random,
}

impl SessionKey {
    /// A fresh key.
    pub(crate) fn generate() -> Result<Self, SessionError> {
        let mut key = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(key.as_mut()).map_err(|_| SessionError::Random)?;
        // As many cookies as clients ask for under one key: a nonce that comes twice by chance must not matter (RFC 8452).
        let key = UnboundKey::new(&AES_256_GCM_SIV, key.as_ref()).map_err(|_| SessionError::Random)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Begins a session: its cookie and its nonce.
    pub(crate) fn open(&self, tenant: &str, tee: Tee, expires: u64) -> Result<(String, String), SessionError> {
        let id = random_hex::<16>().ok_or(SessionError::Random)?;
        let mut nonce = [0_u8; wire::NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SessionError::Random)?;
        let nonce = STANDARD.encode(nonce);
        let state = State::Challenged { nonce: nonce.clone() };
        let cookie = self.seal(&Session { id, expires, tenant: tenant.to_owned(), tee, state })?;
        Ok((cookie, nonce))
    }

    /// The cookie of a session.
    pub(crate) fn seal(&self, session: &Session) -> Result<String, SessionError> {
        let mut bytes = serde_json::to_vec(session).map_err(|_| SessionError::Random)?;
        let mut nonce = [0_u8; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SessionError::Random)?;
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(CONTEXT), &mut bytes)
            .map_err(|_| SessionError::Random)?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    /// The session behind a cookie, when it is ours and has not expired.
    pub(crate) fn live(&self, cookie: &str, now: u64) -> Option<Session> {
        if cookie.len() > wire::MAX_COOKIE {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let plain = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(CONTEXT), sealed).ok()?;
        let session: Session = serde_json::from_slice(plain).ok()?;
        (session.expires > now).then_some(session)
    }
}

/// The challenges that were answered and have not expired.
#[derive(Debug)]
pub(crate) struct Used {
    ids: HashMap<String, Option<Box<Identity>>>,
    /// In the order in which they may be forgotten.
    expiries: BTreeSet<(u64, String)>,
    limit: usize,
}

/// What comes of using a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    First,
    Again,
    /// No more can be remembered.
    Full,
}

impl Used {
    pub(crate) fn new(limit: usize) -> Self {
        Self { ids: HashMap::new(), expiries: BTreeSet::new(), limit }
    }

    /// Uses the challenge of a session.
    pub(crate) fn spend(&mut self, session: &Session, now: u64) -> Use {
        while let Some(first) = self.expiries.first().filter(|(expires, _)| *expires <= now).cloned() {
            self.ids.remove(&first.1);
            self.expiries.remove(&first);
        }
        if self.ids.contains_key(&session.id) {
            return Use::Again;
        }
        if self.ids.len() >= self.limit {
            return Use::Full;
        }
        self.ids.insert(session.id.clone(), None);
        self.expiries.insert((session.expires, session.id.clone()));
        Use::First
    }

    /// Notes who answered a challenge.
    pub(crate) fn admit(&mut self, id: &str, identity: &Identity) {
        if let Some(place) = self.ids.get_mut(id) {
            *place = Some(Box::new(identity.clone()));
        }
    }

    /// Who answered the challenge of a session.
    pub(crate) fn admitted(&self, id: &str) -> Option<Box<Identity>> {
        self.ids.get(id).cloned().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let state = State::Challenged { nonce: "n".into() };
        Session { id: "ab".repeat(16), expires: 100, tenant: "default".into(), tee: Tee::Snp, state }
    }

    #[test]
    fn a_cookie_is_good_until_it_expires_and_under_its_key_only() {
        let key = SessionKey::generate().unwrap();
        let cookie = key.seal(&session()).unwrap();
        assert_eq!(key.live(&cookie, 99), Some(session()));
        assert_eq!(key.live(&cookie, 100), None);
        assert_eq!(SessionKey::generate().unwrap().live(&cookie, 99), None);
        assert_ne!(key.seal(&session()).unwrap(), cookie, "each cookie has a nonce of its own");
        // Every changed character.
        for at in 0..cookie.len() {
            let mut changed = cookie.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.live(std::str::from_utf8(&changed).unwrap(), 99), None, "{at}");
        }
        for strange in ["", "AAAA", "....", &"A".repeat(5000)] {
            assert_eq!(key.live(strange, 99), None, "{strange}");
        }
    }

    #[test]
    fn a_challenge_is_spent_once_and_forgotten_when_it_expires() {
        let mut used = Used::new(2);
        let other = |id: &str| Session { id: id.into(), ..session() };
        assert_eq!(used.spend(&session(), 1), Use::First);
        assert_eq!(used.spend(&session(), 1), Use::Again);
        assert_eq!(used.spend(&other("b"), 1), Use::First);
        assert_eq!(used.spend(&other("c"), 1), Use::Full);
        // Its time is over, and with it the cookie's: `live` refuses it before.
        assert_eq!(used.spend(&Session { expires: 200, ..other("c") }, 100), Use::First);
        assert_eq!((used.ids.len(), used.expiries.len()), (1, 1));
    }
}
