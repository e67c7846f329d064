//! SNP evidence: raw to JSON and back, the same as the public `sev` crate does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use belljar_rcar::{
    Evidence, Tee,
    snp::{CertEntry, CertType, MAX_CERTIFICATE, REPORT, SnpError, SnpEvidence, TableError},
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sev::{firmware::guest::AttestationReport, firmware::host::CertTableEntry, parser::ByteParser};

/// The evidence with the types of `sev`.
#[derive(Serialize, Deserialize)]
struct Theirs {
    attestation_report: AttestationReport,
    cert_chain: Option<Vec<CertTableEntry>>,
}

/// A report whose every member is its own: version, processor, and bytes from `seed`.
fn report(version: u32, family: u8, model: u8, seed: u8) -> [u8; REPORT] {
    let mut raw = [0; REPORT];
    let mut next = seed;
    let mut fill = |raw: &mut [u8; REPORT], from: usize, to: usize| {
        for byte in &mut raw[from..to] {
            next = next.wrapping_mul(167).wrapping_add(13);
            *byte = next;
        }
    };
    fill(&mut raw, 0x04, 0x4c);
    fill(&mut raw, 0x50, 0x188);
    fill(&mut raw, 0x1a0, 0x1eb);
    fill(&mut raw, 0x1ec, 0x1ef);
    fill(&mut raw, 0x1f0, 0x1f8);
    fill(&mut raw, 0x2a0, 0x330);
    raw[..4].copy_from_slice(&version.to_le_bytes());
    if version >= 3 {
        raw[0x188..0x18b].copy_from_slice(&[family, model, 2]);
    }
    if version >= 5 {
        fill(&mut raw, 0x1f8, 0x208);
    }
    let reserved = if family == 0x1a { 4..7 } else { 2..6 };
    for tcb in [0x38, 0x180, 0x1e0, 0x1f0] {
        raw[tcb + reserved.start..tcb + reserved.end].fill(0);
    }
    raw
}

const SHAPES: [(u32, u8, u8); 6] =
    [(2, 0x19, 0x01), (3, 0x19, 0x01), (3, 0x19, 0x11), (4, 0x19, 0xa0), (3, 0x1a, 0x02), (5, 0x1a, 0x11)];

#[test]
fn the_json_is_what_sev_writes() {
    for (version, family, model) in SHAPES {
        let raw = report(version, family, model, 7);
        let theirs = serde_json::to_string(&AttestationReport::from_bytes(&raw).unwrap()).unwrap();
        let evidence = SnpEvidence::new(&raw, &[]).unwrap();
        let text = serde_json::to_string(&evidence).unwrap();
        assert_eq!(text, format!(r#"{{"attestation_report":{theirs},"cert_chain":null}}"#), "version {version}");
    }
}

#[test]
fn sev_reads_ours_and_we_read_sev() {
    for (version, family, model) in SHAPES {
        let raw = report(version, family, model, 9);
        let chain = vec![
            CertEntry { cert_type: CertType::VCEK, data: vec![0x30, 1, 2] },
            CertEntry { cert_type: CertType::ASK, data: vec![0x30, 3] },
            CertEntry { cert_type: CertType::ARK, data: vec![0x30, 4] },
        ];
        let ours = SnpEvidence::with_chain(&raw, Some(chain)).unwrap();
        let theirs: Theirs = serde_json::from_str(&serde_json::to_string(&ours).unwrap()).unwrap();
        assert_eq!(theirs.attestation_report.to_bytes().unwrap(), raw);
        let back: SnpEvidence = serde_json::from_str(&serde_json::to_string(&theirs).unwrap()).unwrap();
        assert_eq!(back, ours);
        assert_eq!(back.report_bytes().unwrap(), raw);
        assert_eq!(back.certificate(&CertType::ASK), Some(&[0x30, 3][..]));
    }
}

#[test]
fn the_chain_comes_from_the_table_that_sev_writes() {
    use sev::firmware::host::CertType as Theirs;
    let kinds = [
        (Theirs::VCEK, CertType::VCEK),
        (Theirs::ASK, CertType::ASK),
        (Theirs::ARK, CertType::ARK),
        (Theirs::VLEK, CertType::VLEK),
        (Theirs::CRL, CertType::CRL),
    ];
    let entries: Vec<_> = kinds
        .iter()
        .zip(1..)
        .map(|((kind, _), n)| CertTableEntry { cert_type: kind.clone(), data: vec![n; usize::from(n) * 100] })
        .collect();
    let mut table = CertTableEntry::cert_table_to_vec_bytes(&entries).unwrap();
    table.resize(4096, 0);
    let evidence = SnpEvidence::new(&report(3, 0x19, 1, 1), &table).unwrap();
    let found = evidence.certificates().unwrap();
    assert_eq!(found.len(), kinds.len());
    for ((found, theirs), (_, kind)) in found.iter().zip(&entries).zip(&kinds) {
        assert_eq!((&found.cert_type, &found.data), (kind, &theirs.data));
    }
    let json = serde_json::to_value(&evidence).unwrap();
    assert_eq!(json["cert_chain"], serde_json::to_value(&entries).unwrap());
    assert_eq!(Evidence::from(evidence).tee(), Tee::Snp);
}

#[test]
fn a_malformed_table_is_refused() {
    let raw = report(3, 0x19, 1, 1);
    let mut table = vec![0; 48 + 4];
    table[..16].copy_from_slice(&hex::decode("63da758de6644564adc5f4b93be8accd").unwrap());
    table[16..24].copy_from_slice(&[48, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(SnpEvidence::new(&raw, &table).unwrap().certificate(&CertType::VCEK), Some(&[0; 4][..]));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut table = table.clone();
        change(&mut table);
        SnpEvidence::new(&raw, &table).unwrap_err()
    };
    assert_eq!(with(&|t| t[20] = 5), SnpError::Table(TableError::Outside(0)));
    assert_eq!(with(&|t| t[16] = 47), SnpError::Table(TableError::Outside(0)));
    assert_eq!(with(&|t| t[16..24].fill(0xff)), SnpError::Table(TableError::Outside(0)));
    assert_eq!(with(&|t| t.truncate(47)), SnpError::Table(TableError::NotClosed));
    assert_eq!(with(&|t| t.resize(64 * 1024 + 1, 0)), SnpError::Table(TableError::TooLong(64 * 1024 + 1)));
    assert_eq!(
        with(&|t| *t = [&[1; 24][..]; 9].concat().into_iter().chain([0; 24]).collect()),
        SnpError::Table(TableError::TooManyEntries)
    );
}

#[test]
fn what_the_json_cannot_carry_is_refused() {
    let good = report(3, 0x19, 1, 3);
    assert!(SnpEvidence::new(&good, &[]).is_ok());
    let with = |offset: usize, value: u8| {
        let mut raw = good;
        raw[offset] = value;
        SnpEvidence::new(&raw, &[]).unwrap_err()
    };
    for offset in [0x3a, 0x4c, 0x182, 0x18b, 0x1eb, 0x1ef, 0x1f8, 0x29f, 0x330, 0x49f] {
        assert_eq!(with(offset, 1), SnpError::Reserved(offset));
    }
    assert_eq!(with(0, 6), SnpError::Version(6));
    assert_eq!(with(0, 1), SnpError::Version(1));
    assert_eq!(with(0x188, 0x17), SnpError::Processor { family: 0x17, model: 1 });
    assert_eq!(SnpEvidence::new(&good[1..], &[]).unwrap_err(), SnpError::Length(1183));
    let mut masked = report(2, 0x19, 1, 3);
    assert!(SnpEvidence::new(&masked, &[]).is_ok());
    masked[0x1a0..0x1e0].fill(0);
    assert_eq!(SnpEvidence::new(&masked, &[]).unwrap_err(), SnpError::MaskedChipId);
}

#[test]
fn members_that_do_not_fit_the_version_are_refused() {
    let evidence = SnpEvidence::new(&report(3, 0x19, 1, 3), &[]).unwrap();
    let with = |name: &str, value: Value| {
        let mut json = serde_json::to_value(&evidence).unwrap();
        *json["attestation_report"].pointer_mut(name).unwrap() = value;
        serde_json::from_value::<SnpEvidence>(json).map_err(|e| e.to_string()).map(|e| e.report_bytes())
    };
    assert!(with("/guest_svn", 1.into()).unwrap().is_ok());
    assert_eq!(with("/cpuid_step", Value::Null), Ok(Err(SnpError::Member("cpuid_step"))));
    assert_eq!(with("/launch_mit_vector", 1.into()), Ok(Err(SnpError::Member("launch_mit_vector"))));
    assert_eq!(with("/reported_tcb/fmc", 1.into()), Ok(Err(SnpError::Member("fmc"))));
    assert!(with("/host_data", vec![0_u8; 31].into()).is_err());
    assert!(with("/host_data", vec![0_u8; 33].into()).is_err());
    assert!(with("/host_data", vec![256_u16; 32].into()).is_err());
    assert!(with("/host_data", vec![0_u8; 32].into()).unwrap().is_ok());
}

#[test]
fn the_chain_is_bounded() {
    let raw = report(3, 0x19, 1, 3);
    let entry = |length: usize| CertEntry { cert_type: CertType::CRL, data: vec![0; length] };
    assert!(SnpEvidence::with_chain(&raw, Some(vec![entry(MAX_CERTIFICATE); 8])).is_ok());
    assert_eq!(SnpEvidence::with_chain(&raw, Some(vec![entry(1); 9])), Err(SnpError::TooManyCertificates(9)));
    let long = MAX_CERTIFICATE + 1;
    assert_eq!(SnpEvidence::with_chain(&raw, Some(vec![entry(long)])), Err(SnpError::CertificateTooLong(long)));
}

proptest! {
    #[test]
    fn exact_or_refused(mut raw in proptest::collection::vec(any::<u8>(), REPORT), shape in 0usize..6, zero: bool) {
        let (version, family, model) = SHAPES[shape];
        if zero {
            let template = report(version, family, model, raw[0]);
            raw.copy_from_slice(&template);
        }
        raw[..4].copy_from_slice(&version.to_le_bytes());
        match SnpEvidence::new(&raw, &[]) {
            Ok(evidence) => {
                let text = serde_json::to_vec(&evidence).unwrap();
                let back: SnpEvidence = serde_json::from_slice(&text).unwrap();
                prop_assert_eq!(back.report_bytes().unwrap().to_vec(), raw);
            }
            Err(_) => prop_assert!(!zero),
        }
    }

    #[test]
    fn arbitrary_tables_never_panic(table in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..200)) {
        let _ = SnpEvidence::new(&report(3, 0x19, 1, 3), &table);
    }
}
