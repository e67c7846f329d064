//! Which items a piece of evidence needs.

use belljar_evidence::dcap::{Body, Chain, PCK_CHAIN, Pck, Quote};
use belljar_evidence::snp::Report;

use crate::item::{Endorsement, Item, ItemError, PckCa, Product, Tee, Update};

/// Why the needs of evidence cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NeedError {
    /// The evidence cannot be read.
    #[error("the evidence cannot be read: {0}")]
    Unreadable(String),
    /// A quote without its PCK certificate.
    #[error("the quote does not hold its PCK certificate: give the chain beside it, or FMSPC and authority")]
    NoPck,
    /// The issuer of the PCK's certificate is none of Intel's two authorities.
    #[error("the PCK certificate is issued by {0}, which is neither authority of Intel's: refuse the evidence")]
    Authority(String),
    /// The report leads to no item.
    #[error(transparent)]
    Item(#[from] ItemError),
}

/// What a TDX or SGX quote needs: TCB info, QE identity and both revocation lists. `pck_chain` (PEM) is for quotes that
/// do not hold it.
///
/// # Errors
/// [`NeedError::Unreadable`], [`NeedError::NoPck`] or [`NeedError::Authority`].
pub fn of_quote(quote: &[u8], pck_chain: Option<&[u8]>, update: Update) -> Result<Vec<Item>, NeedError> {
    let unreadable = |error: &dyn std::fmt::Display| NeedError::Unreadable(error.to_string());
    let quote = Quote::parse(quote).map_err(|error| unreadable(&error))?;
    let held = (quote.certification.kind == PCK_CHAIN).then_some(quote.certification.data.as_slice());
    let chain = Chain::parse(held.or(pck_chain).ok_or(NeedError::NoPck)?).map_err(|error| unreadable(&error))?;
    let leaf = chain.leaf().ok_or(NeedError::NoPck)?;
    let fmspc = Pck::of(leaf).map_err(|error| unreadable(&error))?.fmspc;
    let issuer = chain.issuer().map(|issuer| issuer.subject_name()).unwrap_or_default();
    let ca = [PckCa::Processor, PckCa::Platform].into_iter().find(|ca| ca.subject() == issuer);
    let ca = ca.ok_or_else(|| NeedError::Authority(issuer.to_owned()))?;
    let tee = match quote.body {
        Body::Td(_) => Tee::Tdx,
        Body::Enclave(_) => Tee::Sgx,
    };
    Ok(of_platform(tee, fmspc, ca, update))
}

/// What quotes of a platform need.
pub fn of_platform(tee: Tee, fmspc: [u8; 6], ca: PckCa, update: Update) -> Vec<Item> {
    vec![Item::TcbInfo { tee, fmspc, update }, Item::QeIdentity { tee, update }, Item::PckCrl(ca), Item::RootCrl]
}

/// What an SNP report needs: the chip's certificate, its product's chain and revocation list. `product` is for reports of version 2.
///
/// # Errors
/// [`NeedError::Unreadable`] or [`NeedError::Item`].
pub fn of_report(report: &[u8], product: Option<Product>) -> Result<Vec<Item>, NeedError> {
    let report = Report::parse(report).map_err(|error| NeedError::Unreadable(error.to_string()))?;
    let vcek = Item::vcek_of(&report, product)?;
    let kind = Endorsement::Vcek;
    let of_product = match vcek {
        Item::Vcek { product, .. } => vec![Item::VekChain { product, kind }, Item::VekCrl { product, kind }],
        _ => Vec::new(),
    };
    Ok([vec![vcek], of_product].concat())
}
