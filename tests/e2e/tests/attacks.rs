//! A hostile host, one change at a time, each with its positive twin: the same motions without the change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use belljar_e2e::attack::{ATTACK, Attack, DIRECTORY, NEEDLE};
use belljar_e2e::images;
use belljar_e2e::programs::{Finished, finish, program};
use belljar_e2e::workplace::Workplace;

/// Bytes of a file in the image's layer that the container reads.
const MARK: &[u8] = b"these bytes are in a layer: 0123456789";

fn attacked(attack: Attack) -> Finished {
    let place = Workplace::new();
    let image = images::busybox_with(&place, "/data/mark", MARK);
    let secret = place.path("key");
    std::fs::write(&secret, b"the secret").unwrap();
    let copies = place.path("attack");
    std::fs::create_dir_all(&copies).unwrap();
    let run = finish(
        place
            .belljar()
            .env("BELLJAR_QEMU", program("hostile-qemu"))
            .env(ATTACK, attack.name())
            .env(DIRECTORY, &copies)
            .env(NEEDLE, hex::encode(MARK))
            .args(["run", "--rm", "--secret"])
            .arg(format!("key={}", secret.display()))
            .args([&image, "--", "/bin/sh", "-c", "cat /data/mark && echo && cat /run/secrets/key"]),
    );
    place.assert_nothing_left(&[]);
    run
}

fn refused(attack: fn(bool) -> Attack, reasons: &[&str]) {
    let twin = attacked(attack(false));
    assert_eq!(twin.code, 0, "{}", twin.stderr);
    assert!(twin.stdout.ends_with("the secret"), "{}", twin.stdout);
    let run = attacked(attack(true));
    assert_eq!(run.code, 1, "{}\n{}", run.stdout, run.stderr);
    assert!(!run.stdout.contains("the secret"), "the secret came out: {}", run.stdout);
    for reason in reasons {
        assert!(run.stderr.contains(reason), "{reason:?} is not in: {}", run.stderr);
    }
    // As the last one of its kind: what the twin prints, the attack does not.
    assert!(run.took.as_secs() < 30, "{:?}", run.took);
}

#[test]
fn another_command_line_is_refused() {
    refused(|change| Attack::CommandLine { change }, &["measurement is", "expected", "guest image"]);
}

#[test]
fn another_initrd_is_refused() {
    refused(|change| Attack::Initrd { change }, &["measurement is", "expected", "guest image"]);
}

#[test]
fn a_changed_contract_is_refused_in_the_guest() {
    refused(|change| Attack::Contract { change }, &["initdata", "expected", "found"]);
}

#[test]
fn a_changed_contract_with_its_host_data_is_refused_by_the_broker() {
    refused(|change| Attack::ContractAndHostData { change }, &["host_data is", "expected"]);
}

#[test]
fn a_flipped_byte_in_a_layer_is_refused() {
    refused(|change| Attack::Layer { change }, &["layer", "changed by the host"]);
}
