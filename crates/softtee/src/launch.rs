//! One running VM: what it was launched with, and reports about it.

use aws_lc_rs::rand;
use belljar_evidence::snp::REPORT_LEN;
use belljar_measure::{FileError, SoftwareError, SoftwareLaunch};

use crate::keys::Keys;
use crate::process::Process;
use crate::qemu::{CommandLine, QemuError};
use crate::report::{self, Content};

/// Why a process is not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The process cannot be looked at.
    #[error("cannot read process {pid} ({source}): check that the VM runs and belongs to this user")]
    Process {
        /// Its number.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
    /// The process is something else than QEMU.
    #[error("process {pid} runs {found:?}, not qemu-system-x86_64: give the number of the VM's QEMU")]
    Program {
        /// Its number.
        pid: u32,
        /// What it runs.
        found: std::path::PathBuf,
    },
    /// The command line may boot what would not be measured.
    #[error(transparent)]
    CommandLine(#[from] QemuError),
    /// A file that the command line names cannot be measured.
    #[error(transparent)]
    Measure(#[from] SoftwareError),
    /// The process ended, or another one took its number, while it was measured.
    #[error("process {pid} ended while it was measured: start the VM again")]
    Ended {
        /// Its number.
        pid: u32,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: check getrandom(2)")]
    Random,
}

/// Why no report is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The VM that the launch belongs to is gone.
    #[error("the VM of process {pid} has ended: no report is given about it any more")]
    Ended {
        /// Number that the process had.
        pid: u32,
    },
    /// The signature could not be made.
    #[error("signing the report failed: run belljar doctor, and remove the software TEE's keys if they are damaged")]
    Signature,
}

/// The launch of one VM. Belongs to the channel of that VM alone: reports are about it and nothing else.
#[derive(Clone, Debug)]
pub struct Launch {
    process: Process,
    command_line: CommandLine,
    measurement: [u8; 48],
    report_id: [u8; 32],
}

impl Launch {
    /// Measures a running QEMU process: reads its arguments, and hashes the files that they name.
    ///
    /// Call it as soon as the process runs. It reads files, some 70 MB of them: not for an async task's own thread.
    ///
    /// # Errors
    /// Any [`LaunchError`].
    pub fn of_process(pid: u32) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Process { pid, source };
        let process = Process::find(pid).map_err(failed)?;
        let program = process.program().map_err(failed)?;
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.contains("qemu-system-x86_64") {
            return Err(LaunchError::Program { pid, found: program });
        }
        let arguments = process.arguments().map_err(failed)?;
        let command_line = CommandLine::parse(arguments.get(1..).unwrap_or_default())?;
        let measurement = measure(&process, &command_line)?;
        if !process.is_alive() {
            return Err(LaunchError::Ended { pid });
        }
        let mut report_id = [0; 32];
        rand::fill(&mut report_id).map_err(|_| LaunchError::Random)?;
        tracing::debug!(pid, measurement = hex::encode(measurement), "measured a VM for the software TEE");
        Ok(Self { process, command_line, measurement, report_id })
    }

    /// The launch digest.
    pub fn measurement(&self) -> &[u8; 48] {
        &self.measurement
    }

    /// HOST_DATA: what the host bound to the launch, zeros when it bound nothing.
    pub fn host_data(&self) -> &[u8; 32] {
        &self.command_line.host_data
    }

    /// What the process boots.
    pub fn command_line(&self) -> &CommandLine {
        &self.command_line
    }

    /// Answers a guest's request: an attestation report of version 3 about this VM with the guest's 64 bytes in it, and
    /// the certificate table (VCEK, ASK, ARK) that an extended guest request gives.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn report(&self, keys: &Keys, report_data: &[u8; 64]) -> Result<([u8; REPORT_LEN], Vec<u8>), SignError> {
        if !self.process.is_alive() {
            return Err(SignError::Ended { pid: self.process.pid() });
        }
        let content = Content {
            report_data,
            measurement: &self.measurement,
            host_data: &self.command_line.host_data,
            report_id: &self.report_id,
            chip_id: keys.chip_id(),
        };
        let report = report::sign(&content, keys).ok_or(SignError::Signature)?;
        let table = keys.cert_table().ok_or(SignError::Signature)?;
        Ok((report, table))
    }
}

fn measure(process: &Process, command_line: &CommandLine) -> Result<[u8; 48], SoftwareError> {
    let launch = SoftwareLaunch {
        firmware: process.file(&command_line.firmware),
        kernel: process.file(&command_line.kernel),
        initrd: process.file(&command_line.initrd),
        cmdline: command_line.cmdline.clone(),
        vcpus: command_line.vcpus,
    };
    // A pipe or a device would give QEMU something else than it gives us.
    for path in [&launch.firmware, &launch.kernel, &launch.initrd] {
        let read = |source| FileError::Read { path: path.clone(), source };
        if !std::fs::metadata(path).map_err(read)?.is_file() {
            return Err(read(std::io::Error::other("not a regular file")).into());
        }
    }
    belljar_measure::software(&launch)
}
