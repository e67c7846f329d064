//! What a pod VM is made of, as a typed description. [`crate::arguments()`] turns it into QEMU's argument list.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use belljar_guest_api::names;

/// Numbers of vCPUs that a pod VM may have. The launch digest depends on the number, so it is one of a few.
pub const SHAPES: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// Least guest memory in MiB: below it the kernel and the agent do not fit.
pub const MIN_MEMORY_MIB: u64 = 128;
/// Most guest memory in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u64 = 1 << 20;
/// Most disks of a pod VM: the initdata disk and the layers of all its images.
pub const MAX_DISKS: usize = 128;
/// Longest serial of a virtio-blk disk in bytes (virtio 1.2, section 5.2.6.1: `VIRTIO_BLK_ID_BYTES`).
pub const MAX_SERIAL: usize = 20;
/// Longest kernel command line in bytes (`COMMAND_LINE_SIZE` of x86 Linux, less the final NUL).
pub const MAX_CMDLINE: usize = 2047;

/// A pod VM.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Shown by `ps` and by QEMU's own messages: 1 to 64 of `[a-z0-9-]`.
    pub id: String,
    /// What protects the guest.
    pub tee: Tee,
    /// What runs the guest's instructions.
    pub accel: Accel,
    /// Number of virtual CPUs, one of [`SHAPES`].
    pub vcpus: u32,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// Firmware, kernel, initrd and command line.
    pub guest: GuestFiles,
    /// Read-only disks in the order in which the guest sees them; the initdata disk first.
    pub disks: Vec<Disk>,
    /// The network interface, for a pod that has one.
    pub nic: Option<Nic>,
}

/// A network interface of a pod VM: frames as they are, without offloads.
#[derive(Clone, Debug)]
pub struct Nic {
    /// A tap device, without `IFF_VNET_HDR`; [`crate::network::attach`] makes it. It exists as long as this or QEMU holds it.
    pub tap: Arc<OwnedFd>,
    /// The guest's address: that of the interface whose traffic the tap gets.
    pub mac: [u8; 6],
}

/// Firmware, kernel, initrd and command line of a guest. All of them are measured.
#[derive(Clone, Debug)]
pub struct GuestFiles {
    /// `qboot.rom` for the software TEE, `OVMF.amdsev.fd` for SEV-SNP, `OVMF.inteltdx.ms.fd` for TDX.
    pub firmware: PathBuf,
    /// The PVH ELF `vmlinux` for the software TEE, the bzImage `vmlinuz` for hardware.
    pub kernel: PathBuf,
    /// The initial RAM disk (newc cpio).
    pub initrd: PathBuf,
    /// The whole kernel command line. With the word [`names::DEBUG_WORD`] the guest speaks on its console.
    pub cmdline: String,
}

/// What protects a pod VM, and what is bound to its launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tee {
    /// Nothing protects the guest from this host; a software secure processor on the host writes the reports.
    Software {
        /// HOST_DATA of the reports: the initdata digest.
        host_data: [u8; 32],
    },
    /// AMD SEV-SNP.
    Snp {
        /// Position of the C-bit: CPUID 8000001F EBX\[5:0\] (AMD APM volume 3, section E.4.17).
        cbitpos: u8,
        /// Physical address bits lost: CPUID 8000001F EBX\[11:6\].
        reduced_phys_bits: u8,
        /// Guest policy (SEV-SNP firmware ABI, section 4.3).
        policy: u64,
        /// HOST_DATA: the initdata digest.
        host_data: [u8; 32],
    },
    /// Intel TDX.
    Tdx {
        /// MRCONFIGID: the initdata digest, zero-padded.
        mr_config_id: [u8; 48],
        /// Where the host's quote generation service listens.
        quote_socket: QuoteSocket,
    },
}

/// Address of the host's TDX quote generation service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuoteSocket {
    /// A unix socket, by default `/var/run/tdx-qgs/qgs.socket`.
    Unix(PathBuf),
    /// A vsock address, by default CID 2 (the host), port 4050.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
}

/// The kinds of [`Tee`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TeeKind {
    /// Software secure processor.
    Software,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The CPU, by `/dev/kvm`.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

/// A read-only virtio-blk disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What is on it.
    pub content: DiskContent,
    /// 1 to 20 of `[A-Za-z0-9.-]`; the guest finds the disk by it.
    pub serial: String,
}

/// What a disk holds.
#[derive(Clone, Debug)]
pub enum DiskContent {
    /// A raw image file, possibly shared with other pods. Its length is a multiple of 512.
    File(PathBuf),
    /// Bytes that never become a file on the host's disks. Their length is a multiple of 512.
    Bytes(Arc<[u8]>),
}

/// Why a [`Machine`] cannot be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The id has a letter that could be mistaken for QEMU syntax.
    #[error("pod id {found:?} is not 1 to 64 of a-z, 0-9 and '-'")]
    Id {
        /// The id.
        found: String,
    },
    /// No such shape.
    #[error("a pod VM cannot have {found} vCPUs; choose 1, 2, 4, 8, 16 or 32")]
    Vcpus {
        /// The number asked for.
        found: u32,
    },
    /// Too little or too much memory.
    #[error("a pod VM cannot have {found} MiB of memory; choose {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}")]
    Memory {
        /// The size asked for in MiB.
        found: u64,
    },
    /// A hardware TEE needs KVM.
    #[error("{tee:?} needs KVM, and this machine runs guests by emulation only; see `belljar doctor`")]
    TeeNeedsKvm {
        /// The TEE asked for.
        tee: TeeKind,
    },
    /// The command line is too long or has a control character.
    #[error(
        "kernel command line of {found} bytes is too long or has a control character; at most {MAX_CMDLINE} printable bytes"
    )]
    Cmdline {
        /// Its length.
        found: usize,
    },
    /// Too many disks.
    #[error("a pod VM cannot have {found} disks, at most {MAX_DISKS}; join image layers")]
    Disks {
        /// The number asked for.
        found: usize,
    },
    /// A serial is empty, too long, or has a letter that is not allowed.
    #[error("disk serial {found:?} is not 1 to {MAX_SERIAL} of A-Z, a-z, 0-9, '.' and '-'")]
    Serial {
        /// The serial.
        found: String,
    },
    /// Two disks have one serial, so that the guest could not tell them apart.
    #[error("two disks have the serial {found:?}")]
    SerialTwice {
        /// The serial.
        found: String,
    },
    /// A network interface's address is a group's, or zero.
    #[error("a pod VM cannot have the MAC address {}; it is no single machine's", mac_text(*found))]
    Mac {
        /// The address.
        found: [u8; 6],
    },
    /// A path is not UTF-8, which QEMU's JSON options need.
    #[error("path {found:?} is not UTF-8; move the file")]
    Path {
        /// The path, with the bad bytes replaced.
        found: String,
    },
    /// A disk is empty or no multiple of 512 bytes long.
    #[error("disk {serial:?} has {found} bytes, which is not a positive multiple of 512")]
    DiskLength {
        /// Serial of the disk.
        serial: String,
        /// Its length in bytes.
        found: u64,
    },
    /// A file of the machine cannot be read.
    #[error("{what} {path}: {error}; build or pull it again")]
    File {
        /// `kernel`, `initrd`, `firmware` or `disk`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: String,
    },
}

impl Machine {
    /// Whether the (measured) kernel command line lets the guest speak on its console.
    pub fn debug(&self) -> bool {
        self.guest.cmdline.split_ascii_whitespace().any(|word| word == names::DEBUG_WORD)
    }

    /// Whether every value is within its bounds. Reads no file.
    pub fn check(&self) -> Result<(), MachineError> {
        if !(1..=64).contains(&self.id.len())
            || !self.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(MachineError::Id { found: self.id.clone() });
        }
        if !SHAPES.contains(&self.vcpus) {
            return Err(MachineError::Vcpus { found: self.vcpus });
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(MachineError::Memory { found: self.memory_mib });
        }
        if self.tee.kind() != TeeKind::Software && self.accel != Accel::Kvm {
            return Err(MachineError::TeeNeedsKvm { tee: self.tee.kind() });
        }
        let cmdline = &self.guest.cmdline;
        if cmdline.len() > MAX_CMDLINE || cmdline.chars().any(char::is_control) {
            return Err(MachineError::Cmdline { found: cmdline.len() });
        }
        if let Tee::Tdx { quote_socket: QuoteSocket::Unix(path), .. } = &self.tee {
            utf8(path)?;
        }
        if let Some(Nic { mac, .. }) = &self.nic
            && (mac.first().is_none_or(|first| first & 1 == 1) || *mac == [0; 6])
        {
            return Err(MachineError::Mac { found: *mac });
        }
        self.check_disks()
    }

    fn check_disks(&self) -> Result<(), MachineError> {
        if self.disks.len() > MAX_DISKS {
            return Err(MachineError::Disks { found: self.disks.len() });
        }
        let mut seen = std::collections::BTreeSet::new();
        for Disk { content, serial } in &self.disks {
            if !(1..=MAX_SERIAL).contains(&serial.len())
                || !serial.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            {
                return Err(MachineError::Serial { found: serial.clone() });
            }
            if !seen.insert(serial) {
                return Err(MachineError::SerialTwice { found: serial.clone() });
            }
            match content {
                DiskContent::File(path) => utf8(path)?,
                DiskContent::Bytes(bytes) => disk_length(serial, bytes.len() as u64)?,
            }
        }
        Ok(())
    }

    /// [`Machine::check`], and that every file is there, readable, and of a fitting length.
    pub fn check_files(&self) -> Result<(), MachineError> {
        self.check()?;
        let open = |what, path: &PathBuf| {
            let file = std::fs::File::open(path).and_then(|file| file.metadata());
            let error = |error: String| MachineError::File { what, path: path.clone(), error };
            match file {
                Ok(meta) if meta.is_file() => Ok(meta.len()),
                Ok(_) => Err(error("is no regular file".into())),
                Err(e) => Err(error(e.to_string())),
            }
        };
        open("firmware", &self.guest.firmware)?;
        open("kernel", &self.guest.kernel)?;
        open("initrd", &self.guest.initrd)?;
        for Disk { content, serial } in &self.disks {
            if let DiskContent::File(path) = content {
                disk_length(serial, open("disk", path)?)?;
            }
        }
        Ok(())
    }
}

impl Tee {
    /// Which kind of TEE it is.
    pub fn kind(&self) -> TeeKind {
        match self {
            Self::Software { .. } => TeeKind::Software,
            Self::Snp { .. } => TeeKind::Snp,
            Self::Tdx { .. } => TeeKind::Tdx,
        }
    }
}

impl std::fmt::Display for TeeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Software => "software",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        })
    }
}

/// A MAC address as people write it: `02:42:0a:58:00:05`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn utf8(path: &std::path::Path) -> Result<(), MachineError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(MachineError::Path { found: path.to_string_lossy().into_owned() }),
    }
}

fn disk_length(serial: &str, found: u64) -> Result<(), MachineError> {
    match found > 0 && found.is_multiple_of(512) {
        true => Ok(()),
        false => Err(MachineError::DiskLength { serial: serial.to_owned(), found }),
    }
}
