//! The TEE key: a P-256 key made for one handshake, to which the broker encrypts. Its public half is bound to the
//! evidence by [`crate::report_data`].

use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// Key management algorithm of the TEE key, RFC 7518 §4.6.
pub const ALGORITHM: &str = "ECDH-ES+A256KW";

/// A JSON Web Key (RFC 7517) as it stands in the handshake: elliptic curve, public.
///
/// Other members (`use`, `kid`) are dropped when read, as the protocol's server does before it hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// Key type; `EC`.
    pub kty: String,
    /// Curve; `P-256`.
    pub crv: String,
    /// Algorithm; [`ALGORITHM`] for a TEE key, `ES256` for a token key. Absent in the `epk` of a JWE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// X coordinate, 32 bytes, base64url without padding.
    pub x: String,
    /// Y coordinate, as `x`.
    pub y: String,
}

/// A P-256 public key: 32-byte coordinates, checked to be a point of the curve when it is used.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// SEC 1 uncompressed form: `04 ‖ x ‖ y`.
    point: [u8; 65],
}

/// Why a key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Another key type or curve.
    #[error("key of type {kty:?} on curve {crv:?} is not supported; use EC on P-256")]
    Unsupported {
        /// What the key says it is.
        kty: String,
        /// The curve that it names.
        crv: String,
    },
    /// The key is for another algorithm.
    #[error("key is for the algorithm {found:?}; expected {expected}")]
    Algorithm {
        /// The algorithm that this use needs.
        expected: &'static str,
        /// What the key names.
        found: String,
    },
    /// A coordinate is not 32 bytes of base64url without padding.
    #[error("coordinate {0} is not 32 bytes in base64url")]
    Coordinate(&'static str),
    /// The coordinates are not on the curve.
    #[error("the public key is not a point of P-256")]
    NotOnCurve,
    /// The library refused to make or use a key.
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

impl PublicKey {
    /// From SEC 1 uncompressed form.
    pub fn from_point(bytes: &[u8]) -> Result<Self, KeyError> {
        let point: [u8; 65] = bytes.try_into().map_err(|_| KeyError::NotOnCurve)?;
        if point.first() != Some(&4) {
            return Err(KeyError::NotOnCurve);
        }
        Ok(Self { point })
    }

    /// From a JWK, whose `alg` must be `algorithm` if it has one.
    pub fn from_jwk(jwk: &Jwk, algorithm: &'static str) -> Result<Self, KeyError> {
        if jwk.kty != "EC" || jwk.crv != "P-256" {
            let short = |text: &str| crate::sanitize(text, 32);
            return Err(KeyError::Unsupported { kty: short(&jwk.kty), crv: short(&jwk.crv) });
        }
        if let Some(found) = jwk.alg.as_deref().filter(|alg| *alg != algorithm) {
            return Err(KeyError::Algorithm { expected: algorithm, found: crate::sanitize(found, 32) });
        }
        let mut point = [4; 65];
        let (x, y) = point.split_at_mut(33);
        for (name, text, place) in [("x", &jwk.x, x.split_at_mut(1).1), ("y", &jwk.y, y)] {
            if text.len() != 43 {
                return Err(KeyError::Coordinate(name));
            }
            let bytes = B64.decode(text).map_err(|_| KeyError::Coordinate(name))?;
            if bytes.len() != place.len() {
                return Err(KeyError::Coordinate(name));
            }
            place.copy_from_slice(&bytes);
        }
        Ok(Self { point })
    }

    /// The JWK with this `alg`.
    pub fn to_jwk(&self, alg: Option<&str>) -> Jwk {
        let (x, y) = self.point.split_at(33);
        let x = x.split_at(1).1;
        Jwk { kty: "EC".into(), crv: "P-256".into(), alg: alg.map(Into::into), x: B64.encode(x), y: B64.encode(y) }
    }

    /// SEC 1 uncompressed form, 65 bytes.
    pub fn point(&self) -> &[u8; 65] {
        &self.point
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(self.point))
    }
}

/// The private half. The library keeps it and clears its memory when this is dropped (`OPENSSL_free` of AWS-LC overwrites
/// what it frees); it cannot be exported from here.
pub struct TeeKey {
    private: PrivateKey,
    public: PublicKey,
}

impl TeeKey {
    /// A fresh key from the system's random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let private = PrivateKey::generate(&ECDH_P256).map_err(|_| KeyError::Library("generate a key"))?;
        Self::with_public(private)
    }

    /// From the 32-byte private scalar, big endian: for test vectors and for keys that come from elsewhere.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, KeyError> {
        let private = PrivateKey::from_private_key(&ECDH_P256, scalar).map_err(|_| KeyError::Library("read a key"))?;
        Self::with_public(private)
    }

    fn with_public(private: PrivateKey) -> Result<Self, KeyError> {
        let public = private.compute_public_key().map_err(|_| KeyError::Library("compute the public key"))?;
        Ok(Self { public: PublicKey::from_point(public.as_ref())?, private })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public half as it is sent: `alg` is [`ALGORITHM`].
    pub fn jwk(&self) -> Jwk {
        self.public.to_jwk(Some(ALGORITHM))
    }

    /// ECDH: the x coordinate of the shared point, 32 bytes. Refuses a peer that is not on the curve.
    pub(crate) fn agree(&self, peer: &PublicKey) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let peer = UnparsedPublicKey::new(&ECDH_P256, peer.point());
        agreement::agree(&self.private, peer, KeyError::NotOnCurve, |shared| {
            let mut out = Zeroizing::new([0; 32]);
            if shared.len() != out.len() {
                return Err(KeyError::Library("agree on a key"));
            }
            out.copy_from_slice(shared);
            Ok(out)
        })
    }
}

impl fmt::Debug for TeeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TeeKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jwk_round_trip() {
        let key = TeeKey::generate().unwrap();
        let jwk = key.jwk();
        assert_eq!(PublicKey::from_jwk(&jwk, ALGORITHM).unwrap(), *key.public());
        let read: Jwk = serde_json::from_value(serde_json::json!({
            "kty": "EC", "crv": "P-256", "alg": ALGORITHM, "x": jwk.x, "y": jwk.y, "use": "enc", "kid": "1" }))
        .unwrap();
        assert_eq!(read, jwk);
    }

    #[test]
    fn each_wrong_member_has_its_error() {
        let good = TeeKey::generate().unwrap().jwk();
        assert!(PublicKey::from_jwk(&good, ALGORITHM).is_ok());
        let with = |change: fn(&mut Jwk)| {
            let mut jwk = good.clone();
            change(&mut jwk);
            PublicKey::from_jwk(&jwk, ALGORITHM).unwrap_err()
        };
        assert_eq!(with(|j| j.kty = "RSA".into()), KeyError::Unsupported { kty: "RSA".into(), crv: "P-256".into() });
        assert_eq!(with(|j| j.crv = "P-521".into()), KeyError::Unsupported { kty: "EC".into(), crv: "P-521".into() });
        assert_eq!(
            with(|j| j.alg = Some("ES256".into())),
            KeyError::Algorithm { expected: ALGORITHM, found: "ES256".into() }
        );
        assert_eq!(with(|j| j.x.push('A')), KeyError::Coordinate("x"));
        assert_eq!(with(|j| j.y = "+".repeat(43)), KeyError::Coordinate("y"));
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let key = TeeKey::generate().unwrap();
        let peer = TeeKey::generate().unwrap();
        assert!(key.agree(peer.public()).is_ok());
        let mut point = *peer.public().point();
        point[64] ^= 1;
        assert_eq!(key.agree(&PublicKey::from_point(&point).unwrap()).unwrap_err(), KeyError::NotOnCurve);
    }

    #[test]
    fn debug_shows_no_private_key() {
        let key = TeeKey::from_scalar(&[7; 32]).unwrap();
        let text = format!("{key:?}");
        assert!(text.contains("PublicKey(04") && !text.contains("0707"));
    }
}
