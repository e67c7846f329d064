//! Certificates of AMD's key distribution service.

use belljar_evidence::pem;
use belljar_evidence::snp::{Anchors, Certificate, Crl, Root, Vek, VekKind, builtin};

use super::{Refused, same};
use crate::item::{Endorsement, Product};
use crate::ladder::Facts;

/// Longest chain, in bytes; AMD's have 4800.
const MAX_CHAIN: usize = 64 * 1024;

/// An authority for endorsement keys with its root.
struct Authority {
    signer: Certificate,
    ark: Certificate,
    root: &'static str,
}

impl Authority {
    /// Reads ASK or ASVK, then ARK, and follows them to an anchor.
    fn read(product: Product, kind: Endorsement, text: &[u8], anchors: &Anchors) -> Result<Self, Refused> {
        let malformed = |why: String| Refused::Malformed { what: "certificate chain", why };
        if text.len() > MAX_CHAIN {
            return Err(malformed(format!("it has {} bytes, more than {MAX_CHAIN}", text.len())));
        }
        let certificates = pem::certificates(text, 2).map_err(|error| malformed(error.to_string()))?;
        let [signer, ark] = certificates.as_slice() else {
            return Err(malformed(format!("it has {} certificates, not 2", certificates.len())));
        };
        let parse = |der: &[u8]| Certificate::parse(der).map_err(|error| malformed(error.to_string()));
        let (signer, ark) = (parse(signer)?, parse(ark)?);
        let root = anchors
            .root(ark.der())
            .map(root_name)
            .ok_or_else(|| Refused::Chain(format!("{} is not an anchor", ark.subject_name())))?;
        if !ark.names_issuer(&ark) || !ark.is_signed_by(&ark) {
            return Err(Refused::Chain(format!("{} is not self-signed", ark.subject_name())));
        }
        if !signer.names_issuer(&ark) || !signer.is_signed_by(&ark) {
            return Err(Refused::Chain(format!("{} is not signed by {}", signer.subject_name(), ark.subject_name())));
        }
        let prefix = match kind {
            Endorsement::Vcek => "SEV-",
            Endorsement::Vlek => "SEV-VLEK-",
        };
        same("authority", &format!("{prefix}{}", product.name()), signer.subject_name())?;
        Ok(Self { signer, ark, root })
    }

    fn issued(&self) -> u64 {
        self.signer.not_before().max(self.ark.not_before())
    }

    fn expires(&self) -> u64 {
        self.signer.not_after().min(self.ark.not_after())
    }
}

pub(super) fn chain(product: Product, kind: Endorsement, body: &[u8], anchors: &Anchors) -> Result<Facts, Refused> {
    let authority = Authority::read(product, kind, body, anchors)?;
    Ok(Facts {
        issuer: authority.ark.subject_name().to_owned(),
        root: authority.root,
        issued: authority.issued(),
        next_update: authority.expires(),
        expires: authority.expires(),
        evaluation_number: None,
    })
}

pub(super) fn vcek(
    product: Product,
    hwid: &[u8],
    tcb: [u8; 8],
    body: &[u8],
    chain: &[u8],
    anchors: &Anchors,
) -> Result<Facts, Refused> {
    let authority = Authority::read(product, Endorsement::Vcek, chain, anchors)?;
    let malformed =
        |error: belljar_evidence::snp::CertError| Refused::Malformed { what: "certificate", why: error.to_string() };
    let certificate = Certificate::parse(body).map_err(malformed)?;
    if !certificate.names_issuer(&authority.signer) {
        return Err(Refused::Chain(format!(
            "it is issued by {}, the authority is {}",
            certificate.issuer_name(),
            authority.signer.subject_name()
        )));
    }
    if !certificate.is_signed_by(&authority.signer) {
        return Err(Refused::Signature(format!("{} did not sign it", authority.signer.subject_name())));
    }
    let vek = Vek::new(certificate).map_err(malformed)?;
    let kind = match vek.kind {
        VekKind::Vcek => "vcek",
        VekKind::Vlek => "vlek",
    };
    same("kind", "vcek", kind)?;
    if vek.tcb.layout != product.layout() {
        return Err(Refused::Another {
            claim: "product",
            expected: product.name().to_owned(),
            found: vek.product.clone(),
        });
    }
    same("hwid", &hex::encode(hwid), &hex::encode(vek.hw_id.as_deref().unwrap_or_default()))?;
    same("tcb", &hex::encode(tcb), &hex::encode(vek.tcb.raw))?;
    let last = vek.certificate.not_after().min(authority.expires());
    Ok(Facts {
        issuer: authority.signer.subject_name().to_owned(),
        root: authority.root,
        issued: vek.certificate.not_before().max(authority.issued()),
        next_update: last,
        expires: last,
        evaluation_number: None,
    })
}

pub(super) fn crl(product: Product, body: &[u8], anchors: &Anchors) -> Result<Facts, Refused> {
    let list =
        Crl::parse(body).map_err(|error| Refused::Malformed { what: "revocation list", why: error.to_string() })?;
    let (ark, root) = anchors
        .certificates()
        .find(|(anchor, _)| list.is_signed_by(anchor))
        .ok_or_else(|| Refused::Signature("no trusted root signed it".to_owned()))?;
    same("authority", &format!("ARK-{}", product.name()), ark.subject_name())?;
    Ok(Facts {
        issuer: ark.subject_name().to_owned(),
        root: root_name(root),
        issued: list.this_update(),
        next_update: list.next_update(),
        expires: ark.not_after(),
        evaluation_number: None,
    })
}

fn root_name(root: Root) -> &'static str {
    if root.is_software() { "test" } else { "amd" }
}

pub(super) fn builtin(product: Product) -> Vec<u8> {
    let known = builtin::AMD.iter().find(|authority| authority.product == product.name());
    known.map(|known| [pem::encode(known.ask), pem::encode(known.ark)].concat().into_bytes()).unwrap_or_default()
}
