//! `belljar evidence inspect|verify|credential`: what a file of evidence says, whether it is authentic, and whose TPM made it.

mod credential;
mod inspect;

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_evidence::Kind;
use belljar_evidence::dcap::Missing;
use belljar_evidence::policy::Policy;
use belljar_evidence::snp::{ID_AUTH_LEN, ID_BLOCK_LEN};
use belljar_evidence::tpm::AkTrust;
use clap::{Args, Subcommand};

use crate::evidence::answer::Answer;
use crate::evidence::collateral::{Offered, Store};
use crate::evidence::file;
use crate::evidence::judge::{IdBlockBytes, Terms};
use crate::evidence::vector::{self, now, seconds};
use crate::failure::Failure;
use crate::output::{Format, json as print_json, print};
use belljar_verifier::Evidence;

/// Evidence in files.
#[derive(Debug, Subcommand)]
pub enum EvidenceVerb {
    /// Decode evidence of any kind; says nothing about its truth
    #[command(after_help = "Example: belljar evidence inspect report.bin --format json")]
    Inspect {
        /// An SNP report, a TDX, SGX or TPM quote, an HCL report, an event log (TCG2, CCEL), or JSON of Confidential Containers
        file: PathBuf,
        /// What the file is, where that cannot be told from its first bytes
        #[arg(long)]
        kind: Option<Kind>,
    },
    /// Judge evidence offline: every check, the verdict, and why
    #[command(
        after_help = "Examples: belljar evidence verify quote.bin --collateral ./collateral --at 2026-01-31T12:00:00Z\n          belljar evidence verify report.bin --vek vcek.der\n          belljar evidence verify --vector snp-turin-v5 --index vectors.json\nExit codes: 0 authentic, 1 refused, 3 could not decide (collateral or a certificate is missing)."
    )]
    Verify(Box<Verify>),
    /// Learn whether an attestation key lives in the TPM of a certified endorsement key: make a credential, check its answer
    #[command(subcommand)]
    Credential(credential::CredentialVerb),
}

/// What to judge, and by what.
#[derive(Debug, Args)]
pub struct Verify {
    /// The evidence
    #[arg(required_unless_present = "vector", conflicts_with = "vector")]
    file: Option<PathBuf>,
    /// What the file is, where that cannot be told from its first bytes
    #[arg(long, conflicts_with = "vector")]
    kind: Option<Kind>,
    /// Entry of an index of test vectors; brings its own files and time
    #[arg(long, value_name = "ID", requires = "index")]
    vector: Option<String>,
    /// The index of test vectors
    #[arg(long, value_name = "FILE", requires = "vector")]
    index: Option<PathBuf>,
    /// Collateral of AMD and Intel: a directory (`belljar collateral fetch --out`), the cache, or a bundle
    #[arg(long, value_name = "DIR|FILE", conflicts_with = "vector")]
    collateral: Option<PathBuf>,
    /// Public key of the bundle's maker, PEM
    #[arg(long, value_name = "FILE", requires = "collateral")]
    bundle_key: Option<PathBuf>,
    /// Certificate of AMD's endorsement key (VCEK or VLEK), PEM or DER
    #[arg(long, value_name = "FILE", conflicts_with = "vector")]
    vek: Option<PathBuf>,
    /// Certificate of its issuer (ASK or ASVK); AMD's are compiled in
    #[arg(long, value_name = "FILE", conflicts_with = "vector")]
    intermediate: Option<PathBuf>,
    /// PCK chain for a quote that does not hold it, PEM
    #[arg(long, value_name = "FILE", conflicts_with = "vector")]
    pck_chain: Option<PathBuf>,
    /// Trust this root and no other; the vendors' are compiled in. For --ak-certificate also several, in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "vector")]
    anchor: Option<PathBuf>,
    /// Judge as of this time (default: now)
    #[arg(long, value_name = "RFC3339", value_parser = seconds, conflicts_with = "vector")]
    at: Option<u64>,
    /// ID block of an SNP guest: it must be of this launch, and signed
    #[arg(long, value_name = "FILE", requires = "id_auth", conflicts_with = "vector")]
    id_block: Option<PathBuf>,
    /// Who signed the ID block: its authentication information
    #[arg(long, value_name = "FILE", requires = "id_block", conflicts_with = "vector")]
    id_auth: Option<PathBuf>,
    /// Event log of the boot (TCG2 or CCEL): its replay must give the registers of the evidence
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// Fingerprint of a TPM's attestation key that is trusted (`inspect` shows it); may be given several times
    #[arg(long, value_name = "HEX", value_parser = fingerprint)]
    trusted_ak: Vec<[u8; 32]>,
    /// Certificate of a TPM's attestation key with its issuers up to --anchor: PEM, the leaf first, or the one in DER
    #[arg(long, value_name = "FILE", requires = "anchor", conflicts_with_all = ["vector", "trusted_ak"])]
    ak_certificate: Option<PathBuf>,
    /// Report data that the attester had to include, padded with zeros
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    nonce: Option<Bytes>,
    /// HOST_DATA, MRCONFIGID or CONFIGID that the host had to set at launch, padded with zeros
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    host_data: Option<Bytes>,
    /// What of authentic evidence to take: a policy in TOML
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// Bytes of an option in hex.
#[derive(Debug, Clone)]
struct Bytes(Vec<u8>);

fn bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes).map_err(|error| format!("not hex: {error}"))
}

fn fingerprint(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map(|()| bytes).map_err(|error| format!("not 32 bytes in hex: {error}"))
}

impl EvidenceVerb {
    /// Carries the verb out.
    pub fn execute(self, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Inspect { file, kind } => inspect::inspect(&file, kind, format),
            Self::Credential(verb) => verb.execute(format),
            Self::Verify(verify) => {
                let answer = verify.judge()?;
                match format {
                    Format::Json => print_json(&answer)?,
                    Format::Text => print(&answer.text())?,
                }
                Ok(answer.exit())
            }
        }
    }
}

impl Verify {
    /// ID block and authentication information, each as it is or in base64, as QEMU takes them.
    fn id_block(&self) -> Result<Option<IdBlockBytes>, Failure> {
        let (Some(block), Some(auth)) = (&self.id_block, &self.id_auth) else { return Ok(None) };
        let read = |path: &Path, length: usize| {
            let bytes = file::read(path)?;
            let decoded = if bytes.len() == length { None } else { STANDARD.decode(bytes.trim_ascii()).ok() };
            Ok::<_, Failure>(decoded.unwrap_or(bytes))
        };
        Ok(Some((read(block, ID_BLOCK_LEN)?, read(auth, ID_AUTH_LEN)?)))
    }

    /// The attestation keys of TPMs that are trusted by name.
    fn listed_keys(&self) -> AkTrust {
        if self.trusted_ak.is_empty() { AkTrust::Unknown } else { AkTrust::List(self.trusted_ak.clone()) }
    }

    /// Options that the judge does not see as they were given, and that a TPM's quote does not heed: nothing about it is
    /// published, and only certificates have a time.
    fn refuse_unused(&self, kind: Kind) -> Result<(), Failure> {
        let given =
            [("collateral", self.collateral.is_some()), ("at", self.at.is_some() && self.ak_certificate.is_none())];
        match given.into_iter().find(|(_, given)| *given && kind == Kind::Tpm) {
            Some((option, _)) => Err(Terms::no_meaning(option, kind)),
            None => Ok(()),
        }
    }

    fn judge(&self) -> Result<Answer, Failure> {
        let policy = self.policy.as_deref().map(read_policy).transpose()?;
        let own = |option: &Option<Bytes>| option.as_ref().map(|bytes| bytes.0.clone());
        if let (Some(id), Some(index)) = (&self.vector, &self.index) {
            let (_, evidence, mut terms) = vector::load(index, id)?;
            terms.nonce = own(&self.nonce).or(terms.nonce);
            terms.host_data = own(&self.host_data);
            terms.event_log = self.event_log.as_deref().map(file::read).transpose()?.or(terms.event_log);
            terms.ak_trust = self.listed_keys();
            terms.policy = policy;
            return terms.judge(&evidence);
        }
        let Some(path) = &self.file else { return Err(Failure::usage("give a file, or --vector and --index")) };
        let evidence = match Evidence::read(&file::read(path)?, self.kind) {
            Ok(evidence) => evidence,
            Err(error) => return Ok(Answer::unreadable(self.kind, error)),
        };
        self.refuse_unused(evidence.kind())?;
        let certificate = |path: &Option<PathBuf>| path.as_deref().map(file::certificate).transpose();
        let at = match self.at {
            Some(at) => at,
            None => now()?,
        };
        let (ak_trust, anchor) = match &self.ak_certificate {
            Some(chain) => {
                let anchors = self.anchor.as_deref().map(file::certificates).transpose()?.unwrap_or_default();
                (AkTrust::Certificate { chain: file::certificates(chain)?, anchors, at }, None)
            }
            None => (self.listed_keys(), certificate(&self.anchor)?),
        };
        let pck_chain = self.pck_chain.as_deref().map(file::read).transpose()?;
        let vek = certificate(&self.vek)?;
        let offered = match &self.collateral {
            Some(path) => {
                let store = Store::open(path, self.bundle_key.as_deref())?;
                store.offer(&evidence, pck_chain.as_deref(), vek.as_deref())?
            }
            None => Offered::default(),
        };
        // What the user names and what the evidence brings along come before what lies in a store.
        let chain = offered.chain.filter(|_| vek.is_none() && evidence.vek().is_none());
        let terms = Terms {
            at,
            vek: vek.or_else(|| chain.as_ref().map(|chain| chain.vek.clone())),
            intermediate: certificate(&self.intermediate)?.or_else(|| chain.map(|chain| chain.ask)),
            crl: offered.crl,
            id_block: self.id_block()?,
            anchor,
            pck_chain,
            collateral: offered.intel,
            missing: Missing::Undecided,
            event_log: self.event_log.as_deref().map(file::read).transpose()?,
            ak_trust,
            nonce: own(&self.nonce),
            host_data: own(&self.host_data),
            policy,
        };
        terms.judge(&evidence)
    }
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("policy {}: {error}", path.display()));
    let bytes = file::read(path)?;
    toml::from_slice(&bytes).map_err(|error| wrong(&error))
}
