//! Initdata: document, digest, disk and annotation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use belljar_contract::{
    Algorithm, Contract, ContractError, Initdata, InitdataError, MAX_INITDATA, decode_disk, digest, encode_disk,
    from_annotation, to_annotation,
};
use proptest::prelude::*;

fn base() -> Contract {
    Contract::parse(include_str!("data/scorer.toml")).unwrap()
}

const FOREIGN: &str =
    "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = \"a\"\n\"policy.rego\" = '''\nx\n'''\n";

#[test]
fn a_contract_survives_the_document() {
    let document = Initdata::with_contract(&base());
    let text = document.to_toml();
    assert!(
        text.starts_with(
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"contract.toml\" = '''\nversion = 1\n"
        )
    );
    let read = Initdata::parse(text.as_bytes()).unwrap();
    assert_eq!(read, document);
    assert_eq!(read.contract().unwrap(), base());
    assert_eq!(Initdata::parse(FOREIGN.as_bytes()).unwrap().contract(), Err(InitdataError::NoContract));
    let changed = text.replace("MODE = ", "mode = true\n[broken]\nMODE = ");
    let refused = Initdata::parse(changed.as_bytes()).unwrap().contract();
    assert!(matches!(
        refused,
        Err(InitdataError::Contract(ContractError::WrongType { .. } | ContractError::UnknownKey { .. }))
    ));
}

#[test]
fn foreign_data_is_kept_and_foreign_top_level_keys_are_refused() {
    let document = Initdata::parse(FOREIGN.as_bytes()).unwrap();
    assert_eq!(document.algorithm, Algorithm::Sha384);
    assert_eq!(document.data["policy.rego"], "x\n");
    let twin = |from: &str, to: &str| Initdata::parse(FOREIGN.replace(from, to).as_bytes()).unwrap_err();
    assert_eq!(twin("[data]", "extra = 1\n[data]"), InitdataError::UnknownKey { key: "extra".into() });
    assert_eq!(twin("0.1.0", "0.2.0"), InitdataError::Version { found: "0.2.0".into() });
    assert_eq!(twin("sha384", "md5"), InitdataError::Algorithm { found: "md5".into() });
    assert_eq!(twin("algorithm = \"sha384\"\n", ""), InitdataError::MissingKey { key: "algorithm".into() });
    let wrong = InitdataError::WrongType { key: "data.aa.toml".into(), expected: "string", found: "integer" };
    assert_eq!(twin("\"a\"", "7"), wrong);
    assert!(matches!(twin("[data]", "[data"), InitdataError::Toml { .. }));
    assert!(matches!(Initdata::parse(b"\xff"), Err(InitdataError::Toml { .. })));
}

#[test]
fn the_bound_is_256_kib_of_raw_document() {
    let fill = |size: usize| format!("{FOREIGN}#{}", "x".repeat(size - FOREIGN.len() - 1));
    assert!(Initdata::parse(fill(MAX_INITDATA).as_bytes()).is_ok());
    let above = fill(MAX_INITDATA + 1);
    assert_eq!(Initdata::parse(above.as_bytes()), Err(InitdataError::TooLarge { limit: MAX_INITDATA }));
    let disk = encode_disk(above.as_bytes());
    assert!(disk.len() < 4096, "it is a small bomb");
    assert_eq!(decode_disk(&disk), Err(InitdataError::TooLarge { limit: MAX_INITDATA }));
    assert_eq!(from_annotation(&to_annotation(above.as_bytes())), Err(InitdataError::TooLarge { limit: MAX_INITDATA }));
}

#[test]
fn digests_are_over_raw_bytes_by_the_documents_algorithm() {
    // Expected values from coreutils' sha256sum, sha384sum and sha512sum over the same bytes.
    for (algorithm, expected) in [
        ("sha256", "af398df379eb475aff9f02cd056d0d1f5d496b7a073927cb3ea92407d8ad61a3"),
        ("sha384", "c2d9f12884812d609fffc5ae527195adce05b66d8c8d7d333366d5fbf01637aaf16237578dd7b7f7b7f0e0971d23bc6a"),
        (
            "sha512",
            "2fdf9419e43c548a07ee7234ab0b5e72f1d05a0a7d8c267d6f98dbdd490561beb130c07e2f28e8d7a7e7c627bca9ac685a1ad040b7566a019c16344f5ae17cfb",
        ),
    ] {
        let raw = format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n");
        let found = digest(raw.as_bytes()).unwrap();
        assert_eq!(found.to_hex(), expected);
        assert_eq!(found.host_data(), found.bytes[..32]);
        let mut padded = found.bytes.clone();
        padded.resize(48.max(padded.len()), 0);
        assert_eq!(found.mrconfigid(), padded[..48]);
        assert!(found.matches(&found.host_data()) && found.matches(&found.mrconfigid()));
        assert!(!found.matches(&[0; 32]) && !found.matches(&[]));
        let spaced = digest(format!("{raw}\n").as_bytes()).unwrap();
        assert_ne!(spaced, found, "one more byte is another digest");
        assert!(!found.matches(&spaced.host_data()));
    }
}

#[test]
fn disks_are_deterministic_and_strict() {
    let raw = Initdata::with_contract(&base()).to_toml().into_bytes();
    let disk = encode_disk(&raw);
    assert_eq!(disk, encode_disk(&raw));
    assert_eq!(disk.len() % 512, 0);
    assert_eq!(&disk[..8], b"initdata");
    let length = u64::from_le_bytes(disk[8..16].try_into().unwrap());
    assert_eq!(disk[16..18], [0x1f, 0x8b]);
    assert_eq!(disk[20..24], [0; 4], "no time stamp");
    assert_eq!(decode_disk(&disk).unwrap(), raw);
    let mut longer = disk.clone();
    longer.extend([0; 4096]);
    assert_eq!(decode_disk(&longer).unwrap(), raw);

    *longer.last_mut().unwrap() = 1;
    assert_eq!(decode_disk(&longer), Err(InitdataError::Trailing));
    let mut other = disk.clone();
    other[0] = b'I';
    assert_eq!(decode_disk(&other), Err(InitdataError::NoMagic));
    assert_eq!(decode_disk(&disk[..7]), Err(InitdataError::NoMagic));
    assert_eq!(decode_disk(&disk[..12]), Err(InitdataError::Truncated { needed: 16, found: 12 }));
    let cut = &disk[..20];
    assert_eq!(decode_disk(cut), Err(InitdataError::Truncated { needed: length + 16, found: 20 }));
    let mut declared = disk.clone();
    declared[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(decode_disk(&declared), Err(InitdataError::TooLarge { .. })));
    let mut damaged = disk.clone();
    damaged[16 + length as usize - 6] ^= 1;
    assert!(matches!(decode_disk(&damaged), Err(InitdataError::Gzip { .. })));
    // A second gzip member hides nothing: bytes behind the first are refused.
    let member = &disk[16..16 + length as usize];
    let mut two = b"initdata".to_vec();
    two.extend((2 * length).to_le_bytes());
    two.extend_from_slice(member);
    two.extend_from_slice(member);
    assert_eq!(decode_disk(&two), Err(InitdataError::Trailing));
}

#[test]
fn annotations_are_base64_of_gzip() {
    let raw = b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
    let text = to_annotation(raw);
    assert!(text.starts_with("H4sI"));
    assert_eq!(from_annotation(&text).unwrap(), raw);
    assert!(matches!(from_annotation(&text.replacen('H', "!", 1)), Err(InitdataError::Base64 { .. })));
    assert!(matches!(from_annotation(""), Err(InitdataError::Gzip { .. })));
    assert!(matches!(from_annotation(&"A".repeat(1 << 20)), Err(InitdataError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn any_document_survives(
        data in proptest::collection::btree_map("\\PC{0,12}", "([^\r]|'''){0,60}\n?", 0..5),
        algorithm in prop::sample::select(vec![Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512]),
    ) {
        let document = Initdata { algorithm, data };
        prop_assert_eq!(Initdata::parse(document.to_toml().as_bytes()), Ok(document));
    }

    #[test]
    fn any_bytes_survive_the_disk(raw in proptest::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert_eq!(decode_disk(&encode_disk(&raw)), Ok(raw.clone()));
        prop_assert_eq!(from_annotation(&to_annotation(&raw)), Ok(raw));
    }

    #[test]
    fn damaged_disks_do_not_panic(at in 0..512_usize, byte: u8, text in "\\PC{0,80}") {
        let mut disk = encode_disk(FOREIGN.as_bytes());
        let at = at % disk.len();
        disk[at] = byte;
        belljar_contract::disk::fuzz(&disk);
        belljar_contract::initdata::fuzz(text.as_bytes());
    }
}
