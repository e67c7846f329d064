//! The audit log of a tenant: who did what to what, and how it ended. Entries are only ever added. Each holds the hash of the
//! one before, and from time to time a checkpoint is signed: whoever changes, removes or reorders an entry, or cuts the log
//! behind a checkpoint that somebody has seen, is found out by [`verify`].
//!
//! No secret and no token is in it: names, digests and ids only.

use crate::keep::{Keep, KeepError, Kind};
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use belljar_rcar::{Jwk, PublicKey, ear::ES256, jcs};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, sync::Arc};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Entries between two checkpoints.
const BETWEEN: u64 = 64;
/// Entries that wait for the disk at most; who comes then waits as well.
const QUEUE: usize = 4096;
/// Entries of one write.
const TOGETHER: usize = 256;
/// Longest text of an entry, in characters.
const MAX_TEXT: usize = 400;
/// What the first entry has in the place of a hash.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// 1 for the first.
    pub sequence: u64,
    /// Unix seconds.
    pub at: u64,
    /// Whose log.
    pub tenant: String,
    /// Who: a principal, or `workload` with the handshake's id.
    pub actor: String,
    /// What was done: `resource.put`, `attest`, `release`, …
    pub action: String,
    /// To what.
    pub object: String,
    /// `done`, `refused`, …
    pub outcome: String,
    /// Hash of the entry before, lowercase hex; zeros for the first.
    pub previous: String,
}

impl Entry {
    /// SHA-256 over the entry in RFC 8785 form, lowercase hex.
    pub fn hash(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        hex::encode(digest(&SHA256, jcs::to_string(&value).unwrap_or_default().as_bytes()))
    }
}

/// A signed statement about the log up to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Whose log.
    pub tenant: String,
    /// The last entry that it covers.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
    /// When it was signed, Unix seconds.
    pub at: u64,
    /// ECDSA on P-256 with SHA-256 over the other members in RFC 8785 form: r ‖ s, base64url.
    pub signature: String,
}

impl Checkpoint {
    fn signed(&self) -> String {
        let members = serde_json::json!({
            "tenant": self.tenant, "sequence": self.sequence, "hash": self.hash, "at": self.at,
        });
        // Texts and whole numbers have such a form.
        jcs::to_string(&members).unwrap_or_default()
    }

    /// Whether this key signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let Ok(signature) = B64.decode(&self.signature) else { return false };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point());
        key.verify(self.signed().as_bytes(), &signature).is_ok()
    }
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// An entry is missing, or there is one too many.
    #[error("entry {expected} is missing: {found} stands in its place")]
    Sequence {
        /// Which one had to come.
        expected: u64,
        /// Which one came.
        found: u64,
    },
    /// An entry does not follow the one before: one of both was changed.
    #[error(
        "entry {sequence} follows an entry with the hash {found}; the one before it has {expected}: one of both was changed"
    )]
    Chain {
        /// Which one.
        sequence: u64,
        /// Hash of the one before.
        expected: String,
        /// What it says.
        found: String,
    },
    /// An entry of another tenant.
    #[error("entry {0} is of another tenant's log")]
    Tenant(u64),
    /// A checkpoint that the key did not sign.
    #[error("the checkpoint at entry {0} is not signed by the broker's key")]
    Signature(u64),
    /// A checkpoint about an entry that is another one now.
    #[error("entry {sequence} has the hash {found}; the checkpoint says {expected}: the log was rewritten")]
    Checkpoint {
        /// Which one.
        sequence: u64,
        /// What was signed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Entries that a checkpoint covers are gone.
    #[error("the log ends at entry {last}, and a checkpoint covers entry {covered}: its end was cut off")]
    Cut {
        /// The last entry.
        last: u64,
        /// What was signed.
        covered: u64,
    },
}

/// Verifies a whole log against its checkpoints; gives its last entry's number and hash.
///
/// # Errors
/// [`Broken`]: the first thing that is wrong.
pub fn verify(
    tenant: &str,
    entries: &[Entry],
    checkpoints: &[Checkpoint],
    key: &PublicKey,
) -> Result<(u64, String), Broken> {
    let mut previous = GENESIS.to_owned();
    let mut hashes: HashMap<u64, String> = HashMap::with_capacity(entries.len());
    for (entry, expected) in entries.iter().zip(1..) {
        if entry.sequence != expected {
            return Err(Broken::Sequence { expected, found: entry.sequence });
        }
        if entry.tenant != tenant {
            return Err(Broken::Tenant(expected));
        }
        if entry.previous != previous {
            return Err(Broken::Chain { sequence: expected, expected: previous, found: entry.previous.clone() });
        }
        previous = entry.hash();
        hashes.insert(expected, previous.clone());
    }
    let last = entries.last().map_or(0, |entry| entry.sequence);
    for checkpoint in checkpoints {
        let Checkpoint { sequence, hash, .. } = checkpoint;
        if checkpoint.tenant != tenant || !checkpoint.is_signed_by(key) {
            return Err(Broken::Signature(*sequence));
        }
        match hashes.get(sequence) {
            Some(found) if found == hash => {}
            Some(found) => {
                return Err(Broken::Checkpoint { sequence: *sequence, expected: hash.clone(), found: found.clone() });
            }
            None => return Err(Broken::Cut { last, covered: *sequence }),
        }
    }
    Ok((last, previous))
}

/// What happened, before it has its place in the log.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) tenant: String,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) object: String,
    pub(crate) outcome: String,
    pub(crate) at: u64,
}

/// What goes to the writer; who must know waits until it is on the disk.
enum Message {
    Event(Event, Option<oneshot::Sender<()>>),
    /// Sign what there is.
    Checkpoint(oneshot::Sender<()>),
}

/// The log's front.
#[derive(Clone)]
pub(crate) struct Audit {
    front: mpsc::Sender<Message>,
    key: Arc<Jwk>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Audit")
    }
}

impl Audit {
    /// A log over what is kept, and the task that writes it; the key signs checkpoints.
    pub(crate) fn new(keep: Keep, key: &[u8]) -> Result<(Self, impl Future<Output = ()> + Send + use<>), KeepError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key)
            .map_err(|_| KeepError::Failed("the key for checkpoints cannot be read".into()))?;
        let public = PublicKey::from_point(key.public_key().as_ref());
        let public = public.map_err(|e| KeepError::Failed(e.to_string()))?.to_jwk(Some(ES256));
        let (front, messages) = mpsc::channel(QUEUE);
        let writer = Writer { keep, key, heads: HashMap::new() };
        Ok((Self { front, key: Arc::new(public) }, writer.run(messages)))
    }

    /// Adds an event, and waits until it is on the disk.
    ///
    /// # Errors
    /// [`KeepError::Failed`] when it cannot be written: what it is about must not happen then.
    pub(crate) async fn record(&self, event: Event) -> Result<(), KeepError> {
        let (done, written) = oneshot::channel();
        let away = || KeepError::Failed("the audit log cannot be written".into());
        self.front.send(Message::Event(event, Some(done))).await.map_err(|_| away())?;
        written.await.map_err(|_| away())
    }

    /// Adds an event that nothing waits for.
    pub(crate) async fn note(&self, event: Event) {
        if self.front.send(Message::Event(event, None)).await.is_err() {
            tracing::error!("the audit log cannot be written");
        }
    }

    /// Signs the logs up to here.
    pub(crate) async fn checkpoint(&self) {
        let (done, signed) = oneshot::channel();
        if self.front.send(Message::Checkpoint(done)).await.is_ok() {
            let _ = signed.await;
        }
    }

    /// The key that verifies checkpoints.
    pub(crate) fn key(&self) -> &Jwk {
        &self.key
    }
}

struct Head {
    sequence: u64,
    hash: String,
    covered: u64,
}

struct Writer {
    keep: Keep,
    key: EcdsaKeyPair,
    heads: HashMap<String, Head>,
}

impl Writer {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut batch = Vec::new();
        while messages.recv_many(&mut batch, TOGETHER).await > 0 {
            let mut waiting = Vec::new();
            let mut written = Vec::new();
            let mut signed = Vec::new();
            for message in batch.drain(..) {
                match message {
                    Message::Event(event, done) => {
                        written.push(event);
                        waiting.extend(done);
                    }
                    Message::Checkpoint(done) => signed.push(done),
                }
            }
            match self.write(written).await {
                Ok(()) => waiting.into_iter().for_each(|done| {
                    let _ = done.send(());
                }),
                // Who waits is told by the sender that goes away.
                Err(error) => tracing::error!(%error, "the audit log cannot be written"),
            }
            if !signed.is_empty() {
                self.sign_all().await;
            }
        }
        self.sign_all().await;
    }

    async fn sign_all(&mut self) {
        let tenants: Vec<String> = self.heads.keys().cloned().collect();
        for tenant in tenants {
            if let Err(error) = self.checkpoint(&tenant, None).await {
                tracing::error!(%error, "no last checkpoint");
            }
        }
    }

    async fn write(&mut self, events: Vec<Event>) -> Result<(), KeepError> {
        let mut values = Vec::with_capacity(events.len());
        let mut latest: HashMap<String, (u64, String)> = HashMap::new();
        let mut at = 0;
        for event in events {
            let head = self.head(&event.tenant).await?;
            let (sequence, previous) =
                latest.get(&event.tenant).cloned().unwrap_or_else(|| (head.sequence, head.hash.clone()));
            at = event.at;
            let text = |text: &str| belljar_rcar::sanitize(text, MAX_TEXT);
            let entry = Entry {
                sequence: sequence.saturating_add(1),
                at: event.at,
                tenant: event.tenant.clone(),
                actor: text(&event.actor),
                action: text(&event.action),
                object: text(&event.object),
                outcome: text(&event.outcome),
                previous,
            };
            latest.insert(event.tenant.clone(), (entry.sequence, entry.hash()));
            let value = serde_json::to_vec(&entry).map_err(|e| KeepError::Failed(e.to_string()))?;
            values.push((event.tenant, entry_key(entry.sequence), Zeroizing::new(value)));
        }
        self.keep.put_all(Kind::Audit, values).await?;
        // Only what is written moves the heads.
        for (tenant, (sequence, hash)) in latest {
            if let Some(head) = self.heads.get_mut(&tenant) {
                (head.sequence, head.hash) = (sequence, hash);
                if head.sequence >= head.covered.saturating_add(BETWEEN) {
                    self.checkpoint(&tenant, Some(at)).await?;
                }
            }
        }
        Ok(())
    }

    /// The end of a tenant's log: that of its last checkpoint, and what was added behind it.
    async fn head(&mut self, tenant: &str) -> Result<&Head, KeepError> {
        if !self.heads.contains_key(tenant) {
            let checkpoints = checkpoints(&self.keep, tenant).await?;
            let (mut sequence, mut hash) =
                checkpoints.last().map_or_else(|| (0, GENESIS.to_owned()), |last| (last.sequence, last.hash.clone()));
            let covered = sequence;
            loop {
                let next = self.keep.get(tenant, Kind::Audit, &entry_key(sequence.saturating_add(1))).await?;
                let Some(kept) = next else { break };
                let entry: Entry = serde_json::from_slice(&kept.value).map_err(|e| KeepError::Failed(e.to_string()))?;
                (sequence, hash) = (entry.sequence, entry.hash());
            }
            self.heads.insert(tenant.to_owned(), Head { sequence, hash, covered });
        }
        self.heads.get(tenant).ok_or_else(|| KeepError::Failed("no head".into()))
    }

    /// Signs the log up to here, where there is something new. Without a time, that of the last entry.
    async fn checkpoint(&mut self, tenant: &str, at: Option<u64>) -> Result<(), KeepError> {
        let Some(head) = self.heads.get_mut(tenant).filter(|head| head.sequence > head.covered) else { return Ok(()) };
        let mut checkpoint = Checkpoint {
            tenant: tenant.to_owned(),
            sequence: head.sequence,
            hash: head.hash.clone(),
            at: at.unwrap_or_default(),
            signature: String::new(),
        };
        if at.is_none()
            && let Some(kept) = self.keep.get(tenant, Kind::Audit, &entry_key(head.sequence)).await?
            && let Ok(entry) = serde_json::from_slice::<Entry>(&kept.value)
        {
            checkpoint.at = entry.at;
        }
        let signature = self.key.sign(&SystemRandom::new(), checkpoint.signed().as_bytes());
        let signature = signature.map_err(|_| KeepError::Failed("a checkpoint cannot be signed".into()))?;
        checkpoint.signature = B64.encode(signature.as_ref());
        let value = serde_json::to_vec(&checkpoint).map_err(|e| KeepError::Failed(e.to_string()))?;
        let key = entry_key(checkpoint.sequence);
        self.keep.put_all(Kind::Checkpoint, vec![(tenant.to_owned(), key, Zeroizing::new(value))]).await?;
        head.covered = checkpoint.sequence;
        Ok(())
    }
}

/// Keys sort as numbers do.
fn entry_key(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// Entries behind `after`, at most `limit`.
pub(crate) async fn entries(keep: &Keep, tenant: &str, after: u64, limit: usize) -> Result<Vec<Entry>, KeepError> {
    let kept = keep.list(tenant, Kind::Audit, "", Some(&entry_key(after)), limit).await?;
    let parse = |kept: &crate::keep::Kept| {
        serde_json::from_slice(&kept.value).map_err(|e| KeepError::Failed(format!("audit entry {}: {e}", kept.key)))
    };
    kept.iter().map(parse).collect()
}

/// All checkpoints of a tenant, oldest first.
pub(crate) async fn checkpoints(keep: &Keep, tenant: &str) -> Result<Vec<Checkpoint>, KeepError> {
    crate::tenant::all(tenant, keep, Kind::Checkpoint).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_rcar::ear::TokenKey;

    fn event(tenant: &str, object: &str) -> Event {
        Event {
            tenant: tenant.into(),
            actor: "admin".into(),
            action: "resource.put".into(),
            object: object.into(),
            outcome: "done".into(),
            at: 7,
        }
    }

    /// A log of 150 entries and those of another tenant between them.
    async fn log() -> (Vec<Entry>, Vec<Checkpoint>, TokenKey) {
        let keep = Keep::default();
        let key = TokenKey::generate_pkcs8().unwrap();
        for part in 0..2 {
            // The second half is of another start.
            let (audit, writer) = Audit::new(keep.clone(), &key).unwrap();
            let writing = tokio::spawn(writer);
            for number in 0..75 {
                audit.note(event("other", "x")).await;
                audit.record(event("default", &format!("{part}/{number}"))).await.unwrap();
            }
            drop(audit);
            writing.await.unwrap();
        }
        let entries = entries(&keep, "default", 0, 1000).await.unwrap();
        let checkpoints = checkpoints(&keep, "default").await.unwrap();
        (entries, checkpoints, TokenKey::from_pkcs8(&key).unwrap())
    }

    #[tokio::test]
    async fn a_log_verifies_and_each_change_is_found() {
        let (entries, checkpoints, key) = log().await;
        let key = key.public();
        let last = entries.last().unwrap().hash();
        assert_eq!((entries.len(), verify("default", &entries, &checkpoints, key)), (150, Ok((150, last))));
        let covered: Vec<u64> = checkpoints.iter().map(|one| one.sequence).collect();
        assert!(covered.len() >= 3 && covered.last() == Some(&150), "{covered:?}");
        let with = |change: &dyn Fn(&mut Vec<Entry>, &mut Vec<Checkpoint>)| {
            let (mut entries, mut checkpoints) = (entries.clone(), checkpoints.clone());
            change(&mut entries, &mut checkpoints);
            verify("default", &entries, &checkpoints, key).map(|_| ())
        };
        // Changed, removed, reordered, cut, of another log.
        let changed = with(&|e, _| e[10].object = "nothing".into());
        assert!(matches!(changed, Err(Broken::Chain { sequence: 12, .. })), "{changed:?}");
        assert_eq!(with(&|e, _| drop(e.remove(10))), Err(Broken::Sequence { expected: 11, found: 12 }));
        assert_eq!(with(&|e, _| e.swap(10, 11)), Err(Broken::Sequence { expected: 11, found: 12 }));
        assert_eq!(with(&|e, _| e.truncate(149)), Err(Broken::Cut { last: 149, covered: 150 }));
        assert_eq!(with(&|e, _| e[3].tenant = "other".into()), Err(Broken::Tenant(4)));
        // The last entry changed: nothing follows it, and the checkpoint tells.
        let changed = with(&|e, _| e[149].outcome = "refused".into());
        assert!(matches!(changed, Err(Broken::Checkpoint { sequence: 150, .. })), "{changed:?}");
        // A log that was written anew from the first entry on.
        let rewritten = with(&|e, _| {
            let mut previous = GENESIS.to_owned();
            for entry in e.iter_mut() {
                entry.actor = "nobody".into();
                entry.previous.clone_from(&previous);
                previous = entry.hash();
            }
        });
        assert!(matches!(rewritten, Err(Broken::Checkpoint { .. })), "{rewritten:?}");
        assert_eq!(with(&|_, c| c[0].at += 1), Err(Broken::Signature(covered[0])));
        let other = TokenKey::generate().unwrap();
        assert_eq!(verify("default", &entries, &checkpoints, other.public()), Err(Broken::Signature(covered[0])));
    }
}
