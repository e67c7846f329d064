//! Forged evidence: each case changes one thing of evidence that is valid, and names the check that must notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use belljar_evidence::snp::{Anchors, Chain, Freshness, Missing, Options, REPORT_LEN, Root, Verifier, verify};
use belljar_evidence::{Decision, Outcome, Verdict};
use belljar_testpki::amd::{CHIP, Cert, Keys, List, NOW, Padding, Product, Report, TCB, amd, extension, sign};
use x509_cert::der::Encode;
use x509_cert::ext::pkix::KeyUsages;

/// Evidence before it is signed.
struct Forge<'a> {
    keys: &'a Keys,
    report: [u8; REPORT_LEN],
    ark: Cert,
    ask: Cert,
    vek: Cert,
    /// The root's revocation list, where one is given.
    list: Option<List>,
    /// Changes that need no key.
    after: fn(&mut [u8; REPORT_LEN], &mut Chain),
    ark_signer: fn(&Keys) -> &aws_lc_rs::rsa::KeyPair,
    ask_signer: fn(&Keys) -> &aws_lc_rs::rsa::KeyPair,
    vek_signer: fn(&Keys) -> &aws_lc_rs::rsa::KeyPair,
    list_signer: fn(&Keys) -> &aws_lc_rs::rsa::KeyPair,
    anchored: bool,
    at: u64,
    options: Options,
}

impl<'a> Forge<'a> {
    fn new(keys: &'a Keys) -> Self {
        Self {
            keys,
            report: Report::of(Product::Milan).bytes(),
            ark: Cert::authority("ARK-Test", "ARK-Test", &keys.ark),
            ask: Cert::authority("SEV-Test", "ARK-Test", &keys.ask),
            vek: Cert::vcek(Product::Milan, "SEV-Test", keys),
            list: None,
            after: |_, _| {},
            ark_signer: |keys| &keys.ark,
            ask_signer: |keys| &keys.ark,
            vek_signer: |keys| &keys.ask,
            list_signer: |keys| &keys.ark,
            anchored: true,
            at: NOW,
            options: Options::UNASKED,
        }
    }

    /// A VLEK in place of the VCEK.
    fn vlek(&mut self) {
        self.ask.subject = "SEV-VLEK-Test";
        self.vek = Cert::vlek(Product::Milan, "SEV-VLEK-Test", self.keys);
        self.report[0x48] = 1 << 2;
        self.report[0x1A0..0x1E0].fill(0);
    }

    /// Turin's layout of TCB and chip id.
    fn turin(&mut self) {
        self.vek = Cert::vcek(Product::Turin, "SEV-Test", self.keys);
        self.report = Report::of(Product::Turin).bytes();
    }

    /// A revocation list that names another certificate than these. Its serial number is also the endorsement key's, which
    /// is not the root's to revoke.
    fn list(&mut self) -> &mut List {
        self.ark.constrain(true, KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        (self.ark.serial, self.ask.serial, self.vek.serial) = (1, 2, 3);
        self.list.insert(List { serials: vec![3, 4], ..List::new("ARK-Test") })
    }

    /// Authorities and processor of a product line.
    fn product(&mut self, ask: &'static str, family: u8, model: u8) {
        self.ask.subject = ask;
        self.vek.issuer = ask;
        self.report[0x188..0x18A].copy_from_slice(&[family, model]);
    }

    fn verdict(mut self) -> Verdict {
        let mut chain = Chain {
            ark: self.ark.sign((self.ark_signer)(self.keys)),
            ask: self.ask.sign((self.ask_signer)(self.keys)),
            vek: self.vek.sign((self.vek_signer)(self.keys)),
            crl: self.list.as_ref().map(|list| list.sign((self.list_signer)(self.keys))).unwrap_or_default(),
        };
        let anchors = if self.anchored { Anchors::amd().with_test_root(&chain.ark) } else { Anchors::amd() };
        sign(&mut self.report, &self.keys.vek);
        (self.after)(&mut self.report, &mut chain);
        let remembering = Verifier::new(anchors.clone());
        let verdict = verify(&self.report, &chain, &anchors, self.at, &self.options);
        for _ in 0..2 {
            let remembered = remembering.verify(&self.report, &chain, self.at, &self.options);
            assert_eq!(remembered.checks, verdict.checks, "with and without a memory");
        }
        verdict
    }
}

type Change = fn(&mut Forge<'_>);

/// Name of the case, the check that must fail first, the change.
const FORGED: &[(&str, &str, Change)] = &[
    ("reserved key information", "reserved", |f| f.report[0x48] |= 1 << 5),
    ("reserved word", "reserved", |f| f.report[0x4C] = 1),
    ("reserved behind the CPU's stepping", "reserved", |f| f.report[0x18B] = 1),
    ("CPU in a report of version 2", "reserved", |f| f.report[0] = 2),
    ("reserved beside the current firmware", "reserved", |f| f.report[0x1EB] = 1),
    ("reserved beside the committed firmware", "reserved", |f| f.report[0x1EF] = 1),
    ("mitigations in a report of version 3", "reserved", |f| f.report[0x1F8] = 1),
    ("reserved behind mitigations", "reserved", |f| (f.report[0], f.report[0x208]) = (5, 1)),
    ("last reserved byte", "reserved", |f| f.report[0x29F] = 1),
    ("a VMPL that does not exist", "vmpl", |f| f.report[0x30] = 4),
    ("version 1", "version", |f| f.report[0] = 1),
    ("version 6", "version", |f| f.report[0] = 6),
    ("another algorithm", "signature-algo", |f| f.report[0x34] = 2),
    ("bytes behind the signature", "signature-reserved", |f| f.after = |report, _| report[0x330] = 1),
    ("the last byte", "signature-reserved", |f| f.after = |report, _| report[REPORT_LEN - 1] = 1),
    ("a long r", "report-signature", |f| f.after = |report, _| report[0x2A0 + 48] = 1),
    ("a long s", "report-signature", |f| f.after = |report, _| report[0x2E8 + 71] = 1),
    ("r and s exchanged", "report-signature", |f| {
        f.after = |report, _| {
            let (r, s) = report[0x2A0..0x330].split_at_mut(72);
            r.swap_with_slice(s);
        };
    }),
    ("a signed byte", "report-signature", |f| f.after = |report, _| report[0x90] = 1),
    ("a report that says VLEK", "signing-key", |f| f.report[0x48] = 1 << 2),
    ("a report that says unsigned", "signing-key", |f| f.report[0x48] = 7 << 2),
    ("a reserved signing key", "signing-key", |f| f.report[0x48] = 2 << 2),
    ("a certificate for somebody else", "signing-key", |f| f.vek.subject = "SEV-OTHER"),
    ("a VCEK by the authority of VLEKs", "signing-key", |f| {
        f.ask.subject = "SEV-VLEK-Test";
        f.vek.issuer = "SEV-VLEK-Test";
    }),
    ("a VLEK by the authority of VCEKs", "signing-key", |f| {
        f.vlek();
        f.ask.subject = "SEV-Test";
        f.vek.issuer = "SEV-Test";
    }),
    ("a VLEK whose report says VCEK", "signing-key", |f| {
        f.vlek();
        f.report[0x48] = 0;
    }),
    ("another microcode", "tcb", |f| f.report[0x187] ^= 1),
    ("another reserved level", "tcb", |f| f.report[0x182] = 1),
    ("another boot loader in the certificate", "tcb", |f| f.vek.replace("3.1", 5_u8.to_der().unwrap())),
    ("a level that is missing", "tcb", |f| f.vek.remove("3.3")),
    ("a level that stands twice", "tcb", |f| f.vek.extensions.push(amd("3.3", TCB[6].to_der().unwrap()))),
    ("a level above 255", "tcb", |f| f.vek.replace("3.3", 256_u16.to_der().unwrap())),
    ("a level with bytes behind it", "tcb", |f| f.vek.replace("3.3", vec![0x02, 0x01, TCB[6], 0x00])),
    ("a certificate without a product", "tcb", |f| f.vek.remove("2")),
    ("a CPU of Turin with Milan's certificate", "tcb", |f| f.report[0x188] = 0x1A),
    ("Turin's certificate with a CPU of Milan", "tcb", |f| {
        f.turin();
        f.report[0x188] = 0x19;
    }),
    ("another chip", "chip-id", |f| f.report[0x1DF] ^= 1),
    ("a masked chip", "chip-id", |f| f.report[0x1A0..0x1E0].fill(0)),
    ("a certificate without a chip", "chip-id", |f| f.vek.remove("4")),
    ("a chip id of 63 bytes", "chip-id", |f| f.vek.replace("4", CHIP[1..].to_vec())),
    ("Turin's chip id on Milan", "chip-id", |f| f.vek.replace("4", CHIP[..8].to_vec())),
    ("bytes behind Turin's chip id", "chip-id", |f| {
        f.turin();
        f.report[0x1A8] = 1;
    }),
    ("a VLEK of a chip", "chip-id", |f| {
        f.vlek();
        f.vek.extensions.push(amd("4", CHIP.to_vec()));
    }),
    ("a VLEK without a provider", "tcb", |f| {
        f.vlek();
        f.vek.remove("5");
    }),
    ("an endorsement key signed by the root", "vek-issuer", |f| f.vek_signer = |keys| &keys.ark),
    ("an endorsement key of another issuer", "vek-issuer", |f| f.vek.issuer = "SEV-Other"),
    ("an intermediate that is no authority", "vek-issuer", |f| f.ask.constrain(false, KeyUsages::KeyCertSign.into())),
    ("an intermediate that signs no certificates", "vek-issuer", |f| f.ask.constrain(true, KeyUsages::CRLSign.into())),
    ("an intermediate without constraints", "vek-issuer", |f| f.ask.extensions.clear()),
    ("an intermediate with constraints twice", "vek-issuer", |f| {
        let constraints = f.ask.extensions[0].clone();
        f.ask.extensions.push(constraints);
    }),
    ("a critical extension that is not known", "vek-issuer", |f| {
        f.vek.extensions.push(extension("1.3.6.1.4.1.3704.99", true, vec![5, 0]));
    }),
    ("a certificate with SHA-256", "vek-issuer", |f| f.vek.padding = Padding::Sha256),
    ("a certificate that claims SHA-384", "vek-issuer", |f| f.vek.padding = Padding::Lie),
    ("a byte behind the certificate", "vek-issuer", |f| f.after = |_, chain| chain.vek.push(0)),
    ("half a certificate", "vek-issuer", |f| f.after = |_, chain| chain.vek.truncate(700)),
    ("a short key in the intermediate", "vek-issuer", |f| {
        f.ask = Cert::authority("SEV-Test", "ARK-Test", &f.keys.small);
        f.vek_signer = |keys| &keys.small;
    }),
    ("an intermediate that is not signed by the root", "chain-to-anchor", |f| f.ask_signer = |keys| &keys.ask),
    ("an intermediate of another root", "chain-to-anchor", |f| f.ask.issuer = "ARK-Other"),
    ("a root that is not self-signed", "chain-to-anchor", |f| f.ark_signer = |keys| &keys.ask),
    ("a root that names another issuer", "chain-to-anchor", |f| f.ark.issuer = "ARK-Other"),
    ("a root that is no authority", "chain-to-anchor", |f| f.ark.constrain(false, KeyUsages::KeyCertSign.into())),
    ("a root that nobody trusts", "chain-to-anchor", |f| f.anchored = false),
    ("a byte behind the root", "chain-to-anchor", |f| f.after = |_, chain| chain.ark.push(0)),
    ("a list of another root", "crl-signature", |f| f.list().issuer = "ARK-Other"),
    ("a list that the intermediate signed", "crl-signature", |f| {
        f.list();
        f.list_signer = |keys| &keys.ask;
    }),
    ("a list by a root that signs none", "crl-signature", |f| {
        f.list();
        f.ark.constrain(true, KeyUsages::KeyCertSign.into());
    }),
    ("a list with SHA-256", "crl-signature", |f| f.list().padding = Padding::Sha256),
    ("a list of changes alone", "crl-signature", |f| {
        f.list().extensions.push(extension("2.5.29.27", true, vec![2, 1, 1]));
    }),
    ("a byte behind the list", "crl-signature", |f| {
        f.list();
        f.after = |_, chain| chain.crl.push(0);
    }),
    ("half a list", "crl-signature", |f| {
        f.list();
        f.after = |_, chain| chain.crl.truncate(300);
    }),
    ("a list that is out of date", "crl-time", |f| f.list().to = Some(NOW - 1)),
    ("a list of the future", "crl-time", |f| f.list().from = NOW + 1),
    ("an intermediate that was revoked", "crl-revoked", |f| f.list().serials.push(2)),
    ("a root that was revoked", "crl-revoked", |f| f.list().serials = vec![1]),
    ("a processor of Genoa under Milan", "product", |f| f.product("SEV-Milan", 0x19, 0x11)),
    ("a processor of Milan under Genoa", "product", |f| f.product("SEV-Genoa", 0x19, 0x01)),
    ("a processor that nobody knows", "product", |f| f.product("SEV-Genoa", 0x19, 0x20)),
    ("a processor of Genoa with Milan's VLEK", "product", |f| {
        f.vlek();
        f.product("SEV-VLEK-Milan", 0x19, 0x11);
    }),
    ("a processor after Turin", "product", |f| {
        f.turin();
        f.product("SEV-Turin", 0x1A, 0x12);
    }),
    ("an endorsement key that has expired", "cert-validity", |f| f.vek.to = NOW - 1),
    ("an endorsement key of the future", "cert-validity", |f| f.vek.from = NOW + 1),
    ("an intermediate that has expired", "cert-validity", |f| f.ask.to = NOW - 1),
    ("a root that has expired", "cert-validity", |f| f.ark.to = NOW - 1),
    ("a look long after", "cert-validity", |f| f.at = NOW + 501),
    ("a look long before", "cert-validity", |f| f.at = NOW - 501),
];

/// What looks similar and is valid: name, flags, change.
const GENUINE: &[(&str, &[&str], Change)] = &[
    ("nothing changed", &["test-root"], |_| {}),
    ("the last privilege level", &["vmpl-3", "test-root"], |f| f.report[0x30] = 3),
    ("a debug policy", &["debug-policy", "test-root"], |f| f.report[0x0A] |= 1 << 3),
    ("a policy that lets the guest migrate", &["migration-policy", "test-root"], |f| f.report[0x0A] |= 1 << 2),
    ("version 2 without a CPU", &["test-root"], |f| {
        f.report[0] = 2;
        f.report[0x188..0x18B].fill(0);
    }),
    ("version 5 with mitigations", &["test-root"], |f| (f.report[0], f.report[0x1F8], f.report[0x200]) = (5, 1, 1)),
    ("an author key", &["test-root"], |f| f.report[0x48] = 1),
    ("a VLEK", &["vlek", "test-root"], |f| f.vlek()),
    ("Turin", &["test-root"], |f| f.turin()),
    ("a wrapped chip id", &["test-root"], |f| f.vek.replace("4", [&[0x04, 64][..], &CHIP].concat())),
    ("the long form of the parameters", &["test-root"], |f| f.vek.padding = Padding::Long),
    ("an extension that is not critical", &["test-root"], |f| {
        f.vek.extensions.push(extension("1.3.6.1.4.1.3704.99", false, vec![5, 0]));
    }),
    ("a revocation list", &["test-root"], |f| f.list().serials = vec![3]),
    ("an empty revocation list", &["test-root"], |f| f.list().serials.clear()),
    ("a list of this second", &["test-root"], |f| {
        *f.list() = List { from: NOW, to: Some(NOW), ..List::new("ARK-Test") };
    }),
    ("a processor of Milan", &["test-root"], |f| f.product("SEV-Milan", 0x19, 0x0F)),
    ("a processor of Genoa", &["test-root"], |f| f.product("SEV-Genoa", 0x19, 0x11)),
    ("a processor of Siena", &["test-root"], |f| f.product("SEV-Genoa", 0x19, 0xA0)),
    ("a VLEK of Milan", &["vlek", "test-root"], |f| {
        f.vlek();
        f.product("SEV-VLEK-Milan", 0x19, 0x01);
    }),
    ("a processor of Turin", &["test-root"], |f| {
        f.turin();
        f.product("SEV-Turin", 0x1A, 0x11);
    }),
    ("the last second", &["test-root"], |f| f.at = NOW + 500),
    ("the first second", &["test-root"], |f| f.at = NOW - 500),
];

#[test]
fn every_forgery_fails_at_its_check_and_its_twin_is_valid() {
    let keys = Keys::new(1);
    for (name, flags, change) in GENUINE {
        let mut forge = Forge::new(&keys);
        change(&mut forge);
        let verdict = forge.verdict();
        assert_eq!(verdict.verdict, Decision::Valid, "{name}: {:#?}", verdict.checks);
        assert_eq!(verdict.flags, *flags, "{name}");
        assert_eq!((verdict.software, verdict.facts.root), (true, Some(Root::Test)), "{name}");
        assert_eq!(verdict.failure(), None);
    }
    for (name, check, change) in FORGED {
        let mut forge = Forge::new(&keys);
        change(&mut forge);
        let verdict = forge.verdict();
        assert_eq!(verdict.verdict, Decision::Invalid, "{name}: {:#?}", verdict.checks);
        assert_eq!(verdict.first_failure, Some(*check), "{name}: {:#?}", verdict.checks);
        assert_eq!(verdict.failure().unwrap().outcome, Outcome::Failed, "{name}");
    }
    assert!(FORGED.len() >= 75);

    // The list narrows the window in which the verdict holds, and says what it was asked.
    let mut forge = Forge::new(&keys);
    *forge.list() = List { from: NOW - 7, to: Some(NOW + 7), ..List::new("ARK-Test") };
    let verdict = forge.verdict();
    assert_eq!((verdict.facts.valid_from, verdict.facts.valid_to), (Some(NOW - 7), Some(NOW + 7)));
    let said = &verdict.check("crl-time").unwrap().found;
    assert_eq!(said, "issued at 2026-05-28T20:26:33Z, next update at 2026-05-28T20:26:47Z: fresh");
    let without = Forge::new(&keys).verdict();
    for name in ["crl-signature", "crl-time", "crl-revoked"] {
        assert_eq!(verdict.check(name).unwrap().outcome, Outcome::Passed, "{name}");
        assert_eq!(without.check(name).unwrap().outcome, Outcome::NotChecked, "{name}");
    }

    // Without a processor in the report, its certificate says how to read a TCB.
    let mut forge = Forge::new(&keys);
    forge.turin();
    forge.report[0] = 2;
    forge.report[0x188..0x18B].fill(0);
    let (verdict, named) = (forge.verdict(), {
        let mut forge = Forge::new(&keys);
        forge.turin();
        forge.verdict()
    });
    assert!(verdict.is_valid() && named.is_valid(), "{:#?}", verdict.checks);
    let parts = |verdict: &Verdict| {
        let report = verdict.facts.report.as_ref().unwrap();
        [report.reported_tcb, report.committed_tcb, report.current_tcb, report.launch_tcb]
            .map(|tcb| (tcb.fmc(), tcb.bootloader(), tcb.tee(), tcb.snp(), tcb.microcode()))
    };
    assert_eq!(parts(&verdict), parts(&named));

    // What is missing leaves the question open, and says so; what is known by name completes the chain.
    let undecided = |after: fn(&mut [u8; REPORT_LEN], &mut Chain)| Forge { after, ..Forge::new(&keys) }.verdict();
    let verdict = undecided(|_, chain| chain.vek.clear());
    assert_eq!((verdict.verdict, verdict.first_failure), (Decision::Undecided, Some("report-signature")));
    let verdict = undecided(|_, chain| chain.ask.clear());
    assert_eq!(verdict.verdict, Decision::Undecided, "{:#?}", verdict.checks);
    assert_eq!(verdict.first_failure, Some("vek-issuer"));
    assert!(undecided(|_, chain| chain.ark.clear()).is_valid());
}

/// The list's rung at each time, and which are taken, is the caller's to choose.
#[test]
fn a_revocation_list_climbs_down_the_ladder() {
    let keys = Keys::new(1);
    let judge = |accept, at| {
        let mut forge = Forge::new(&keys);
        forge.list().to = Some(NOW + 100);
        (forge.at, forge.options) = (at, Options { grace: 50, accept, ..Options::UNASKED });
        let verdict = forge.verdict();
        (verdict.facts.freshness, verdict.first_failure, verdict.check("crl-time").unwrap().found.clone())
    };
    let rungs = [(NOW + 100, Freshness::Fresh), (NOW + 101, Freshness::InGrace), (NOW + 151, Freshness::Stale)];
    for accept in [Freshness::Fresh, Freshness::InGrace, Freshness::Stale] {
        for (at, rung) in rungs {
            let (found, failure, words) = judge(accept, at);
            assert_eq!((found, failure), (Some(rung), (rung > accept).then_some("crl-time")), "{accept:?} at {at}");
            assert!(words.ends_with(&format!(": {}", rung.name())), "{words}");
        }
    }
    // No rung makes up for the future, for another's signature or for what the list says.
    let (_, failure, words) = judge(Freshness::Stale, NOW - 501);
    assert_eq!((failure, words.as_str()), (Some("cert-validity"), "issued at 2026-05-28T20:18:20Z"));
    let stale = |change: fn(&mut List)| {
        let mut forge = Forge::new(&keys);
        forge.list().to = Some(NOW - 100);
        change(forge.list.as_mut().unwrap());
        forge.options.accept = Freshness::Stale;
        forge.verdict()
    };
    assert!(stale(|_| ()).is_valid());
    assert_eq!(stale(|list| list.serials.push(2)).first_failure, Some("crl-revoked"));
    assert_eq!(stale(|list| list.issuer = "ARK-Other").first_failure, Some("crl-signature"));
}

/// A caller that needs the list gets no verdict without one.
#[test]
fn a_revocation_list_may_be_asked_for() {
    let keys = Keys::new(1);
    let judge = |missing, given: bool| {
        let mut forge = Forge::new(&keys);
        if given {
            forge.list();
        }
        forge.options.missing = missing;
        forge.verdict()
    };
    assert!(judge(Missing::Undecided, true).is_valid() && judge(Missing::Allowed, false).is_valid());
    let without = judge(Missing::Undecided, false);
    assert_eq!((without.verdict, without.first_failure), (Decision::Undecided, Some("crl-signature")));
    assert_eq!(without.failure().unwrap().found, "the root's revocation list was not given");
    assert_eq!(
        (without.facts.freshness, judge(Missing::Allowed, true).facts.freshness),
        (None, Some(Freshness::Fresh))
    );
}
