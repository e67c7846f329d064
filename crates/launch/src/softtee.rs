//! Joins the software secure processor to the pod VM that it measures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_softtee::{Keys, Launch, LaunchError, QemuError};
use belljar_vmm::{Measured, SecureProcessor};

/// How long a wrapper may take to become QEMU.
const BECOMES_QEMU: Duration = Duration::from_secs(5);

/// This user's software secure processor.
#[derive(Debug)]
pub struct SoftProcessor {
    keys: Arc<Keys>,
}

impl SoftProcessor {
    /// With these keys.
    pub fn new(keys: Arc<Keys>) -> Arc<Self> {
        Arc::new(Self { keys })
    }
}

impl SecureProcessor for SoftProcessor {
    fn measure(&self, qemu: u32) -> Result<Box<dyn Measured>, String> {
        let launch = of_process(qemu).map_err(|e| e.to_string())?;
        Ok(Box::new(MeasuredLaunch { launch, keys: self.keys.clone() }))
    }
}

/// Measures the process as soon as it has become QEMU: what is started may be a script that does so.
fn of_process(pid: u32) -> Result<Launch, LaunchError> {
    let deadline = Instant::now() + BECOMES_QEMU;
    loop {
        match Launch::of_process(pid) {
            // In the middle of execve(2) a process has its new program, and no arguments yet.
            Err(LaunchError::Program { .. } | LaunchError::CommandLine(QemuError::Missing { .. }))
                if Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            measured => return measured,
        }
    }
}

struct MeasuredLaunch {
    launch: Launch,
    keys: Arc<Keys>,
}

impl Measured for MeasuredLaunch {
    fn report(&self, report_data: &[u8; 64]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let (report, certificates) = self.launch.report(&self.keys, report_data).map_err(|e| e.to_string())?;
        Ok((report.to_vec(), certificates))
    }
}
