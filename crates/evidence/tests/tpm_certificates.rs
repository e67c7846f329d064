//! Certificate chains of a TPM's keys: one that is taken, and each case that differs from it in one thing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use belljar_evidence::tpm::certificate::{CertificateError, MAX_CERTIFICATES, Purpose, Refused, verify};
use belljar_evidence::tpm::credential::{self, CredentialError};
use belljar_evidence::tpm::{KeyError, PublicKey};
use belljar_testpki::NOW;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PKCS_RSA_SHA384, PKCS_RSA_SHA512,
    RsaKeySize, SignatureAlgorithm, date_time_ymd,
};

/// Root, intermediate and leaf: what their certificates say, and their keys.
struct World {
    params: [CertificateParams; 3],
    keys: [KeyPair; 3],
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

fn authority(name: &str, length: u8) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn purpose(last: u64) -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, last])
}

fn extension(oid: &[u64], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

fn pair(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    if algorithm.is_rsa() {
        KeyPair::generate_rsa_for(algorithm, RsaKeySize::_2048).unwrap()
    } else {
        KeyPair::generate_for(algorithm).unwrap()
    }
}

trait IsRsa {
    fn is_rsa(&self) -> bool;
}

impl IsRsa for SignatureAlgorithm {
    fn is_rsa(&self) -> bool {
        [&PKCS_RSA_SHA256, &PKCS_RSA_SHA384, &PKCS_RSA_SHA512].into_iter().any(|rsa| self == rsa)
    }
}

impl World {
    fn new(algorithms: [&'static SignatureAlgorithm; 3]) -> Self {
        let mut leaf = named("attestation key");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![purpose(3)];
        Self { params: [authority("root", 1), authority("intermediate", 0), leaf], keys: algorithms.map(pair) }
    }

    /// An attestation key under two authorities, all on P-256.
    fn small() -> Self {
        Self::new([&PKCS_ECDSA_P256_SHA256; 3])
    }

    /// The certificates: root, intermediate, leaf.
    fn issue(&self) -> [Vec<u8>; 3] {
        let ([root, intermediate, leaf], [root_key, intermediate_key, leaf_key]) = (&self.params, &self.keys);
        let by_root = Issuer::from_params(root, root_key);
        let by_intermediate = Issuer::from_params(intermediate, intermediate_key);
        [
            root.self_signed(root_key).unwrap().der().to_vec(),
            intermediate.signed_by(intermediate_key, &by_root).unwrap().der().to_vec(),
            leaf.signed_by(leaf_key, &by_intermediate).unwrap().der().to_vec(),
        ]
    }

    fn key(&self) -> PublicKey {
        PublicKey::from_spki(self.keys[2].public_key_pem().as_bytes()).unwrap()
    }
}

fn judge(certificates: &[Vec<u8>; 3]) -> Result<PublicKey, CertificateError> {
    let [root, intermediate, leaf] = certificates.clone();
    verify(&[leaf, intermediate], &[root], Purpose::AttestationKey, NOW)
}

#[test]
fn chains_of_each_algorithm_give_the_leafs_key() {
    let all = [
        [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P256_SHA256],
        [&PKCS_RSA_SHA256, &PKCS_RSA_SHA384, &PKCS_RSA_SHA256],
        [&PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256, &PKCS_ECDSA_P384_SHA384],
    ];
    for algorithms in all {
        let world = World::new(algorithms);
        assert_eq!(judge(&world.issue()), Ok(world.key()));
    }
    // SHA-512 is not among what is taken.
    let error = judge(&World::new([&PKCS_RSA_SHA512, &PKCS_RSA_SHA256, &PKCS_RSA_SHA256]).issue()).unwrap_err();
    assert_eq!(error, CertificateError::Algorithm("1.2.840.113549.1.1.13".to_owned()));
}

#[test]
fn chains_may_hold_the_anchor_or_end_below_it() {
    let world = World::small();
    let [root, intermediate, leaf] = world.issue();
    let other = World::small().issue();
    let judge = |chain: &[&Vec<u8>], anchors: &[&Vec<u8>]| {
        let owned = |list: &[&Vec<u8>]| list.iter().map(|der| (*der).clone()).collect::<Vec<_>>();
        verify(&owned(chain), &owned(anchors), Purpose::AttestationKey, NOW)
    };
    for (chain, anchors) in [
        (vec![&leaf, &intermediate], vec![&root]),
        (vec![&leaf, &intermediate], vec![&other[0], &root]),
        (vec![&leaf, &intermediate, &root], vec![&root]),
        (vec![&leaf], vec![&intermediate]),
        (vec![&leaf, &intermediate], vec![&intermediate]),
        (vec![&leaf], vec![&leaf]),
    ] {
        assert_eq!(judge(&chain, &anchors), Ok(world.key()));
    }
    // The same names, another key.
    assert_eq!(judge(&[&leaf, &intermediate], &[&other[0]]), Err(CertificateError::Anchor));
    assert_eq!(judge(&[&leaf, &intermediate, &root], &[&other[0]]), Err(CertificateError::Anchor));
    assert_eq!(judge(&[&leaf], &[&root]), Err(CertificateError::Anchor));
    let issuer = |number, why| Err(CertificateError::Issuer(number, why));
    assert_eq!(judge(&[&leaf, &other[1]], &[&other[0]]), issuer(1, Refused::Signature));
    assert_eq!(judge(&[&leaf, &root], &[&root]), issuer(1, Refused::Name));
    assert_eq!(judge(&[&leaf, &intermediate, &other[0]], &[&other[0]]), issuer(2, Refused::Signature));
    // Too few and too many.
    assert_eq!(judge(&[&leaf], &[]), Err(CertificateError::Count(1, 0)));
    assert_eq!(judge(&[], &[&root]), Err(CertificateError::Count(0, 1)));
    let many = vec![&root; MAX_CERTIFICATES + 1];
    assert_eq!(judge(&many, &[&root]), Err(CertificateError::Count(MAX_CERTIFICATES + 1, 1)));
    assert_eq!(judge(&[&leaf, &intermediate], &many), Err(CertificateError::Count(2, MAX_CERTIFICATES + 1)));
}

/// A change that does no harm: what, of which certificate, how.
type Change = (&'static str, usize, fn(&mut CertificateParams));
/// What is changed, which certificate (0 the root, 1 the intermediate, 2 the leaf), how, and what is said of it.
type Case = (&'static str, usize, fn(&mut CertificateParams), CertificateError);

#[test]
fn each_rule_of_a_chain_refuses_alone() {
    let critical = |oid: &str| CertificateError::Critical(oid.to_owned());
    let of_key = || CertificateError::Purpose("an attestation key of a TPM");
    // 2025-01-01, 2026-01-01, 2027-01-01, 2028-01-01 in seconds.
    let (y2025, y2026, y2027, y2028) = (1_735_689_600, 1_767_225_600, 1_798_761_600, 1_830_297_600);
    let early = || CertificateError::Window { from: y2027, to: y2028, at: NOW };
    let late = || CertificateError::Window { from: y2025, to: y2026, at: NOW };
    let expire: fn(&mut CertificateParams) = |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2026, 1, 1));
    };
    let postpone: fn(&mut CertificateParams) = |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2027, 1, 1), date_time_ymd(2028, 1, 1));
    };
    let cases: Vec<Case> = vec![
        ("expired leaf", 2, expire, late()),
        ("expired intermediate", 1, expire, late()),
        ("expired root", 0, expire, late()),
        ("leaf of the future", 2, postpone, early()),
        ("root of the future", 0, postpone, early()),
        ("no purpose", 2, |leaf| leaf.extended_key_usages.clear(), of_key()),
        ("purpose of an endorsement key", 2, |leaf| leaf.extended_key_usages = vec![purpose(1)], of_key()),
        (
            "any purpose is no purpose",
            2,
            |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            of_key(),
        ),
        ("no signatures", 2, |leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment], of_key()),
        ("leaf that is an authority", 2, |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)), of_key()),
        (
            "intermediate that is no authority",
            1,
            |params| params.is_ca = IsCa::ExplicitNoCa,
            CertificateError::Issuer(1, Refused::Authority),
        ),
        (
            "intermediate without basic constraints",
            1,
            |params| params.is_ca = IsCa::NoCa,
            CertificateError::Issuer(1, Refused::Authority),
        ),
        (
            "intermediate that signs no certificates",
            1,
            |params| params.key_usages = vec![KeyUsagePurpose::CrlSign],
            CertificateError::Issuer(1, Refused::Authority),
        ),
        (
            "intermediate for endorsement keys alone",
            1,
            |params| params.extended_key_usages = vec![purpose(1)],
            CertificateError::Issuer(1, Refused::Purpose),
        ),
        ("root that is no authority", 0, |params| params.is_ca = IsCa::ExplicitNoCa, CertificateError::Anchor),
        (
            "root without room for an authority below it",
            0,
            |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            CertificateError::Anchor,
        ),
        (
            "unknown critical extension of the leaf",
            2,
            |params| params.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 9], true)),
            critical("1.3.6.1.4.1.9"),
        ),
        (
            "unknown critical extension of the root",
            0,
            |params| params.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 9], true)),
            critical("1.3.6.1.4.1.9"),
        ),
        (
            "constraint on names, though not critical",
            1,
            |params| params.custom_extensions.push(extension(&[2, 5, 29, 30], false)),
            critical("2.5.29.30"),
        ),
        (
            "an extension twice",
            2,
            |params| {
                params.custom_extensions =
                    vec![extension(&[1, 3, 6, 1, 4, 1, 9], false), extension(&[1, 3, 6, 1, 4, 1, 9], false)];
            },
            CertificateError::Twice("1.3.6.1.4.1.9".to_owned()),
        ),
    ];
    let mut world = World::small();
    assert_eq!(judge(&world.issue()), Ok(world.key()), "the twin of all");
    for (what, number, change, expected) in cases {
        let before = world.params[number].clone();
        change(&mut world.params[number]);
        assert_eq!(judge(&world.issue()), Err(expected), "{what}");
        world.params[number] = before;
    }
    // What may be changed.
    let harmless: [Change; 6] = [
        ("no key usage", 2, |params| params.key_usages.clear()),
        ("another purpose besides", 2, |params| params.extended_key_usages.push(purpose(1))),
        ("an intermediate for attestation keys", 1, |params| params.extended_key_usages = vec![purpose(3)]),
        ("for any purpose", 1, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
        ("no limit", 0, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("an unknown extension that is not critical", 2, |params| {
            params.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 9], false));
        }),
    ];
    for (what, number, change) in harmless {
        let before = world.params[number].clone();
        change(&mut world.params[number]);
        assert_eq!(judge(&world.issue()), Ok(world.key()), "{what}");
        world.params[number] = before;
    }
}

#[test]
fn an_endorsement_key_has_its_own_purpose_and_usage() {
    let mut world = World::small();
    world.params[2].extended_key_usages = vec![purpose(1)];
    let refused = Err(CertificateError::Purpose("an endorsement key of a TPM"));
    for (usage, expected) in [
        (KeyUsagePurpose::KeyEncipherment, Ok(world.key())),
        (KeyUsagePurpose::KeyAgreement, Ok(world.key())),
        (KeyUsagePurpose::DigitalSignature, refused.clone()),
    ] {
        world.params[2].key_usages = vec![usage];
        let [root, intermediate, leaf] = world.issue();
        assert_eq!(verify(&[leaf, intermediate], &[root], Purpose::EndorsementKey, NOW), expected, "{usage:?}");
    }
    world.params[2].key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    world.params[2].extended_key_usages = vec![purpose(3)];
    let [root, intermediate, leaf] = world.issue();
    assert_eq!(verify(&[leaf, intermediate], &[root], Purpose::EndorsementKey, NOW), refused);
}

#[test]
fn the_first_and_the_last_second_are_inside() {
    let world = World::small();
    let [root, intermediate, leaf] = world.issue();
    let (from, to) = (1_767_225_600, 1_798_761_600);
    let at =
        |at| verify(&[leaf.clone(), intermediate.clone()], std::slice::from_ref(&root), Purpose::AttestationKey, at);
    assert_eq!((at(from), at(to)), (Ok(world.key()), Ok(world.key())));
    for outside in [from - 1, to + 1] {
        assert_eq!(at(outside), Err(CertificateError::Window { from, to, at: outside }));
    }
}

#[test]
fn changed_bytes_are_refused() {
    let world = World::small();
    let good = world.issue();
    assert_eq!(judge(&good), Ok(world.key()));
    for certificate in [1, 2] {
        for position in 0..good[certificate].len() {
            let mut changed = good.clone();
            changed[certificate][position] ^= 1;
            assert!(judge(&changed).is_err(), "byte {position} of certificate {certificate}");
        }
    }
    let mut longer = good.clone();
    longer[2].push(0);
    assert!(matches!(judge(&longer), Err(CertificateError::Der(_))));
    longer[2] = vec![0; 16 * 1024 + 1];
    assert_eq!(judge(&longer), Err(CertificateError::Length(16 * 1024 + 1)));
}

#[test]
fn keys_on_other_curves_are_refused() {
    let mut world = World::small();
    world.keys[2] = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(judge(&world.issue()), Err(CertificateError::Key(KeyError::Algorithm)));
}

#[test]
fn credentials_are_for_endorsement_keys_of_the_default_template() {
    let key = |pair: KeyPair| PublicKey::from_spki(pair.public_key_pem().as_bytes()).unwrap();
    let rsa = |size| key(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size).unwrap());
    let small = rsa(RsaKeySize::_2048);
    let make = |ek: &PublicKey, secret: usize| credential::make(ek, &[0; 34], &vec![1; secret], &[2; 32]).map(|_| ());
    assert_eq!((make(&small, 1), make(&small, 32)), (Ok(()), Ok(())));
    assert_eq!(make(&small, 0), Err(CredentialError::Secret(0)));
    assert_eq!(make(&small, 33), Err(CredentialError::Secret(33)));
    assert_eq!(make(&rsa(RsaKeySize::_3072), 32), Err(CredentialError::Key));
    assert_eq!(make(&key(pair(&PKCS_ECDSA_P256_SHA256)), 32), Err(CredentialError::Key));
}
