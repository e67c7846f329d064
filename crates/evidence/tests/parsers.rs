//! Parsers of untrusted bytes: no panic, exact errors, nothing left over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use belljar_evidence::snp::{
    Anchors, CertError, CertKind, CertTable, CertTableError, Certificate, Chain, Crl, ID_AUTH_LEN, IdAuth, IdBlock,
    Options, REPORT_LEN, Report, ReportError, Vek, builtin, verify,
};
use belljar_testpki::amd::{self, Keys, Product};
use proptest::prelude::*;
use std::sync::LazyLock;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(3));

#[test]
fn a_report_has_one_length_and_a_known_version() {
    let mut bytes = [0; REPORT_LEN];
    for version in 2..=5 {
        bytes[0] = version;
        assert_eq!(Report::parse(&bytes).unwrap().version, u32::from(version));
    }
    for found in [1, 6] {
        bytes[0] = found;
        assert_eq!(Report::parse(&bytes), Err(ReportError::Version { found: u32::from(found) }));
        assert_eq!(Report::read(&bytes).unwrap().version, u32::from(found));
    }
    bytes[0] = 2;
    let found = REPORT_LEN - 1;
    assert_eq!(Report::parse(&bytes[1..]), Err(ReportError::Length { found }));
    let long = [&bytes[..], &[0]].concat();
    assert_eq!(Report::parse(&long), Err(ReportError::Length { found: REPORT_LEN + 1 }));
}

#[test]
fn a_certificate_table_reads_as_it_was_written() {
    let table = CertTable::new([
        (CertKind::Vcek, vec![1; 10]),
        (CertKind::Ask, vec![2; 20]),
        (CertKind::Other([9; 16]), Vec::new()),
        (CertKind::Ark, vec![3; 30]),
    ]);
    let bytes = table.encode().unwrap();
    assert_eq!(CertTable::decode(&bytes).unwrap(), table);
    assert_eq!(table.find(CertKind::Ask), Some(&[2; 20][..]));
    assert_eq!(table.find(CertKind::Vlek), None);
    // A host gives whole pages.
    let page = [&bytes[..], &[0; 100]].concat();
    assert_eq!(CertTable::decode(&page).unwrap(), table);
    let junk = [&page[..], &[1]].concat();
    assert_eq!(CertTable::decode(&junk), Err(CertTableError::Leftover { offset: page.len() }));
    // The VCEK's GUID as its specification writes it.
    assert_eq!(hex::encode(&bytes[..16]), "63da758de6644564adc5f4b93be8accd");
    assert_eq!(CertTable::decode(&[0; 24]).unwrap(), CertTable::default());
}

#[test]
fn a_broken_certificate_table_is_refused() {
    let good = CertTable::new([(CertKind::Vcek, vec![1; 10])]).encode().unwrap();
    assert!(CertTable::decode(&good).is_ok());
    assert_eq!(CertTable::decode(&[]), Err(CertTableError::Unterminated));
    assert_eq!(CertTable::decode(&good[..24]), Err(CertTableError::Unterminated));
    for (offset, length) in [(47_u32, 10_u32), (48, 11), (u32::MAX, 10), (48, u32::MAX), (59, 0)] {
        let mut bytes = good.clone();
        bytes[16..20].copy_from_slice(&offset.to_le_bytes());
        bytes[20..24].copy_from_slice(&length.to_le_bytes());
        assert_eq!(CertTable::decode(&bytes), Err(CertTableError::Range { entry: 0, offset, length }));
    }
    let two = CertTable::new([(CertKind::Vcek, vec![1]), (CertKind::Vcek, vec![2])]);
    assert_eq!(two.encode(), Err(CertTableError::Duplicate { entry: 1 }));
    let mut bytes = CertTable::new([(CertKind::Vcek, vec![1]), (CertKind::Ask, vec![2])]).encode().unwrap();
    bytes.copy_within(0..16, 24);
    assert_eq!(CertTable::decode(&bytes), Err(CertTableError::Duplicate { entry: 1 }));
    let many = (0..17).map(|number| (CertKind::Other([number + 1; 16]), Vec::new()));
    assert_eq!(CertTable::new(many.clone()).encode(), Err(CertTableError::Entries));
    assert!(CertTable::new(many.take(16)).encode().is_ok());
    let mut bytes: Vec<u8> = (0..17_u8).flat_map(|number| [number + 1; 24]).collect();
    bytes.extend([0; 24]);
    assert_eq!(CertTable::decode(&bytes), Err(CertTableError::Entries));
    let long = vec![0; 64 * 1024 + 1];
    assert_eq!(CertTable::decode(&long), Err(CertTableError::Length { found: long.len() }));
    assert!(CertTable::decode(&long[1..]).is_ok());
}

#[test]
fn a_certificate_stands_alone_and_is_of_amds_kind() {
    let ark = builtin::AMD[0].ark;
    let certificate = Certificate::parse(ark).unwrap();
    assert_eq!((certificate.subject_name(), certificate.issuer_name()), ("ARK-Milan", "ARK-Milan"));
    assert_eq!((certificate.not_before(), certificate.not_after()), (1_603_387_385, 2_392_305_785));
    assert_eq!(Vek::new(certificate), Err(CertError::Key));
    let longer = [ark, &[0]].concat();
    assert!(matches!(Certificate::parse(&longer), Err(CertError::Der(_))));
    assert!(matches!(Certificate::parse(&ark[..ark.len() - 1]), Err(CertError::Der(_))));
    let found = 16 * 1024 + 1;
    assert_eq!(Certificate::parse(&vec![0x30; found]), Err(CertError::Length { found }));
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
        Report::fuzz(&data);
        CertTable::fuzz(&data);
        Certificate::fuzz(&data);
        Crl::fuzz(&data);
        IdAuth::fuzz(&data);
    }

    #[test]
    fn a_changed_id_block_never_panics_and_is_not_signed(index in any::<prop::sample::Index>(), byte in 1_u8..) {
        let keys = &*KEYS;
        let block = amd::IdBlock::of(&amd::Report::of(Product::Milan));
        let mut both = [block.auth(&keys.id, Some(&keys.author)), block.bytes()].concat();
        let index = index.index(both.len());
        both[index] ^= byte;
        IdAuth::fuzz(&both);
        let (auth, block) = both.split_at(ID_AUTH_LEN);
        if let (Ok(auth), Ok(block)) = (IdAuth::parse(auth), IdBlock::parse(block)) {
            prop_assert!(!auth.signed(&block) || auth.author_signed() == Some(false), "byte {index}");
        }
    }

    #[test]
    fn no_report_makes_the_verifier_panic(
        data in proptest::collection::vec(any::<u8>(), REPORT_LEN),
        version in 0_u8..8,
        at in any::<u64>(),
    ) {
        let mut data = data;
        data[..4].copy_from_slice(&[version, 0, 0, 0]);
        let authority = &builtin::AMD[1];
        let [ark, ask, vek] = [authority.ark, authority.ask, authority.asvk].map(<[u8]>::to_vec);
        let chain = Chain { ark, ask, vek, crl: data.clone() };
        prop_assert!(!verify(&data, &chain, &Anchors::amd(), at, &Options::UNASKED).is_valid());
        prop_assert!(!verify(&data, &Chain::default(), &Anchors::amd(), at, &Options::UNASKED).is_valid());
    }

    #[test]
    fn a_changed_certificate_never_panics(
        which in 0..9_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let authority = &builtin::AMD[which / 3];
        let mut der = [authority.ark, authority.ask, authority.asvk][which % 3].to_vec();
        for (index, byte) in changes {
            let index = index.index(der.len());
            der[index] = byte;
        }
        Certificate::fuzz(&der);
    }

    #[test]
    fn tables_read_as_they_were_written(lengths in proptest::collection::vec(0..2000_usize, 0..16)) {
        let entries = (1_u8..).zip(&lengths).map(|(number, length)| (CertKind::Other([number; 16]), vec![number; *length]));
        let table = CertTable::new(entries);
        prop_assert_eq!(CertTable::decode(&table.encode().unwrap()), Ok(table));
    }
}
