//! Evidence that is signed by a good key and says something else than it should.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use belljar_evidence::Freshness;
use belljar_rcar::snp::CertEntry;
use belljar_softtee::Keys;
use belljar_testpki::amd::{self, Cert, List};
use x509_cert::ext::pkix::KeyUsages;

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
        let trust = Trust { roots: Roots { anchors: keys.anchors(), allow_software: true, collateral: None }, image };
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
    chip.trust.roots.allow_software = false;
    assert_eq!(name(chip.failure(&good, NONCE, SPKI)), "root");
    chip.trust.roots.anchors = Anchors::amd();
    assert_eq!(name(chip.failure(&good, NONCE, SPKI)), "chain-to-anchor");
}

/// A chip under roots of AMD's names, of which the user has a directory of collateral.
struct Listed {
    keys: amd::Keys,
    now: u64,
    ark: Vec<u8>,
    evidence: SnpEvidence,
    folder: tempfile::TempDir,
}

impl Listed {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let keys = amd::Keys::new(5);
        let mut ark = Cert::authority("ARK-Milan", "ARK-Milan", &keys.ark);
        ark.constrain(true, KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        let mut ask = Cert::authority("SEV-Milan", "ARK-Milan", &keys.ask);
        let mut vek = Cert::vcek(amd::Product::Milan, "SEV-Milan", &keys);
        (ask.serial, vek.serial) = (2, 3);
        for cert in [&mut ark, &mut ask, &mut vek] {
            (cert.from, cert.to) = (now - 1000, now + 10_000);
        }
        let (ark, ask, vek) = (ark.sign(&keys.ark), ask.sign(&keys.ark), vek.sign(&keys.ask));
        let mut report = amd::Report::of(amd::Product::Milan).bytes();
        amd::sign(&mut report, &keys.vek);
        let chain = [(CertType::VCEK, &vek), (CertType::ASK, &ask), (CertType::ARK, &ark)]
            .map(|(cert_type, data)| CertEntry { cert_type, data: data.clone() });
        let evidence = SnpEvidence::with_chain(&report, Some(chain.to_vec())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pem = [&ask, &ark].map(|der| belljar_evidence::pem::encode(der)).concat();
        std::fs::write(folder.path().join("cert_chain.pem"), pem).unwrap();
        Self { keys, now, ark, evidence, folder }
    }

    /// The judgement with the directory and a list that names these serial numbers, if any.
    fn judge(&self, list: Option<(&[u8], u64)>, software: bool) -> Result<Vec<Check>, Failure> {
        let path = self.folder.path().join("crl.der");
        let _ = std::fs::remove_file(&path);
        if let Some((serials, to)) = list {
            let list = List { from: self.now - 100, to: Some(to), serials: serials.to_vec(), ..List::new("ARK-Milan") };
            std::fs::write(path, list.sign(&self.keys.ark)).unwrap();
        }
        let none = Anchors::none();
        let anchors = if software { none.with_software_root(&self.ark) } else { none.with_test_root(&self.ark) };
        let collateral = Some(Store::open(self.folder.path(), None).unwrap());
        let mut checks = Checks(Vec::new());
        authentic(&mut checks, &self.evidence, &Roots { anchors, allow_software: true, collateral })?;
        Ok(checks.0.into_iter().filter(|check| !check.passed).collect())
    }
}

#[test]
fn a_revocation_list_is_asked_for_where_collateral_is_named() {
    let chip = Listed::new();
    let next = chip.now + 1000;
    let names = |checks: Vec<Check>| checks.into_iter().map(|check| check.name).collect::<Vec<_>>();
    assert_eq!(names(chip.judge(Some((&[9], next)), false).unwrap()), [""; 0]);
    assert_eq!(names(chip.judge(Some((&[2], next)), false).unwrap()), ["crl-revoked"]);
    let stale = chip.judge(Some((&[9], chip.now - 1)), false).unwrap();
    assert!(stale[0].found.ends_with(Freshness::Stale.name()), "{stale:?}");
    assert_eq!(names(stale), ["crl-time"]);
    // Without a list nothing is known; nobody publishes one for a software TEE.
    let missing = chip.judge(None, false).unwrap_err();
    assert_eq!(
        (missing.exit.code(), missing.cause.as_str()),
        (3, "crl-signature: the root's revocation list was not given")
    );
    assert_eq!(names(chip.judge(None, true).unwrap()), [""; 0]);
}
