//! Certificates in PEM (RFC 7468): one or several, with white space alone between them.

use base64::{Engine, engine::general_purpose::STANDARD};
use x509_cert::der::pem;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why bytes are not certificates in PEM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Not PEM, or something else between the certificates.
    #[error("not certificates in PEM ({0}): give them in PEM, the leaf first")]
    Pem(String),
    /// More of them than the caller reads.
    #[error("more than {0} certificates: give one chain")]
    Count(usize),
}

/// The certificates of a text, each DER, at most `most` of them. The text has bounded length: that is the caller's to see to.
///
/// # Errors
/// Any [`PemError`].
pub fn certificates(text: &[u8], most: usize) -> Result<Vec<Vec<u8>>, PemError> {
    let text = std::str::from_utf8(text).map_err(|_| PemError::Pem("not text".to_owned()))?;
    let mut rest = text.trim_ascii();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(END).and_then(|at| at.checked_add(END.len()));
        let block = end.and_then(|end| rest.split_at_checked(end)).filter(|(block, _)| block.starts_with(BEGIN));
        let Some((block, after)) = block else {
            return Err(PemError::Pem("something other than a certificate".to_owned()));
        };
        if blocks.len() >= most {
            return Err(PemError::Count(most));
        }
        let body = block.strip_prefix(BEGIN).and_then(|block| block.strip_suffix(END)).unwrap_or_default();
        let body: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let der = STANDARD.decode(body).map_err(|error| PemError::Pem(error.to_string()))?;
        blocks.push(der);
        rest = after.trim_ascii_start();
    }
    Ok(blocks)
}

/// A certificate as PEM with lines of 64 characters.
pub fn encode(der: &[u8]) -> String {
    // Encoding into a growing string cannot fail; an empty text is refused by whoever reads it.
    pem::encode_string("CERTIFICATE", pem::LineEnding::LF, der).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text = [encode(b"one"), "\n \n".to_owned(), encode(b"two")].concat();
        assert_eq!(certificates(text.as_bytes(), 2), Ok(vec![b"one".to_vec(), b"two".to_vec()]));
        assert_eq!(certificates(text.as_bytes(), 1), Err(PemError::Count(1)));
        assert_eq!(certificates(b" \n", 1), Ok(Vec::new()));
    }

    #[test]
    fn nothing_else_stands_between_certificates() {
        let foreign = PemError::Pem("something other than a certificate".to_owned());
        for text in [format!("subject: x\n{}", encode(b"one")), format!("{}x", encode(b"one")), "x".to_owned()] {
            assert_eq!(certificates(text.as_bytes(), 4), Err(foreign.clone()), "{text}");
        }
        assert_eq!(certificates(b"\xff", 4), Err(PemError::Pem("not text".to_owned())));
    }
}
