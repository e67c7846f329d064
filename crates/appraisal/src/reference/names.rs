//! Names of reference values, and which claim each is for. The names are upstream's, so that a value that was registered
//! for its policies serves the default policy of ours, and the other way round.

/// A claim that the default policy compares with the values of a measurement set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Name of the reference value.
    pub name: &'static str,
    /// Path of the claim, from the root of the claims.
    pub claim: &'static [&'static str],
    /// Whether a set without the value says too little to be taken.
    pub required: bool,
}

const fn required(name: &'static str, claim: &'static [&'static str]) -> Measured {
    Measured { name, claim, required: true }
}

const fn optional(name: &'static str, claim: &'static [&'static str]) -> Measured {
    Measured { name, claim, required: false }
}

/// Launch digest of an SNP guest.
pub const SNP_LAUNCH: &str = "snp_launch_measurement";
/// Launch digest of a guest of a software TEE. It never serves for hardware, nor hardware's for it.
pub const SOFTWARE_LAUNCH: &str = "software_launch_measurement";

const SNP: &[Measured] = &[
    required(SNP_LAUNCH, &["snp", "measurement"]),
    optional("snp_id_key_digest", &["belljar", "id_key_digest"]),
    optional("snp_author_key_digest", &["belljar", "author_key_digest"]),
];
const SOFTWARE: &[Measured] = &[required(SOFTWARE_LAUNCH, &["snp", "measurement"])];
/// The firmware is in MRTD, the kernel with its initrd and command line in RTMR1 and RTMR2.
const TDX: &[Measured] = &[
    required("mr_td", &["tdx", "quote", "body", "mr_td"]),
    required("rtmr_1", &["tdx", "quote", "body", "rtmr_1"]),
    required("rtmr_2", &["tdx", "quote", "body", "rtmr_2"]),
    optional("rtmr_0", &["tdx", "quote", "body", "rtmr_0"]),
    optional("rtmr_3", &["tdx", "quote", "body", "rtmr_3"]),
    optional("mr_seam", &["tdx", "quote", "body", "mr_seam"]),
    optional("tcb_svn", &["tdx", "quote", "body", "tcb_svn"]),
    optional("xfam", &["tdx", "quote", "body", "xfam"]),
    optional("mr_owner", &["tdx", "quote", "body", "mr_owner"]),
    optional("mr_owner_config", &["tdx", "quote", "body", "mr_owner_config"]),
];
const SGX: &[Measured] = &[
    required("mr_enclave", &["sgx", "body", "mr_enclave"]),
    optional("mr_signer", &["sgx", "body", "mr_signer"]),
    optional("isv_prod_id", &["sgx", "body", "isv_prod_id"]),
    optional("isv_svn", &["sgx", "body", "isv_svn"]),
];
/// The launch digest covers the paravisor; what it starts is in register 11.
const AZ_SNP: &[Measured] = &[
    required("measurement", &["az-snp-vtpm", "measurement"]),
    required("snp_pcr11", &["az-snp-vtpm", "tpm", "pcr11"]),
    optional("snp_pcr04", &["az-snp-vtpm", "tpm", "pcr04"]),
    optional("snp_pcr09", &["az-snp-vtpm", "tpm", "pcr09"]),
    optional("snp_pcr12", &["az-snp-vtpm", "tpm", "pcr12"]),
];
const AZ_TDX: &[Measured] = &[
    required("mr_td", &["az-tdx-vtpm", "quote", "body", "mr_td"]),
    required("tdx_pcr11", &["az-tdx-vtpm", "tpm", "pcr11"]),
    optional("tdx_pcr04", &["az-tdx-vtpm", "tpm", "pcr04"]),
    optional("tdx_pcr09", &["az-tdx-vtpm", "tpm", "pcr09"]),
    optional("tdx_pcr12", &["az-tdx-vtpm", "tpm", "pcr12"]),
    optional("xfam", &["az-tdx-vtpm", "quote", "body", "xfam"]),
];
const TPM: &[Measured] = &[
    required("trusted_aks", &["tpm", "ak_public"]),
    required("tpm_pcr11", &["tpm", "pcr11"]),
    optional("tpm_pcr04", &["tpm", "pcr04"]),
    optional("tpm_pcr09", &["tpm", "pcr09"]),
    optional("tpm_pcr12", &["tpm", "pcr12"]),
];

/// What the default policy compares for a TEE; nothing for one that it does not know.
pub fn measured(tee: &str, software: bool) -> &'static [Measured] {
    match (tee, software) {
        ("snp", false) => SNP,
        ("snp", true) => SOFTWARE,
        ("tdx", _) => TDX,
        ("sgx", _) => SGX,
        ("az-snp-vtpm", _) => AZ_SNP,
        ("az-tdx-vtpm", _) => AZ_TDX,
        ("tpm", _) => TPM,
        _ => &[],
    }
}
