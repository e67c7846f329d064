//! Joins a pod's network namespace, as CNI has prepared it, to the network interface of its VM.
//!
//! ```text
//! node ── veth ── eth0 ⇄ belljar0 (tap) ── virtio-net in the guest
//!                 └ the pod's network namespace ┘
//! ```
//! Every frame that arrives at one of the two is sent out at the other one (`tc(8)`: an ingress queue with a `u32` filter
//! that matches everything and a `mirred` redirect). The guest gets eth0's MAC address, IP addresses, routes and MTU.
//!
//! eth0 keeps its addresses: CNI plugins look for them there when they check the pod and when they remove its rules. The
//! namespace's own stack never sees a frame of eth0, so nobody answers twice.
//!
//! All functions block (some system calls, no waiting for anybody); each one works in a thread of its own, whose
//! namespace ends with it.

mod namespace;
mod netlink;
mod redirect;
mod routes;
mod rtnetlink;
mod tap;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use belljar_guest_api::api;
use belljar_guest_api::limits::MAX_NETWORK_LIST;

use crate::machine::mac_text;
use netlink::Socket;
use rtnetlink::Link;

/// Name of the tap device in the pod's network namespace.
pub const TAP: &str = "belljar0";

/// Why a pod's network cannot be joined to its VM. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The namespace cannot be entered.
    #[error("network namespace {path}: {error}; is the pod still there?")]
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// CNI has put no interface there.
    #[error("the pod's network namespace has no interface that is up; check the node's CNI configuration")]
    NoInterface,
    /// CNI has put several there.
    #[error("the pod has {} network interfaces ({}), and a pod VM can have one; use one CNI network", found.len(), found.join(", "))]
    Several {
        /// Their names.
        found: Vec<String>,
    },
    /// The interface is no Ethernet.
    #[error("the pod's interface {name} is no Ethernet; use a CNI network of veth or the like")]
    NotEthernet {
        /// Its name.
        name: String,
    },
    /// Too many addresses or routes for the guest.
    #[error("the pod has {found} {what}, at most {MAX_NETWORK_LIST} can be given to a pod VM")]
    TooMany {
        /// `addresses` or `routes`.
        what: &'static str,
        /// Their number.
        found: usize,
    },
    /// A route that the guest cannot be given.
    #[error("the pod's route to {destination} {what}, which a pod VM cannot have")]
    Route {
        /// `default` or a prefix.
        destination: String,
        /// What is not supported.
        what: &'static str,
    },
    /// There is no tap device to be had.
    #[error("cannot make a tap device: {0}; load the kernel module `tun`")]
    Tap(std::io::Error),
    /// The kernel refused a change.
    #[error("cannot {what}: {error}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The operating system's words.
        error: std::io::Error,
    },
}

/// The pod's network as its VM gets it.
#[derive(Debug)]
pub struct PodNetwork {
    /// The tap device for [`Nic`](crate::machine::Nic). It exists as long as somebody holds it.
    pub tap: OwnedFd,
    /// Name of the pod's interface on the host, mostly `eth0`.
    pub interface: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses, without those that the guest makes itself (IPv6, link scope).
    pub addresses: Vec<Prefix>,
    /// Routes through it, in an order in which they can be added; without those that come with the addresses.
    pub routes: Vec<Route>,
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network.
    pub length: u8,
}

/// A route through the pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; `None` is the default route.
    pub destination: Option<Prefix>,
    /// The next hop; without one the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The gateway is on the link although no address says so.
    pub on_link: bool,
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl PodNetwork {
    /// What the agent is told: all but name resolution and the host name.
    pub fn request(&self) -> api::ConfigureNetworkRequest {
        let text = |address: &Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let route = |route: &Route| api::Route {
            destination: route.destination.map(|prefix| prefix.to_string()).unwrap_or_default(),
            gateway: text(&route.gateway),
            source: text(&route.source),
            on_link: route.on_link,
            ..Default::default()
        };
        api::ConfigureNetworkRequest {
            mac: self.mac.to_vec(),
            mtu: self.mtu,
            addresses: self.addresses.iter().map(Prefix::to_string).collect(),
            routes: self.routes.iter().map(route).collect(),
            ..Default::default()
        }
    }
}

/// Makes the tap device in the namespace at `netns` (as CNI names it, `/var/run/netns/…`) and joins it to the one
/// interface there. What an earlier call has left is replaced.
///
/// # Errors
/// Any [`NetworkError`]; then nothing of it is left.
pub fn attach(netns: &Path) -> Result<PodNetwork, NetworkError> {
    namespace::within(netns, || {
        let mut kernel = open()?;
        remove(&mut kernel)?;
        let attached = join(&mut kernel);
        if attached.is_err() {
            let _ = remove(&mut kernel);
        }
        attached
    })?
}

/// Takes away what [`attach`] has made. A namespace, an interface or a device that is gone already is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(netns: &Path) -> Result<(), NetworkError> {
    if !netns.exists() {
        return Ok(());
    }
    namespace::within(netns, || remove(&mut open()?))?
}

/// Listens at `127.0.0.1:port` inside the namespace; the listener can be used outside of it, and blocks.
///
/// # Errors
/// When the namespace cannot be entered, or the port is taken.
pub fn listen_in(netns: &Path, port: u16) -> Result<TcpListener, NetworkError> {
    namespace::within(netns, || {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        listener.map_err(|error| NetworkError::Kernel { what: "listen on the pod's loopback", error })
    })?
}

fn open() -> Result<Socket, NetworkError> {
    Socket::open().map_err(|error| NetworkError::Kernel { what: "talk to the kernel's network", error })
}

fn join(kernel: &mut Socket) -> Result<PodNetwork, NetworkError> {
    let failed = |what| move |error| NetworkError::Kernel { what, error };
    let links = rtnetlink::links(kernel).map_err(failed("list network interfaces"))?;
    let eth = choose(&links)?;
    let mac = eth.mac.ok_or_else(|| NetworkError::NotEthernet { name: eth.name.clone() })?;
    let addresses = rtnetlink::addresses(kernel, eth.index).map_err(failed("list addresses"))?;
    let routes = routes::through(kernel, eth.index)?;
    for (what, found) in [("addresses", addresses.len()), ("routes", routes.len())] {
        if found > MAX_NETWORK_LIST {
            return Err(NetworkError::TooMany { what, found });
        }
    }
    let tap = tap::create(TAP).map_err(NetworkError::Tap)?;
    let index = tap::index(TAP).map_err(NetworkError::Tap)?;
    // The namespace's own stack shall not speak there.
    rtnetlink::without_own_addresses(kernel, index).map_err(failed("silence the tap device"))?;
    rtnetlink::up(kernel, index, eth.mtu).map_err(failed("set the tap device up"))?;
    for (from, to) in [(eth.index, index), (index, eth.index)] {
        redirect::ingress(kernel, from).map_err(failed("add an ingress queue"))?;
        redirect::all(kernel, from, to).map_err(failed("redirect frames"))?;
    }
    tracing::debug!(interface = %eth.name, mac = %mac_text(mac), mtu = eth.mtu, "pod network joined");
    Ok(PodNetwork { tap, interface: eth.name.clone(), mac, mtu: eth.mtu, addresses, routes })
}

/// The one interface that CNI has set up.
fn choose(links: &[Link]) -> Result<&Link, NetworkError> {
    let up: Vec<&Link> = links.iter().filter(|link| link.up && !link.loopback && link.name != TAP).collect();
    match up.as_slice() {
        [] => Err(NetworkError::NoInterface),
        [one] if one.ethernet => Ok(one),
        [one] => Err(NetworkError::NotEthernet { name: one.name.clone() }),
        several => Err(NetworkError::Several { found: several.iter().map(|link| link.name.clone()).collect() }),
    }
}

fn remove(kernel: &mut Socket) -> Result<(), NetworkError> {
    let failed = |what| move |error| NetworkError::Kernel { what, error };
    let links = rtnetlink::links(kernel).map_err(failed("list network interfaces"))?;
    for link in &links {
        if link.name == TAP {
            rtnetlink::delete(kernel, link.index).map_err(failed("remove the tap device"))?;
        } else if link.up && !link.loopback && redirect::ours(kernel, link.index).map_err(failed("list filters"))? {
            redirect::no_ingress(kernel, link.index).map_err(failed("remove an ingress queue"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link {
            index: 2,
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1450,
            up: true,
            loopback: false,
            ethernet: true,
        }
    }

    #[test]
    fn the_pod_has_one_interface() {
        let lo = Link { loopback: true, ethernet: false, ..link("lo") };
        let down = Link { up: false, ethernet: false, ..link("tunl0") };
        let links = [lo, down, link("eth0")];
        assert_eq!(choose(&links).unwrap().name, "eth0");
        assert!(matches!(choose(&links[..2]), Err(NetworkError::NoInterface)));
        let two = [&links[..], &[link("net1")]].concat();
        let error = choose(&two).unwrap_err().to_string();
        assert_eq!(
            error,
            "the pod has 2 network interfaces (eth0, net1), and a pod VM can have one; use one CNI network"
        );
        let wireguard = [Link { ethernet: false, ..link("wg0") }];
        assert!(matches!(choose(&wireguard), Err(NetworkError::NotEthernet { name }) if name == "wg0"));
    }

    #[test]
    fn the_agent_is_told_everything() {
        let network = PodNetwork {
            tap: std::fs::File::open("/dev/null").unwrap().into(),
            interface: "eth0".into(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1450,
            addresses: vec![Prefix { address: "10.88.0.5".parse().unwrap(), length: 16 }],
            routes: vec![
                Route {
                    destination: Some(Prefix { address: "fd00::".parse().unwrap(), length: 8 }),
                    gateway: None,
                    source: Some("fd00::5".parse().unwrap()),
                    on_link: false,
                },
                Route { destination: None, gateway: Some("10.88.0.1".parse().unwrap()), source: None, on_link: true },
            ],
        };
        let request = network.request();
        assert_eq!((request.mac.as_slice(), request.mtu), ([2, 0, 0, 0, 0, 1].as_slice(), 1450));
        assert_eq!(request.addresses, ["10.88.0.5/16"]);
        let route = |n: usize| {
            let route = &request.routes[n];
            (route.destination.as_str(), route.gateway.as_str(), route.source.as_str(), route.on_link)
        };
        assert_eq!(route(0), ("fd00::/8", "", "fd00::5", false));
        assert_eq!(route(1), ("", "10.88.0.1", "", true));
    }
}
