//! Synthetic transactions with a known, non-linear truth.
//!
//! Each transaction is drawn from plausible distributions, and its label from a probability that depends on
//! *combinations* of features, as in practice: a night-time purchase, a large amount and a new device are harmless each,
//! and suspicious together. Noise that no feature shows keeps any model from being perfect; [`Labelled::truth`] tells
//! how good the best possible model is.

use crate::math::{Rng, exp, ln, sigmoid, to_i32};
use crate::transaction::{Category, Transaction};

/// A transaction with its label, and the probability that the label was drawn with (without the hidden noise).
#[derive(Debug, Clone, Copy)]
pub struct Labelled {
    /// The transaction; `fraud` is set.
    pub transaction: Transaction,
    /// Log odds of fraud as far as the features can tell.
    pub truth: f64,
}

/// `count` transactions, numbered from `first_id`; the same for the same arguments on every machine.
#[must_use]
pub fn generate(seed: u64, first_id: u32, count: usize) -> Vec<Labelled> {
    let mut rng = Rng::new(seed);
    (first_id..).take(count).map(|id| draw(&mut rng, id)).collect()
}

/// Relative number of purchases per hour of the day.
const HOURS: [f64; 24] = [
    1.2, 0.8, 0.6, 0.5, 0.5, 0.7, 1.5, 3.0, 4.5, 5.0, 5.5, 6.5, 7.0, 6.0, 5.5, 5.5, 6.0, 7.0, 7.5, 6.5, 5.0, 4.0, 3.0,
    2.0,
];

/// Per category: relative number of purchases, chance that the card is present, usual amount in cents.
fn habits(category: Category) -> (f64, f64, f64) {
    match category {
        Category::Grocery => (26.0, 0.93, 3800.0),
        Category::Fuel => (10.0, 0.98, 5200.0),
        Category::Restaurant => (16.0, 0.90, 2700.0),
        Category::Pharmacy => (7.0, 0.85, 1900.0),
        Category::Clothing => (10.0, 0.45, 6400.0),
        Category::Streaming => (8.0, 0.0, 1300.0),
        Category::Travel => (6.0, 0.25, 21000.0),
        Category::Gaming => (5.0, 0.0, 2400.0),
        Category::Electronics => (8.0, 0.35, 17000.0),
        Category::GiftCards => (4.0, 0.30, 5000.0),
    }
}

fn draw(rng: &mut Rng, id: u32) -> Labelled {
    let weights = Category::ALL.map(|c| habits(c).0);
    let category = Category::ALL.get(rng.weighted(&weights)).copied().unwrap_or(Category::Grocery);
    let (_, present, usual) = habits(category);
    let card_present = rng.chance(present);
    let country_mismatch = rng.chance(if category == Category::Travel { 0.22 } else { 0.05 });
    let distance = match (country_mismatch, card_present) {
        (true, _) => exp(7.0 + 0.8 * rng.normal()),
        (false, true) => exp(1.6 + 1.2 * rng.normal()),
        (false, false) => exp(2.8 + 1.5 * rng.normal()),
    };
    let ratio = exp(0.75 * rng.normal());
    let mut count_1h = 0;
    let again = if rng.chance(0.06) { 0.72 } else { 0.15 };
    while count_1h < 30 && rng.chance(again) {
        count_1h += 1;
    }
    let new_device = rng.chance(if card_present { 0.10 } else { 0.16 });
    let declined = rng.weighted(&[92.0, 5.0, 2.0, 1.0]);
    let mut transaction = Transaction {
        id,
        amount_cents: to_i32(usual * ratio * exp(0.35 * rng.normal())).clamp(50, 2_000_000),
        hour: i32::try_from(rng.weighted(&HOURS)).unwrap_or(0),
        category,
        card_present,
        country_mismatch,
        distance_km: to_i32(distance).clamp(0, 20_000),
        count_1h,
        usual_pct: to_i32(100.0 * ratio).clamp(1, 10_000),
        device_age_days: if new_device { rng.between(0, 3) } else { rng.between(4, 1500) },
        account_age_days: rng.between(1, 5000),
        declined_24h: i32::try_from(declined).unwrap_or(0),
        fraud: None,
    };
    let truth = log_odds(&transaction);
    let hidden = 0.5 * rng.normal();
    transaction.fraud = Some(rng.chance(sigmoid(truth + hidden)));
    Labelled { transaction, truth }
}

/// The truth: four kinds of fraud, each a combination, over a small base rate.
fn log_odds(t: &Transaction) -> f64 {
    let online = !t.card_present;
    let night = t.hour < 6;
    let new_device = t.device_age_days <= 3;
    let large = ln(f64::from(t.usual_pct) / 100.0).max(0.0);
    let resold_easily = matches!(t.category, Category::Electronics | Category::GiftCards | Category::Gaming);
    let mut odds = -6.6 + 0.2 * large + 0.3 * f64::from(t.declined_24h);
    // Account taken over: a new device buys online what is easily sold again, more of it than usual.
    if online && new_device {
        odds += 2.0 + 3.0 * large + if resold_easily { 3.2 } else { 0.0 };
    }
    // Card testing: many small amounts, quickly.
    if t.count_1h >= 3 && t.usual_pct < 90 {
        odds += 4.2 + 0.7 * f64::from(t.count_1h.min(8) - 3);
    }
    // Stolen card abroad; the traveller who books and pays travel is himself.
    if t.card_present && t.country_mismatch && t.category != Category::Travel {
        odds += 2.4 + if t.distance_km > 1500 { 2.6 } else { 0.0 } + 2.0 * large;
    }
    // Night, young account, after a declined attempt.
    if night {
        odds += 0.6 + if t.account_age_days < 400 { 3.5 } else { 0.0 } + if t.declined_24h > 0 { 3.0 } else { 0.0 };
    }
    odds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fraud_is_rare_and_present() {
        let rows = generate(1, 0, 20_000);
        let frauds = rows.iter().filter(|r| r.transaction.is_fraud()).count();
        assert!((400..=800).contains(&frauds), "{frauds} of 20000 are frauds; 2 to 4 % are meant");
    }

    #[test]
    fn the_same_seed_gives_the_same_transactions() {
        let draw = |seed| generate(seed, 5, 200).into_iter().map(|r| r.transaction).collect::<Vec<_>>();
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert_eq!(draw(3).first().map(|t| t.id), Some(5));
    }

    #[test]
    fn combinations_matter_not_single_features() {
        let plain = Transaction {
            id: 0,
            amount_cents: 5000,
            hour: 12,
            category: Category::Electronics,
            card_present: false,
            country_mismatch: false,
            distance_km: 10,
            count_1h: 0,
            usual_pct: 100,
            device_age_days: 400,
            account_age_days: 2000,
            declined_24h: 0,
            fraud: None,
        };
        let base = log_odds(&plain);
        let new_device = log_odds(&Transaction { device_age_days: 0, ..plain }) - base;
        let large = log_odds(&Transaction { usual_pct: 400, ..plain }) - base;
        let both = log_odds(&Transaction { device_age_days: 0, usual_pct: 400, ..plain }) - base;
        assert!(both > new_device + large + 1.0, "{both} against {new_device} + {large}");
    }
}
