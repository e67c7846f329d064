//! Documents and lists in Intel's shape, signed by keys made for one test run.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};

pub const NOW: u64 = 1_780_000_000;
pub const DAY: u64 = 24 * 60 * 60;
pub const FMSPC: [u8; 6] = [0xB0, 0xC0, 0x6F, 0, 0, 0];
/// When the certificates end.
pub const CERTIFICATES_END: u64 = NOW + 1000 * DAY;

/// A time of rcgen's, whose type it does not name.
macro_rules! time {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
    };
}

/// A root with the authorities and the signer below it.
pub struct Intel {
    pub root: Vec<u8>,
    root_pem: String,
    root_issuer: Issuer<'static, KeyPair>,
    signer: (String, EcdsaKeyPair),
    platform: (String, Issuer<'static, KeyPair>),
    processor: (String, Issuer<'static, KeyPair>),
}

/// What a document or list says.
#[derive(Clone)]
pub struct Claims {
    pub id: &'static str,
    pub issued: u64,
    pub next_update: u64,
    pub number: u32,
    pub fmspc: [u8; 6],
}

impl Claims {
    pub fn of(id: &'static str) -> Self {
        Self { id, issued: NOW - DAY, next_update: NOW + 29 * DAY, number: 20, fmspc: FMSPC }
    }
}

/// A body with the header that comes with it.
pub struct Signed {
    pub body: Vec<u8>,
    pub chain: String,
}

impl Intel {
    pub fn new() -> Self {
        Self::with_signer("Intel SGX TCB Signing")
    }

    /// With another name of the signer.
    pub fn with_signer(signer: &str) -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (root_key, root_params) = (key(), params("Intel SGX Root CA", true));
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let authority = |name: &str| {
            let (key, params) = (key(), params(name, true));
            let pem = params.signed_by(&key, &root_issuer).unwrap().pem();
            (pem, Issuer::new(params, key))
        };
        let (platform, processor) = (authority("Intel SGX PCK Platform CA"), authority("Intel SGX PCK Processor CA"));
        let signer_key = key();
        let signer_pem = params(signer, false).signed_by(&signer_key, &root_issuer).unwrap().pem();
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &signer_key.serialize_der()).unwrap();
        Self {
            root: root.der().to_vec(),
            root_pem: root.pem(),
            root_issuer,
            signer: (signer_pem, signing),
            platform,
            processor,
        }
    }

    pub fn tcb_info(&self, claims: &Claims) -> Signed {
        let fmspc: String = claims.fmspc.iter().map(|byte| format!("{byte:02X}")).collect();
        let svns = |name: &str| format!("\"{name}\":[{}]", vec!["{\"svn\":1}"; 16].join(","));
        let tdx = if claims.id == "TDX" { format!(",{}", svns("tdxtcbcomponents")) } else { String::new() };
        let inner = format!(
            "{{\"id\":\"{}\",\"version\":3,\"issueDate\":\"{}\",\"nextUpdate\":\"{}\",\"fmspc\":\"{fmspc}\",\
             \"pceId\":\"0000\",\"tcbType\":0,\"tcbEvaluationDataNumber\":{},\"tcbLevels\":[{{\"tcb\":{{{}{tdx},\
             \"pcesvn\":1}},\"tcbDate\":\"2026-01-01T00:00:00Z\",\"tcbStatus\":\"UpToDate\"}}]}}",
            claims.id,
            date(claims.issued),
            date(claims.next_update),
            claims.number,
            svns("sgxtcbcomponents"),
        );
        self.sign("tcbInfo", &inner)
    }

    pub fn identity(&self, claims: &Claims) -> Signed {
        let inner = format!(
            "{{\"id\":\"{}\",\"version\":2,\"issueDate\":\"{}\",\"nextUpdate\":\"{}\",\"tcbEvaluationDataNumber\":{},\
             \"miscselect\":\"00000000\",\"miscselectMask\":\"FFFFFFFF\",\"attributes\":\"{}\",\"attributesMask\":\"{}\",\
             \"mrsigner\":\"{}\",\"isvprodid\":2,\"tcbLevels\":[{{\"tcb\":{{\"isvsvn\":4}},\
             \"tcbDate\":\"2026-01-01T00:00:00Z\",\"tcbStatus\":\"UpToDate\"}}]}}",
            claims.id,
            date(claims.issued),
            date(claims.next_update),
            claims.number,
            "11".repeat(16),
            "FF".repeat(16),
            "DC".repeat(32),
        );
        self.sign("enclaveIdentity", &inner)
    }

    pub fn platform_list(&self, claims: &Claims) -> Signed {
        Signed { body: list(&self.platform.1, claims), chain: self.encoded(&self.platform.0) }
    }

    pub fn processor_list(&self, claims: &Claims) -> Signed {
        Signed { body: list(&self.processor.1, claims), chain: self.encoded(&self.processor.0) }
    }

    pub fn root_list(&self, claims: &Claims) -> Vec<u8> {
        list(&self.root_issuer, claims)
    }

    fn sign(&self, member: &str, inner: &str) -> Signed {
        let signature = self.signer.1.sign(&SystemRandom::new(), inner.as_bytes()).unwrap();
        let hex: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = format!("{{\"{member}\":{inner},\"signature\":\"{hex}\"}}").into_bytes();
        Signed { body, chain: self.encoded(&self.signer.0) }
    }

    /// A chain as it stands in a header: percent-encoded PEM.
    fn encoded(&self, leaf: &str) -> String {
        let text = format!("{leaf}{}", self.root_pem).replace("\r\n", "\n");
        text.replace('%', "%25").replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B").replace('=', "%3D")
    }
}

fn params(name: &str, authority: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Test");
    params.not_before = time!(NOW - 1000 * DAY);
    params.not_after = time!(CERTIFICATES_END);
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    } else {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    }
    params
}

fn list(issuer: &Issuer<'static, KeyPair>, claims: &Claims) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: time!(claims.issued),
        next_update: time!(claims.next_update),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().der().to_vec()
}

fn date(seconds: u64) -> String {
    x509_cert::der::DateTime::from_unix_duration(Duration::from_secs(seconds)).unwrap().to_string()
}
