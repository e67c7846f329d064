//! What the default policy takes beside what is always right.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Worst rung of Intel's collateral that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Its next update is still to come.
    #[default]
    Fresh,
    /// The next update has passed, and the grace has not.
    InGrace,
    /// Both have passed.
    Stale,
}

impl Rung {
    /// The name in claims and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::InGrace => "in_grace",
            Self::Stale => "stale",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::Fresh, Self::InGrace, Self::Stale].into_iter().find(|rung| rung.name() == name)
    }
}

/// Least security versions of an SNP platform; what is not named is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnpFloor {
    /// Of the FMC; only Turin and later have one.
    pub fmc: u8,
    /// Of the boot loader.
    pub bootloader: u8,
    /// Of the PSP's operating system.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

impl SnpFloor {
    /// Names and numbers, in the order of the claims.
    pub fn parts(&self) -> [(&'static str, u8); 5] {
        [
            ("fmc", self.fmc),
            ("bootloader", self.bootloader),
            ("tee", self.tee),
            ("snp", self.snp),
            ("microcode", self.microcode),
        ]
    }
}

/// Settings of the default policy. Every default is the closed one; an unknown key is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Admits evidence of a software TEE, which stays contraindicated. A parameter of the process (`--allow-software-tee`),
    /// never of a policy file of a tenant's.
    pub allow_software_tee: bool,
    /// Intel's combined TCB statuses that are taken: the ladder.
    pub tcb_status: Vec<String>,
    /// Advisories that may be open; without the key, any, as the status speaks for them.
    pub advisories: Option<Vec<String>>,
    /// Least number of Intel's TCB evaluation.
    pub min_tcb_eval_number: Option<u32>,
    /// Worst rung of Intel's collateral.
    pub freshness: Rung,
    /// Least TCB of SNP platforms by product line (`Milan`, `Genoa`, `Turin`). AMD rates no TCB: a line without a floor
    /// is never up to date.
    pub min_snp_tcb: BTreeMap<String, SnpFloor>,
    /// Whether the certificates must have been looked up in a revocation list.
    pub require_revocation: bool,
    /// Whether an init-data document must be bound by the hardware.
    pub require_init_data: bool,
    /// Flags of a verdict that are taken: `vlek`, `vmpl-1`, …
    pub flags: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_software_tee: false,
            tcb_status: vec!["UpToDate".to_owned()],
            advisories: None,
            min_tcb_eval_number: None,
            freshness: Rung::Fresh,
            min_snp_tcb: BTreeMap::new(),
            require_revocation: true,
            require_init_data: true,
            flags: Vec::new(),
        }
    }
}
