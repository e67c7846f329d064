//! The things that vendors publish, each with a name that says exactly which one.

use std::fmt;
use std::str::FromStr;

use belljar_evidence::snp::{Cpuid, Layout, Report, SigningKey};

/// A product line of AMD with a root of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004 (Genoa, Bergamo, Siena).
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// The name in AMD's addresses and certificates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// Bytes of a chip's id: 64, on Turin 8 (AMD 57230).
    pub fn hwid_len(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }

    /// How the bytes of its TCB version are to be read.
    pub fn layout(self) -> Layout {
        match self {
            Self::Milan | Self::Genoa => Layout::Milan,
            Self::Turin => Layout::Turin,
        }
    }

    /// The product line of a processor, by family and model as reports from version 3 on name them (AMD 57230).
    pub fn of_cpu(family: u8, model: u8) -> Option<Self> {
        let line = Cpuid { family, model, stepping: 0 }.product_line()?;
        Self::ALL.into_iter().find(|product| product.name() == line)
    }
}

/// Which kind of endorsement key an authority of AMD signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endorsement {
    /// Keys of chips: signed by the ASK.
    Vcek,
    /// Keys of cloud providers: signed by the ASVK.
    Vlek,
}

impl Endorsement {
    /// The name in AMD's addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
        }
    }
}

/// A TEE of Intel with collateral of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tee {
    /// Enclaves.
    Sgx,
    /// Trust domains.
    Tdx,
}

impl Tee {
    /// The name in Intel's addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgx => "sgx",
            Self::Tdx => "tdx",
        }
    }
}

/// Which of Intel's two lines of TCB evaluations: before the end of an embargo, or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Update {
    /// From the day on which all platforms should have been updated.
    Standard,
    /// From the day on which a fault became public.
    Early,
}

impl Update {
    /// The value of the query parameter `update`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Early => "early",
        }
    }
}

/// Which authority of Intel issued a PCK's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PckCa {
    /// Platforms with one package.
    Processor,
    /// Platforms with several packages, and all with TDX.
    Platform,
}

impl PckCa {
    /// The value of the query parameter `ca`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }

    /// Common name of the authority's certificate.
    pub fn subject(self) -> &'static str {
        match self {
            Self::Processor => "Intel SGX PCK Processor CA",
            Self::Platform => "Intel SGX PCK Platform CA",
        }
    }
}

/// One thing that a vendor publishes.
///
/// [`fmt::Display`] and [`FromStr`] give it a name of lowercase path segments (products keep their capital), which is
/// its place in the cache and in a bundle: `amd/Milan/vcek/HWID/TCB`, `amd/Milan/chain/vcek`, `amd/Milan/crl/vcek`,
/// `intel/tdx/tcb-info/FMSPC/standard`, `intel/tdx/qe-identity/standard`, `intel/pck-crl/platform`, `intel/root-crl`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// Certificate of a chip's endorsement key at one TCB, DER.
    Vcek {
        /// Product line.
        product: Product,
        /// Id of the chip, as long as the product line has it.
        hwid: Vec<u8>,
        /// TCB version in the order of the report.
        tcb: [u8; 8],
    },
    /// ASK or ASVK, and ARK, PEM.
    VekChain {
        /// Product line.
        product: Product,
        /// For which kind of key.
        kind: Endorsement,
    },
    /// Revocation list of a product line's ARK, DER. AMD gives one address for each kind of key.
    VekCrl {
        /// Product line.
        product: Product,
        /// For which kind of key.
        kind: Endorsement,
    },
    /// Intel's TCB info of one kind of platform, JSON.
    TcbInfo {
        /// For which TEE.
        tee: Tee,
        /// Family, model, stepping, platform type and custom SKU.
        fmspc: [u8; 6],
        /// Which line of evaluations.
        update: Update,
    },
    /// Identity of Intel's quoting enclave, JSON.
    QeIdentity {
        /// For which TEE.
        tee: Tee,
        /// Which line of evaluations.
        update: Update,
    },
    /// Revocation list of an authority that issues PCK certificates, DER.
    PckCrl(PckCa),
    /// Revocation list of Intel's root, DER.
    RootCrl,
}

/// Why there is no such item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// Not a name of an item.
    #[error("{0:?} is not the name of an item of collateral: write it as `belljar collateral status` shows it")]
    Name(String),
    /// A chip's id of another length than the product line has.
    #[error("a chip id of {product} has {expected} bytes, not {found}: give it as the report has it")]
    HwId {
        /// Product line.
        product: &'static str,
        /// Its length in bytes.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// The report's processor belongs to no product line that we know.
    #[error(
        "the report is of a processor of family {family:#x}, model {model:#x}, of no known product line: update this program"
    )]
    Processor {
        /// Extended plus base family.
        family: u8,
        /// Extended model and model.
        model: u8,
    },
    /// A report of version 2 does not say on which processor it was made.
    #[error("a report of version 2 does not name its processor: name the product line (Milan, Genoa)")]
    ProductUnknown,
    /// The host hides the chip's id.
    #[error(
        "the report's chip id is masked by the host, so nobody can ask for the chip's certificate: get it from the host"
    )]
    Masked,
    /// The report is signed with a key that AMD gives to cloud providers alone.
    #[error(
        "the report is not signed with the chip's own key: AMD publishes no VLEK certificates, get it from the host"
    )]
    NotVcek,
}

impl Item {
    /// The certificate that a report needs. `product` is for reports of version 2, which do not name their processor.
    ///
    /// # Errors
    /// [`ItemError::Processor`], [`ItemError::ProductUnknown`], [`ItemError::Masked`] or [`ItemError::NotVcek`].
    pub fn vcek_of(report: &Report, product: Option<Product>) -> Result<Self, ItemError> {
        if report.signing_key != SigningKey::Vcek {
            return Err(ItemError::NotVcek);
        }
        let product = match report.cpuid {
            Some(cpu) => Product::of_cpu(cpu.family, cpu.model)
                .ok_or(ItemError::Processor { family: cpu.family, model: cpu.model })?,
            None => product.ok_or(ItemError::ProductUnknown)?,
        };
        let hwid: Vec<u8> = report.chip_id.iter().take(product.hwid_len()).copied().collect();
        if hwid.iter().all(|&byte| byte == 0) {
            return Err(ItemError::Masked);
        }
        Ok(Self::Vcek { product, hwid, tcb: report.reported_tcb.raw })
    }

    /// The certificate of a chip at one TCB.
    ///
    /// # Errors
    /// [`ItemError::HwId`].
    pub fn vcek(product: Product, hwid: &[u8], tcb: [u8; 8]) -> Result<Self, ItemError> {
        let expected = product.hwid_len();
        if hwid.len() != expected {
            return Err(ItemError::HwId { product: product.name(), expected, found: hwid.len() });
        }
        Ok(Self::Vcek { product, hwid: hwid.to_vec(), tcb })
    }

    /// What it is for, in words.
    pub fn purpose(&self) -> String {
        match self {
            Self::Vcek { product, hwid, .. } => {
                let short: String = hex::encode(hwid).chars().take(16).collect();
                format!("reports of the {} chip {short}", product.name())
            }
            Self::VekChain { product, kind: Endorsement::Vcek } => format!("chips of {}", product.name()),
            Self::VekChain { product, kind: Endorsement::Vlek } => format!("cloud providers on {}", product.name()),
            Self::VekCrl { product, kind } => {
                format!("{} certificates and authorities of {}", kind.name().to_uppercase(), product.name())
            }
            Self::TcbInfo { tee, fmspc, .. } => {
                format!("{} on platforms {}", tee.name().to_uppercase(), hex::encode(fmspc))
            }
            Self::QeIdentity { tee, .. } => format!("quoting enclave of {}", tee.name().to_uppercase()),
            Self::PckCrl(ca) => format!("PCK certificates of the {} authority", ca.name()),
            Self::RootCrl => "authorities below Intel's root".to_owned(),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcek { product, hwid, tcb } => {
                write!(f, "amd/{}/vcek/{}/{}", product.name(), hex::encode(hwid), hex::encode(tcb))
            }
            Self::VekChain { product, kind } => write!(f, "amd/{}/chain/{}", product.name(), kind.name()),
            Self::VekCrl { product, kind } => write!(f, "amd/{}/crl/{}", product.name(), kind.name()),
            Self::TcbInfo { tee, fmspc, update } => {
                write!(f, "intel/{}/tcb-info/{}/{}", tee.name(), hex::encode(fmspc), update.name())
            }
            Self::QeIdentity { tee, update } => write!(f, "intel/{}/qe-identity/{}", tee.name(), update.name()),
            Self::PckCrl(ca) => write!(f, "intel/pck-crl/{}", ca.name()),
            Self::RootCrl => f.write_str("intel/root-crl"),
        }
    }
}

impl FromStr for Item {
    type Err = ItemError;

    fn from_str(name: &str) -> Result<Self, ItemError> {
        let read = || -> Option<Self> {
            let parts: Vec<&str> = name.split('/').take(6).collect();
            match parts.as_slice() {
                ["amd", product, "vcek", hwid, tcb] => {
                    let product = named(Product::ALL, Product::name, product)?;
                    let (mut bytes, mut tcb_bytes) = (vec![0; product.hwid_len()], [0; 8]);
                    hex::decode_to_slice(hwid, &mut bytes).ok()?;
                    hex::decode_to_slice(tcb, &mut tcb_bytes).ok()?;
                    Some(Self::Vcek { product, hwid: bytes, tcb: tcb_bytes })
                }
                ["amd", product, "chain", kind] => Some(Self::VekChain {
                    product: named(Product::ALL, Product::name, product)?,
                    kind: named([Endorsement::Vcek, Endorsement::Vlek], Endorsement::name, kind)?,
                }),
                ["amd", product, "crl", kind] => Some(Self::VekCrl {
                    product: named(Product::ALL, Product::name, product)?,
                    kind: named([Endorsement::Vcek, Endorsement::Vlek], Endorsement::name, kind)?,
                }),
                ["intel", tee, "tcb-info", fmspc, update] => {
                    let mut bytes = [0; 6];
                    hex::decode_to_slice(fmspc, &mut bytes).ok()?;
                    let tee = named([Tee::Sgx, Tee::Tdx], Tee::name, tee)?;
                    let update = named([Update::Standard, Update::Early], Update::name, update)?;
                    Some(Self::TcbInfo { tee, fmspc: bytes, update })
                }
                ["intel", tee, "qe-identity", update] => Some(Self::QeIdentity {
                    tee: named([Tee::Sgx, Tee::Tdx], Tee::name, tee)?,
                    update: named([Update::Standard, Update::Early], Update::name, update)?,
                }),
                ["intel", "pck-crl", ca] => {
                    Some(Self::PckCrl(named([PckCa::Processor, PckCa::Platform], PckCa::name, ca)?))
                }
                ["intel", "root-crl"] => Some(Self::RootCrl),
                _ => None,
            }
        };
        // One name for each item: hex in capitals is another spelling, and refused.
        read().filter(|item| item.to_string() == name).ok_or_else(|| ItemError::Name(name.chars().take(80).collect()))
    }
}

fn named<T: Copy, const N: usize>(all: [T; N], name: fn(T) -> &'static str, text: &str) -> Option<T> {
    all.into_iter().find(|one| name(*one) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_one_name() {
        let hwid = "c4".repeat(64);
        for name in [
            format!("amd/Milan/vcek/{hwid}/0401000000001adb"),
            "amd/Turin/vcek/0102030405060708/0401000000001adb".to_owned(),
            "amd/Genoa/chain/vlek".to_owned(),
            "amd/Turin/crl/vcek".to_owned(),
            "intel/tdx/tcb-info/00806f050000/early".to_owned(),
            "intel/sgx/qe-identity/standard".to_owned(),
            "intel/pck-crl/processor".to_owned(),
            "intel/root-crl".to_owned(),
        ] {
            assert_eq!(name.parse::<Item>().map(|item| item.to_string()), Ok(name));
        }
    }

    #[test]
    fn other_spellings_are_no_names() {
        for name in [
            "",
            "intel/root-crl/",
            "intel/tdx/tcb-info/00806F050000/early",
            "intel/tdx/tcb-info/00806f0500/early",
            "amd/milan/chain/vcek",
            "amd/Milan/chain/vcek/../../x",
            "amd/Turin/vcek/01020304/0401000000001adb",
        ] {
            assert_eq!(name.parse::<Item>(), Err(ItemError::Name(name.to_owned())));
        }
    }

    #[test]
    fn a_chip_id_has_the_length_of_its_product() {
        assert!(Item::vcek(Product::Turin, &[1; 8], [0; 8]).is_ok());
        let wrong = ItemError::HwId { product: "Turin", expected: 8, found: 64 };
        assert_eq!(Item::vcek(Product::Turin, &[1; 64], [0; 8]), Err(wrong));
    }

    #[test]
    fn processors_belong_to_product_lines() {
        assert_eq!(Product::of_cpu(0x19, 0x01), Some(Product::Milan));
        assert_eq!(Product::of_cpu(0x19, 0x11), Some(Product::Genoa));
        assert_eq!(Product::of_cpu(0x19, 0xA0), Some(Product::Genoa));
        assert_eq!(Product::of_cpu(0x1A, 0x02), Some(Product::Turin));
        assert_eq!(Product::of_cpu(0x19, 0x20), None);
        assert_eq!(Product::of_cpu(0x1A, 0x12), None);
    }
}
