//! SGX enclaves made by an independent writer (`sgx.py`, from the processor's manual alone).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::process::Command;
use std::sync::LazyLock;

use belljar_measure::sgx::{SgxsError, SigstructError, enclave_hash, find_sigstruct};
use serde_json::Value;

static MADE: LazyLock<Value> = LazyLock::new(|| {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sgx.py");
    let output = Command::new("python3").arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
});

fn bytes(name: &str) -> Vec<u8> {
    hex::decode(MADE[name].as_str().unwrap()).unwrap()
}

#[test]
fn a_signature_structure_is_read_and_verifies() {
    let release = find_sigstruct(&bytes("release")).unwrap();
    assert!(release.is_signed());
    assert_eq!(hex::encode(release.mrenclave), MADE["mrenclave"].as_str().unwrap());
    assert_eq!(hex::encode(release.mrsigner), MADE["mrsigner"].as_str().unwrap());
    assert_eq!((release.isv_prod_id, release.isv_svn, release.date.as_str()), (7, 9, "20261126"));
    assert_eq!(release.isv_family_id, std::array::from_fn(|at| u8::try_from(at).unwrap()));
    assert_eq!(release.isv_ext_prod_id[0], 16);
    assert!(release.kss && !release.may_debug);
    // The mask does not ask for the bit: whoever loads the enclave chooses.
    let debug = find_sigstruct(&bytes("debug")).unwrap();
    assert!(debug.is_signed() && debug.may_debug && !debug.kss);
}

#[test]
fn a_signed_enclave_holds_one_structure() {
    let structure = bytes("release");
    let file = [&b"\x7fELF and so on"[..], &structure, b"more"].concat();
    assert_eq!(find_sigstruct(&file), find_sigstruct(&structure));
    assert_eq!(find_sigstruct(&[&file[..], &file].concat()), Err(SigstructError::Several));
    assert_eq!(find_sigstruct(&file[20..]), Err(SigstructError::None));
    assert_eq!(find_sigstruct(b"short"), Err(SigstructError::None));
    let mut other = structure.clone();
    other[24] ^= 1;
    assert_eq!(find_sigstruct(&other), Err(SigstructError::Header));
    let mut other = structure;
    other[512] = 17;
    assert_eq!(find_sigstruct(&other), Err(SigstructError::Exponent(17)));
}

#[test]
fn no_flipped_bit_of_what_is_signed_or_signs_is_taken() {
    let good = bytes("release");
    // Reserved bytes behind 1028 are not signed; those between 516 and 900 are the signature itself.
    for at in (0..512).chain(516..1028).chain(1040..1808).step_by(3) {
        let mut other = good.clone();
        other[at] ^= 1 << (at % 8);
        let taken = find_sigstruct(&other).is_ok_and(|structure| structure.is_signed());
        assert!(!taken, "byte {at} changed");
    }
    // A number that is right and a quotient that is not, and the other way round.
    let quotient = |at: usize| {
        let mut other = good.clone();
        other[at] ^= 1;
        let structure = find_sigstruct(&other).unwrap();
        (structure.signature_verifies, structure.q1_q2_hold)
    };
    assert_eq!((quotient(1040), quotient(1424), quotient(900)), ((true, false), (true, false), (false, true)));
}

#[test]
fn records_are_measured_as_the_processor_does() {
    let good = bytes("sgxs");
    assert_eq!(hex::encode(enclave_hash(&good).unwrap()), MADE["mrenclave"].as_str().unwrap());
    let changed = |at: usize| {
        let mut other = good.clone();
        other[at] ^= 1;
        enclave_hash(&other).map(|hash| hash != enclave_hash(&good).unwrap())
    };
    // Data that is measured, the flags of a page, and data that is not measured: the last of the file.
    assert_eq!((changed(64 + 64 + 64), changed(64 + 16)), (Ok(true), Ok(true)));
    assert_eq!(changed(good.len() - 1), Ok(false));
    assert_eq!(enclave_hash(&good[..good.len() - 1]), Err(SgxsError::Short(20)));
    assert_eq!(enclave_hash(&good[64..]), Err(SgxsError::Beginning));
    assert_eq!(enclave_hash(b""), Err(SgxsError::Beginning));
    let twice = [&good[..64], &good].concat();
    assert_eq!(enclave_hash(&twice), Err(SgxsError::Kind(2)));
    let refused = |at: usize, value: u8, number, what| {
        let mut other = good.clone();
        other[at] = value;
        assert_eq!(enclave_hash(&other), Err(SgxsError::Refused { number, what }));
    };
    refused(12, 1, 1, "a size that is no power of two of pages");
    refused(64 + 8, 1, 2, "an offset that is no page of the enclave");
    refused(64 + 9, 0x20, 2, "an offset that is no page of the enclave");
    refused(128 + 8, 1, 3, "an offset that is no chunk of the enclave");
}
