//! Verifications per second on one core, as ratios in one run: ours cold (nothing remembered) and warm (chain and
//! collateral verified before), the peers `sev` and `dcap-qvl`, and the bare signatures that the evidence needs, on the
//! same vectors: `cargo bench -p belljar-evidence --bench verify [-- ROUNDS]`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code)]

#[path = "../tests/vectors/dcap.rs"]
mod dcap;
#[path = "../tests/vectors/dcap_peer.rs"]
mod dcap_peer;
#[path = "../tests/vectors/index.rs"]
mod index;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use belljar_evidence::dcap::{Chain as PckChain, Options, Quote, Verifier as DcapVerifier};
use belljar_evidence::snp::{Anchors, Certificate, Chain, Report, Verifier as SnpVerifier, verify as verify_snp};
use dcap::Evidence;
use index::{Index, der, seconds};
use serde_json::Value;

/// Verifications of one kind in a row, of each round.
const IN_A_ROW: u32 = 20;

fn main() {
    let folder = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let Ok(index) = Index::read(&folder) else {
        eprintln!("no vectors at {}: nothing was measured", folder.display());
        return;
    };
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(60);
    println!("medians of {rounds} rounds of {IN_A_ROW}, one thread\n");
    for id in ["snp-milan-v5-gcp", "snp-turin-v5"] {
        snp(&index, index.of_kind("snp").find(|entry| entry["id"] == id).unwrap(), rounds);
    }
    for id in ["tdx-v4-phala", "tdx-v5-google", "sgx-v3-automata-00606a"] {
        let mut quotes = index.of_kind("tdx").chain(index.of_kind("sgx"));
        quote(&index, quotes.find(|entry| entry["id"] == id).unwrap(), rounds);
    }
}

fn snp(index: &Index, entry: &Value, rounds: usize) {
    use sev::certs::snp::Verifiable;
    use sev::firmware::guest::AttestationReport;
    use sev::parser::ByteParser;

    let file = |role: &str| index.file(&entry["files"][role]);
    let chain =
        Chain { ark: der(file("anchor")), ask: der(file("intermediate")), vek: der(file("vek")), ..Chain::default() };
    let (report, at) = (file("evidence"), seconds(entry["expect"]["at"].as_str().unwrap()));
    let anchors = Anchors::amd();
    let warm = SnpVerifier::new(Anchors::amd());
    let vek = Certificate::parse(&chain.vek).unwrap();
    let parsed = Report::parse(&report).unwrap();
    let (key, signature) = (vek.p384_key().unwrap(), parsed.signature().unwrap());
    let bare = || {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(parsed.signed_bytes(), &signature).unwrap();
    };
    let peer = || {
        let chain = sev::certs::snp::Chain::from_der(&chain.ark, &chain.ask, &chain.vek).unwrap();
        (&chain, &AttestationReport::from_bytes(&report).unwrap()).verify().unwrap();
    };
    let peer_warm_chain = sev::certs::snp::Chain::from_der(&chain.ark, &chain.ask, &chain.vek).unwrap();
    let peer_warm = || {
        (&peer_warm_chain.vek, &AttestationReport::from_bytes(&report).unwrap()).verify().unwrap();
    };
    measure(
        entry["id"].as_str().unwrap(),
        "sev",
        "one P-384 verification",
        rounds,
        &mut [
            ("cold", &mut || assert!(verify_snp(&report, &chain, &anchors, at, &Options::UNASKED).is_valid())),
            ("warm", &mut || assert!(warm.verify(&report, &chain, at, &Options::UNASKED).is_valid())),
            ("peer cold", &mut || peer()),
            ("bare", &mut || bare()),
            ("peer, report alone", &mut || peer_warm()),
        ],
    );
}

fn quote(index: &Index, entry: &Value, rounds: usize) {
    let evidence = Evidence::read(index, entry);
    let options = Options::default();
    let warm = DcapVerifier::new(&evidence.collateral, evidence.anchors.clone());
    let collateral = dcap_peer::collateral(&evidence).unwrap();
    let root = der(index.file(&entry["files"]["anchor"]));
    let parsed = Quote::parse(&evidence.quote).unwrap();
    let chain = PckChain::parse(&parsed.certification.data).unwrap();
    let pck = chain.leaf().unwrap().point();
    let ak = [&[4][..], &parsed.attestation_key].concat();
    let bare = || {
        let verify = |key: &[u8], message: &[u8], signature: &[u8]| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).unwrap();
        };
        verify(&ak, parsed.signed_bytes(), &parsed.signature);
        verify(pck, parsed.qe_signed_bytes(), &parsed.qe_signature);
    };
    let peer = || {
        let verifier = dcap_qvl::verify::QuoteVerifier::new(root.clone()).allow_debug(true);
        black_box(verifier.verify(&evidence.quote, &collateral, evidence.at).unwrap());
    };
    measure(
        entry["id"].as_str().unwrap(),
        "dcap-qvl",
        "its two P-256 verifications",
        rounds,
        &mut [
            ("cold", &mut || assert!(evidence.verify(&options).is_valid())),
            ("warm", &mut || assert!(warm.verify(&evidence.quote, None, evidence.at, &options).is_valid())),
            ("peer cold", &mut || peer()),
            ("bare", &mut || bare()),
        ],
    );
}

type Case<'a> = (&'a str, &'a mut dyn FnMut());

/// Runs all cases in turn, and prints each median with the ratios that are promised.
fn measure(id: &str, peer: &str, bare: &str, rounds: usize, cases: &mut [Case<'_>]) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for ((_, run), times) in cases.iter_mut().zip(&mut times) {
            let started = Instant::now();
            for _ in 0..IN_A_ROW {
                run();
            }
            times.push(started.elapsed() / IN_A_ROW);
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort();
            times[times.len() / 2].as_secs_f64()
        })
        .collect();
    println!("{id}");
    for ((name, _), median) in cases.iter().zip(&medians) {
        println!("  {name:<20} {:8.1} us  {:8.0} per second", median * 1e6, 1.0 / median);
    }
    println!(
        "  cold against {peer}: {:.2}   warm against {bare}: {:.2}\n",
        medians[0] / medians[2],
        medians[1] / medians[3]
    );
}
