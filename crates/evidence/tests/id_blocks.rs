//! ID blocks: each case changes one thing of a launch that its owner signed, and names the check that must notice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use aws_lc_rs::signature::EcdsaKeyPair;
use belljar_evidence::snp::{self, IdAuth, IdBlockError, check_id_block};
use belljar_evidence::{Check, Outcome};
use belljar_testpki::amd::{IdBlock, Keys, Product, Report, key_digest};

/// A launch before it is signed.
struct Launch<'a> {
    report: Report,
    block: IdBlock,
    /// Who signs the block.
    signer: &'a EcdsaKeyPair,
    /// Changes of block and authentication that need no key.
    after: fn(&mut Vec<u8>, &mut Vec<u8>),
    author: Option<&'a EcdsaKeyPair>,
}

impl<'a> Launch<'a> {
    fn new(keys: &'a Keys) -> Self {
        let report = Report {
            measurement: [0xA1; 48],
            family_id: [1; 16],
            image_id: [2; 16],
            guest_svn: 3,
            key_info: 1,
            id_key_digest: key_digest(&keys.id),
            author_key_digest: key_digest(&keys.author),
            ..Report::of(Product::Milan)
        };
        let block = IdBlock::of(&report);
        Self { report, block, signer: &keys.id, after: |_, _| {}, author: Some(&keys.author) }
    }

    fn checks(self) -> Vec<Check> {
        let mut block = self.block.bytes();
        let mut auth = self.block.auth(self.signer, self.author);
        (self.after)(&mut block, &mut auth);
        check_id_block(&snp::Report::parse(&self.report.bytes()).unwrap(), &block, &auth)
    }
}

type Change = fn(&mut Launch<'_>, &'static Keys);

/// Name of the case, the check that must fail first, the change.
const FORGED: &[(&str, &str, Change)] = &[
    ("another measurement", "id-block", |l, _| l.report.measurement[47] ^= 1),
    ("another family", "id-block", |l, _| l.report.family_id[0] ^= 1),
    ("another image", "id-block", |l, _| l.report.image_id[15] ^= 1),
    ("another security version", "id-block", |l, _| l.report.guest_svn += 1),
    ("another policy", "id-block", |l, _| l.report.policy |= 1 << 19),
    ("a block of version 2", "id-block", |l, _| l.block.version = 2),
    ("a byte behind the block", "id-block", |l, _| l.after = |block, _| block.push(0)),
    ("a byte behind the authentication", "id-block", |l, _| l.after = |_, auth| auth.push(0)),
    ("half of the authentication", "id-block", |l, _| l.after = |_, auth| auth.truncate(0x800)),
    ("a reserved byte in front", "id-block", |l, _| l.after = |_, auth| auth[0x3F] = 1),
    ("a reserved byte behind the id key", "id-block", |l, _| l.after = |_, auth| auth[0x644] = 1),
    ("a reserved byte behind the author key", "id-block", |l, _| l.after = |_, auth| auth[0xFFF] = 1),
    ("a reserved byte in the id key", "id-block", |l, _| l.after = |_, auth| auth[0x240 + 0x94] = 1),
    ("a reserved byte in a signature", "id-block", |l, _| l.after = |_, auth| auth[0x40 + 0x90] = 1),
    ("a long number in the id key", "id-block", |l, _| l.after = |_, auth| auth[0x240 + 4 + 48] = 1),
    ("an id key on another curve", "id-block", |l, _| l.after = |_, auth| auth[0x240] = 1),
    ("another algorithm of the id key", "id-block", |l, _| l.after = |_, auth| auth[0] = 2),
    ("another algorithm of the author key", "id-block", |l, _| l.after = |_, auth| auth[4] = 2),
    ("a changed signature", "id-block-signature", |l, _| l.after = |_, auth| auth[0x40] ^= 1),
    ("an id key that is no point", "id-block-signature", |l, _| l.after = |_, auth| auth[0x240 + 4] ^= 1),
    ("a signature of zeros", "id-block-signature", |l, _| l.after = |_, auth| auth[0x40..0xD0].fill(0)),
    ("somebody else's signature", "id-key-digest", |l, keys| l.signer = &keys.vek),
    ("a report of another id key", "id-key-digest", |l, _| l.report.id_key_digest[0] ^= 1),
    ("an author that did not sign", "author-key-signature", |l, _| l.after = |_, auth| auth[0x680] ^= 1),
    ("another author", "author-key-digest", |l, keys| l.author = Some(&keys.vek)),
    ("a report of another author", "author-key-digest", |l, _| l.report.author_key_digest[0] ^= 1),
    ("a report without author", "author-key-digest", |l, _| l.report.key_info = 0),
    ("an author that is missing", "author-key-digest", |l, _| l.author = None),
];

/// What looks similar and holds.
const GENUINE: &[(&str, &[&str], Change)] = &[
    ("nothing changed", &ALL, |_, _| {}),
    ("a policy that block and report share", &ALL, |l, _| {
        l.report.policy |= 1 << 19;
        l.block = IdBlock::of(&l.report);
    }),
    ("nobody vouches for the id key", &WITHOUT_AUTHOR, |l, _| {
        (l.author, l.report.key_info, l.report.author_key_digest) = (None, 0, [0; 48]);
    }),
];
const ALL: [&str; 5] = ["id-block", "id-block-signature", "id-key-digest", "author-key-signature", "author-key-digest"];
const WITHOUT_AUTHOR: [&str; 4] = ["id-block", "id-block-signature", "id-key-digest", "author-key-digest"];

#[test]
fn a_launch_is_what_its_owner_signed() {
    let keys: &'static Keys = Box::leak(Box::new(Keys::new(2)));
    let checks = |change: Change| {
        let mut launch = Launch::new(keys);
        change(&mut launch, keys);
        launch.checks()
    };
    for (name, expected, change) in GENUINE {
        let checks = checks(*change);
        assert_eq!(checks.iter().map(|check| check.name).collect::<Vec<_>>(), *expected, "{name}");
        assert!(checks.iter().all(|check| check.outcome == Outcome::Passed), "{name}: {checks:#?}");
    }
    for (name, expected, change) in FORGED {
        let checks = checks(*change);
        let first = checks.iter().find(|check| check.outcome == Outcome::Failed).map(|check| check.name);
        assert_eq!(first, Some(*expected), "{name}: {checks:#?}");
    }
}

#[test]
fn what_is_wrong_with_a_block_is_said() {
    let keys = Keys::new(2);
    let block = IdBlock::of(&Report::of(Product::Genoa));
    let auth = block.auth(&keys.id, Some(&keys.author));
    let read = IdAuth::parse(&auth).unwrap();
    assert_eq!(
        (read.id_key_digest(), read.author_key_digest()),
        (key_digest(&keys.id), Some(key_digest(&keys.author)))
    );
    assert!(read.signed(&snp::IdBlock::parse(&block.bytes()).unwrap()));
    let with = |offset: usize, value: u8| {
        let mut auth = auth.clone();
        auth[offset] = value;
        IdAuth::parse(&auth).map(|_| ())
    };
    assert_eq!(with(0, 1), Ok(()));
    assert_eq!(with(0, 3), Err(IdBlockError::Algorithm("id key", 3)));
    assert_eq!(with(4, 3), Err(IdBlockError::Algorithm("author key", 3)));
    assert_eq!(with(0x880, 1), Err(IdBlockError::Curve("author key", 1)));
    assert_eq!(with(0x6F8, 1), Err(IdBlockError::Number("author's signature")));
    assert_eq!(with(0x23F, 1), Err(IdBlockError::Reserved("id block's signature")));
    assert_eq!(with(0x1000 - 1, 1), Err(IdBlockError::Reserved("id authentication")));
    let short = IdBlockError::Length { what: "id block", expected: 96, found: 95 };
    assert_eq!(snp::IdBlock::parse(&block.bytes()[..95]).map(|_| ()), Err(short));
    let versions = snp::IdBlock::parse(&IdBlock { version: 2, ..block }.bytes()).map(|_| ());
    assert_eq!(versions, Err(IdBlockError::Version(2)));
}
