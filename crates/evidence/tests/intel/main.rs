//! Quotes under a test PKI in Intel's shape: each case changes one thing of evidence that is valid, and names the check
//! that must fail, or the rating that must come out. The positive twin of each case is its unchanged world, which is
//! judged in the same trial.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bytes;
mod certificates;
mod documents;
mod levels;
mod roots;

use belljar_evidence::dcap::{Facts, Freshness, Options, Verifier};
use belljar_evidence::{Decision, Outcome, Verdict};
use belljar_testpki::NOW;
use belljar_testpki::intel::{Made, World};
use libtest_mimic::{Arguments, Failed, Trial};

/// Which world a case begins with.
#[derive(Clone, Copy)]
enum Base {
    Tdx4,
    Tdx5,
    Sgx3,
}

impl Base {
    fn world(self) -> World {
        match self {
            Self::Tdx4 => World::tdx4(4),
            Self::Tdx5 => World::tdx5(4),
            Self::Sgx3 => World::sgx3(4),
        }
    }
}

/// What a case changes.
#[derive(Clone, Copy)]
enum Change {
    /// Before everything is signed.
    World(fn(&mut World)),
    /// Bytes that were made.
    Made(fn(&mut Made)),
    /// The time.
    At(u64),
}

/// One case: name, world, change, and the check that fails.
type Case = (&'static str, Base, Change, &'static str);

fn main() {
    let refused = [certificates::CASES, documents::CASES, bytes::CASES].concat();
    assert!(refused.len() >= 60, "{} negative cases", refused.len());
    let refusals = refused.into_iter().map(|(name, base, change, check)| {
        Trial::test(format!("refused::{name}"), move || refuses(base, change, check))
    });
    let trials = refusals.chain(levels::trials()).chain(roots::trials()).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Judges what a world makes.
fn judge(made: &Made, at: u64, options: &Options) -> Verdict<Facts> {
    Verifier::new(&made.collateral, made.anchors()).verify(&made.quote, Some(&made.pck_chain), at, options)
}

/// The world as it is, is valid; changed, it fails at that check, and at no earlier one.
fn refuses(base: Base, change: Change, check: &str) -> Result<(), Failed> {
    let world = base.world();
    let twin = judge(&world.make(), NOW, &Options::default());
    ensure("the twin is valid", &twin, twin.verdict == Decision::Valid)?;
    ensure(
        "the twin is up to date",
        &twin,
        twin.facts.tcb.is_some() && twin.facts.freshness == Some(Freshness::Fresh),
    )?;
    let mut changed = world;
    let mut at = NOW;
    if let Change::World(change) = change {
        change(&mut changed);
    }
    let mut made = changed.make();
    match change {
        Change::World(_) => {}
        Change::Made(change) => change(&mut made),
        Change::At(time) => at = time,
    }
    let verdict = judge(&made, at, &Options::default());
    let fails = verdict.verdict == Decision::Invalid && verdict.first_failure == Some(check);
    ensure(&format!("it fails at {check}"), &verdict, fails)?;
    ensure("the check says so", &verdict, verdict.failure().is_some_and(|check| check.outcome == Outcome::Failed))
}

/// An error that shows all checks.
fn ensure(what: &str, verdict: &Verdict<Facts>, holds: bool) -> Result<(), Failed> {
    if holds {
        return Ok(());
    }
    let shown: String = verdict.checks.iter().map(|check| format!("{check:?}\n")).collect();
    Err(format!("{what}; verdict {:?} at {:?}\n{shown}", verdict.verdict, verdict.first_failure).into())
}
