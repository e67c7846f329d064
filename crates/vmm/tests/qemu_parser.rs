//! QEMU itself reads our arguments: disks really attach, and SNP goes as far as a machine without it can.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::ffi::OsString;

use belljar_vmm::{Disk, DiskContent, Machine};
use common::snp;

fn with_disks(n: usize) -> (tempfile::TempDir, Machine) {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = common::machine("disks");
    for n in 0..n {
        let path = dir.path().join(format!("disk {n}, x"));
        std::fs::write(&path, vec![0; 4096]).unwrap();
        machine.disks.push(Disk { content: DiskContent::File(path), serial: format!("layer-{n:014}") });
    }
    if let Some(disk) = machine.disks.first_mut() {
        *disk = Disk { content: DiskContent::Bytes(vec![0; 4096].into()), serial: "initdata".into() };
    }
    (dir, machine)
}

fn disks_attach(n: usize) {
    let (_dir, machine) = with_disks(n);
    let (answers, stderr) = common::run("qemu-system-x86_64".as_ref(), &machine, |_| {}, &["query-block", "query-pci"]);
    assert_eq!(stderr, "");
    let blocks = answers[1].as_array().unwrap();
    assert_eq!(blocks.len(), n);
    for block in blocks {
        assert_eq!(block["inserted"]["ro"], true);
        assert_eq!(block["inserted"]["image"]["virtual-size"], 4096);
    }
    let devices = answers[2][0]["devices"].as_array().unwrap();
    let disks = devices.iter().filter(|device| device["id"]["device"] == 0x1001 && device["id"]["vendor"] == 0x1af4);
    let places: std::collections::BTreeSet<_> =
        disks.map(|disk| (disk["slot"].as_u64().unwrap(), disk["function"].as_u64().unwrap())).collect();
    assert_eq!(places.len(), n, "each disk is a function of its own");
}

#[test]
fn one_disk_attaches() {
    disks_attach(1);
}

#[test]
fn thirty_disks_attach() {
    disks_attach(30);
}

#[test]
fn a_hundred_and_twenty_eight_disks_attach() {
    disks_attach(128);
}

#[test]
fn two_pods_share_a_layer() {
    let (_dir, machine) = with_disks(2);
    let file = match &machine.disks[1].content {
        DiskContent::File(path) => std::fs::File::open(path).unwrap(),
        DiskContent::Bytes(_) => panic!("the second disk is a file"),
    };
    // As another program that locks the file for itself; QEMU must not mind.
    file.lock().unwrap();
    let first = std::thread::spawn({
        let machine = machine.clone();
        move || common::run("qemu-system-x86_64".as_ref(), &machine, |_| {}, &["query-block"])
    });
    let second = common::run("qemu-system-x86_64".as_ref(), &machine, |_| {}, &["query-block"]);
    for (answers, stderr) in [first.join().unwrap(), second] {
        assert_eq!((answers[1].as_array().unwrap().len(), stderr.as_str()), (2, ""));
    }
}

#[test]
fn snp_arguments_parse_up_to_the_missing_hardware() {
    let (answers, stderr) = common::run("qemu-system-x86_64".as_ref(), &snp([0xab; 32]), |_| {}, &[]);
    assert!(answers.len() <= 1);
    assert!(stderr.ends_with("cannot set up private guest memory for sev-snp-guest: KVM required\n"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// The twin of the test above: one field differs.
#[test]
fn snp_with_a_short_host_data_is_another_error() {
    let short = |arguments: &mut Vec<OsString>| {
        for argument in arguments {
            let text = argument.to_str().unwrap();
            if text.contains("sev-snp-guest") {
                *argument = text.replace("q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=", "q6ur").into();
            }
        }
    };
    let (_, stderr) = common::run("qemu-system-x86_64".as_ref(), &snp([0xab; 32]), short, &[]);
    assert!(stderr.ends_with("parameter length of 3 not equal to 32\n"), "{stderr}");
}
