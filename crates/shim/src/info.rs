//! `-v` and `-info`: who we are.

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::Message as _;

/// One line for a person.
pub fn version() -> String {
    format!("containerd-shim-belljar-v2 {}", env!("CARGO_PKG_VERSION"))
}

/// A `RuntimeInfo` for containerd 2. It names no features: what a container may do stands in its pod's contract.
pub fn info(program: &str) -> Vec<u8> {
    let mut version = RuntimeVersion::new();
    env!("CARGO_PKG_VERSION").clone_into(&mut version.version);
    let mut info = RuntimeInfo::new();
    program.clone_into(&mut info.name);
    info.version = Some(version).into();
    info.write_to_bytes().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_itself() {
        let info = RuntimeInfo::parse_from_bytes(&info("containerd-shim-belljar-snp-v2")).unwrap();
        assert_eq!(info.name, "containerd-shim-belljar-snp-v2");
        assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
        assert!(version().starts_with("containerd-shim-belljar-v2 "));
    }
}
