use super::{REPORT, SnpError, bytes::Bytes};
use serde::{Deserialize, Serialize};

/// An attestation report, member by member. Report versions 2 to 5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportJson {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Bytes<16>,
    image_id: Bytes<16>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: Tcb,
    plat_info: u64,
    key_info: u32,
    report_data: Bytes<64>,
    measurement: Bytes<48>,
    host_data: Bytes<32>,
    id_key_digest: Bytes<48>,
    author_key_digest: Bytes<48>,
    report_id: Bytes<32>,
    report_id_ma: Bytes<32>,
    reported_tcb: Tcb,
    cpuid_fam_id: Option<u8>,
    cpuid_mod_id: Option<u8>,
    cpuid_step: Option<u8>,
    chip_id: Bytes<64>,
    committed_tcb: Tcb,
    current: FirmwareVersion,
    committed: FirmwareVersion,
    launch_tcb: Tcb,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: Signature,
}

/// Version of the firmware's parts; `fmc` from Turin on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Tcb {
    #[serde(default)]
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct FirmwareVersion {
    major: u8,
    minor: u8,
    build: u8,
}

/// ECDSA P-384, little endian, zero-extended to 72 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Signature {
    r: Bytes<72>,
    s: Bytes<72>,
}

/// Which layout a TCB version has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TcbLayout {
    /// Milan and Genoa: bootloader, tee, four reserved, snp, microcode.
    Legacy,
    /// Turin and later: fmc, bootloader, tee, snp, three reserved, microcode.
    Turin,
}

impl TcbLayout {
    fn of_processor(family: u8, model: u8) -> Result<Self, SnpError> {
        match (family, model) {
            (0x19, 0x00..=0x1f | 0xa0..=0xaf) => Ok(Self::Legacy),
            (0x1a, 0x00..=0x11 | 0x50..=0x57 | 0x90..=0xaf | 0xc0..=0xc7) => Ok(Self::Turin),
            _ => Err(SnpError::Processor { family, model }),
        }
    }

    /// Version 2 reports: a Turin chip id has eight bytes, the rest is zero.
    fn of_chip_id(chip_id: &[u8; 64]) -> Result<Self, SnpError> {
        let (head, tail) = chip_id.split_at(8);
        match (head.iter().all(|b| *b == 0), tail.iter().all(|b| *b == 0)) {
            (true, true) => Err(SnpError::MaskedChipId),
            (false, true) => Ok(Self::Turin),
            _ => Ok(Self::Legacy),
        }
    }

    fn read(self, raw: [u8; 8]) -> Tcb {
        match (self, raw) {
            (Self::Legacy, [bootloader, tee, _, _, _, _, snp, microcode]) => {
                Tcb { fmc: None, bootloader, tee, snp, microcode }
            }
            (Self::Turin, [fmc, bootloader, tee, snp, _, _, _, microcode]) => {
                Tcb { fmc: Some(fmc), bootloader, tee, snp, microcode }
            }
        }
    }

    fn write(self, tcb: Tcb) -> Result<[u8; 8], SnpError> {
        let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
        match (self, fmc) {
            (Self::Legacy, None) => Ok([bootloader, tee, 0, 0, 0, 0, snp, microcode]),
            (Self::Turin, Some(fmc)) => Ok([fmc, bootloader, tee, snp, 0, 0, 0, microcode]),
            _ => Err(SnpError::Member("fmc")),
        }
    }
}

impl ReportJson {
    /// Reads a raw report of exactly 1184 bytes.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, SnpError> {
        let raw: &[u8; REPORT] = raw.try_into().map_err(|_| SnpError::Length(raw.len()))?;
        let reader = Reader(raw);
        let version = u32::from_le_bytes(reader.at(0x00));
        let chip_id = reader.at(0x1a0);
        let [family, model, step] = reader.at(0x188);
        let (layout, has_cpuid) = match version {
            2 => (TcbLayout::of_chip_id(&chip_id)?, false),
            3..=5 => (TcbLayout::of_processor(family, model)?, true),
            other => return Err(SnpError::Version(other)),
        };
        let tcb = |offset| layout.read(reader.at(offset));
        let firmware = |offset| {
            let [build, minor, major] = reader.at(offset);
            FirmwareVersion { major, minor, build }
        };
        let report = Self {
            version,
            guest_svn: u32::from_le_bytes(reader.at(0x04)),
            policy: u64::from_le_bytes(reader.at(0x08)),
            family_id: Bytes(reader.at(0x10)),
            image_id: Bytes(reader.at(0x20)),
            vmpl: u32::from_le_bytes(reader.at(0x30)),
            sig_algo: u32::from_le_bytes(reader.at(0x34)),
            current_tcb: tcb(0x38),
            plat_info: u64::from_le_bytes(reader.at(0x40)),
            key_info: u32::from_le_bytes(reader.at(0x48)),
            report_data: Bytes(reader.at(0x50)),
            measurement: Bytes(reader.at(0x90)),
            host_data: Bytes(reader.at(0xc0)),
            id_key_digest: Bytes(reader.at(0xe0)),
            author_key_digest: Bytes(reader.at(0x110)),
            report_id: Bytes(reader.at(0x140)),
            report_id_ma: Bytes(reader.at(0x160)),
            reported_tcb: tcb(0x180),
            cpuid_fam_id: has_cpuid.then_some(family),
            cpuid_mod_id: has_cpuid.then_some(model),
            cpuid_step: has_cpuid.then_some(step),
            chip_id: Bytes(chip_id),
            committed_tcb: tcb(0x1e0),
            current: firmware(0x1e8),
            committed: firmware(0x1ec),
            launch_tcb: tcb(0x1f0),
            launch_mit_vector: (version >= 5).then(|| u64::from_le_bytes(reader.at(0x1f8))),
            current_mit_vector: (version >= 5).then(|| u64::from_le_bytes(reader.at(0x200))),
            signature: Signature { r: Bytes(reader.at(0x2a0)), s: Bytes(reader.at(0x2e8)) },
        };
        // What is not in a member is reserved: if it is not zero, the way back would not be exact.
        match report.to_bytes()?.iter().zip(raw).position(|(a, b)| a != b) {
            Some(offset) => Err(SnpError::Reserved(offset)),
            None => Ok(report),
        }
    }

    /// The raw report. Fails when the members do not fit the version: nothing may be dropped on the way to a signature.
    pub fn to_bytes(&self) -> Result<[u8; REPORT], SnpError> {
        let has_cpuid = self.version >= 3;
        for (name, member) in
            [("cpuid_fam_id", self.cpuid_fam_id), ("cpuid_mod_id", self.cpuid_mod_id), ("cpuid_step", self.cpuid_step)]
        {
            if member.is_some() != has_cpuid {
                return Err(SnpError::Member(name));
            }
        }
        for (name, member) in
            [("launch_mit_vector", self.launch_mit_vector), ("current_mit_vector", self.current_mit_vector)]
        {
            if member.is_some() != (self.version >= 5) {
                return Err(SnpError::Member(name));
            }
        }
        let layout = match (self.version, self.cpuid_fam_id, self.cpuid_mod_id) {
            (2, ..) => TcbLayout::of_chip_id(&self.chip_id.0)?,
            (3..=5, Some(family), Some(model)) => TcbLayout::of_processor(family, model)?,
            (other, ..) => return Err(SnpError::Version(other)),
        };
        let mut writer = Writer([0; REPORT]);
        writer.put(0x00, &self.version.to_le_bytes());
        writer.put(0x04, &self.guest_svn.to_le_bytes());
        writer.put(0x08, &self.policy.to_le_bytes());
        writer.put(0x10, &self.family_id.0);
        writer.put(0x20, &self.image_id.0);
        writer.put(0x30, &self.vmpl.to_le_bytes());
        writer.put(0x34, &self.sig_algo.to_le_bytes());
        writer.put(0x38, &layout.write(self.current_tcb)?);
        writer.put(0x40, &self.plat_info.to_le_bytes());
        writer.put(0x48, &self.key_info.to_le_bytes());
        writer.put(0x50, &self.report_data.0);
        writer.put(0x90, &self.measurement.0);
        writer.put(0xc0, &self.host_data.0);
        writer.put(0xe0, &self.id_key_digest.0);
        writer.put(0x110, &self.author_key_digest.0);
        writer.put(0x140, &self.report_id.0);
        writer.put(0x160, &self.report_id_ma.0);
        writer.put(0x180, &layout.write(self.reported_tcb)?);
        let byte = Option::unwrap_or_default;
        writer.put(0x188, &[byte(self.cpuid_fam_id), byte(self.cpuid_mod_id), byte(self.cpuid_step)]);
        writer.put(0x1a0, &self.chip_id.0);
        writer.put(0x1e0, &layout.write(self.committed_tcb)?);
        for (offset, version) in [(0x1e8, self.current), (0x1ec, self.committed)] {
            writer.put(offset, &[version.build, version.minor, version.major]);
        }
        writer.put(0x1f0, &layout.write(self.launch_tcb)?);
        writer.put(0x1f8, &self.launch_mit_vector.unwrap_or_default().to_le_bytes());
        writer.put(0x200, &self.current_mit_vector.unwrap_or_default().to_le_bytes());
        writer.put(0x2a0, &self.signature.r.0);
        writer.put(0x2e8, &self.signature.s.0);
        Ok(writer.0)
    }
}

/// Fields at offsets that this file states; each lies inside of the report.
struct Reader<'a>(&'a [u8; REPORT]);

impl Reader<'_> {
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }
}

struct Writer([u8; REPORT]);

impl Writer {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (place, byte) in self.0.iter_mut().skip(offset).zip(bytes) {
            *place = *byte;
        }
    }
}
