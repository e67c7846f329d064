//! Trust in the key of a TPM by certificate and by credential, as a user of `belljar evidence` gets it: with a live TPM
//! (swtpm, asked with tpm2-tools). Where these are not installed, the trials are listed as ignored and never as passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::Command;

use belljar_evidence::pem;
use belljar_testpki::swtpm::{MAKER_TOOLS, Maker, TOOLS, Tpm, installed};
use libtest_mimic::{Arguments, Failed, Trial};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use serde_json::{Value, json};

fn main() {
    let missing = !installed(&TOOLS) || !installed(&MAKER_TOOLS);
    if missing {
        eprintln!("swtpm, its setup or tpm2-tools are not installed: no live TPM is asked");
    }
    let trials = vec![
        Trial::test("attestation_key_certificate", attestation_key_certificate),
        Trial::test("credential", credential),
    ];
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Runs the program in a folder; its exit code, the JSON it prints, and what it complains about.
fn belljar(folder: &Path, line: &str) -> (i32, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_belljar"))
        .args(line.split(' '))
        .args(["--format", "json"])
        .current_dir(folder)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json, String::from_utf8(output.stderr).unwrap())
}

/// Expects an exit code, and words in the answer or the complaint.
fn expect(folder: &Path, line: &str, code: i32, words: &str) -> Result<Value, Failed> {
    let (found, answer, complaint) = belljar(folder, line);
    if found == code && (complaint.contains(words) || answer.to_string().contains(words)) {
        return Ok(answer);
    }
    Err(format!("{line}: expected {code} and {words:?}, found {found}: {answer:#}\n{complaint}").into())
}

/// Evidence in the JSON of Confidential Containers, by the key of that name, into `evidence.json`.
fn write_evidence(tpm: &Tpm, key: &str, scheme: &str) {
    let (message, signature) = tpm.quote(key, scheme, "sha256:0,1,2", "0102ff");
    let values = (0..3).map(|register| {
        tpm.run(&format!("tpm2_pcrread sha256:{register} -o value"));
        hex::encode(tpm.file("value"))
    });
    let quote = json!({
        "signature": hex::encode(signature), "message": hex::encode(message), "pcrs": values.collect::<Vec<_>>(),
    });
    let evidence = json!({ "ak_public": tpm.file(&format!("{key}.pem")), "tpm_quote": quote });
    std::fs::write(tpm.path().join("evidence.json"), evidence.to_string()).unwrap();
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

/// The verdict on a quote follows the certificate of its key, and the certificate the anchors.
fn attestation_key_certificate() -> Result<(), Failed> {
    let tpm = Tpm::start();
    tpm.make_attestation_key("ak", "ecc", "ecdsa");
    tpm.make_attestation_key("other", "ecc", "ecdsa");
    write_evidence(&tpm, "ak", "ecdsa");
    let write = |name: &str, bytes: &[u8]| std::fs::write(tpm.path().join(name), bytes).unwrap();

    let named = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
        params
    };
    let authority = |name: &str, length: u8| {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params, KeyPair::generate().unwrap())
    };
    let ((root, root_key), (issuer, issuer_key)) = (authority("root", 1), authority("issuer", 0));
    let (stranger, stranger_key) = authority("root", 1);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let stranger_pem = stranger.self_signed(&stranger_key).unwrap().pem();
    let by_root = Issuer::new(root, root_key);
    let issuer_pem = issuer.signed_by(&issuer_key, &by_root).unwrap().pem();
    let by_issuer = Issuer::new(issuer, issuer_key);
    let leaf = |key: &str, purpose: u64| {
        // SubjectPublicKeyInfo on P-256: the point is at the end.
        let text = tpm.file(&format!("{key}.pem"));
        let (_, spki) = x509_cert::der::pem::decode_vec(text.trim_ascii()).unwrap();
        let mut params = named("attestation key");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, purpose])];
        params.signed_by(&Certified(spki[spki.len() - 65..].to_vec()), &by_issuer).unwrap()
    };
    let own = leaf("ak", 3);
    write("root.pem", root_pem.as_bytes());
    write("stranger.pem", stranger_pem.as_bytes());
    write("both.pem", [stranger_pem, root_pem].concat().as_bytes());
    write("issuer.pem", issuer_pem.as_bytes());
    write("own.pem", [own.pem(), issuer_pem.clone()].concat().as_bytes());
    write("own.der", own.der());
    write("other.pem", [leaf("other", 3).pem(), issuer_pem.clone()].concat().as_bytes());
    write("purpose.pem", [leaf("ak", 1).pem(), issuer_pem].concat().as_bytes());

    let verify = |options: &str, code, words| {
        expect(tpm.path(), &format!("evidence verify evidence.json{options}"), code, words)
    };
    verify("", 3, "nothing says which TPM the key")?;
    let answer = verify(" --ak-certificate own.pem --anchor root.pem", 0, "a certificate of the key")?;
    assert_eq!((&answer["verdict"], &answer["first_failure"]), (&json!("valid"), &Value::Null));
    verify(" --ak-certificate own.pem --anchor both.pem", 0, "a certificate of the key")?;
    verify(" --ak-certificate own.der --anchor issuer.pem", 0, "a certificate of the key")?;
    verify(" --ak-certificate own.pem --anchor root.pem --nonce 0102ff", 0, "valid")?;
    let refusals = [
        (" --ak-certificate own.pem --anchor root.pem --nonce 0102fe", "\"first_failure\":\"nonce\""),
        (" --ak-certificate own.pem --anchor stranger.pem", "the last certificate is no anchor"),
        (" --ak-certificate own.der --anchor root.pem", "the last certificate is no anchor"),
        (" --ak-certificate other.pem --anchor root.pem", "\"first_failure\":\"ak-trust\""),
        (" --ak-certificate purpose.pem --anchor root.pem", "is for an attestation key of a TPM"),
        (" --ak-certificate own.pem --anchor root.pem --at 2019-12-31T23:59:59Z", "valid from"),
    ];
    for (options, words) in refusals {
        verify(options, 1, words)?;
    }
    // Options that would decide nothing, and files that are no certificates.
    let unused = [
        (" --ak-certificate own.pem", "--anchor"),
        (" --anchor root.pem", "--anchor has no meaning"),
        (" --at 2026-01-01T00:00:00Z", "--at has no meaning"),
        (" --collateral .", "--collateral has no meaning"),
        (" --vek own.der", "--vek has no meaning"),
        (" --ak-certificate ak.pem --anchor root.pem", "holds no certificate"),
    ];
    for (options, words) in unused {
        verify(options, 2, words)?;
    }
    let listed = format!(" --ak-certificate own.pem --anchor root.pem --trusted-ak {}", "00".repeat(32));
    verify(&listed, 2, "--trusted-ak")?;
    Ok(())
}

/// From the certificate of an endorsement key to trust in an attestation key of the same TPM.
fn credential() -> Result<(), Failed> {
    let (maker, tpm) = Maker::make();
    tpm.make_attestation_key("ak", "rsa", "rsassa");
    tpm.make_attestation_key("other", "rsa", "rsassa");
    let write = |name: &str, text: &str| std::fs::write(tpm.path().join(name), text).unwrap();
    write("ek.pem", &[pem::encode(&tpm.file("ek.der")), pem::encode(&maker.issuer)].concat());
    write("root.pem", &pem::encode(&maker.root));
    write("issuer.pem", &pem::encode(&maker.issuer));
    let make =
        |options: &str, code, words| expect(tpm.path(), &format!("evidence credential make {options}"), code, words);
    let check = |answer: &str, challenge: &str, code| {
        let line = format!("evidence credential check {answer} --challenge {challenge}.json");
        expect(tpm.path(), &line, code, if code == 0 { "\"valid\"" } else { "" })
    };

    let made = make("--ak ak.pub --ek-certificate ek.pem --anchor root.pem --out one --challenge one.json", 0, "ak")?;
    make("--ak other.pub --ek-certificate ek.pem --anchor root.pem --out two --challenge two.json", 0, "ak")?;
    let secret = tpm.activate("ak", &tpm.file("one"))?;
    assert!(tpm.activate("other", &tpm.file("one")).is_err(), "another key of the same TPM");
    assert!(tpm.activate("ak", &tpm.file("two")).is_err(), "the credential of another key");
    std::fs::write(tpm.path().join("answer"), &secret).unwrap();
    let answer = check("answer", "one", 0)?;
    assert_eq!((&answer["ak"], &answer["ek"]), (&made["ak"], &made["ek"]));
    // The key that it names is the one of the quote.
    write_evidence(&tpm, "ak", "rsassa");
    let trusted = answer["ak"].as_str().unwrap();
    expect(tpm.path(), &format!("evidence verify evidence.json --trusted-ak {trusted}"), 0, "valid")?;
    expect(tpm.path(), "evidence verify evidence.json", 3, "nothing says which TPM the key")?;

    // Another answer, and the same one to another challenge.
    let mut changed = secret.clone();
    changed[0] ^= 1;
    std::fs::write(tpm.path().join("changed"), &changed).unwrap();
    std::fs::write(tpm.path().join("longer"), [&secret[..], b"\n"].concat()).unwrap();
    for (answer, challenge) in [("changed", "one"), ("longer", "one"), ("answer", "two")] {
        assert_eq!(check(answer, challenge, 1)?["verdict"], "invalid", "{answer} to {challenge}");
    }
    let text = String::from_utf8(tpm.file("one.json")).unwrap();
    assert!(!text.contains(&hex::encode(&secret)), "the secret is kept");
    write("strange.json", &text.replace("\"ak\"", "\"key\""));
    check("answer", "strange", 2)?;

    // A key that signs anything, and certificates that do not lead here.
    tpm.run("tpm2_createprimary -C o -G rsa2048 -c parent.ctx");
    tpm.run("tpm2_create -C parent.ctx -G rsa2048:rsassa-sha256:null -u free.pub -r free.priv -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign");
    write("cut.pub", "");
    write("stranger.pem", &pem::encode(&Maker::make().0.root));
    let refusals = [
        ("--ak free.pub --ek-certificate ek.pem --anchor root.pem", "an attestation key is fixed to its TPM"),
        ("--ak cut.pub --ek-certificate ek.pem --anchor root.pem", "not a public key in TPM2B_PUBLIC"),
        ("--ak ak.pub --ek-certificate ek.pem --anchor stranger.pem", "the last certificate is no anchor"),
        ("--ak ak.pub --ek-certificate ek.der --anchor root.pem", "the last certificate is no anchor"),
        ("--ak ak.pub --ek-certificate ek.pem --anchor root.pem --at 2001-01-01T00:00:00Z", "valid from"),
        ("--ak ak.pub --ek-certificate issuer.pem --anchor root.pem", "an endorsement key of a TPM"),
    ];
    for (options, words) in refusals {
        make(&format!("{options} --out three --challenge three.json"), 1, words)?;
        assert!(!tpm.path().join("three").exists() && !tpm.path().join("three.json").exists(), "{options}");
    }
    make("--ak ak.pub --ek-certificate ek.der --anchor issuer.pem --out three --challenge three.json", 0, "ak")?;
    // What waits for an answer is not replaced.
    make("--ak ak.pub --ek-certificate ek.pem --anchor root.pem --out four --challenge one.json", 2, "cannot make")?;
    check("answer", "one", 0)?;
    Ok(())
}
