//! The initdata: from its disk, through the hardware's word for it, to the contract.

use std::{fs::File, io::Read, path::Path};

use belljar_contract::{Container, Contract, Digest, Initdata, decode_disk, disk::MAX_DISK};
use belljar_guest_api::names::INITDATA_SERIAL;

use crate::{
    cmdline::Cmdline,
    ports,
    refusal::{Kind, Refusal},
    tee::Register,
};

/// Initdata as it was read; nothing in it is trusted before [`Document::bind`].
#[derive(Debug)]
pub struct Document {
    raw: Vec<u8>,
    parsed: Initdata,
    digest: Digest,
}

/// A contract that the hardware vouches for, and the document it came in.
#[derive(Debug)]
pub struct Bound {
    /// The contract.
    pub contract: Contract,
    /// The initdata document, byte for byte.
    pub document: String,
}

impl Document {
    /// Reads the disk with serial [`INITDATA_SERIAL`].
    pub fn read() -> Result<Self, Refusal> {
        let device = ports::disk(INITDATA_SERIAL).ok_or_else(|| {
            refusal(format!("no disk has the serial {INITDATA_SERIAL}: the host attached no initdata"))
        })?;
        let disk = read_bounded(&device).map_err(|error| refusal(format!("cannot read the initdata disk: {error}")))?;
        Self::parse(decode_disk(&disk).map_err(refusal)?)
    }

    fn parse(raw: Vec<u8>) -> Result<Self, Refusal> {
        let parsed = Initdata::parse(&raw).map_err(refusal)?;
        let digest = belljar_contract::digest(&raw).map_err(refusal)?;
        Ok(Self { raw, parsed, digest })
    }

    /// Compares the document with the register of a report about this VM, in constant time, and opens the contract.
    pub fn bind(self, register: &Register, cmdline: Cmdline) -> Result<Bound, Refusal> {
        if !self.digest.matches(&register.value) {
            let mut expected = self.digest.bytes;
            expected.resize(register.value.len(), 0);
            return Err(refusal(format!(
                "initdata does not match the hardware report: {} expected {}, found {}; the host changed the contract",
                register.name,
                hex::encode(expected),
                hex::encode(&register.value)
            )));
        }
        let contract = self.parsed.contract().map_err(|error| Refusal::new(Kind::Contract, error))?;
        if cmdline.debug && !contract.debug {
            let message = "debug expected false by the contract, found true on the kernel command line: \
                           start without debugging, or allow it in the contract";
            return Err(Refusal::new(Kind::Contract, message));
        }
        // A permission that nothing here can honour is not silently dropped.
        let traced = |container: &Container| container.capabilities.iter().any(|name| name == "CAP_SYS_PTRACE");
        let unsafe_exec =
            contract.containers.iter().find(|(_, container)| !container.exec.is_empty() && traced(container));
        if let Some((name, _)) = unsafe_exec {
            let message = format!(
                "containers.{name}.exec expected empty beside CAP_SYS_PTRACE, found commands: with that capability the container could \
                 read the guest's own memory in a process that is about to join it; leave one of the two out"
            );
            return Err(Refusal::new(Kind::Contract, message));
        }
        let document = String::from_utf8(self.raw).map_err(refusal)?;
        Ok(Bound { contract, document })
    }
}

fn refusal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Kind::Initdata, error)
}

fn read_bounded(device: &Path) -> std::io::Result<Vec<u8>> {
    let mut disk = Vec::new();
    let most = u64::try_from(MAX_DISK).unwrap_or(u64::MAX);
    File::open(device)?.take(most.saturating_add(1)).read_to_end(&mut disk)?;
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(debug: bool) -> Document {
        document_with(debug, "")
    }

    fn document_with(debug: bool, more: &str) -> Document {
        let layer = "[[containers.main.layers]]\nverity_root = \"".to_owned()
            + &"ab".repeat(32)
            + "\"\nsalt = \"\"\ndata_blocks = 1\n";
        let digest = "0".repeat(64);
        let contract = Contract::parse(&format!(
            "version = 1\ndebug = {debug}\n[containers.main]\nimage = \"i\"\nimage_digest = \"sha256:{digest}\"\nargs = [\"/a\"]\n{more}{layer}"
        ));
        Document::parse(Initdata::with_contract(&contract.unwrap()).to_toml().into_bytes()).unwrap()
    }

    fn register(value: [u8; 32]) -> Register {
        Register { name: "host_data", value: value.to_vec() }
    }

    #[test]
    fn only_the_measured_document_is_accepted() {
        let mut value = document(false).digest.host_data();
        let bound = document(false).bind(&register(value), Cmdline::default()).unwrap();
        assert!(bound.contract.containers.contains_key("main"));
        let expected = hex::encode(value);
        value[31] ^= 1;
        let refused = document(false).bind(&register(value), Cmdline::default()).unwrap_err();
        let found = hex::encode(value);
        let line = format!("initdata does not match the hardware report: host_data expected {expected}, found {found}");
        assert_eq!(refused.kind, Kind::Initdata);
        assert!(refused.message.starts_with(&line), "{}", refused.message);
    }

    #[test]
    fn exec_beside_the_right_to_trace_is_refused_rather_than_ignored() {
        let bind = |more| {
            let document = document_with(false, more);
            let register = register(document.digest.host_data());
            document.bind(&register, Cmdline::default())
        };
        assert!(bind("exec = [[\"/bin/sh\"]]\n").is_ok());
        assert!(bind("capabilities = [\"CAP_SYS_PTRACE\"]\n").is_ok());
        let refused = bind("exec = [[\"/bin/sh\"]]\ncapabilities = [\"CAP_SYS_PTRACE\"]\n").unwrap_err();
        assert_eq!(refused.kind, Kind::Contract);
        let expected = "containers.main.exec expected empty beside CAP_SYS_PTRACE, found commands";
        assert!(refused.message.starts_with(expected), "{}", refused.message);
    }

    #[test]
    fn debugging_must_be_in_the_contract() {
        let bind = |allowed| {
            let document = document(allowed);
            let register = register(document.digest.host_data());
            document.bind(&register, Cmdline { debug: true })
        };
        assert!(bind(true).is_ok());
        let refused = bind(false).unwrap_err();
        assert_eq!(refused.kind, Kind::Contract);
        assert!(refused.message.starts_with("debug expected false by the contract, found true"), "{}", refused.message);
    }
}
