//! `report_data`: the 64 bytes that the evidence signs, and that bind the TEE key and the broker's nonce to it.

use crate::{jcs, key::Jwk};
use aws_lc_rs::digest;
use serde_json::{Value, json};

/// Hash that the challenge selects; SHA-384 when it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HashAlgorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    #[default]
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashAlgorithm {
    /// By its name in `supported-hash-algorithms` and `selected-hash-algorithm`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "sha256" => Some(Self::Sha256),
            "sha384" => Some(Self::Sha384),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn hash(self, data: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, data)
    }
}

/// What the digest is taken over, for the primary device: `{"additional-evidence", "nonce", "tee-pubkey"}`.
/// `additional` is the text of `additional_evidence`, empty when there is no second device.
pub fn runtime_data(key: &Jwk, nonce: &str, additional: &str) -> Value {
    json!({ "tee-pubkey": key, "nonce": nonce, "additional-evidence": additional })
}

/// The digest of [`runtime_data`], zero-extended to the 64 bytes of SNP, TDX, SGX and CCA.
pub fn report_data(key: &Jwk, nonce: &str, additional: &str, hash: HashAlgorithm) -> [u8; 64] {
    padded(&runtime_data(key, nonce, additional), hash)
}

/// The binding of each further device: without `additional-evidence`.
pub fn device_report_data(key: &Jwk, nonce: &str, hash: HashAlgorithm) -> [u8; 64] {
    padded(&json!({ "tee-pubkey": key, "nonce": nonce }), hash)
}

fn padded(data: &Value, hash: HashAlgorithm) -> [u8; 64] {
    // Strings alone have a canonical form always.
    let text = jcs::to_string(data).unwrap_or_default();
    let mut out = [0; 64];
    for (place, byte) in out.iter_mut().zip(hash.hash(text.as_bytes()).as_ref()) {
        *place = *byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::STANDARD};

    /// `reference/formats.md` B.2.
    #[test]
    fn published_vector() {
        let value: Value = serde_json::from_str(r#"{"b":1,"a":"test","c":{"d":"e"}}"#).unwrap();
        assert_eq!(
            hex::encode(HashAlgorithm::Sha384.hash(jcs::to_string(&value).unwrap().as_bytes())),
            "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
        );
    }

    /// `reference/rcar-transcript.md`: preimage and digest of a recorded exchange.
    #[test]
    fn recorded_exchange() {
        let jwk: Jwk = serde_json::from_str(
            r#"{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"TgmmFC1bdOrI6lqbgkCDTzYjrITso-DKd31iDJTFJ2Q","y":"puRITfOx_Mhn9wtj50JUH1sK3hxMA_eZKMw9stn2laE"}"#,
        )
        .unwrap();
        let nonce = "Y8O3jGs4HQzU1tGYKJIhmY6cI2Jhk7KOvKJetN15+1U=";
        assert_eq!(
            jcs::to_string(&runtime_data(&jwk, nonce, "")).unwrap(),
            r#"{"additional-evidence":"","nonce":"Y8O3jGs4HQzU1tGYKJIhmY6cI2Jhk7KOvKJetN15+1U=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"TgmmFC1bdOrI6lqbgkCDTzYjrITso-DKd31iDJTFJ2Q","y":"puRITfOx_Mhn9wtj50JUH1sK3hxMA_eZKMw9stn2laE"}}"#
        );
        let found = report_data(&jwk, nonce, "", HashAlgorithm::default());
        let expected = STANDARD.decode("7Ps/GmGPblYOZ7SNg8rGZnIODEVPMY8NTarFR7dL2N4AN/zZEzbY5vrMtUx3ZSiV").unwrap();
        assert_eq!(found[..48], expected[..]);
        assert_eq!(found[48..], [0; 16]);
        assert_ne!(device_report_data(&jwk, nonce, HashAlgorithm::default()), found);
    }
}
