//! Quotes before they are signed.

/// Report of an enclave.
#[derive(Clone, Debug)]
pub struct EnclaveShape {
    /// CPUSVN.
    pub cpu_svn: [u8; 16],
    /// MISCSELECT.
    pub misc_select: [u8; 4],
    /// Attributes; bit 1 of the first byte is DEBUG.
    pub attributes: [u8; 16],
    /// Measurement.
    pub mrenclave: [u8; 32],
    /// Signer.
    pub mrsigner: [u8; 32],
    /// Product id.
    pub isv_prod_id: u16,
    /// Security version.
    pub isv_svn: u16,
    /// Report data.
    pub report_data: [u8; 64],
}

impl EnclaveShape {
    /// An enclave of nobody's.
    pub fn plain() -> Self {
        Self {
            cpu_svn: [5; 16],
            misc_select: [0; 4],
            attributes: [5, 0, 0, 0, 0, 0, 0, 0, 0xE7, 0, 0, 0, 0, 0, 0, 0],
            mrenclave: [0xE1; 32],
            mrsigner: [0x51; 32],
            isv_prod_id: 7,
            isv_svn: 3,
            report_data: [0xDA; 64],
        }
    }

    /// The quoting enclave that [`super::qe_identity`] describes.
    pub fn qe() -> Self {
        let mut mrsigner = [0; 32];
        hex::decode_to_slice("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", &mut mrsigner)
            .unwrap();
        let mut attributes = [0; 16];
        attributes[0] = 0x15;
        Self { attributes, mrsigner, isv_prod_id: 2, isv_svn: 8, ..Self::plain() }
    }

    /// The 384 bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.cpu_svn[..], &self.misc_select, &[0; 28], &self.attributes, &self.mrenclave].concat();
        bytes.extend([0; 32]);
        bytes.extend(self.mrsigner);
        bytes.extend([0; 32 + 64]);
        bytes.extend(self.isv_prod_id.to_le_bytes());
        bytes.extend(self.isv_svn.to_le_bytes());
        bytes.extend([0; 2 + 42 + 16]);
        bytes.extend(self.report_data);
        bytes
    }
}

/// Report of a TD.
#[derive(Clone, Debug)]
pub struct TdShape {
    /// TEE TCB SVN: the module's security version, its major version, and the rest.
    pub tee_tcb_svn: [u8; 16],
    /// Signer of the module.
    pub mrsigner_seam: [u8; 48],
    /// Attributes of the module.
    pub seam_attributes: [u8; 8],
    /// Attributes; bit 0 of the first byte is DEBUG.
    pub td_attributes: [u8; 8],
    /// MRCONFIGID.
    pub mr_config_id: [u8; 48],
    /// Report data.
    pub report_data: [u8; 64],
    /// Only TDX 1.5: the TCB that runs now.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// Bytes behind, of body type 4.
    pub more: Vec<u8>,
}

impl TdShape {
    /// A TD under a module of major version 1 and security version 4.
    pub fn plain() -> Self {
        let mut svn = [0; 16];
        svn[..3].copy_from_slice(&[4, 1, 4]);
        Self {
            tee_tcb_svn: svn,
            mrsigner_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
            mr_config_id: [0xC0; 48],
            report_data: [0xDA; 64],
            tee_tcb_svn2: None,
            more: Vec::new(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.tee_tcb_svn.to_vec();
        bytes.extend([0x5E; 48]);
        bytes.extend(self.mrsigner_seam);
        bytes.extend(self.seam_attributes);
        bytes.extend(self.td_attributes);
        bytes.extend([0xE7, 2, 6, 0, 0, 0, 0, 0]);
        bytes.extend([0x7D; 48]);
        bytes.extend(self.mr_config_id);
        bytes.extend([0; 48 * 2]);
        for register in 0..4 {
            bytes.extend([register; 48]);
        }
        bytes.extend(self.report_data);
        if let Some(svn) = self.tee_tcb_svn2 {
            bytes.extend(svn);
            bytes.extend([0; 48]);
        }
        bytes.extend(&self.more);
        bytes
    }
}

/// A quote.
#[derive(Clone, Debug)]
pub struct QuoteShape {
    /// Version of the header.
    pub version: u16,
    /// Attestation key type.
    pub key_type: u16,
    /// TEE type of the header.
    pub tee_type: u32,
    /// Vendor of the QE.
    pub vendor: [u8; 16],
    /// The TD, or else the enclave.
    pub td: Option<TdShape>,
    /// The enclave.
    pub enclave: EnclaveShape,
    /// Body type and size of version 5; `None` for the body's own.
    pub body: Option<(u16, u32)>,
    /// The quoting enclave; its report data is overwritten unless `binding` is false.
    pub qe: EnclaveShape,
    /// Whether the QE's report data binds the attestation key.
    pub binding: bool,
    /// The QE's authentication data.
    pub auth: Vec<u8>,
    /// Type of the certification data with the PCK chain.
    pub certification: u16,
    /// Type of the certification data around it, versions 4 and 5.
    pub outer: u16,
    /// Bytes behind the quote.
    pub trailing: Vec<u8>,
}

impl QuoteShape {
    /// Of a TD, version 4.
    pub fn tdx4() -> Self {
        let mut vendor = [0; 16];
        hex::decode_to_slice("939a7233f79c4ca9940a0db3957f0607", &mut vendor).unwrap();
        Self {
            version: 4,
            key_type: 2,
            tee_type: 0x81,
            vendor,
            td: Some(TdShape::plain()),
            enclave: EnclaveShape::plain(),
            body: None,
            qe: EnclaveShape::qe(),
            binding: true,
            auth: (0..32).collect(),
            certification: 5,
            outer: 6,
            trailing: Vec::new(),
        }
    }

    /// Header and body, which the attestation key signs.
    pub fn signed(&self) -> Vec<u8> {
        let mut bytes = self.version.to_le_bytes().to_vec();
        bytes.extend(self.key_type.to_le_bytes());
        bytes.extend(self.tee_type.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.vendor);
        bytes.extend([0x0D; 20]);
        let body = self.td.as_ref().map_or_else(|| self.enclave.bytes(), TdShape::bytes);
        if self.version == 5 {
            let own = match body.len() {
                384 => 1,
                584 => 2,
                648 => 3,
                _ => 4,
            };
            let (kind, size) = self.body.unwrap_or((own, u32::try_from(body.len()).unwrap()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(body);
        bytes
    }

    /// The whole quote, with the signatures and the PCK chain.
    pub fn bytes(&self, signature: [u8; 64], key: &[u8], qe: &[u8], qe_signature: [u8; 64], chain: &[u8]) -> Vec<u8> {
        let mut inner = [qe, &qe_signature].concat();
        inner.extend(u16::try_from(self.auth.len()).unwrap().to_le_bytes());
        inner.extend(&self.auth);
        inner.extend(self.certification.to_le_bytes());
        inner.extend(u32::try_from(chain.len()).unwrap().to_le_bytes());
        inner.extend(chain);
        let mut data = [&signature[..], key].concat();
        if self.version > 3 {
            data.extend(self.outer.to_le_bytes());
            data.extend(u32::try_from(inner.len()).unwrap().to_le_bytes());
        }
        data.extend(inner);
        let mut bytes = self.signed();
        bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        bytes.extend(data);
        bytes.extend(&self.trailing);
        bytes
    }
}
