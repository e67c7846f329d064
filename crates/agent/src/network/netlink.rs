//! The few requests to the kernel's routing socket that a pod needs, encoded here: rtnetlink(7) and netlink(7).
//! docs/adr/0009-rtnetlink-by-hand.md says why there is no library for it.
//!
//! A message is `nlmsghdr` (length, type, flags, sequence number, port), a fixed header by type, and attributes (`rtattr`: length and
//! type of 16 bits each, then the value), each part padded to four bytes; all in the machine's byte order.

use std::{io, net::IpAddr, os::fd::OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::settings::{Prefix, Route};

/// `NLM_F_REQUEST | NLM_F_ACK`
const CHANGE: u16 = 0x1 | 0x4;
/// `NLM_F_REPLACE | NLM_F_CREATE`
const REPLACE: u16 = 0x100 | 0x400;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_SETLINK: u16 = 19;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The host has its own reasons to give an address; nobody else has it.
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
const IFF_UP: u32 = 1;
/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;

/// A request that is being put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    flags: u16,
    /// What follows `nlmsghdr`.
    body: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16, body: Vec<u8>) -> Self {
        Self { kind, flags: CHANGE | flags, body }
    }

    /// Values here have at most 16 bytes, so their lengths fit.
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn link(index: u32, flags: u32, change: u32) -> Self {
        // ifinfomsg: family, padding, type, index, flags, which flags change
        let mut body = vec![0; 4];
        for word in [index, flags, change] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        Self::new(RTM_SETLINK, 0, body)
    }

    /// Gives an interface that is down its name and its MTU.
    pub fn name(index: u32, name: &str, mtu: u32) -> Self {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        Self::link(index, 0, 0).attribute(IFLA_IFNAME, &text).attribute(IFLA_MTU, &mtu.to_ne_bytes())
    }

    /// Brings an interface up.
    pub fn up(index: u32) -> Self {
        Self::link(index, IFF_UP, IFF_UP)
    }

    /// Takes an interface down.
    pub fn down(index: u32) -> Self {
        Self::link(index, 0, IFF_UP)
    }

    /// Adds an address to an interface.
    pub fn address(index: u32, address: &Prefix) -> Self {
        let value = octets(&address.address);
        // ifaddrmsg: family, prefix length, flags, scope, index
        let mut body = vec![family(&address.address), address.length, IFA_F_NODAD, RT_SCOPE_UNIVERSE];
        body.extend_from_slice(&index.to_ne_bytes());
        Self::new(RTM_NEWADDR, REPLACE, body).attribute(IFA_LOCAL, &value).attribute(IFA_ADDRESS, &value)
    }

    /// Adds a route over an interface; one to the same destination (the kernel makes one for each address) is replaced.
    pub fn route(index: u32, route: &Route) -> Self {
        let destination = &route.destination;
        let scope = match (route.gateway, destination.address) {
            (None, IpAddr::V4(_)) => RT_SCOPE_LINK,
            _ => RT_SCOPE_UNIVERSE,
        };
        // rtmsg: family, length of the destination and of the source, TOS, table, protocol, scope, type, flags
        let (family, length) = (family(&destination.address), destination.length);
        let mut body = vec![family, length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST];
        let flags = if route.on_link { RTNH_F_ONLINK } else { 0 };
        body.extend_from_slice(&flags.to_ne_bytes());
        let mut message = Self::new(RTM_NEWROUTE, REPLACE, body);
        if destination.length > 0 {
            message = message.attribute(RTA_DST, &octets(&destination.address));
        }
        if let Some(gateway) = &route.gateway {
            message = message.attribute(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(source) = &route.source {
            message = message.attribute(RTA_PREFSRC, &octets(source));
        }
        message.attribute(RTA_OIF, &index.to_ne_bytes())
    }

    fn encode(&self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.body.len().saturating_add(HEADER)).unwrap_or(u32::MAX);
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn family(address: &IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A socket to the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and waits for the kernel's answer to it.
    pub fn request(&mut self, message: &Message) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &message.encode(self.sequence), SendFlags::empty())?;
        let mut buffer = [0; 4096];
        loop {
            let (_, length) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            if let Some(outcome) = acknowledged(buffer.get(..length).unwrap_or_default(), self.sequence) {
                return outcome;
            }
        }
    }
}

/// The kernel's answer to the request of that number: `nlmsghdr`, then an errno, negative, or 0.
fn acknowledged(answer: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let word = |at: usize| answer.get(at..)?.first_chunk::<4>().copied();
    let kind = answer.get(4..)?.first_chunk::<2>().copied()?;
    if u16::from_ne_bytes(kind) != NLMSG_ERROR || u32::from_ne_bytes(word(8)?) != sequence {
        return None;
    }
    match i32::from_ne_bytes(word(HEADER)?) {
        0 => Some(Ok(())),
        errno => Some(Err(io::Error::from_raw_os_error(errno.saturating_neg()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(message: &Message) -> String {
        hex::encode(message.encode(7))
    }

    /// Compared with what `ip` of iproute2 6.1 sends for `ip route add 10.96.0.0/12 via 10.88.0.1 dev #3`, attributes in our order.
    #[test]
    fn a_route_is_encoded_as_rtnetlink_wants_it() {
        let route = Route {
            destination: "10.96.0.0/12".parse().unwrap(),
            gateway: Some("10.88.0.1".parse().unwrap()),
            source: None,
            on_link: false,
        };
        let expected = concat!(
            "34000000", "1800", "0505", "07000000", "00000000", // length, RTM_NEWROUTE, flags, sequence, port
            "020c0000", "fe040001", "00000000", // rtmsg
            "0800", "0100", "0a600000", // RTA_DST
            "0800", "0500", "0a580001", // RTA_GATEWAY
            "0800", "0400", "03000000", // RTA_OIF
        );
        assert_eq!(hex(&Message::route(3, &route)), expected);
    }

    #[test]
    fn a_name_is_padded() {
        let expected = concat!(
            "34000000",
            "1300",
            "0500",
            "07000000",
            "00000000", //
            "00000000",
            "02000000",
            "00000000",
            "00000000", // ifinfomsg
            "0900",
            "0300",
            "6574683000",
            "000000", // IFLA_IFNAME "eth0", padded
            "0800",
            "0400",
            "dc050000", // IFLA_MTU
        );
        assert_eq!(hex(&Message::name(2, "eth0", 1500)), expected);
    }

    #[test]
    fn an_answer_is_read_for_its_request_alone() {
        let answer = |sequence: u32, errno: i32| {
            let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0];
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&errno.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(7, 0), 7).unwrap().is_ok());
        assert_eq!(acknowledged(&answer(7, -17), 7).unwrap().unwrap_err().raw_os_error(), Some(17));
        assert!(acknowledged(&answer(6, 0), 7).is_none());
        assert!(acknowledged(&answer(7, 0)[..19], 7).is_none());
        assert!(acknowledged(&[], 7).is_none());
    }

    /// The kernel itself reads a request: the interface number does not exist.
    #[test]
    fn the_kernel_answers() {
        let mut netlink = Netlink::open().unwrap();
        let error = netlink.request(&Message::up(0x7fff_fff0)).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
