//! Interfaces and addresses (`rtnetlink(7)`, `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`).

use std::io;
use std::net::IpAddr;

use super::Prefix;
use super::netlink::{Request, Socket, absent, attribute, attributes, find, u32_at};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;

/// `struct ifinfomsg`: family, padding, hardware type (u16), index, flags, changed flags.
const LINK: usize = 16;
/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const ADDRESS: usize = 8;

const UP: u32 = 1;
const LOOPBACK: u32 = 8;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;
const LINK_SCOPE: u8 = 253;

pub(super) const INET: u8 = 2;
pub(super) const INET6: u8 = 10;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    pub ethernet: bool,
}

/// All interfaces of the namespace.
pub(super) fn links(kernel: &mut Socket) -> io::Result<Vec<Link>> {
    let messages = kernel.list(Request::new(GET_LINK, &[&[0; LINK]]))?;
    Ok(messages.iter().filter_map(|message| link(message)).collect())
}

fn link(message: &[u8]) -> Option<Link> {
    let hardware = u16::from_ne_bytes(*message.get(2..)?.first_chunk()?);
    let flags = u32_at(message, 8)?;
    let name = find(message, LINK, 3)?;
    Some(Link {
        index: u32_at(message, 4)?,
        name: String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned(),
        mac: find(message, LINK, 1).and_then(|mac| mac.try_into().ok()),
        mtu: find(message, LINK, 4).and_then(|mtu| u32_at(mtu, 0))?,
        up: flags & UP != 0,
        loopback: flags & LOOPBACK != 0,
        ethernet: hardware == ETHERNET,
    })
}

/// The addresses of an interface that the guest takes over.
pub(super) fn addresses(kernel: &mut Socket, index: u32) -> io::Result<Vec<Prefix>> {
    let messages = kernel.list(Request::new(GET_ADDRESS, &[&[0; ADDRESS]]))?;
    let mut found: Vec<Prefix> = messages.iter().filter_map(|message| address(message, index)).collect();
    found.sort();
    Ok(found)
}

fn address(message: &[u8], index: u32) -> Option<Prefix> {
    let [family, length, _, scope, ..] = *message else { return None };
    let made_by_guest = family == INET6 && scope == LINK_SCOPE;
    if made_by_guest || u32_at(message, 4)? != index {
        return None;
    }
    // IFA_LOCAL is the interface's own address also where IFA_ADDRESS is a peer's.
    let bytes = find(message, ADDRESS, 2).or_else(|| find(message, ADDRESS, 1))?;
    Some(Prefix { address: ip(family, bytes)?, length })
}

/// An IP address of a message.
pub(super) fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Keeps the kernel from giving the interface an IPv6 address of its own when it comes up.
pub(super) fn without_own_addresses(kernel: &mut Socket, index: u32) -> io::Result<()> {
    /// `IN6_ADDR_GEN_MODE_NONE`.
    const NONE: u8 = 1;
    let inet6 = attribute(INET6.into(), &attribute(8, &[NONE]));
    let request = Request::new(NEW_LINK, &[&header(index, 0)]).attribute(26, &inet6);
    match kernel.change(request, 0) {
        // A kernel, or a namespace, without IPv6.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => Ok(()),
        done => done,
    }
}

/// Sets an interface up, with this MTU.
pub(super) fn up(kernel: &mut Socket, index: u32, mtu: u32) -> io::Result<()> {
    let request = Request::new(NEW_LINK, &[&header(index, UP)]).attribute(4, &mtu.to_ne_bytes());
    kernel.change(request, 0)
}

/// Removes an interface, if it is there.
pub(super) fn delete(kernel: &mut Socket, index: u32) -> io::Result<()> {
    match kernel.change(Request::new(DELETE_LINK, &[&header(index, 0)]), 0) {
        Err(error) if absent(&error) => Ok(()),
        done => done,
    }
}

/// An `ifinfomsg` that sets `flags`.
fn header(index: u32, flags: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

/// The text in an attribute, which ends with a NUL.
pub(super) fn text(message: &[u8], fixed: usize, kind: u16) -> Option<&[u8]> {
    attributes(message, fixed)
        .find(|(found, _)| *found == kind)
        .map(|(_, text)| text.strip_suffix(b"\0").unwrap_or(text))
}
