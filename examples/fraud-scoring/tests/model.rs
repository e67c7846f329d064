//! The trained model: the same bytes for a seed everywhere, and better than the trivial rules.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use aws_lc_rs::digest::{SHA256, digest};
use fraud_scoring::generate::generate;
use fraud_scoring::metrics::auc;
use fraud_scoring::{Model, Transaction, csv, train};

fn rows(seed: u64, count: usize) -> Vec<Transaction> {
    generate(seed, 0, count).into_iter().map(|row| row.transaction).collect()
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_seed_gives_the_same_bytes_on_every_machine() {
    let model = train(&rows(1, 3000), &rows(2, 1000)).to_bytes();
    assert_eq!(sha256(&model), "7cc3728fd966366f92d526ceabf5da1a8fe373b88c26172e2f92c5a094b239db");
    assert_eq!(
        sha256(csv::write(&rows(1, 3000)).as_bytes()),
        "c519d8ce049d2e9cca788f1b4b2d7283fb78b418a5b5f43737db43b0df52f45e"
    );
    assert_ne!(train(&rows(3, 3000), &rows(2, 1000)).to_bytes(), model, "another seed, another model");
}

#[test]
fn beats_the_trivial_rules_on_unseen_transactions() {
    let model = train(&rows(2026, 12_000), &rows(5, 3000));
    let unseen = rows(6, 10_000);
    let auc_of = |score: &dyn Fn(&Transaction) -> i32| {
        auc(&unseen.iter().map(|row| (score(row), row.is_fraud())).collect::<Vec<_>>()).unwrap()
    };
    let (model, warnings, amount) =
        (auc_of(&|t| model.score(t)), auc_of(&Transaction::warnings), auc_of(&|t| t.usual_pct));
    assert!(model > 0.90, "AUC {model}");
    assert!(model > warnings + 0.04, "AUC {model} against {warnings} of counting warnings");
    assert!(model > amount + 0.2, "AUC {model} against {amount} of the amount");
}

#[test]
fn a_model_survives_its_file() {
    let model = train(&rows(1, 3000), &rows(2, 1000));
    let parsed = Model::parse(&model.to_bytes()).unwrap();
    assert_eq!(parsed, model);
    for row in rows(9, 500) {
        assert_eq!(parsed.score(&row), model.score(&row));
    }
}
