//! Bad input: each ends in one clear line (cause, then what to do), with its exit code, within 30 s, with nothing left
//! running. The positive twin of each is an ordinary run in `pod.rs`, or stands beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

use belljar_e2e::images;
use belljar_e2e::programs::{Finished, finish};
use belljar_e2e::workplace::{Workplace, free_port};
use belljar_guest_image::Manifest;

/// Runs with these arguments before the image, and expects this end.
fn expect(place: &Workplace, run: &Finished, code: i32, line: &[&str]) {
    assert_eq!(run.code, code, "{}\n{}", run.stdout, run.stderr);
    let last = run.stderr.lines().rfind(|l| l.starts_with("belljar: ")).unwrap_or_default().to_owned();
    for part in line {
        assert!(last.contains(part), "{part:?} is not in {last:?} ({})", run.stderr);
    }
    assert!(run.took.as_secs() < 30, "{:?}", run.took);
    assert_eq!(run.stdout, "");
    place.assert_nothing_left(&[]);
}

fn run(place: &Workplace, image: &str) -> Finished {
    finish(place.belljar().args(["run", "--rm", image, "--", "/bin/true"]))
}

#[test]
fn images_that_are_not_there() {
    let place = Workplace::new();
    expect(&place, &run(&place, "oci:/nowhere:1"), 2, &["no image at /nowhere", "name an OCI layout"]);
    let image = images::busybox(&place);
    let other = image.replace(":1", ":2");
    expect(&place, &run(&place, &other), 2, &["no image", "it has: 1"]);
    let registry = free_port();
    expect(&place, &run(&place, &format!("{registry}/a:1")), 3, &["cannot reach registry", "check that it runs"]);
    expect(&place, &run(&place, "NOT A REFERENCE"), 2, &[]);
    let never = finish(place.belljar().args(["run", "--rm", "--pull", "never", "127.0.0.1:1/a:1"]));
    expect(&place, &never, 3, &["not in the store", "pulling is off"]);
}

fn blobs(layout: &Path) -> Vec<std::path::PathBuf> {
    let mut blobs: Vec<_> =
        std::fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten().map(|e| e.path()).collect();
    blobs.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    blobs
}

#[test]
fn images_that_lie() {
    // A layer whose bytes are not those of its digest: the largest blob.
    let place = Workplace::new();
    let image = images::busybox(&place);
    let layout = place.path("layout");
    let layer = blobs(&layout).pop().unwrap();
    let whole = std::fs::read(&layer).unwrap();
    let mut broken = whole.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(&layer, &broken).unwrap();
    expect(&place, &run(&place, &image), 1, &["layer"]);
    std::fs::write(&layer, &whole).unwrap();
    assert_eq!(run(&place, &image).code, 0);

    // A manifest with a media type that nobody knows; its digest is right.
    let place = Workplace::new();
    let image = images::busybox(&place);
    retype(&place.path("layout"), "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.example.layer");
    expect(&place, &run(&place, &image), 1, &["unknown media type", "application/vnd.example.layer"]);
    let place = Workplace::new();
    let image = images::busybox(&place);
    retype(
        &place.path("layout"),
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    );
    assert_eq!(run(&place, &image).code, 0);
}

/// Replaces a media type in the manifest, with digests to match.
fn retype(layout: &Path, from: &str, to: &str) {
    let index = std::fs::read_to_string(layout.join("index.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&index).unwrap();
    let digest = parsed["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let size = parsed["manifests"][0]["size"].as_u64().unwrap();
    let manifest = std::fs::read_to_string(layout.join("blobs/sha256").join(&digest)).unwrap();
    let changed = manifest.replace(from, to);
    assert_ne!(changed, manifest);
    let new = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, changed.as_bytes()));
    std::fs::write(layout.join("blobs/sha256").join(&new), &changed).unwrap();
    let index =
        index.replace(&digest, &new).replace(&format!("\"size\":{size}"), &format!("\"size\":{}", changed.len()));
    std::fs::write(layout.join("index.json"), index).unwrap();
}

#[test]
fn a_broken_gzip() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let layout = place.path("layout");
    // The layer becomes something that is no gzip, and every digest above is made to fit.
    let layer = blobs(&layout).pop().unwrap();
    let old = layer.file_name().unwrap().to_str().unwrap().to_owned();
    let old_size = std::fs::metadata(&layer).unwrap().len();
    let text = vec![b'x'; 5000];
    let new = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text));
    std::fs::write(layout.join("blobs/sha256").join(&new), &text).unwrap();
    let index = std::fs::read_to_string(layout.join("index.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&index).unwrap();
    let manifest_digest = parsed["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let path = layout.join("blobs/sha256").join(&manifest_digest);
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.replace(&old, &new).replace(&format!("\"size\":{old_size}"), "\"size\":5000"))
        .unwrap();
    retype_digest(&layout, &manifest_digest);
    expect(&place, &run(&place, &image), 1, &["layer", "gzip"]);
}

/// Renames a changed manifest to its digest.
fn retype_digest(layout: &Path, old: &str) {
    let path = layout.join("blobs/sha256").join(old);
    let text = std::fs::read(&path).unwrap();
    let new = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text));
    std::fs::write(layout.join("blobs/sha256").join(&new), &text).unwrap();
    let index = std::fs::read_to_string(layout.join("index.json")).unwrap();
    let mut parsed: serde_json::Value = serde_json::from_str(&index).unwrap();
    parsed["manifests"][0]["digest"] = serde_json::Value::String(format!("sha256:{new}"));
    parsed["manifests"][0]["size"] = serde_json::Value::from(text.len());
    std::fs::write(layout.join("index.json"), parsed.to_string()).unwrap();
}

#[test]
fn tee_and_qemu_that_are_not_there() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    for (tee, name) in [("snp", "snp"), ("tdx", "tdx")] {
        let refused = finish(place.belljar().args(["run", "--rm", "--tee", tee, &image]));
        expect(&place, &refused, 1, &[name, "cannot run", "belljar doctor"]);
    }
    let missing = finish(place.belljar().env("BELLJAR_QEMU", "/nowhere/qemu").args(["run", "--rm", &image]));
    expect(&place, &missing, 3, &["/nowhere/qemu"]);
    let old = place.path("old-qemu");
    std::fs::write(&old, "#!/bin/sh\necho 'QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg-11)'\n").unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let too_old = finish(place.belljar().env("BELLJAR_QEMU", &old).args(["run", "--rm", &image]));
    expect(&place, &too_old, 3, &["5.2", "8.2"]);
}

/// A guest image of its own, in which one file is another.
fn guest_with(place: &Workplace, name: &str, content: &[u8]) -> std::path::PathBuf {
    let from = std::fs::canonicalize(place.data().join("guest/current")).unwrap();
    let to = place.path("guest");
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(&from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_name() == name {
            std::fs::write(target, content).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
    let mut manifest = Manifest::parse(&std::fs::read(to.join("manifest.json")).unwrap()).unwrap();
    let entry = manifest.files.get_mut(name).unwrap();
    entry.size = content.len() as u64;
    entry.sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content));
    std::fs::write(to.join("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
    to
}

#[test]
fn a_kernel_that_does_not_boot() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let kernel = std::fs::read(place.data().join("guest/current/vmlinux")).unwrap();
    // Every instruction in the first part of the kernel's text is `hlt`: it starts, and hangs.
    let mut hanging = kernel.clone();
    hanging[0x20_0000..0x40_0000].fill(0xf4);
    let guest = guest_with(&place, "vmlinux", &hanging);
    let run = finish(place.belljar().env("BELLJAR_GUEST", &guest).args(["run", "--rm", "--boot-timeout", "8", &image]));
    expect(&place, &run, 3, &["the guest did not answer within 8 s"]);
    // Not a kernel at all.
    let guest = guest_with(&place, "vmlinux", &kernel[0x40_0000..0x50_0000]);
    let run = finish(place.belljar().env("BELLJAR_GUEST", &guest).args(["run", "--rm", &image]));
    expect(&place, &run, 3, &["QEMU ended", "build the guest image anew"]);
}

#[test]
fn a_guest_that_crashes() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    // An initrd with nothing in it: the kernel panics, for it has no first program.
    let guest = guest_with(&place, "initrd", &[0; 512]);
    let run = finish(place.belljar().env("BELLJAR_GUEST", &guest).args(["run", "--rm", &image]));
    expect(&place, &run, 3, &["crashed"]);
}

#[test]
fn contracts_that_are_not_valid() {
    let place = Workplace::new();
    let file = place.path("contract.toml");
    let good = "version = 1\n[containers.main]\nimage = \"a\"\nimage_digest = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"\nargs = [\"/a\"]\n\
        [[containers.main.layers]]\nverity_root = \"0000000000000000000000000000000000000000000000000000000000000000\"\nsalt = \"\"\ndata_blocks = 1\n";
    std::fs::write(&file, good).unwrap();
    let fine = finish(place.belljar().args(["contract", "check"]).arg(&file));
    assert_eq!(fine.code, 0, "{}", fine.stderr);
    std::fs::write(&file, good.replace("image = ", "privileged = true\nimage = ")).unwrap();
    let unknown = finish(place.belljar().args(["contract", "check"]).arg(&file));
    expect(&place, &unknown, 2, &["unknown key", "privileged"]);
}

#[test]
fn initdata_that_is_too_long() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let many: Vec<String> = (0..9).map(|n| format!("V{n}={}", "x".repeat(30_000))).collect();
    let mut command = place.belljar();
    command.args(["run", "--rm"]);
    for variable in &many {
        command.args(["--env", variable]);
    }
    expect(&place, &finish(command.args([&image, "--", "/bin/true"])), 2, &["262144"]);
}

#[test]
fn secrets_that_cannot_be_used() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    for (secret, reason) in
        [("name", "is not NAME=FILE"), ("a=/nowhere", "/nowhere"), ("A/../b=/etc/hostname", "secret name")]
    {
        let run = finish(place.belljar().args(["run", "--rm", "--secret", secret, &image]));
        expect(&place, &run, 2, &[reason]);
    }
}

#[test]
fn more_memory_than_the_machine_has() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let run = finish(place.belljar().args(["run", "--rm", "--memory", "1000G", &image]));
    expect(&place, &run, 2, &["does not fit into this machine", "smaller --memory"]);
}

#[test]
fn a_page_that_cannot_be_written() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let run = finish(place.belljar().args(["run", "--rm", "--page", "/nowhere/page.html", &image]));
    expect(&place, &run, 2, &["cannot write /nowhere/page.html"]);
}

#[test]
fn a_program_that_is_not_in_the_image() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let run = finish(place.belljar().args(["run", "--rm", &image, "--", "/bin/nothing"]));
    expect(&place, &run, 3, &["/bin/nothing"]);
}
