//! An entry of an index of test vectors, in the schema of the attestation test vectors: its files and its terms.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use belljar_evidence::Kind;
use belljar_evidence::dcap::{Collateral, Missing};
use belljar_evidence::tpm::AkTrust;
use serde::Deserialize;

use super::file;
use super::judge::Terms;
use crate::failure::Failure;
use belljar_verifier::{Evidence, TpmQuote};

/// One entry; members that judging does not need are not read.
#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    kind: String,
    files: Files,
    expect: Expect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Files {
    evidence: Option<PathBuf>,
    vek: Option<PathBuf>,
    intermediate: Option<PathBuf>,
    anchor: Option<PathBuf>,
    crl: Option<PathBuf>,
    pck_chain: Option<PathBuf>,
    ccel_data: Option<PathBuf>,
    hcl_report: Option<PathBuf>,
    tpm_quote_message: Option<PathBuf>,
    tpm_quote_signature: Option<PathBuf>,
    pcrs_sha256: Option<PathBuf>,
    td_quote: Option<PathBuf>,
    signature: Option<PathBuf>,
    ak_public: Option<PathBuf>,
    collateral: CollateralFiles,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CollateralFiles {
    tcb_info: Option<PathBuf>,
    tcb_signing_chain: Option<PathBuf>,
    qe_identity: Option<PathBuf>,
    qe_signing_chain: Option<PathBuf>,
    pck_crl: Option<PathBuf>,
    pck_crl_chain: Option<PathBuf>,
    root_crl: Option<PathBuf>,
}

/// Of what the index expects, what the terms of judging are: never the verdict.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Expect {
    at: Option<String>,
    expected_nonce: Option<String>,
}

/// Evidence and terms of the entry with that id.
///
/// The index judges by what an entry brings: collateral that it does not name is not asked for.
pub fn load(index: &Path, id: &str) -> Result<(Kind, Evidence, Terms), Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", index.display()));
    let entries: Vec<Entry> = serde_json::from_slice(&file::read(index)?).map_err(|error| wrong(&error))?;
    let entry = entries
        .into_iter()
        .find(|entry| entry.id == id)
        .ok_or_else(|| wrong(&format!("no entry has the id {id:?}")))?;
    let kind = Kind::from_str(&entry.kind).map_err(|error| wrong(&error))?;
    let folder = Folder(index.parent().unwrap_or(Path::new("")));
    let files = entry.files;
    let evidence = match kind {
        Kind::Snp => Evidence::Snp {
            report: folder.needed(files.evidence.as_ref(), "evidence")?,
            vek: Vec::new(),
            intermediate: Vec::new(),
        },
        Kind::Tdx | Kind::Sgx => {
            Evidence::Quote { kind, quote: folder.needed(files.evidence.as_ref(), "evidence")?, log: None }
        }
        Kind::AzSnpVtpm | Kind::AzTdxVtpm => Evidence::Vtpm {
            kind,
            hcl_report: folder.needed(files.hcl_report.as_ref(), "hcl_report")?,
            tpm: TpmQuote {
                message: folder.needed(files.tpm_quote_message.as_ref(), "tpm_quote_message")?,
                signature: folder.needed(files.tpm_quote_signature.as_ref(), "tpm_quote_signature")?,
                signature_is_structured: false,
                pcrs: folder.registers(files.pcrs_sha256.as_ref())?,
            },
            vek: Vec::new(),
            td_quote: folder.bytes(files.td_quote.as_ref())?,
        },
        Kind::Tpm => Evidence::Tpm {
            ak: folder.needed(files.ak_public.as_ref(), "ak_public")?,
            tpm: TpmQuote {
                message: folder.needed(files.evidence.as_ref(), "evidence")?,
                signature: folder.needed(files.signature.as_ref(), "signature")?,
                signature_is_structured: false,
                pcrs: folder.registers(files.pcrs_sha256.as_ref())?,
            },
        },
        Kind::EventLog => return Err(wrong(&"an event log alone cannot be judged")),
    };
    let of = &files.collateral;
    let collateral = Collateral {
        tcb_info: folder.bytes(of.tcb_info.as_ref())?,
        tcb_signing_chain: folder.bytes(of.tcb_signing_chain.as_ref())?,
        qe_identity: folder.bytes(of.qe_identity.as_ref())?,
        qe_signing_chain: folder.bytes(of.qe_signing_chain.as_ref())?,
        pck_crl: folder.bytes(of.pck_crl.as_ref())?,
        pck_crl_chain: folder.bytes(of.pck_crl_chain.as_ref())?,
        root_crl: folder.bytes(of.root_crl.as_ref())?,
    };
    let at = match &entry.expect.at {
        Some(at) => seconds(at).map_err(|error| wrong(&error))?,
        None => now()?,
    };
    let nonce = entry.expect.expected_nonce.as_deref().map(hex::decode).transpose().map_err(|error| wrong(&error))?;
    let terms = Terms {
        at,
        vek: folder.certificate(files.vek.as_ref())?,
        intermediate: folder.certificate(files.intermediate.as_ref())?,
        id_block: None,
        anchor: folder.certificate(files.anchor.as_ref())?,
        crl: files.crl.as_ref().map_or_else(|| Ok(Vec::new()), |path| file::crl(&folder.0.join(path)))?,
        pck_chain: files.pck_chain.as_ref().map(|path| file::read(&folder.0.join(path))).transpose()?,
        collateral,
        missing: Missing::Allowed,
        event_log: files.ccel_data.as_ref().map(|path| file::read(&folder.0.join(path))).transpose()?,
        ak_trust: AkTrust::Unknown,
        nonce,
        host_data: None,
        policy: None,
    };
    Ok((kind, evidence, terms))
}

/// The folder that an index's paths are relative to.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn bytes(&self, path: Option<&PathBuf>) -> Result<Vec<u8>, Failure> {
        path.map_or_else(|| Ok(Vec::new()), |path| file::read(&self.0.join(path)))
    }

    fn needed(&self, path: Option<&PathBuf>, role: &str) -> Result<Vec<u8>, Failure> {
        match path {
            Some(path) => file::read(&self.0.join(path)),
            None => Err(Failure::usage(format!("the entry names no file for {role}"))),
        }
    }

    /// Values of the registers: a list of hex in JSON.
    fn registers(&self, path: Option<&PathBuf>) -> Result<Vec<Vec<u8>>, Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("values of the registers: {error}"));
        let values: Vec<String> =
            serde_json::from_slice(&self.needed(path, "pcrs_sha256")?).map_err(|error| wrong(&error))?;
        values.iter().map(|value| hex::decode(value).map_err(|error| wrong(&error))).collect()
    }

    fn certificate(&self, path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, Failure> {
        path.map(|path| file::certificate(&self.0.join(path))).transpose()
    }
}

/// Seconds since 1970 of a time in RFC 3339, in UTC.
pub fn seconds(text: &str) -> Result<u64, String> {
    x509_cert::der::DateTime::from_str(text)
        .map(|time| time.unix_duration().as_secs())
        .map_err(|_| format!("{text:?} is not a time like 2026-01-31T12:00:00Z"))
}

/// Seconds since 1970, now.
pub fn now() -> Result<u64, Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(Failure::undecided)?;
    Ok(now.as_secs())
}
