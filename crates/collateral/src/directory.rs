//! Collateral in a directory, one plain file each, for other tools and for people.
//!
//! | file | item |
//! |---|---|
//! | `tcb_info.json`, `tcb_signing_chain.pem` | TCB info and the certificates of its signer |
//! | `qe_identity.json`, `qe_signing_chain.pem` | identity of the quoting enclave and the certificates of its signer |
//! | `pck_crl.der`, `pck_crl_issuer_chain.pem` | revocation list of the PCK's authority and its certificates |
//! | `root_ca_crl.der` | revocation list of Intel's root |
//! | `cert_chain.pem` | ASK and ARK of one product line of AMD |
//! | `crl.der` | revocation list of that product line |
//! | `vcek/HWID_TCB.der` | certificates of chips of that product line, names in lowercase hex |
//!
//! A directory is for one platform of Intel and one product line of AMD: there is one TCB info in it.

use std::path::{Path, PathBuf};

use belljar_evidence::dcap::{Chain, Collateral, QeIdentity, TcbInfo};
use belljar_evidence::pem;
use belljar_evidence::snp::{Certificate, Vek};

use crate::cache::{CacheError, read_bounded, write_whole};
use crate::check;
use crate::document::{Document, MAX_BODY};
use crate::item::{Endorsement, Item, PckCa, Product, Tee, Update};

const TCB_INFO: &str = "tcb_info.json";
const TCB_CHAIN: &str = "tcb_signing_chain.pem";
const QE_IDENTITY: &str = "qe_identity.json";
const QE_CHAIN: &str = "qe_signing_chain.pem";
const PCK_CRL: &str = "pck_crl.der";
const PCK_CRL_CHAIN: &str = "pck_crl_issuer_chain.pem";
const ROOT_CRL: &str = "root_ca_crl.der";
const VEK_CHAIN: &str = "cert_chain.pem";
const VEK_CRL: &str = "crl.der";
const VCEKS: &str = "vcek";
/// Most certificates of chips that are read from a directory.
const MAX_VCEKS: usize = 65_536;

/// Why a directory cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// There is no such directory.
    #[error("{} is not a directory: `belljar collateral fetch --out` makes one", .0.display())]
    Missing(PathBuf),
    /// A file in it cannot be used.
    #[error(transparent)]
    File(#[from] CacheError),
    /// A file in it is longer than an item can be.
    #[error("{} has more than {MAX_BODY} bytes: it is no collateral", .0.display())]
    Length(PathBuf),
    /// Two items have one place.
    #[error("{} is for one platform: it cannot hold both {first} and {second}, give each a directory", .directory.display())]
    Both {
        /// The directory.
        directory: PathBuf,
        /// The item that has the place.
        first: Item,
        /// The item that would have it, too.
        second: Item,
    },
    /// A file that is no item of the kind that its name promises.
    #[error("{} cannot be read: {why}", .path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What a directory holds, as it is: nothing is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Intel's items; what is not there is empty.
    pub intel: Collateral,
    /// ASK and ARK, PEM; empty when it is not there.
    pub vek_chain: Vec<u8>,
    /// Revocation list of the product line, DER; empty when it is not there.
    pub vek_crl: Vec<u8>,
    /// Certificates of chips, DER, by their file names.
    pub vceks: Vec<(PathBuf, Vec<u8>)>,
    path: PathBuf,
}

impl Directory {
    /// Whether it holds nothing under the names that it knows.
    pub fn is_empty(&self) -> bool {
        self.intel == Collateral::default()
            && self.vek_chain.is_empty()
            && self.vek_crl.is_empty()
            && self.vceks.is_empty()
    }

    /// Reads a directory; files of other names are left alone.
    ///
    /// # Errors
    /// [`DirectoryError::Missing`], [`DirectoryError::File`] or [`DirectoryError::Length`].
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        if !path.is_dir() {
            return Err(DirectoryError::Missing(path.to_owned()));
        }
        let of = |name: &str| file(&path.join(name));
        let mut vceks = Vec::new();
        let folder = path.join(VCEKS);
        if let Ok(entries) = std::fs::read_dir(&folder) {
            let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
            files.retain(|path| path.extension().is_some_and(|extension| extension == "der"));
            files.sort();
            for path in files.into_iter().take(MAX_VCEKS) {
                let der = file(&path)?;
                vceks.push((path, der));
            }
        }
        Ok(Self {
            intel: Collateral {
                tcb_info: of(TCB_INFO)?,
                tcb_signing_chain: of(TCB_CHAIN)?,
                qe_identity: of(QE_IDENTITY)?,
                qe_signing_chain: of(QE_CHAIN)?,
                pck_crl: of(PCK_CRL)?,
                pck_crl_chain: of(PCK_CRL_CHAIN)?,
                root_crl: of(ROOT_CRL)?,
            },
            vek_chain: of(VEK_CHAIN)?,
            vek_crl: of(VEK_CRL)?,
            vceks,
            path: path.to_owned(),
        })
    }

    /// Its items as documents, to verify each of them. TCB info and identity count as of the standard line.
    ///
    /// # Errors
    /// [`DirectoryError::Strange`] when a file does not say which item it is.
    pub fn documents(&self) -> Result<Vec<Document>, DirectoryError> {
        let named = |name: &str, why: &dyn std::fmt::Display| strange(&self.path.join(name), why);
        let mut all = self.amd_documents()?;
        let intel = &self.intel;
        let update = Update::Standard;
        if !intel.tcb_info.is_empty() {
            let info = TcbInfo::parse(&intel.tcb_info).map_err(|error| named(TCB_INFO, &error))?;
            let tee = if info.id == "TDX" { Tee::Tdx } else { Tee::Sgx };
            let item = Item::TcbInfo { tee, fmspc: info.fmspc, update };
            all.push(document(item, self.path.join(TCB_INFO), &intel.tcb_info, &intel.tcb_signing_chain));
        }
        if !intel.qe_identity.is_empty() {
            let identity = QeIdentity::parse(&intel.qe_identity).map_err(|error| named(QE_IDENTITY, &error))?;
            let tee = if identity.id == "TD_QE" { Tee::Tdx } else { Tee::Sgx };
            let item = Item::QeIdentity { tee, update };
            all.push(document(item, self.path.join(QE_IDENTITY), &intel.qe_identity, &intel.qe_signing_chain));
        }
        if !intel.pck_crl.is_empty() {
            let chain = Chain::parse(&intel.pck_crl_chain).map_err(|error| named(PCK_CRL_CHAIN, &error))?;
            let issuer = chain.leaf().map(|leaf| leaf.subject_name()).unwrap_or_default();
            let ca = [PckCa::Processor, PckCa::Platform].into_iter().find(|ca| ca.subject() == issuer);
            let ca = ca.ok_or_else(|| named(PCK_CRL_CHAIN, &format!("{issuer} issues no PCK certificates")))?;
            all.push(document(Item::PckCrl(ca), self.path.join(PCK_CRL), &intel.pck_crl, &intel.pck_crl_chain));
        }
        if !intel.root_crl.is_empty() {
            all.push(document(Item::RootCrl, self.path.join(ROOT_CRL), &intel.root_crl, &[]));
        }
        Ok(all)
    }

    /// AMD's items alone, as documents.
    ///
    /// # Errors
    /// [`DirectoryError::Strange`] when a file does not say which item it is.
    pub fn amd_documents(&self) -> Result<Vec<Document>, DirectoryError> {
        let named = |name: &str, why: &dyn std::fmt::Display| strange(&self.path.join(name), why);
        let mut all = Vec::new();
        let product = self.product().map_err(|why| named(VEK_CHAIN, &why))?;
        if let Some(product) = product {
            let item = Item::VekChain { product, kind: Endorsement::Vcek };
            all.push(document(item, self.path.join(VEK_CHAIN), &self.vek_chain, &[]));
        }
        if !self.vek_crl.is_empty() {
            let product = product.or_else(|| check::product_of_crl(&self.vek_crl));
            let product =
                product.ok_or_else(|| named(VEK_CRL, &"no root of AMD's signed it, and no chain names one"))?;
            let item = Item::VekCrl { product, kind: Endorsement::Vcek };
            all.push(document(item, self.path.join(VEK_CRL), &self.vek_crl, &[]));
        }
        for (path, der) in &self.vceks {
            let vek = Certificate::parse(der).and_then(Vek::new).map_err(|error| strange(path, &error))?;
            let of_certificate = || Product::ALL.into_iter().find(|product| vek.product.starts_with(product.name()));
            let product = product.or_else(of_certificate);
            let product = product.ok_or_else(|| strange(path, &format!("{} is no known product", vek.product)))?;
            let item = Item::vcek(product, vek.hw_id.as_deref().unwrap_or_default(), vek.tcb.raw)
                .map_err(|error| strange(path, &error))?;
            let chain = if self.vek_chain.is_empty() { check::builtin_chain(product) } else { self.vek_chain.clone() };
            all.push(document(item, path.clone(), der, &chain));
        }
        Ok(all)
    }

    /// Writes documents under their names into a directory, which is made. What is there under these names is replaced.
    ///
    /// # Errors
    /// [`DirectoryError::Both`] before anything is written, or [`DirectoryError::File`].
    pub fn write(path: &Path, documents: &[Document]) -> Result<(), DirectoryError> {
        let mut files: Vec<(String, &[u8], &Item)> = Vec::new();
        for document in documents {
            let (body, chain) = names(&document.item);
            files.push((body, &document.body, &document.item));
            if let Some(chain) = chain {
                files.push((chain.to_owned(), &document.chain, &document.item));
            }
        }
        for (at, (name, bytes, second)) in files.iter().enumerate() {
            let clash = |(other, held, _): &&(String, &[u8], &Item)| other == name && !same(name, held, bytes);
            if let Some((_, _, first)) = files.iter().take(at).find(clash) {
                let (first, second) = ((*first).clone(), (*second).clone());
                return Err(DirectoryError::Both { directory: path.to_owned(), first, second });
            }
        }
        for (name, bytes, _) in files {
            let path = path.join(name);
            let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            made.map_err(|error| CacheError::Io { path: path.clone(), error })?;
            write_whole(&path, bytes, 0o644)?;
        }
        Ok(())
    }

    /// The product line of `cert_chain.pem`, by the name of its authority.
    fn product(&self) -> Result<Option<Product>, String> {
        if self.vek_chain.is_empty() {
            return Ok(None);
        }
        let certificates = pem::certificates(&self.vek_chain, 2).map_err(|error| error.to_string())?;
        let signer = certificates.first().ok_or("it holds no certificate")?;
        let signer = Certificate::parse(signer).map_err(|error| error.to_string())?;
        let named = |product: &Product| signer.subject_name() == format!("SEV-{}", product.name());
        let product = Product::ALL.into_iter().find(named);
        product.map(Some).ok_or_else(|| format!("{} signs no VCEKs", signer.subject_name()))
    }
}

fn strange(path: &Path, why: &dyn std::fmt::Display) -> DirectoryError {
    DirectoryError::Strange { path: path.to_owned(), why: why.to_string() }
}

fn document(item: Item, path: PathBuf, body: &[u8], chain: &[u8]) -> Document {
    Document { item, source: path.display().to_string(), fetched: 0, chain: chain.to_vec(), body: body.to_vec() }
}

/// Where an item is in a directory, and its signer's certificates.
fn names(item: &Item) -> (String, Option<&'static str>) {
    match item {
        Item::TcbInfo { .. } => (TCB_INFO.to_owned(), Some(TCB_CHAIN)),
        Item::QeIdentity { .. } => (QE_IDENTITY.to_owned(), Some(QE_CHAIN)),
        Item::PckCrl(_) => (PCK_CRL.to_owned(), Some(PCK_CRL_CHAIN)),
        Item::RootCrl => (ROOT_CRL.to_owned(), None),
        Item::VekChain { .. } => (VEK_CHAIN.to_owned(), None),
        Item::VekCrl { .. } => (VEK_CRL.to_owned(), None),
        // The chip's authority is the directory's, which a document brings along.
        Item::Vcek { hwid, tcb, .. } => {
            (format!("{VCEKS}/{}_{}.der", hex::encode(hwid), hex::encode(tcb)), Some(VEK_CHAIN))
        }
    }
}

/// Whether one file can hold both; a chain may be written in several ways.
fn same(name: &str, one: &[u8], other: &[u8]) -> bool {
    one == other
        || (name == VEK_CHAIN && pem::certificates(one, 2).is_ok_and(|all| pem::certificates(other, 2) == Ok(all)))
}

fn file(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    let bytes = read_bounded(path, MAX_BODY)?.unwrap_or_default();
    if bytes.len() > MAX_BODY {
        return Err(DirectoryError::Length(path.to_owned()));
    }
    Ok(bytes)
}
