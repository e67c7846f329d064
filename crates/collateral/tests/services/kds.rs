//! The fake key distribution service.

use belljar_collateral::{Endorsement, FetchError, FetchOptions, Freshness, HttpError, Item, Product, Refused};
use x509_cert::der::Encode;

use crate::amd::{Amd, CHAIN, LIST, item, other, path};
use crate::fake::{Fake, Reply};
use crate::intel::NOW;
use crate::{Bench, FakeClock};

fn body(bytes: &[u8]) -> [Reply; 1] {
    [Reply::Body(Vec::new(), bytes.to_vec())]
}

/// The outcome of one fetch of the chip's certificate when the service gives these bytes.
async fn answer(amd: &Amd, bytes: &[u8]) -> (Result<(), Refused>, Bench) {
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    fake.on(CHAIN, body(&amd.chain));
    fake.on(&path(&item()), body(bytes));
    let outcome = match bench.fetcher(&fake).obtain(&item(), false).await {
        Ok(obtained) => {
            assert_eq!(obtained.document.body, bytes);
            Ok(())
        }
        Err(FetchError::Refused { item: refused, host, error }) => {
            assert_eq!((refused, host), (item(), fake.host()));
            Err(error)
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(bench.cache().load(&item()).unwrap().is_some(), outcome.is_ok());
    (outcome, bench)
}

#[tokio::test]
async fn a_certificate_is_fetched_once_with_the_chain_of_its_product() {
    let amd = Amd::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    fake.on(CHAIN, body(&amd.chain));
    fake.on(&path(&item()), body(&amd.vcek(|_| ())));
    let first = bench.fetcher(&fake).obtain(&item(), false).await.unwrap();
    assert!(first.fetched && first.failed_refresh.is_none());
    assert_eq!((first.rung, first.facts.issuer.as_str(), first.facts.root), (Freshness::Fresh, "SEV-Milan", "test"));
    assert_eq!((first.facts.issued, first.facts.next_update), (NOW - 500, NOW + 500));
    assert_eq!(first.document.chain, amd.chain);
    // Another process finds both in the cache.
    let second = bench.fetcher(&fake).obtain(&item(), false).await.unwrap();
    assert!(!second.fetched);
    assert_eq!(second.document, first.document);
    let chain = Item::VekChain { product: Product::Milan, kind: Endorsement::Vcek };
    assert!(!bench.fetcher(&fake).obtain(&chain, false).await.unwrap().fetched);
    assert_eq!(fake.asked(), [path(&item()), CHAIN.to_owned()]);
    // Whoever does not trust that root has nothing in the cache.
    let stranger =
        crate::fetcher(bench.folder.path(), &fake, belljar_collateral::Anchors::vendors(), FetchOptions::default())
            .with_clock(FakeClock::at(NOW + 100));
    let refused = stranger.obtain(&item(), false).await.unwrap_err();
    let FetchError::Refused { error: Refused::Chain(why), .. } = refused else { panic!("{refused}") };
    assert_eq!(why, "ARK-Milan is not an anchor");
}

#[tokio::test]
async fn a_certificate_that_is_not_the_one_asked_for_is_refused() {
    let amd = Amd::new();
    assert_eq!(answer(&amd, &amd.vcek(|_| ())).await.0, Ok(()));

    let chip = amd.vcek(|cert| cert.replace("4", vec![0xC5; 64]));
    let (expected, found) = ("c4".repeat(64), "c5".repeat(64));
    assert_eq!(answer(&amd, &chip).await.0, Err(Refused::Another { claim: "hwid", expected, found }));

    let tcb = amd.vcek(|cert| cert.replace("3.8", 218_u8.to_der().unwrap()));
    let (expected, found) = ("04010000000018db".to_owned(), "04010000000018da".to_owned());
    assert_eq!(answer(&amd, &tcb).await.0, Err(Refused::Another { claim: "tcb", expected, found }));

    let unsigned = Err(Refused::Signature("SEV-Milan did not sign it".to_owned()));
    assert_eq!(answer(&amd, &amd.forged()).await.0, unsigned);

    let issuer = amd.vcek(|cert| cert.issuer = "SEV-Genoa");
    let strange = Refused::Chain("it is issued by SEV-Genoa, the authority is SEV-Milan".to_owned());
    assert_eq!(answer(&amd, &issuer).await.0, Err(strange));

    let (expired, bench) = answer(&amd, &amd.vcek(|cert| cert.to = NOW - 1)).await;
    assert_eq!(expired, Err(Refused::Expired { since: NOW - 1, at: bench.now() }));
    let (early, bench) = answer(&amd, &amd.vcek(|cert| cert.from = NOW + 1)).await;
    assert_eq!(early, Err(Refused::NotYet { issued: NOW + 1, at: bench.now() }));

    let mut cut = amd.vcek(|_| ());
    cut.pop();
    assert!(matches!(answer(&amd, &cut).await.0, Err(Refused::Malformed { what: "certificate", .. })));
}

#[tokio::test]
async fn a_chain_of_another_product_or_kind_is_refused() {
    let amd = Amd::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    let fetcher = bench.fetcher(&fake);
    let good = Item::VekChain { product: Product::Milan, kind: Endorsement::Vcek };
    for (item, path, expected) in [
        (Item::VekChain { product: Product::Genoa, kind: Endorsement::Vcek }, "/vcek/v1/Genoa/cert_chain", "SEV-Genoa"),
        (
            Item::VekChain { product: Product::Milan, kind: Endorsement::Vlek },
            "/vlek/v1/Milan/cert_chain",
            "SEV-VLEK-Milan",
        ),
    ] {
        fake.on(path, body(&amd.chain));
        let refused = fetcher.obtain(&item, false).await.unwrap_err();
        let FetchError::Refused { error, .. } = refused else { panic!("{refused}") };
        let (expected, found) = (expected.to_owned(), "SEV-Milan".to_owned());
        assert_eq!(error, Refused::Another { claim: "authority", expected, found });
    }
    fake.on(CHAIN, body(&amd.chain));
    assert!(fetcher.obtain(&good, false).await.unwrap().fetched);
}

#[tokio::test]
async fn a_throttling_service_is_asked_again_when_it_said() {
    let amd = Amd::new();
    let fake = Fake::start().await;
    fake.on(CHAIN, body(&amd.chain));
    let throttled =
        || [Reply::Status(429, vec![("Retry-After", "17".to_owned())]), Reply::Body(Vec::new(), amd.vcek(|_| ()))];

    let bench = Bench::new(&amd.ark);
    fake.on(&path(&item()), throttled());
    assert!(bench.fetcher(&fake).obtain(&item(), false).await.unwrap().fetched);
    assert_eq!(bench.now(), NOW + 17);

    // With less patience the caller is told, and another process does not ask in the meantime.
    let bench = Bench::new(&amd.ark);
    let impatient = || bench.fetcher_with(&fake, FetchOptions { max_wait: 16, ..FetchOptions::default() });
    fake.on(&path(&item()), throttled());
    let before = fake.asked().len();
    let error = impatient().obtain(&item(), false).await.unwrap_err();
    let expected = HttpError::Throttled { host: fake.host(), retry_after: Some(17) };
    assert!(matches!(&error, FetchError::Http(found) if *found == expected), "{error}");
    assert_eq!(error.to_string(), format!("{} asks to wait 17 seconds: try again then", fake.host()));
    let error = impatient().obtain(&item(), false).await.unwrap_err();
    assert!(matches!(error, FetchError::Wait { seconds: 17, max_wait: 16, .. }), "{error}");
    assert_eq!(fake.asked().len(), before + 1);
    bench.clock.pass(1);
    assert!(impatient().obtain(&item(), false).await.unwrap().fetched);
    assert_eq!(bench.now(), NOW + 17);
}

#[tokio::test]
async fn certificates_are_asked_for_ten_seconds_apart_by_all_processes() {
    let amd = Amd::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    fake.on(CHAIN, body(&amd.chain));
    for byte in 1..=3 {
        fake.on(&path(&other(byte)), body(&amd.vcek(|cert| cert.replace("4", vec![byte; 64]))));
    }
    for (byte, at) in [(1, NOW), (2, NOW + 10), (3, NOW + 20)] {
        // A fetcher of its own, as another process has.
        bench.fetcher(&fake).obtain(&other(byte), false).await.unwrap();
        assert_eq!(bench.now(), at);
    }
    // Requests of another kind do not wait for that pace.
    let chain = Item::VekChain { product: Product::Milan, kind: Endorsement::Vcek };
    bench.fetcher(&fake).obtain(&chain, true).await.unwrap();
    assert_eq!(bench.now(), NOW + 20);
}

#[tokio::test]
async fn ten_fetchers_that_share_a_cache_ask_once() {
    let amd = Amd::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    fake.on(CHAIN, body(&amd.chain));
    fake.on(&path(&item()), body(&amd.vcek(|_| ())));
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let fetcher = bench.fetcher(&fake);
            tokio::spawn(async move { fetcher.obtain(&item(), false).await.unwrap().fetched })
        })
        .collect();
    let mut fetched = 0;
    for task in tasks {
        fetched += usize::from(task.await.unwrap());
    }
    assert_eq!(fetched, 1);
    assert_eq!(fake.asked(), [path(&item()), CHAIN.to_owned()]);
}

#[tokio::test]
async fn what_the_service_does_not_know_is_not_asked_for_again_at_once() {
    let amd = Amd::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    fake.on(CHAIN, body(&amd.chain));
    fake.on(
        &path(&item()),
        [Reply::Status(404, Vec::new()), Reply::Body(Vec::new(), amd.vcek(|cert| cert.to = NOW + 900))],
    );
    let error = bench.fetcher(&fake).obtain(&item(), false).await.unwrap_err();
    let unknown = HttpError::Unknown { host: fake.host(), status: 404 };
    assert!(matches!(&error, FetchError::Http(found) if *found == unknown), "{error}");
    bench.clock.pass(599);
    let error = bench.fetcher(&fake).obtain(&item(), false).await.unwrap_err();
    assert!(matches!(error, FetchError::Absent { until, status: 404, .. } if until == NOW + 600), "{error}");
    assert_eq!(fake.asked(), [path(&item())]);
    bench.clock.pass(1);
    assert!(bench.fetcher(&fake).obtain(&item(), false).await.unwrap().fetched);
    assert_eq!(fake.asked().len(), 3);

    // Whoever insists is not held back.
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    fake.on(CHAIN, body(&amd.chain));
    assert!(bench.fetcher(&fake).obtain(&item(), false).await.is_err());
    fake.on(&path(&item()), body(&amd.vcek(|_| ())));
    let error = bench.fetcher(&fake).obtain(&item(), false).await.unwrap_err();
    assert!(matches!(error, FetchError::Absent { .. }), "{error}");
    assert!(bench.fetcher(&fake).obtain(&item(), true).await.unwrap().fetched);
    assert!(!bench.fetcher(&fake).obtain(&item(), false).await.unwrap().fetched);
}

#[tokio::test]
async fn a_revocation_list_is_of_its_product_and_signed_by_its_root() {
    let amd = Amd::new();
    let item = Item::VekCrl { product: Product::Milan, kind: Endorsement::Vcek };
    let answer = async |bytes: Vec<u8>| {
        let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
        fake.on(LIST, body(&bytes));
        match bench.fetcher(&fake).obtain(&item, false).await {
            Ok(obtained) => Ok((obtained.facts.issuer, obtained.facts.next_update)),
            Err(FetchError::Refused { error, .. }) => Err(error),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(answer(amd.list(|_| ())).await, Ok(("ARK-Milan".to_owned(), NOW + 500)));
    let unsigned = Err(Refused::Signature("no trusted root signed it".to_owned()));
    assert_eq!(answer(amd.list(|list| list.issuer = "ARK-Genoa")).await, unsigned);
    let expired = Err(Refused::Expired { since: NOW - 1, at: NOW });
    assert_eq!(answer(amd.list(|list| list.to = Some(NOW - 1))).await, expired);
    let endless = answer(amd.list(|list| list.to = None)).await;
    assert!(matches!(endless, Err(Refused::Malformed { what: "revocation list", .. })), "{endless:?}");

    // The list of one product line where that of another is asked for.
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    fake.on("/vcek/v1/Genoa/crl", body(&amd.list(|_| ())));
    let genoa = Item::VekCrl { product: Product::Genoa, kind: Endorsement::Vcek };
    let error = bench.fetcher(&fake).obtain(&genoa, false).await.unwrap_err();
    let (expected, found) = ("ARK-Genoa".to_owned(), "ARK-Milan".to_owned());
    let another = Refused::Another { claim: "authority", expected, found };
    assert!(matches!(&error, FetchError::Refused { error, .. } if *error == another), "{error}");
}

#[tokio::test]
async fn a_pace_that_cannot_be_read_starts_anew() {
    let amd = Amd::new();
    let (fake, bench) = (Fake::start().await, Bench::new(&amd.ark));
    let chain = Item::VekChain { product: Product::Milan, kind: Endorsement::Vcek };
    fake.on(CHAIN, body(&amd.chain));
    let state = bench.folder.path().join("hosts").join(fake.host().replace(':', "_") + ".json");
    std::fs::create_dir(state.parent().unwrap()).unwrap();
    let blocked = |until: u64| format!("{{\"blocked_until\":{until},\"next_paced\":0,\"failures\":1}}");
    for (text, waited) in [
        (blocked((NOW + 7) * 1000), 7),
        // Cut off, of another program, and by a clock that was a year ahead.
        (blocked((NOW + 7) * 1000)[..20].to_owned(), 0),
        ("[]".to_owned(), 0),
        (blocked((NOW + 365 * 86_400) * 1000), 0),
    ] {
        std::fs::write(&state, &text).unwrap();
        let before = bench.now();
        assert!(bench.fetcher(&fake).obtain(&chain, true).await.unwrap().fetched);
        assert_eq!(bench.now() - before, waited, "{text}");
    }
}
