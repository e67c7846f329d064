//! From the parts of a pod to the description of its VM.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use belljar_guest_api::names;
use belljar_guest_image::GuestImage;
use belljar_softtee::Keys;
use belljar_vmm::{
    Accel, Disk, DiskContent, GuestFiles, Machine, Nic, Options, Qemu, SecureProcessor, Tee, TeeKind, accel,
};

use crate::softtee::SoftProcessor;

/// The parts of a pod VM.
#[derive(Debug)]
pub struct Blueprint<'a> {
    /// Shown by `ps`: 1 to 64 of `[a-z0-9-]`.
    pub id: &'a str,
    /// What protects the guest; has the initdata's digest already.
    pub tee: Tee,
    /// What runs the guest's instructions.
    pub accel: Accel,
    /// Firmware, kernel and initrd.
    pub guest: &'a GuestImage,
    /// The initdata document, raw.
    pub initdata: &'a str,
    /// The layers of all images; equal ones become one disk.
    pub layers: Vec<LayerDisk>,
    /// Number of vCPUs, from [`shape`](crate::shape).
    pub vcpus: u32,
    /// Memory of the VM in MiB, from [`memory_mib`](crate::memory_mib()).
    pub memory_mib: u64,
    /// Whether the guest speaks on its console. This is measured.
    pub debug: bool,
    /// The network interface.
    pub nic: Option<Nic>,
}

/// A layer that lies on this host's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDisk {
    /// The file: file system and dm-verity tree.
    pub path: PathBuf,
    /// Root of the tree, by which the guest finds and checks it.
    pub verity_root: [u8; 32],
}

/// Why there is no description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlueprintError {
    /// A root makes no serial.
    #[error("a layer of the store has no verity root")]
    Root,
}

impl Blueprint<'_> {
    /// The machine.
    pub fn machine(self) -> Result<Machine, BlueprintError> {
        let (firmware, kernel) = match self.tee.kind() {
            TeeKind::Software => (self.guest.qboot(), self.guest.vmlinux()),
            TeeKind::Snp => (self.guest.ovmf_amdsev(), self.guest.vmlinuz()),
            TeeKind::Tdx => (self.guest.ovmf_inteltdx(), self.guest.vmlinuz()),
        };
        let (initrd, cmdline) = (self.guest.initrd(), self.guest.cmdline(self.debug));
        let disk = belljar_contract::encode_disk(self.initdata.as_bytes());
        let mut disks =
            vec![Disk { content: DiskContent::Bytes(Arc::from(disk)), serial: names::INITDATA_SERIAL.to_owned() }];
        for layer in self.layers {
            let serial = names::layer_serial(&hex::encode(layer.verity_root)).ok_or(BlueprintError::Root)?;
            // Two equal layers are one disk; the guest opens it for both.
            if disks.iter().any(|disk| disk.serial == serial) {
                continue;
            }
            disks.push(Disk { content: DiskContent::File(layer.path), serial });
        }
        Ok(Machine {
            id: self.id.to_owned(),
            tee: self.tee,
            accel: self.accel,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            guest: GuestFiles { firmware, kernel, initrd, cmdline },
            disks,
            nic: self.nic,
        })
    }
}

/// What runs guests on this machine; remembered in `cache_dir`.
pub async fn accelerator(qemu: &Qemu, guest: &GuestImage, cache_dir: &Path) -> Accel {
    let files = GuestFiles {
        firmware: guest.qboot(),
        kernel: guest.vmlinux(),
        initrd: guest.initrd(),
        cmdline: guest.cmdline(false),
    };
    accel::probe(qemu, &files, cache_dir).await.accel()
}

/// How to start a VM: belljar-vmm's defaults, with the software secure processor of these keys, for the software TEE only.
pub fn options(cache_dir: &Path, keys: Option<Arc<Keys>>) -> Options {
    let mut options = Options::new(cache_dir);
    options.processor = keys.map(|keys| -> Arc<dyn SecureProcessor> { SoftProcessor::new(keys) });
    options
}
