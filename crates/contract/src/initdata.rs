//! The initdata document: `version`, `algorithm` and a `[data]` table of strings, bound to the VM by the digest of its
//! raw bytes (initdata specification of Confidential Containers, version 0.1.0). The pod contract is data key
//! `contract.toml`; keys of other guests (`aa.toml`, `cdh.toml`, `policy.rego`) are carried and not interpreted.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest as lc;
use toml::{Table, Value};

use crate::canonical::{key, string};
use crate::error::{InitdataError, cut, one_line};
use crate::model::Contract;

/// Largest raw document in bytes.
pub const MAX_INITDATA: usize = 256 * 1024;
/// The data key of the contract.
pub const CONTRACT_KEY: &str = "contract.toml";
const VERSION: &str = "0.1.0";

/// An initdata document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initdata {
    /// Digest algorithm of the document.
    pub algorithm: Algorithm,
    /// Files by name.
    pub data: BTreeMap<String, String>,
}

/// Digest algorithms that an initdata document can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, what we write.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Digest of a raw document by the algorithm that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// 32, 48 or 64 bytes.
    pub bytes: Vec<u8>,
}

impl Initdata {
    /// A document with nothing but this contract, for SHA-256.
    pub fn with_contract(contract: &Contract) -> Self {
        let data = BTreeMap::from([(CONTRACT_KEY.to_owned(), contract.to_toml())]);
        Self { algorithm: Algorithm::Sha256, data }
    }

    /// The document as text; the same document gives the same bytes.
    pub fn to_toml(&self) -> String {
        let mut out = format!("version = \"{VERSION}\"\nalgorithm = \"{}\"\n\n[data]\n", self.algorithm);
        for (name, content) in &self.data {
            out.push_str(&key(name));
            out.push_str(" = ");
            // A multi-line literal string keeps the contract readable where TOML allows one.
            let literal = content.ends_with('\n')
                && !content.contains("'''")
                && content.chars().all(|c| c == '\n' || c == '\t' || !c.is_ascii_control());
            if literal {
                for part in ["'''\n", content.as_str(), "'''\n"] {
                    out.push_str(part);
                }
            } else {
                out.push_str(&string(content));
                out.push('\n');
            }
        }
        out
    }

    /// Reads a raw document.
    ///
    /// # Errors
    /// [`InitdataError`]: larger than [`MAX_INITDATA`], not TOML, another version or algorithm, unknown top-level key.
    pub fn parse(raw: &[u8]) -> Result<Self, InitdataError> {
        if raw.len() > MAX_INITDATA {
            return Err(InitdataError::TooLarge { limit: MAX_INITDATA });
        }
        let text = std::str::from_utf8(raw).map_err(|error| InitdataError::Toml { message: error.to_string() })?;
        let mut table =
            text.parse::<Table>().map_err(|error| InitdataError::Toml { message: one_line(error.message()) })?;
        let version = take_string(&mut table, "version")?;
        if version != VERSION {
            return Err(InitdataError::Version { found: cut(&version) });
        }
        let name = take_string(&mut table, "algorithm")?;
        let algorithm = Algorithm::from_name(&name).ok_or_else(|| InitdataError::Algorithm { found: cut(&name) })?;
        let data = match table.remove("data") {
            Some(Value::Table(data)) => data,
            Some(other) => return Err(wrong("data", "table", &other)),
            None => return Err(InitdataError::MissingKey { key: "data".into() }),
        };
        if let Some(key) = table.keys().next() {
            return Err(InitdataError::UnknownKey { key: cut(key) });
        }
        let data = data
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(content) => Ok((name, content)),
                other => Err(wrong(&format!("data.{name}"), "string", &other)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { algorithm, data })
    }

    /// The contract inside.
    ///
    /// # Errors
    /// [`InitdataError::NoContract`] when there is none, [`InitdataError::Contract`] when it is refused.
    pub fn contract(&self) -> Result<Contract, InitdataError> {
        let text = self.data.get(CONTRACT_KEY).ok_or(InitdataError::NoContract)?;
        Ok(Contract::parse(text)?)
    }
}

/// Digest of the raw bytes of a document, by the algorithm that the document names.
///
/// # Errors
/// As [`Initdata::parse`]: a document that cannot be read has no algorithm.
pub fn digest(raw: &[u8]) -> Result<Digest, InitdataError> {
    let algorithm = Initdata::parse(raw)?.algorithm;
    Ok(algorithm.digest(raw))
}

/// Parses any bytes; for fuzzing. A document that parses must survive being written again.
pub fn fuzz(data: &[u8]) {
    if let Ok(document) = Initdata::parse(data) {
        let text = document.to_toml();
        if text.len() <= MAX_INITDATA {
            assert_eq!(Initdata::parse(text.as_bytes()).as_ref(), Ok(&document), "writing changes the document");
        }
        let _ = document.contract();
    }
}

impl Algorithm {
    /// `sha256`, `sha384` or `sha512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512].into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn digest(self, raw: &[u8]) -> Digest {
        let algorithm = match self {
            Self::Sha256 => &lc::SHA256,
            Self::Sha384 => &lc::SHA384,
            Self::Sha512 => &lc::SHA512,
        };
        Digest { algorithm: self, bytes: lc::digest(algorithm, raw).as_ref().to_vec() }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Digest {
    /// Lowercase hex.
    pub fn to_hex(&self) -> String {
        hex::encode(&self.bytes)
    }

    /// As SEV-SNP's `HOST_DATA` holds it: the first 32 bytes.
    pub fn host_data(&self) -> [u8; 32] {
        self.register()
    }

    /// As TDX's `MRCONFIGID` holds it: the first 48 bytes, filled up with zeros.
    pub fn mrconfigid(&self) -> [u8; 48] {
        self.register()
    }

    /// Whether a register of the hardware holds this digest (cut or filled up to its length), in constant time.
    pub fn matches(&self, register: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        let mut expected = self.bytes.clone();
        expected.resize(register.len(), 0);
        register.len() >= 32 && bool::from(expected.ct_eq(register))
    }

    fn register<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        out.iter_mut().zip(&self.bytes).for_each(|(to, from)| *to = *from);
        out
    }
}

fn take_string(table: &mut Table, key: &str) -> Result<String, InitdataError> {
    match table.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(key, "string", &other)),
        None => Err(InitdataError::MissingKey { key: key.to_owned() }),
    }
}

fn wrong(key: &str, expected: &'static str, found: &Value) -> InitdataError {
    InitdataError::WrongType { key: cut(key), expected, found: found.type_str() }
}
