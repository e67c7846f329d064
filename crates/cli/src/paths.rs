//! Where Belljar keeps its things on a user's machine (XDG base directories).

use std::env;
use std::path::PathBuf;

/// The directories of one user.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Keys of the software TEE, guest images, the layer store.
    pub data: PathBuf,
    /// Things that can be made again.
    pub cache: PathBuf,
}

impl Paths {
    /// From the environment: `BELLJAR_DATA`, else `$XDG_DATA_HOME/belljar`, else `~/.local/share/belljar`; likewise
    /// `BELLJAR_CACHE`, `$XDG_CACHE_HOME/belljar`, `~/.cache/belljar`.
    pub fn from_env() -> Self {
        Self {
            data: pick("BELLJAR_DATA", "XDG_DATA_HOME", ".local/share"),
            cache: pick("BELLJAR_CACHE", "XDG_CACHE_HOME", ".cache"),
        }
    }

    /// Keys and store of this user's broker.
    pub fn broker(&self) -> PathBuf {
        self.data.join("broker")
    }

    /// The layer store.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// The guest image: `BELLJAR_GUEST`, or this user's images, of which the current one is taken.
    pub fn guest(&self) -> PathBuf {
        env::var_os("BELLJAR_GUEST").map_or_else(|| self.data.join("guest"), PathBuf::from)
    }

    /// Keys of the software secure processor.
    pub fn softtee(&self) -> PathBuf {
        self.data.join("softtee")
    }
}

fn pick(own: &str, xdg: &str, fallback: &str) -> PathBuf {
    if let Some(dir) = env::var_os(own).filter(|d| !d.is_empty()) {
        return PathBuf::from(dir);
    }
    if let Some(dir) = env::var_os(xdg).filter(|d| !d.is_empty()) {
        return PathBuf::from(dir).join("belljar");
    }
    let home = env::var_os("HOME").filter(|d| !d.is_empty()).map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(fallback).join("belljar")
}
