//! What the node is able to do, by the words of `belljar doctor`, which is asked on the node itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::process;

/// The doctor starts a tiny guest once, to see whether KVM works.
const LIMIT: Duration = Duration::from_secs(60);

/// The TEE in which pods of a node run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// The software TEE, which protects nothing; only where the administrator says so.
    Software,
    /// None: no pod can run.
    None,
}

impl Tee {
    /// As it stands in the node's label `belljar.dev/tee`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Software => "software",
            Self::None => "none",
        }
    }
}

/// What the doctor found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The hardware TEE, or [`Tee::None`].
    pub hardware: Tee,
    /// Whether VMs run on the CPU and not emulated.
    pub kvm: bool,
    /// QEMU's version, when it is new enough.
    pub qemu: Option<String>,
    /// The first thing that keeps every pod from running, with its next step.
    pub blocked: Option<(String, String)>,
    /// What keeps the hardware TEE from being used, with its next step.
    pub no_hardware: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Report {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    area: String,
    what: String,
    state: String,
    found: String,
    next: Option<String>,
}

impl Row {
    fn ok(&self) -> bool {
        self.state == "ok"
    }

    fn problem(&self) -> Option<(String, String)> {
        self.next.as_ref().map(|next| (format!("{}: {}", self.what, self.found), next.clone()))
    }
}

impl Facts {
    /// Asks the doctor that is installed on the node. The error is a sentence.
    pub(crate) fn of(layout: &Layout, qemu: Option<&Path>) -> Result<Self, String> {
        let program = layout.bin().join("belljar");
        let mut command = Command::new(&program);
        command.args(["doctor", "--format", "json"]).env("BELLJAR_DATA", layout.data()).env_remove("BELLJAR_GUEST");
        command.env("BELLJAR_CACHE", layout.cache());
        if let Some(qemu) = qemu {
            command.env("BELLJAR_QEMU", qemu);
        }
        let answer = process::run(&mut command, LIMIT)?;
        // 1 is a verdict as well: no pod can run here
        match answer.status.code() {
            Some(0 | 1) => Self::parse(&answer.stdout),
            _ => Err(format!("{} doctor: {}", program.display(), answer.complaint())),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let report: Report = serde_json::from_str(text).map_err(|error| format!("the doctor's report: {error}"))?;
        let rows = |area: &'static str| report.rows.iter().filter(move |row| row.area == area);
        let object = |name: &str| rows("qemu").any(|row| row.what == format!("{name} object") && row.ok());
        let whole = |area| rows(area).count() > 0 && rows(area).all(Row::ok);
        let kvm = rows("kvm").any(|row| row.what == "/dev/kvm" && row.ok())
            && rows("kvm").all(|row| row.what != "runs a guest" || row.state != "problem");
        let hardware = if kvm && whole("snp") && object("sev-snp-guest") {
            Tee::Snp
        } else if kvm && whole("tdx") && object("tdx-guest") {
            Tee::Tdx
        } else {
            Tee::None
        };
        let version = rows("qemu").find(|row| row.what == "version" && row.ok());
        let qemu = version.map(|row| row.found.split_ascii_whitespace().next().unwrap_or_default().to_owned());
        let blocked = ["qemu", "guest-image", "space"]
            .into_iter()
            .flat_map(rows)
            .find(|row| !row.ok() && !row.what.ends_with("-guest object"))
            .and_then(Row::problem);
        // The TEE of this CPU's vendor is the one with rows that apply.
        let no_hardware = ["snp", "tdx", "kvm", "qemu"]
            .into_iter()
            .flat_map(rows)
            .find_map(|row| if row.ok() { None } else { row.problem() });
        let no_hardware = no_hardware.filter(|_| hardware == Tee::None);
        Ok(Self { hardware, kvm, qemu, blocked, no_hardware })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: &[(&str, &str, &str)]) -> Facts {
        let rows: Vec<_> = rows
            .iter()
            .map(|(area, what, state)| {
                let next = (*state == "missing" || *state == "problem").then_some("do it");
                serde_json::json!({"area": area, "what": what, "state": state, "found": "10.0.2 (needs 10.0)", "next": next})
            })
            .collect();
        Facts::parse(&serde_json::json!({"can_run": true, "rows": rows, "running": []}).to_string()).unwrap()
    }

    #[test]
    fn hardware_is_there_when_every_fact_of_it_is() {
        let good = [
            ("snp", "cpu", "ok"),
            ("snp", "/dev/sev", "ok"),
            ("tdx", "cpu", "not-applicable"),
            ("kvm", "/dev/kvm", "ok"),
            ("kvm", "runs a guest", "ok"),
            ("qemu", "version", "ok"),
            ("qemu", "sev-snp-guest object", "ok"),
            ("guest-image", "files", "ok"),
        ];
        let facts = report(&good);
        assert_eq!((facts.hardware, facts.kvm, facts.qemu.as_deref()), (Tee::Snp, true, Some("10.0.2")));
        assert_eq!((facts.blocked, facts.no_hardware), (None, None));
        for lacking in ["/dev/sev", "sev-snp-guest object", "/dev/kvm"] {
            let rows: Vec<_> =
                good.iter().map(|(a, what, s)| (*a, *what, if *what == lacking { "problem" } else { s })).collect();
            let facts = report(&rows);
            assert_eq!(facts.hardware, Tee::None, "{lacking}");
            assert_eq!(facts.no_hardware.unwrap().0, format!("{lacking}: 10.0.2 (needs 10.0)"));
            assert_eq!(facts.blocked, None);
        }
        let rows: Vec<_> = good.iter().map(|(a, w, s)| (*a, *w, if *w == "files" { "missing" } else { s })).collect();
        assert_eq!(report(&rows).blocked.unwrap().1, "do it");
    }

    #[test]
    fn words_that_are_no_report() {
        assert!(Facts::parse("{}").unwrap_err().starts_with("the doctor's report: missing field"));
    }
}
