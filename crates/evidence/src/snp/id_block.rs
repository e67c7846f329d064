//! The ID block that a guest was launched with, who signed it, and whether a report is of such a launch.
//!
//! Source: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), SNP_LAUNCH_FINISH, tables "Structure of the ID
//! Block" and "Structure of the ID Authentication Information Structure"; keys and signatures in the format of its
//! chapter on digital signatures. Firmware compares block and launch, and puts digests of the keys into reports.

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::report::{Policy, Report, number};
use crate::bytes::Bytes;
use crate::verdict::{Check, Outcome};

/// Length of an ID block in bytes.
pub const ID_BLOCK_LEN: usize = 0x60;
/// Length of the authentication information in bytes.
pub const ID_AUTH_LEN: usize = 0x1000;
/// Length of a public key in it.
const KEY_LEN: usize = 0x404;
/// Length of a signature in it.
const SIGNATURE_LEN: usize = 0x200;
/// Version of the block.
const VERSION: u32 = 1;
/// ECDSA on P-384 with SHA-384.
const ALGORITHM: u32 = 1;
/// P-384 among the curves.
const P384: u32 = 2;

/// Why bytes are not an ID block or its authentication information.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdBlockError {
    /// Another length than the structure has.
    #[error("{what} has {found} bytes instead of {expected}: give the structure alone, not its base64")]
    Length {
        /// Which structure.
        what: &'static str,
        /// Its length.
        expected: usize,
        /// Length of the input.
        found: usize,
    },
    /// A version of the block that this program does not read.
    #[error("id block has version {0}, known is 1: update this program")]
    Version(u32),
    /// Another algorithm than ECDSA P-384 with SHA-384.
    #[error("{0} is of algorithm {1}, known is 1, ECDSA P-384 with SHA-384: sign again")]
    Algorithm(&'static str, u32),
    /// A key on another curve than P-384.
    #[error("{0} is on curve {1}, not on P-384, which is 2: sign with another key")]
    Curve(&'static str, u32),
    /// A number of a key or signature that is longer than 48 bytes.
    #[error("{0} has a number of more than 384 bits: it was written in another byte order, or is damaged")]
    Number(&'static str),
    /// A reserved byte that is not zero.
    #[error("{0} has a reserved byte that is not zero: it is damaged")]
    Reserved(&'static str),
}

/// What the guest's owner lets be launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch digest, MEASUREMENT of reports.
    pub launch_digest: [u8; 48],
    /// Family of the guest, as its owner names it.
    pub family_id: [u8; 16],
    /// Image of the guest, as its owner names it.
    pub image_id: [u8; 16],
    /// Security version of the guest.
    pub guest_svn: u32,
    /// Guest policy.
    pub policy: Policy,
    raw: [u8; ID_BLOCK_LEN],
}

impl IdBlock {
    /// Reads a block; nothing may follow it.
    ///
    /// # Errors
    /// [`IdBlockError::Length`] or [`IdBlockError::Version`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IdBlockError> {
        let length = IdBlockError::Length { what: "id block", expected: ID_BLOCK_LEN, found: bytes.len() };
        let raw: [u8; ID_BLOCK_LEN] = bytes.try_into().map_err(|_| length.clone())?;
        let mut bytes = Bytes::new(&raw);
        let mut read =
            || Some((bytes.array()?, bytes.array()?, bytes.array()?, bytes.u32_le()?, bytes.u32_le()?, bytes.array()?));
        let (launch_digest, family_id, image_id, version, guest_svn, policy) = read().ok_or(length)?;
        if version != VERSION {
            return Err(IdBlockError::Version(version));
        }
        let policy = Policy(u64::from_le_bytes(policy));
        Ok(Self { launch_digest, family_id, image_id, guest_svn, policy, raw })
    }
}

/// A public key as firmware has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    /// The field as it was read; firmware's digest is over all of it.
    raw: [u8; KEY_LEN],
    /// Uncompressed point.
    point: [u8; 97],
}

/// Who signed an ID block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdAuth {
    id_key: Key,
    block_signature: [u8; 96],
    /// The author's key with its signature over the ID key.
    author: Option<(Key, [u8; 96])>,
}

impl IdAuth {
    /// Reads authentication information; nothing may follow it. An author whose key and signature are all zero is none.
    ///
    /// # Errors
    /// Any [`IdBlockError`] but [`IdBlockError::Version`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IdBlockError> {
        let length = IdBlockError::Length { what: "id authentication", expected: ID_AUTH_LEN, found: bytes.len() };
        if bytes.len() != ID_AUTH_LEN {
            return Err(length);
        }
        let mut bytes = Bytes::new(bytes);
        let mut read = || {
            let algorithms = (bytes.u32_le()?, bytes.u32_le()?);
            let reserved_1 = bytes.slice(0x38)?;
            let id = (bytes.array::<SIGNATURE_LEN>()?, bytes.array::<KEY_LEN>()?);
            let reserved_2 = bytes.slice(0x3C)?;
            let author = (bytes.array::<SIGNATURE_LEN>()?, bytes.array::<KEY_LEN>()?);
            Some((algorithms, id, author, [reserved_1, reserved_2, bytes.slice(bytes.len())?]))
        };
        let ((id_algorithm, author_algorithm), id, author, reserved) = read().ok_or(length)?;
        if !reserved.into_iter().all(is_zero) {
            return Err(IdBlockError::Reserved("id authentication"));
        }
        if id_algorithm != ALGORITHM {
            return Err(IdBlockError::Algorithm("id key", id_algorithm));
        }
        let author = if is_zero(&author.0) && is_zero(&author.1) {
            None
        } else if author_algorithm != ALGORITHM {
            return Err(IdBlockError::Algorithm("author key", author_algorithm));
        } else {
            Some((key(author.1, "author key")?, signature(&author.0, "author's signature")?))
        };
        Ok(Self { id_key: key(id.1, "id key")?, block_signature: signature(&id.0, "id block's signature")?, author })
    }

    /// SHA-384 of the ID key, as it stands in reports.
    pub fn id_key_digest(&self) -> [u8; 48] {
        self.id_key.digest()
    }

    /// SHA-384 of the author's key, as it stands in reports; `None` without an author.
    pub fn author_key_digest(&self) -> Option<[u8; 48]> {
        self.author.as_ref().map(|(key, _)| key.digest())
    }

    /// Whether the ID key signed the block.
    pub fn signed(&self, block: &IdBlock) -> bool {
        self.id_key.verifies(&block.raw, &self.block_signature)
    }

    /// Whether the author signed the ID key; `None` without an author.
    pub fn author_signed(&self) -> Option<bool> {
        self.author.as_ref().map(|(author, signature)| author.verifies(&self.id_key.raw, signature))
    }

    /// Reads arbitrary bytes; for fuzzing. The last 96 are the block.
    pub fn fuzz(data: &[u8]) {
        let (auth, block) = data.split_at(data.len().saturating_sub(ID_BLOCK_LEN));
        if let (Ok(auth), Ok(block)) = (Self::parse(auth), IdBlock::parse(block)) {
            let _ = (auth.signed(&block), auth.author_signed(), auth.id_key_digest(), auth.author_key_digest());
        }
    }
}

impl Key {
    fn digest(&self) -> [u8; 48] {
        let mut digested = [0; 48];
        digested.copy_from_slice(digest(&SHA384, &self.raw).as_ref());
        digested
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.point).verify(message, signature).is_ok()
    }
}

/// Whether a report is of a guest that was launched with that block under that authentication. The checks, in order:
///
/// | name | holds when |
/// |---|---|
/// | `id-block` | both can be read, and launch digest, family, image, security version and policy are the report's |
/// | `id-block-signature` | the ID key signed the block |
/// | `id-key-digest` | the report has the digest of that key |
/// | `author-key-signature` | the author signed the ID key; only with an author |
/// | `author-key-digest` | the report has the digest of the author's key and says that there is one, or neither |
///
/// Whose keys these are is not said by them: a policy names the digests that it takes.
pub fn check_id_block(report: &Report, block: &[u8], auth: &[u8]) -> Vec<Check> {
    const BLOCK: &str = "id-block";
    let read = IdBlock::parse(block).and_then(|block| Ok((block, IdAuth::parse(auth)?)));
    let (block, auth) = match read {
        Ok(read) => read,
        Err(error) => {
            let expected = "an id block of this launch and who signed it";
            return vec![compare(BLOCK, expected.to_owned(), error.to_string(), false)];
        }
    };
    let shown = |digest: &[u8], family: &[u8], image: &[u8], svn: u32, policy: Policy| {
        let [digest, family, image] = [digest, family, image].map(hex::encode);
        format!("launch {digest}, family {family}, image {image}, svn {svn}, policy {:#x}", policy.0)
    };
    let of_block = shown(&block.launch_digest, &block.family_id, &block.image_id, block.guest_svn, block.policy);
    let of_report = shown(&report.measurement, &report.family_id, &report.image_id, report.guest_svn, report.policy);
    let verifies =
        |holds: bool| if holds { "it verifies" } else { "it does not verify: another key, or changed bytes" };
    let by_id_key = auth.signed(&block);
    let mut checks = vec![
        Check::same(BLOCK, of_block, of_report),
        compare(
            "id-block-signature",
            "a signature by the id key".to_owned(),
            verifies(by_id_key).to_owned(),
            by_id_key,
        ),
        Check::same("id-key-digest", hex::encode(auth.id_key_digest()), hex::encode(report.id_key_digest)),
    ];
    if let Some(by_author) = auth.author_signed() {
        let expected = "a signature by the author's key over the id key".to_owned();
        checks.push(compare("author-key-signature", expected, verifies(by_author).to_owned(), by_author));
    }
    let author = auth.author_key_digest();
    let expected = (author.is_some(), hex::encode(author.unwrap_or([0; 48])));
    let found = (report.author_key_en, hex::encode(report.author_key_digest));
    let shown =
        |(enabled, digest): &(bool, String)| format!("{digest}, author key {}", if *enabled { "on" } else { "off" });
    checks.push(Check::same("author-key-digest", shown(&expected), shown(&found)));
    checks
}

fn compare(name: &'static str, expected: String, found: String, holds: bool) -> Check {
    Check { name, outcome: if holds { Outcome::Passed } else { Outcome::Failed }, expected, found }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Two numbers of 72 bytes each, least significant byte first, then zeros; as 48 bytes each, most significant first.
fn numbers(field: &[u8], name: &'static str) -> Result<[u8; 96], IdBlockError> {
    let mut bytes = Bytes::new(field);
    let pair = bytes.array().zip(bytes.array());
    let (first, second) = pair.and_then(|(a, b)| number(&a).zip(number(&b))).ok_or(IdBlockError::Number(name))?;
    if !bytes.slice(bytes.len()).is_some_and(is_zero) {
        return Err(IdBlockError::Reserved(name));
    }
    let mut both = [0; 96];
    let (low, high) = both.split_at_mut(48);
    low.copy_from_slice(&first);
    high.copy_from_slice(&second);
    Ok(both)
}

fn signature(field: &[u8; SIGNATURE_LEN], name: &'static str) -> Result<[u8; 96], IdBlockError> {
    numbers(field, name)
}

fn key(raw: [u8; KEY_LEN], name: &'static str) -> Result<Key, IdBlockError> {
    let (curve, rest) = raw.split_first_chunk().ok_or(IdBlockError::Number(name))?;
    let curve = u32::from_le_bytes(*curve);
    if curve != P384 {
        return Err(IdBlockError::Curve(name, curve));
    }
    let mut point = [4; 97];
    let (_, coordinates) = point.split_at_mut(1);
    coordinates.copy_from_slice(&numbers(rest, name)?);
    Ok(Key { raw, point })
}
