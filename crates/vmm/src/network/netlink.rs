//! Messages between this process and the kernel's network (`netlink(7)`), as far as the neighbours need them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// The kernel answers at once; this is for a kernel that does not.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest datagram that the kernel sends (`NLMSG_GOODSIZE` is at most 32 KiB).
const DATAGRAM: usize = 64 * 1024;
/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Flags of a request to make something that must not be there yet (`NLM_F_CREATE | NLM_F_EXCL`).
pub(super) const CREATE: u16 = 0x600;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A connection to the kernel.
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// A request: its fixed part and attributes.
pub(super) struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    /// With the fixed part of its kind.
    pub fn new(kind: u16, fixed: &[&[u8]]) -> Self {
        Self { kind, body: fixed.concat() }
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(attribute(kind, value));
        self
    }
}

/// An attribute: `struct rtattr` and its value, padded to 4 bytes. Those inside another one are its value.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl Socket {
    /// For this thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(LIMIT))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Carries out a change; the error is the kernel's.
    pub fn change(&mut self, request: Request, flags: u16) -> io::Result<()> {
        self.send(request, REQUEST | ACK | flags)?;
        self.receive(|_, _| {})
    }

    /// All objects of a kind: their messages' fixed part and attributes.
    pub fn list(&mut self, request: Request) -> io::Result<Vec<Vec<u8>>> {
        self.send(request, REQUEST | DUMP)?;
        let mut found = Vec::new();
        self.receive(|_, body| found.push(body.to_vec()))?;
        Ok(found)
    }

    fn send(&mut self, Request { kind, body }: Request, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(body);
        send(&self.fd, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Takes the answers to the last request, up to its end.
    fn receive(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let short = || io::Error::other("the kernel's answer is cut short");
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (_, length) = recv(&self.fd, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let mut rest = buffer.get(..length).ok_or_else(short)?;
            while !rest.is_empty() {
                let length = usize::try_from(u32_at(rest, 0).ok_or_else(short)?).map_err(io::Error::other)?;
                let kind = u16_at(rest, 4).ok_or_else(short)?;
                let sequence = u32_at(rest, 8).ok_or_else(short)?;
                let body = rest.get(HEADER..length).ok_or_else(short)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    ERROR => return result_of(body).ok_or_else(short)?,
                    DONE => return result_of(body).unwrap_or(Ok(())),
                    kind => each(kind, body),
                }
            }
        }
    }
}

/// A negative error number, or zero.
fn result_of(body: &[u8]) -> Option<io::Result<()>> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    Some(match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    })
}

/// Attributes behind the first `fixed` bytes of a message, or those inside of another one (`fixed` 0).
pub(super) fn attributes(message: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are no part of the kind.
    const KIND: u16 = 0x3fff;
    let mut rest = message.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & KIND;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind.
pub(super) fn find(message: &[u8], fixed: usize, kind: u16) -> Option<&[u8]> {
    attributes(message, fixed).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in this machine's byte order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether an error means that there is nothing of the kind: the thing, its device, or its queue.
pub(super) fn absent(error: &io::Error) -> bool {
    [Errno::NODEV, Errno::NOENT, Errno::INVAL].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let inner = [attribute(1, b"u32\0"), attribute(2, &[7])].concat();
        let message = [vec![0; 8], attribute(5, b"abcde"), attribute(0x8006, &inner)].concat();
        let found: Vec<_> = attributes(&message, 8).collect();
        assert_eq!(found, [(5, b"abcde".as_slice()), (6, inner.as_slice())]);
        assert_eq!(find(&inner, 0, 2), Some([7].as_slice()));
        assert_eq!(find(&inner, 0, 3), None);
        // Whatever does not add up ends the list.
        assert_eq!(attributes(&[3, 0, 1, 0], 0).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1, 2, 3, 4], 0).count(), 0);
    }

    #[test]
    fn the_kernel_answers() {
        // RTM_GETLINK; a zero `ifinfomsg`.
        let mut socket = Socket::open().unwrap();
        let links = socket.list(Request::new(18, &[&[0; 16]])).unwrap();
        assert!(links.iter().any(|link| find(link, 16, 3) == Some(b"lo\0")));
        // RTM_DELLINK of no device.
        let error = socket.change(Request::new(17, &[&[0; 16]]), 0).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(1 | 19 | 22)), "{error}");
    }
}
