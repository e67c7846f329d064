//! Two roots that a caller trusts: what one of them signed says nothing about evidence under the other.

use belljar_evidence::Decision;
use belljar_evidence::dcap::{Anchors, Collateral, Facts, Options, Verifier, verify_collateral};
use belljar_evidence::{Outcome, Verdict};
use belljar_testpki::NOW;
use belljar_testpki::intel::{Made, World};
use libtest_mimic::{Failed, Trial};

use crate::ensure;

/// Puts the other root's part into the collateral.
type Mix = fn(&mut Collateral, &Collateral);

/// A trial of its own.
type Run = fn() -> Result<(), Failed>;

/// Name, mix, and the check that fails.
const MIXED: &[(&str, Mix, &str)] = &[
    (
        "tcb_info",
        |own, other| {
            own.tcb_info.clone_from(&other.tcb_info);
            own.tcb_signing_chain.clone_from(&other.tcb_signing_chain);
        },
        "tcb-info-signature",
    ),
    (
        "qe_identity",
        |own, other| {
            own.qe_identity.clone_from(&other.qe_identity);
            own.qe_signing_chain.clone_from(&other.qe_signing_chain);
        },
        "qe-identity-signature",
    ),
    ("root_crl", |own, other| own.root_crl.clone_from(&other.root_crl), "root-crl-signature"),
];

pub fn trials() -> impl Iterator<Item = Trial> {
    let mixed = MIXED.iter().flat_map(|(name, mix, check)| {
        [true, false].map(|whole| {
            Trial::test(format!("roots::{name}_of_another_root::whole_chains_{whole}"), move || {
                another_root(*mix, check, whole)
            })
        })
    });
    let others: [(&str, Run); 2] =
        [("an_anchor_is_in_date", an_anchor_is_in_date), ("collateral_alone_is_flagged", collateral_alone_is_flagged)];
    mixed.chain(others.map(|(name, run)| Trial::test(format!("roots::{name}"), run)))
}

fn world(seed: u64, whole: bool) -> Made {
    World { chains_have_root: whole, ..World::tdx4(seed) }.make()
}

/// Both roots have the same name, and both are trusted.
fn another_root(mix: Mix, check: &str, whole: bool) -> Result<(), Failed> {
    let (mut own, other) = (world(4, whole), world(5, whole));
    let anchors = Anchors::none().with_test_root(&own.root).with_test_root(&other.root);
    let judge = |made: &Made| judge(made, anchors.clone());
    ensure("the twin under the first root", &judge(&own), judge(&own).is_valid())?;
    ensure("the twin under the second root", &judge(&other), judge(&other).is_valid())?;
    mix(&mut own.collateral, &other.collateral);
    let verdict = judge(&own);
    let refused = verdict.verdict == Decision::Invalid && verdict.first_failure == Some(check);
    ensure(&format!("it fails at {check}"), &verdict, refused)?;
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed).count();
    ensure("and there alone", &verdict, failed == 1)?;
    let rated = verdict.facts.tcb.as_ref().map(|tcb| tcb.qe.is_some());
    let expected = match check {
        "tcb-info-signature" => None,
        other => Some(other != "qe-identity-signature"),
    };
    ensure("and rates nothing", &verdict, rated == expected)
}

/// An anchor that a chain leaves out has a window all the same.
fn an_anchor_is_in_date() -> Result<(), Failed> {
    for whole in [true, false] {
        let of = |to: u64| {
            let mut world = World { chains_have_root: whole, ..World::tdx4(4) };
            world.root.to = to;
            let made = world.make();
            judge(&made, made.anchors())
        };
        let verdict = of(NOW);
        ensure("the last second", &verdict, verdict.is_valid() && verdict.facts.valid_to == Some(NOW))?;
        let verdict = of(NOW - 1);
        let refused = verdict.verdict == Decision::Invalid && verdict.first_failure == Some("pck-time");
        ensure("a second later", &verdict, refused)?;
    }
    Ok(())
}

/// Whatever part of collateral is judged without a quote: under a root that is not Intel's it says so.
fn collateral_alone_is_flagged() -> Result<(), Failed> {
    let made = World::tdx4(4).make();
    let all = &made.collateral;
    let parts = [
        Collateral { root_crl: all.root_crl.clone(), ..Collateral::default() },
        Collateral { pck_crl: all.pck_crl.clone(), pck_crl_chain: all.pck_crl_chain.clone(), ..Collateral::default() },
        Collateral {
            tcb_info: all.tcb_info.clone(),
            tcb_signing_chain: all.tcb_signing_chain.clone(),
            ..Collateral::default()
        },
    ];
    for part in parts {
        let verdict = verify_collateral(&part, &made.anchors(), NOW, &Options::default());
        if !(verdict.is_valid() && verdict.software && verdict.flags == ["test-root"]) {
            return Err(format!("{verdict:?}").into());
        }
    }
    Ok(())
}

fn judge(made: &Made, anchors: Anchors) -> Verdict<Facts> {
    Verifier::new(&made.collateral, anchors).verify(&made.quote, None, NOW, &Options::default())
}
