//! A broker in another process: the same handshake over TCP, and what happens when it says no or is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use belljar_e2e::images;
use belljar_e2e::programs::{finish, wait};
use belljar_e2e::workplace::{Workplace, free_port};

struct Broker {
    child: Child,
    url: String,
    token: PathBuf,
}

impl Broker {
    fn start(place: &Workplace, options: &[&str]) -> Self {
        let token = place.path("token");
        let mut child = place
            .belljar()
            .args(["broker", "serve", "--data"])
            // One directory serves one broker at a time.
            .arg(place.path(&format!("broker{}", options.len())))
            .arg("--token-file")
            .arg(&token)
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().to_owned(), token }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        wait(&mut self.child, Duration::from_secs(10));
    }
}

fn arguments<'a>(broker: &'a Broker, url: &'a str, secret: &'a str, image: &'a str) -> Vec<&'a str> {
    let token = broker.token.to_str().unwrap();
    vec![
        "run",
        "--rm",
        "--broker",
        url,
        "--broker-token",
        token,
        "--secret",
        secret,
        image,
        "--",
        "/bin/cat",
        "/run/secrets/key",
    ]
}

#[test]
fn a_remote_broker_gives_the_secret_to_whom_it_trusts_only() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    std::fs::write(place.path("key"), b"from afar").unwrap();
    let secret = format!("key={}", place.path("key").display());

    let broker = Broker::start(&place, &["--allow-software-tee"]);
    let run = finish(place.belljar().args(arguments(&broker, &broker.url, &secret, &image)));
    assert_eq!((run.code, run.stdout.as_str()), (0, "from afar"), "{}", run.stderr);

    // The same broker behind another key: somebody in between.
    let (address, pin) = broker.url.split_once("#sha256=").unwrap();
    let flipped: String =
        pin.chars().enumerate().map(|(n, c)| if n == 0 { if c == '0' { '1' } else { '0' } } else { c }).collect();
    let wrong = format!("{address}#sha256={flipped}");
    let run = finish(place.belljar().args(arguments(&broker, &wrong, &secret, &image)));
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert_eq!(run.stdout, "");

    // The twin of the first that differs in one option of the broker.
    let strict = Broker::start(&place, &[]);
    let run = finish(place.belljar().args(arguments(&strict, &strict.url, &secret, &image)));
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("refused"), "{}", run.stderr);
    place.assert_nothing_left_but(&["broker serve"]);
}

#[test]
fn a_broker_that_is_away_is_named() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    std::fs::write(place.path("key"), b"x").unwrap();
    std::fs::write(place.path("token"), "0123456789012345678901234567890123456789").unwrap();
    std::fs::set_permissions(place.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let url = format!("https://{}#sha256={}", free_port(), "00".repeat(32));
    let secret = format!("key={}", place.path("key").display());
    let run = finish(
        place
            .belljar()
            .args(["run", "--rm", "--broker", &url, "--broker-token"])
            .arg(place.path("token"))
            .args(["--secret", &secret, &image]),
    );
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.stderr.contains("cannot be reached") && run.stderr.contains("check that it runs"), "{}", run.stderr);
    place.assert_nothing_left(&[]);
}
