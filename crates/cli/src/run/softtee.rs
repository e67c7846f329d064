//! Joins the software secure processor to the pod VM that it measures.

use std::sync::Arc;

use belljar_softtee::{Keys, Launch};
use belljar_vmm::{Measured, SecureProcessor};

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
        let launch = Launch::of_process(qemu).map_err(|e| e.to_string())?;
        Ok(Box::new(MeasuredLaunch { launch, keys: self.keys.clone() }))
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
