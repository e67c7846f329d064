//! `belljar measure tdx`.

use std::path::PathBuf;

use belljar_measure::tdx::Order;
use clap::Args;

use crate::failure::Failure;
use crate::output::{Format, json, print};

/// Arguments of `belljar measure tdx`.
#[derive(Debug, Args)]
pub struct Tdx {
    /// Firmware with TDX metadata (TDVF)
    #[arg(long)]
    firmware: PathBuf,
    /// For hosts with Intel's patches from before Linux 6.16, which add all pages of a section before they measure any
    #[arg(long)]
    section_by_section: bool,
}

impl Tdx {
    /// Carries the verb out.
    pub fn execute(self, format: Format) -> Result<i32, Failure> {
        let order = if self.section_by_section { Order::SectionBySection } else { Order::PageByPage };
        let mrtd = hex::encode(belljar_measure::tdx::mrtd(&self.firmware, order).map_err(Failure::usage)?);
        match format {
            Format::Json => json(&serde_json::json!({ "tee": "tdx", "mrtd": mrtd }))?,
            Format::Text => print(&format!("{mrtd}\n"))?,
        }
        Ok(0)
    }
}
