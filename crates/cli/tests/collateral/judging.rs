//! What was fetched, bundled or put into a folder judges evidence.

use super::*;

#[tokio::test]
async fn what_a_quote_needs_is_fetched_and_judges_it() {
    let (desk, fake) = (Desk::new(), Fake::start().await);
    let (world, made) = world_at(now());
    let (quote, anchor, base) = (desk.write("quote.bin", &made.quote), desk.write("root.der", &made.root), fake.base());
    let chain = |pem: &[u8]| intel::header(std::str::from_utf8(pem).unwrap());
    let of = &made.collateral;
    let reply = |name, pem: &[u8], body: &[u8]| [Reply::Body(vec![(name, chain(pem))], body.to_vec())];
    let info = "/tdx/certification/v4/tcb?fmspc=00906ED50000&update=standard";
    fake.on(info, reply("TCB-Info-Issuer-Chain", &of.tcb_signing_chain, &of.tcb_info));
    fake.on(IDENTITY, reply("SGX-Enclave-Identity-Issuer-Chain", &of.qe_signing_chain, &of.qe_identity));
    fake.on(PLATFORM_LIST, reply("SGX-PCK-CRL-Issuer-Chain", &of.pck_crl_chain, &of.pck_crl));
    fake.on(ROOT_LIST, [Reply::Body(Vec::new(), of.root_crl.clone())]);

    let fetch = ["fetch", &quote, "--pccs", &base, "--anchor", &anchor, "--cache", "cache", "--out", "files"];
    let (code, out, err) = desk.run(&fetch).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let bundle = ["bundle", "--new-key", "--key", "key", "--out", "bundle", "--cache", "cache", "--anchor", &anchor];
    assert_eq!(desk.run(&bundle).await.0, 0);

    // The same verdict from the cache, from plain files and from the bundle; without any of them there is none.
    let verify = async |more: &[&str]| {
        let mut command = desk.program();
        command.args(["evidence", "verify", &quote, "--anchor", &anchor, "--format", "json"]).args(more);
        let (code, out, _) = read(&command.output().await.unwrap());
        let answer: Value = serde_json::from_str(&out).unwrap();
        (code, answer["verdict"].as_str().unwrap().to_owned(), answer["tcb"]["combined"].clone())
    };
    let valid = (0, "valid".to_owned(), Value::from("UpToDate"));
    assert_eq!(verify(&[]).await, (3, "undecided".to_owned(), Value::Null));
    for stored in [&["--collateral", "cache"][..], &["--collateral", "files"]] {
        assert_eq!(verify(stored).await, valid, "{stored:?}");
    }
    assert_eq!(verify(&["--collateral", "bundle", "--bundle-key", "key.pub"]).await, valid);

    // Tomorrow Intel asks for more.
    std::fs::create_dir(desk.path("quotes")).unwrap();
    desk.write("quotes/one", &made.quote);
    let simulate =
        ["simulate", "--tcb-info", "new.json", "--evidence", "quotes", "--cache", "cache", "--anchor", &anchor];
    for (status, code) in [("UpToDate", 0), ("OutOfDate", 1)] {
        let mut content = world.tcb_info.content.clone();
        content["tcbLevels"][0]["tcbStatus"] = status.into();
        desk.write("new.json", content.to_string().as_bytes());
        let (found, answer) = desk.json(&simulate).await;
        assert_eq!((found, &answer["judged"], &answer["changed"]), (code, &1.into(), &code.into()), "{answer}");
        assert_eq!(answer["files"][0]["then"]["tcb"]["combined"], status, "{answer}");
    }
    let (_, table, _) = desk.run(&simulate).await;
    assert!(table.contains("valid, UpToDate  valid, OutOfDate"), "{table}");
}

#[tokio::test]
async fn a_report_is_judged_with_the_list_and_the_id_block_that_are_given() {
    let (desk, now, keys) = (Desk::new(), now(), pki::Keys::new(1));
    let amd = Amd::at(now);
    let of_guest = |measurement| pki::Report {
        measurement,
        key_info: 1,
        id_key_digest: pki::key_digest(&keys.id),
        author_key_digest: pki::key_digest(&keys.author),
        ..pki::Report::of(pki::Product::Milan)
    };
    let launched = of_guest([0xA1; 48]);
    let mut report = launched.bytes();
    pki::sign(&mut report, &keys.vek);
    let (report, anchor) = (desk.write("report.bin", &report), desk.write("ark.der", &amd.ark));
    let block = pki::IdBlock::of(&launched);
    desk.write("block", &block.bytes());
    desk.write("block.b64", base64_of(&block.bytes()).as_bytes());
    desk.write("auth", &block.auth(&keys.id, Some(&keys.author)));
    desk.write("other", &pki::IdBlock::of(&of_guest([0xA2; 48])).bytes());
    for (folder, list) in
        [("good", amd.list(|list| list.serials = vec![9])), ("revoked", amd.list(|list| list.serials = vec![1]))]
    {
        std::fs::create_dir_all(desk.path(&format!("{folder}/vcek"))).unwrap();
        desk.write(&format!("{folder}/cert_chain.pem"), &amd.chain);
        desk.write(&format!("{folder}/crl.der"), &list);
        desk.write(&format!("{folder}/vcek/chip.der"), &amd.vcek(|_| ()));
    }
    let id = hex(&pki::key_digest(&keys.id));
    desk.write("mine.toml", format!("flags = [\"test-root\"]\nsnp_id_keys = [\"{id}\"]").as_bytes());
    desk.write("theirs.toml", b"flags = [\"test-root\"]\nsnp_author_keys = [\"00\"]");

    let verify = async |more: &[&str]| {
        let mut command = desk.program();
        command.args(["evidence", "verify", &report, "--anchor", &anchor, "--format", "json"]).args(more);
        let (code, out, _) = read(&command.output().await.unwrap());
        let answer: Value = serde_json::from_str(&out).unwrap_or_default();
        (code, answer["first_failure"].as_str().map(str::to_owned))
    };
    let failed = |name: &str| (1, Some(name.to_owned()));
    let good = ["--collateral", "good"];
    assert_eq!(verify(&good).await, (0, None));
    assert_eq!(verify(&["--collateral", "revoked"]).await, failed("crl-revoked"));
    let with = |more: &[&'static str]| [&good, more].concat();
    for block in ["block", "block.b64"] {
        assert_eq!(verify(&with(&["--id-block", block, "--id-auth", "auth"])).await, (0, None), "{block}");
    }
    assert_eq!(verify(&with(&["--id-block", "other", "--id-auth", "auth"])).await, failed("id-block"));
    assert_eq!(verify(&with(&["--id-block", "block"])).await, (2, None));
    assert_eq!(verify(&with(&["--policy", "mine.toml"])).await, (0, None));
    assert_eq!(verify(&with(&["--policy", "theirs.toml"])).await, failed("policy-snp-author-key"));
}

/// AMD's list is used from a directory and from a bundle, on the rung that the policy takes, and where it is demanded.
#[tokio::test]
async fn the_list_of_a_bundle_is_on_a_rung_that_the_policy_chooses() {
    let (desk, now, keys) = (Desk::new(), now(), pki::Keys::new(1));
    let amd = Amd::at(now);
    let mut report = pki::Report::of(pki::Product::Milan).bytes();
    pki::sign(&mut report, &keys.vek);
    let (report, anchor) = (desk.write("report.bin", &report), desk.write("ark.der", &amd.ark));
    let ask = belljar_evidence::pem::certificates(&amd.chain, 2).unwrap().remove(0);
    let (vcek, ask) = (desk.write("vcek.der", &amd.vcek(|_| ())), desk.write("ask.der", &ask));
    let lists: [(&str, Option<(u64, u8)>); 4] = [
        ("fresh", Some((now + 400, 9))),
        ("past", Some((now - 10, 9))),
        ("names", Some((now + 400, 1))),
        ("none", None),
    ];
    for (folder, list) in lists {
        std::fs::create_dir_all(desk.path(&format!("{folder}/vcek"))).unwrap();
        desk.write(&format!("{folder}/cert_chain.pem"), &amd.chain);
        desk.write(&format!("{folder}/vcek/chip.der"), &amd.vcek(|_| ()));
        if let Some((to, serial)) = list {
            let list = amd.list(|list| (list.to, list.serials) = (Some(to), vec![serial]));
            desk.write(&format!("{folder}/crl.der"), &list);
        }
        let (from, out, key) =
            (desk.path(folder), desk.path(&format!("{folder}.bundle")), desk.path(&format!("{folder}.key")));
        let bundle = ["bundle", "--from", &from, "--anchor", &anchor, "--new-key", "--key", &key, "--out", &out];
        assert_eq!(desk.run(&bundle).await.0, 0, "{folder}");
    }
    for (name, text) in [
        ("require", "require_snp_crl = true"),
        ("grace", "require_snp_crl = true\nfreshness = \"in_grace\""),
        ("short", "freshness = \"in_grace\"\ngrace_days = 0"),
        ("stale", "freshness = \"stale\"\ngrace_days = 0"),
    ] {
        desk.write(name, format!("flags = [\"test-root\"]\n{text}").as_bytes());
    }
    let run = async |more: &[&str]| {
        let mut command = desk.program();
        command.args(["evidence", "verify", &report, "--anchor", &anchor]).args(more);
        read(&command.output().await.unwrap())
    };
    let verify = async |more: &[&str]| {
        let (code, out, _) = run(&[more, &["--format", "json"]].concat()).await;
        let answer: Value = serde_json::from_str(&out).unwrap_or_default();
        let text = |key: &str| answer[key].as_str().map(str::to_owned);
        (code, text("first_failure"), text("freshness"))
    };
    let expected =
        |code, failure: Option<&str>, rung: Option<&str>| (code, failure.map(str::to_owned), rung.map(str::to_owned));
    let cases = [
        ("fresh", None, expected(0, None, Some("fresh"))),
        ("fresh", Some("require"), expected(0, None, Some("fresh"))),
        ("names", Some("require"), expected(1, Some("crl-revoked"), Some("fresh"))),
        ("none", None, expected(0, None, None)),
        ("none", Some("require"), expected(3, Some("crl-signature"), None)),
        ("past", None, expected(1, Some("crl-time"), Some("in_grace"))),
        ("past", Some("require"), expected(1, Some("crl-time"), Some("in_grace"))),
        ("past", Some("grace"), expected(0, None, Some("in_grace"))),
        ("past", Some("short"), expected(1, Some("crl-time"), Some("stale"))),
        ("past", Some("stale"), expected(0, None, Some("stale"))),
    ];
    for (folder, policy, expected) in cases {
        let policy: Vec<&str> = policy.into_iter().flat_map(|file| ["--policy", file]).collect();
        assert_eq!(verify(&[&["--collateral", folder], &policy[..]].concat()).await, expected, "{folder} {policy:?}");
        let (bundle, key) = (format!("{folder}.bundle"), format!("{folder}.key.pub"));
        let bundled = ["--collateral", &bundle, "--bundle-key", &key];
        assert_eq!(verify(&[&bundled, &policy[..]].concat()).await, expected, "bundle of {folder} {policy:?}");
    }
    // For a person: the rung, times as dates, and what to do.
    let (_, text, _) = run(&["--collateral", "past", "--policy", "grace"]).await;
    let date = rfc3339(now - 10);
    assert!(
        text.contains("collateral is in grace") && text.contains(&format!("next update at {date}: in grace")),
        "{text}"
    );
    let (_, text, _) = run(&["--vek", &vcek, "--intermediate", &ask, "--policy", "require"]).await;
    assert!(text.contains("could not decide at crl-signature") && text.contains("give --collateral DIR"), "{text}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
