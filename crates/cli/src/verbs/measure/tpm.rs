//! `belljar measure tpm`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use belljar_evidence::eventlog;
use belljar_evidence::tpm::Hash;
use clap::Args;

use crate::evidence::file;
use crate::failure::Failure;
use crate::output::{Format, json, print, table};

/// Arguments of `belljar measure tpm`.
#[derive(Debug, Args)]
pub struct Tpm {
    /// TCG2 event log of a boot that is trusted, e.g. the first one of a golden machine
    #[arg(long, required_unless_present = "initdata")]
    event_log: Option<PathBuf>,
    /// Initdata document: register 8 of the SHA-256 bank is zeros, extended once by its SHA-256
    #[arg(long)]
    initdata: Option<PathBuf>,
}

impl Tpm {
    /// Register values by bank, as a policy's `pcrs` has them.
    pub fn execute(self, format: Format) -> Result<i32, Failure> {
        let mut banks: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        if let Some(path) = &self.event_log {
            let log = eventlog::Log::parse(&file::read(path)?)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
            for bank in log.algorithms.iter().filter_map(|(number, _)| Hash::of(*number)) {
                let pcrs = eventlog::replay(&log, bank).pcrs();
                let values = pcrs.registers().filter_map(|register| Some((register, pcrs.get(register)?)));
                banks
                    .insert(bank.name(), values.map(|(n, value)| (format!("pcr{n:02}"), hex::encode(value))).collect());
            }
        }
        if let Some(path) = &self.initdata {
            let digest = Hash::Sha256.digest(&[&file::read(path)?]);
            let value = hex::encode(Hash::Sha256.digest(&[&[0; 32], &digest]));
            let bank = banks.entry(Hash::Sha256.name()).or_default();
            if bank.insert("pcr08".to_owned(), value.clone()).is_some_and(|other| other != value) {
                return Err(Failure::usage(
                    "the event log extends register 8, too: its value cannot be the initdata's alone",
                ));
            }
        }
        match format {
            Format::Json => json(&banks)?,
            Format::Text => {
                let rows: Vec<Vec<String>> = banks
                    .into_iter()
                    .flat_map(|(bank, values)| {
                        values.into_iter().map(move |(name, value)| vec![bank.into(), name, value])
                    })
                    .collect();
                print(&table(&["BANK", "REGISTER", "VALUE"], &rows))?;
            }
        }
        Ok(0)
    }
}
