//! Reports of the host's software secure processor, over the tee port. Its reports have the exact form of SEV-SNP; only
//! the root of their certificates is not AMD's.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use belljar_guest_api::softport::{FrameError, Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Attester, Format, RawReport, TIME_LIMIT, TeeError};

/// The tee port.
#[derive(Debug)]
pub struct SoftPort {
    port: Mutex<File>,
}

impl SoftPort {
    /// Opens the port's device file.
    pub fn open(device: &Path) -> Result<Self, TeeError> {
        let port = OpenOptions::new().read(true).write(true).open(device);
        Ok(Self::new(port.map_err(|source| TeeError::Io { what: "open the tee port", source })?))
    }

    fn new(port: File) -> Self {
        Self { port: Mutex::new(port) }
    }
}

impl Attester for SoftPort {
    fn format(&self) -> Format {
        Format::Snp
    }

    fn report(&self, report_data: &[u8; 64]) -> Result<RawReport, TeeError> {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request { report_data: *report_data }.encode();
        port.write_all(&request).map_err(|source| TeeError::Io { what: "write to the tee port", source })?;
        let mut timed = Timed { file: &mut port, until: Instant::now() + TIME_LIMIT };
        match Response::read_from(&mut timed) {
            Ok(Response::Report { report, aux }) => Ok(RawReport { format: Format::Snp, report, aux }),
            Ok(Response::Error(text)) => Err(TeeError::Refused(belljar_guest_api::limits::one_line(&text))),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(TeeError::Timeout),
            Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<FrameError>()) {
                Some(frame) => TeeError::Frame(*frame),
                None => TeeError::Io { what: "read from the tee port", source: error },
            }),
        }
    }
}

/// Reads from a blocking file, but never longer than `until`.
struct Timed<'a> {
    file: &'a mut File,
    until: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let ready = poll(&mut [PollFd::new(&*self.file, PollFlags::IN)], Some(&left))?;
        if ready == 0 { Err(io::ErrorKind::TimedOut.into()) } else { self.file.read(buffer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::fd::OwnedFd, os::unix::net::UnixStream, thread};

    /// Answers one request with `answer`, if it is the one for `[7; 64]`.
    fn ask(answer: Vec<u8>) -> Result<RawReport, TeeError> {
        let (guest, mut host) = UnixStream::pair().unwrap();
        let host = thread::spawn(move || {
            let mut request = [0; 72];
            host.read_exact(&mut request).unwrap();
            assert_eq!(Request::decode(&request).unwrap().report_data, [7; 64]);
            host.write_all(&answer).unwrap();
        });
        let outcome = SoftPort::new(OwnedFd::from(guest).into()).report(&[7; 64]);
        host.join().unwrap();
        outcome
    }

    #[test]
    fn an_answer_is_a_report_a_refusal_or_an_error() {
        let response = Response::Report { report: vec![1; 1184], aux: vec![2; 5000] }.encode().unwrap();
        let report = ask(response.clone()).unwrap();
        assert_eq!((report.report.len(), report.aux.len(), report.format), (1184, 5000, Format::Snp));
        let mut version = response.clone();
        version[4] = 9;
        assert!(matches!(ask(version), Err(TeeError::Frame(FrameError::Version { found: 9 }))));
        let refused = Response::Error("not this vm".into()).encode().unwrap();
        assert!(matches!(ask(refused), Err(TeeError::Refused(text)) if text == "not this vm"));
        assert!(matches!(ask(response[..100].to_vec()), Err(TeeError::Io { .. })));
    }
}
