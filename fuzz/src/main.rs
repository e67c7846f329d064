//! One program, one parser at a time: `BELLJAR_FUZZ=NAME` chooses it. `--list` is `BELLJAR_FUZZ=list`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// A parser that takes any bytes.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("agent-channel", belljar_agent::service::fuzz::fuzz),
    ("agent-network", belljar_agent::network::settings::fuzz),
    ("agent-quote", belljar_agent::tee::quote::fuzz),
    ("appraisal-case", belljar_appraisal::case::fuzz),
    ("appraisal-corim", belljar_appraisal::reference::corim::fuzz),
    ("appraisal-pod", belljar_appraisal::reference::pod::fuzz),
    ("appraisal-rego", belljar_appraisal::rego::fuzz),
    ("appraisal-rules", belljar_appraisal::release::fuzz),
    ("appraisal-rvps", belljar_appraisal::reference::rvps::fuzz),
    ("attested-wire", belljar_attested::wire::fuzz),
    ("broker-admin", belljar_broker::fuzz),
    ("broker-settings", belljar_broker::settings::fuzz),
    ("collateral-bundle", belljar_collateral::Bundle::fuzz),
    ("collateral-document", belljar_collateral::Document::fuzz),
    ("contract", belljar_contract::parse::fuzz),
    ("contract-disk", belljar_contract::disk::fuzz),
    ("contract-host-value", belljar_contract::host_value::fuzz),
    ("contract-initdata", belljar_contract::initdata::fuzz),
    ("evidence-cert-table", belljar_evidence::snp::CertTable::fuzz),
    ("evidence-certificate", belljar_evidence::snp::Certificate::fuzz),
    ("evidence-event-log", belljar_evidence::eventlog::Log::fuzz),
    ("evidence-hcl", belljar_evidence::azure::HclReport::fuzz),
    ("evidence-id-block", belljar_evidence::snp::IdAuth::fuzz),
    ("evidence-intel-chain", belljar_evidence::dcap::Chain::fuzz),
    ("evidence-intel-crl", belljar_evidence::dcap::Crl::fuzz),
    ("evidence-kind", |data| drop(belljar_evidence::Kind::of(data))),
    ("evidence-pck", belljar_evidence::dcap::Pck::fuzz),
    ("evidence-qe-identity", belljar_evidence::dcap::QeIdentity::fuzz),
    ("evidence-quote", belljar_evidence::dcap::Quote::fuzz),
    ("evidence-list", belljar_evidence::snp::Crl::fuzz),
    ("evidence-report", belljar_evidence::snp::Report::fuzz),
    ("evidence-tcb-info", belljar_evidence::dcap::TcbInfo::fuzz),
    ("evidence-tpm-certificate", belljar_evidence::tpm::certificate::fuzz),
    ("evidence-tpm-key", belljar_evidence::tpm::PublicKey::fuzz),
    ("evidence-tpm-quote", belljar_evidence::tpm::Quote::fuzz),
    ("evidence-tpm-signature", belljar_evidence::tpm::Signature::fuzz),
    ("verifier-evidence", belljar_verifier::input::fuzz),
    ("fraud-csv", |data| drop(fraud_scoring::csv::parse(data))),
    ("fraud-model", |data| drop(fraud_scoring::model::Model::parse(data))),
    ("guest-api-softport", belljar_guest_api::softport::fuzz),
    ("guest-image-bzimage", belljar_guest_image::fuzz_bzimage),
    ("guest-image-elf", belljar_guest_image::fuzz_elf),
    ("guest-image-manifest", belljar_guest_image::fuzz_manifest),
    ("image-documents", belljar_image::fuzz_documents),
    ("image-layer", |data| drop(belljar_image::convert::fuzz(data))),
    ("image-reference", |data| {
        if let Ok(text) = std::str::from_utf8(data) {
            let _ = text.parse::<belljar_image::Reference>();
        }
    }),
    ("kube-manifest", belljar_kube::fuzz),
    ("kube-yaml", belljar_kube::yaml::fuzz),
    ("measure-ovmf", belljar_measure::fuzz_ovmf),
    ("measure-sgx", belljar_measure::sgx::fuzz),
    ("measure-tdx", belljar_measure::tdx::fuzz),
    ("node-cri", belljar_node::containerd::fuzz),
    ("rcar-jwe", belljar_rcar::jwe::fuzz),
    ("rcar-wire", belljar_rcar::wire::fuzz),
    ("shim-bootstrap", belljar_shim::bootstrap::fuzz),
    ("shim-bundle", belljar_shim::bundle::fuzz),
    ("shim-sandbox-config", belljar_shim::sandbox_config::fuzz),
    ("softtee-qemu", belljar_softtee::CommandLine::fuzz),
    ("store-backup", belljar_store::fuzz_backup),
    ("store-stored", belljar_store::fuzz_stored),
    ("vmm", belljar_vmm::fuzz),
];

static CHOSEN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("BELLJAR_FUZZ").unwrap_or_default();
    match TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, target)) => *target,
        None => {
            for (target, _) in TARGETS {
                println!("{target}");
            }
            std::process::exit(if name == "list" { 0 } else { 2 });
        }
    }
});

fuzz_target!(init: { LazyLock::force(&CHOSEN); }, |data: &[u8]| (*CHOSEN)(data));
