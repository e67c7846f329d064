//! `belljar collateral` as its user runs it, against services of our own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[allow(dead_code, reason = "the tests of the collateral crate use the rest")]
#[path = "../../../collateral/tests/services/amd.rs"]
mod amd;
#[allow(dead_code, reason = "the tests of the collateral crate use the rest")]
#[path = "../../../collateral/tests/services/fake.rs"]
mod fake;
#[allow(dead_code, reason = "the tests of the collateral crate use the rest")]
#[path = "../../../collateral/tests/services/intel.rs"]
mod intel;
mod judging;

use belljar_evidence::time::rfc3339;
use belljar_testpki::amd as pki;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use amd::Amd;
use belljar_testpki::intel::{Made, World};
use fake::{Fake, Reply};
use intel::{Claims, DAY, Intel};
use serde_json::Value;
use tokio::process::Command;

const TCB_INFO: &str = "/tdx/certification/v4/tcb?fmspc=B0C06F000000&update=standard";
const IDENTITY: &str = "/tdx/certification/v4/qe/identity?update=standard";
const PLATFORM_LIST: &str = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der";
const ROOT_LIST: &str = "/sgx/certification/v4/rootcacrl";

/// A user's folder.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// `belljar`, with nothing of this process's environment.
    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_belljar"));
        command.env_clear().env("HOME", self.0.path()).current_dir(self.0.path());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// `belljar collateral …`.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program();
        command.arg("collateral").args(args);
        command
    }

    async fn run(&self, args: &[&str]) -> (i32, String, String) {
        read(&self.command(args).output().await.unwrap())
    }

    async fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, out, _) = self.run(&[args, &["--format", "json"]].concat()).await;
        (code, serde_json::from_str(&out).unwrap_or(Value::Null))
    }
}

fn read(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(id: &'static str) -> Claims {
    Claims { issued: now() - 3600, next_update: now() + 30 * DAY, ..Claims::of(id) }
}

/// What a world's quotes need, valid from yesterday to next month by another clock.
fn world_at(now: u64) -> (World, Made) {
    let mut world = World::tdx4(7);
    for cert in [&mut world.root, &mut world.ca, &mut world.pck, &mut world.tcb_signer] {
        (cert.from, cert.to) = (now - 100 * DAY, now + 1000 * DAY);
    }
    for list in [&mut world.pck_crl, &mut world.root_crl] {
        (list.from, list.to) = (now - DAY, Some(now + 29 * DAY));
    }
    for document in [&mut world.tcb_info, &mut world.qe_identity] {
        document.content["issueDate"] = rfc3339(now - DAY).into();
        document.content["nextUpdate"] = rfc3339(now + 29 * DAY).into();
    }
    let made = world.make();
    (world, made)
}

/// A PCCS that has all that a TDX platform needs.
async fn pccs(intel: &Intel) -> Fake {
    let fake = Fake::start().await;
    let (info, identity, list) =
        (intel.tcb_info(&claims("TDX")), intel.identity(&claims("TD_QE")), intel.platform_list(&claims("")));
    fake.on(TCB_INFO, [Reply::Body(vec![("TCB-Info-Issuer-Chain", info.chain)], info.body)]);
    fake.on(IDENTITY, [Reply::Body(vec![("SGX-Enclave-Identity-Issuer-Chain", identity.chain)], identity.body)]);
    fake.on(PLATFORM_LIST, [Reply::Body(vec![("SGX-PCK-CRL-Issuer-Chain", list.chain)], list.body)]);
    fake.on(ROOT_LIST, [Reply::Body(Vec::new(), intel.root_list(&claims("")))]);
    fake
}

const PLATFORM: [&str; 6] = ["--fmspc", "b0c06f000000", "--tee", "tdx", "--authority", "platform"];

#[tokio::test]
async fn ten_processes_fetch_one_certificate_once() {
    let (amd, fake, desk) = (Amd::at(now()), Fake::start().await, Desk::new());
    fake.on(amd::CHAIN, [Reply::Body(Vec::new(), amd.chain.clone())]);
    fake.on(&amd::path(&amd::item()), [Reply::Body(Vec::new(), amd.vcek(|_| ()))]);
    fake.on(amd::LIST, [Reply::Body(Vec::new(), amd.list(|_| ()))]);
    let (report, anchor) =
        (desk.write("report.bin", &pki::Report::of(pki::Product::Milan).bytes()), desk.write("ark.der", &amd.ark));
    let base = fake.base();
    let args = ["fetch", &report, "--kds", &base, "--anchor", &anchor];
    let processes: Vec<_> =
        (0..10).map(|_| desk.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
    for process in processes {
        let (code, out, err) = read(&process.wait_with_output().await.unwrap());
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains("SEV-Milan (not a vendor's root)"), "{out}");
    }
    assert_eq!(fake.asked(), [amd::path(&amd::item()), amd::CHAIN.to_owned(), amd::LIST.to_owned()]);

    let (code, status) = desk.json(&["status", "--anchor", &anchor]).await;
    assert_eq!(code, 0);
    let rows: Vec<(&str, &str)> = status["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["rung"].as_str().unwrap(), row["root"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [("fresh", "test"); 3]);
    // Without that root the cache holds nothing that is authentic.
    assert_eq!(desk.json(&["status"]).await.0, 1);
}

#[tokio::test]
async fn what_is_fetched_is_listed_on_its_rung_and_written_as_files() {
    let (intel, desk) = (Intel::new(), Desk::new());
    let fake = pccs(&intel).await;
    let (anchor, base) = (desk.write("root.der", &intel.root), fake.base());
    let empty = desk.run(&["status"]).await;
    assert_eq!(empty.0, 3);
    assert!(empty.2.contains("no collateral in") && empty.2.contains("run `belljar collateral fetch`"), "{}", empty.2);

    let fetch = [&["fetch"][..], &PLATFORM, &["--pccs", &base, "--anchor", &anchor, "--out", "files"]].concat();
    let (code, out, err) = desk.run(&fetch).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(fake.asked(), [TCB_INFO, IDENTITY, PLATFORM_LIST, ROOT_LIST]);
    let mut names: Vec<String> = std::fs::read_dir(desk.path("files"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "pck_crl.der",
        "pck_crl_issuer_chain.pem",
        "qe_identity.json",
        "qe_signing_chain.pem",
        "root_ca_crl.der",
        "tcb_info.json",
        "tcb_signing_chain.pem",
    ];
    assert_eq!(names, expected);
    // A second call asks nobody; one that wants it anew does.
    assert_eq!(desk.run(&fetch).await.0, 0);
    assert_eq!(fake.asked().len(), 4);
    assert_eq!(desk.run(&[&fetch[..], &["--refresh"]].concat()).await.0, 0);
    assert_eq!(fake.asked().len(), 8);

    for (days, grace, code, rung) in
        [(0, "7", 0, "fresh"), (31, "7", 0, "in_grace"), (31, "0", 1, "stale"), (38, "7", 1, "stale")]
    {
        let at = rfc3339(now() + days * DAY);
        let args = ["--anchor", &anchor, "--at", &at, "--grace-days", grace];
        for verb in [&["status"][..], &["verify", "files"]] {
            let (found, listed) = desk.json(&[verb, &args].concat()).await;
            let items = listed["items"].as_array().unwrap();
            assert_eq!((found, items.len()), (code, 4), "{days} {grace} {verb:?}");
            assert!(items.iter().all(|row| row["rung"] == rung), "{listed}");
        }
    }
    let (_, table, _) = desk.run(&["status", "--anchor", &anchor]).await;
    assert!(table.contains("intel/tdx/tcb-info/b0c06f000000/standard  TDX on platforms b0c06f000000"), "{table}");

    // A changed file is refused.
    let changed = std::fs::read_to_string(desk.path("files/tcb_info.json")).unwrap().replacen("UpToDate", "Revoked", 1);
    desk.write("files/tcb_info.json", changed.as_bytes());
    let (code, out, _) = desk.run(&["verify", "files", "--anchor", &anchor]).await;
    assert_eq!(code, 1);
    assert!(out.contains("its signature does not verify: tcb-info-signature"), "{out}");
}

#[tokio::test]
async fn a_bundle_is_made_by_one_key_and_opened_by_its_public_half() {
    let (intel, desk) = (Intel::new(), Desk::new());
    let fake = pccs(&intel).await;
    let (anchor, base) = (desk.write("root.der", &intel.root), fake.base());
    let fetch = [&["fetch"][..], &PLATFORM, &["--pccs", &base, "--anchor", &anchor]].concat();
    assert_eq!(desk.run(&fetch).await.0, 0);

    let bundle = ["bundle", "--key", "a.key", "--out", "a.bundle", "--anchor", &anchor];
    let (code, _, err) = desk.run(&bundle).await;
    assert_eq!(code, 2, "{err}");
    let (code, out, err) = desk.run(&[&bundle[..], &["--new-key"]].concat()).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("a.bundle: 4 items, signed by key "), "{out}");
    // The same items make the same bundle; a key is never replaced.
    let first = std::fs::read(desk.path("a.bundle")).unwrap();
    assert_eq!(desk.run(&bundle).await.0, 0);
    assert_eq!(std::fs::read(desk.path("a.bundle")).unwrap(), first);
    assert_eq!(desk.run(&[&bundle[..], &["--new-key"]].concat()).await.0, 2);

    let verify = ["verify", "a.bundle", "--anchor", &anchor, "--key", "a.key.pub"];
    assert_eq!(desk.run(&verify).await.0, 0);
    assert_eq!(desk.run(&verify[..4]).await.0, 2);
    let stranger = desk.run(&["verify", "a.bundle", "--key", "a.key.pub"]).await;
    assert_eq!(stranger.0, 1);
    assert!(stranger.1.contains("is no anchor and was issued by none"), "{}", stranger.1);

    let other = ["bundle", "--new-key", "--key", "b.key", "--out", "b.bundle", "--anchor", &anchor];
    assert_eq!(desk.run(&[&other[..], &["--item", "intel/root-crl"]].concat()).await.0, 0);
    let (code, one) = desk.json(&["verify", "b.bundle", "--anchor", &anchor, "--key", "b.key.pub"]).await;
    assert_eq!((code, one["items"].as_array().unwrap().len()), (0, 1));
    let (code, _, err) = desk.run(&["verify", "b.bundle", "--anchor", &anchor, "--key", "a.key.pub"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("bundle is signed with ed25519"), "{err}");
    for at in [0, 100, first.len() / 2, first.len() - 2] {
        let mut flipped = first.clone();
        flipped[at] ^= 4;
        desk.write("flipped", &flipped);
        assert_eq!(desk.run(&["verify", "flipped", "--anchor", &anchor, "--key", "a.key.pub"]).await.0, 1, "{at}");
    }

    // What is stale stays out, and is refused when it was asked for by name.
    let late = rfc3339(now() + 60 * DAY);
    let (code, _, err) = desk.run(&[&bundle[..], &["--at", &late]].concat()).await;
    assert_eq!(code, 3);
    assert!(err.contains("nothing to bundle") && err.contains("intel/root-crl: it is stale"), "{err}");
    let (code, _, err) = desk.run(&[&bundle[..], &["--at", &late, "--item", "intel/root-crl"]].concat()).await;
    assert_eq!(code, 1);
    assert!(err.contains("intel/root-crl: it is stale; fetch it again, or leave it out"), "{err}");
    // A key that others can read is not used.
    let chmod = std::process::Command::new("chmod").args(["640", &desk.path("a.key")]).status().unwrap();
    assert!(chmod.success());
    let (code, _, err) = desk.run(&bundle).await;
    assert_eq!(code, 2);
    assert!(err.contains("mode 640: others may use the key"), "{err}");
}

#[tokio::test]
async fn a_lie_is_refused_and_a_service_that_is_away_leaves_it_undecided() {
    let (intel, desk) = (Intel::new(), Desk::new());
    let fake = pccs(&intel).await;
    let (anchor, base) = (desk.write("root.der", &intel.root), fake.base());
    let fetch = ["fetch", "--item", "intel/tdx/tcb-info/b0c06f000000/standard", "--max-wait", "0"];
    let fetch = [&fetch[..], &["--pccs", &base, "--anchor", &anchor, "--out", "files"]].concat();
    let good = intel.tcb_info(&claims("TDX"));
    let lie = intel.tcb_info(&Claims { fmspc: [1; 6], ..claims("TDX") });
    fake.on(
        TCB_INFO,
        [
            Reply::Body(vec![("TCB-Info-Issuer-Chain", lie.chain)], lie.body),
            Reply::Status(500, Vec::new()),
            Reply::Body(vec![("TCB-Info-Issuer-Chain", good.chain)], good.body),
        ],
    );
    let (code, out, _) = desk.run(&fetch).await;
    assert_eq!(code, 1);
    assert!(out.contains("it is not what was asked for: FMSPC is 010101010101, expected b0c06f000000"), "{out}");
    let (code, out, _) = desk.run(&fetch).await;
    assert_eq!(code, 3);
    assert!(out.contains("answered with status 500: try again later"), "{out}");
    assert!(!Path::new(&desk.path("files")).exists());
    let patient = fetch.iter().map(|arg| if *arg == "0" { "10" } else { arg }).collect::<Vec<_>>();
    let (code, out, _) = desk.run(&patient).await;
    assert_eq!(code, 0, "{out}");
    assert!(Path::new(&desk.path("files/tcb_info.json")).exists());
    // Mistakes of the caller.
    for wrong in [&["fetch"][..], &["fetch", "--item", "intel/other"], &["fetch", "--fmspc", "b0c06f000000"]] {
        assert_eq!(desk.run(wrong).await.0, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn proxies_of_the_environment_are_used() {
    let (intel, desk, fake) = (Intel::new(), Desk::new(), Fake::start().await);
    let anchor = desk.write("root.der", &intel.root);
    fake.on(&format!("http://pccs.example{ROOT_LIST}"), [Reply::Body(Vec::new(), intel.root_list(&claims("")))]);
    let fetch =
        ["fetch", "--item", "intel/root-crl", "--pccs", "http://pccs.example", "--anchor", &anchor, "--max-wait", "0"];
    for (name, value, code) in [("NO_PROXY", "pccs.example", 3), ("no_proxy", "example.org", 0)] {
        let mut command = desk.command(&fetch);
        command.env("HTTP_PROXY", fake.base()).env(name, value).arg("--cache").arg(desk.path(name));
        let (found, out, _) = read(&command.output().await.unwrap());
        assert_eq!(found, code, "{out}");
    }
    assert_eq!(fake.asked(), [format!("http://pccs.example{ROOT_LIST}")]);

    // A machine without root certificates says so; a file of them helps.
    let ca =
        desk.write("ca.pem", rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem().as_bytes());
    for (more, code) in [(&[][..], 3), (&["--ca", &ca], 0)] {
        let mut command = desk.command(&fetch);
        command.env("HTTP_PROXY", fake.base()).env("SSL_CERT_FILE", "/dev/null").args(["--refresh"]).args(more);
        let (found, out, err) = read(&command.output().await.unwrap());
        assert_eq!(found, code, "{out}{err}");
        assert_eq!(err.contains("TLS has no root certificates"), code == 3, "{err}");
    }
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_nothing_in_the_way() {
    let (intel, desk) = (Intel::new(), Desk::new());
    let fake = pccs(&intel).await;
    let (anchor, base) = (desk.write("root.der", &intel.root), fake.base());
    let fetch = ["fetch", "--item", "intel/root-crl", "--pccs", &base, "--anchor", &anchor];
    let good = Reply::Body(Vec::new(), intel.root_list(&claims("")));
    fake.on(ROOT_LIST, [Reply::Hang, good]);
    let mut killed = desk.command(&fetch).spawn().unwrap();
    while fake.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    killed.kill().await.unwrap();
    let (code, out, err) = desk.run(&fetch).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(fake.asked().len(), 2);
}
