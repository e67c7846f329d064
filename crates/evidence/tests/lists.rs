//! AMD's revocation lists: each case changes one thing of a list that is good.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use belljar_evidence::CrlError;
use belljar_evidence::snp::{Certificate, Crl};
use belljar_testpki::amd::{Cert, Keys, List, NOW, Padding, extension};
use x509_cert::der::Encode;
use x509_cert::ext::pkix::KeyUsages;

fn root(keys: &Keys, usages: impl Into<x509_cert::der::flagset::FlagSet<KeyUsages>>) -> Certificate {
    let mut root = Cert::authority("ARK-Milan", "ARK-Milan", &keys.ark);
    root.constrain(true, usages.into());
    Certificate::parse(&root.sign(&keys.ark)).unwrap()
}

#[test]
fn a_list_is_read_and_names_what_it_revokes() {
    let keys = Keys::new(1);
    let ark = root(&keys, KeyUsages::KeyCertSign | KeyUsages::CRLSign);
    let ask = Certificate::parse(&Cert::authority("SEV-Milan", "ARK-Milan", &keys.ask).sign(&keys.ark)).unwrap();
    let other = Certificate::parse(&Cert::authority("SEV-Milan", "ARK-Genoa", &keys.ask).sign(&keys.ark)).unwrap();
    for padding in [Padding::Long, Padding::Short] {
        let number = extension("2.5.29.20", false, 7_u8.to_der().unwrap());
        let reason = extension("2.5.29.21", false, vec![0x0A, 1, 1]);
        let list = List {
            serials: vec![9, 1, 5],
            extensions: vec![number],
            entry_extensions: vec![reason],
            padding,
            ..List::new("ARK-Milan")
        };
        let crl = Crl::parse(&list.sign(&keys.ark)).unwrap();
        assert!(crl.is_signed_by(&ark));
        assert_eq!((crl.this_update(), crl.next_update(), crl.len()), (NOW - 500, NOW + 500, 3));
        assert!(crl.revokes(&ask) && !crl.revokes(&other));
        let without = Crl::parse(&List { serials: vec![9, 5], ..list }.sign(&keys.ark)).unwrap();
        assert!(!without.revokes(&ask) && !without.is_empty());
    }
    assert!(Crl::parse(&List::new("ARK-Milan").sign(&keys.ark)).unwrap().is_empty());
}

#[test]
fn only_an_authority_for_lists_signs_them() {
    let keys = Keys::new(1);
    let ark = root(&keys, KeyUsages::KeyCertSign | KeyUsages::CRLSign);
    let signed = |list: List, key| Crl::parse(&list.sign(key)).unwrap();
    assert!(signed(List::new("ARK-Milan"), &keys.ark).is_signed_by(&ark));
    assert!(!signed(List::new("ARK-Milan"), &keys.ask).is_signed_by(&ark));
    assert!(!signed(List::new("ARK-Genoa"), &keys.ark).is_signed_by(&ark));
    assert!(!signed(List::new("ARK-Milan"), &keys.ark).is_signed_by(&root(&keys, KeyUsages::KeyCertSign)));
    assert!(!signed(List { padding: Padding::Lie, ..List::new("ARK-Milan") }, &keys.ark).is_signed_by(&ark));
    let mut changed = List { serials: vec![1], ..List::new("ARK-Milan") }.sign(&keys.ark);
    // The serial number is the one that a time (UTCTime) follows.
    let at = changed.windows(4).position(|bytes| bytes == [2, 1, 1, 0x17]).unwrap() + 2;
    changed[at] = 2;
    assert!(!Crl::parse(&changed).unwrap().is_signed_by(&ark));
}

#[test]
fn what_is_not_a_full_list_is_refused() {
    let keys = Keys::new(1);
    let good = List { serials: vec![1], ..List::new("ARK-Milan") };
    let parse = |list: &List| Crl::parse(&list.sign(&keys.ark)).map(|_| ());
    assert_eq!(parse(&good), Ok(()));
    assert_eq!(parse(&List { to: None, ..good.clone() }), Err(CrlError::NextUpdate));
    assert_eq!(parse(&List { padding: Padding::Sha256, ..good.clone() }), Err(CrlError::Algorithm));
    let delta = extension("2.5.29.27", true, vec![2, 1, 1]);
    let critical = |oid: &str| Err(CrlError::Critical(oid.to_owned()));
    assert_eq!(parse(&List { extensions: vec![delta], ..good.clone() }), critical("2.5.29.27"));
    let issuer = extension("2.5.29.29", true, vec![0x30, 0]);
    assert_eq!(parse(&List { entry_extensions: vec![issuer], ..good.clone() }), critical("2.5.29.29"));
    let mut bytes = good.sign(&keys.ark);
    bytes.push(0);
    assert!(matches!(Crl::parse(&bytes), Err(CrlError::Der(_))));
    let long = vec![0x30; 4 * 1024 * 1024 + 1];
    assert_eq!(Crl::parse(&long), Err(CrlError::Length { found: long.len() }));
}
