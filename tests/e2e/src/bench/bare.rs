//! The baseline: QEMU started by hand, with the kernel, command line, firmware, CPU, memory size and accelerator that the pod
//! VM has, and an initrd whose only program writes one line and powers off.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar_e2e::programs::root;
use belljar_guest_image::bare_initrd;

use crate::child::{self, Start, Started};
use crate::show::{Doing, Trouble};

/// What the only program writes (crates/guest-image/examples/bare_init.rs).
const LINE: &[u8] = b"belljar-bare-init: first line";
/// Options that the pod's QEMU and the bare one have in common.
const COMMON: [&str; 7] = ["-cpu", "-smp", "-m", "-bios", "-kernel", "-append", "-machine"];

/// QEMU by hand.
#[derive(Debug)]
pub struct Bare {
    arguments: Vec<OsString>,
    /// `tcg` or `kvm`.
    pub accelerator: String,
    /// `-m`.
    pub memory: String,
}

impl Bare {
    /// Like the running QEMU of a pod; the initrd is written to `directory`.
    pub fn like(pod_qemu: u32, directory: &Path) -> Result<Self, Trouble> {
        let line = std::fs::read(format!("/proc/{pod_qemu}/cmdline")).doing("read the pod's QEMU command line")?;
        let words: Vec<OsString> = line.split(|b| *b == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
        Self::with(&words, directory)
    }

    /// Like a QEMU that was given these words; the initrd is written to `directory`.
    pub fn with(words: &[OsString], directory: &Path) -> Result<Self, Trouble> {
        let value = |option: &str| {
            let at = words.iter().position(|word| word == option);
            let value = at.and_then(|at| words.get(at.saturating_add(1))).cloned();
            value.ok_or_else(|| Trouble(format!("the pod's QEMU has no {option}")))
        };
        let machine = value("-machine")?.to_string_lossy().into_owned();
        let accelerator = machine.split(',').find_map(|part| part.strip_prefix("accel=")).unwrap_or("tcg").to_owned();
        let mut arguments: Vec<OsString> =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(OsString::from).into();
        for option in COMMON {
            let value = if option == "-machine" { format!("q35,accel={accelerator}").into() } else { value(option)? };
            arguments.extend([option.into(), value]);
        }
        let initrd = directory.join("bare.initrd");
        std::fs::write(&initrd, bare_initrd(&bare_init()?).doing("make the bare initrd")?)
            .doing("write the bare initrd")?;
        arguments.extend(["-initrd".into(), initrd.into_os_string()]);
        for (option, value) in [
            ("-device", "virtio-serial-pci,max_ports=4"),
            ("-chardev", "stdio,id=console,signal=off"),
            ("-device", "virtconsole,chardev=console,nr=0"),
        ] {
            arguments.extend([option.into(), value.into()]);
        }
        let memory = value("-m")?.to_string_lossy().into_owned();
        Ok(Self { arguments, accelerator, memory })
    }

    /// From exec to the line of the guest's first program.
    pub fn start(&self) -> Result<Start, Trouble> {
        self.until_line()?.end()
    }

    /// Until that line.
    pub fn until_line(&self) -> Result<Started, Trouble> {
        child::until(Command::new("qemu-system-x86_64").args(&self.arguments), LINE)
    }
}

/// The built example; builds it where it is missing.
fn bare_init() -> Result<PathBuf, Trouble> {
    let path = root().join("target/x86_64-unknown-linux-gnu/release/examples/bare_init");
    if !path.exists() {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "-p", "belljar-guest-image", "--example", "bare_init"]);
        let built = cargo.current_dir(root()).status().doing("run cargo")?;
        if !built.success() {
            return Err(Trouble("the example bare_init could not be built".to_owned()));
        }
    }
    Ok(path)
}
