//! The guest image of a pod VM: how it is built, stored, opened and described.
//!
//! An image is a directory of seven files. Six are what a virtual machine is started from, and the seventh, `manifest.json`,
//! says what they are:
//!
//! | file | what it is |
//! |---|---|
//! | `vmlinux` | Debian's cloud kernel as an ELF with a PVH note, for the fast start without firmware |
//! | `vmlinuz` | the same kernel as a bzImage, which the TEE firmware starts and measures |
//! | `initrd` | newc archive: the agent as `/init`, a closed list of modules, empty directories. No shell |
//! | `qboot.rom` | firmware for the fast start |
//! | `OVMF.amdsev.fd` | firmware for AMD SEV-SNP, with the section for kernel hashes |
//! | `OVMF.inteltdx.ms.fd` | firmware for Intel TDX |
//!
//! [`build`] makes an image from pinned Debian packages and an agent; two builds from the same agent give the same bytes.
//! [`GuestImage`] opens one. The image's name is the SHA-256 over its manifest, so a name says everything.
//!
//! What could not be run on the machines this was written on: the TEE firmware on TEE hardware.
#![forbid(unsafe_code)]

mod apt;
mod builder;
mod cpio;
mod digest;
mod elf;
mod image;
mod initrd;
mod kernel;
mod manifest;
mod modules;
mod recipe;
mod store;

pub use apt::FetchError;
pub use builder::{BuildError, Step, build};
pub use cpio::{CpioError, Entry, EntryKind, read_newc};
pub use elf::{ElfError, fuzz as fuzz_elf};
pub use image::{GuestImage, ImageError, InspectedFile, Inspection};
pub use initrd::{InitrdError, bare_initrd};
pub use kernel::{KernelError, fuzz as fuzz_bzimage, vmlinux_of};
pub use manifest::{FORMAT, FileEntry, Manifest, ManifestError, ModuleEntry, fuzz as fuzz_manifest};
pub use modules::ModuleError;
pub use recipe::{CommandLine, Package, Purpose, Recipe, RecipeError};
pub use store::{cache_dir, default_dir};
