//! Transactions as CSV text: one fixed header line, then one line each, no quoting.
//!
//! The parser takes the whole input or nothing: an unknown header, a missing or surplus field, a number that is out of
//! its range or not in its shortest form, an empty line or a carriage return is refused with the number of its line.

use std::fmt::Write as _;

use crate::transaction::{Category, Transaction};

/// The columns; the last one may be absent.
pub const HEADER: &str = "id,amount_cents,hour,category,card_present,country_mismatch,distance_km,count_1h,usual_pct,\
                          device_age_days,account_age_days,declined_24h,fraud";
/// More lines than this are refused.
pub const MAX_ROWS: usize = 1_000_000;
/// A longer line, in bytes, is refused.
pub const MAX_LINE: usize = 256;
/// A longer text, in bytes, is refused.
pub const MAX_TEXT: usize = 64 << 20;

/// Why transactions could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsvError {
    /// A line is not a transaction.
    #[error("line {line} of the transactions is broken: {reason}")]
    Line {
        /// Number of the line; the header is line 1.
        line: usize,
        /// What is wrong with it.
        reason: LineError,
    },
    /// The text is too long.
    #[error("the transactions have {0} bytes, at most {MAX_TEXT} are read; split them")]
    TooLong(usize),
    /// There are too many lines.
    #[error("there are more than {MAX_ROWS} transactions; split them")]
    TooMany,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The first line is not the header.
    #[error("expected the header `{HEADER}`, the last column may be left out")]
    Header,
    /// Not UTF-8.
    #[error("not UTF-8 text")]
    Encoding,
    /// Longer than [`MAX_LINE`].
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
    /// Too few fields.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// Too many fields.
    #[error("more fields than the header names")]
    Surplus,
    /// A field has a wrong value. The value is not repeated here: an error message may leave the machine, the data may not.
    #[error("`{0}` must be {1}")]
    Field(&'static str, String),
}

/// Reads all transactions of `text`.
///
/// # Errors
/// [`CsvError`], with the number of the first broken line.
pub fn parse(text: &[u8]) -> Result<Vec<Transaction>, CsvError> {
    if text.len() > MAX_TEXT {
        return Err(CsvError::TooLong(text.len()));
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut lines = text.split(|b| *b == b'\n').zip(1usize..);
    let labelled = match lines.next() {
        Some((header, _)) if header == HEADER.as_bytes() => true,
        Some((header, _)) if Some(header) == HEADER.as_bytes().strip_suffix(b",fraud") => false,
        _ => return Err(CsvError::Line { line: 1, reason: LineError::Header }),
    };
    let mut transactions = Vec::new();
    for (bytes, line) in lines {
        if transactions.len() == MAX_ROWS {
            return Err(CsvError::TooMany);
        }
        transactions.push(parse_line(bytes, labelled).map_err(|reason| CsvError::Line { line, reason })?);
    }
    Ok(transactions)
}

/// Writes transactions, with labels when the first one has a label.
#[must_use]
pub fn write(transactions: &[Transaction]) -> String {
    let labelled = transactions.first().is_some_and(|t| t.fraud.is_some());
    let header = if labelled { HEADER } else { HEADER.strip_suffix(",fraud").unwrap_or(HEADER) };
    let mut text = format!("{header}\n");
    for t in transactions {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{}",
            t.id,
            t.amount_cents,
            t.hour,
            t.category.name(),
            u8::from(t.card_present),
            u8::from(t.country_mismatch),
            t.distance_km,
            t.count_1h,
            t.usual_pct,
            t.device_age_days,
            t.account_age_days,
            t.declined_24h
        );
        if labelled {
            text.push_str(if t.is_fraud() { ",1" } else { ",0" });
        }
        text.push('\n');
    }
    text
}

fn parse_line(bytes: &[u8], labelled: bool) -> Result<Transaction, LineError> {
    if bytes.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    let line = std::str::from_utf8(bytes).map_err(|_| LineError::Encoding)?;
    let mut fields = Fields(line.split(','));
    let transaction = Transaction {
        id: fields.number("id", 0, u32::MAX)?,
        amount_cents: fields.number("amount_cents", 0, 100_000_000)?,
        hour: fields.number("hour", 0, 23)?,
        category: fields.category()?,
        card_present: fields.number("card_present", 0, 1)? == 1,
        country_mismatch: fields.number("country_mismatch", 0, 1)? == 1,
        distance_km: fields.number("distance_km", 0, 20_038)?,
        count_1h: fields.number("count_1h", 0, 10_000)?,
        usual_pct: fields.number("usual_pct", 0, 1_000_000)?,
        device_age_days: fields.number("device_age_days", 0, 40_000)?,
        account_age_days: fields.number("account_age_days", 0, 40_000)?,
        declined_24h: fields.number("declined_24h", 0, 10_000)?,
        fraud: if labelled { Some(fields.number("fraud", 0, 1)? == 1) } else { None },
    };
    if fields.0.next().is_some() {
        return Err(LineError::Surplus);
    }
    Ok(transaction)
}

struct Fields<'a>(std::str::Split<'a, char>);

impl Fields<'_> {
    /// A decimal number in its shortest form, within `low..=high`.
    fn number<N>(&mut self, name: &'static str, low: N, high: N) -> Result<N, LineError>
    where
        N: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let field = self.0.next().ok_or(LineError::Missing(name))?;
        let shortest = field == "0" || field.bytes().next().is_some_and(|b| matches!(b, b'1'..=b'9'));
        match field.parse::<N>() {
            Ok(n) if shortest && n >= low && n <= high => Ok(n),
            _ => Err(LineError::Field(name, format!("a whole number from {low} to {high}"))),
        }
    }

    fn category(&mut self) -> Result<Category, LineError> {
        let field = self.0.next().ok_or(LineError::Missing("category"))?;
        Category::from_name(field).ok_or_else(|| {
            LineError::Field("category", format!("one of {}", Category::ALL.map(Category::name).join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "7,1299,23,gaming,0,1,5000,3,250,1,90,2,1";

    fn parse_one(line: &str) -> Result<Vec<Transaction>, CsvError> {
        parse(format!("{HEADER}\n{line}\n").as_bytes())
    }

    fn broken(line: &str) -> LineError {
        match parse_one(line) {
            Err(CsvError::Line { line: 2, reason }) => reason,
            other => panic!("expected line 2 to be broken: {other:?}"),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let rows = parse_one(GOOD).unwrap();
        assert_eq!(rows[0].amount_cents, 1299);
        assert_eq!(rows[0].category, Category::Gaming);
        assert_eq!(rows[0].fraud, Some(true));
        assert_eq!(write(&rows), format!("{HEADER}\n{GOOD}\n"));
        let unlabelled = [Transaction { fraud: None, ..rows[0] }];
        assert_eq!(parse(write(&unlabelled).as_bytes()).unwrap(), unlabelled);
    }

    #[test]
    fn each_fault_is_named() {
        parse_one(GOOD).expect("the twin of all below");
        assert_eq!(broken(""), LineError::Field("id", "a whole number from 0 to 4294967295".into()));
        assert_eq!(broken("7,1299,24,gaming,0,1,5000,3,250,1,90,2,1"), hour());
        assert_eq!(broken("7,1299,023,gaming,0,1,5000,3,250,1,90,2,1"), hour());
        assert_eq!(broken("7,1299,+23,gaming,0,1,5000,3,250,1,90,2,1"), hour());
        assert!(matches!(broken("7,1299,23,casino,0,1,5000,3,250,1,90,2,1"), LineError::Field("category", _)));
        assert_eq!(broken("7,1299,23,gaming,0,1,5000,3,250,1,90,2"), LineError::Missing("fraud"));
        assert_eq!(broken(&format!("{GOOD},1")), LineError::Surplus);
        assert!(matches!(broken(&format!("{GOOD}\r")), LineError::Field("fraud", _)));
        assert_eq!(broken(&format!("{GOOD}{}", "1".repeat(MAX_LINE))), LineError::TooLong);
    }

    fn hour() -> LineError {
        LineError::Field("hour", "a whole number from 0 to 23".into())
    }

    #[test]
    fn the_line_number_is_right() {
        let text = format!("{HEADER}\n{GOOD}\n{GOOD}\nx\n");
        assert!(matches!(parse(text.as_bytes()), Err(CsvError::Line { line: 4, .. })));
        let blank = format!("{HEADER}\n{GOOD}\n\n{GOOD}\n");
        assert!(matches!(parse(blank.as_bytes()), Err(CsvError::Line { line: 3, .. })));
        assert_eq!(parse(b"a,b\n1,2\n"), Err(CsvError::Line { line: 1, reason: LineError::Header }));
        assert_eq!(parse(b""), Err(CsvError::Line { line: 1, reason: LineError::Header }));
        let latin = [HEADER.as_bytes(), b"\n\xff\n"].concat();
        assert_eq!(parse(&latin), Err(CsvError::Line { line: 2, reason: LineError::Encoding }));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&data);
            let _ = parse(&[HEADER.as_bytes(), b"\n", &data].concat());
        }

        #[test]
        fn what_is_accepted_is_canonical(line in "[0-9]{1,4},[0-9]{1,3},[0-9]{1,2},fuel,[01],[01],[0-9]{1,3},[0-9],[0-9]{1,3},[0-9],[0-9]{1,2},[0-9],[01]") {
            let text = format!("{HEADER}\n{line}\n");
            if let Ok(rows) = parse(text.as_bytes()) {
                prop_assert_eq!(write(&rows), text);
            }
        }
    }
}
