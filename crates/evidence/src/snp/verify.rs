//! Is a report authentic? Every check is made and listed, in a fixed order, also after one has failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};
use serde::Serialize;

use super::anchors::{Anchors, builtin};
use super::cert::{CertError, Certificate, Vek, VekKind};
use super::cert_table::{CertKind, CertTable};
use super::crl::Listed;
use super::report::{REPORT_LEN, Report, SigningKey};
use crate::anchors::Root;
use crate::checks::Checks;
use crate::strictness::{Freshness, Options};
use crate::time::rfc3339;
use crate::verdict::{Outcome, Verdict};

/// Signature algorithm 1 (AMD 56860): ECDSA on P-384 with SHA-384.
const ECDSA_P384_SHA384: u32 = 1;
/// Most chains that a verifier remembers.
const MAX_CHAINS: usize = 4096;
/// Least privileged VMPL.
const LAST_VMPL: u32 = 3;

/// The certificates beside a report and the revocation list of their root, each DER; an empty one was not given.
///
/// A missing intermediate or root is taken from the compiled-in ones of AMD and from the anchors, by name. They come
/// from the host and are trusted only as far as they lead to an anchor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// AMD root key, or the root of a software TEE.
    pub ark: Vec<u8>,
    /// AMD SEV key (ASK), or for a VLEK the ASVK.
    pub ask: Vec<u8>,
    /// The endorsement key, VCEK or VLEK.
    pub vek: Vec<u8>,
    /// The root's revocation list. It is collateral of the verifier's, never the host's: who could leave it out would.
    pub crl: Vec<u8>,
}

impl Chain {
    /// The certificates of a host's table; of two endorsement keys, the one that the report names.
    pub fn from_cert_table(table: &CertTable, signing_key: SigningKey) -> Self {
        let of = |kind| table.find(kind).map(<[u8]>::to_vec).unwrap_or_default();
        let vek = match signing_key {
            SigningKey::Vlek => CertKind::Vlek,
            _ => CertKind::Vcek,
        };
        Self { ark: of(CertKind::Ark), ask: of(CertKind::Ask), vek: of(vek), crl: Vec::new() }
    }
}

/// What a report and its certificates say; facts only when the verdict is `valid`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// The report; `None` when its length is wrong.
    #[serde(rename = "fields")]
    pub report: Option<Report>,
    /// The endorsement key's certificate; `None` when it is missing or malformed.
    pub vek: Option<Vek>,
    /// Whose root the chain ends in; `None` when it ends in none that is trusted.
    pub root: Option<Root>,
    /// How far the revocation list is in date; `None` without one.
    pub freshness: Option<Freshness>,
    /// First second at which all certificates and the revocation list are valid, in seconds since 1970.
    pub valid_from: Option<u64>,
    /// Last second at which all of them are valid, in seconds since 1970.
    pub valid_to: Option<u64>,
}

/// Judges an attestation report of 1184 bytes with its certificates at a time in seconds since 1970.
///
/// The checks, in order:
///
/// | name | holds when |
/// |---|---|
/// | `length` | the report has 1184 bytes |
/// | `version` | its version is 2, 3, 4 or 5 |
/// | `signature-algo` | the algorithm is 1, ECDSA P-384 with SHA-384 |
/// | `signature-reserved` | the bytes behind the signature are zero |
/// | `report-signature` | the endorsement key signed the first 0x2A0 bytes |
/// | `vek-issuer` | the ASK (of a VLEK: the ASVK) issued and signed the endorsement key's certificate |
/// | `chain-to-anchor` | the ARK signed that one and itself, and is an anchor |
/// | `cert-validity` | all three certificates are valid at the given time |
/// | `crl-signature` | the ARK signed the revocation list |
/// | `crl-time` | that list is in date at the given time, as far as the options want it |
/// | `crl-revoked` | it names none of the three certificates |
/// | `signing-key` | the report's signing-key field, the certificate and its issuer are for the same kind of key |
/// | `tcb` | the reported TCB is the one that the endorsement key was derived for |
/// | `chip-id` | the chip id is the certificate's hwID (first 8 bytes on Turin); a VLEK has none |
/// | `product` | the processor that the report names is of the product line that the endorsement key's issuer is for |
/// | `reserved` | the reserved bytes of the signed part are zero |
/// | `vmpl` | the privilege level is one that exists, 0 to 3 |
///
/// Without a revocation list its three checks are listed as not made, and the verdict is undecided where the options ask
/// for one. Not made either, and in nobody's way, is `product` for a report of version 2, which names no processor, and under an issuer that is named after no product line.
///
/// Debug policy, migration policy, VMPL and a VLEK are facts (`flags`), not failures.
pub fn verify(report: &[u8], chain: &Chain, anchors: &Anchors, at: u64, options: &Options) -> Verdict<Facts> {
    judge(report, &Given::read(chain, anchors), anchors, at, options)
}

/// Judges reports under the same anchors, and remembers the chains that lead to one: their signatures are checked once.
#[derive(Debug)]
pub struct Verifier {
    anchors: Anchors,
    /// By SHA-256 over the certificates.
    chains: Mutex<HashMap<[u8; 32], Arc<Given>>>,
}

impl Verifier {
    /// A verifier that remembers nothing yet.
    pub fn new(anchors: Anchors) -> Self {
        Self { anchors, chains: Mutex::default() }
    }

    /// The same as [`verify`].
    pub fn verify(&self, report: &[u8], chain: &Chain, at: u64, options: &Options) -> Verdict<Facts> {
        let key = digest(chain);
        let known = self.chains.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(given) = known {
            return judge(report, &given, &self.anchors, at, options);
        }
        let given = Arc::new(Given::read(chain, &self.anchors));
        let verdict = judge(report, &given, &self.anchors, at, options);
        // Only chains that lead to an anchor are kept: nobody else can fill the memory.
        if verdict.facts.root.is_some() && given.is_all_signed() {
            let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
            if chains.len() >= MAX_CHAINS {
                chains.clear();
            }
            chains.insert(key, given);
        }
        verdict
    }
}

/// A digest over all certificates and the list, each with its length.
fn digest(chain: &Chain) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [&chain.ark, &chain.ask, &chain.vek, &chain.crl] {
        context.update(&part.len().to_le_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn judge(report: &[u8], given: &Given, anchors: &Anchors, at: u64, options: &Options) -> Verdict<Facts> {
    let mut checks = Checks::default();
    let mut parsed = Report::read(report).ok();
    checks.compare("length", REPORT_LEN, report.len(), parsed.is_some());
    checks.of_report(parsed.as_ref());

    checks.report_signature(parsed.as_ref(), given);
    checks.vek_issuer(given);
    let root = checks.chain_to_anchor(given, anchors);
    let certificates = checks.validity(given, at);
    let all = [&given.vek, &given.ask, &given.ark].map(|slot| slot.as_ref().ok());
    let list = checks.revocation(given.list.as_ref(), all, at, options);
    let valid_from = certificates.map(|(from, _)| list.map_or(from, |list| from.max(list.window.0)));
    let valid_to = certificates.map(|(_, to)| list.map_or(to, |list| to.min(list.window.1)));
    let freshness = list.map(|list| list.freshness);
    checks.binding(parsed.as_ref(), given.content.as_ref());
    let vek = given.content.as_ref().and_then(|content| content.as_ref().ok()).cloned();
    checks.content(parsed.as_ref());
    if let (Some(report), Some(vek)) = (&mut parsed, &vek) {
        report.read_tcbs_as(vek.tcb.layout);
    }

    let software = root.is_some_and(Root::is_software);
    let flags = flags(parsed.as_ref(), root);
    checks.into_verdict(software, flags, Facts { report: parsed, vek, root, freshness, valid_from, valid_to })
}

/// A certificate of the chain: read, or why not.
type Slot<T> = Result<T, Absent>;

#[derive(Clone, Debug)]
enum Absent {
    /// Not given, and none is known under that name.
    Missing(String),
    /// Given, but not a certificate for this place.
    Malformed(String),
}

/// The three certificates, completed by name with those that we know, and what each signed.
#[derive(Debug)]
struct Given {
    vek: Slot<Certificate>,
    ask: Slot<Certificate>,
    ark: Slot<Certificate>,
    vek_is_signed: bool,
    ask_is_signed: bool,
    ark_is_self_signed: bool,
    list: Option<Listed>,
    /// The endorsement key itself.
    key: Option<ParsedPublicKey>,
    /// What its certificate says.
    content: Option<Result<Vek, CertError>>,
}

impl Given {
    fn read(chain: &Chain, anchors: &Anchors) -> Self {
        let parse = |der: &[u8]| Certificate::parse(der).map_err(|error| Absent::Malformed(error.to_string()));
        let vek = if chain.vek.is_empty() {
            Err(Absent::Missing("no certificate of the endorsement key was given".to_owned()))
        } else {
            parse(&chain.vek)
        };
        let ask = if !chain.ask.is_empty() {
            parse(&chain.ask)
        } else {
            let known = builtin::AMD.iter().flat_map(|authority| [authority.ask, authority.asvk]);
            find(vek.as_ref().ok(), known.filter_map(|der| Certificate::parse(der).ok()).map(Arc::new))
        };
        let ark = if !chain.ark.is_empty() {
            parse(&chain.ark)
        } else {
            find(ask.as_ref().ok(), anchors.certificates().map(|(root, _)| Arc::clone(root)))
        };
        let signed = |subject: &Slot<Certificate>, issuer: &Slot<Certificate>| match (subject, issuer) {
            (Ok(subject), Ok(issuer)) => subject.names_issuer(issuer) && subject.is_signed_by(issuer),
            _ => false,
        };
        let point = vek.as_ref().ok().and_then(Certificate::p384_key);
        Self {
            vek_is_signed: signed(&vek, &ask),
            ask_is_signed: signed(&ask, &ark),
            ark_is_self_signed: signed(&ark, &ark),
            list: (!chain.crl.is_empty()).then(|| Listed::read(&chain.crl, ark.as_ref().ok())),
            key: point.and_then(|point| ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).ok()),
            content: vek.as_ref().ok().map(|vek| Vek::new(vek.clone())),
            vek,
            ask,
            ark,
        }
    }

    /// Whether nothing in it is of somebody whom the root did not vouch for.
    fn is_all_signed(&self) -> bool {
        let listed = self.list.as_ref().is_none_or(Listed::is_signed);
        self.vek_is_signed && self.ask_is_signed && self.ark_is_self_signed && listed
    }
}

/// The certificate among the candidates that another one names as its issuer.
fn find(subject: Option<&Certificate>, mut candidates: impl Iterator<Item = Arc<Certificate>>) -> Slot<Certificate> {
    let Some(subject) = subject else {
        return Err(Absent::Missing("not given, and nothing names it".to_owned()));
    };
    candidates
        .find(|candidate| subject.names_issuer(candidate))
        .map(Arc::unwrap_or_clone)
        .ok_or_else(|| Absent::Missing(format!("no certificate of {} was given, none is known", subject.issuer_name())))
}

impl Checks {
    fn of_report(&mut self, report: Option<&Report>) {
        let versions = "2 to 5";
        let algorithm = "1 (ECDSA P-384 with SHA-384)";
        let padding = "zeros behind the signature";
        let Some(report) = report else {
            for (name, expected) in
                [("version", versions), ("signature-algo", algorithm), ("signature-reserved", padding)]
            {
                self.cannot(name, expected, "the report cannot be read");
            }
            return;
        };
        self.compare("version", versions, report.version, report.version_is_known());
        let algorithm_holds = report.signature_algo == ECDSA_P384_SHA384;
        self.compare("signature-algo", algorithm, report.signature_algo, algorithm_holds);
        match report.signature_padding() {
            None => self.compare("signature-reserved", padding, "zeros", true),
            Some(offset) => {
                self.compare("signature-reserved", padding, format!("another byte at {offset:#x}"), false);
            }
        }
    }

    fn report_signature(&mut self, report: Option<&Report>, given: &Given) {
        const NAME: &str = "report-signature";
        let expected = "a signature by the endorsement key";
        match (report, &given.vek) {
            (Some(report), Ok(_)) => {
                let signed = report
                    .signature()
                    .zip(given.key.as_ref())
                    .is_some_and(|(signature, key)| key.verify_sig(report.signed_bytes(), &signature).is_ok());
                let found = if signed { "it verifies" } else { "it does not verify: another key, or changed bytes" };
                self.compare(NAME, expected, found, signed);
            }
            (None, _) => self.cannot(NAME, expected, "the report cannot be read"),
            (_, Err(Absent::Missing(why) | Absent::Malformed(why))) => self.cannot(NAME, expected, why),
        }
    }

    fn vek_issuer(&mut self, given: &Given) {
        const NAME: &str = "vek-issuer";
        match (&given.vek, &given.ask) {
            (Ok(vek), Ok(ask)) => {
                let expected = format!("a certificate issued and signed by {}", vek.issuer_name());
                if !vek.names_issuer(ask) {
                    self.compare(NAME, expected, format!("the intermediate is {}", ask.subject_name()), false);
                } else if !given.vek_is_signed {
                    self.compare(NAME, expected, "the signature does not verify under that authority", false);
                } else {
                    self.compare(NAME, expected, "it verifies", true);
                }
            }
            (Err(Absent::Malformed(why)), _) | (_, Err(Absent::Malformed(why))) => {
                self.compare(NAME, "well-formed certificates", why, false);
            }
            (Err(Absent::Missing(why)), _) | (_, Err(Absent::Missing(why))) => {
                self.cannot(NAME, "a certificate signed by its issuer", why);
            }
        }
    }

    fn chain_to_anchor(&mut self, given: &Given, anchors: &Anchors) -> Option<Root> {
        const NAME: &str = "chain-to-anchor";
        let expected = "an intermediate signed by a self-signed root that is an anchor";
        let (ask, ark) = match (&given.ask, &given.ark) {
            (Ok(ask), Ok(ark)) => (ask, ark),
            (Err(Absent::Malformed(why)), _) | (_, Err(Absent::Malformed(why))) => {
                self.compare(NAME, expected, why, false);
                return None;
            }
            (Err(Absent::Missing(why)), _) => {
                self.cannot(NAME, expected, why);
                return None;
            }
            // Every root that could be trusted is known: one that is not among the anchors is refused, not waited for.
            (_, Err(Absent::Missing(why))) => {
                self.compare(NAME, expected, why, false);
                return None;
            }
        };
        let root = anchors.root(ark.der());
        let found = if !ask.names_issuer(ark) {
            format!("{} was issued by {}, the root is {}", ask.subject_name(), ask.issuer_name(), ark.subject_name())
        } else if !given.ask_is_signed {
            format!("the signature on {} does not verify under {}", ask.subject_name(), ark.subject_name())
        } else if !given.ark_is_self_signed {
            format!("{} is not self-signed", ark.subject_name())
        } else if root.is_none() {
            format!("{} is not an anchor", ark.subject_name())
        } else {
            self.compare(NAME, expected, ark.subject_name(), true);
            return root;
        };
        self.compare(NAME, expected, found, false);
        None
    }

    /// Gives the window in which all three are valid.
    fn validity(&mut self, given: &Given, at: u64) -> Option<(u64, u64)> {
        const NAME: &str = "cert-validity";
        let expected = format!("three certificates valid at {}", rfc3339(at));
        let (Ok(vek), Ok(ask), Ok(ark)) = (&given.vek, &given.ask, &given.ark) else {
            self.cannot(NAME, expected, "a certificate is missing");
            return None;
        };
        let all = [vek, ask, ark];
        let from = all.iter().map(|certificate| certificate.not_before()).max()?;
        let to = all.iter().map(|certificate| certificate.not_after()).min()?;
        match all.iter().find(|one| !one.is_valid_at(at)) {
            None => self.compare(NAME, expected, "they are", true),
            Some(one) => self.compare(NAME, expected, one.window_in_words(), false),
        }
        Some((from, to))
    }

    /// What binds the report to this certificate beyond its signature.
    fn binding(&mut self, report: Option<&Report>, vek: Option<&Result<Vek, CertError>>) {
        let expected = [
            ("signing-key", "the kind of key that the certificate is for"),
            ("tcb", "the TCB of the certificate"),
            ("chip-id", "the hwID of the certificate"),
            ("product", "a processor of the product line of the certificate"),
        ];
        let (report, vek) = match (report, vek) {
            (Some(report), Some(Ok(vek))) => (report, vek),
            (Some(_), Some(Err(error))) => {
                // The check that the malformed part was needed for is the one that fails.
                let culprit = match error {
                    CertError::Subject { .. } | CertError::Key => "signing-key",
                    CertError::Extension("hwID") => "chip-id",
                    _ => "tcb",
                };
                for (name, expected) in expected {
                    if name == culprit {
                        self.compare(name, expected, error, false);
                    } else {
                        self.cannot(name, expected, "the endorsement key's certificate is malformed");
                    }
                }
                return;
            }
            _ => {
                for (name, expected) in expected {
                    self.cannot(name, expected, "the report or the endorsement key's certificate cannot be read");
                }
                return;
            }
        };
        let by_asvk = vek.certificate.issuer_name().starts_with("SEV-VLEK-");
        let (kind, agrees) = match vek.kind {
            VekKind::Vcek => ("vcek", report.signing_key == SigningKey::Vcek && !by_asvk),
            VekKind::Vlek => ("vlek", report.signing_key == SigningKey::Vlek && by_asvk),
        };
        let found = format!("{}, under {}", report.signing_key.name(), vek.certificate.issuer_name());
        self.compare("signing-key", format!("{kind}, as the certificate says"), found, agrees);

        let cpu_agrees = report.cpuid.is_none() || report.reported_tcb.layout == vek.tcb.layout;
        let tcb_agrees = cpu_agrees && report.reported_tcb.raw == vek.tcb.raw;
        let found = hex::encode(report.reported_tcb.raw);
        let found = if cpu_agrees { found } else { format!("{found}, of another processor than {}", vek.product) };
        self.compare("tcb", hex::encode(vek.tcb.raw), found, tcb_agrees);

        match &vek.hw_id {
            Some(hw_id) => {
                let (id, rest) = report.chip_id.split_at(hw_id.len().min(report.chip_id.len()));
                let holds = id == hw_id && rest.iter().all(|&byte| byte == 0);
                self.compare("chip-id", hex::encode(hw_id), hex::encode(report.chip_id), holds);
            }
            None => self.add("chip-id", Outcome::NotChecked, "no chip id", "a VLEK belongs to no chip"),
        }
        self.product(report, &vek.certificate);
    }

    /// Milan and Genoa have one layout of the TCB, so `tcb` cannot tell them apart.
    fn product(&mut self, report: &Report, vek: &Certificate) {
        const NAME: &str = "product";
        let issuer = vek.issuer_name();
        let line = issuer.strip_prefix("SEV-VLEK-").or_else(|| issuer.strip_prefix("SEV-"));
        let line = builtin::AMD.iter().map(|authority| authority.product).find(|product| line == Some(product));
        match (line, report.cpuid) {
            (Some(line), Some(cpuid)) => {
                let found = cpuid.product_line();
                let shown = format!("{}: {cpuid}", found.unwrap_or("no known product line"));
                self.compare(NAME, format!("{line}, which {issuer} is for"), shown, found == Some(line));
            }
            (Some(line), None) => self.add(NAME, Outcome::NotChecked, line, "a report of version 2 names no processor"),
            (None, _) => {
                let why = format!("{issuer} is named after no product line");
                self.add(NAME, Outcome::NotChecked, "a processor of the issuer's product line", why);
            }
        }
    }

    fn content(&mut self, report: Option<&Report>) {
        let Some(report) = report else {
            self.cannot("reserved", "zeros in the reserved bytes", "the report cannot be read");
            self.cannot("vmpl", "0 to 3", "the report cannot be read");
            return;
        };
        if report.version_is_known() {
            let reserved = report.reserved_nonzero();
            let found = reserved.map_or("zeros".to_owned(), |offset| format!("another byte at {offset:#x}"));
            self.compare("reserved", "zeros in the reserved bytes", found, reserved.is_none());
        } else {
            self.cannot("reserved", "zeros in the reserved bytes", "the version's layout is not known");
        }
        self.compare("vmpl", "0 to 3", report.vmpl, report.vmpl <= LAST_VMPL);
    }
}

fn flags(report: Option<&Report>, root: Option<Root>) -> Vec<String> {
    let mut flags = Vec::new();
    if let Some(report) = report {
        if report.policy.debug() {
            flags.push("debug-policy".to_owned());
        }
        if report.policy.migrate_ma() {
            flags.push("migration-policy".to_owned());
        }
        if report.vmpl != 0 {
            flags.push(format!("vmpl-{}", report.vmpl));
        }
        if report.signing_key == SigningKey::Vlek {
            flags.push("vlek".to_owned());
        }
    }
    flags.extend(root.and_then(Root::flag).map(str::to_owned));
    flags
}
