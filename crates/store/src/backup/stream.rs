//! The file of a backup: a header, then sealed chunks of one stream.
//!
//! Header: `belljar backup 1` and an end of line; the id of the key-encryption key behind its length (2 bytes); the
//! backup's own key, wrapped, behind its length (2 bytes). Then chunks, each behind its length (4 bytes), sealed with
//! AES-256-GCM under the backup's key. The nonce of a chunk is 3 zero bytes, 1 for the last chunk and 0 for others, and
//! the chunk's number from 0 in 8 bytes; its additional data are the header. So chunks cannot be changed, moved, left out
//! or added, and the end cannot be cut. All chunks but the last hold [`CHUNK`] bytes. Nothing follows the last one.

use std::io::Read;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{BackupError, RestoreError};
use crate::seal::{DataKey, KeyError, KeyId, KeyProvider, MAX_KEY_ID, MAX_WRAPPED};

const MAGIC: &[u8; 17] = b"belljar backup 1\n";
/// What the wrapping of a backup's key is bound to.
const CONTEXT: &[u8] = b"belljar backup key 1";
/// Bytes of the stream in a chunk.
pub(super) const CHUNK: usize = 1 << 18;

fn open_key(key: &DataKey) -> Result<LessSafeKey, KeyError> {
    let key = UnboundKey::new(&AES_256_GCM, key.as_bytes()).map_err(|_| KeyError::Library("key"))?;
    Ok(LessSafeKey::new(key))
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3] = u8::from(last);
    if let Some(end) = nonce.last_chunk_mut() {
        *end = number.to_be_bytes();
    }
    Nonce::assume_unique_for_key(nonce)
}

/// Writes a stream. The key is used for this one.
pub(super) struct Writer<W> {
    out: W,
    key: LessSafeKey,
    header: Vec<u8>,
    number: u64,
    chunk: Vec<u8>,
    written: u64,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) async fn new(out: W, provider: &dyn KeyProvider) -> Result<Self, BackupError> {
        let key = DataKey::generate()?;
        let wrapped = provider.wrap(&key, CONTEXT).await?;
        let id = provider.id();
        if wrapped.len() > MAX_WRAPPED {
            let why = format!("a wrapped key of {} bytes, {MAX_WRAPPED} is the most", wrapped.len());
            return Err(KeyError::Refused { id: id.clone(), why }.into());
        }
        let mut header = MAGIC.to_vec();
        for part in [id.as_str().as_bytes(), &wrapped] {
            header.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            header.extend(part);
        }
        let mut writer = Self { out, key: open_key(&key)?, header, number: 0, chunk: Vec::new(), written: 0 };
        writer.out.write_all(&writer.header).await?;
        writer.written = u64::try_from(writer.header.len()).unwrap_or(u64::MAX);
        Ok(writer)
    }

    /// More of the stream.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            // A full chunk waits until it is known not to be the last.
            if self.chunk.len() == CHUNK {
                self.seal(false).await?;
            }
            let room = CHUNK.saturating_sub(self.chunk.len()).min(bytes.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.chunk.extend(now);
            bytes = later;
        }
        Ok(())
    }

    async fn seal(&mut self, last: bool) -> Result<(), BackupError> {
        let sealed =
            self.key.seal_in_place_append_tag(nonce(self.number, last), Aad::from(&self.header), &mut self.chunk);
        sealed.map_err(|_| KeyError::Library("sealing"))?;
        let length = u32::try_from(self.chunk.len()).map_err(|_| KeyError::Library("length"))?;
        self.out.write_all(&length.to_be_bytes()).await?;
        self.out.write_all(&self.chunk).await?;
        self.written = self.written.saturating_add(4).saturating_add(length.into());
        self.number = self.number.saturating_add(1);
        self.chunk.clear();
        Ok(())
    }

    /// Ends the stream; the number of bytes of the file.
    pub(super) async fn end(mut self) -> Result<u64, BackupError> {
        self.seal(true).await?;
        self.out.flush().await?;
        Ok(self.written)
    }
}

/// The header of a file.
pub(super) struct Header {
    bytes: Vec<u8>,
    pub(super) key_id: KeyId,
    wrapped: Vec<u8>,
}

/// Reads exactly so many bytes; false when the file ends before.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<bool, RestoreError> {
    match input.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Header {
    pub(super) fn read(input: &mut impl Read) -> Result<Self, RestoreError> {
        let mut bytes = vec![0; MAGIC.len()];
        if !fill(input, &mut bytes)? || bytes != MAGIC {
            return Err(RestoreError::Foreign);
        }
        let mut part = |most: usize| {
            let mut length = [0; 2];
            if !fill(input, &mut length)? {
                return Err(RestoreError::Cut);
            }
            bytes.extend(length);
            let length = usize::from(u16::from_be_bytes(length));
            if length > most {
                return Err(RestoreError::Foreign);
            }
            let mut part = vec![0; length];
            if !fill(input, &mut part)? {
                return Err(RestoreError::Cut);
            }
            bytes.extend(&part);
            Ok(part)
        };
        let (id, wrapped) = (part(MAX_KEY_ID)?, part(MAX_WRAPPED)?);
        let id = String::from_utf8(id).ok().and_then(|id| KeyId::new(&id).ok());
        Ok(Self { bytes, key_id: id.ok_or(RestoreError::Foreign)?, wrapped })
    }

    /// The backup's key, which is bound to the rest of the header by every chunk.
    pub(super) async fn unwrap(&self, provider: &dyn KeyProvider) -> Result<DataKey, RestoreError> {
        let key = provider.unwrap(&self.wrapped, CONTEXT).await?;
        key.ok_or_else(|| RestoreError::Wrapped(self.key_id.clone()))
    }
}

/// Reads a stream. What comes out is authentic; that it is whole is known when the end was reached.
pub(super) struct Reader<R> {
    input: R,
    key: LessSafeKey,
    header: Vec<u8>,
    number: u64,
    chunk: Vec<u8>,
    at: usize,
    last: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R, header: Header, key: &DataKey) -> Result<Self, RestoreError> {
        let key = open_key(key)?;
        Ok(Self { input, key, header: header.bytes, number: 0, chunk: Vec::new(), at: 0, last: false })
    }

    fn refill(&mut self) -> Result<(), RestoreError> {
        let mut length = [0; 4];
        if self.last || !fill(&mut self.input, &mut length)? {
            return Err(RestoreError::Cut);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let changed = RestoreError::Changed(self.number);
        if !(MAX_TAG_LEN..=CHUNK.saturating_add(MAX_TAG_LEN)).contains(&length) {
            return Err(changed);
        }
        let mut sealed = vec![0; length];
        if !fill(&mut self.input, &mut sealed)? {
            return Err(RestoreError::Cut);
        }
        // Only the last one may be short, and a full one may be the last too.
        let whole = length == CHUNK.saturating_add(MAX_TAG_LEN);
        for last in [false, true] {
            if !last && !whole {
                continue;
            }
            let mut chunk = sealed.clone();
            let opened = self.key.open_in_place(nonce(self.number, last), Aad::from(&self.header), &mut chunk);
            if let Ok(opened) = opened.map(|opened| opened.len()) {
                chunk.truncate(opened);
                (self.chunk, self.at, self.last) = (chunk, 0, last);
                self.number = self.number.saturating_add(1);
                return Ok(());
            }
        }
        Err(changed)
    }

    /// So many bytes of the stream.
    pub(super) fn take(&mut self, mut count: usize) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = Vec::with_capacity(count.min(CHUNK));
        while count > 0 {
            let rest = self.chunk.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                self.refill()?;
                continue;
            }
            let now = rest.get(..count).unwrap_or(rest);
            bytes.extend(now);
            self.at = self.at.saturating_add(now.len());
            count = count.saturating_sub(now.len());
        }
        Ok(bytes)
    }

    /// Nothing follows, neither in the stream nor in the file.
    pub(super) fn end(&mut self) -> Result<(), RestoreError> {
        if !self.last || self.at != self.chunk.len() {
            return Err(RestoreError::Malformed("something behind its end".into()));
        }
        let mut more = [0];
        if fill(&mut self.input, &mut more)? { Err(RestoreError::Changed(self.number)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_of_every_length_come_back() {
        let provider = crate::FileKey::new(&std::array::from_fn(|n| u8::try_from(n).unwrap())).unwrap();
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7] {
            let stream: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut file = Vec::new();
            let mut writer = Writer::new(&mut file, &provider).await.unwrap();
            for part in stream.chunks(100_003) {
                writer.write(part).await.unwrap();
            }
            assert_eq!(writer.end().await.unwrap(), u64::try_from(file.len()).unwrap());
            let open = async |file: &[u8]| {
                let mut input = std::io::Cursor::new(file.to_vec());
                let header = Header::read(&mut input).unwrap();
                let key = header.unwrap(&provider).await.unwrap();
                Reader::new(input, header, &key).unwrap()
            };
            let mut reader = open(&file).await;
            assert_eq!(reader.take(length).unwrap(), stream);
            if length > 0 {
                reader.end().unwrap();
                let mut early = open(&file).await;
                early.take(length - 1).unwrap();
                assert!(matches!(early.end(), Err(RestoreError::Malformed(_))));
            }
            assert!(matches!(open(&file).await.take(length + 1), Err(RestoreError::Cut)));
            // The last chunk is told from others, also when it is full.
            let more = [&file[..], &[0, 0, 0, 16], &[0; 16]].concat();
            let mut reader = open(&more).await;
            reader.take(length).unwrap();
            if length > 0 {
                assert!(matches!(reader.end(), Err(RestoreError::Changed(_))));
            }
        }
    }
}
