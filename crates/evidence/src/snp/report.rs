//! The attestation report: 1184 bytes, of which the first 0x2A0 are signed.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

/// Length of an attestation report in bytes, in every version.
pub const REPORT_LEN: usize = 0x4A0;
/// Length of the part that the signature covers.
pub const SIGNED_LEN: usize = 0x2A0;
/// First report version that we read.
const FIRST_VERSION: u32 = 2;
/// Last report version that we read.
const LAST_VERSION: u32 = 5;
/// CPU family (extended plus base) from which on the Turin layout of a TCB version holds.
const TURIN_FAMILY: u8 = 0x1A;

/// Why bytes are not an attestation report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Another length than 1184 bytes.
    #[error("attestation report has {found} bytes instead of {REPORT_LEN}: give the report alone, without a wrapper")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// A version that this program does not read.
    #[error("attestation report has version {found}, known are 2 to 5: update this program, or refuse the evidence")]
    Version {
        /// The version field.
        found: u32,
    },
}

/// Which bytes of a TCB version mean what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Milan and Genoa: boot loader, TEE, four reserved bytes, SNP, microcode.
    Milan,
    /// Turin and later: FMC, boot loader, TEE, SNP, three reserved bytes, microcode.
    Turin,
}

/// A TCB version: eight bytes, whose meaning depends on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcb {
    /// The bytes in the order of the report.
    pub raw: [u8; 8],
    /// How to read them.
    pub layout: Layout,
}

impl Tcb {
    /// Security version of the FMC; only Turin and later have it.
    pub fn fmc(&self) -> Option<u8> {
        match self.layout {
            Layout::Milan => None,
            Layout::Turin => Some(self.raw[0]),
        }
    }

    /// Security version of the boot loader.
    pub fn bootloader(&self) -> u8 {
        match self.layout {
            Layout::Milan => self.raw[0],
            Layout::Turin => self.raw[1],
        }
    }

    /// Security version of the TEE (the PSP's operating system).
    pub fn tee(&self) -> u8 {
        match self.layout {
            Layout::Milan => self.raw[1],
            Layout::Turin => self.raw[2],
        }
    }

    /// Security version of the SNP firmware.
    pub fn snp(&self) -> u8 {
        match self.layout {
            Layout::Milan => self.raw[6],
            Layout::Turin => self.raw[3],
        }
    }

    /// Patch level of the microcode.
    pub fn microcode(&self) -> u8 {
        self.raw[7]
    }

    /// The reserved bytes, `spl_4` to `spl_7` of the certificate on Milan.
    pub fn reserved(&self) -> &[u8] {
        match self.layout {
            Layout::Milan => &self.raw[2..6],
            Layout::Turin => &self.raw[4..7],
        }
    }
}

impl Serialize for Tcb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(fmc) = self.fmc() {
            map.serialize_entry("fmc", &fmc)?;
        }
        map.serialize_entry("bootloader", &self.bootloader())?;
        map.serialize_entry("tee", &self.tee())?;
        map.serialize_entry("snp", &self.snp())?;
        map.serialize_entry("microcode", &self.microcode())?;
        map.end()
    }
}

/// The guest policy that the guest was launched with (AMD 56860, Guest Policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy(pub u64);

impl Policy {
    /// Least minor version of the firmware ABI.
    pub fn abi_minor(&self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Least major version of the firmware ABI.
    pub fn abi_major(&self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Simultaneous multithreading is allowed on the host.
    pub fn smt(&self) -> bool {
        self.bit(16)
    }

    /// A migration agent may be associated.
    pub fn migrate_ma(&self) -> bool {
        self.bit(18)
    }

    /// The host may read and write the guest's memory through the firmware.
    pub fn debug(&self) -> bool {
        self.bit(19)
    }

    /// The guest runs on one socket only.
    pub fn single_socket(&self) -> bool {
        self.bit(20)
    }

    fn bit(&self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(6))?;
        map.serialize_entry("abi_minor", &self.abi_minor())?;
        map.serialize_entry("abi_major", &self.abi_major())?;
        map.serialize_entry("smt", &self.smt())?;
        map.serialize_entry("migrate_ma", &self.migrate_ma())?;
        map.serialize_entry("debug", &self.debug())?;
        map.serialize_entry("single_socket", &self.single_socket())?;
        map.end()
    }
}

/// Which key the report says that it is signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKey {
    /// The chip's own endorsement key.
    Vcek,
    /// The key that AMD gave the cloud provider.
    Vlek,
    /// Not signed.
    None,
    /// A value that the specification reserves.
    Reserved(u8),
}

impl SigningKey {
    /// The name as it stands in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
            Self::None => "none",
            Self::Reserved(_) => "reserved",
        }
    }
}

/// Family, model and stepping of the processor; from report version 3 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cpuid {
    /// Extended plus base family.
    pub family: u8,
    /// Extended model and model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

impl Cpuid {
    /// Name of the product line, as AMD's authorities have it (AMD 57230); `None` for one that is not known.
    pub fn product_line(&self) -> Option<&'static str> {
        match (self.family, self.model) {
            (0x19, 0x00..=0x0F) => Some("Milan"),
            // Siena and Bergamo have certificates of Genoa's.
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some("Genoa"),
            (0x1A, 0x00..=0x11) => Some("Turin"),
            _ => None,
        }
    }
}

impl fmt::Display for Cpuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "family {:#x}, model {:#x}, stepping {:#x}", self.family, self.model, self.stepping)
    }
}

/// A firmware version, in the byte order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareVersion {
    /// Build number.
    pub build: u8,
    /// Minor version.
    pub minor: u8,
    /// Major version.
    pub major: u8,
}

impl FirmwareVersion {
    fn hex(&self) -> String {
        hex::encode([self.build, self.minor, self.major])
    }
}

/// An attestation report, fields in the order of the specification.
///
/// Serialises to an object with the specification's field names in lower case; bytes are lowercase hex in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Version of the report, 2 to 5 after [`Report::parse`].
    pub version: u32,
    /// Security version of the guest, from its ID block.
    pub guest_svn: u32,
    /// Policy of the guest.
    pub policy: Policy,
    /// Family id of the guest, from its ID block.
    pub family_id: [u8; 16],
    /// Image id of the guest, from its ID block.
    pub image_id: [u8; 16],
    /// Privilege level that asked for the report, 0 to 3; 0 is the most privileged.
    pub vmpl: u32,
    /// Algorithm of the signature; 1 is ECDSA P-384 with SHA-384.
    pub signature_algo: u32,
    /// TCB that runs.
    pub current_tcb: Tcb,
    /// Platform information, see AMD 56860.
    pub platform_info: u64,
    /// An author key signed the ID block.
    pub author_key_en: bool,
    /// The chip's identity is masked.
    pub mask_chip_key: bool,
    /// Key of the signature.
    pub signing_key: SigningKey,
    /// What the guest had included.
    pub report_data: [u8; 64],
    /// The launch digest.
    pub measurement: [u8; 48],
    /// What the host set at launch.
    pub host_data: [u8; 32],
    /// SHA-384 of the key that signed the ID block.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the key that certified the ID key.
    pub author_key_digest: [u8; 48],
    /// Id of the guest, random per launch.
    pub report_id: [u8; 32],
    /// Report id of the guest's migration agent.
    pub report_id_ma: [u8; 32],
    /// TCB that the endorsement key was derived for.
    pub reported_tcb: Tcb,
    /// Processor; version 3 and later.
    pub cpuid: Option<Cpuid>,
    /// Id of the chip, 64 bytes; Turin uses the first 8. All zero when masked.
    pub chip_id: [u8; 64],
    /// TCB that the platform cannot fall behind.
    pub committed_tcb: Tcb,
    /// Firmware that runs.
    pub current_fw: FirmwareVersion,
    /// Firmware that is committed.
    pub committed_fw: FirmwareVersion,
    /// TCB at the guest's launch.
    pub launch_tcb: Tcb,
    /// Mitigations at launch; version 5 and later.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations now; version 5 and later.
    pub current_mit_vector: Option<u64>,
    raw: [u8; REPORT_LEN],
}

impl Report {
    /// Reads a report of version 2 to 5.
    ///
    /// # Errors
    /// [`ReportError::Length`] or [`ReportError::Version`]. Reserved bytes are looked at by [`crate::snp::verify`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let report = Self::read(bytes)?;
        if !report.version_is_known() {
            return Err(ReportError::Version { found: report.version });
        }
        Ok(report)
    }

    /// Reads a report whatever its version says: for showing what bytes claim, never for trusting them.
    ///
    /// # Errors
    /// [`ReportError::Length`].
    pub fn read(bytes: &[u8]) -> Result<Self, ReportError> {
        let raw: [u8; REPORT_LEN] = bytes.try_into().map_err(|_| ReportError::Length { found: bytes.len() })?;
        let version = u32::from_le_bytes(at(&raw, 0x00));
        let cpuid = (version >= 3).then(|| Cpuid { family: raw[0x188], model: raw[0x189], stepping: raw[0x18A] });
        let layout = match cpuid {
            Some(cpuid) if cpuid.family >= TURIN_FAMILY => Layout::Turin,
            _ => Layout::Milan,
        };
        let tcb = |offset| Tcb { raw: at(&raw, offset), layout };
        let firmware = |[build, minor, major]: [u8; 3]| FirmwareVersion { build, minor, major };
        let mitigations = |offset| (version >= 5).then(|| u64::from_le_bytes(at(&raw, offset)));
        let [key_info, ..]: [u8; 4] = at(&raw, 0x48);
        Ok(Self {
            version,
            guest_svn: u32::from_le_bytes(at(&raw, 0x04)),
            policy: Policy(u64::from_le_bytes(at(&raw, 0x08))),
            family_id: at(&raw, 0x10),
            image_id: at(&raw, 0x20),
            vmpl: u32::from_le_bytes(at(&raw, 0x30)),
            signature_algo: u32::from_le_bytes(at(&raw, 0x34)),
            current_tcb: tcb(0x38),
            platform_info: u64::from_le_bytes(at(&raw, 0x40)),
            author_key_en: key_info & 1 == 1,
            mask_chip_key: key_info >> 1 & 1 == 1,
            signing_key: match key_info >> 2 & 7 {
                0 => SigningKey::Vcek,
                1 => SigningKey::Vlek,
                7 => SigningKey::None,
                other => SigningKey::Reserved(other),
            },
            report_data: at(&raw, 0x50),
            measurement: at(&raw, 0x90),
            host_data: at(&raw, 0xC0),
            id_key_digest: at(&raw, 0xE0),
            author_key_digest: at(&raw, 0x110),
            report_id: at(&raw, 0x140),
            report_id_ma: at(&raw, 0x160),
            reported_tcb: tcb(0x180),
            cpuid,
            chip_id: at(&raw, 0x1A0),
            committed_tcb: tcb(0x1E0),
            current_fw: firmware(at(&raw, 0x1E8)),
            committed_fw: firmware(at(&raw, 0x1EC)),
            launch_tcb: tcb(0x1F0),
            launch_mit_vector: mitigations(0x1F8),
            current_mit_vector: mitigations(0x200),
            raw,
        })
    }

    /// Takes the layout of TCB versions from the endorsement key's certificate where the report names no processor.
    pub(super) fn read_tcbs_as(&mut self, layout: Layout) {
        if self.cpuid.is_none() {
            for tcb in [&mut self.current_tcb, &mut self.reported_tcb, &mut self.committed_tcb, &mut self.launch_tcb] {
                tcb.layout = layout;
            }
        }
    }

    /// Whether this program knows the layout of the report's version.
    pub fn version_is_known(&self) -> bool {
        (FIRST_VERSION..=LAST_VERSION).contains(&self.version)
    }

    /// The whole report as it was read.
    pub fn as_bytes(&self) -> &[u8; REPORT_LEN] {
        &self.raw
    }

    /// The bytes that the signature covers.
    pub fn signed_bytes(&self) -> &[u8] {
        &self.raw[..SIGNED_LEN]
    }

    /// The signature as 48 bytes of r and 48 bytes of s, most significant byte first; `None` when one of them does not
    /// fit (the report has 72 bytes for each, least significant byte first).
    pub fn signature(&self) -> Option<[u8; 96]> {
        let mut signature = [0; 96];
        let (r, s) = signature.split_at_mut(48);
        r.copy_from_slice(&number(&at(&self.raw, 0x2A0))?);
        s.copy_from_slice(&number(&at(&self.raw, 0x2E8))?);
        Some(signature)
    }

    /// Offset of the first byte behind the signature's numbers that is not zero; all of them are reserved.
    pub fn signature_padding(&self) -> Option<usize> {
        first_nonzero(&self.raw, 0x330, REPORT_LEN)
    }

    /// Offset of the first reserved byte of the signed part that is not zero.
    pub fn reserved_nonzero(&self) -> Option<usize> {
        let [low, rest @ ..]: [u8; 4] = at(&self.raw, 0x48);
        if low & 0xE0 != 0 || rest != [0; 3] {
            return Some(0x48);
        }
        let after_chip = if self.version >= 3 { 0x18B } else { 0x188 };
        let after_launch = if self.version >= 5 { 0x208 } else { 0x1F8 };
        [(0x4C, 0x50), (after_chip, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (after_launch, SIGNED_LEN)]
            .into_iter()
            .find_map(|(from, to)| first_nonzero(&self.raw, from, to))
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        if let Ok(report) = Self::read(data) {
            let _ = (report.signature(), report.signature_padding(), report.reserved_nonzero());
        }
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", &self.version)?;
        map.serialize_entry("guest_svn", &self.guest_svn)?;
        map.serialize_entry("policy", &format!("{:#x}", self.policy.0))?;
        map.serialize_entry("policy_bits", &self.policy)?;
        map.serialize_entry("family_id", &hex::encode(self.family_id))?;
        map.serialize_entry("image_id", &hex::encode(self.image_id))?;
        map.serialize_entry("vmpl", &self.vmpl)?;
        map.serialize_entry("signature_algo", &self.signature_algo)?;
        map.serialize_entry("current_tcb", &hex::encode(self.current_tcb.raw))?;
        map.serialize_entry("platform_info", &format!("{:#x}", self.platform_info))?;
        map.serialize_entry("author_key_en", &u8::from(self.author_key_en))?;
        map.serialize_entry("mask_chip_key", &u8::from(self.mask_chip_key))?;
        map.serialize_entry("signing_key", self.signing_key.name())?;
        map.serialize_entry("report_data", &hex::encode(self.report_data))?;
        map.serialize_entry("measurement", &hex::encode(self.measurement))?;
        map.serialize_entry("host_data", &hex::encode(self.host_data))?;
        map.serialize_entry("id_key_digest", &hex::encode(self.id_key_digest))?;
        map.serialize_entry("author_key_digest", &hex::encode(self.author_key_digest))?;
        map.serialize_entry("report_id", &hex::encode(self.report_id))?;
        map.serialize_entry("report_id_ma", &hex::encode(self.report_id_ma))?;
        map.serialize_entry("reported_tcb", &hex::encode(self.reported_tcb.raw))?;
        map.serialize_entry("reported_tcb_parts", &self.reported_tcb)?;
        if let Some(cpuid) = self.cpuid {
            map.serialize_entry("cpuid", &cpuid)?;
        }
        map.serialize_entry("chip_id", &hex::encode(self.chip_id))?;
        map.serialize_entry("committed_tcb", &hex::encode(self.committed_tcb.raw))?;
        map.serialize_entry("current_fw", &self.current_fw.hex())?;
        map.serialize_entry("committed_fw", &self.committed_fw.hex())?;
        map.serialize_entry("launch_tcb", &hex::encode(self.launch_tcb.raw))?;
        if let (Some(launch), Some(current)) = (self.launch_mit_vector, self.current_mit_vector) {
            map.serialize_entry("launch_mit_vector", &format!("{launch:#x}"))?;
            map.serialize_entry("current_mit_vector", &format!("{current:#x}"))?;
        }
        map.end()
    }
}

/// The `N` bytes of a report at a constant offset; every caller stays within `REPORT_LEN`.
fn at<const N: usize>(raw: &[u8; REPORT_LEN], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(bytes) = raw.get(offset..offset + N) {
        field.copy_from_slice(bytes);
    }
    field
}

/// A number of 72 bytes, least significant first, as 48 bytes, most significant first; `None` when it does not fit.
pub(super) fn number(field: &[u8; 72]) -> Option<[u8; 48]> {
    let (low, high) = field.split_first_chunk::<48>()?;
    let mut number = *low;
    number.reverse();
    high.iter().all(|&byte| byte == 0).then_some(number)
}

fn first_nonzero(raw: &[u8; REPORT_LEN], from: usize, to: usize) -> Option<usize> {
    (from..to).find(|&offset| raw.get(offset).is_some_and(|&byte| byte != 0))
}
