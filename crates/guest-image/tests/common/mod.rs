//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use belljar_guest_image::{Recipe, build, cache_dir};

pub const PINS: &str = include_str!("../../../../guest/pins.toml");
pub const RECIPE: &str = include_str!("../../../../guest/recipe.toml");

/// The example `bare_init`, which cargo builds together with the tests.
pub fn bare_init() -> PathBuf {
    // target/TRIPLE/PROFILE/deps/TEST
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/bare_init");
    assert!(path.exists(), "{} is missing; run `cargo build -p belljar-guest-image --examples`", path.display());
    path
}

/// The builtin recipe with one package's pin changed.
pub fn recipe(package: &str, change: impl Fn(&mut String)) -> Recipe {
    let mut parts: Vec<String> = PINS.split("[[package]]").map(str::to_owned).collect();
    let part = parts.iter_mut().find(|part| part.contains(&format!("name = \"{package}\""))).unwrap();
    change(part);
    Recipe::parse(&parts.join("[[package]]"), RECIPE, "1").unwrap()
}

/// A cache of its own for one test: it holds the packages of the user's cache, which is filled first.
pub fn cache_of_links() -> tempfile::TempDir {
    let recipe = Recipe::builtin().unwrap();
    let there = |sha256: &str| cache_dir().join(format!("guest/debs/{sha256}.deb")).exists();
    if !recipe.packages().iter().all(|package| there(&package.sha256)) {
        let out = tempfile::tempdir().unwrap();
        build(&recipe, &bare_init(), &cache_dir(), out.path(), &|_| ()).unwrap();
    }
    let cache = tempfile::tempdir_in(cache_dir()).unwrap();
    let debs = cache.path().join("guest/debs");
    fs::create_dir_all(&debs).unwrap();
    for entry in fs::read_dir(cache_dir().join("guest/debs")).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), debs.join(entry.file_name())).unwrap();
    }
    cache
}
