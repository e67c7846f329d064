//! The quote itself.

use crate::{Base, Case, Change};

const TDX: Base = Base::Tdx4;
const TDX5: Base = Base::Tdx5;
const SGX: Base = Base::Sgx3;

/// Offset of the signature's length in a quote of version 4 of a TD.
const LENGTH: usize = 48 + 584;

pub const CASES: &[Case] = &[
    ("attestation_key_not_bound", TDX, Change::World(|w| w.quote.binding = false), "ak-binding"),
    (
        "qe_report_data_with_a_tail",
        SGX,
        Change::World(|w| {
            w.quote.binding = false;
            let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
            hash.update(&w.keys.attestation.point()[1..]);
            hash.update(&w.quote.auth);
            w.quote.qe.report_data = [0; 64];
            w.quote.qe.report_data[..32].copy_from_slice(hash.finish().as_ref());
            w.quote.qe.report_data[63] = 1;
        }),
        "ak-binding",
    ),
    ("quote_signed_by_another_key", TDX, Change::World(|w| w.quote_signer = w.keys.other.clone()), "quote-signature"),
    ("quote_signed_by_the_pck", SGX, Change::World(|w| w.quote_signer = w.keys.pck.clone()), "quote-signature"),
    (
        "qe_report_signed_by_another_key",
        TDX,
        Change::World(|w| w.qe_report_signer = w.keys.other.clone()),
        "qe-report-signature",
    ),
    (
        "qe_report_signed_by_the_attestation_key",
        TDX5,
        Change::World(|w| w.qe_report_signer = w.keys.attestation.clone()),
        "qe-report-signature",
    ),
    ("another_vendor", TDX, Change::World(|w| w.quote.vendor = [0; 16]), "qe-vendor"),
    ("another_key_type", TDX, Change::World(|w| w.quote.key_type = 3), "parse"),
    ("another_version", SGX, Change::World(|w| w.quote.version = 2), "parse"),
    ("unknown_tee", TDX, Change::World(|w| w.quote.tee_type = 0x82), "parse"),
    ("signed_with_the_tee_type_of_an_enclave", TDX5, Change::World(|w| w.quote.tee_type = 0), "tee-type"),
    ("signed_with_an_unknown_tee_type", TDX5, Change::World(|w| w.quote.tee_type = 0x82), "tee-type"),
    ("enclave_with_the_tee_type_of_a_td", SGX, Change::World(|w| w.quote.tee_type = 0x81), "tee-type"),
    ("body_of_another_type", TDX5, Change::World(|w| w.quote.body = Some((2, 648))), "parse"),
    ("body_of_another_size", TDX5, Change::World(|w| w.quote.body = Some((3, 584))), "parse"),
    ("body_of_an_unknown_type", TDX5, Change::World(|w| w.quote.body = Some((9, 648))), "parse"),
    ("body_of_type_4_without_its_tail", TDX5, Change::World(|w| w.quote.body = Some((4, 648))), "parse"),
    ("certification_type_4", TDX, Change::World(|w| w.quote.certification = 4), "cert-type"),
    ("certification_type_6", SGX, Change::World(|w| w.quote.certification = 6), "cert-type"),
    ("certification_type_7", TDX, Change::World(|w| w.quote.certification = 7), "cert-type"),
    ("outer_certification_type_5", TDX, Change::World(|w| w.quote.outer = 5), "parse"),
    (
        "certificates_that_are_none",
        TDX,
        Change::Made(|m| {
            let at = m.quote.windows(5).position(|bytes| bytes == b"-----").unwrap();
            m.quote[at] = b'+';
        }),
        "parse",
    ),
    ("cut_by_a_byte", TDX, Change::Made(|m| m.quote.truncate(m.quote.len() - 1)), "parse"),
    ("length_of_the_signature_too_small", TDX, Change::Made(|m| m.quote[LENGTH] -= 1), "parse"),
    ("length_of_the_signature_huge", TDX, Change::Made(|m| m.quote[LENGTH + 3] = 0xFF), "parse"),
    ("signature_r_zero", TDX, Change::Made(|m| m.quote[LENGTH + 4..LENGTH + 36].fill(0)), "quote-signature"),
    ("signature_s_zero", TDX, Change::Made(|m| m.quote[LENGTH + 36..LENGTH + 68].fill(0)), "quote-signature"),
    ("attestation_key_zero", TDX, Change::Made(|m| m.quote[LENGTH + 68..LENGTH + 132].fill(0)), "ak-not-on-curve"),
    ("measurement_changed", TDX, Change::Made(|m| m.quote[48 + 136] ^= 1), "quote-signature"),
    ("header_changed", SGX, Change::Made(|m| m.quote[30] ^= 1), "quote-signature"),
    ("empty", TDX, Change::Made(|m| m.quote.clear()), "parse"),
    ("longer_than_any", TDX, Change::Made(|m| m.quote.resize(64 * 1024 + 1, 0)), "parse"),
];
