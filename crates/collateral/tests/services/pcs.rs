//! The fake provisioning certification service, as a PCCS.

use belljar_collateral::{
    AnswerError, FetchError, FetchOptions, Fetcher, Freshness, HttpError, Item, Obtained, PckCa, Refused, Tee, Update,
};

use crate::Bench;
use crate::fake::{Fake, Reply};
use crate::intel::{Claims, DAY, FMSPC, Intel, NOW, Signed};

const TCB_INFO: &str = "/tdx/certification/v4/tcb?fmspc=B0C06F000000&update=standard";
const ROOT_LIST: &str = "/sgx/certification/v4/rootcacrl";
const PLATFORM_LIST: &str = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der";

fn tdx_info() -> Item {
    Item::TcbInfo { tee: Tee::Tdx, fmspc: FMSPC, update: Update::Standard }
}

fn info(signed: Signed) -> Reply {
    Reply::Body(vec![("TCB-Info-Issuer-Chain", signed.chain)], signed.body)
}

fn list(signed: Signed) -> Reply {
    Reply::Body(vec![("SGX-PCK-CRL-Issuer-Chain", signed.chain)], signed.body)
}

/// The outcome of one fetch of an item when the service replies like this at its path; refusals are not kept.
async fn answer(intel: &Intel, item: &Item, path: &str, reply: Reply) -> Result<Obtained, FetchError> {
    let (fake, bench) = (Fake::start().await, Bench::new(&intel.root));
    fake.on(path, [reply]);
    let outcome = bench.fetcher(&fake).obtain(item, false).await;
    assert_eq!(bench.cache().load(item).unwrap().is_some(), outcome.is_ok());
    outcome
}

async fn refused(intel: &Intel, item: &Item, path: &str, reply: Reply) -> Refused {
    match answer(intel, item, path, reply).await.unwrap_err() {
        FetchError::Refused { error, .. } => error,
        other => panic!("{other}"),
    }
}

/// Of a refused fetch of the TCB info.
async fn refused_info(intel: &Intel, signed: Signed) -> Refused {
    refused(intel, &tdx_info(), TCB_INFO, info(signed)).await
}

fn another(claim: &'static str, expected: &str, found: &str) -> Refused {
    Refused::Another { claim, expected: expected.to_owned(), found: found.to_owned() }
}

#[tokio::test]
async fn each_item_is_fetched_and_verified() {
    let intel = Intel::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&intel.root));
    let claims = |id| Claims::of(id);
    let identity = |signed: Signed| Reply::Body(vec![("SGX-Enclave-Identity-Issuer-Chain", signed.chain)], signed.body);
    let hex: String = intel.root_list(&claims("")).iter().map(|byte| format!("{byte:02x}")).collect();
    let tcb_info = |tee, update| Item::TcbInfo { tee, fmspc: FMSPC, update };
    let items = [
        (tdx_info(), TCB_INFO, info(intel.tcb_info(&claims("TDX"))), "Intel SGX TCB Signing"),
        (
            tcb_info(Tee::Sgx, Update::Early),
            "/sgx/certification/v4/tcb?fmspc=B0C06F000000&update=early",
            info(intel.tcb_info(&claims("SGX"))),
            "Intel SGX TCB Signing",
        ),
        (
            Item::QeIdentity { tee: Tee::Tdx, update: Update::Standard },
            "/tdx/certification/v4/qe/identity?update=standard",
            identity(intel.identity(&claims("TD_QE"))),
            "Intel SGX TCB Signing",
        ),
        (
            Item::QeIdentity { tee: Tee::Sgx, update: Update::Standard },
            "/sgx/certification/v4/qe/identity?update=standard",
            identity(intel.identity(&claims("QE"))),
            "Intel SGX TCB Signing",
        ),
        (
            Item::PckCrl(PckCa::Platform),
            PLATFORM_LIST,
            list(intel.platform_list(&claims(""))),
            "Intel SGX PCK Platform CA",
        ),
        (
            Item::PckCrl(PckCa::Processor),
            "/sgx/certification/v4/pckcrl?ca=processor&encoding=der",
            list(intel.processor_list(&claims(""))),
            "Intel SGX PCK Processor CA",
        ),
        // A PCCS gives it in hex.
        (Item::RootCrl, ROOT_LIST, Reply::Body(Vec::new(), hex.into_bytes()), "Intel SGX Root CA"),
    ];
    for (item, path, reply, issuer) in items {
        fake.on(path, [reply]);
        let obtained = bench.fetcher(&fake).obtain(&item, false).await.unwrap();
        assert!(obtained.fetched, "{item}");
        let facts = &obtained.facts;
        assert_eq!((facts.issuer.as_str(), facts.root, facts.issued), (issuer, "test", NOW - DAY), "{item}");
        assert_eq!((facts.next_update, obtained.rung), (NOW + 29 * DAY, Freshness::Fresh), "{item}");
        assert_eq!(obtained.document.source, format!("{}{path}", fake.base()));
        assert!(!bench.fetcher(&fake).obtain(&item, false).await.unwrap().fetched, "{item}");
    }
    assert_eq!(fake.asked().len(), 7);
    assert_eq!(bench.cache().list().unwrap().len(), 7);
}

#[tokio::test]
async fn a_document_that_is_not_the_one_asked_for_is_refused() {
    let intel = Intel::new();
    let good = Claims::of("TDX");
    assert!(answer(&intel, &tdx_info(), TCB_INFO, info(intel.tcb_info(&good))).await.is_ok());

    let fmspc = Claims { fmspc: [0xB0, 0xC0, 0x6F, 0, 0, 1], ..good.clone() };
    let found = refused_info(&intel, intel.tcb_info(&fmspc)).await;
    assert_eq!(found, another("FMSPC", "b0c06f000000", "b0c06f000001"));

    let found = refused_info(&intel, intel.tcb_info(&Claims { id: "SGX", ..good.clone() })).await;
    assert_eq!(found, another("TEE", "TDX", "SGX"));

    let expired = Claims { next_update: NOW - 1, ..good.clone() };
    let found = refused_info(&intel, intel.tcb_info(&expired)).await;
    assert_eq!(found, Refused::Expired { since: NOW - 1, at: NOW });

    let found = refused_info(&intel, intel.tcb_info(&Claims { issued: NOW + 1, ..good.clone() })).await;
    assert_eq!(found, Refused::NotYet { issued: NOW + 1, at: NOW });

    let mut changed = intel.tcb_info(&good);
    let at = String::from_utf8_lossy(&changed.body).find("\"svn\":5").unwrap() + 6;
    changed.body[at] = b'2';
    let Refused::Signature(why) = refused_info(&intel, changed).await else { panic!() };
    assert!(why.starts_with("tcb-info-signature: "), "{why}");

    // Unsigned: a signature of zeros.
    let mut unsigned = intel.tcb_info(&good);
    let at = unsigned.body.len() - 130;
    unsigned.body[at..at + 128].fill(b'0');
    assert!(matches!(refused_info(&intel, unsigned).await, Refused::Signature(_)));

    // The keys of somebody else, whose root is no anchor.
    let stranger = Intel::new();
    let Refused::Signature(why) = refused_info(&intel, stranger.tcb_info(&good)).await else { panic!() };
    assert!(why.contains("is no anchor and was issued by none"), "{why}");

    let pages = Signed { body: b"<html>log in</html>".to_vec(), ..intel.tcb_info(&good) };
    assert!(matches!(refused_info(&intel, pages).await, Refused::Malformed { what: "TCB info", .. }));
    let chain = Signed { chain: "nothing".to_owned(), ..intel.tcb_info(&good) };
    assert!(matches!(refused_info(&intel, chain).await, Refused::Malformed { what: "certificate chain", .. }));
}

#[tokio::test]
async fn only_the_tcb_signer_signs_documents() {
    let claims = Claims::of("TDX");
    let proper = Intel::with_signer("Intel SGX TCB Signing");
    assert!(answer(&proper, &tdx_info(), TCB_INFO, info(proper.tcb_info(&claims))).await.is_ok());
    let other = Intel::with_signer("Intel SGX PCK Certificate");
    let Refused::Signature(why) = refused_info(&other, other.tcb_info(&claims)).await else { panic!() };
    assert!(why.contains("it is signed by Intel SGX PCK Certificate"), "{why}");
}

#[tokio::test]
async fn an_identity_of_the_other_enclave_is_refused() {
    let intel = Intel::new();
    let item = Item::QeIdentity { tee: Tee::Tdx, update: Update::Standard };
    let path = "/tdx/certification/v4/qe/identity?update=standard";
    let reply = |id| {
        let signed = intel.identity(&Claims::of(id));
        Reply::Body(vec![("SGX-Enclave-Identity-Issuer-Chain", signed.chain)], signed.body)
    };
    assert!(answer(&intel, &item, path, reply("TD_QE")).await.is_ok());
    assert_eq!(refused(&intel, &item, path, reply("QE")).await, another("enclave", "TD_QE", "QE"));
}

#[tokio::test]
async fn a_list_of_another_authority_is_refused() {
    let intel = Intel::new();
    let item = Item::PckCrl(PckCa::Platform);
    let claims = Claims::of("");
    assert!(answer(&intel, &item, PLATFORM_LIST, list(intel.platform_list(&claims))).await.is_ok());
    let (expected, found) = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA");
    let processor = refused(&intel, &item, PLATFORM_LIST, list(intel.processor_list(&claims))).await;
    assert_eq!(processor, another("authority", expected, found));
    // The list of one with the certificates of the other.
    let mixed = Signed { body: intel.processor_list(&claims).body, ..intel.platform_list(&claims) };
    assert!(matches!(refused(&intel, &item, PLATFORM_LIST, list(mixed)).await, Refused::Signature(_)));

    let root = |intel: &Intel| Reply::Body(Vec::new(), intel.root_list(&claims));
    assert!(answer(&intel, &Item::RootCrl, ROOT_LIST, root(&intel)).await.is_ok());
    let none = Refused::Signature("no trusted root signed it".to_owned());
    assert_eq!(refused(&intel, &Item::RootCrl, ROOT_LIST, root(&Intel::new())).await, none);
}

#[tokio::test]
async fn an_answer_without_its_signer_or_body_is_refused() {
    let intel = Intel::new();
    let signed = intel.tcb_info(&Claims::of("TDX"));
    let (body, chain) = (signed.body, signed.chain);
    let answered = |headers: Vec<(&'static str, String)>, body: Vec<u8>| {
        let intel = &intel;
        async move {
            match answer(intel, &tdx_info(), TCB_INFO, Reply::Body(headers, body)).await {
                Ok(_) => None,
                Err(FetchError::Answer { error, .. }) => Some(error),
                Err(other) => panic!("{other}"),
            }
        }
    };
    let header = |name, chain: &str| vec![(name, chain.to_owned())];
    assert_eq!(answered(header("TCB-Info-Issuer-Chain", &chain), body.clone()).await, None);
    // The name of version 3 of the service, which some caches still use.
    assert_eq!(answered(header("SGX-TCB-Info-Issuer-Chain", &chain), body.clone()).await, None);
    let missing = AnswerError::NoChain("TCB-Info-Issuer-Chain");
    assert_eq!(answered(Vec::new(), body.clone()).await, Some(missing));
    let broken = AnswerError::Chain("TCB-Info-Issuer-Chain");
    assert_eq!(answered(header("TCB-Info-Issuer-Chain", "%FF%FE"), body).await, Some(broken));
    assert_eq!(answered(header("TCB-Info-Issuer-Chain", &chain), Vec::new()).await, Some(AnswerError::Empty));
}

#[tokio::test]
async fn a_service_that_does_not_answer_properly_is_told_by_its_fault() {
    let intel = Intel::new();
    let good = || info(intel.tcb_info(&Claims::of("TDX")));
    let limit = belljar_collateral::MAX_BODY;
    let after = std::time::Duration::from_millis(200);
    type Fault = Box<dyn Fn(String) -> HttpError>;
    let status = |status| -> Fault { Box::new(move |host| HttpError::Status { host, status }) };
    // What it does, what we say, how often we asked, and for how many seconds we waited in between.
    let faults: Vec<(Reply, Fault, usize, u64)> = vec![
        (Reply::Hang, Box::new(move |host| HttpError::Silent { host, after }), 3, 3),
        (Reply::HeadThenHang, Box::new(move |host| HttpError::Slow { host, after }), 3, 3),
        (Reply::Status(500, Vec::new()), status(500), 3, 3),
        (Reply::Status(401, Vec::new()), status(401), 1, 0),
        (Reply::Status(503, Vec::new()), Box::new(|host| HttpError::Throttled { host, retry_after: None }), 3, 20),
        (Reply::Chunked(limit + 65536), Box::new(move |host| HttpError::TooLarge { host, limit }), 1, 0),
        (
            Reply::Body(Vec::new(), vec![b'x'; limit + 1]),
            Box::new(move |host| HttpError::TooLarge { host, limit }),
            1,
            0,
        ),
        (
            Reply::Status(302, vec![("Location", "https://elsewhere.example/".to_owned())]),
            Box::new(|host| HttpError::Redirect { host, location: "https://elsewhere.example/".to_owned() }),
            1,
            0,
        ),
    ];
    for (reply, expected, times, waited) in faults {
        let (fake, bench) = (Fake::start().await, Bench::new(&intel.root));
        fake.on(TCB_INFO, [reply]);
        let error = bench.fetcher(&fake).obtain(&tdx_info(), false).await.unwrap_err();
        let expected = expected(fake.host());
        assert!(matches!(&error, FetchError::Http(found) if *found == expected), "{error}");
        assert_eq!((fake.asked().len(), bench.now() - NOW), (times, waited), "{error}");
        assert!(bench.cache().load(&tdx_info()).unwrap().is_none());
        // The same service, well again, once its pace allows.
        bench.clock.pass(60);
        fake.on(TCB_INFO, [good()]);
        assert!(bench.fetcher(&fake).obtain(&tdx_info(), false).await.unwrap().fetched);
    }
}

#[tokio::test]
async fn a_broken_off_answer_is_asked_for_again() {
    let intel = Intel::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&intel.root));
    let signed = intel.tcb_info(&Claims::of("TDX"));
    fake.on(TCB_INFO, [Reply::Cut(signed.body.len(), signed.body[..100].to_vec()), info(signed)]);
    assert!(bench.fetcher(&fake).obtain(&tdx_info(), false).await.unwrap().fetched);
    assert_eq!((fake.asked().len(), bench.now()), (2, NOW + 1));

    let bench = Bench::new(&intel.root);
    fake.on(TCB_INFO, [Reply::Cut(10, b"{".to_vec())]);
    let error = bench.fetcher(&fake).obtain(&tdx_info(), false).await.unwrap_err();
    assert!(matches!(&error, FetchError::Http(HttpError::Cut { host, .. }) if *host == fake.host()), "{error}");
}

#[tokio::test]
async fn a_service_does_not_go_back() {
    let intel = Intel::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&intel.root));
    let newer = Claims { issued: NOW - DAY, number: 20, ..Claims::of("TDX") };
    let fetch = async |claims: Claims| {
        fake.on(TCB_INFO, [info(intel.tcb_info(&claims))]);
        bench.fetcher(&fake).obtain(&tdx_info(), true).await.unwrap()
    };
    assert!(fetch(newer.clone()).await.fetched);
    let known = fake.asked().len();
    for (older, claim, known, found) in [
        (Claims { issued: NOW - 2 * DAY, ..newer.clone() }, "issue date", NOW - DAY, NOW - 2 * DAY),
        (Claims { number: 19, ..newer.clone() }, "evaluation number", 20, 19),
    ] {
        let kept = fetch(older).await;
        assert!(!kept.fetched);
        let Some(FetchError::Refused { error, .. }) = kept.failed_refresh else { panic!() };
        assert_eq!(error, Refused::Older { claim, known, found });
        assert_eq!(kept.facts.evaluation_number, Some(20));
    }
    assert_eq!(fake.asked().len(), known + 2);
    // Forward it goes.
    assert!(fetch(Claims { issued: NOW - DAY + 1, number: 21, ..newer }).await.fetched);
}

#[tokio::test]
async fn what_is_in_the_cache_helps_out_as_far_as_the_ladder_allows() {
    let intel = Intel::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&intel.root));
    fake.on(TCB_INFO, [info(intel.tcb_info(&Claims { next_update: NOW + 2 * DAY, ..Claims::of("TDX") }))]);
    let fetcher = |worst| bench.fetcher_with(&fake, FetchOptions { worst, ..FetchOptions::default() });
    assert!(fetcher(Freshness::Fresh).obtain(&tdx_info(), false).await.unwrap().fetched);
    fake.on(TCB_INFO, [Reply::Status(401, Vec::new())]);

    // Younger than a day: nobody is asked.
    bench.clock.pass(DAY);
    let held = fetcher(Freshness::Fresh).obtain(&tdx_info(), false).await.unwrap();
    assert!(held.failed_refresh.is_none() && fake.asked().len() == 1);
    // Older: asked, and while it is fresh a refusal does no harm.
    bench.clock.pass(1);
    let held = fetcher(Freshness::Fresh).obtain(&tdx_info(), false).await.unwrap();
    assert_eq!((held.rung, held.failed_refresh.is_some(), fake.asked().len()), (Freshness::Fresh, true, 2));
    // Past its next update.
    bench.clock.pass(DAY);
    let held = fetcher(Freshness::InGrace).obtain(&tdx_info(), false).await.unwrap();
    assert_eq!((held.rung, held.failed_refresh.is_some()), (Freshness::InGrace, true));
    let strict = fetcher(Freshness::Fresh).obtain(&tdx_info(), false).await.unwrap_err();
    assert!(matches!(strict, FetchError::Http(HttpError::Status { status: 401, .. })), "{strict}");
    // Past its grace of a week.
    bench.clock.pass(7 * DAY);
    let stale = fetcher(Freshness::InGrace).obtain(&tdx_info(), false).await.unwrap_err();
    assert!(matches!(stale, FetchError::Http(HttpError::Status { status: 401, .. })), "{stale}");
    assert_eq!(fetcher(Freshness::Stale).obtain(&tdx_info(), false).await.unwrap().rung, Freshness::Stale);
}

#[tokio::test]
async fn a_damaged_cache_is_fetched_anew() {
    let intel = Intel::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&intel.root));
    fake.on(TCB_INFO, [info(intel.tcb_info(&Claims::of("TDX")))]);
    let fetcher: &dyn Fn() -> Fetcher = &|| bench.fetcher(&fake);
    let whole = fetcher().obtain(&tdx_info(), false).await.unwrap().document;
    let file = bench.folder.path().join(format!("{}.json", tdx_info()));
    let text = std::fs::read_to_string(&file).unwrap();
    let other = text.replace("intel/tdx/tcb-info/b0c06f000000", "intel/tdx/tcb-info/b0c06f000001");
    let body = text.rfind("\"body\":\"").unwrap() + 40;
    let mut flipped = text.clone().into_bytes();
    flipped[body] = if flipped[body] == b'A' { b'B' } else { b'A' };
    for damage in [&text.as_bytes()[..text.len() / 2], b"", other.as_bytes(), &flipped] {
        std::fs::write(&file, damage).unwrap();
        let again = fetcher().obtain(&tdx_info(), false).await.unwrap();
        assert!(again.fetched);
        assert_eq!(again.document.body, whole.body);
        assert!(!fetcher().obtain(&tdx_info(), false).await.unwrap().fetched);
    }
    assert_eq!(fake.asked().len(), 5);
}
