//! The image boots, with QEMU's emulation of a CPU, which every machine has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use belljar_guest_image::{GuestImage, Recipe, bare_initrd, build, cache_dir};
use common::bare_init;

/// What the guest's console said until the machine was off.
fn console(image: &GuestImage, initrd: &Path, cmdline: &str) -> String {
    let output = Command::new("timeout")
        .args(["60", "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-bios")
        .arg(image.qboot())
        .arg("-kernel")
        .arg(image.vmlinux())
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", cmdline])
        .args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=c0", "-device", "virtconsole,chardev=c0"])
        .stdin(Stdio::null())
        .output()
        .expect("qemu-system-x86_64 (package qemu-system-x86)");
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {}{console}", output.status, String::from_utf8_lossy(&output.stderr));
    console
}

#[test]
fn the_image_reaches_its_first_program() {
    let out = tempfile::tempdir().unwrap();
    build(&Recipe::builtin().unwrap(), &bare_init(), &cache_dir(), out.path(), &|_| ()).unwrap();
    let image = GuestImage::open(out.path()).unwrap();
    let quiet = console(&image, &image.initrd(), &image.cmdline(false));
    assert!(quiet.starts_with("belljar-bare-init: first line"), "{quiet}");
    // with debugging the kernel speaks; what it says before the console is there is lost
    let debug = console(&image, &image.initrd(), &image.cmdline(true));
    assert!(debug.contains("belljar-bare-init: first line"), "{debug}");
    assert!(debug.contains("Run /init as init process") && !quiet.contains("Run /init"), "{debug}");

    let bare = out.path().join("bare");
    fs::write(&bare, bare_initrd(&bare_init()).unwrap()).unwrap();
    let bare = console(&image, &bare, &image.cmdline(false));
    assert!(bare.starts_with("belljar-bare-init: first line"), "{bare}");
    // a guest whose first program ends is off at once: panic=-1 with -no-reboot
    let dead = console(&image, &image.initrd(), &format!("{} rdinit=/nonexistent", image.cmdline(false)));
    assert!(dead.contains("Kernel panic"), "{dead}");
}
