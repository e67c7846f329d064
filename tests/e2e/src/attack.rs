//! What a hostile host does to a pod VM before it starts. The host's weapon is a wrapper in QEMU's place
//! (`hostile-qemu`, chosen by `BELLJAR_QEMU`): it changes one thing in the command line that `belljar` gave, or in a file
//! named there, and then becomes QEMU. Each attack has a positive twin that goes through the same motions and changes
//! nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use belljar_contract::{Initdata, decode_disk, encode_disk};
use serde_json::Value;

/// The environment variable that names the attack.
pub const ATTACK: &str = "BELLJAR_ATTACK";
/// The environment variable that names a directory for changed copies.
pub const DIRECTORY: &str = "BELLJAR_ATTACK_DIR";
/// The environment variable with the bytes (hex) in a layer file whose first one is flipped.
pub const NEEDLE: &str = "BELLJAR_ATTACK_NEEDLE";

/// One thing that the host changes, or (the twin) touches without changing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Another word on the kernel command line.
    CommandLine {
        /// Whether the word is really added.
        change: bool,
    },
    /// Another initrd: a file is added behind ours.
    Initrd {
        /// Whether the copy differs.
        change: bool,
    },
    /// The contract on the initdata disk has one environment variable more.
    Contract {
        /// Whether the copy differs.
        change: bool,
    },
    /// The same, and HOST_DATA is set to the changed contract's digest, as a host can.
    ContractAndHostData {
        /// Whether the copy differs.
        change: bool,
    },
    /// One byte of an image layer is flipped.
    Layer {
        /// Whether the byte is really flipped.
        change: bool,
    },
}

impl Attack {
    /// Every attack.
    pub const ALL: [fn(bool) -> Self; 5] = [
        |change| Self::CommandLine { change },
        |change| Self::Initrd { change },
        |change| Self::Contract { change },
        |change| Self::ContractAndHostData { change },
        |change| Self::Layer { change },
    ];

    /// The value of [`ATTACK`].
    pub fn name(self) -> String {
        let (name, change) = match self {
            Self::CommandLine { change } => ("command-line", change),
            Self::Initrd { change } => ("initrd", change),
            Self::Contract { change } => ("contract", change),
            Self::ContractAndHostData { change } => ("contract-and-host-data", change),
            Self::Layer { change } => ("layer", change),
        };
        if change { name.to_owned() } else { format!("{name}-twin") }
    }

    /// The attack of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().flat_map(|a| [a(true), a(false)]).find(|a| a.name() == name)
    }

    /// What the host does, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::CommandLine { .. } => "another kernel command line",
            Self::Initrd { .. } => "another initrd",
            Self::Contract { .. } => "a changed contract on the initdata disk",
            Self::ContractAndHostData { .. } => "a changed contract, with HOST_DATA changed to fit",
            Self::Layer { .. } => "one flipped byte in an image layer",
        }
    }

    /// Carries the attack out on a QEMU command line; copies of files go to `directory`.
    pub fn apply(self, arguments: Vec<OsString>, directory: &Path, needle: &[u8]) -> io::Result<Vec<OsString>> {
        let mut arguments = arguments;
        match self {
            Self::CommandLine { change } => {
                let value = after(&mut arguments, "-append")?;
                if change {
                    value.push(" loglevel=4");
                }
            }
            Self::Initrd { change } => {
                let value = after(&mut arguments, "-initrd")?;
                let mut bytes = fs::read(&*value)?;
                if change {
                    bytes.extend_from_slice(&extra_archive());
                }
                let copy = directory.join("initrd");
                fs::write(&copy, bytes)?;
                *value = copy.into_os_string();
            }
            Self::Contract { change } | Self::ContractAndHostData { change } => {
                let (index, path) = disk(&arguments, "initdata")?;
                let raw = decode_disk(&fs::read(&path)?).map_err(io::Error::other)?;
                let altered = if change { with_other_environment(&raw)? } else { raw };
                let copy = directory.join("initdata");
                fs::write(&copy, encode_disk(&altered))?;
                replace(&mut arguments, index, &copy);
                if let Self::ContractAndHostData { .. } = self {
                    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &altered);
                    set_host_data(&mut arguments, &hex::encode(digest))?;
                }
            }
            Self::Layer { change } => {
                for (index, path) in disks(&arguments, "layer-") {
                    let mut bytes = fs::read(&path)?;
                    let Some(at) = find(&bytes, needle) else { continue };
                    if change {
                        bytes[at] ^= 1;
                    }
                    let copy = directory.join("layer");
                    fs::write(&copy, bytes)?;
                    replace(&mut arguments, index, &copy);
                    return Ok(arguments);
                }
                return Err(io::Error::other("no layer holds the bytes to change"));
            }
        }
        Ok(arguments)
    }
}

/// The document with a variable in each container's environment that makes it run the host's code.
fn with_other_environment(raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut contract = Initdata::parse(raw).and_then(|initdata| initdata.contract()).map_err(io::Error::other)?;
    for container in contract.containers.values_mut() {
        container.env.insert("LD_PRELOAD".to_owned(), "/host/evil.so".to_owned());
    }
    Ok(Initdata::with_contract(&contract).to_toml().into_bytes())
}

/// The value behind an option.
fn after<'a>(arguments: &'a mut [OsString], option: &str) -> io::Result<&'a mut OsString> {
    let at = arguments.iter().position(|a| a == option).ok_or_else(|| io::Error::other(format!("no {option}")))?;
    arguments.get_mut(at + 1).ok_or_else(|| io::Error::other(format!("{option} without a value")))
}

/// The block devices whose serial number starts like that: index of the `-blockdev` value, and its file.
fn disks(arguments: &[OsString], serial: &str) -> Vec<(usize, PathBuf)> {
    let objects: Vec<(usize, Value)> = arguments
        .iter()
        .enumerate()
        .filter_map(|(index, argument)| Some((index, serde_json::from_str(argument.to_str()?).ok()?)))
        .collect();
    let nodes = objects.iter().filter(|(_, device)| {
        device["driver"] == "virtio-blk-pci" && device["serial"].as_str().is_some_and(|s| s.starts_with(serial))
    });
    nodes
        .filter_map(|(_, device)| {
            let (index, block) = objects.iter().find(|(_, block)| block["node-name"] == device["drive"])?;
            Some((*index, given_file(arguments, block["file"]["filename"].as_str()?)?))
        })
        .collect()
}

/// The file behind a name that QEMU was given; `/dev/fdset/N` is one that this process has open.
fn given_file(arguments: &[OsString], name: &str) -> Option<PathBuf> {
    let Some(set) = name.strip_prefix("/dev/fdset/") else { return Some(PathBuf::from(name)) };
    let set = format!("set={set}");
    let fd = arguments.iter().filter_map(|a| a.to_str()).find_map(|a| {
        let mut parts = a.split(',');
        let fd = parts.next()?.strip_prefix("fd=")?;
        parts.any(|p| p == set).then_some(fd)
    })?;
    Some(PathBuf::from(format!("/proc/self/fd/{fd}")))
}

fn disk(arguments: &[OsString], serial: &str) -> io::Result<(usize, PathBuf)> {
    disks(arguments, serial).into_iter().next().ok_or_else(|| io::Error::other(format!("no disk {serial}")))
}

fn replace(arguments: &mut [OsString], index: usize, new: &Path) {
    let mut block: Value = serde_json::from_slice(arguments[index].as_bytes()).expect("it was JSON a moment ago");
    block["file"]["filename"] = Value::String(new.to_str().expect("our own paths are UTF-8").to_owned());
    arguments[index] = OsString::from(block.to_string());
}

fn set_host_data(arguments: &mut [OsString], digest: &str) -> io::Result<()> {
    const FW_CFG: &str = "name=opt/org.belljar/host-data,string=";
    for argument in arguments.iter_mut() {
        if argument.to_str().is_some_and(|a| a.starts_with(FW_CFG)) {
            *argument = OsString::from(format!("{FW_CFG}{digest}"));
            return Ok(());
        }
    }
    Err(io::Error::other("no HOST_DATA to change"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// A cpio archive with one file, as an attacker would append it: the kernel unpacks one after the other.
fn extra_archive() -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, data) in [("backdoor", b"let me in\n".as_slice()), ("TRAILER!!!", b"".as_slice())] {
        let header = format!(
            "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            1,
            0o100_644,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

/// The attack that the environment asks for, and its parameters.
pub fn from_environment(lookup: impl Fn(&str) -> Option<OsString>) -> Result<(Attack, PathBuf, Vec<u8>), String> {
    let name = lookup(ATTACK).ok_or_else(|| format!("{ATTACK} is not set"))?;
    let attack = name.to_str().and_then(Attack::from_name).ok_or_else(|| format!("no attack is called {name:?}"))?;
    let directory = lookup(DIRECTORY).ok_or_else(|| format!("{DIRECTORY} is not set"))?;
    let needle = lookup(NEEDLE).unwrap_or_default();
    let needle = hex::decode(needle.as_bytes()).map_err(|e| format!("{NEEDLE}: {e}"))?;
    Ok((attack, PathBuf::from(directory), needle))
}

/// Whether a command line starts a VM; `qemu --version` and the like pass through unchanged.
pub fn starts_a_vm(arguments: &[OsString]) -> bool {
    arguments.iter().any(|a| a.as_os_str() == OsStr::new("-kernel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_has_a_twin_and_a_name() {
        for attack in Attack::ALL {
            assert_ne!(attack(true), attack(false));
            assert_eq!(Attack::from_name(&attack(true).name()), Some(attack(true)));
            assert_eq!(Attack::from_name(&attack(false).name()), Some(attack(false)));
        }
        assert_eq!(Attack::from_name("nothing"), None);
    }

    #[test]
    fn a_command_line_changes_and_its_twin_does_not() {
        let given: Vec<OsString> = ["-kernel", "k", "-append", "quiet"].iter().map(OsString::from).collect();
        let directory = tempfile::tempdir().unwrap();
        let twin = Attack::CommandLine { change: false }.apply(given.clone(), directory.path(), &[]).unwrap();
        assert_eq!(twin, given);
        let attacked = Attack::CommandLine { change: true }.apply(given, directory.path(), &[]).unwrap();
        assert_eq!(attacked[3], "quiet loglevel=4");
    }
}
