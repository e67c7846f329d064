//! Text that may hold certificates or revocation lists.

use base64::{Engine, engine::general_purpose::STANDARD};

/// The DER of all PEM blocks of that label; bytes that are no PEM are taken as they are.
pub fn ders(bytes: &[u8], label: &str) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN "));
    let Some(text) = text else { return Ok(vec![bytes.to_vec()]) };
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut all = Vec::new();
    let mut rest = text;
    while let Some((_, block)) = rest.split_once(&begin) {
        let Some((body, after)) = block.split_once(&end) else {
            return Err(format!("a block {begin} has no end"));
        };
        let body: String = body.split_ascii_whitespace().collect();
        all.push(STANDARD.decode(body).map_err(|_| format!("a block {begin} is not base64"))?);
        rest = after;
    }
    Ok(all)
}
