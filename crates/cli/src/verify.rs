//! Challenging a running pod: a fresh nonce, the evidence that comes back, and what it says compared with what the user expects.

pub mod expected;
pub mod judge;
pub mod operator;
pub mod target;

use belljar_attested::{Client, tls::Key, wire::EvidenceReply};
use clap::Args;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::paths::Paths;
use crate::verify::expected::Expected;
use crate::verify::judge::{Judged, Trust};
use crate::verify::target::{Connection, Target};

/// Bytes of a nonce.
const NONCE: usize = 32;

/// What every verb takes that talks to a pod's attested service.
#[derive(Debug, Args)]
pub struct Common {
    /// The pod: `pod/NAME`, reached by `kubectl port-forward`, or `tcp:HOST:PORT`
    pub target: Target,
    /// Namespace of the pod
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Accept the evidence of a software TEE, which protects nothing from its host
    #[arg(long)]
    pub allow_software_tee: bool,
    /// Root certificate (DER) of the software TEE [default: this user's own]
    #[arg(long, value_name = "FILE", requires = "allow_software_tee")]
    pub software_root: Option<PathBuf>,
    /// A guest image's directory, for the launch measurement [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub image: Option<PathBuf>,
    /// AMD's revocation lists: a directory (`belljar collateral fetch --out`), the cache, or a bundle; the chip's must be there
    #[arg(long, value_name = "DIR|FILE")]
    pub collateral: Option<PathBuf>,
    /// Public key of the bundle's maker, PEM
    #[arg(long, value_name = "FILE", requires = "collateral")]
    pub bundle_key: Option<PathBuf>,
}

/// A connection whose other end is judged.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub client: Client,
    /// What carries it; ends with it.
    pub connection: Connection,
    /// The judgement.
    pub judged: Judged,
}

impl Common {
    /// Connects, with the operator's key where there is one, challenges the pod, and judges.
    ///
    /// `file` is what to compare with.
    pub async fn challenge(
        &self,
        paths: &Paths,
        file: Option<&Path>,
        operator: Option<&Key>,
    ) -> Result<Session, Failure> {
        // What can be wrong with the user's own files is said before the pod is asked.
        let expected = file.map(Expected::read).transpose()?;
        let trust = Trust::load(self, paths)?;
        let (connection, stream) = self.target.connect(self.namespace.as_deref()).await?;
        let failed = |error: belljar_attested::ClientError| Failure::undecided(format!("{}: {error}", self.target));
        let mut client = Client::connect(stream, operator).await.map_err(failed)?;
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Failure::undecided("no random numbers"))?;
        let reply: EvidenceReply = client.evidence(&nonce).await.map_err(failed)?;
        let judged = judge::judge(&reply, &nonce, client.spki(), &trust, expected.as_ref())?;
        Ok(Session { client, connection, judged })
    }
}
