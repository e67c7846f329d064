//! Builds from the real packages: fetched once through apt into the user's cache, as `belljar guest build` does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use belljar_guest_image::{
    BuildError, ElfError, EntryKind, FetchError, GuestImage, InitrdError, Manifest, ModuleError, Recipe, Step, build,
    cache_dir, read_newc,
};
use common::{PINS, RECIPE, bare_init, recipe};

fn build_with(recipe: &Recipe, agent: &Path, out: &Path) -> Result<Manifest, BuildError> {
    build(recipe, agent, &cache_dir(), out, &|_| ())
}

#[test]
fn two_builds_give_the_same_bytes() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = Recipe::builtin().unwrap();
    let one = build_with(&recipe, &bare_init(), first.path()).unwrap();
    let two = build_with(&recipe, &bare_init(), second.path()).unwrap();
    assert_eq!(one, two);
    let (one, two) = (GuestImage::open(first.path()).unwrap(), GuestImage::open(second.path()).unwrap());
    one.verify().unwrap();
    assert_eq!(one.id(), two.id());
    let mut names: Vec<_> = fs::read_dir(one.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected =
        ["OVMF.amdsev.fd", "OVMF.inteltdx.ms.fd", "initrd", "manifest.json", "qboot.rom", "vmlinux", "vmlinuz"];
    assert_eq!(names, expected);
    for name in names {
        let (one, two) = (one.directory().join(&name), two.directory().join(&name));
        assert!(fs::read(one).unwrap() == fs::read(two).unwrap(), "{name:?} differs");
    }
}

#[test]
fn the_initrd_is_the_closed_list() {
    let out = tempfile::tempdir().unwrap();
    build_with(&Recipe::builtin().unwrap(), &bare_init(), out.path()).unwrap();
    let image = GuestImage::open(out.path()).unwrap();
    let entries = read_newc(&fs::read(image.initrd()).unwrap()).unwrap();
    let text = |path: &str| match &entries[path].kind {
        EntryKind::File(contents) => String::from_utf8(contents.clone()).unwrap(),
        other => panic!("{path} is {other:?}"),
    };
    let order = text("/lib/modules/order");
    let order: Vec<_> = order.lines().collect();
    let expected = [
        "virtio_blk.ko",
        "sha256_ssse3.ko",
        "dm_mod.ko",
        "dm_bufio.ko",
        "reed_solomon.ko",
        "dm_verity.ko",
        "libcrc32c.ko",
        "erofs.ko",
        "overlay.ko",
    ];
    assert_eq!(order, expected);
    assert_eq!(text("/lib/modules/order.snp"), "configfs.ko\ntsm.ko\nsev_guest.ko\n");
    assert_eq!(text("/lib/modules/order.tdx"), "configfs.ko\ntsm.ko\ntdx_guest.ko\n");
    assert!(text("/lib/modules/order.vsock").starts_with("vsock.ko\n"));
    assert_eq!(text("/lib/modules/order.net"), "failover.ko\nnet_failover.ko\nvirtio_net.ko\n");
    // every file is the agent, a list, or a listed module; one program, no shell
    let listed: Vec<_> = ["order", "order.snp", "order.tdx", "order.vsock", "order.net"]
        .iter()
        .flat_map(|list| text(&format!("/lib/modules/{list}")).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for (path, entry) in &entries {
        let EntryKind::File(_) = &entry.kind else { continue };
        let name = path.strip_prefix("/lib/modules/").unwrap_or(path);
        assert!(
            name == "/init" || name.starts_with("order") || listed.iter().any(|listed| listed == name),
            "{path} is not in any list"
        );
        assert_eq!(entry.mode, if path == "/init" { 0o755 } else { 0o644 }, "{path}");
    }
    assert_eq!(entries["/dev/console"].kind, EntryKind::Device { major: 5, minor: 1 });
    let modules: Vec<_> = image.manifest().modules.iter().map(|module| format!("{}.ko", module.name)).collect();
    let mut sorted = listed.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(modules, sorted);
}

#[test]
fn a_program_that_cannot_be_the_first_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let recipe = Recipe::builtin().unwrap();
    assert!(build_with(&recipe, &bare_init(), out.path()).is_ok());
    let with = |agent: &str| match build_with(&recipe, Path::new(agent), out.path()) {
        Err(BuildError::Initrd(error)) => error,
        other => panic!("{other:?}"),
    };
    // Debian's /bin/true asks for the dynamic loader
    assert!(matches!(with("/bin/true"), InitrdError::NotStatic { error: ElfError::Interpreter, .. }));
    assert!(matches!(with("/etc/os-release"), InitrdError::NotStatic { error: ElfError::NotElf, .. }));
    let missing = with("/nonexistent/belljar-agent");
    assert!(matches!(missing, InitrdError::Unreadable { .. }));
    assert!(missing.to_string().contains("cargo build --release -p belljar-agent"));
}

#[test]
fn a_recipe_that_cannot_be_followed_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let with =
        |pins: &str, recipe: &str| build_with(&Recipe::parse(pins, recipe, "1").unwrap(), &bare_init(), out.path());
    assert!(with(PINS, RECIPE).is_ok());
    let no_module = with(PINS, &RECIPE.replace("\"overlay\"", "\"overlain\"")).unwrap_err();
    let BuildError::Initrd(InitrdError::Module(no_module)) = no_module else { panic!("{no_module:?}") };
    let wanted_by = "guest/recipe.toml".to_owned();
    assert_eq!(no_module, ModuleError::Missing { name: "overlain".into(), wanted_by });
    let swapped = PINS.replace("\"qboot\"", "\"x\"").replace("\"ovmf-amdsev\"\n\n", "\"qboot\"\n\n");
    let swapped = swapped.replace("purpose = \"x\"", "purpose = \"ovmf-amdsev\"");
    let no_file = with(&swapped, RECIPE).unwrap_err();
    assert!(matches!(&no_file, BuildError::NoFile { file, .. } if file.ends_with("OVMF.amdsev.fd")), "{no_file:?}");
}

#[test]
fn builds_at_once_wait_for_one_another() {
    let out = tempfile::tempdir().unwrap();
    build_with(&Recipe::builtin().unwrap(), &bare_init(), out.path()).unwrap();
    let cache = common::cache_of_links();
    let waited = std::thread::scope(|scope| {
        let run = || {
            let steps = RefCell::new(Vec::new());
            let recipe = Recipe::builtin().unwrap();
            build(&recipe, &bare_init(), cache.path(), out.path(), &|step| steps.borrow_mut().push(step)).unwrap();
            steps.into_inner().contains(&Step::Waiting)
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|waited| *waited).count()
    });
    // the cache is held until its build is done, so two of the three wait
    assert_eq!(waited, 2);
    GuestImage::open(out.path()).unwrap().verify().unwrap();
}

#[test]
fn a_damaged_cache_is_fetched_again() {
    let cache = common::cache_of_links();
    let recipe = recipe("qemu-system-data", |_| ());
    let package = recipe.packages().iter().find(|package| package.name == "qemu-system-data").unwrap().clone();
    let path = cache.path().join("guest/debs").join(format!("{}.deb", package.sha256));
    let out = tempfile::tempdir().unwrap();
    let fetched = |recipe: &Recipe| {
        let fetched = RefCell::new(Vec::new());
        let note = |step| {
            if let Step::Fetching { package, .. } = step {
                fetched.borrow_mut().push(package);
            }
        };
        build(recipe, &bare_init(), cache.path(), out.path(), &note).map(|_| fetched.into_inner())
    };
    assert_eq!(fetched(&recipe).unwrap(), Vec::<String>::new());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // the link goes first: the user's own cache must stay whole
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    assert_eq!(fetched(&recipe).unwrap(), ["qemu-system-data"]);
    assert_eq!(fetched(&recipe).unwrap(), Vec::<String>::new());
}

#[test]
fn an_image_with_another_agent_shares_the_kernel() {
    use std::os::unix::fs::MetadataExt;
    let out = tempfile::tempdir().unwrap();
    let recipe = Recipe::builtin().unwrap();
    build_with(&recipe, &bare_init(), out.path()).unwrap();
    let one = GuestImage::open(out.path()).unwrap();
    let other_agent = bare_init().with_file_name("guest_image");
    build_with(&recipe, &other_agent, out.path()).unwrap();
    let two = GuestImage::open(out.path()).unwrap();
    two.verify().unwrap();
    assert_ne!(one.id(), two.id());
    let inode = |path: std::path::PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(one.vmlinux()), inode(two.vmlinux()));
    assert_ne!(inode(one.initrd()), inode(two.initrd()));
    // the first agent again: its image is there, and becomes the current one
    build_with(&recipe, &bare_init(), out.path()).unwrap();
    assert_eq!(GuestImage::open(out.path()).unwrap().id(), one.id());
}

#[test]
fn a_mirror_that_is_away_is_named() {
    let cache = common::cache_of_links();
    let out = tempfile::tempdir().unwrap();
    let build = |mirror: &str| {
        let output = std::process::Command::new(bare_init().with_file_name("guest_image"))
            .arg("build")
            .args([&bare_init(), cache.path(), out.path()])
            .env("BELLJAR_DEBIAN_MIRROR", mirror)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    // what is cached needs no mirror
    let (built, said) = build("http://127.0.0.1:9/debian");
    assert!(built, "{said}");
    fs::remove_dir_all(cache.path().join("guest/debs")).unwrap();
    let (built, said) = build("http://127.0.0.1:9/debian");
    assert!(!built && said.contains("Fetch(Update {") && said.contains("127.0.0.1:9"), "{said}");
    let (built, said) = build("http://127.0.0.1:9/\nSigned-By: /tmp/x");
    assert!(!built && said.contains("Fetch(Mirror("), "{said}");
}

#[test]
fn another_digest_and_a_lost_version_are_named() {
    let cache = common::cache_of_links();
    let out = tempfile::tempdir().unwrap();
    let with = |recipe: &Recipe| match build(recipe, &bare_init(), cache.path(), out.path(), &|_| ()) {
        Err(BuildError::Fetch(error)) => Err(error),
        other => Ok(other.unwrap()),
    };
    assert!(with(&recipe("qemu-system-data", |_| ())).is_ok());
    let pinned = Recipe::builtin().unwrap().packages().iter().find(|p| p.name == "qemu-system-data").unwrap().clone();
    let zeros = "0".repeat(64);
    let other_digest = recipe("qemu-system-data", |pin| *pin = pin.replace(&pinned.sha256, &zeros));
    match with(&other_digest).unwrap_err() {
        FetchError::PinMismatch { package, expected, found, .. } => {
            assert_eq!((package.as_str(), expected, found), ("qemu-system-data", zeros.clone(), pinned.sha256.clone()));
        }
        other => panic!("{other:?}"),
    }
    let lost = recipe("qemu-system-data", |pin| {
        *pin = pin.replace(&pinned.sha256, &zeros).replace("1:10.0.2+ds-2", "1:10.0.1+ds-2");
    });
    let error = with(&lost).unwrap_err();
    assert!(matches!(&error, FetchError::VersionGone { package, .. } if package == "qemu-system-data"), "{error:?}");
    assert!(error.to_string().contains("move the pin in guest/pins.toml"), "{error}");
}
