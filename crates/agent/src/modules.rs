//! Loads the kernel modules that the guest image lists, in its order.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::io::Errno;

use crate::mounts;

const DIR: &str = "/lib/modules";
/// Most bytes of an order file.
const MAX_ORDER: u64 = 64 * 1024;

/// A module that could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The order file or a module file cannot be read.
    #[error("cannot read {path}: {source}; the guest image is not complete")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An order file is larger than 64 KiB or names something other than a file beside it.
    #[error("module order {path} is malformed: {line:?}")]
    Order {
        /// The order file.
        path: String,
        /// The line at fault.
        line: String,
    },
    /// The kernel refused the module.
    #[error("kernel refused module {name}: {source}")]
    Kernel {
        /// File name of the module.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The TEE that this CPU says it runs in, as far as it needs modules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// A guest of AMD SEV-SNP.
    Snp,
    /// A trust domain of Intel TDX.
    Tdx,
}

impl Hardware {
    /// Looks at CPUID: leaf 0x21 spells `IntelTDX    ` in a trust domain (Intel TDX module specification, virtual CPUID
    /// leaf 0x21); bit 4 of EAX of leaf 0x8000001F is SEV-SNP (AMD APM volume 3, E.4.17), together with the hypervisor bit.
    /// A host may be able to hide that bit, but not SEV_STATUS, by which the kernel decides to make a folder in `/sys`.
    pub fn of_cpu() -> Option<Self> {
        if ["/sys".to_owned(), mounts::under("sys")].iter().any(|sys| snp_kernel(sys)) {
            return Some(Self::Snp);
        }
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        let basic = __cpuid(0).eax;
        if basic >= 0x21 {
            let leaf = __cpuid_count(0x21, 0);
            if [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"IntelTDX    " {
                return Some(Self::Tdx);
            }
        }
        let hypervisor = __cpuid(1).ecx & 1 << 31 != 0;
        let extended = __cpuid(0x8000_0000).eax;
        (hypervisor && extended >= 0x8000_001f && __cpuid(0x8000_001f).eax & 1 << 4 != 0).then_some(Self::Snp)
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snp => "sev-snp",
            Self::Tdx => "tdx",
        }
    }

    /// Name of its order file.
    fn order(self) -> &'static str {
        match self {
            Self::Snp => "order.snp",
            Self::Tdx => "order.tdx",
        }
    }
}

/// Whether the kernel runs as an SNP guest (Documentation/ABI/testing/sysfs-devices-system-cpu, `cpu/sev`, Linux 6.11).
fn snp_kernel(sys: &str) -> bool {
    Path::new(sys).join("devices/system/cpu/sev").is_dir()
}

/// Virtio devices that need modules of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// A socket device: the host's channel where there is no serial port.
    pub vsock: bool,
    /// A network interface.
    pub net: bool,
}

impl Devices {
    /// Looks at the virtio bus (virtio 1.2, 5: the device ids). `sys` is where sysfs is mounted.
    pub fn find(sys: &str) -> Self {
        let devices = fs::read_dir(format!("{sys}/bus/virtio/devices")).into_iter().flatten().flatten();
        devices.fold(Self::default(), |found, device| match fs::read(device.path().join("device")).as_deref() {
            Ok(b"0x0001\n") => Self { net: true, ..found },
            Ok(b"0x0013\n") => Self { vsock: true, ..found },
            _ => found,
        })
    }
}

/// Loads what the file `order` lists, `order.vsock` and `order.net` where the host gave such a device, then what the TEE of this machine
/// needs. A module that is already there is fine, and so is a TEE driver that finds no device: that there are no reports
/// then is said when one is asked for. An image without the files has everything built in.
pub fn load(hardware: Option<Hardware>, devices: Devices) -> Result<(), ModuleError> {
    load_list("order")?;
    if devices.vsock {
        load_list("order.vsock")?;
    }
    if devices.net {
        load_list("order.net")?;
    }
    match hardware.map_or(Ok(()), |hardware| load_list(hardware.order())) {
        Err(ModuleError::Kernel { source, .. }) if source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
        outcome => outcome,
    }
}

fn load_list(order: &str) -> Result<(), ModuleError> {
    let path = format!("{DIR}/{order}");
    let read = |source| ModuleError::Read { path: path.clone(), source };
    match fs::metadata(&path) {
        Ok(meta) if meta.len() > MAX_ORDER => {
            return Err(ModuleError::Order { path: path.clone(), line: format!("{} bytes", meta.len()) });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(read(error)),
    }
    let list = fs::read_to_string(&path).map_err(read)?;
    for line in names(&list) {
        let name = line.map_err(|line| ModuleError::Order { path: path.clone(), line: line.to_owned() })?;
        let path = format!("{DIR}/{name}");
        let file = File::open(&path).map_err(|source| ModuleError::Read { path, source })?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => tracing::debug!(name, "module loaded"),
            Err(error) => return Err(ModuleError::Kernel { name: name.to_owned(), source: error.into() }),
        }
    }
    Ok(())
}

/// The lines of an order file: plain file names; empty lines and `#` comments are skipped.
fn names(list: &str) -> impl Iterator<Item = Result<&str, &str>> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let plain = line.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if plain && !line.starts_with('.') { Ok(line) } else { Err(line) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_an_snp_guest() {
        let sys = tempfile::tempdir().unwrap();
        let path = sys.path().to_str().unwrap();
        assert!(!snp_kernel(path));
        fs::create_dir_all(sys.path().join("devices/system/cpu/sev")).unwrap();
        assert!(snp_kernel(path));
    }

    #[test]
    fn only_devices_that_are_there_get_modules() {
        let sys = tempfile::tempdir().unwrap();
        let path = sys.path().to_str().unwrap();
        assert_eq!(Devices::find(path), Devices::default());
        let add = |name: &str, id: &str| {
            let device = sys.path().join("bus/virtio/devices").join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("device"), id).unwrap();
        };
        add("virtio0", "0x0003\n");
        assert_eq!(Devices::find(path), Devices::default());
        add("virtio1", "0x0001\n");
        assert_eq!(Devices::find(path), Devices { net: true, vsock: false });
        add("virtio2", "0x0013\n");
        assert_eq!(Devices::find(path), Devices { net: true, vsock: true });
    }

    #[test]
    fn an_order_names_files_beside_it() {
        let found: Vec<_> = names("# base\nvirtio_blk.ko\n\n dm-mod.ko \n../evil.ko\na/b.ko\n..\n").collect();
        assert_eq!(found, [Ok("virtio_blk.ko"), Ok("dm-mod.ko"), Err("../evil.ko"), Err("a/b.ko"), Err("..")]);
    }
}
