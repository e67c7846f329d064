//! What was fetched, on a machine without network: directories, bundles, and the items that evidence needs.

use belljar_collateral::{
    Anchors, Bundle, BundleKey, Collection, Directory, DirectoryError, Document, Endorsement, Item, PckCa, Product,
    Refused, Tee, Update, need,
};

use crate::amd::{Amd, item, other};
use crate::intel::{Claims, FMSPC, Intel, NOW, Signed};

fn document(item: Item, body: Vec<u8>, chain: Vec<u8>) -> Document {
    Document { item, source: "https://service.example/".to_owned(), fetched: NOW, chain, body }
}

fn decoded(signed: Signed) -> (Vec<u8>, Vec<u8>) {
    let chain = signed.chain.replace("%0A", "\n").replace("%20", " ").replace("%2B", "+").replace("%3D", "=");
    (signed.body, chain.into_bytes())
}

fn tcb_info(intel: &Intel, tee: Tee, id: &'static str) -> Document {
    let (body, chain) = decoded(intel.tcb_info(&Claims::of(id)));
    document(Item::TcbInfo { tee, fmspc: FMSPC, update: Update::Standard }, body, chain)
}

/// One of each for a TDX platform.
fn platform(intel: &Intel) -> Vec<Document> {
    let (identity, identity_chain) = decoded(intel.identity(&Claims::of("TD_QE")));
    let (list, list_chain) = decoded(intel.platform_list(&Claims::of("")));
    vec![
        tcb_info(intel, Tee::Tdx, "TDX"),
        document(Item::QeIdentity { tee: Tee::Tdx, update: Update::Standard }, identity, identity_chain),
        document(Item::PckCrl(PckCa::Platform), list, list_chain),
        document(Item::RootCrl, intel.root_list(&Claims::of("")), Vec::new()),
    ]
}

#[test]
fn a_directory_gives_what_was_written_into_it() {
    let (intel, amd) = (Intel::new(), Amd::new());
    let mut documents = platform(&intel);
    let chain = Item::VekChain { product: Product::Milan, kind: Endorsement::Vcek };
    documents.push(document(chain, amd.chain.clone(), Vec::new()));
    let (list, bytes) = (Item::VekCrl { product: Product::Milan, kind: Endorsement::Vcek }, amd.list(|_| ()));
    documents.push(document(list.clone(), bytes.clone(), Vec::new()));
    let collection = Collection::new(documents.clone());
    assert_eq!((collection.vek_crl(&[item(), list]), collection.vek_crl(&[item()])), (Some(&bytes[..]), None));
    documents.push(document(item(), amd.vcek(|_| ()), amd.chain.clone()));
    documents.push(document(other(7), amd.vcek(|cert| cert.replace("4", vec![7; 64])), amd.chain.clone()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("collateral");
    Directory::write(&path, &documents).unwrap();
    let directory = Directory::open(&path).unwrap();
    assert_eq!(
        directory.intel,
        Collection::new(documents.clone()).dcap(&need::of_platform(Tee::Tdx, FMSPC, PckCa::Platform, Update::Standard))
    );
    let anchors = Anchors::vendors().with_test_root(&intel.root).unwrap().with_test_root(&amd.ark).unwrap();
    let mut read = directory.documents().unwrap();
    for document in &read {
        document.verify(&anchors).unwrap();
    }
    let key = |document: &Document| document.item.to_string();
    read.sort_by_key(key);
    documents.sort_by_key(key);
    for (read, written) in read.iter().zip(&documents) {
        assert_eq!((&read.item, &read.body, &read.chain), (&written.item, &written.body, &written.chain));
    }
    assert_eq!(read.len(), documents.len());

    // A changed byte is noticed when the items are verified.
    let file = path.join("qe_identity.json");
    let changed = std::fs::read_to_string(&file).unwrap().replacen("\"isvsvn\":", "\"isvsvn\":1", 1);
    std::fs::write(&file, changed).unwrap();
    let read = Directory::open(&path).unwrap().documents().unwrap();
    let refused: Vec<_> =
        read.iter().filter_map(|document| Some((document.item.clone(), document.verify(&anchors).err()?))).collect();
    let [(Item::QeIdentity { .. }, Refused::Signature(_))] = refused.as_slice() else { panic!("{refused:?}") };
}

#[test]
fn a_directory_is_for_one_platform() {
    let intel = Intel::new();
    let folder = tempfile::tempdir().unwrap();
    let (tdx, sgx) = (tcb_info(&intel, Tee::Tdx, "TDX"), tcb_info(&intel, Tee::Sgx, "SGX"));
    let path = folder.path().join("both");
    let error = Directory::write(&path, &[tdx.clone(), sgx.clone()]).unwrap_err();
    assert!(
        matches!(&error, DirectoryError::Both { first, second, .. } if (first, second) == (&tdx.item, &sgx.item)),
        "{error}"
    );
    assert!(matches!(Directory::open(&path), Err(DirectoryError::Missing(missing)) if missing == path));
    Directory::write(&path, &[tdx.clone(), tdx]).unwrap();
    Directory::write(&path, std::slice::from_ref(&sgx)).unwrap();
    assert_eq!(Directory::open(&path).unwrap().intel.tcb_info, sgx.body);
}

#[test]
fn a_bundle_carries_items_that_verify_by_themselves() {
    let (intel, amd) = (Intel::new(), Amd::new());
    let mut documents = platform(&intel);
    let vcek = amd.vcek(|_| ());
    documents.push(document(item(), vcek.clone(), amd.chain.clone()));
    let (key, _) = BundleKey::generate().unwrap();
    let file = Bundle::new(documents).sign(&key).unwrap();
    let bundle = Bundle::open(&file, &key.public().unwrap()).unwrap();
    let anchors = Anchors::vendors().with_test_root(&intel.root).unwrap().with_test_root(&amd.ark).unwrap();
    assert_eq!(bundle.documents.len(), 5);
    for document in &bundle.documents {
        document.verify(&anchors).unwrap();
    }
    // Whoever signs a bundle is not trusted with what vendors sign.
    let stranger = Anchors::vendors();
    for document in &bundle.documents {
        assert!(document.verify(&stranger).is_err(), "{}", document.item);
    }
    let collection = Collection::new(bundle.documents);
    let found = collection.snp(&[item()]).unwrap();
    assert_eq!((found.vek, found.ark), (vcek, amd.ark));
    assert_eq!(collection.snp(&[other(9)]), None);
}
