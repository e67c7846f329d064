//! One signed file with everything that a machine without network needs.
//!
//! Three lines of text, each ended by a line feed, and nothing after them:
//!
//! ```text
//! belljar-collateral-bundle 1
//! [DOCUMENT,…]
//! ALGORITHM KEY-ID SIGNATURE
//! ```
//!
//! A document is an object of the members `item`, `source`, `fetched`, `chain` and `body`, in this order and without
//! white space; documents are sorted by the item's name and each item is there once. ALGORITHM is `ed25519` or
//! `ecdsa-p256-sha256`, KEY-ID is SHA-256 of the public key's SubjectPublicKeyInfo in lowercase hex, SIGNATURE is base64
//! of the signature over the first two lines with their line feeds.
//!
//! Why not tar: its headers have fields that mean nothing here and must be checked or forced all the same (owners,
//! modes, padding, two ways to write a number), the reader would see names before it can check a signature, and the
//! signature would need a file of its own. JSON on one line is read by a strict parser that the workspace has already,
//! and by a person with `sed` and `jq`. The same documents make the same first two lines, wherever they are made: nothing
//! of the machine or the moment is added. With Ed25519 the whole file is the same.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::document::{Document, DocumentError, Wire};
use crate::item::Item;
use crate::signing::{BundleKey, KeyError, PublicKey};

/// Longest bundle that is read, in bytes.
pub const MAX_BUNDLE: usize = 128 * 1024 * 1024;
/// Most items in a bundle.
pub const MAX_ITEMS: usize = 65_536;
const HEAD: &str = "belljar-collateral-bundle 1\n";

/// Why a file is not a bundle to trust.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Too long to be one.
    #[error("bundle has {found} bytes, more than {MAX_BUNDLE}: bundle less")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// Another kind of file, or a bundle of a version that this program does not read.
    #[error("not a bundle of version 1: make one with `belljar collateral bundle`")]
    Head,
    /// It is not three lines that end it.
    #[error("bundle is cut off or has something after its signature: copy it again")]
    Lines,
    /// Signed by another key than the one given.
    #[error(
        "bundle is signed with {found}, the key given is {expected}: give the public key of whoever made the bundle"
    )]
    Key {
        /// Algorithm and id of the given key.
        expected: String,
        /// What the bundle says.
        found: String,
    },
    /// The signature does not verify.
    #[error("bundle was changed after it was signed, or is not signed by key {key}: get it again from whoever made it")]
    Signature {
        /// Id of the given key.
        key: String,
    },
    /// Signed, and yet not documents in JSON.
    #[error("bundle holds no list of documents: {0}")]
    Json(String),
    /// Signed, and yet one document cannot be read.
    #[error("document {number} of the bundle: {error}")]
    Document {
        /// Its number, from 0.
        number: usize,
        /// What is wrong with it.
        error: DocumentError,
    },
    /// The documents are not sorted, or one is there twice.
    #[error("{0} is not in its place in the bundle, or there twice: bundle again")]
    Order(Item),
    /// More items than a bundle can have.
    #[error("{0} items are more than {MAX_ITEMS}: bundle less")]
    Items(usize),
    /// The key cannot sign.
    #[error(transparent)]
    Sign(#[from] KeyError),
}

/// Documents that the holder of a key put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The documents, sorted by item, each item once. They come from whoever holds the key; that vendors signed them is
    /// verified with [`Document::verify`].
    pub documents: Vec<Document>,
}

impl Bundle {
    /// Puts documents together; of an item that is there twice the one fetched last stays.
    pub fn new(mut documents: Vec<Document>) -> Self {
        documents.sort_by(|a, b| a.item.to_string().cmp(&b.item.to_string()).then(b.fetched.cmp(&a.fetched)));
        documents.dedup_by(|later, kept| later.item == kept.item);
        Self { documents }
    }

    /// The bundle as a file.
    ///
    /// # Errors
    /// [`BundleError::Items`], [`BundleError::Length`] or [`BundleError::Sign`].
    pub fn sign(&self, key: &BundleKey) -> Result<Vec<u8>, BundleError> {
        if self.documents.len() > MAX_ITEMS {
            return Err(BundleError::Items(self.documents.len()));
        }
        let list: Vec<Wire> = self.documents.iter().map(Wire::from).collect();
        let list = serde_json::to_string(&list).map_err(|error| BundleError::Json(error.to_string()))?;
        let mut file = [HEAD, &list, "\n"].concat().into_bytes();
        let signature = STANDARD.encode(key.sign(&file)?);
        let public = key.public()?;
        file.extend_from_slice(format!("{} {} {signature}\n", public.algorithm(), public.id()).as_bytes());
        if file.len() > MAX_BUNDLE {
            return Err(BundleError::Length { found: file.len() });
        }
        Ok(file)
    }

    /// Opens a bundle; the signature is verified before anything of its content is read.
    ///
    /// # Errors
    /// Any [`BundleError`] but [`BundleError::Sign`].
    pub fn open(file: &[u8], key: &PublicKey) -> Result<Self, BundleError> {
        if file.len() > MAX_BUNDLE {
            return Err(BundleError::Length { found: file.len() });
        }
        let after_head = file.strip_prefix(HEAD.as_bytes()).ok_or(BundleError::Head)?;
        let mut lines = after_head.split(|&byte| byte == b'\n');
        let (Some(list), Some(signed), Some([]), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(BundleError::Lines);
        };
        let signature = signature(signed, key)?;
        let message = HEAD.len().saturating_add(list.len()).saturating_add(1);
        let message = file.get(..message).ok_or(BundleError::Lines)?;
        if !key.verifies(message, &signature) {
            return Err(BundleError::Signature { key: key.id() });
        }
        let list: Vec<Wire> = serde_json::from_slice(list).map_err(|error| BundleError::Json(error.to_string()))?;
        if list.len() > MAX_ITEMS {
            return Err(BundleError::Items(list.len()));
        }
        let mut documents: Vec<Document> = Vec::new();
        for (number, wire) in list.into_iter().enumerate() {
            let document = Document::try_from(wire).map_err(|error| BundleError::Document { number, error })?;
            if documents.last().is_some_and(|last| last.item.to_string() >= document.item.to_string()) {
                return Err(BundleError::Order(document.item));
            }
            documents.push(document);
        }
        Ok(Self { documents })
    }

    /// Whether bytes claim to be a bundle, of whatever version.
    pub fn is_one(file: &[u8]) -> bool {
        file.starts_with(b"belljar-collateral-bundle ")
    }

    /// Reads arbitrary bytes as a bundle, and as the documents of one that is signed; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        static KEY: LazyLock<Option<(BundleKey, PublicKey)>> = LazyLock::new(|| {
            let (key, _) = BundleKey::generate().ok()?;
            let public = key.public().ok()?;
            Some((key, public))
        });
        let Some((key, public)) = &*KEY else { return };
        let _ = Self::open(data, public);
        let message = [HEAD.as_bytes(), data, b"\n"].concat();
        let Ok(signature) = key.sign(&message) else { return };
        let line = format!("{} {} {}\n", public.algorithm(), public.id(), STANDARD.encode(signature));
        let _ = Self::open(&[&message, line.as_bytes()].concat(), public);
    }
}

/// The signature of the last line, when that names this key in the one way in which it is written.
fn signature(line: &[u8], key: &PublicKey) -> Result<Vec<u8>, BundleError> {
    let text = std::str::from_utf8(line).map_err(|_| BundleError::Lines)?;
    let (found, signature) = text.rsplit_once(' ').ok_or(BundleError::Lines)?;
    let expected = format!("{} {}", key.algorithm(), key.id());
    if found != expected {
        let found = found.chars().filter(|c| !c.is_control()).take(120).collect();
        return Err(BundleError::Key { expected, found });
    }
    // The decoder refuses trailing bits and missing padding, so that a signature has one spelling.
    STANDARD.decode(signature).map_err(|_| BundleError::Signature { key: key.id() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::PckCa;

    fn document(item: Item, fetched: u64) -> Document {
        Document {
            item,
            source: "https://a.example/".to_owned(),
            fetched,
            chain: b"x\ny".to_vec(),
            body: vec![1, 2, 3],
        }
    }

    fn two() -> Bundle {
        Bundle::new(vec![document(Item::RootCrl, 5), document(Item::PckCrl(PckCa::Platform), 6)])
    }

    #[test]
    fn a_bundle_is_the_same_wherever_it_is_made() {
        let (key, text) = BundleKey::generate().unwrap();
        let file = two().sign(&key).unwrap();
        assert_eq!(Bundle::open(&file, &key.public().unwrap()), Ok(two()));
        let turned = Bundle::new(two().documents.into_iter().rev().collect());
        assert_eq!(turned.sign(&BundleKey::from_pem(text.as_bytes()).unwrap()).unwrap(), file);
        // Of one item the last one fetched stays.
        let doubled =
            Bundle::new(vec![document(Item::RootCrl, 4), document(Item::RootCrl, 5), document(Item::RootCrl, 3)]);
        assert_eq!(doubled.documents, [document(Item::RootCrl, 5)]);
        assert!(Bundle::is_one(&file) && !Bundle::is_one(b"{}"));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (key, _) = BundleKey::generate().unwrap();
        let public = key.public().unwrap();
        let file = two().sign(&key).unwrap();
        assert!(Bundle::open(&file, &public).is_ok());
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut flipped = file.clone();
                flipped[at] ^= 1 << bit;
                assert!(Bundle::open(&flipped, &public).is_err(), "byte {at}, bit {bit}");
            }
        }
        for length in 0..file.len() {
            assert!(Bundle::open(&file[..length], &public).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn each_fault_has_its_error() {
        let (key, _) = BundleKey::generate().unwrap();
        let (other, _) = BundleKey::generate().unwrap();
        let public = key.public().unwrap();
        let file = two().sign(&key).unwrap();
        let name = |key: &PublicKey| format!("ed25519 {}", key.id());
        let other = other.public().unwrap();
        let wrong = BundleError::Key { expected: name(&other), found: name(&public) };
        assert_eq!(Bundle::open(&file, &other), Err(wrong));

        let longer = [&file[..], b"\n"].concat();
        assert_eq!(Bundle::open(&longer, &public), Err(BundleError::Lines));
        assert_eq!(Bundle::open(&file[..file.len() - 1], &public), Err(BundleError::Lines));
        let version = String::from_utf8(file.clone()).unwrap().replacen("bundle 1", "bundle 2", 1);
        assert_eq!(Bundle::open(version.as_bytes(), &public), Err(BundleError::Head));
        let text = String::from_utf8(file.clone()).unwrap().replacen("AQID", "AQIE", 1);
        let changed = BundleError::Signature { key: public.id() };
        assert_eq!(Bundle::open(text.as_bytes(), &public), Err(changed));
        let long = vec![b'x'; MAX_BUNDLE + 1];
        assert_eq!(Bundle::open(&long, &public), Err(BundleError::Length { found: MAX_BUNDLE + 1 }));
    }

    #[test]
    fn what_is_signed_is_still_read_strictly() {
        let (key, _) = BundleKey::generate().unwrap();
        let public = key.public().unwrap();
        let sign = |list: &str| {
            let message = format!("{HEAD}{list}\n");
            let signature = STANDARD.encode(key.sign(message.as_bytes()).unwrap());
            format!("{message}ed25519 {} {signature}\n", public.id())
        };
        let open = |list: &str| Bundle::open(sign(list).as_bytes(), &public);
        let (first, second) =
            (document(Item::PckCrl(PckCa::Platform), 6).to_json(), document(Item::RootCrl, 5).to_json());
        assert_eq!(open(&format!("[{first},{second}]")), Ok(two()));
        assert_eq!(open("[]"), Ok(Bundle { documents: Vec::new() }));
        assert_eq!(open(&format!("[{second},{first}]")), Err(BundleError::Order(Item::PckCrl(PckCa::Platform))));
        assert_eq!(open(&format!("[{first},{first}]")), Err(BundleError::Order(Item::PckCrl(PckCa::Platform))));
        assert!(matches!(open(&format!("[{first}] []")), Err(BundleError::Json(_))));
        let strange = first.replace("pck-crl", "pck-list");
        assert!(matches!(
            open(&format!("[{strange}]")),
            Err(BundleError::Document { number: 0, error: DocumentError::Item(_) })
        ));
    }
}
