//! What a run leaves to read: the page for a security officer, and its data for programs.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use belljar_broker::{HandshakeRecord, Outcome};
use belljar_contract::{Contract, Digest};
use belljar_evidence::snp::Certificate;
use belljar_evidence::time::rfc3339;
use belljar_guest_image::GuestImage;
use belljar_image::Image;
use belljar_page as page;
use belljar_page::Page;
use belljar_vmm::{Machine, TeeKind};

use crate::failure::Failure;
use crate::run::options::RunOptions;
use crate::run::timings::{BOOT, Phase};

/// Most records of runs that are kept.
const KEPT: usize = 100;

/// What was predicted and decided before the pod started.
#[derive(Debug)]
pub struct Facts {
    /// The pod's id.
    pub pod: String,
    /// HOST_DATA.
    pub initdata_digest: [u8; 32],
    image: String,
    image_digest: String,
    guest: belljar_guest_image::Inspection,
    tee: TeeKind,
    kernel_file: &'static str,
    firmware_file: &'static str,
    command_line: String,
    vcpus: u32,
    contract_words: Vec<String>,
    contract_toml: String,
    digest: String,
    measurement: [u8; 48],
}

impl Facts {
    /// Collects them.
    #[allow(clippy::too_many_arguments, reason = "each is a different thing that the page shows")]
    pub fn new(
        options: &RunOptions,
        image: &Image,
        guest: &GuestImage,
        machine: &Machine,
        contract: &Contract,
        initdata: &str,
        digest: &Digest,
        measurement: [u8; 48],
    ) -> Self {
        let tee = machine.tee.kind();
        Self {
            pod: machine.id.clone(),
            initdata_digest: digest.host_data(),
            image: options.image.clone(),
            image_digest: image.manifest_digest.clone(),
            guest: guest.inspect(),
            tee,
            kernel_file: if tee == TeeKind::Software { "vmlinux" } else { "vmlinuz" },
            firmware_file: match tee {
                TeeKind::Software => "qboot.rom",
                TeeKind::Snp => "OVMF.amdsev.fd",
                TeeKind::Tdx => "OVMF.inteltdx.ms.fd",
            },
            command_line: machine.guest.cmdline.clone(),
            vcpus: machine.vcpus,
            contract_words: contract.plain_words(),
            contract_toml: initdata.to_owned(),
            digest: digest.to_hex(),
            measurement,
        }
    }

    /// The page about the run. `result` is how it ended.
    pub fn page(&self, record: Option<&HandshakeRecord>, result: &Result<i32, Failure>, phases: &[Phase]) -> Page {
        let software = self.tee == TeeKind::Software;
        let (verdict, reason) = self.verdict(record, result);
        Page {
            subject: self.image.clone(),
            verdict,
            reason,
            tee: page::Tee {
                name: match self.tee {
                    TeeKind::Software => "software TEE".to_owned(),
                    TeeKind::Snp => "AMD SEV-SNP".to_owned(),
                    TeeKind::Tdx => "Intel TDX".to_owned(),
                },
                software,
            },
            facts: self.facts(result),
            measured: self.measured(record),
            inputs: self.inputs(),
            chain: record.map(chain).unwrap_or_default(),
            checks: record.map(checks).unwrap_or_default(),
            contract: page::Contract {
                digest: self.digest.clone(),
                words: self.contract_words.clone(),
                toml: self.contract_toml.clone(),
            },
            decisions: record.map(decisions).unwrap_or_default(),
            attacks: Vec::new(),
            phases: rows(phases),
            versions: vec![
                fact("belljar", env!("CARGO_PKG_VERSION")),
                fact("agent", &self.guest.agent_version),
                fact("guest kernel", &self.guest.kernel_release),
                fact("guest image", &self.guest.id),
            ],
            written_at: now(),
        }
    }

    fn verdict(&self, record: Option<&HandshakeRecord>, result: &Result<i32, Failure>) -> (page::Verdict, String) {
        let admitted = record.is_some_and(|record| record.admitted);
        match result {
            Ok(code) if admitted => (
                page::Verdict::Accepted,
                format!(
                    "The evidence is what was predicted before the pod existed; the container ended with code {code}."
                ),
            ),
            Ok(code) => {
                (page::Verdict::Undecided, format!("No handshake was recorded; the container ended with code {code}."))
            }
            Err(failure) if failure.exit == crate::failure::Exit::Refused => {
                (page::Verdict::Refused, failure.cause.clone())
            }
            Err(failure) => (page::Verdict::Undecided, failure.cause.clone()),
        }
    }

    fn facts(&self, result: &Result<i32, Failure>) -> Vec<page::Fact> {
        let mut facts = vec![
            fact("image", &self.image),
            fact("image digest", &self.image_digest),
            fact("pod", &self.pod),
            fact("vCPUs", &self.vcpus.to_string()),
        ];
        if let Ok(code) = result {
            facts.push(fact("exit code of the container", &code.to_string()));
        }
        facts
    }

    fn measured(&self, record: Option<&HandshakeRecord>) -> Vec<page::Measured> {
        let found = |value: Option<&String>| value.cloned();
        vec![
            page::Measured {
                what: "launch measurement".to_owned(),
                source: format!("computed from guest image {:.12} for {} vCPU", self.guest.id, self.vcpus),
                predicted: Some(hex::encode(self.measurement)),
                found: found(record.and_then(|r| r.launch.values().next())),
            },
            page::Measured {
                what: "HOST_DATA (contract digest)".to_owned(),
                source: "SHA-256 of the initdata document below".to_owned(),
                predicted: Some(hex::encode(self.initdata_digest)),
                found: found(record.and_then(|r| r.host_data.as_ref())),
            },
        ]
    }

    /// What goes into the launch measurement.
    fn inputs(&self) -> Vec<page::Input> {
        let files = [("firmware", self.firmware_file), ("kernel", self.kernel_file), ("initrd", "initrd")];
        let files = files.into_iter().filter_map(|(what, name)| {
            let file = self.guest.files.iter().find(|file| file.name == name)?;
            Some(page::Input {
                what: what.to_owned(),
                source: format!("{name}, {} {}", file.package, file.version),
                value: file.sha256.clone(),
            })
        });
        let command_line = page::Input {
            what: "kernel command line".to_owned(),
            source: "the guest image's recipe".to_owned(),
            value: self.command_line.clone(),
        };
        files.chain([command_line]).collect()
    }
}

/// The phases on one axis: the guest's clock starts with its kernel, a moment after QEMU.
fn rows(phases: &[Phase]) -> Vec<page::Phase> {
    let boot = phases.iter().find(|phase| phase.name == BOOT).map_or(0, |phase| phase.start_us);
    let row = |phase: &Phase| page::Phase {
        name: format!("{}: {}", phase.place, phase.name),
        start_ms: millis(if phase.place == "guest" { phase.start_us.saturating_add(boot) } else { phase.start_us }),
        duration_ms: millis(phase.end_us.saturating_sub(phase.start_us)),
    };
    phases.iter().map(row).collect()
}

fn chain(record: &HandshakeRecord) -> Vec<page::Certificate> {
    let mut rows: Vec<page::Certificate> = record
        .chain
        .iter()
        .filter_map(|entry| {
            let der = STANDARD.decode(&entry.der).ok()?;
            let parsed = Certificate::parse(&der).ok()?;
            let fingerprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
            Some(page::Certificate {
                role: entry.kind.clone(),
                subject: parsed.subject_name().to_owned(),
                issuer: parsed.issuer_name().to_owned(),
                not_before: rfc3339(parsed.not_before()),
                not_after: rfc3339(parsed.not_after()),
                fingerprint: hex::encode(fingerprint),
                key: if parsed.p384_key().is_some() { "ECDSA P-384".to_owned() } else { "RSA 4096".to_owned() },
                trust: match entry.kind.as_str() {
                    "ARK" if record.tee == "software-tee" => "root of this user's software TEE".to_owned(),
                    "ARK" => "AMD's root, compiled in".to_owned(),
                    _ => "by the one above".to_owned(),
                },
            })
        })
        .collect();
    rows.reverse();
    rows
}

fn checks(record: &HandshakeRecord) -> Vec<page::Check> {
    let row = |check: &belljar_broker::CheckRecord| page::Check {
        name: check.name.clone(),
        outcome: match check.outcome {
            Outcome::Passed => page::Outcome::Passed,
            Outcome::Failed => page::Outcome::Failed,
            Outcome::NotChecked => page::Outcome::NotChecked,
        },
        expected: check.expected.clone(),
        found: check.found.clone(),
    };
    record.checks.iter().map(row).collect()
}

fn decisions(record: &HandshakeRecord) -> Vec<page::Decision> {
    let row = |release: &belljar_broker::Release| page::Decision {
        resource: format!("kbs:///{}", release.resource),
        rule: format!("default deny; this workload ({}) may have this path", record.workloads.join(", ")),
        allowed: release.denial.is_none(),
        reason: match (&release.denial, release.bytes) {
            (Some(denial), _) => denial.to_string(),
            (None, Some(bytes)) => format!("released: {bytes} bytes, encrypted to the key in the evidence"),
            (None, None) => "released".to_owned(),
        },
    };
    record.releases.iter().map(row).collect()
}

/// Keeps the data of the page below `data/runs`, the last hundred.
pub fn keep(data: &Path, pod: &str, page: &Page) -> Result<(), Failure> {
    keep_text(data, pod, &serde_json::to_vec_pretty(page).map_err(Failure::undecided)?)
}

/// For this user's eyes only: the contract stands in it, with the container's environment.
fn keep_text(data: &Path, pod: &str, text: &[u8]) -> Result<(), Failure> {
    let directory = data.join("runs");
    let failed =
        |e: std::io::Error| Failure::undecided(format!("cannot keep the record in {}: {e}", directory.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // The name sorts by time.
    let file = directory.join(format!("{seconds:012}-{pod}.json"));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    file.and_then(|mut file| file.write_all(text)).map_err(failed)?;
    let mut names: Vec<_> = std::fs::read_dir(&directory).map_err(failed)?.flatten().map(|e| e.path()).collect();
    names.sort();
    for old in names.iter().take(names.len().saturating_sub(KEPT)) {
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}

fn fact(name: &str, value: &str) -> page::Fact {
    page::Fact { name: name.to_owned(), value: value.to_owned() }
}

fn millis(micros: u64) -> f64 {
    // Exact up to 2^32 microseconds, more than an hour.
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}

fn now() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let data = std::env::temp_dir().join(format!("belljar-runs-{}", std::process::id()));
        keep_text(&data, "pod", b"{}").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let runs = data.join("runs");
        let file = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
        assert_eq!((mode(&runs), mode(&file), std::fs::read(&file).unwrap().as_slice()), (0o700, 0o600, &b"{}"[..]));
        std::fs::remove_dir_all(data).unwrap();
    }
}
