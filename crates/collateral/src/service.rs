//! Where each item is published, and how an answer becomes a document.
//!
//! Sources: AMD 57230 (VCEK Certificate and KDS Interface Specification), chapter 4; Intel SGX and TDX Provisioning
//! Certification Service, API version 4; for a PCCS, the design guide of Intel's caching service.

use percent_encoding::percent_decode;
use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::http::{HttpError, address};
use crate::item::{Item, Product};

/// AMD's key distribution service.
const KDS: &str = "https://kdsintf.amd.com";
/// Intel's provisioning certification service.
const PCS: &str = "https://api.trustedservices.intel.com";
/// Where Intel's root publishes its revocation list; the certificates that it signed name this address.
const ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";
/// Longest chain in a header, in bytes before decoding.
const MAX_HEADER: usize = 64 * 1024;

/// Milliseconds between two requests for a VCEK: AMD's service gives about one in ten seconds to each address.
pub const VCEK_INTERVAL: u64 = 10_000;

/// The addresses of the services.
#[derive(Clone, Debug)]
pub struct Services {
    kds: Url,
    pcs: Url,
    /// `None`: `rootcacrl` of a PCCS.
    root_crl: Option<Url>,
}

/// Why an answer with status 200 is not the item's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The header with the signer's certificates is missing.
    #[error(
        "the answer lacks the header {0} with the certificates of its signer: this is not the service, or a proxy drops it"
    )]
    NoChain(&'static str),
    /// That header is not percent-encoded text, or too long.
    #[error("the header {0} is not percent-encoded text of at most {MAX_HEADER} bytes")]
    Chain(&'static str),
    /// The body is empty.
    #[error("the answer is empty")]
    Empty,
}

/// What to ask for, and what of the answer counts.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) url: Url,
    /// Milliseconds between two requests of this kind; 0 for no pace.
    pub(crate) interval: u64,
    /// Headers that hold the certificates of the signer, the usual one first; none where the item needs none.
    chain_headers: &'static [&'static str],
    /// The body may be in hex.
    list: bool,
}

impl Services {
    /// AMD's and Intel's own.
    ///
    /// # Errors
    /// None in practice: the addresses are constant.
    pub fn vendors() -> Result<Self, HttpError> {
        Ok(Self { kds: address(KDS)?, pcs: address(PCS)?, root_crl: Some(address(ROOT_CRL)?) })
    }

    /// Takes AMD's items from a mirror.
    ///
    /// # Errors
    /// [`HttpError::Address`].
    pub fn with_kds(mut self, base: &str) -> Result<Self, HttpError> {
        self.kds = address(base)?;
        Ok(self)
    }

    /// Takes Intel's documents from a mirror of its service, the root's revocation list still from Intel.
    ///
    /// # Errors
    /// [`HttpError::Address`].
    pub fn with_pcs(mut self, base: &str) -> Result<Self, HttpError> {
        self.pcs = address(base)?;
        Ok(self)
    }

    /// Takes everything of Intel's from a PCCS.
    ///
    /// # Errors
    /// [`HttpError::Address`].
    pub fn with_pccs(mut self, base: &str) -> Result<Self, HttpError> {
        self.pcs = address(base)?;
        self.root_crl = None;
        Ok(self)
    }

    /// Takes the revocation list of Intel's root from this address.
    ///
    /// # Errors
    /// [`HttpError::Address`].
    pub fn with_root_crl(mut self, url: &str) -> Result<Self, HttpError> {
        self.root_crl = Some(address(url)?);
        Ok(self)
    }

    pub(crate) fn request(&self, item: &Item) -> Request {
        const TCB_INFO: &[&str] = &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"];
        const IDENTITY: &[&str] = &["SGX-Enclave-Identity-Issuer-Chain"];
        const PCK_CRL: &[&str] = &["SGX-PCK-CRL-Issuer-Chain"];
        let plain = |url| Request { url, interval: 0, chain_headers: &[], list: false };
        match item {
            Item::Vcek { product, hwid, tcb } => {
                let mut url = below(&self.kds, &["vcek", "v1", product.name(), &hex::encode(hwid)]);
                for (name, level) in spl(*product, *tcb) {
                    url.query_pairs_mut().append_pair(name, &format!("{level:02}"));
                }
                Request { interval: VCEK_INTERVAL, ..plain(url) }
            }
            Item::VekChain { product, kind } => {
                plain(below(&self.kds, &[kind.name(), "v1", product.name(), "cert_chain"]))
            }
            Item::VekCrl { product, kind } => plain(below(&self.kds, &[kind.name(), "v1", product.name(), "crl"])),
            Item::TcbInfo { tee, fmspc, update } => {
                let mut url = below(&self.pcs, &[tee.name(), "certification", "v4", "tcb"]);
                url.query_pairs_mut()
                    .append_pair("fmspc", &hex::encode_upper(fmspc))
                    .append_pair("update", update.name());
                Request { chain_headers: TCB_INFO, ..plain(url) }
            }
            Item::QeIdentity { tee, update } => {
                let mut url = below(&self.pcs, &[tee.name(), "certification", "v4", "qe", "identity"]);
                url.query_pairs_mut().append_pair("update", update.name());
                Request { chain_headers: IDENTITY, ..plain(url) }
            }
            Item::PckCrl(ca) => {
                let mut url = below(&self.pcs, &["sgx", "certification", "v4", "pckcrl"]);
                url.query_pairs_mut().append_pair("ca", ca.name()).append_pair("encoding", "der");
                Request { chain_headers: PCK_CRL, list: true, ..plain(url) }
            }
            Item::RootCrl => {
                let pccs = || below(&self.pcs, &["sgx", "certification", "v4", "rootcacrl"]);
                Request { list: true, ..plain(self.root_crl.clone().unwrap_or_else(pccs)) }
            }
        }
    }
}

impl Request {
    /// Body and signer's certificates of an answer.
    pub(crate) fn read(&self, headers: &HeaderMap, body: Vec<u8>) -> Result<(Vec<u8>, Vec<u8>), AnswerError> {
        if body.is_empty() {
            return Err(AnswerError::Empty);
        }
        let chain = match self.chain_headers {
            [] => Vec::new(),
            names @ [usual, ..] => {
                let value = names.iter().find_map(|name| headers.get(*name)).ok_or(AnswerError::NoChain(usual))?;
                if value.len() > MAX_HEADER {
                    return Err(AnswerError::Chain(usual));
                }
                let text = percent_decode(value.as_bytes()).decode_utf8().map_err(|_| AnswerError::Chain(usual))?;
                text.into_owned().into_bytes()
            }
        };
        let body = if self.list { from_hex(body) } else { body };
        Ok((body, chain))
    }
}

/// A PCCS gives revocation lists as hex. DER starts with the byte 0x30, which no text in hex of DER starts with ("3").
fn from_hex(body: Vec<u8>) -> Vec<u8> {
    match body.first() {
        Some(b'3') => hex::decode(body.trim_ascii()).unwrap_or(body),
        _ => body,
    }
}

/// The security patch levels of a TCB version, by the names of the query parameters.
fn spl(product: Product, tcb: [u8; 8]) -> Vec<(&'static str, u8)> {
    let tcb = belljar_evidence::snp::Tcb { raw: tcb, layout: product.layout() };
    let fmc = tcb.fmc().map(|level| ("fmcSPL", level));
    let rest =
        [("blSPL", tcb.bootloader()), ("teeSPL", tcb.tee()), ("snpSPL", tcb.snp()), ("ucodeSPL", tcb.microcode())];
    fmc.into_iter().chain(rest).collect()
}

fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // An http or https address always has a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{Endorsement, PckCa, Tee, Update};

    fn asked(item: &Item) -> String {
        Services::vendors().unwrap().request(item).url.to_string()
    }

    #[test]
    fn items_are_where_the_vendors_publish_them() {
        let chip = "c4".repeat(64);
        let milan = Item::vcek(Product::Milan, &[0xC4; 64], [4, 1, 0, 0, 0, 0, 24, 219]).unwrap();
        assert_eq!(
            asked(&milan),
            format!("https://kdsintf.amd.com/vcek/v1/Milan/{chip}?blSPL=04&teeSPL=01&snpSPL=24&ucodeSPL=219")
        );
        let turin = Item::vcek(Product::Turin, &[1; 8], [1, 2, 3, 4, 0, 0, 0, 77]).unwrap();
        assert_eq!(
            asked(&turin),
            "https://kdsintf.amd.com/vcek/v1/Turin/0101010101010101?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=77"
        );
        let chain = Item::VekChain { product: Product::Genoa, kind: Endorsement::Vlek };
        assert_eq!(asked(&chain), "https://kdsintf.amd.com/vlek/v1/Genoa/cert_chain");
        let list = Item::VekCrl { product: Product::Turin, kind: Endorsement::Vcek };
        assert_eq!(asked(&list), "https://kdsintf.amd.com/vcek/v1/Turin/crl");
        let intel = "https://api.trustedservices.intel.com";
        let info = Item::TcbInfo { tee: Tee::Tdx, fmspc: [0xB0, 0xC0, 0x6F, 0, 0, 0], update: Update::Early };
        assert_eq!(asked(&info), format!("{intel}/tdx/certification/v4/tcb?fmspc=B0C06F000000&update=early"));
        let identity = Item::QeIdentity { tee: Tee::Sgx, update: Update::Standard };
        assert_eq!(asked(&identity), format!("{intel}/sgx/certification/v4/qe/identity?update=standard"));
        let list = Item::PckCrl(PckCa::Platform);
        assert_eq!(asked(&list), format!("{intel}/sgx/certification/v4/pckcrl?ca=platform&encoding=der"));
        assert_eq!(asked(&Item::RootCrl), ROOT_CRL);
    }

    #[test]
    fn mirrors_take_the_vendors_place() {
        let mirror = Services::vendors().unwrap().with_kds("http://mirror.example:8080/amd/").unwrap();
        let mirror = mirror.with_pccs("https://pccs.example:8081").unwrap();
        let chain = Item::VekChain { product: Product::Milan, kind: Endorsement::Vcek };
        assert_eq!(mirror.request(&chain).url.as_str(), "http://mirror.example:8080/amd/vcek/v1/Milan/cert_chain");
        let root = "https://pccs.example:8081/sgx/certification/v4/rootcacrl";
        assert_eq!(mirror.request(&Item::RootCrl).url.as_str(), root);
        let own = mirror.with_root_crl("http://mirror.example/root.crl").unwrap();
        assert_eq!(own.request(&Item::RootCrl).url.as_str(), "http://mirror.example/root.crl");
        let pcs = Services::vendors().unwrap().with_pcs("http://mirror.example").unwrap();
        assert_eq!(pcs.request(&Item::RootCrl).url.as_str(), ROOT_CRL);
    }

    #[test]
    fn the_signer_comes_in_a_header_and_lists_may_be_hex() {
        let services = Services::vendors().unwrap();
        let list = services.request(&Item::PckCrl(PckCa::Processor));
        let mut headers = HeaderMap::new();
        assert_eq!(list.read(&headers, vec![1]), Err(AnswerError::NoChain("SGX-PCK-CRL-Issuer-Chain")));
        headers.insert("sgx-pck-crl-issuer-chain", "a%20b%0Ac+d".parse().unwrap());
        assert_eq!(list.read(&headers, vec![0x30, 1]), Ok((vec![0x30, 1], b"a b\nc+d".to_vec())));
        assert_eq!(list.read(&headers, b"3001\n".to_vec()), Ok((vec![0x30, 1], b"a b\nc+d".to_vec())));
        assert_eq!(list.read(&headers, Vec::new()), Err(AnswerError::Empty));
        headers.insert("sgx-pck-crl-issuer-chain", "%ff".parse().unwrap());
        assert_eq!(list.read(&headers, vec![1]), Err(AnswerError::Chain("SGX-PCK-CRL-Issuer-Chain")));
        // An old PCCS names the header as version 3 of the service did.
        let info = services.request(&Item::TcbInfo { tee: Tee::Sgx, fmspc: [0; 6], update: Update::Standard });
        headers.insert("sgx-tcb-info-issuer-chain", "x".parse().unwrap());
        assert_eq!(info.read(&headers, b"3001".to_vec()), Ok((b"3001".to_vec(), b"x".to_vec())));
    }
}
