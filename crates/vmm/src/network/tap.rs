//! Tap devices (Linux, `Documentation/networking/tuntap.rst`).

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;

use rustix::ioctl::{Opcode, Setter, ioctl};

/// `TUNSETIFF` of `linux/if_tun.h`: `_IOW('T', 202, int)`, though it takes an `ifreq`.
const SET_INTERFACE: Opcode = rustix::ioctl::opcode::write::<c_int>(b'T', 202);
/// `IFF_TAP | IFF_NO_PI` of `linux/if_tun.h`: frames as they are.
const FLAGS: u16 = 0x0002 | 0x1000;
/// Longest name of an interface with its final NUL (`IFNAMSIZ`).
const NAME: usize = 16;

/// `struct ifreq` of `netdevice(7)`, with the flags of its union.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the device in this thread's network namespace. It is gone when its last descriptor is closed.
pub(super) fn create(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; NAME], flags: FLAGS, rest: [0; 22] };
    let (bytes, room) = (name.as_bytes(), request.name.get_mut(..name.len()));
    // The kernel wants a NUL at the end.
    let room = room.filter(|room| room.len() < NAME).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(bytes);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, 40 bytes on 64-bit Linux, which `Request` is laid out as; the ioctl
    // gets a pointer to that one value, and it lives until the call is done.
    unsafe { ioctl(&file, Setter::<SET_INTERFACE, Request>::new(request)) }?;
    Ok(file.into())
}

/// Number of the interface of that name.
pub(super) fn index(name: &str) -> io::Result<u32> {
    let any = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(&any, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_kernels_layout() {
        assert_eq!((SET_INTERFACE, size_of::<Request>(), std::mem::offset_of!(Request, flags)), (0x4004_54ca, 40, 16));
    }
}
