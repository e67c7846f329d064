//! Certificates and revocation lists.

use belljar_testpki::NOW;
use belljar_testpki::intel::{Algorithm, Cert, List, extension};
use x509_cert::ext::pkix::KeyUsages;

use crate::{Base, Case, Change};

const TDX: Base = Base::Tdx4;
const SGX: Base = Base::Sgx3;

pub const CASES: &[Case] = &[
    // Time. Of several things that have run out, the first in the order of checks decides.
    ("pck_expired", TDX, Change::World(|w| w.pck.to = NOW - 1), "pck-time"),
    ("pck_not_yet", TDX, Change::World(|w| w.pck.from = NOW + 1), "pck-time"),
    ("ca_expired", TDX, Change::World(|w| w.ca.to = NOW - 1), "pck-time"),
    ("ca_not_yet", SGX, Change::World(|w| w.ca.from = NOW + 1), "pck-time"),
    ("root_expired", TDX, Change::World(|w| w.root.to = NOW - 1), "pck-time"),
    ("tcb_signer_expired", TDX, Change::World(|w| w.tcb_signer.to = NOW - 1), "tcb-info-time"),
    ("tcb_signer_not_yet", TDX, Change::World(|w| w.tcb_signer.from = NOW + 1), "tcb-info-time"),
    (
        "qe_signer_expired",
        TDX,
        Change::World(|w| w.qe_signer = Some(Cert { to: NOW - 1, ..w.tcb_signer.clone() })),
        "qe-identity-time",
    ),
    ("everything_a_year_later", TDX, Change::At(NOW + 31_536_000), "pck-time"),
    ("everything_a_year_earlier", SGX, Change::At(NOW - 31_536_000), "pck-time"),
    // Chains.
    ("pck_signed_by_another_key", TDX, Change::World(|w| w.pck.signer = w.keys.other.clone()), "pck-chain"),
    ("pck_of_another_issuer", TDX, Change::World(|w| w.pck.issuer = "Intel SGX PCK Processor CA".into()), "pck-chain"),
    ("ca_signed_by_another_key", SGX, Change::World(|w| w.ca.signer = w.keys.other.clone()), "pck-chain"),
    ("ca_of_another_root", TDX, Change::World(|w| w.ca.issuer = "Another Root CA".into()), "pck-chain"),
    ("ca_is_no_authority", TDX, Change::World(|w| w.ca.constraints = Some((false, None))), "pck-chain"),
    ("ca_without_constraints", TDX, Change::World(|w| w.ca.constraints = None), "pck-chain"),
    (
        "ca_may_not_sign_certificates",
        TDX,
        Change::World(|w| w.ca.usages = Some(KeyUsages::CRLSign.into())),
        "pck-chain",
    ),
    ("root_is_no_authority", TDX, Change::World(|w| w.root.constraints = Some((false, None))), "pck-chain"),
    ("path_of_the_root_too_short", TDX, Change::World(|w| w.root.constraints = Some((true, Some(0)))), "pck-chain"),
    ("pck_with_another_name", TDX, Change::World(|w| w.pck.subject = "Intel SGX TCB Signing".into()), "pck-chain"),
    ("unknown_critical_extension", TDX, Change::World(|w| w.pck.extensions.push(critical())), "parse"),
    ("unknown_critical_extension_of_the_ca", TDX, Change::World(|w| w.ca.extensions.push(critical())), "parse"),
    ("extension_twice", TDX, Change::World(|w| w.pck.extensions.extend([number("1.2.3"), number("1.2.3")])), "parse"),
    ("pck_without_the_sgx_extension", TDX, Change::World(|w| w.sgx = None), "pck-extension"),
    ("pck_of_another_algorithm", TDX, Change::World(|w| w.pck.algorithm = Algorithm::EcdsaSha384), "parse"),
    ("pck_of_two_algorithms", TDX, Change::World(|w| w.pck.algorithm = Algorithm::Lie), "parse"),
    ("another_root_of_the_same_name", TDX, Change::Made(|m| m.root = World::tdx4(5).make().root), "pck-chain"),
    (
        "chain_without_its_authority",
        TDX,
        Change::World(|w| {
            w.ca = Cert { subject: "Nobody".into(), ..w.ca.clone() };
        }),
        "pck-chain",
    ),
    // The authority's list.
    ("pck_revoked", TDX, Change::World(|w| w.pck_crl.serials.push(3)), "pck-revoked"),
    (
        "pck_crl_signed_by_another_key",
        TDX,
        Change::World(|w| w.pck_crl.signer = w.keys.other.clone()),
        "pck-crl-signature",
    ),
    ("pck_crl_of_the_root", TDX, Change::World(|w| w.pck_crl = List { ..w.root_crl.clone() }), "pck-crl-signature"),
    ("pck_crl_expired", TDX, Change::World(|w| w.pck_crl.to = Some(NOW - 1)), "pck-crl-time"),
    ("pck_crl_not_yet", SGX, Change::World(|w| w.pck_crl.from = NOW + 1), "pck-crl-time"),
    ("pck_crl_without_next_update", TDX, Change::World(|w| w.pck_crl.to = None), "pck-crl-signature"),
    (
        "pck_crl_is_a_delta",
        TDX,
        Change::World(|w| w.pck_crl.extensions.push(extension("2.5.29.27", true, vec![2, 1, 1]))),
        "pck-crl-signature",
    ),
    (
        "pck_crl_with_critical_entry",
        TDX,
        Change::World(|w| w.pck_crl.entry_extensions.push(critical())),
        "pck-crl-signature",
    ),
    (
        "pck_crl_of_another_algorithm",
        TDX,
        Change::World(|w| w.pck_crl.algorithm = Algorithm::EcdsaSha384),
        "pck-crl-signature",
    ),
    (
        "ca_may_not_sign_lists",
        TDX,
        Change::World(|w| w.ca.usages = Some(KeyUsages::KeyCertSign.into())),
        "pck-crl-signature",
    ),
    // The root's list.
    ("ca_revoked", TDX, Change::World(|w| w.root_crl.serials.push(2)), "ca-revoked"),
    ("tcb_signer_revoked", TDX, Change::World(|w| w.root_crl.serials.push(4)), "ca-revoked"),
    (
        "qe_signer_revoked",
        SGX,
        Change::World(|w| {
            w.qe_signer = Some(Cert { serial: 5, ..w.tcb_signer.clone() });
            w.root_crl.serials.push(5);
        }),
        "ca-revoked",
    ),
    (
        "root_crl_signed_by_another_key",
        TDX,
        Change::World(|w| w.root_crl.signer = w.keys.other.clone()),
        "root-crl-signature",
    ),
    ("root_crl_of_the_ca", TDX, Change::World(|w| w.root_crl = w.pck_crl.clone()), "root-crl-signature"),
    ("root_crl_expired", SGX, Change::World(|w| w.root_crl.to = Some(NOW - 1)), "root-crl-time"),
    ("root_crl_not_yet", TDX, Change::World(|w| w.root_crl.from = NOW + 1), "root-crl-time"),
    // Signers of documents.
    (
        "tcb_signer_with_another_name",
        TDX,
        Change::World(|w| w.tcb_signer.subject = "Intel SGX PCK Certificate".into()),
        "tcb-info-signature",
    ),
    (
        "tcb_signer_signed_by_another_key",
        TDX,
        Change::World(|w| w.tcb_signer.signer = w.keys.other.clone()),
        "tcb-info-signature",
    ),
    (
        "tcb_signer_below_the_pck_authority",
        TDX,
        Change::World(|w| {
            w.tcb_signer.issuer = w.ca.subject.clone();
            w.tcb_signer.signer = w.keys.ca.clone();
        }),
        "tcb-info-signature",
    ),
    (
        "qe_signer_with_another_name",
        TDX,
        Change::World(|w| w.qe_signer = Some(Cert { subject: "Somebody".into(), ..w.tcb_signer.clone() })),
        "qe-identity-signature",
    ),
];

use belljar_testpki::intel::World;

fn critical() -> x509_cert::ext::Extension {
    extension("1.2.3.4", true, vec![5, 0])
}

fn number(oid: &str) -> x509_cert::ext::Extension {
    extension(oid, false, vec![2, 1, 1])
}
