//! Single bits of genuine quotes, chains and collateral, flipped one at a time.

use belljar_evidence::dcap::Options;
use belljar_evidence::{Decision, Verdict, dcap};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::dcap::Evidence;
use crate::index::Index;

/// One vector of each version and body.
const SWEPT: [&str; 4] = ["tdx-v4-phala", "tdx-v5-google", "tdx-v5-td15ex", "sgx-v3-automata-00606a"];

/// A sweep over each of [`SWEPT`].
pub fn trials(index: &Index) -> Vec<Trial> {
    let swept = SWEPT.map(|id| {
        let entry = index.of_kind("tdx").chain(index.of_kind("sgx")).find(|entry| entry["id"] == id);
        let (index, entry) = (index.clone(), entry.expect("the index has the vector").clone());
        Trial::test(format!("bit_flips::{id}"), move || no_flipped_bit_changes_a_field(&index, &entry))
    });
    swept.into()
}

/// Evidence with a flipped bit is refused, or is valid and says exactly the same (a bit in the letter case of a hex
/// digit, in white space, in bytes behind the signature). `make fuzz` flips every bit; here the step is a prime.
fn no_flipped_bit_changes_a_field(index: &Index, entry: &Value) -> Result<(), Failed> {
    let step = if std::env::var_os("BELLJAR_FULL_SWEEP").is_some() { 1 } else { 241 };
    let genuine = Evidence::read(index, entry);
    let verdict = genuine.verify(&Options::default());
    if !verdict.is_valid() {
        return Err("the evidence itself is not valid".into());
    }
    let said = facts(&verdict);
    let (mut flipped, mut harmless) = (0, 0);
    for place in 0..8 {
        let mut changed = genuine.clone();
        for bit in (0..part(&mut changed, place).len() * 8).step_by(step) {
            part(&mut changed, place)[bit / 8] ^= 1 << (bit % 8);
            let verdict = changed.verify(&Options::default());
            part(&mut changed, place)[bit / 8] ^= 1 << (bit % 8);
            flipped += 1;
            match verdict.verdict {
                Decision::Invalid => {}
                Decision::Valid if facts(&verdict) == said => harmless += 1,
                other => return Err(format!("bit {bit} of part {place} flipped: {other:?}").into()),
            }
        }
    }
    // The parts are text to a good half; most of it is covered by a signature all the same.
    if flipped < 300 || harmless * 4 > flipped {
        return Err(format!("{flipped} bits flipped, {harmless} without effect").into());
    }
    Ok(())
}

fn facts(verdict: &Verdict<dcap::Facts>) -> [Value; 3] {
    let json = serde_json::to_value(verdict).unwrap();
    ["fields", "tcb", "flags"].map(|key| json[key].clone())
}

fn part(evidence: &mut Evidence, place: usize) -> &mut Vec<u8> {
    let of = &mut evidence.collateral;
    match place {
        0 => &mut evidence.quote,
        1 => &mut of.tcb_info,
        2 => &mut of.tcb_signing_chain,
        3 => &mut of.qe_identity,
        4 => &mut of.qe_signing_chain,
        5 => &mut of.pck_crl,
        6 => &mut of.pck_crl_chain,
        _ => &mut of.root_crl,
    }
}
