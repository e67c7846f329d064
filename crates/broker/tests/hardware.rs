//! Real attestation reports through the whole handshake: the evidence counts as hardware, and is refused all the same,
//! because it answers another challenge.
//!
//! The reports are not part of the repository: where they are missing, the trial is listed as ignored, never as passed.
//! `BELLJAR_VECTORS` names another folder than `../shared/vectors`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_broker::{Anchors, Outcome, Reference, Workload};
use belljar_rcar::{
    InitData, Tee,
    snp::{CertEntry, CertType, SnpEvidence},
};
use common::{DOCUMENT, World, refusal, workload};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn main() {
    let folder = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let trials = match std::fs::read(folder.join("vectors.json")) {
        Ok(index) => {
            let index: Vec<Value> = serde_json::from_slice(&index).unwrap();
            let real = |entry: &Value| {
                entry["kind"] == "snp" && entry["expect"]["verdict"] == "valid" && entry["synthetic"] != true
            };
            let real = index.into_iter().filter(real).map(|entry| {
                let (folder, id) = (folder.clone(), entry["id"].as_str().unwrap().to_owned());
                Trial::test(format!("hardware::{id}"), move || handshake(&folder, &entry))
            });
            real.collect()
        }
        Err(error) => {
            eprintln!("no vectors at {} ({error}): the real reports are not tried", folder.display());
            vec![Trial::test("hardware::real_reports", || Err("not run".into())).with_ignored_flag(true)]
        }
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn handshake(folder: &Path, entry: &Value) -> Result<(), Failed> {
    let read = |role: &str| std::fs::read(folder.join(entry["files"][role].as_str().unwrap())).unwrap();
    let (raw, vek) = (read("evidence"), der(read("vek")));
    let is_vlek = entry["id"].as_str().unwrap().contains("vlek");
    let cert_type = if is_vlek { CertType::VLEK } else { CertType::VCEK };
    let evidence = SnpEvidence::with_chain(&raw, Some(vec![CertEntry { cert_type, data: vek }])).unwrap();
    assert_eq!(evidence.report_bytes().unwrap()[..], raw[..]);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::with(|config| {
            config.trust.amd = Anchors::amd();
            config.allow_software_tee = false;
            config.policy = belljar_broker::own_machines();
            let mut expected = Workload { initdata_digest: raw[0xc0..0xe0].try_into().unwrap(), ..workload() };
            expected.references[0] = Reference::snp("real", "the vectors", raw[0x90..0xc0].try_into().unwrap());
            config.workloads = vec![expected];
        })
        .await;
        // Some of the endorsement keys have expired by now.
        world.clock.set(seconds(entry["expect"]["at"].as_str().unwrap()));
        let mut client = world.client().await;
        client.auth(Tee::Snp).await.unwrap();
        let error = client.attest(&evidence.into(), Some(InitData::toml(DOCUMENT))).await.unwrap_err();
        assert_eq!(refusal(error).1, "AttestationError");
        let record = world.last();
        assert_eq!(record.denial.as_ref().unwrap().claim, "report_data");
        let passed = |name: &str| record.check(name).unwrap().outcome == Outcome::Passed;
        for name in ["report-signature", "chain-to-anchor", "tcb", "root", "host_data", "measurement"] {
            assert!(passed(name), "{name}: {:?}", record.check(name));
        }
        assert_eq!(record.check("root").unwrap().found, "hardware");
        assert_eq!((record.tee.as_str(), record.trust_vector.hardware), ("snp", 2));
        // The policy decides by the facts of each report.
        let debug = raw[0x0a] & 1 << 3 != 0;
        let vmpl = raw[0x30] != 0;
        assert_eq!((passed("debug"), passed("flags")), (!debug, !vmpl));
    });
    Ok(())
}

fn der(file: Vec<u8>) -> Vec<u8> {
    if !file.starts_with(b"-----BEGIN") {
        return file;
    }
    let text = String::from_utf8(file).unwrap();
    STANDARD.decode(text.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}

/// Seconds since 1970 of `2025-12-06T06:04:27Z`.
fn seconds(text: &str) -> u64 {
    let parts: Vec<u64> = text.split(['-', 'T', ':', 'Z']).take(6).map(|part| part.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = parts[..] else { panic!("{text}") };
    // Years that begin in March, so that the leap day is the last.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}
