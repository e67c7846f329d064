//! Frames of the port [`crate::names::TEE_PORT`]: the guest asks the host's software secure processor for a report about
//! the VM that the port belongs to. Belljar's own format, version 1:
//!
//! ```text
//! request   "BJTR" ‖ u8 version = 1 ‖ u8 kind = 1 ‖ u16 reserved = 0 ‖ report_data[64]
//! response  "BJTA" ‖ u8 version = 1 ‖ u8 status   ‖ u16 reserved = 0 ‖ u32 report_len ‖ u32 aux_len ‖ report ‖ aux
//! ```
//!
//! Integers are little-endian. Status 0: `report` is a report (at most 4096 bytes), `aux` its certificate table (at most
//! 64 KiB). Status 1: `report` is UTF-8 text (at most 1024 bytes) that says why there is none, `aux` is empty.
//! One response answers one request, in order.

use std::io::{self, Read};

/// Bytes of a request.
pub const REQUEST_LEN: usize = 72;
/// Bytes of a response before its report.
pub const RESPONSE_HEADER_LEN: usize = 16;
/// Most bytes of a report.
pub const MAX_REPORT: usize = 4096;
/// Most bytes of a certificate table.
pub const MAX_AUX: usize = 64 * 1024;
/// Most bytes of an error text.
pub const MAX_ERROR: usize = 1024;

const REQUEST_MAGIC: [u8; 4] = *b"BJTR";
const RESPONSE_MAGIC: [u8; 4] = *b"BJTA";
const VERSION: u8 = 1;
const KIND_REPORT: u8 = 1;

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame does not start with the four letters of its kind.
    #[error("frame does not start with {expected:?}, found {found:?}")]
    Magic {
        /// The letters of this kind of frame.
        expected: [u8; 4],
        /// What stands there.
        found: [u8; 4],
    },
    /// The frame has another version.
    #[error("frame version {found} is not supported, expected 1")]
    Version {
        /// The version in the frame.
        found: u8,
    },
    /// The request asks for something other than a report, or the response has an unknown status.
    #[error("frame kind or status {found} is not known")]
    Kind {
        /// The kind or status in the frame.
        found: u8,
    },
    /// A reserved field is not zero.
    #[error("reserved field is {found:#06x}, expected 0")]
    Reserved {
        /// Its value.
        found: u16,
    },
    /// A length is over its bound.
    #[error("{field} is {found} bytes long, at most {most} are allowed")]
    TooLong {
        /// `report`, `aux` or `error`.
        field: &'static str,
        /// The length in the frame.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// The input is not as long as the frame says.
    #[error("frame has {found} bytes, expected {expected}")]
    Length {
        /// Length that the frame says it has.
        expected: usize,
        /// Length of the input.
        found: usize,
    },
    /// The error text is not UTF-8.
    #[error("error text is not utf-8")]
    Text,
}

/// A request for a report about the VM that the port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Goes into the report's REPORT_DATA.
    pub report_data: [u8; 64],
}

impl Request {
    /// The frame's bytes.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut frame = [0; REQUEST_LEN];
        let (head, data) = frame.split_at_mut(8);
        head.copy_from_slice(&[b'B', b'J', b'T', b'R', VERSION, KIND_REPORT, 0, 0]);
        data.copy_from_slice(&self.report_data);
        frame
    }

    /// Reads a request; `frame` must be exactly one.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let Ok(frame) = <&[u8; REQUEST_LEN]>::try_from(frame) else {
            return Err(FrameError::Length { expected: REQUEST_LEN, found: frame.len() });
        };
        let [m0, m1, m2, m3, version, kind, r0, r1, report_data @ ..] = *frame;
        check(REQUEST_MAGIC, [m0, m1, m2, m3], version, u16::from_le_bytes([r0, r1]))?;
        if kind != KIND_REPORT {
            return Err(FrameError::Kind { found: kind });
        }
        Ok(Self { report_data })
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A report about this VM.
    Report {
        /// The report in the hardware's format (SNP: 1184 bytes).
        report: Vec<u8>,
        /// The certificate table in the hardware's format.
        aux: Vec<u8>,
    },
    /// There is no report.
    Error(
        /// Why, in one line.
        String,
    ),
}

impl Response {
    /// The frame's bytes. An error text is cut to [`MAX_ERROR`]; a report or table over its bound is an error.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let text;
        let (status, report, aux): (u8, &[u8], &[u8]) = match self {
            Self::Report { report, aux } => (0, report, aux),
            Self::Error(error) => {
                text = crate::limits::one_line(error);
                (1, text.as_bytes(), &[])
            }
        };
        let (report_len, aux_len) = (bounded("report", report.len(), MAX_REPORT)?, bounded("aux", aux.len(), MAX_AUX)?);
        let mut frame = Vec::with_capacity(RESPONSE_HEADER_LEN + report.len() + aux.len());
        frame.extend_from_slice(&RESPONSE_MAGIC);
        frame.extend_from_slice(&[VERSION, status, 0, 0]);
        frame.extend_from_slice(&report_len.to_le_bytes());
        frame.extend_from_slice(&aux_len.to_le_bytes());
        frame.extend_from_slice(report);
        frame.extend_from_slice(aux);
        Ok(frame)
    }

    /// Reads a response; `frame` must be exactly one.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let Some((head, body)) = frame.split_first_chunk::<RESPONSE_HEADER_LEN>() else {
            return Err(FrameError::Length { expected: RESPONSE_HEADER_LEN, found: frame.len() });
        };
        let header = Header::decode(*head)?;
        if body.len() != header.report_len + header.aux_len {
            let expected = RESPONSE_HEADER_LEN + header.report_len + header.aux_len;
            return Err(FrameError::Length { expected, found: frame.len() });
        }
        let (report, aux) = body.split_at_checked(header.report_len).unwrap_or_default();
        if header.ok {
            return Ok(Self::Report { report: report.to_vec(), aux: aux.to_vec() });
        }
        match std::str::from_utf8(report) {
            Ok(text) => Ok(Self::Error(text.to_owned())),
            Err(_) => Err(FrameError::Text),
        }
    }

    /// Bytes of the whole response that begins with `head`. For a reader that frames a stream: read
    /// [`RESPONSE_HEADER_LEN`] bytes, then the rest, then [`Response::decode`] the whole.
    pub fn frame_len(head: [u8; RESPONSE_HEADER_LEN]) -> Result<usize, FrameError> {
        let header = Header::decode(head)?;
        Ok(RESPONSE_HEADER_LEN + header.report_len + header.aux_len)
    }

    /// Reads one response from a blocking stream. A malformed frame is [`io::ErrorKind::InvalidData`] with a
    /// [`FrameError`] inside; nothing is allocated before the lengths are checked.
    pub fn read_from(stream: &mut impl Read) -> io::Result<Self> {
        let invalid = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut head = [0; RESPONSE_HEADER_LEN];
        stream.read_exact(&mut head)?;
        let mut frame = vec![0; Self::frame_len(head).map_err(invalid)?];
        if let Some((to, rest)) = frame.split_first_chunk_mut::<RESPONSE_HEADER_LEN>() {
            *to = head;
            stream.read_exact(rest)?;
        }
        Self::decode(&frame).map_err(invalid)
    }
}

struct Header {
    ok: bool,
    report_len: usize,
    aux_len: usize,
}

impl Header {
    fn decode(head: [u8; RESPONSE_HEADER_LEN]) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, version, status, r0, r1, l0, l1, l2, l3, a0, a1, a2, a3] = head;
        check(RESPONSE_MAGIC, [m0, m1, m2, m3], version, u16::from_le_bytes([r0, r1]))?;
        let length = |bytes: [u8; 4]| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        let (report_len, aux_len) = (length([l0, l1, l2, l3]), length([a0, a1, a2, a3]));
        let (ok, report, most_report, most_aux) = match status {
            0 => (true, "report", MAX_REPORT, MAX_AUX),
            1 => (false, "error", MAX_ERROR, 0),
            found => return Err(FrameError::Kind { found }),
        };
        bounded(report, report_len, most_report)?;
        bounded("aux", aux_len, most_aux)?;
        Ok(Self { ok, report_len, aux_len })
    }
}

fn check(expected: [u8; 4], found: [u8; 4], version: u8, reserved: u16) -> Result<(), FrameError> {
    if found != expected {
        return Err(FrameError::Magic { expected, found });
    }
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    if reserved != 0 {
        return Err(FrameError::Reserved { found: reserved });
    }
    Ok(())
}

fn bounded(field: &'static str, found: usize, most: usize) -> Result<u32, FrameError> {
    match u32::try_from(found) {
        Ok(length) if found <= most => Ok(length),
        _ => Err(FrameError::TooLong { field, found, most }),
    }
}

/// Entry for fuzzing: decodes `data` as each kind of frame and checks that what decodes encodes to the same bytes.
pub fn fuzz(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode().as_slice(), data);
    }
    if let Ok(response @ Response::Report { .. }) = Response::decode(data) {
        assert_eq!(response.encode().as_deref(), Ok(data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> Vec<u8> {
        Response::Report { report: vec![3; 1184], aux: vec![4; 100] }.encode().unwrap()
    }

    #[test]
    fn frames_have_the_documented_bytes() {
        let request = Request { report_data: [9; 64] }.encode();
        assert_eq!(request.get(..8), Some(b"BJTR\x01\x01\0\0".as_slice()));
        assert_eq!(request.get(8..), Some([9; 64].as_slice()));
        assert_eq!(report().get(..16), Some(b"BJTA\x01\0\0\0\xa0\x04\0\0\x64\0\0\0".as_slice()));
        assert_eq!(Response::Error("no".into()).encode().unwrap(), b"BJTA\x01\x01\0\0\x02\0\0\0\0\0\0\0no");
    }

    #[test]
    fn each_changed_header_field_is_refused_by_name() {
        let change = |at: usize, to: u8| {
            let mut frame = report();
            frame[at] = to;
            Response::decode(&frame)
        };
        assert!(Response::decode(&report()).is_ok());
        assert_eq!(change(3, b'R'), Err(FrameError::Magic { expected: *b"BJTA", found: *b"BJTR" }));
        assert_eq!(change(4, 2), Err(FrameError::Version { found: 2 }));
        assert_eq!(change(5, 2), Err(FrameError::Kind { found: 2 }));
        assert_eq!(change(7, 1), Err(FrameError::Reserved { found: 256 }));
        assert_eq!(change(9, 0x10), Err(FrameError::TooLong { field: "report", found: 4256, most: 4096 }));
        assert_eq!(change(14, 1), Err(FrameError::TooLong { field: "aux", found: 65636, most: 65536 }));
        assert_eq!(change(12, 99), Err(FrameError::Length { expected: 1299, found: 1300 }));
        assert_eq!(change(5, 1), Err(FrameError::TooLong { field: "error", found: 1184, most: 1024 }));
        let request = Request { report_data: [0; 64] }.encode();
        assert!(Request::decode(&request).is_ok());
        assert_eq!(Request::decode(&request[..71]), Err(FrameError::Length { expected: 72, found: 71 }));
        let mut other = request;
        other[5] = 2;
        assert_eq!(Request::decode(&other), Err(FrameError::Kind { found: 2 }));
    }

    #[test]
    fn an_error_text_must_be_utf8() {
        let frame = Response::Error("ab".into()).encode().unwrap();
        assert_eq!(Response::decode(&frame), Ok(Response::Error("ab".into())));
        let mut broken = frame;
        broken[16] = 0xff;
        assert_eq!(Response::decode(&broken), Err(FrameError::Text));
    }

    proptest! {
        #[test]
        fn responses_survive(report in proptest::collection::vec(any::<u8>(), 0..=MAX_REPORT), aux in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let response = Response::Report { report, aux };
            let frame = response.encode().unwrap();
            prop_assert_eq!(Response::decode(&frame), Ok(response.clone()));
            let mut stream = frame.as_slice();
            prop_assert_eq!(Response::read_from(&mut stream).unwrap(), response);
            prop_assert!(stream.is_empty());
        }

        #[test]
        fn anything_decodes_or_is_refused(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&data);
        }

        #[test]
        fn a_damaged_frame_never_panics(at in 0usize..1300, to in any::<u8>(), cut in 0usize..1300) {
            let mut frame = report();
            frame[at] = to;
            fuzz(&frame);
            frame.truncate(cut);
            fuzz(&frame);
        }
    }
}
