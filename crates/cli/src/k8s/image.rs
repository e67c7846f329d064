//! The installer's container image, made from what was built here: no shell, no other program, no base image. The same input gives
//! the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use belljar_guest_image::GuestImage;
use belljar_image::{PackConfig, PackContent, PackEntry, archive, pack};
use belljar_node::HANDLERS;

use crate::failure::Failure;
use crate::k8s::manifests::IMAGE;

/// Makes the image as an OCI archive at `out`; its manifest's digest.
pub fn make(bin: &Path, guest: &GuestImage, out: &Path) -> Result<String, Failure> {
    let shim = HANDLERS.first().map_or("", |handler| handler.shim);
    let entry = |path: String, content, mode| PackEntry { path, content, mode, uid: 0, gid: 0 };
    let folders = [
        "opt",
        "opt/belljar",
        "opt/belljar/bin",
        "opt/belljar/guest",
        "proc",
        "sys",
        "dev",
        "run",
        "run/belljar-node",
        "etc",
        "tmp",
    ];
    let mut base: Vec<PackEntry> =
        folders.iter().map(|path| entry((*path).to_owned(), PackContent::Directory, 0o755)).collect();
    let id = guest.id();
    base.push(entry(format!("opt/belljar/guest/{id}"), PackContent::Directory, 0o755));
    for name in guest.manifest().files.keys().map(String::as_str).chain(["manifest.json"]) {
        let file = PackContent::File(guest.directory().join(name));
        base.push(entry(format!("opt/belljar/guest/{id}/{name}"), file, 0o644));
    }
    base.push(entry("opt/belljar/guest/current".to_owned(), PackContent::Symlink(id.to_owned()), 0o777));
    let mut programs = Vec::new();
    for name in ["belljar", shim] {
        let path = bin.join(name);
        if !path.is_file() {
            return Err(Failure::undecided(format!("{} is not there", path.display()))
                .hint("build it (cargo build --release), or name the programs' folder with --bin"));
        }
        programs.push(entry(format!("opt/belljar/bin/{name}"), PackContent::File(path), 0o755));
    }
    let config = PackConfig { entrypoint: vec!["/opt/belljar/bin/belljar".to_owned()], ..PackConfig::default() };
    let tag = IMAGE.rsplit(':').next().unwrap_or_default();
    let folder = Scratch::beside(out)?;
    // the guest image is the same in many releases, so it is a layer of its own
    let digest = pack(&folder.0, tag, &[base, programs], &config).map_err(Failure::undecided)?;
    let fresh = folder.0.join("archive");
    archive(&folder.0, tag, IMAGE, &fresh).map_err(Failure::undecided)?;
    fs::rename(&fresh, out).map_err(|error| Failure::undecided(format!("{}: {error}", out.display())))?;
    Ok(digest)
}

/// A folder beside the result, which goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(out: &Path) -> Result<Self, Failure> {
        let name = format!(".belljar-image-{}", std::process::id());
        let path = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).join(name);
        fs::create_dir(&path).map_err(|error| Failure::undecided(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
