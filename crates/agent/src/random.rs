//! Random numbers: the kernel's, which the processor's RDRAND feeds, and AWS-LC's on top of them.
//!
//! AWS-LC wants two sources. Beside the kernel it measures the jitter of the CPU's clock, which takes about 475 million
//! instructions at the first random number (a third of a boot under emulation), and whose worth is unclear in a VM whose
//! host decides about time. In a VM that announces when it was cloned, it takes the kernel and RDRAND instead
//! (`crypto/ube/vm_ube_detect.c` of AWS-LC: a page with a generation number at `/dev/sysgenid`, the interface of the
//! proposed Linux driver of that name). Here PID 1 makes that announcement: generation 0, as pod VMs are not cloned.

use std::{fs, io};

/// Announces the VM's generation under `dev`, where devtmpfs is mounted. To be called before the first random number.
pub fn announce_generation(dev: &str) -> io::Result<()> {
    fs::write(format!("{dev}/sysgenid"), 0_u32.to_ne_bytes())
}
