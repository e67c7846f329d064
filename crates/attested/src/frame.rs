//! Frames of a stream: one byte for the kind, four for the length, big-endian, then the content.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes of one frame's content.
pub const MAX_FRAME: usize = 64 * 1024;
/// Bytes before the content.
pub const HEADER: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the guest: [`crate::wire::ExecStart`], once, first.
    Start = 1,
    /// To the guest: bytes for stdin; none: its end.
    Stdin = 2,
    /// To the guest: columns and rows of the terminal, 16 bits each, big-endian.
    Resize = 3,
    /// From the guest: bytes of stdout, or of the terminal.
    Stdout = 4,
    /// From the guest: bytes of stderr.
    Stderr = 5,
    /// From the guest: [`crate::wire::ExecExit`], last.
    Exit = 6,
    /// From the guest: why not, one line of text, last.
    Error = 7,
    /// From the guest, of logs: that was all, last. Without it anybody on the way may have cut the stream.
    End = 8,
    /// From the guest, of logs: how many bytes are missing here, 64 bits, big-endian, because they were not read in time.
    Gap = 9,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Start,
        Self::Stdin,
        Self::Resize,
        Self::Stdout,
        Self::Stderr,
        Self::Exit,
        Self::Error,
        Self::End,
        Self::Gap,
    ];

    fn byte(self) -> u8 {
        match self {
            Self::Start => 1,
            Self::Stdin => 2,
            Self::Resize => 3,
            Self::Stdout => 4,
            Self::Stderr => 5,
            Self::Exit => 6,
            Self::Error => 7,
            Self::End => 8,
            Self::Gap => 9,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// At most [`MAX_FRAME`] bytes.
    pub content: Vec<u8>,
}

/// Why bytes are not frames.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A kind that is not known.
    #[error("frame of kind {0} is not known")]
    Kind(u8),
    /// Longer than [`MAX_FRAME`].
    #[error("frame of {0} bytes, at most {MAX_FRAME} are allowed")]
    TooLong(u32),
    /// The stream ended in the middle of one, or failed.
    #[error("stream ended early: {0}")]
    Io(#[from] io::Error),
}

impl Frame {
    /// A frame; content behind [`MAX_FRAME`] bytes is cut off, so give no more.
    pub fn new(kind: Kind, content: &[u8]) -> Self {
        Self { kind, content: content.get(..MAX_FRAME).unwrap_or(content).to_vec() }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let content = self.content.get(..MAX_FRAME).unwrap_or(&self.content);
        let length = u32::try_from(content.len()).unwrap_or_default();
        let mut bytes = Vec::with_capacity(content.len().saturating_add(HEADER));
        bytes.push(self.kind.byte());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(content);
        bytes
    }

    /// The next frame; `None` at the end of the stream, which anybody on the way can bring about: what must be whole ends with
    /// [`Kind::Exit`], [`Kind::Error`] or [`Kind::End`].
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>, FrameError> {
        let byte = match stream.read_u8().await {
            Ok(byte) => byte,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let kind = Kind::of(byte).ok_or(FrameError::Kind(byte))?;
        let length = stream.read_u32().await?;
        let bounded = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME);
        let mut content = vec![0; bounded.ok_or(FrameError::TooLong(length))?];
        stream.read_exact(&mut content).await?;
        Ok(Some(Self { kind, content }))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The stream's.
    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_all(&self.encode()).await?;
        stream.flush().await
    }

    /// Size of a terminal, columns and rows, out of [`Kind::Resize`].
    pub fn size(&self) -> Option<(u16, u16)> {
        match (self.kind, self.content.as_slice()) {
            (Kind::Resize, &[a, b, c, d]) => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
            _ => None,
        }
    }

    /// Missing bytes, out of [`Kind::Gap`].
    pub fn missing(&self) -> Option<u64> {
        let bytes = <[u8; 8]>::try_from(self.content.as_slice()).ok()?;
        (self.kind == Kind::Gap).then(|| u64::from_be_bytes(bytes))
    }

    /// A [`Kind::Gap`].
    pub fn gap(missing: u64) -> Self {
        Self::new(Kind::Gap, &missing.to_be_bytes())
    }

    /// A [`Kind::Resize`].
    pub fn resize(columns: u16, rows: u16) -> Self {
        Self::new(Kind::Resize, &[columns.to_be_bytes(), rows.to_be_bytes()].concat())
    }
}

/// For fuzzing: bytes are read as frames to their end, and come back as they were.
pub(crate) fn fuzz(data: &[u8]) {
    let mut rest = data;
    // Reading from memory never waits, so one poll is enough.
    let read = async {
        let mut again = Vec::new();
        while let Ok(Some(frame)) = Frame::read(&mut rest).await {
            let _ = (frame.size(), frame.missing());
            again.extend(frame.encode());
        }
        again
    };
    let mut read = std::pin::pin!(read);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match read.as_mut().poll(&mut context) {
        std::task::Poll::Ready(again) => assert!(data.starts_with(&again)),
        std::task::Poll::Pending => unreachable!("memory has no more to wait for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back() {
        let frames = [
            Frame::new(Kind::Start, b"{}"),
            Frame::resize(80, 24),
            Frame::new(Kind::Stdin, b""),
            Frame::gap(1 << 40),
            Frame::new(Kind::End, b""),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut rest = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut rest).await.unwrap().as_ref(), Some(frame));
        }
        assert_eq!(Frame::read(&mut rest).await.unwrap(), None);
        assert_eq!((frames[1].size(), frames[3].size()), (Some((80, 24)), None));
        assert_eq!((frames[3].missing(), frames[4].missing()), (Some(1 << 40), None));
        assert_eq!(Frame::new(Kind::Gap, &[0; 7]).missing(), None);
        assert_eq!(Frame::new(Kind::Stdout, &[0; 8]).missing(), None);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        let error = async |bytes: &[u8]| Frame::read(&mut &*bytes).await.unwrap_err().to_string();
        assert_eq!(error(&[10, 0, 0, 0, 0]).await, "frame of kind 10 is not known");
        assert_eq!(error(&[4, 0, 1, 0, 1]).await, "frame of 65537 bytes, at most 65536 are allowed");
        assert!(error(&[4, 0, 0, 0, 2, 1]).await.starts_with("stream ended early"));
        assert!(Frame::read(&mut [4, 0, 0, 0, 1, 1].as_slice()).await.is_ok());
    }
}
