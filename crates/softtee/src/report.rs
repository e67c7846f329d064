//! Writes attestation reports: version 3, in the layout of AMD 56860, table ATTESTATION_REPORT.

use belljar_evidence::snp::{REPORT_LEN, SIGNED_LEN};

use crate::keys::Keys;

/// Version of the reports.
const VERSION: u32 = 3;
/// Guest policy: reserved bit 17, which must be one, and SMT allowed; no debugging, no migration.
const POLICY: u64 = 0x3_0000;
/// ECDSA P-384 with SHA-384.
const SIGNATURE_ALGO: u32 = 1;
/// Platform information: SMT is on.
const PLATFORM_INFO: u64 = 1;
/// CPU family, model and stepping of Milan.
const CPUID: [u8; 3] = [0x19, 0x01, 0x01];
/// Firmware 1.55 build 1, the first with reports of version 3; build, minor, major.
const FIRMWARE: [u8; 3] = [1, 55, 1];
/// TCB of the software TEE in Milan's layout: boot loader 1, TEE 1, four reserved, SNP 1, microcode 1.
pub(crate) const TCB: [u8; 8] = [1, 1, 0, 0, 0, 0, 1, 1];

/// What differs from report to report.
pub(crate) struct Content<'a> {
    pub(crate) report_data: &'a [u8; 64],
    pub(crate) measurement: &'a [u8; 48],
    pub(crate) host_data: &'a [u8; 32],
    pub(crate) report_id: &'a [u8; 32],
    pub(crate) chip_id: &'a [u8; 64],
}

/// A signed report; `None` when signing fails.
pub(crate) fn sign(content: &Content<'_>, keys: &Keys) -> Option<[u8; REPORT_LEN]> {
    let mut report = [0; REPORT_LEN];
    let fields: [(usize, &[u8]); 19] = [
        (0x00, &VERSION.to_le_bytes()),
        (0x08, &POLICY.to_le_bytes()),
        (0x34, &SIGNATURE_ALGO.to_le_bytes()),
        (0x38, &TCB),
        (0x40, &PLATFORM_INFO.to_le_bytes()),
        (0x50, content.report_data),
        (0x90, content.measurement),
        (0xC0, content.host_data),
        (0x140, content.report_id),
        // No migration agent: all ones.
        (0x160, &[0xFF; 32]),
        (0x180, &TCB),
        (0x188, &CPUID),
        (0x1A0, content.chip_id),
        (0x1E0, &TCB),
        (0x1E8, &FIRMWARE),
        (0x1EC, &FIRMWARE),
        (0x1F0, &TCB),
        // VMPL and the key information (signed by the VCEK, no author key, chip not masked) are zero.
        (0x30, &[0; 4]),
        (0x48, &[0; 4]),
    ];
    for (offset, bytes) in fields {
        report.get_mut(offset..offset + bytes.len())?.copy_from_slice(bytes);
    }
    let signature = keys.sign(report.get(..SIGNED_LEN)?)?;
    let (r, s) = signature.split_at(48);
    for (number, offset) in [(r, SIGNED_LEN), (s, SIGNED_LEN + 72)] {
        // Least significant byte first, in 72 bytes.
        for (to, from) in report.get_mut(offset..offset + 48)?.iter_mut().zip(number.iter().rev()) {
            *to = *from;
        }
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use belljar_evidence::snp::{
        Anchors, CertKind, CertTable, Chain, Options, Report, Root, SigningKey, builtin, verify,
    };
    use sev::certs::snp::Verifiable;
    use sev::parser::ByteParser;

    use super::*;

    const CONTENT: Content<'static> = Content {
        report_data: &[1; 64],
        measurement: &[2; 48],
        host_data: &[3; 32],
        report_id: &[4; 32],
        chip_id: &[0; 64],
    };

    /// Judged by our verifier and by the `sev` crate, with the twin of each refusal beside it.
    #[test]
    fn a_report_is_authentic_under_its_root_alone() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(&folder.path().join("keys")).unwrap();
        let report = sign(&Content { chip_id: keys.chip_id(), ..CONTENT }, &keys).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();

        let verdict = verify(&report, &keys.chain(), &keys.anchors(), now, &Options::UNASKED);
        assert!(verdict.is_valid(), "{:#?}", verdict.checks);
        assert!(verdict.software);
        assert_eq!(verdict.flags, ["software-tee"]);
        assert_eq!(verdict.facts.root, Some(Root::Software));
        let parsed = verdict.facts.report.unwrap();
        assert_eq!((parsed.version, parsed.vmpl, parsed.signing_key), (3, 0, SigningKey::Vcek));
        assert_eq!((parsed.report_data, parsed.measurement), ([1; 64], [2; 48]));
        assert_eq!((parsed.host_data, parsed.report_id, parsed.report_id_ma), ([3; 32], [4; 32], [0xFF; 32]));
        assert_eq!(parsed.chip_id, *keys.chip_id());
        assert_eq!(parsed.policy.0, POLICY);
        assert_eq!([parsed.current_tcb, parsed.committed_tcb, parsed.launch_tcb].map(|tcb| tcb.raw), [TCB; 3]);

        // The same evidence for somebody who was not told of the root.
        let verdict = verify(&report, &keys.chain(), &Anchors::amd(), now, &Options::UNASKED);
        assert_eq!(verdict.first_failure, Some("chain-to-anchor"));
        assert!(!verdict.software);
        // With AMD's intermediate and root in place of ours.
        let amd = Chain { ark: builtin::AMD[0].ark.to_vec(), ask: builtin::AMD[0].ask.to_vec(), ..keys.chain() };
        assert_eq!(verify(&report, &amd, &keys.anchors(), now, &Options::UNASKED).first_failure, Some("vek-issuer"));
        // One bit of the measurement.
        let mut changed = report;
        changed[0x90] ^= 1;
        assert_eq!(
            verify(&changed, &keys.chain(), &keys.anchors(), now, &Options::UNASKED).first_failure,
            Some("report-signature")
        );
        // A report about another chip, signed by the same key.
        let other = sign(&Content { chip_id: &[9; 64], ..CONTENT }, &keys).unwrap();
        assert_eq!(
            verify(&other, &keys.chain(), &keys.anchors(), now, &Options::UNASKED).first_failure,
            Some("chip-id")
        );
        // Before the keys were made.
        let early = now - 3 * 24 * 3600;
        assert_eq!(
            verify(&report, &keys.chain(), &keys.anchors(), early, &Options::UNASKED).first_failure,
            Some("cert-validity")
        );

        // The peer agrees about the report, and about the altered one.
        let chain = keys.chain();
        let peer = sev::certs::snp::Chain::from_der(&chain.ark, &chain.ask, &chain.vek).unwrap();
        let of = |bytes: &[u8]| sev::firmware::guest::AttestationReport::from_bytes(bytes).unwrap();
        (&peer, &of(&report)).verify().unwrap();
        (&peer, &of(&changed)).verify().unwrap_err();

        // What a guest gets beside the report leads to the same verdict.
        let table = CertTable::decode(&keys.cert_table().unwrap()).unwrap();
        let kinds: Vec<_> = table.entries().iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [CertKind::Vcek, CertKind::Ask, CertKind::Ark]);
        assert_eq!(Chain::from_cert_table(&table, Report::parse(&report).unwrap().signing_key), chain);
    }
}
