//! Reports of real hardware through the kernel's TSM interface (Documentation/ABI/testing/configfs-tsm, Linux 6.7 and
//! later): a folder per user, `inblob` in, `outblob` and `auxblob` out, and a generation that shows foreign writes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{Attester, Format, RawReport, TeeError};

const REPORTS: &str = "/sys/kernel/config/tsm/report";
/// Largest blob that is read.
const MAX_BLOB: u64 = 64 * 1024;

/// An entry of our own.
#[derive(Debug)]
pub struct Tsm {
    entry: PathBuf,
    format: Format,
    one: Mutex<()>,
}

impl Tsm {
    /// Makes an entry; `None` when the kernel has no TSM provider.
    pub fn open() -> Result<Option<Self>, TeeError> {
        Self::open_in(Path::new(REPORTS))
    }

    fn open_in(reports: &Path) -> Result<Option<Self>, TeeError> {
        if !reports.is_dir() {
            return Ok(None);
        }
        let entry = reports.join("belljar");
        match fs::create_dir(&entry) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The folder is there as soon as the module is, an entry only with a provider (ENXIO).
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
            Err(source) => return Err(TeeError::Io { what: "make a tsm entry", source }),
        }
        let provider = read(&entry, "provider", "read the tsm provider")?;
        let format = match provider.trim_ascii() {
            b"sev_guest" => Format::Snp,
            b"tdx_guest" => Format::Tdx,
            other => return Err(TeeError::Provider(String::from_utf8_lossy(other.get(..64).unwrap_or(other)).into())),
        };
        Ok(Some(Self { entry, format, one: Mutex::new(()) }))
    }

    fn generation(&self) -> Result<u64, TeeError> {
        let text = read(&self.entry, "generation", "read the tsm generation")?;
        let number = std::str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse().ok());
        number.ok_or_else(|| TeeError::Malformed("tsm generation is not a number".into()))
    }
}

impl Attester for Tsm {
    fn format(&self) -> Format {
        self.format
    }

    fn report(&self, report_data: &[u8; 64]) -> Result<RawReport, TeeError> {
        let _one = self.one.lock();
        let before = self.generation()?;
        let written = fs::write(self.entry.join("inblob"), report_data);
        written.map_err(|source| TeeError::Io { what: "write the tsm request", source })?;
        let report = read(&self.entry, "outblob", "read the tsm report")?;
        let aux = match self.format {
            // Empty when the host gave no certificates.
            Format::Snp => read(&self.entry, "auxblob", "read the tsm certificates").unwrap_or_default(),
            Format::Tdx => Vec::new(),
        };
        let (expected, found) = (before + 1, self.generation()?);
        if found != expected {
            return Err(TeeError::Generation { expected, found });
        }
        Ok(RawReport { format: self.format, report, aux })
    }
}

fn read(entry: &Path, name: &str, what: &'static str) -> Result<Vec<u8>, TeeError> {
    let mut value = Vec::new();
    let file = File::open(entry.join(name)).and_then(|file| file.take(MAX_BLOB).read_to_end(&mut value));
    file.map_err(|source| TeeError::Io { what, source })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(provider: &str) -> tempfile::TempDir {
        let reports = tempfile::tempdir().unwrap();
        let entry = reports.path().join("belljar");
        fs::create_dir(&entry).unwrap();
        fs::write(entry.join("provider"), provider).unwrap();
        fs::write(entry.join("generation"), "1\n").unwrap();
        fs::write(entry.join("outblob"), [3; 1184]).unwrap();
        reports
    }

    #[test]
    fn the_provider_decides_the_format() {
        let format = |provider| Tsm::open_in(entry(provider).path()).map(|tsm| tsm.map(|tsm| tsm.format));
        assert_eq!(format("sev_guest\n").unwrap(), Some(Format::Snp));
        assert_eq!(format("tdx_guest\n").unwrap(), Some(Format::Tdx));
        assert!(matches!(format("other_guest\n"), Err(TeeError::Provider(name)) if name == "other_guest"));
        assert!(Tsm::open_in(Path::new("/nonexistent")).unwrap().is_none());
    }

    /// A plain folder does not count writes as configfs does, so the generation stays behind.
    #[test]
    fn a_generation_that_does_not_follow_our_write_is_refused() {
        let reports = entry("sev_guest\n");
        let tsm = Tsm::open_in(reports.path()).unwrap().unwrap();
        assert!(matches!(tsm.report(&[7; 64]), Err(TeeError::Generation { expected: 2, found: 1 })));
        assert_eq!(fs::read(reports.path().join("belljar/inblob")).unwrap(), [7; 64]);
    }
}
