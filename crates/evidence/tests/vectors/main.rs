//! Real evidence, and altered copies of it, against the verdicts of the vectors' index.
//!
//! Each entry of the index is one trial. Where the files are missing (they are not part of the repository), the
//! trials are listed as ignored and never as passed. `BELLJAR_VECTORS` names another folder than `../shared/vectors`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod dcap;
mod dcap_peer;
mod dcap_sweeps;
mod eventlog;
mod index;
mod snp;
mod vtpm;

use std::path::{Path, PathBuf};

use index::Index;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let folder = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let trials = match Index::read(&folder) {
        Ok(index) => {
            [snp::trials, dcap::trials, dcap_peer::trials, dcap_sweeps::trials, vtpm::trials, eventlog::trials]
                .into_iter()
                .flat_map(|of| of(&index))
                .collect()
        }
        Err(error) => {
            eprintln!("no vectors at {} ({error}): every vector is ignored", folder.display());
            vec![Trial::test("index_of_vectors", || Err("not run".into())).with_ignored_flag(true)]
        }
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
