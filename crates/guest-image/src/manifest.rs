//! What an image says of itself. The bytes of `manifest.json` are canonical: fields in the order of the types here, keys of maps
//! sorted, two spaces, a closing newline. The SHA-256 over these bytes is the image's name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::sha256_hex;
use crate::recipe::CommandLine;

/// The version of the manifest's format that this crate writes and reads.
pub const FORMAT: u32 = 1;
/// The image's files beside the manifest.
pub(crate) const FILES: [&str; 6] =
    ["OVMF.amdsev.fd", "OVMF.inteltdx.ms.fd", "initrd", "qboot.rom", "vmlinux", "vmlinuz"];
/// A manifest larger than this is refused before it is parsed: ours has 6 KiB.
pub(crate) const MAX_MANIFEST: u64 = 256 * 1024;

/// `manifest.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`]
    pub format: u32,
    /// `uname -r` of the guest.
    pub kernel_release: String,
    /// The version of the agent in the initrd.
    pub agent_version: String,
    /// SHA-256 of the agent, `/init` of the initrd, in lowercase hex.
    pub agent_sha256: String,
    /// The kernel's words.
    pub command_line: CommandLine,
    /// The image's files by name.
    pub files: BTreeMap<String, FileEntry>,
    /// The modules in the initrd, sorted by name.
    pub modules: Vec<ModuleEntry>,
}

/// One file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// SHA-256 in lowercase hex.
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
    /// The package that it comes from; `belljar` for the initrd.
    pub package: String,
    /// The source package.
    pub source: String,
    /// The package's version.
    pub version: String,
}

/// One module in the initrd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleEntry {
    /// The name, with underscores.
    pub name: String,
    /// SHA-256 of the file without its signature, in lowercase hex.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// Which lists name it: `order` (every start), `order.snp`, `order.tdx`, `order.vsock`, `order.net`.
    pub lists: Vec<String>,
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or a key is missing or unknown.
    #[error("the manifest cannot be read: {0}; build the image again with `belljar guest build`")]
    Json(String),
    /// Written by another Belljar.
    #[error("the manifest has format {found}, expected {FORMAT}; build the image again with `belljar guest build`")]
    Format {
        /// `format` of the manifest.
        found: u32,
    },
    /// Files are missing or added.
    #[error("the manifest lists the files {found:?}, expected {FILES:?}")]
    Files {
        /// The names in it.
        found: Vec<String>,
    },
    /// A digest is not 64 lowercase hexadecimal digits.
    #[error("the manifest has the digest {found:?} for {name}, expected 64 lowercase hexadecimal digits")]
    Digest {
        /// The file or module.
        name: String,
        /// What stands there.
        found: String,
    },
    /// The same content written in another way would give the image a second name.
    #[error("the manifest is not in its canonical form; build the image again with `belljar guest build`")]
    NotCanonical,
}

impl Manifest {
    /// A manifest from its bytes; only the canonical form is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Format { found: manifest.format });
        }
        if !manifest.files.keys().eq(FILES.iter()) {
            return Err(ManifestError::Files { found: manifest.files.into_keys().collect() });
        }
        let files = manifest.files.iter().map(|(name, file)| (name, &file.sha256));
        let modules = manifest.modules.iter().map(|module| (&module.name, &module.sha256));
        for (name, digest) in files.chain(modules) {
            if digest.len() != 64 || !digest.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(ManifestError::Digest { name: name.clone(), found: digest.clone() });
            }
        }
        if manifest.to_bytes()? != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| ManifestError::Json(error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The image's name: SHA-256 over the canonical bytes, in lowercase hex.
    pub fn id(&self) -> Result<String, ManifestError> {
        Ok(sha256_hex(&self.to_bytes()?))
    }
}

/// The reader of manifests on any bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = Manifest::parse(data);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn manifest() -> Manifest {
        let file = || FileEntry {
            sha256: sha256_hex(b"contents"),
            size: 8,
            package: "p".into(),
            source: "s".into(),
            version: "1".into(),
        };
        Manifest {
            format: FORMAT,
            kernel_release: "6.12".into(),
            agent_version: "0.1.0".into(),
            agent_sha256: sha256_hex(b"agent"),
            command_line: CommandLine { base: "b".into(), quiet: "q".into(), debug: "d".into() },
            files: FILES.iter().map(|name| ((*name).to_owned(), file())).collect(),
            modules: vec![ModuleEntry {
                name: "m".into(),
                sha256: sha256_hex(b"m"),
                size: 1,
                lists: vec!["order".into()],
            }],
        }
    }

    fn changed(from: &str, to: &str) -> Result<Manifest, ManifestError> {
        let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        Manifest::parse(text.replacen(from, to, 1).as_bytes())
    }

    #[test]
    fn a_manifest_reads_back_and_each_change_has_its_own_error() {
        assert_eq!(changed("", ""), Ok(manifest()));
        let unknown = changed("\"format\": 1,", "\"format\": 1, \"shell\": true,");
        assert!(matches!(&unknown, Err(ManifestError::Json(reason)) if reason.contains("shell")), "{unknown:?}");
        assert_eq!(changed("\"format\": 1", "\"format\": 2"), Err(ManifestError::Format { found: 2 }));
        assert_eq!(changed("\"format\": 1", "\"format\":  1"), Err(ManifestError::NotCanonical));
        assert!(matches!(changed("\"initrd\": {", "\"initrd2\": {"), Err(ManifestError::Files { .. })));
        let digest = sha256_hex(b"contents");
        let upper = digest.to_uppercase();
        let error = ManifestError::Digest { name: "OVMF.amdsev.fd".into(), found: upper.clone() };
        assert_eq!(changed(&digest, &upper), Err(error));
    }

    #[test]
    fn every_field_is_in_the_name() {
        let id = manifest().id().unwrap();
        let with = |change: &dyn Fn(&mut Manifest)| {
            let mut other = manifest();
            change(&mut other);
            other.id().unwrap()
        };
        assert_eq!(with(&|_| ()), id);
        assert_ne!(with(&|other| other.command_line.debug.push('x')), id);
        assert_ne!(with(&|other| other.agent_sha256 = sha256_hex(b"x")), id);
        assert_ne!(with(&|other| other.modules.clear()), id);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(data: Vec<u8>, at in 0usize..1000, value: u8) {
            fuzz(&data);
            let mut bytes = manifest().to_bytes().unwrap();
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            fuzz(&bytes);
        }
    }
}
