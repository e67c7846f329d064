//! Names of the checks of a hardware report inside of a virtual TPM's evidence.

/// Checks of an SNP report, under the names of [`crate::snp::verify`].
const SNP: &[(&str, &str)] = &[
    ("length", "snp:length"),
    ("version", "snp:version"),
    ("signature-algo", "snp:signature-algo"),
    ("signature-reserved", "snp:signature-reserved"),
    ("report-signature", "snp:report-signature"),
    ("vek-issuer", "snp:vek-issuer"),
    ("chain-to-anchor", "snp:chain-to-anchor"),
    ("cert-validity", "snp:cert-validity"),
    ("crl-signature", "snp:crl-signature"),
    ("crl-time", "snp:crl-time"),
    ("crl-revoked", "snp:crl-revoked"),
    ("signing-key", "snp:signing-key"),
    ("tcb", "snp:tcb"),
    ("chip-id", "snp:chip-id"),
    ("product", "snp:product"),
    ("reserved", "snp:reserved"),
    ("vmpl", "snp:vmpl"),
];

/// Checks of a TD quote, under the names of [`crate::dcap::Verifier::verify`].
const TD_QUOTE: &[(&str, &str)] = &[
    ("parse", "td-quote:parse"),
    ("qe-vendor", "td-quote:qe-vendor"),
    ("cert-type", "td-quote:cert-type"),
    ("ak-not-on-curve", "td-quote:ak-not-on-curve"),
    ("quote-signature", "td-quote:quote-signature"),
    ("qe-report-signature", "td-quote:qe-report-signature"),
    ("ak-binding", "td-quote:ak-binding"),
    ("tee-type", "td-quote:tee-type"),
    ("pck-chain", "td-quote:pck-chain"),
    ("pck-time", "td-quote:pck-time"),
    ("pck-extension", "td-quote:pck-extension"),
    ("pck-crl-signature", "td-quote:pck-crl-signature"),
    ("pck-crl-time", "td-quote:pck-crl-time"),
    ("pck-revoked", "td-quote:pck-revoked"),
    ("root-crl-signature", "td-quote:root-crl-signature"),
    ("root-crl-time", "td-quote:root-crl-time"),
    ("ca-revoked", "td-quote:ca-revoked"),
    ("tcb-info-signature", "td-quote:tcb-info-signature"),
    ("tcb-info-time", "td-quote:tcb-info-time"),
    ("tcb-info-id", "td-quote:tcb-info-id"),
    ("tcb-info-fmspc", "td-quote:tcb-info-fmspc"),
    ("tcb-info-pceid", "td-quote:tcb-info-pceid"),
    ("tdx-module", "td-quote:tdx-module"),
    ("qe-identity-signature", "td-quote:qe-identity-signature"),
    ("qe-identity-time", "td-quote:qe-identity-time"),
    ("qe-identity-id", "td-quote:qe-identity-id"),
    ("qe-identity-match", "td-quote:qe-identity-match"),
];

/// The name of an SNP report's check; one that is not listed is `snp`.
pub(super) fn snp(name: &str) -> &'static str {
    of(SNP, name).unwrap_or("snp")
}

/// The name of a TD quote's check; one that is not listed is `td-quote`.
pub(super) fn td_quote(name: &str) -> &'static str {
    of(TD_QUOTE, name).unwrap_or("td-quote")
}

fn of(list: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    list.iter().find(|(own, _)| *own == name).map(|(_, prefixed)| *prefixed)
}
