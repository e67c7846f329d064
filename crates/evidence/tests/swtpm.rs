//! Quotes of a live TPM: swtpm, asked with tpm2-tools. Where these are not installed, the trials are listed as ignored
//! and never as passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::time::SystemTime;

use belljar_evidence::dcap::Missing;
use belljar_evidence::tpm::certificate::{self, CertificateError, Purpose, Refused};
use belljar_evidence::tpm::{AkTrust, Facts, Hash, KeyError, Options, Pcrs, PublicKey, Signature, credential, verify};
use belljar_evidence::{Decision, Verdict};
use belljar_testpki::NOW;
use belljar_testpki::swtpm::{MAKER_TOOLS, Maker, TOOLS, Tpm, installed};
use libtest_mimic::{Arguments, Failed, Trial};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};

fn main() {
    let missing = !installed(&TOOLS);
    if missing {
        eprintln!("swtpm or tpm2-tools are not installed: no live quote is verified");
    }
    let schemes = ["rsassa", "rsapss", "ecdsa"];
    let quotes = schemes.map(|scheme| Trial::test(format!("quotes::{scheme}"), move || quotes(scheme)));
    let others = [
        Trial::test("credential", credential_activates),
        Trial::test("other_attestations", other_attestations_and_keys),
        Trial::test("attestation_key_certificate", attestation_key_certificate),
    ];
    // Makes the TPM's certificates with swtpm's own authority.
    let no_setup = missing || !installed(&MAKER_TOOLS);
    let certified = Trial::test("endorsement_key_certificate", endorsement_key_certificate).with_ignored_flag(no_setup);
    let trials = quotes.into_iter().chain(others).map(|trial| trial.with_ignored_flag(missing));
    let trials = trials.chain([certified]).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A TPM, and the scheme of its attestation keys.
struct Machine {
    tpm: Tpm,
    scheme: &'static str,
}

impl std::ops::Deref for Machine {
    type Target = Tpm;

    fn deref(&self) -> &Tpm {
        &self.tpm
    }
}

impl Machine {
    fn start(scheme: &'static str) -> Self {
        Self { tpm: Tpm::start(), scheme }
    }

    /// An attestation key; its name in the folder is given.
    fn attestation_key(&self, name: &str) -> PublicKey {
        self.make_attestation_key(name, if self.scheme == "ecdsa" { "ecc" } else { "rsa" }, self.scheme);
        let (key, own_name) = PublicKey::attestation_key(&self.file(&format!("{name}.pub"))).unwrap();
        assert_eq!(own_name, self.file(&format!("{name}.name")), "the name of the key");
        key
    }

    /// Values of registers.
    fn values(&self, bank: Hash, registers: &[u8]) -> Pcrs {
        let mut pcrs = Pcrs::none(bank);
        for register in registers {
            self.run(&format!("tpm2_pcrread {}:{register} -o value", bank.name()));
            pcrs.set(*register, self.file("value")).unwrap();
        }
        pcrs
    }

    /// A quote and its signature, in the scheme of its key.
    fn quote(&self, key: &str, selection: &str, nonce: &str) -> (Vec<u8>, Vec<u8>) {
        self.tpm.quote(key, self.scheme, selection, nonce)
    }
}

fn judge(quote: &(Vec<u8>, Vec<u8>), key: &PublicKey, pcrs: &Pcrs, required: &[u8]) -> Verdict<Facts> {
    let options = Options {
        ak_trust: AkTrust::List(vec![key.fingerprint()]),
        missing: Missing::Undecided,
        required: required.to_vec(),
        nonce: Some(vec![0x01, 0x02, 0xFF]),
    };
    verify(&quote.0, &Signature::parse(&quote.1), key, Some(pcrs), &options)
}

fn ensure(what: &str, verdict: &Verdict<Facts>, failure: Option<&str>) -> Result<(), Failed> {
    let expected = if failure.is_some() { Decision::Invalid } else { Decision::Valid };
    if verdict.verdict == expected && verdict.first_failure == failure {
        return Ok(());
    }
    Err(format!("{what}: expected {failure:?}, found {:?}: {:?}", verdict.first_failure, verdict.failure()).into())
}

fn quotes(scheme: &'static str) -> Result<(), Failed> {
    let tpm = Machine::start(scheme);
    let key = tpm.attestation_key("ak");
    let other = tpm.attestation_key("other");
    let nonce = "0102ff";
    let values = tpm.values(Hash::Sha256, &[0, 1, 7]);
    let good = tpm.quote("ak", "sha256:0,1,7", nonce);
    ensure("as it is", &judge(&good, &key, &values, &[7]), None)?;
    ensure("another key", &judge(&good, &other, &values, &[7]), Some("quote-signature"))?;
    ensure(
        "by another key",
        &judge(&tpm.quote("other", "sha256:0,1,7", nonce), &key, &values, &[]),
        Some("quote-signature"),
    )?;
    ensure("another nonce", &judge(&tpm.quote("ak", "sha256:0,1,7", "0102fe"), &key, &values, &[7]), Some("nonce"))?;
    // The selection.
    ensure(
        "a register is not quoted",
        &judge(&tpm.quote("ak", "sha256:0,1", nonce), &key, &values, &[]),
        Some("pcr-selection"),
    )?;
    ensure("a required register is not quoted", &judge(&good, &key, &values, &[8]), Some("pcr-selection"))?;
    ensure("another bank", &judge(&tpm.quote("ak", "sha384:0,1,7", nonce), &key, &values, &[]), Some("pcr-selection"))?;
    let both = tpm.quote("ak", "sha256:0,1,7+sha384:0", nonce);
    ensure("two banks", &judge(&both, &key, &values, &[]), Some("pcr-selection"))?;
    let more = tpm.quote("ak", "sha256:0,1,7,23", nonce);
    ensure("a quoted register without a value", &judge(&more, &key, &values, &[]), Some("pcr-digest"))?;
    ensure("with its value", &judge(&more, &key, &tpm.values(Hash::Sha256, &[0, 1, 7, 23]), &[23]), None)?;
    let large = tpm.quote("ak", "sha384:0,7", nonce);
    ensure("the larger bank", &judge(&large, &key, &tpm.values(Hash::Sha384, &[0, 7]), &[7]), None)?;
    // Values and bytes.
    let mut wrong = values.clone();
    wrong.set(7, vec![7; 32]).unwrap();
    ensure("another value", &judge(&good, &key, &wrong, &[]), Some("pcr-digest"))?;
    tpm.run("tpm2_pcrextend 7:sha256=1111111111111111111111111111111111111111111111111111111111111111");
    let later = tpm.quote("ak", "sha256:0,1,7", nonce);
    ensure("a register that went on", &judge(&later, &key, &values, &[]), Some("pcr-digest"))?;
    ensure("with its new value", &judge(&later, &key, &tpm.values(Hash::Sha256, &[0, 1, 7]), &[]), None)?;
    let mut changed = good.clone();
    changed.0[50] ^= 1;
    ensure("a changed byte", &judge(&changed, &key, &values, &[]), Some("quote-signature"))?;
    let mut longer = good.clone();
    longer.0.push(0);
    ensure("a byte behind it", &judge(&longer, &key, &values, &[]), Some("trailing"))?;
    let mut cut = good;
    cut.1.pop();
    ensure("a cut signature", &judge(&cut, &key, &values, &[]), Some("quote-signature"))
}

/// An attestation that is no quote, and a key that is no attestation key.
fn other_attestations_and_keys() -> Result<(), Failed> {
    let tpm = Machine::start("rsassa");
    let key = tpm.attestation_key("ak");
    let values = tpm.values(Hash::Sha256, &[0]);
    ensure("a quote", &judge(&tpm.quote("ak", "sha256:0", "0102ff"), &key, &values, &[]), None)?;
    // TPM2_GetTime, signed by the same key.
    tpm.run("tpm2_gettime -c ak.ctx -q 0102ff -o sig --attestation msg -g sha256");
    let time = (tpm.file("msg"), tpm.file("sig"));
    ensure("the time", &judge(&time, &key, &values, &[]), Some("not-a-quote"))?;

    tpm.run("tpm2_createprimary -C o -G rsa2048 -c parent.ctx");
    tpm.run("tpm2_create -C parent.ctx -G rsa2048:rsassa-sha256:null -u free.pub -r free.priv -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign");
    match PublicKey::attestation_key(&tpm.file("free.pub")) {
        Err(KeyError::Attributes(found)) if found >> 16 & 1 == 0 => Ok(()),
        other => Err(format!("a key that signs anything: {other:?}").into()),
    }
}

/// A public key for a certificate, as its issuer gets it.
struct Certified(Vec<u8>);

impl PublicKeyData for Certified {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The verdict follows the certificate of the attestation key.
fn attestation_key_certificate() -> Result<(), Failed> {
    let tpm = Machine::start("ecdsa");
    let key = tpm.attestation_key("ak");
    let other = tpm.attestation_key("other");
    let values = tpm.values(Hash::Sha256, &[0]);
    let (message, signature) = tpm.quote("ak", "sha256:0", "0102ff");
    let issuer = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().der().to_vec(), Issuer::new(params, key))
    };
    let ((root, by_root), (stranger, _)) = (issuer("root"), issuer("root"));
    let certificate = |key: &PublicKey, purpose: u64| {
        let PublicKey::Ec { point, .. } = key else { panic!("not on a curve") };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, purpose])];
        params.signed_by(&Certified(point.clone()), &by_root).unwrap().der().to_vec()
    };
    let judge = |leaf: Vec<u8>, anchor: &Vec<u8>, at: u64| {
        let ak_trust = AkTrust::Certificate { chain: vec![leaf], anchors: vec![anchor.clone()], at };
        let nonce = Some(vec![0x01, 0x02, 0xFF]);
        let options = Options { ak_trust, missing: Missing::Undecided, required: Vec::new(), nonce };
        verify(&message, &Signature::parse(&signature), &key, Some(&values), &options)
    };
    ensure("its certificate", &judge(certificate(&key, 3), &root, NOW), None)?;
    ensure("that of another key", &judge(certificate(&other, 3), &root, NOW), Some("ak-trust"))?;
    ensure("that of an endorsement key", &judge(certificate(&key, 1), &root, NOW), Some("ak-trust"))?;
    ensure("another anchor", &judge(certificate(&key, 3), &stranger, NOW), Some("ak-trust"))?;
    ensure("another time", &judge(certificate(&key, 3), &root, 0), Some("ak-trust"))
}

/// swtpm's own authority certifies the endorsement key that the TPM has, and a credential for it comes back.
fn endorsement_key_certificate() -> Result<(), Failed> {
    let (Maker { issuer, root }, tpm) = Maker::make();
    let leaf = tpm.file("ek.der");
    // The authority was made just now.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let certified = |purpose, leaf: &Vec<u8>, anchor: &Vec<u8>, at| {
        certificate::verify(&[leaf.clone(), issuer.clone()], std::slice::from_ref(anchor), purpose, at)
    };
    let ek = certified(Purpose::EndorsementKey, &leaf, &root, now)?;
    let (own, _, _) = PublicKey::from_tpm2b(&tpm.file("ek.pub")).unwrap();
    assert_eq!(ek, own, "the endorsement key of the TPM");
    let refused = certified(Purpose::AttestationKey, &leaf, &root, now).unwrap_err();
    assert_eq!(refused, CertificateError::Purpose("an attestation key of a TPM"));
    assert!(matches!(certified(Purpose::EndorsementKey, &leaf, &root, 0), Err(CertificateError::Window { .. })));
    assert_eq!(certified(Purpose::EndorsementKey, &leaf, &leaf, now), Err(CertificateError::Anchor));
    let mut changed = leaf.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(
        certified(Purpose::EndorsementKey, &changed, &root, now),
        Err(CertificateError::Issuer(1, Refused::Signature))
    );
    // From the certificate to the attestation key.
    tpm.make_attestation_key("ak", "rsa", "rsassa");
    match activate(&tpm, "ak.name", &ek) {
        Ok(true) => Ok(()),
        other => Err(format!("the secret does not come back: {other:?}").into()),
    }
}

/// Lets the TPM activate a credential for the key `ak` that was made for that name and that endorsement key; whether
/// the secret came back.
fn activate(tpm: &Tpm, name: &str, ek: &PublicKey) -> Result<bool, String> {
    let secret = b"only for this key in this TPM";
    let credential = credential::make(ek, &tpm.file(name), secret, &[0x5E; 32]).unwrap();
    tpm.activate("ak", &credential.to_file()).map(|found| found == secret)
}

/// A secret for this attestation key in this TPM comes back; for another one it does not.
fn credential_activates() -> Result<(), Failed> {
    let tpm = Tpm::start();
    let (ek, _, _) = PublicKey::from_tpm2b(&tpm.file("ek.pub")).unwrap();
    tpm.make_attestation_key("ak", "rsa", "rsassa");
    tpm.make_attestation_key("other", "rsa", "rsassa");
    match activate(&tpm, "ak.name", &ek) {
        Ok(true) => {}
        other => return Err(format!("the secret does not come back: {other:?}").into()),
    }
    if let Ok(same) = activate(&tpm, "other.name", &ek) {
        return Err(format!("the secret of another key came back: {same}").into());
    }
    let (another, _, _) = PublicKey::from_tpm2b(&Tpm::start().file("ek.pub")).unwrap();
    match activate(&tpm, "ak.name", &another) {
        Err(_) => Ok(()),
        Ok(same) => Err(format!("the secret for another TPM came back: {same}").into()),
    }
}
