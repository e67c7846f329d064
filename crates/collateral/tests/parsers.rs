//! Arbitrary and damaged bytes before every reader of the crate: an error or a value, never a panic.

use belljar_collateral::check;
use belljar_collateral::{
    Anchors, Bundle, BundleKey, Document, Endorsement, Item, PckCa, Product, PublicKey, Tee, Update,
};
use proptest::prelude::*;

fn item() -> impl Strategy<Value = Item> {
    let product = prop::sample::select(Product::ALL.to_vec());
    let kind = prop::sample::select(vec![Endorsement::Vcek, Endorsement::Vlek]);
    let tee = prop::sample::select(vec![Tee::Sgx, Tee::Tdx]);
    let update = prop::sample::select(vec![Update::Standard, Update::Early]);
    prop_oneof![
        (product.clone(), any::<[u8; 32]>(), any::<[u8; 8]>()).prop_map(|(product, hwid, tcb)| {
            let hwid = hwid.iter().cycle().take(product.hwid_len()).copied().collect();
            Item::Vcek { product, hwid, tcb }
        }),
        (product.clone(), kind.clone()).prop_map(|(product, kind)| Item::VekChain { product, kind }),
        (product, kind).prop_map(|(product, kind)| Item::VekCrl { product, kind }),
        (tee.clone(), any::<[u8; 6]>(), update.clone()).prop_map(|(tee, fmspc, update)| Item::TcbInfo {
            tee,
            fmspc,
            update
        }),
        (tee, update).prop_map(|(tee, update)| Item::QeIdentity { tee, update }),
        prop::sample::select(vec![Item::PckCrl(PckCa::Processor), Item::PckCrl(PckCa::Platform), Item::RootCrl]),
    ]
}

fn document() -> impl Strategy<Value = Document> {
    let body = prop::collection::vec(any::<u8>(), 0..64);
    (item(), ".{0,20}", any::<u64>(), "[ -~\n]{0,40}", body).prop_map(|(item, source, fetched, chain, body)| Document {
        item,
        source,
        fetched,
        chain: chain.into_bytes(),
        body,
    })
}

proptest! {
    #[test]
    fn a_name_says_which_item(item in item()) {
        prop_assert_eq!(item.to_string().parse::<Item>(), Ok(item));
    }

    #[test]
    fn a_document_is_read_as_it_was_written(document in document()) {
        prop_assert_eq!(Document::from_json(document.to_json().as_bytes()), Ok(document));
    }

    #[test]
    fn a_bundle_is_read_as_it_was_written(documents in prop::collection::vec(document(), 0..5)) {
        let (key, _) = BundleKey::generate().unwrap();
        let bundle = Bundle::new(documents);
        let file = bundle.sign(&key).unwrap();
        prop_assert_eq!(Bundle::open(&file, &key.public().unwrap()), Ok(bundle));
    }

    #[test]
    fn arbitrary_bytes_are_no_item(item in item(), body in prop::collection::vec(any::<u8>(), 0..300), chain in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(check::verify(&item, &body, &chain, &Anchors::vendors()).is_err());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(data in prop::collection::vec(any::<u8>(), 0..600)) {
        Document::fuzz(&data);
        Bundle::fuzz(&data);
        let _ = PublicKey::from_pem(&data);
        let _ = BundleKey::from_pem(&data);
    }
}
