//! Evidence that is signed by a good key and says something else than it should.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use belljar_rcar::snp::CertEntry;
use belljar_softtee::Keys;
use belljar_testpki::amd;

use super::*;

const CONTRACT: &str = include_str!("../../../../contract/tests/data/scorer.toml");
const NONCE: &[u8] = &[7; 32];
const SPKI: &[u8] = b"the public key of this connection";

/// A software TEE whose key signs what it is given.
struct Chip {
    keys: Keys,
    signer: EcdsaKeyPair,
    measurement: [u8; 48],
    trust: Trust,
}

impl Chip {
    fn new(folder: &Path) -> Self {
        let guest = std::env::var_os("BELLJAR_GUEST").expect("`make test` sets BELLJAR_GUEST");
        let image = GuestImage::open(Path::new(&guest)).unwrap();
        let keys = Keys::load_or_create(folder).unwrap();
        let key = std::fs::read(folder.join("v1/vcek.key")).unwrap();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key).unwrap();
        let measurement = predict_software(&image, false, 2).unwrap();
        let trust = Trust { anchors: keys.anchors(), allow_software: true, image };
        Self { keys, signer, measurement, trust }
    }

    /// What a pod with `initdata` answers; `edit` changes the report before it is signed.
    fn reply(&self, initdata: &str, edit: &dyn Fn(&mut [u8; 1184])) -> EvidenceReply {
        let mut report = amd::Report {
            report_data: report_data(NONCE, SPKI),
            measurement: self.measurement,
            host_data: digest(initdata.as_bytes()).unwrap().host_data(),
            tcb: [1, 1, 0, 0, 0, 0, 1, 1],
            chip_id: *self.keys.chip_id(),
            ..amd::Report::of(amd::Product::Milan)
        }
        .bytes();
        edit(&mut report);
        amd::sign(&mut report, &self.signer);
        let chain = self.keys.chain();
        let chain = [(CertType::VCEK, chain.vek), (CertType::ASK, chain.ask), (CertType::ARK, chain.ark)]
            .map(|(cert_type, data)| CertEntry { cert_type, data });
        let evidence = SnpEvidence::with_chain(&report, Some(chain.to_vec())).unwrap();
        let evidence = serde_json::to_value(evidence).unwrap();
        EvidenceReply { protocol: 1, tee: "snp".into(), evidence, initdata: initdata.into() }
    }

    fn failure(&self, reply: &EvidenceReply, nonce: &[u8], spki: &[u8]) -> Option<Check> {
        judge(reply, nonce, spki, &self.trust, None).unwrap().failure().cloned()
    }
}

#[test]
#[ignore = "needs a guest image; `make test` sets BELLJAR_GUEST and runs it"]
fn each_claim_that_is_another_is_named_with_both_values() {
    let folder = tempfile::tempdir().unwrap();
    let mut chip = Chip::new(&folder.path().join("softtee"));
    let contract = Contract::parse(CONTRACT).unwrap();
    let mine = Initdata::with_contract(&contract).to_toml();
    let mut changed = contract.clone();
    changed.containers.values_mut().next().unwrap().args.push("--more".into());
    let other = Initdata::with_contract(&changed).to_toml();

    // The twin of all that follows.
    let good = chip.reply(&mine, &|_| ());
    let judged = judge(&good, NONCE, SPKI, &chip.trust, None).unwrap();
    assert_eq!(judged.failure(), None);
    assert!(judged.software && judged.launch.unwrap().ends_with(", 2 vCPUs"));
    assert_eq!(judged.contract, contract);

    let name = |check: Option<Check>| check.unwrap().name;
    assert_eq!(name(chip.failure(&good, &[8; 32], SPKI)), "report-data");
    assert_eq!(name(chip.failure(&good, NONCE, b"the key of one in between")), "report-data");

    let another_launch = chip.failure(&chip.reply(&mine, &|report| report[0x90] ^= 1), NONCE, SPKI).unwrap();
    let mut found = chip.measurement;
    found[0] ^= 1;
    assert_eq!((another_launch.name.as_str(), another_launch.found), ("measurement", hex::encode(found)));
    assert!(another_launch.expected.starts_with("a launch of guest image "));

    // The hardware vouches for one document, the pod sends another.
    let mut swapped = chip.reply(&other, &|_| ());
    assert_eq!(chip.failure(&swapped, NONCE, SPKI), None);
    swapped.initdata = mine.clone();
    let host_data = chip.failure(&swapped, NONCE, SPKI).unwrap();
    assert_eq!(host_data.name, "host-data");
    assert_eq!(host_data.found, hex::encode(digest(other.as_bytes()).unwrap().host_data()));
    assert!(host_data.expected.starts_with(&hex::encode(digest(mine.as_bytes()).unwrap().host_data())));

    assert_eq!(name(chip.failure(&chip.reply(&mine, &|report| report[0x0a] |= 1 << 3), NONCE, SPKI)), "policy-debug");
    let migrate = chip.reply(&mine, &|report| report[0x0a] |= 1 << 2);
    assert_eq!(name(chip.failure(&migrate, NONCE, SPKI)), "policy-migrate-ma");
    assert_eq!(name(chip.failure(&chip.reply(&mine, &|report| report[0x30] = 1), NONCE, SPKI)), "vmpl");

    // Signed by a good key under a root that the user does not trust for this.
    chip.trust.allow_software = false;
    assert_eq!(name(chip.failure(&good, NONCE, SPKI)), "root");
    chip.trust.anchors = Anchors::amd();
    assert_eq!(name(chip.failure(&good, NONCE, SPKI)), "chain-to-anchor");
}
