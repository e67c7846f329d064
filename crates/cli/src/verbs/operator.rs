//! `belljar operator show`: the key that a contract may name as its operator.

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::{Format, json};
use crate::verify::operator;

/// The operator's key.
#[derive(Debug, Subcommand)]
pub enum OperatorVerb {
    /// The SHA-256 of this user's operator key, for `operator.spki_sha256` of a contract; makes the key at the first call
    #[command(after_help = "Example: belljar operator show")]
    Show,
}

impl OperatorVerb {
    /// Carries the verb out.
    pub fn execute(self, format: Format) -> Result<i32, Failure> {
        let Self::Show = self;
        let file = operator::path();
        let spki_sha256 = operator::load_or_create(&file)?.spki_sha256();
        match format {
            Format::Json => json(&serde_json::json!({ "spki_sha256": spki_sha256, "file": file }))?,
            Format::Text => println!("{spki_sha256}"),
        }
        Ok(0)
    }
}
