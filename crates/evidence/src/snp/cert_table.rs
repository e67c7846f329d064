//! The certificate table of the extended guest request: how a host hands certificates to a guest.
//!
//! Source: SEV-ES Guest-Hypervisor Communication Block Standardization (AMD 56421) §4.1.8.1. Entries of 24 bytes (GUID,
//! 32-bit offset, 32-bit length, numbers least significant byte first) end with one that is all zero; the offsets count
//! from the start of the table. GUIDs are in the byte order of RFC 4122 text, as Linux and `snphost` have them.

/// Bytes of one entry.
const ENTRY: usize = 24;
/// Most entries that are read.
const MAX_ENTRIES: usize = 16;
/// Longest table that is read, in bytes.
const MAX_TABLE: usize = 64 * 1024;

/// What an entry of the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertKind {
    /// Certificate of the AMD root key.
    Ark,
    /// Certificate of the AMD SEV key (of a VLEK: the ASVK).
    Ask,
    /// Certificate of the chip's endorsement key.
    Vcek,
    /// Certificate of a cloud provider's endorsement key.
    Vlek,
    /// Revocation list.
    Crl,
    /// Something else, under its GUID.
    Other([u8; 16]),
}

impl CertKind {
    const KNOWN: [(Self, [u8; 16]); 5] = [
        (Self::Ark, 0xc0b406a4_a803_4952_9743_3fb6014cd0ae_u128.to_be_bytes()),
        (Self::Ask, 0x4ab7b379_bbac_4fe4_a02f_05aef327c782_u128.to_be_bytes()),
        (Self::Vcek, 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes()),
        (Self::Vlek, 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1_u128.to_be_bytes()),
        (Self::Crl, 0x92f81bc3_5811_4d3d_97ff_d19f88dc67ea_u128.to_be_bytes()),
    ];

    /// The GUID that stands for it.
    pub fn guid(&self) -> [u8; 16] {
        match self {
            Self::Other(guid) => *guid,
            known => Self::KNOWN.iter().find(|(kind, _)| kind == known).map_or([0; 16], |(_, guid)| *guid),
        }
    }

    /// What stands under a GUID.
    pub fn of_guid(guid: [u8; 16]) -> Self {
        Self::KNOWN.iter().find(|(_, known)| *known == guid).map_or(Self::Other(guid), |(kind, _)| *kind)
    }
}

/// Why bytes are not a certificate table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertTableError {
    /// Longer than 64 KiB.
    #[error("certificate table has {found} bytes, more than {MAX_TABLE}: refuse it")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// The table ends before its last entry, the one that is all zero.
    #[error("certificate table ends without its closing entry: ask the host for it again")]
    Unterminated,
    /// More entries than 16.
    #[error("certificate table has more than {MAX_ENTRIES} entries: refuse it")]
    Entries,
    /// An entry that points outside the table or into the entries.
    #[error("entry {entry} of the certificate table points to {offset}+{length}, outside its data: refuse the table")]
    Range {
        /// Number of the entry, from 0.
        entry: usize,
        /// Its offset.
        offset: u32,
        /// Its length.
        length: u32,
    },
    /// Two entries for one kind.
    #[error("certificate table has a second entry for what entry {entry} holds: refuse the table")]
    Duplicate {
        /// Number of the second entry, from 0.
        entry: usize,
    },
    /// Bytes other than zero behind the last certificate.
    #[error("certificate table is followed by unknown bytes at offset {offset}: refuse the table")]
    Leftover {
        /// Offset of the first of them.
        offset: usize,
    },
}

/// A certificate table: what the host sends beside a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertTable {
    entries: Vec<(CertKind, Vec<u8>)>,
}

impl CertTable {
    /// A table of these entries, in this order.
    pub fn new(entries: impl IntoIterator<Item = (CertKind, Vec<u8>)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// The entries in order.
    pub fn entries(&self) -> &[(CertKind, Vec<u8>)] {
        &self.entries
    }

    /// The content of an entry; certificates are DER.
    pub fn find(&self, kind: CertKind) -> Option<&[u8]> {
        self.entries.iter().find(|(found, _)| *found == kind).map(|(_, data)| data.as_slice())
    }

    /// Writes the table. The data follows the entries without gaps.
    ///
    /// # Errors
    /// What [`CertTable::decode`] would refuse: too many entries, too long, or two for one kind.
    pub fn encode(&self) -> Result<Vec<u8>, CertTableError> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(CertTableError::Entries);
        }
        let data_len: usize = self.entries.iter().map(|(_, data)| data.len()).sum();
        let start = (self.entries.len() + 1) * ENTRY;
        let total = start + data_len;
        if total > MAX_TABLE {
            return Err(CertTableError::Length { found: total });
        }
        let mut table = Vec::with_capacity(total);
        let mut offset = start;
        for (entry, (kind, data)) in self.entries.iter().enumerate() {
            if self.entries.iter().take(entry).any(|(earlier, _)| earlier == kind) {
                return Err(CertTableError::Duplicate { entry });
            }
            let number = |value: usize| u32::try_from(value).map_err(|_| CertTableError::Length { found: total });
            table.extend_from_slice(&kind.guid());
            table.extend_from_slice(&number(offset)?.to_le_bytes());
            table.extend_from_slice(&number(data.len())?.to_le_bytes());
            offset += data.len();
        }
        table.extend_from_slice(&[0; ENTRY]);
        for (_, data) in &self.entries {
            table.extend_from_slice(data);
        }
        Ok(table)
    }

    /// Reads a table. Zeros may follow the last certificate: hosts send whole pages.
    ///
    /// # Errors
    /// Any [`CertTableError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CertTableError> {
        if bytes.len() > MAX_TABLE {
            return Err(CertTableError::Length { found: bytes.len() });
        }
        let mut raw = Vec::new();
        let mut chunks = bytes.chunks_exact(ENTRY);
        loop {
            let chunk = chunks.next().ok_or(CertTableError::Unterminated)?;
            if chunk.iter().all(|&byte| byte == 0) {
                break;
            }
            if raw.len() == MAX_ENTRIES {
                return Err(CertTableError::Entries);
            }
            let (guid, numbers) = chunk.split_first_chunk::<16>().ok_or(CertTableError::Unterminated)?;
            let (offset, rest) = numbers.split_first_chunk::<4>().ok_or(CertTableError::Unterminated)?;
            let length = rest.first_chunk::<4>().ok_or(CertTableError::Unterminated)?;
            raw.push((CertKind::of_guid(*guid), u32::from_le_bytes(*offset), u32::from_le_bytes(*length)));
        }
        let start = (raw.len() + 1) * ENTRY;
        let mut end = start;
        let mut entries: Vec<(CertKind, Vec<u8>)> = Vec::with_capacity(raw.len());
        for (entry, (kind, offset, length)) in raw.into_iter().enumerate() {
            if entries.iter().any(|(earlier, _)| *earlier == kind) {
                return Err(CertTableError::Duplicate { entry });
            }
            let outside = CertTableError::Range { entry, offset, length };
            let from = usize::try_from(offset).map_err(|_| outside)?;
            let len = usize::try_from(length).map_err(|_| outside)?;
            let to = from.checked_add(len).ok_or(outside)?;
            if from < start {
                return Err(outside);
            }
            entries.push((kind, bytes.get(from..to).ok_or(outside)?.to_vec()));
            end = end.max(to);
        }
        if let Some(offset) = bytes.iter().skip(end).position(|&byte| byte != 0) {
            return Err(CertTableError::Leftover { offset: end + offset });
        }
        Ok(Self { entries })
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::decode(data);
    }
}
