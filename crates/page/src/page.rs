//! What the page says. Everything is text as it is to be read: digests in lowercase hex, times in RFC 3339.

use serde::Serialize;

/// What stands in large letters over every run in a software TEE.
pub const SOFTWARE_WARNING: &str = "This was a SOFTWARE TEE: it protects nothing from this host.";

/// One run of one pod.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct Page {
    /// What ran, for example the image reference.
    pub subject: String,
    /// The answer of the broker.
    pub verdict: Verdict,
    /// The answer in one sentence: why, or what failed.
    pub reason: String,
    /// Where it ran.
    pub tee: Tee,
    /// Facts about the run: image digest, command, exit code, time.
    pub facts: Vec<Fact>,
    /// What was measured, against what was predicted.
    pub measured: Vec<Measured>,
    /// What the launch measurement was computed from; evidence shows one digest over all of it.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// From the root to the key that signed the evidence.
    pub chain: Vec<Certificate>,
    /// Every check of the verifier, in order.
    pub checks: Vec<Check>,
    /// What the guest was told to run.
    pub contract: Contract,
    /// What the policy decided about each resource that was asked for.
    pub decisions: Vec<Decision>,
    /// Attacks by the host that were tried; the section is left out when there are none.
    pub attacks: Vec<Attack>,
    /// How long each phase took.
    pub phases: Vec<Phase>,
    /// Versions of the programs and of the guest image.
    pub versions: Vec<Fact>,
    /// When this page was written.
    pub written_at: String,
}

/// The answer of the broker about the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The evidence is what was expected.
    Accepted,
    /// It is not.
    Refused,
    /// It could not be judged.
    Undecided,
}

/// The trusted execution environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Tee {
    /// Its name, for example `AMD SEV-SNP`.
    pub name: String,
    /// Whether it is the software one, which protects nothing.
    pub software: bool,
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// What its value is.
    pub value: String,
}

/// Something that was measured. Whether the two values match is for the page to say, not for its caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Measured {
    /// What: `launch measurement`, `contract digest (HOST_DATA)`.
    pub what: String,
    /// Where the prediction comes from.
    pub source: String,
    /// What was computed before the start.
    pub predicted: Option<String>,
    /// What was found.
    pub found: Option<String>,
}

/// Something that a launch measurement is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Input {
    /// What: `kernel`, `initrd`, `firmware`, `kernel command line`.
    pub what: String,
    /// Where it comes from: the package and its version.
    pub source: String,
    /// Its SHA-256 in hex, or itself when it is text.
    pub value: String,
}

/// A certificate of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Certificate {
    /// `ARK`, `ASK`, `VCEK`.
    pub role: String,
    /// Subject.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Beginning of its validity.
    pub not_before: String,
    /// End of its validity.
    pub not_after: String,
    /// SHA-256 of the DER, in hex.
    pub fingerprint: String,
    /// Kind of key and signature, for example `RSA 4096, RSASSA-PSS SHA-384`.
    pub key: String,
    /// Why it is trusted, or who made it, for example `AMD's root for Milan` or `made on this machine: a test root`.
    pub trust: String,
}

/// A check of the verifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Check {
    /// Name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What had to be there.
    pub expected: String,
    /// What was there.
    pub found: String,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The claim holds.
    Passed,
    /// It does not hold.
    Failed,
    /// It was not checked; what was found says why.
    NotChecked,
}

/// The pod contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Contract {
    /// Digest of the initdata that holds it, in hex.
    pub digest: String,
    /// In plain words, a sentence each.
    pub words: Vec<String>,
    /// As it is written.
    pub toml: String,
}

/// What the policy decided about one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Decision {
    /// The resource, as `kbs:///default/key/model`.
    pub resource: String,
    /// The rule that decided.
    pub rule: String,
    /// Whether it was given.
    pub allowed: bool,
    /// Why.
    pub reason: String,
}

/// An attack by the host that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Attack {
    /// What was changed.
    pub name: String,
    /// Whether it was refused, as it has to be.
    pub refused: bool,
    /// The reason that was printed.
    pub reason: String,
    /// Whether the same run without the change was accepted, as it has to be.
    pub twin_accepted: bool,
}

/// A phase of the run.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct Phase {
    /// Name.
    pub name: String,
    /// Milliseconds from the start of the run to its beginning.
    pub start_ms: f64,
    /// Milliseconds that it took.
    pub duration_ms: f64,
}
