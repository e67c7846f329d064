//! Is an item authentic, and is it the one that was asked for? Signatures and names here; dates are facts.

mod amd;
mod intel;

use belljar_evidence::time::rfc3339;
use belljar_evidence::{dcap, snp};

use crate::item::{Item, Product};
use crate::ladder::Facts;

/// The roots that items may lead to.
#[derive(Clone, Debug)]
pub struct Anchors {
    amd: snp::Anchors,
    intel: dcap::Anchors,
}

impl Anchors {
    /// The roots of the vendors that are compiled in.
    pub fn vendors() -> Self {
        Self { amd: snp::Anchors::amd(), intel: dcap::Anchors::intel() }
    }

    /// Trusts a root for tests, too; DER. It counts for the vendor whose profile it has (RSA: AMD, P-256: Intel).
    ///
    /// # Errors
    /// [`Refused::Malformed`] when it has neither.
    pub fn with_test_root(mut self, der: &[u8]) -> Result<Self, Refused> {
        if snp::Certificate::parse(der).is_ok() {
            self.amd = self.amd.with_test_root(der);
        } else if dcap::Certificate::parse(der).is_ok() {
            self.intel = self.intel.with_test_root(der);
        } else {
            return Err(Refused::Malformed {
                what: "anchor",
                why: "neither a root of AMD's profile nor one of Intel's".to_owned(),
            });
        }
        Ok(self)
    }
}

/// Why an item is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Its bytes cannot be read.
    #[error("{what} cannot be read: {why}")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No chain leads from its signer to an anchor.
    #[error("its signer does not lead to a trusted root: {0}")]
    Chain(String),
    /// The signature does not verify.
    #[error("its signature does not verify: {0}")]
    Signature(String),
    /// Authentic, but not what was asked for.
    #[error("it is not what was asked for: {claim} is {found}, expected {expected}")]
    Another {
        /// Which claim differs.
        claim: &'static str,
        /// What was asked for.
        expected: String,
        /// What it says.
        found: String,
    },
    /// Issued later than the time to judge at.
    #[error("it is issued at {}, later than {}: set this machine's clock", rfc3339(*issued), rfc3339(*at))]
    NotYet {
        /// When it was issued.
        issued: u64,
        /// The time to judge at.
        at: u64,
    },
    /// Past its next update, or its signer's certificates have ended.
    #[error("it is out of date since {}, now is {}: the service is behind, or replays", rfc3339(*since), rfc3339(*at))]
    Expired {
        /// Last second at which it was in date.
        since: u64,
        /// The time to judge at.
        at: u64,
    },
    /// Older than one that is known already.
    #[error(
        "it is older than the one that is known ({claim} {}, known is {}): the service is behind, or replays",
        of_claim(claim, *found),
        of_claim(claim, *known)
    )]
    Older {
        /// Which claim went back.
        claim: &'static str,
        /// The known one's.
        known: u64,
        /// What it says.
        found: u64,
    },
}

/// Verifies an item whatever its dates: signatures up to an anchor, and that it is the item. `chain` is PEM as the
/// service gives it beside the item, the signer first; items that are chains themselves have none.
///
/// Intel's documents do not say whether they are of the standard or the early line: that is taken from the address.
///
/// # Errors
/// [`Refused::Malformed`], [`Refused::Chain`], [`Refused::Signature`] or [`Refused::Another`].
pub fn verify(item: &Item, body: &[u8], chain: &[u8], anchors: &Anchors) -> Result<Facts, Refused> {
    match item {
        Item::Vcek { product, hwid, tcb } => amd::vcek(*product, hwid, *tcb, body, chain, &anchors.amd),
        Item::VekChain { product, kind } => amd::chain(*product, *kind, body, &anchors.amd),
        Item::VekCrl { product, .. } => amd::crl(*product, body, &anchors.amd),
        Item::TcbInfo { tee, fmspc, .. } => intel::tcb_info(*tee, *fmspc, body, chain, &anchors.intel),
        Item::QeIdentity { tee, .. } => intel::qe_identity(*tee, body, chain, &anchors.intel),
        Item::PckCrl(ca) => intel::pck_crl(*ca, body, chain, &anchors.intel),
        Item::RootCrl => intel::root_crl(body, &anchors.intel),
    }
}

/// The compiled-in chain for chips of a product line, PEM: it spares a request to the service.
pub fn builtin_chain(product: Product) -> Vec<u8> {
    amd::builtin(product)
}

/// Whose revocation list of AMD's it is, by the compiled-in root that signed it.
pub(crate) fn product_of_crl(body: &[u8]) -> Option<Product> {
    let list = snp::Crl::parse(body).ok()?;
    let signed = |authority: &&snp::builtin::Authority| {
        snp::Certificate::parse(authority.ark).is_ok_and(|ark| list.is_signed_by(&ark))
    };
    let name = snp::builtin::AMD.iter().find(signed)?.product;
    Product::ALL.into_iter().find(|product| product.name() == name)
}

/// What a service says must be in date, and not older than what it said before.
///
/// # Errors
/// [`Refused::NotYet`], [`Refused::Expired`] or [`Refused::Older`].
pub fn in_date(facts: &Facts, known: Option<&Facts>, at: u64) -> Result<(), Refused> {
    if at < facts.issued {
        return Err(Refused::NotYet { issued: facts.issued, at });
    }
    let since = facts.next_update.min(facts.expires);
    if at > since {
        return Err(Refused::Expired { since, at });
    }
    let Some(known) = known else { return Ok(()) };
    if let (Some(found), Some(known)) = (facts.evaluation_number, known.evaluation_number)
        && found < known
    {
        return Err(Refused::Older { claim: "evaluation number", known: known.into(), found: found.into() });
    }
    if facts.issued < known.issued {
        return Err(Refused::Older { claim: "issue date", known: known.issued, found: facts.issued });
    }
    Ok(())
}

/// The value of a claim that went back: a date as a date, a number as a number.
fn of_claim(claim: &str, value: u64) -> String {
    if claim == "issue date" { rfc3339(value) } else { value.to_string() }
}

fn same(claim: &'static str, expected: &str, found: &str) -> Result<(), Refused> {
    if expected == found {
        return Ok(());
    }
    Err(Refused::Another { claim, expected: expected.to_owned(), found: found.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Endorsement;
    use belljar_evidence::pem;

    /// ASK or ASVK with ARK, as the service gives them.
    fn chain(signer: &[u8], ark: &[u8]) -> Vec<u8> {
        [pem::encode(signer), pem::encode(ark)].concat().into_bytes()
    }

    #[test]
    fn amds_own_chains_verify_for_their_product_and_kind_alone() {
        let anchors = Anchors::vendors();
        for (product, authority) in Product::ALL.into_iter().zip(snp::builtin::AMD) {
            let (vcek, vlek) = (chain(authority.ask, authority.ark), chain(authority.asvk, authority.ark));
            for (kind, body, issuer) in [(Endorsement::Vcek, &vcek, "SEV"), (Endorsement::Vlek, &vlek, "SEV-VLEK")] {
                let item = Item::VekChain { product, kind };
                let facts = verify(&item, body, b"", &anchors).unwrap();
                assert_eq!((facts.root, facts.issuer), ("amd", format!("ARK-{}", product.name())));
                let other = if kind == Endorsement::Vcek { &vlek } else { &vcek };
                let Err(Refused::Another { claim: "authority", expected, .. }) = verify(&item, other, b"", &anchors)
                else {
                    panic!("{item}")
                };
                assert_eq!(expected, format!("{issuer}-{}", product.name()));
            }
        }
    }

    #[test]
    fn a_chain_is_two_certificates_of_which_the_second_signed_both() {
        let [milan, genoa, _] = snp::builtin::AMD;
        let item = Item::VekChain { product: Product::Milan, kind: Endorsement::Vcek };
        let verify = |body: &[u8]| verify(&item, body, b"", &Anchors::vendors());
        assert!(verify(&chain(milan.ask, milan.ark)).is_ok());
        let crossed = Refused::Chain("SEV-Milan is not signed by ARK-Genoa".to_owned());
        assert_eq!(verify(&chain(milan.ask, genoa.ark)), Err(crossed));
        let turned = Refused::Chain("SEV-Milan is not an anchor".to_owned());
        assert_eq!(verify(&chain(milan.ark, milan.ask)), Err(turned));
        let one = Refused::Malformed { what: "certificate chain", why: "it has 1 certificates, not 2".to_owned() };
        assert_eq!(verify(pem::encode(milan.ask).as_bytes()), Err(one));
        let long = vec![b' '; 65_537];
        assert!(matches!(verify(&long), Err(Refused::Malformed { what: "certificate chain", .. })));
    }

    #[test]
    fn times_are_told_as_people_write_them() {
        let expired = Refused::Expired { since: 1_700_000_000, at: u64::MAX };
        let words = "it is out of date since 2023-11-14T22:13:20Z, now is 18446744073709551615";
        assert!(expired.to_string().starts_with(words), "{expired}");
        let older = |claim| Refused::Older { claim, known: 1_700_000_000, found: 17 }.to_string();
        assert!(older("issue date").contains("issue date 1970-01-01T00:00:17Z, known is 2023-11-14T22:13:20Z"));
        assert!(older("evaluation number").contains("evaluation number 17, known is 1700000000"));
    }

    #[test]
    fn an_anchor_is_of_one_of_the_two_profiles() {
        assert!(Anchors::vendors().with_test_root(snp::builtin::AMD[0].ark).is_ok());
        assert!(Anchors::vendors().with_test_root(dcap::INTEL_ROOT).is_ok());
        let refused = Anchors::vendors().with_test_root(b"x").unwrap_err();
        assert!(matches!(refused, Refused::Malformed { what: "anchor", .. }));
    }
}
