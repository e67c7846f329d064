//! What a quote is about: a trust domain or an enclave.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::bytes::Bytes;

/// Length of an enclave report body.
pub(super) const ENCLAVE_LEN: usize = 384;
/// Length of a TD report body of TDX 1.0.
pub(super) const TD_LEN: usize = 584;
/// Length of a TD report body of TDX 1.5.
pub(super) const TD_15_LEN: usize = 648;
/// Length of a TD report body of TDX 1.5 with the fields that follow it in body type 4.
pub(super) const TD_15_EXTENDED_LEN: usize = 885;

/// The part of a report that only TDX 1.5 and later have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdExtension {
    /// TCB of the TDX module that runs now, after an update without a restart of the TD.
    pub tee_tcb_svn2: [u8; 16],
    /// Measurement of the service TDs.
    pub mr_service_td: [u8; 48],
    /// Further bytes of body type 4; their layout is not published, they are signed and not read.
    pub more: Vec<u8>,
}

/// Report of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// TCB of the TDX module and loader at launch.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel.
    pub mrsigner_seam: [u8; 48],
    /// Attributes of the TDX module.
    pub seam_attributes: [u8; 8],
    /// Attributes of the TD; the first byte is the group TUD, "TD under debug", with DEBUG as its bit 0.
    pub td_attributes: [u8; 8],
    /// Extended features that the TD may use.
    pub xfam: [u8; 8],
    /// Measurement of the TD's first memory: its firmware.
    pub mrtd: [u8; 48],
    /// What the host set at launch.
    pub mr_config_id: [u8; 48],
    /// What the host set as the owner.
    pub mr_owner: [u8; 48],
    /// What the host set as the owner's configuration.
    pub mr_owner_config: [u8; 48],
    /// Registers that the guest extends.
    pub rtmr: [[u8; 48]; 4],
    /// What the guest had included.
    pub report_data: [u8; 64],
    /// Only TDX 1.5 and later.
    pub extension: Option<TdExtension>,
}

impl TdReport {
    /// Reads a body of 584, 648 or 885 bytes.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Bytes::new(bytes);
        let mut report = Self {
            tee_tcb_svn: from.array()?,
            mr_seam: from.array()?,
            mrsigner_seam: from.array()?,
            seam_attributes: from.array()?,
            td_attributes: from.array()?,
            xfam: from.array()?,
            mrtd: from.array()?,
            mr_config_id: from.array()?,
            mr_owner: from.array()?,
            mr_owner_config: from.array()?,
            rtmr: [from.array()?, from.array()?, from.array()?, from.array()?],
            report_data: from.array()?,
            extension: None,
        };
        if from.len() > 0 {
            let (tee_tcb_svn2, mr_service_td) = (from.array()?, from.array()?);
            let more = from.slice(from.len())?.to_vec();
            report.extension = Some(TdExtension { tee_tcb_svn2, mr_service_td, more });
        }
        Some(report)
    }

    /// The host may look into the TD, or change it: an attribute of the group TUD is set. DEBUG opens memory and registers;
    /// with any of the others, too, Intel counts the TD as one that is not to be trusted.
    pub fn debug(&self) -> bool {
        self.td_attributes[0] != 0
    }

    /// The TD may be moved to another platform, by the migration TD that its host bound to it: attribute MIGRATABLE.
    pub fn migratable(&self) -> bool {
        self.td_attributes[3] >> 5 & 1 == 1
    }

    pub(super) fn serialize_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("tee_tcb_svn", &hex::encode(self.tee_tcb_svn))?;
        map.serialize_entry("mr_seam", &hex::encode(self.mr_seam))?;
        map.serialize_entry("mrsigner_seam", &hex::encode(self.mrsigner_seam))?;
        map.serialize_entry("seam_attributes", &hex::encode(self.seam_attributes))?;
        map.serialize_entry("td_attributes", &hex::encode(self.td_attributes))?;
        map.serialize_entry("xfam", &hex::encode(self.xfam))?;
        map.serialize_entry("mrtd", &hex::encode(self.mrtd))?;
        map.serialize_entry("mr_config_id", &hex::encode(self.mr_config_id))?;
        map.serialize_entry("mr_owner", &hex::encode(self.mr_owner))?;
        map.serialize_entry("mr_owner_config", &hex::encode(self.mr_owner_config))?;
        for (name, rtmr) in ["rtmr0", "rtmr1", "rtmr2", "rtmr3"].iter().zip(self.rtmr) {
            map.serialize_entry(name, &hex::encode(rtmr))?;
        }
        map.serialize_entry("report_data", &hex::encode(self.report_data))?;
        if let Some(extension) = &self.extension {
            map.serialize_entry("tee_tcb_svn2", &hex::encode(extension.tee_tcb_svn2))?;
            map.serialize_entry("mr_service_td", &hex::encode(extension.mr_service_td))?;
        }
        Ok(())
    }
}

/// Report of an enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnclaveReport {
    /// Security version of the processor.
    pub cpu_svn: [u8; 16],
    /// MISCSELECT.
    pub misc_select: [u8; 4],
    /// Flags (8 bytes) and XFRM (8 bytes); bit 1 of the first byte is DEBUG.
    pub attributes: [u8; 16],
    /// Measurement of the enclave.
    pub mrenclave: [u8; 32],
    /// SHA-256 of the key that signed the enclave.
    pub mrsigner: [u8; 32],
    /// Configuration id (KSS).
    pub config_id: [u8; 64],
    /// Product id.
    pub isv_prod_id: u16,
    /// Security version of the enclave.
    pub isv_svn: u16,
    /// Configuration's security version (KSS).
    pub config_svn: u16,
    /// Extended product id (KSS).
    pub isv_ext_prod_id: [u8; 16],
    /// Family id (KSS).
    pub isv_family_id: [u8; 16],
    /// What the enclave had included.
    pub report_data: [u8; 64],
}

impl EnclaveReport {
    /// Reads a body of 384 bytes. Reserved bytes are signed and not read.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Bytes::new(bytes);
        let (cpu_svn, misc_select) = (from.array()?, from.array()?);
        from.slice(12)?;
        let isv_ext_prod_id = from.array()?;
        let (attributes, mrenclave) = (from.array()?, from.array()?);
        from.slice(32)?;
        let mrsigner = from.array()?;
        from.slice(32)?;
        let config_id = from.array()?;
        let (isv_prod_id, isv_svn, config_svn) = (from.u16_le()?, from.u16_le()?, from.u16_le()?);
        from.slice(42)?;
        let (isv_family_id, report_data) = (from.array()?, from.array()?);
        (from.len() == 0).then_some(Self {
            cpu_svn,
            misc_select,
            attributes,
            mrenclave,
            mrsigner,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            isv_ext_prod_id,
            isv_family_id,
            report_data,
        })
    }

    /// The host may read and change the enclave's memory.
    pub fn debug(&self) -> bool {
        self.attributes[0] >> 1 & 1 == 1
    }

    pub(super) fn serialize_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("cpu_svn", &hex::encode(self.cpu_svn))?;
        map.serialize_entry("misc_select", &hex::encode(self.misc_select))?;
        map.serialize_entry("attributes", &hex::encode(self.attributes))?;
        map.serialize_entry("mrenclave", &hex::encode(self.mrenclave))?;
        map.serialize_entry("mrsigner", &hex::encode(self.mrsigner))?;
        map.serialize_entry("config_id", &hex::encode(self.config_id))?;
        map.serialize_entry("isv_prod_id", &self.isv_prod_id)?;
        map.serialize_entry("isv_svn", &self.isv_svn)?;
        map.serialize_entry("report_data", &hex::encode(self.report_data))
    }
}

impl Serialize for EnclaveReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.serialize_into(&mut map)?;
        map.end()
    }
}
