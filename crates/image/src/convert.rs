//! One compressed layer to one layer image file, in one pass over the stream: both digests are computed on the way, the verity tree
//! is added in a second pass over the written image.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use crate::erofs::{Builder, Medium};
use crate::layer::{self, LayerError};
use crate::limits::Limits;
use crate::tar::{TarError, TarReader};
use crate::verity;

/// Largest zstd window that is decoded (2^25 = 32 MiB), to keep memory bounded.
const ZSTD_WINDOW_LOG: u32 = 25;

/// Compression of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Plain tar.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What the manifest and the config say about a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// `sha256:<hex>` of the compressed blob.
    pub digest: String,
    /// Size of the compressed blob in bytes.
    pub size: u64,
    /// `sha256:<hex>` of the uncompressed tar.
    pub diff_id: String,
    /// How the blob is compressed.
    pub compression: Compression,
}

/// A finished layer image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// 4096-byte blocks of the erofs image; the tree follows.
    pub data_blocks: u64,
    /// Root hash of the tree.
    pub verity_root: [u8; 32],
    /// Salt of the tree.
    pub salt: [u8; 32],
}

/// Why a layer was not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The blob could not be read (from the registry or the disk).
    #[error("cannot read the layer blob: {0}")]
    Source(#[source] io::Error),
    /// The blob has another size than the manifest says.
    #[error(
        "layer blob has the wrong size: manifest says {expected} bytes, found {found}; pull again, or ask who published the image"
    )]
    Size {
        /// Of the manifest.
        expected: u64,
        /// Found, counted up to the first byte too many.
        found: u64,
    },
    /// The blob or the tar in it has another digest.
    #[error("{what} has the wrong digest: expected {expected}, found {found}; do not use this image")]
    Digest {
        /// `layer blob` or `layer tar (diff_id)`.
        what: &'static str,
        /// Of the manifest or the config.
        expected: String,
        /// Of the bytes.
        found: String,
    },
    /// The blob matches its digest, but does not decompress.
    #[error("layer is no valid {format} stream: {source}; the image was published broken")]
    Compression {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What the decoder says.
        source: io::Error,
    },
    /// More uncompressed bytes than [`Limits`] allow.
    #[error(
        "layer explodes: {compressed} compressed bytes give more than {limit} bytes; raise the limit if you trust the image"
    )]
    Explodes {
        /// Size of the blob.
        compressed: u64,
        /// The bound that was hit.
        limit: u64,
    },
    /// The content was refused.
    #[error(transparent)]
    Layer(LayerError),
    /// The image file could not be written or read back.
    #[error("cannot write the layer image: {0}")]
    Write(#[source] io::Error),
}

/// Converts the blob in `source` to an image with a verity tree in `image`, which must be empty. Spools go to unnamed files in
/// `scratch`. `advance` hears the compressed bytes read so far.
///
/// # Errors
/// [`ConvertError`]; `image` then holds garbage.
pub fn convert(
    source: impl Read,
    expected: &Expected,
    limits: &Limits,
    image: File,
    scratch: &Path,
    advance: impl FnMut(u64),
) -> Result<Converted, ConvertError> {
    let mut blob = Blob::new(source, expected.size, advance);
    let spools = || tempfile::tempfile_in(scratch);
    let builder = Builder::new(image, spools).map_err(ConvertError::Write)?;
    let result = read_tar(&mut blob, expected, limits, builder);
    // A damaged blob breaks the decoder or the tar reader first; the digest is the better reason.
    if !matches!(result, Err(ConvertError::Write(_) | ConvertError::Explodes { .. } | ConvertError::Source(_))) {
        blob.check(&expected.digest)?;
    }
    let (builder, diff_id) = result?;
    if diff_id != expected.diff_id {
        return Err(ConvertError::Digest {
            what: "layer tar (diff_id)",
            expected: expected.diff_id.clone(),
            found: diff_id,
        });
    }
    let (mut image, data_blocks) = builder.finish().map_err(ConvertError::Write)?;
    let salt = verity::salt(&diff_id);
    let verity_root = verity::append(&mut image, data_blocks, &salt).map_err(ConvertError::Write)?;
    image.sync_all().map_err(ConvertError::Write)?;
    Ok(Converted { data_blocks, verity_root, salt })
}

/// Reads any bytes as a layer's tar into an image in memory: the entry for fuzzing. Returns the image without a tree.
#[must_use]
pub fn fuzz(data: &[u8]) -> Option<Vec<u8>> {
    let limits = Limits { uncompressed_bytes: 64 << 20, entries: 10_000, ..Limits::default() };
    let mut builder = Builder::new(Vec::new(), || Ok(Vec::new())).ok()?;
    layer::read(&mut TarReader::new(data), &mut builder, &limits).ok()?;
    Some(builder.finish().ok()?.0)
}

fn read_tar<R: Read, F: FnMut(u64), M: Medium>(
    blob: &mut Blob<R, F>,
    expected: &Expected,
    limits: &Limits,
    mut builder: Builder<M>,
) -> Result<(Builder<M>, String), ConvertError> {
    let limit = limits.uncompressed_for(expected.size);
    let format = expected.compression.name();
    let buffered = BufReader::with_capacity(128 * 1024, blob);
    let decoder: Box<dyn Read + '_> = match expected.compression {
        Compression::None => Box::new(buffered),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered).map_err(ConvertError::Write)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(ConvertError::Write)?;
            Box::new(decoder)
        }
    };
    let mut tar = TarReader::new(Tar { inner: decoder, hash: Context::new(&SHA256), left: limit });
    let read = layer::read(&mut tar, &mut builder, limits);
    let mut stream = tar.into_inner();
    match read {
        Ok(()) => Ok((builder, digest(std::mem::replace(&mut stream.hash, Context::new(&SHA256))))),
        Err(LayerError::Write(error)) => Err(ConvertError::Write(error)),
        Err(LayerError::Tar(TarError::Read(error))) => Err(match Signal::of(&error) {
            Some(Signal::Explodes) => ConvertError::Explodes { compressed: expected.size, limit },
            Some(Signal::TooLong { found }) => ConvertError::Size { expected: expected.size, found },
            Some(Signal::Source) => ConvertError::Source(Signal::into_source(error)),
            None => ConvertError::Compression { format, source: error },
        }),
        Err(other) => Err(ConvertError::Layer(other)),
    }
}

/// The compressed bytes, counted and hashed.
struct Blob<R, F> {
    inner: R,
    expected: u64,
    found: u64,
    hash: Context,
    advance: F,
}

impl<R: Read, F: FnMut(u64)> Blob<R, F> {
    fn new(inner: R, expected: u64, advance: F) -> Self {
        Self { inner, expected, found: 0, hash: Context::new(&SHA256), advance }
    }

    /// Reads what is left, and compares size and digest.
    fn check(mut self, expected: &str) -> Result<(), ConvertError> {
        let rest = io::copy(&mut self, &mut io::sink());
        match rest.as_ref().map_err(Signal::of) {
            Ok(_) | Err(Some(Signal::TooLong { .. })) if self.found != self.expected => {
                return Err(ConvertError::Size { expected: self.expected, found: self.found });
            }
            Ok(_) => {}
            Err(_) => return rest.map(drop).map_err(|error| ConvertError::Source(Signal::into_source(error))),
        }
        let found = digest(self.hash);
        if found == expected {
            return Ok(());
        }
        Err(ConvertError::Digest { what: "layer blob", expected: expected.to_owned(), found })
    }
}

impl<R: Read, F: FnMut(u64)> Read for Blob<R, F> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(target).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(Failure { signal: Signal::Source, source: Some(error) }),
        })?;
        self.found += got as u64;
        if self.found > self.expected {
            return Err(Signal::TooLong { found: self.found }.into());
        }
        self.hash.update(target.get(..got).unwrap_or_default());
        (self.advance)(self.found);
        Ok(got)
    }
}

/// The uncompressed bytes, bounded and hashed.
struct Tar<R> {
    inner: R,
    hash: Context,
    left: u64,
}

impl<R: Read> Read for Tar<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(target)?;
        self.left = self.left.checked_sub(got as u64).ok_or(Signal::Explodes)?;
        self.hash.update(target.get(..got).unwrap_or_default());
        Ok(got)
    }
}

/// Our own findings on their way through a decoder's `io::Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Source,
    TooLong { found: u64 },
    Explodes,
}

#[derive(Debug, thiserror::Error)]
#[error("{signal:?}")]
struct Failure {
    signal: Signal,
    source: Option<io::Error>,
}

impl Signal {
    fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Failure>().map(|failure| failure.signal)
    }

    fn into_source(error: io::Error) -> io::Error {
        match error.downcast::<Failure>() {
            Ok(Failure { source: Some(source), .. }) => source,
            Ok(failure) => io::Error::other(failure),
            Err(error) => error,
        }
    }
}

impl From<Signal> for io::Error {
    fn from(signal: Signal) -> Self {
        Self::other(Failure { signal, source: None })
    }
}

/// `sha256:<hex>` of what was hashed.
pub(crate) fn digest(context: Context) -> String {
    format!("sha256:{}", hex::encode(context.finish()))
}

/// `sha256:<hex>` of everything `source` gives.
///
/// # Errors
/// Of the source.
pub fn sha256_of(mut source: impl Read) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(digest(context)),
            Ok(got) => context.update(buffer.get(..got).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
