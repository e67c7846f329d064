//! `belljar evidence credential make|check`: whose TPM an attestation key lives in.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use zeroize::Zeroizing;

use crate::evidence::credential::{Challenge, MakeError};
use crate::evidence::file;
use crate::evidence::vector::{now, seconds};
use crate::failure::{Exit, Failure};
use crate::output::{Format, json as print_json};

/// Longest answer that is read, in bytes: more than any secret.
const MAX_ANSWER: usize = 1024;

/// Credentials of TPMs.
#[derive(Debug, Subcommand)]
pub enum CredentialVerb {
    /// Encrypt a secret that only the TPM of a certified endorsement key gives back, and only for one attestation key
    #[command(
        after_help = "Example: belljar evidence credential make --ak ak.pub --ek-certificate ek.pem --anchor maker.pem --out credential --challenge challenge.json\nThen, at the TPM, in a session with its policy: tpm2_activatecredential -c ak.ctx -C ek.ctx -i credential -o answer -P session:…\nExit codes: 0 made, 1 one of the keys was refused."
    )]
    Make {
        /// The attestation key: TPM2B_PUBLIC, as `tpm2_createak -u` writes it
        #[arg(long, value_name = "FILE")]
        ak: PathBuf,
        /// Certificate of the TPM's RSA endorsement key with its issuers up to --anchor: PEM, the leaf first, or the one in DER
        #[arg(long, value_name = "FILE")]
        ek_certificate: PathBuf,
        /// Roots of TPM makers that are trusted, PEM or one in DER
        #[arg(long, value_name = "FILE")]
        anchor: PathBuf,
        /// Judge the certificates as of this time (default: now)
        #[arg(long, value_name = "RFC3339", value_parser = seconds)]
        at: Option<u64>,
        /// The credential to be made, for `tpm2_activatecredential`
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// What to keep until the answer comes; it holds no secret, but whoever changes it changes what is believed
        #[arg(long, value_name = "FILE")]
        challenge: PathBuf,
    },
    /// Say whether a TPM's answer is the secret; prints the attestation key that is then to be trusted
    #[command(
        after_help = "Example: belljar evidence credential check answer --challenge challenge.json\nExit codes: 0 the key lives in that TPM, 1 the answer is not the secret."
    )]
    Check {
        /// What `tpm2_activatecredential -o` wrote
        answer: PathBuf,
        /// What `belljar evidence credential make` kept
        #[arg(long, value_name = "FILE")]
        challenge: PathBuf,
    },
}

impl CredentialVerb {
    /// Carries the verb out.
    pub fn execute(&self, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Make { ak, ek_certificate, anchor, at, out, challenge } => {
                let at = at.map_or_else(now, Ok)?;
                let (chain, anchors) = (file::certificates(ek_certificate)?, file::certificates(anchor)?);
                let (made, credential) = Challenge::make(&file::read(ak)?, &chain, &anchors, at).map_err(refused)?;
                let kept = serde_json::to_string_pretty(&made).map_err(Failure::undecided)? + "\n";
                write_new(challenge, kept.as_bytes())?;
                write_new(out, &credential)?;
                let (ak, ek) = (hex::encode(made.ak), hex::encode(made.ek));
                match format {
                    Format::Json => {
                        print_json(&json!({ "ak": ak, "ek": ek, "credential": out, "challenge": challenge }))?;
                    }
                    Format::Text => {
                        println!("{}: a credential for the attestation key {ak}", out.display());
                        println!("in the TPM of the endorsement key {ek}, which is certified");
                    }
                }
                Ok(0)
            }
            Self::Check { answer, challenge } => {
                let kept = file::read(challenge)?;
                let kept: Challenge = serde_json::from_slice(&kept)
                    .map_err(|error| Failure::usage(format!("challenge {}: {error}", challenge.display())))?;
                let answer = Zeroizing::new(file::read_most(answer, MAX_ANSWER)?);
                let answered = kept.is_answered_by(&answer);
                let (ak, ek) = (hex::encode(kept.ak), hex::encode(kept.ek));
                match format {
                    Format::Json => {
                        let verdict = if answered { "valid" } else { "invalid" };
                        print_json(&json!({ "verdict": verdict, "ak": ak, "ek": ek }))?;
                    }
                    Format::Text if answered => {
                        println!("the attestation key {ak}");
                        println!("lives in the TPM of the endorsement key {ek}");
                        println!("its quotes: belljar evidence verify FILE --trusted-ak {ak}");
                    }
                    Format::Text => {
                        println!(
                            "refused: the answer is not the secret of this challenge: nothing shows that the attestation key {ak}"
                        );
                        println!("lives in the TPM of the endorsement key {ek}");
                    }
                }
                Ok(if answered { 0 } else { Exit::Refused.code() })
            }
        }
    }
}

fn refused(error: MakeError) -> Failure {
    match error {
        MakeError::Random => Failure::undecided(error),
        MakeError::AttestationKey(_) | MakeError::EndorsementKey(_) | MakeError::Credential(_) => {
            Failure::refused(error)
        }
    }
}

/// Writes a file that must not be there: one that is belongs to another credential.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    made.and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Failure::usage(format!("cannot make {}: {error}", path.display())))
}
