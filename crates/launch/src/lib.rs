//! From a guest image, initdata and layers to a running pod VM: what `belljar run` and the containerd shim share.
//!
//! | module | holds |
//! |---|---|
//! | [`blueprint`] | [`Blueprint`]: from the parts of a pod to a [`Machine`](belljar_vmm::Machine) |
//! | [`size`] | vCPUs and memory of the VM |
//! | [`prediction`] | the launch measurement that the evidence must have |
//! | [`softtee`] | joins the software secure processor to the VM that it measures |
//! | [`tunnel`] | carries the guest's connections |
//! | [`address`] | where a broker listens |

pub mod address;
pub mod blueprint;
pub mod prediction;
pub mod size;
pub mod softtee;
pub mod tunnel;

pub use address::{AddressError, BrokerAddress};
pub use blueprint::{Blueprint, BlueprintError, LayerDisk, accelerator, options};
pub use prediction::{PredictionError, file_digest, predict, predict_snp, predict_software};
pub use size::{OVERHEAD_MIB, TooLarge, memory_mib, shape};
pub use softtee::SoftProcessor;
pub use tunnel::Tunnel;
