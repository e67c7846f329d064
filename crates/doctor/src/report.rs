//! What the doctor says, and what it has to be told.

use std::path::PathBuf;

use serde::Serialize;

/// All findings, in the order in which a person would look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The findings.
    pub rows: Vec<Row>,
}

impl Report {
    /// The finding about `what` in `area`.
    #[must_use]
    pub fn row(&self, area: Area, what: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.area == area && row.what == what)
    }

    /// Whether every fact of that area is there.
    #[must_use]
    pub fn all_ok(&self, area: Area) -> bool {
        self.rows.iter().filter(|row| row.area == area).all(|row| row.state == State::Ok)
    }

    /// Whether `belljar run` can start a pod at all, be it in the software TEE: QEMU, guest image and space are there.
    #[must_use]
    pub fn can_run(&self) -> bool {
        [Area::Qemu, Area::GuestImage, Area::Space].into_iter().all(|area| self.rows.iter().any(|row| row.area == area))
            && self.rows.iter().all(|row| {
                !matches!(row.area, Area::Qemu | Area::GuestImage | Area::Space)
                    || row.state == State::Ok
                    || row.what.contains("-guest object")
            })
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it concerns.
    pub area: Area,
    /// The fact that was looked at, in a few words.
    pub what: String,
    /// The judgement.
    pub state: State,
    /// What was found, in a few words.
    pub found: String,
    /// The one next step; there is one exactly when the state is [`State::Missing`] or [`State::Problem`].
    pub next: Option<String>,
}

/// Judgement of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There, and good.
    Ok,
    /// Not there.
    Missing,
    /// There, and not usable.
    Problem,
    /// Does not matter on this machine.
    NotApplicable,
}

/// What a finding concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// Processor, kernel, memory.
    Machine,
    /// Starting AMD SEV-SNP guests.
    Snp,
    /// Starting Intel TDX guests.
    Tdx,
    /// Running Intel SGX enclaves.
    Sgx,
    /// Being a confidential VM.
    TeeGuest,
    /// Hardware virtualisation.
    Kvm,
    /// Devices for channels and networks of VMs.
    Devices,
    /// The virtual machine monitor.
    Qemu,
    /// Kernel, initrd and firmware of pod VMs.
    GuestImage,
    /// The container runtime that Kubernetes uses.
    Containerd,
    /// Kernel facilities.
    System,
    /// Room on disks.
    Space,
}

/// What the doctor cannot find out by looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// Answer of the probe that starts a tiny guest.
    pub kvm: KvmProbe,
    /// Whether the guest image is complete.
    pub guest_image: GuestImage,
    /// QEMU to ask; `None` looks for `qemu-system-x86_64` in the usual folders.
    pub qemu: Option<PathBuf>,
    /// Folders that need room.
    pub directories: Vec<Directory>,
}

/// Whether KVM really runs a guest: a device that opens proves little inside other virtual machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmProbe {
    /// A tiny guest ran.
    Runs,
    /// It did not, for this reason.
    Fails(String),
    /// Nobody tried.
    NotTried,
}

/// State of the guest image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestImage {
    /// Every file is there, with the digest that its manifest names.
    Complete {
        /// Where.
        dir: PathBuf,
        /// Kernel version or the like.
        version: String,
    },
    /// There is none.
    Absent {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// It is there and not whole.
    Broken {
        /// Where.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A folder that needs room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Its purpose, as "image store".
    pub name: String,
    /// Its path; it need not exist yet.
    pub path: PathBuf,
    /// Bytes that should be free.
    pub need_bytes: u64,
}

/// Rows of one area.
pub(crate) struct Rows<'a> {
    pub area: Area,
    pub rows: &'a mut Vec<Row>,
}

impl Rows<'_> {
    pub fn ok(&mut self, what: &str, found: impl Into<String>) {
        self.push(what, State::Ok, found, None);
    }

    pub fn missing(&mut self, what: &str, found: impl Into<String>, next: impl Into<String>) {
        self.push(what, State::Missing, found, Some(next.into()));
    }

    pub fn problem(&mut self, what: &str, found: impl Into<String>, next: impl Into<String>) {
        self.push(what, State::Problem, found, Some(next.into()));
    }

    pub fn not_applicable(&mut self, what: &str, found: impl Into<String>) {
        self.push(what, State::NotApplicable, found, None);
    }

    fn push(&mut self, what: &str, state: State, found: impl Into<String>, next: Option<String>) {
        self.rows.push(Row { area: self.area, what: what.to_owned(), state, found: found.into(), next });
    }
}
