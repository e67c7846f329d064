//! One card transaction, and the numbers a model sees of it.

/// How many features a model sees.
pub const FEATURES: usize = 11;

/// Kind of shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Category {
    Grocery,
    Fuel,
    Restaurant,
    Pharmacy,
    Clothing,
    Streaming,
    Travel,
    Gaming,
    Electronics,
    GiftCards,
}

impl Category {
    /// Every category, in the order of its ordinal.
    pub const ALL: [Self; 10] = [
        Self::Grocery,
        Self::Fuel,
        Self::Restaurant,
        Self::Pharmacy,
        Self::Clothing,
        Self::Streaming,
        Self::Travel,
        Self::Gaming,
        Self::Electronics,
        Self::GiftCards,
    ];

    /// The word in the CSV file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grocery => "grocery",
            Self::Fuel => "fuel",
            Self::Restaurant => "restaurant",
            Self::Pharmacy => "pharmacy",
            Self::Clothing => "clothing",
            Self::Streaming => "streaming",
            Self::Travel => "travel",
            Self::Gaming => "gaming",
            Self::Electronics => "electronics",
            Self::GiftCards => "gift-cards",
        }
    }

    /// The category of that word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// One card transaction. All numbers are integers, within the bounds that [`crate::csv`] checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Number of the transaction.
    pub id: u32,
    /// Amount in cents.
    pub amount_cents: i32,
    /// Hour of the day at the cardholder's home, 0 to 23.
    pub hour: i32,
    /// Kind of shop.
    pub category: Category,
    /// The card was read by a terminal (false: online or by telephone).
    pub card_present: bool,
    /// The shop's country is not the card's.
    pub country_mismatch: bool,
    /// Kilometres between the shop (or the caller's network address) and the cardholder's home.
    pub distance_km: i32,
    /// Transactions of this card in the hour before.
    pub count_1h: i32,
    /// Amount in per cent of what this cardholder usually spends in such a shop.
    pub usual_pct: i32,
    /// Days since the device or card reader was first seen with this card.
    pub device_age_days: i32,
    /// Days since the account was opened.
    pub account_age_days: i32,
    /// Transactions of this card that were declined in the day before.
    pub declined_24h: i32,
    /// What turned out later, where it is known.
    pub fraud: Option<bool>,
}

impl Transaction {
    /// What a model sees: neither the number nor the label.
    #[must_use]
    pub fn features(&self) -> [i32; FEATURES] {
        [
            self.amount_cents,
            self.hour,
            i32::from(self.category as u8),
            i32::from(self.card_present),
            i32::from(self.country_mismatch),
            self.distance_km,
            self.count_1h,
            self.usual_pct,
            self.device_age_days,
            self.account_age_days,
            self.declined_24h,
        ]
    }

    /// How many single warning signs it shows: the trivial rule that a model must beat.
    #[must_use]
    pub fn warnings(&self) -> i32 {
        [
            self.usual_pct > 300,
            self.hour < 6,
            self.country_mismatch,
            self.count_1h >= 3,
            self.device_age_days <= 3,
            self.declined_24h > 0,
            !self.card_present,
        ]
        .into_iter()
        .map(i32::from)
        .sum()
    }

    /// The label, with an unknown one taken as honest.
    #[must_use]
    pub fn is_fraud(&self) -> bool {
        self.fraud == Some(true)
    }
}
