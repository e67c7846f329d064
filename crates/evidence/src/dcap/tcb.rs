//! What Intel's TCB info says of a platform: the first level that all its parts reach.

use serde::{Deserialize, Serialize};

use super::body::TdReport;
use super::json::{IsvLevel, Level, Rating, TcbInfo, TdxModule};
use super::pck::Pck;

/// How Intel rates a level, and `NotSupported` where no level is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Nothing is known to be missing.
    UpToDate,
    /// The software inside needs a mitigation of its own.
    SWHardeningNeeded,
    /// A setting of the platform is not as it should be.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// An update is missing.
    OutOfDate,
    /// An update is missing, and a setting is not as it should be.
    OutOfDateConfigurationNeeded,
    /// Keys of this level are known or must be taken to be known to others.
    Revoked,
    /// Below every level that Intel lists.
    #[serde(skip_deserializing)]
    NotSupported,
}

impl Status {
    /// The name in Intel's documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
            Self::NotSupported => "NotSupported",
        }
    }

    /// The platform's status lowered by that of a part of it (the QE, the TDX module).
    pub fn lowered_by(self, part: Self) -> Self {
        match (self, part) {
            (Self::NotSupported, _) | (_, Self::NotSupported) => Self::NotSupported,
            (Self::Revoked, _) | (_, Self::Revoked) => Self::Revoked,
            (Self::UpToDate | Self::SWHardeningNeeded, Self::OutOfDate) => Self::OutOfDate,
            (Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded, Self::OutOfDate) => {
                Self::OutOfDateConfigurationNeeded
            }
            // Intel rates a module and a QE as up to date, out of date or revoked; another word lowers to itself.
            (Self::UpToDate, other) => other,
            (status, _) => status,
        }
    }

    /// Whether an update is missing.
    pub fn is_out_of_date(self) -> bool {
        matches!(self, Self::OutOfDate | Self::OutOfDateConfigurationNeeded)
    }
}

/// The TCB of the evidence, in Intel's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tcb {
    /// Of the platform's components.
    pub platform: Status,
    /// As of when the platform's level is; `None` where no level is reached.
    pub platform_tcb_date: Option<String>,
    /// Advisories that the platform's level is open to; `None` for none.
    pub advisories: Option<Vec<String>>,
    /// Number of Intel's evaluation.
    pub tcb_eval_number: u32,
    /// Of the TDX module, where it is listed apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tdx_module: Option<Status>,
    /// Advisories of the TDX module's level.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tdx_module_advisories: Vec<String>,
    /// Of the quoting enclave, where its identity is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qe: Option<Status>,
    /// Advisories of the quoting enclave's level.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub qe_advisories: Vec<String>,
    /// The platform's, lowered by the TDX module's and the quoting enclave's.
    pub combined: Status,
    /// The platform was updated under the running TD, which would be up to date if it were launched again (TDX 1.5).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub relaunch_advised: bool,
}

/// What TCB info says before the quoting enclave is looked at.
pub(super) fn assess(info: &TcbInfo, pck: &Pck, td: Option<&TdReport>) -> Tcb {
    let (platform, module) = rate(info, pck, td.map(|td| td.tee_tcb_svn));
    let status = platform.map_or(Status::NotSupported, |rating| rating.status);
    let module_status = module.map(|rating| rating.map_or(Status::NotSupported, |rating| rating.status));
    let module_rating = module.flatten();
    let combined = status.lowered_by(module_status.unwrap_or(Status::UpToDate));
    let advisories = platform.map(|rating| rating.advisories.clone()).filter(|list| !list.is_empty());
    Tcb {
        platform: status,
        platform_tcb_date: platform.map(|rating| rating.date.clone()),
        advisories,
        tcb_eval_number: info.evaluation_number,
        tdx_module: module_status,
        tdx_module_advisories: module_rating.map(|rating| rating.advisories.clone()).unwrap_or_default(),
        qe: None,
        qe_advisories: Vec::new(),
        combined,
        relaunch_advised: combined.is_out_of_date() && td.is_some_and(|td| is_better_now(info, pck, td)),
    }
}

/// Whether the TCB that runs now, other than that of the launch, is no longer out of date.
fn is_better_now(info: &TcbInfo, pck: &Pck, td: &TdReport) -> bool {
    let Some(extension) = &td.extension else { return false };
    let (platform, module) = rate(info, pck, Some(extension.tee_tcb_svn2));
    let status = platform.map_or(Status::NotSupported, |rating| rating.status);
    let module = module.map_or(Status::UpToDate, |rating| rating.map_or(Status::NotSupported, |rating| rating.status));
    let now = status.lowered_by(module);
    !now.is_out_of_date() && !matches!(now, Status::Revoked | Status::NotSupported)
}

/// The platform's rating, and that of the TDX module where it is listed apart.
fn rate<'a>(info: &'a TcbInfo, pck: &Pck, tdx: Option<[u8; 16]>) -> (Option<&'a Rating>, Option<Option<&'a Rating>>) {
    let platform = info.levels.iter().find(|level| reaches(level, pck, tdx)).map(|level| &level.rating);
    let module = tdx.filter(|svn| major(svn) != 0).map(|svn| {
        let module = info.modules.iter().find(|module| names(module, &svn))?;
        isv_rating(&module.levels, u16::from(svn[0]))
    });
    (platform, module)
}

/// The rating of the first level that the security version reaches.
pub(super) fn isv_rating(levels: &[IsvLevel], svn: u16) -> Option<&Rating> {
    levels.iter().find(|level| svn >= level.isv_svn).map(|level| &level.rating)
}

/// The module of TCB info that a TD was launched under: by its major version, or without one the plain module.
pub(super) fn module_of<'a>(info: &'a TcbInfo, td: &TdReport) -> Option<&'a TdxModule> {
    if major(&td.tee_tcb_svn) == 0 {
        return info.modules.iter().find(|module| module.id.is_none());
    }
    info.modules.iter().find(|module| names(module, &td.tee_tcb_svn))
}

/// Major version of the TDX module: the second security version.
fn major(svn: &[u8; 16]) -> u8 {
    svn[1]
}

fn names(module: &TdxModule, svn: &[u8; 16]) -> bool {
    module.id.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(&format!("TDX_{:02x}", major(svn))))
}

fn reaches(level: &Level, pck: &Pck, tdx: Option<[u8; 16]>) -> bool {
    let all = |have: &[u8], least: &[u8]| have.iter().zip(least).all(|(have, least)| have >= least);
    let sgx = all(&pck.components, &level.sgx) && pck.pce_svn >= level.pce_svn;
    match (tdx, level.tdx) {
        (None, None) => sgx,
        (Some(have), Some(least)) => {
            // With a major version, the first two are the module's and rated by its identity.
            let from = if major(&have) == 0 { 0 } else { 2 };
            sgx && all(have.get(from..).unwrap_or_default(), least.get(from..).unwrap_or_default())
        }
        _ => false,
    }
}
