//! Intel's collateral in a directory, one file each, under the names that `belljar collateral` writes.

use std::path::Path;

use belljar_evidence::dcap::Collateral;

use super::file;
use crate::failure::Failure;

/// Reads what is there; what is not there stays empty.
pub fn directory(path: &Path) -> Result<Collateral, Failure> {
    if !path.is_dir() {
        return Err(Failure::usage(format!("{} is no directory of collateral", path.display())));
    }
    let of = |name: &str| {
        let file = path.join(name);
        if file.exists() { file::read(&file) } else { Ok(Vec::new()) }
    };
    Ok(Collateral {
        tcb_info: of("tcb_info.json")?,
        tcb_signing_chain: of("tcb_signing_chain.pem")?,
        qe_identity: of("qe_identity.json")?,
        qe_signing_chain: of("qe_signing_chain.pem")?,
        pck_crl: of("pck_crl.der")?,
        pck_crl_chain: of("pck_crl_issuer_chain.pem")?,
        root_crl: of("root_ca_crl.der")?,
    })
}
