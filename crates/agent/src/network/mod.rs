//! The pod's network: an interface that the host attaches and describes, for a contract that leaves the network to the host.
//!
//! Until the hardware vouches for the contract the interface stays down, so nothing of the guest can be reached, and nothing
//! reaches out; with `network = "none"` it never comes up. What the host gives is read into typed values first ([`settings`]).
//!
//! | module | does |
//! |---|---|
//! | [`settings`] | reads and checks the host's request |
//! | [`netlink`] | tells the kernel |
//! | [`files`] | `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` of the containers |

pub mod files;
pub mod netlink;
pub mod settings;

use std::{
    fs, io,
    sync::{Mutex, OnceLock, PoisonError},
};

use belljar_contract::{Contract, Network};
use belljar_guest_api::{api, status::Code};

use netlink::{Message, Netlink};
use settings::{Settings, SettingsError};

/// Name of the pod's interface in the guest.
const INTERFACE: &str = "eth0";
/// The kernel's own addresses and routes from router advertisements would be beside what was checked (Documentation/networking/ip-sysctl).
const IPV6_SYSCTLS: [&str; 2] = ["accept_ra", "autoconf"];

/// Why the network is not set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The request cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// It was set up before, or an attempt has failed half-way.
    #[error("the network was configured already: it is set once for a pod")]
    Already,
    /// No interface, or several, have the address.
    #[error("{found} interfaces have the mac address {mac}, expected 1: attach the pod's interface with that address")]
    Interface {
        /// How many.
        found: usize,
        /// Hex with colons.
        mac: String,
    },
    /// The kernel refused.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A container is to start, and there is no network yet.
    #[error("pod.network of the contract is host, and the network is not configured: call ConfigureNetwork first")]
    Missing,
}

impl NetworkError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Settings(error) => error.code(),
            Self::Already => Code::AlreadyExists,
            Self::Interface { .. } | Self::Missing => Code::FailedPrecondition,
            Self::Kernel { .. } => Code::Internal,
        }
    }
}

/// The network of the pod, as far as it is set up.
#[derive(Debug, Default)]
pub struct PodNetwork {
    claimed: Mutex<bool>,
    settings: OnceLock<Settings>,
}

impl PodNetwork {
    /// Sets the network up, once. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`NetworkError`]. After one of [`NetworkError::Kernel`] the interface is down, and stays so.
    pub fn configure(&self, request: &api::ConfigureNetworkRequest, contract: &Contract) -> Result<(), NetworkError> {
        let settings = Settings::parse(request, contract)?;
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if *claimed {
            return Err(NetworkError::Already);
        }
        let index = find(&settings.mac)?;
        *claimed = true;
        apply(index, &settings)?;
        let _ = self.settings.set(settings);
        Ok(())
    }

    /// What containers may know; `None` for a pod without a network.
    ///
    /// # Errors
    /// [`NetworkError::Missing`] when the contract has a network and it is not set up.
    pub fn settings(&self, contract: &Contract) -> Result<Option<&Settings>, NetworkError> {
        match (contract.pod.network, self.settings.get()) {
            (Network::None, _) => Ok(None),
            (Network::Host, Some(settings)) => Ok(Some(settings)),
            (Network::Host, None) => Err(NetworkError::Missing),
        }
    }
}

/// The number of the one interface with this MAC address.
fn find(mac: &[u8; 6]) -> Result<u32, NetworkError> {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let read = |entry: &fs::DirEntry, file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
    let indices: Vec<u32> = interfaces
        .filter(|entry| read(entry, "address").trim() == mac)
        .filter_map(|entry| read(&entry, "ifindex").trim().parse().ok())
        .collect();
    match *indices.as_slice() {
        [index] => Ok(index),
        _ => Err(NetworkError::Interface { found: indices.len(), mac }),
    }
}

fn apply(index: u32, settings: &Settings) -> Result<(), NetworkError> {
    let failed = |what: String| move |source: io::Error| NetworkError::Kernel { what, source };
    let mut netlink = Netlink::open().map_err(failed("open a netlink socket".into()))?;
    let name = Message::name(index, INTERFACE, settings.mtu);
    netlink.request(&name).map_err(failed(format!("set name and mtu {} of {INTERFACE}", settings.mtu)))?;
    for name in IPV6_SYSCTLS {
        let path = format!("/proc/sys/net/ipv6/conf/{INTERFACE}/{name}");
        match fs::write(&path, "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(format!("write {path}"))(error));
            }
            _ => {}
        }
    }
    for prefix in &settings.addresses {
        let what = format!("add the address {}/{}", prefix.address, prefix.length);
        netlink.request(&Message::address(index, prefix)).map_err(failed(what))?;
    }
    let routes = |netlink: &mut Netlink| {
        netlink.request(&Message::up(index)).map_err(failed(format!("bring {INTERFACE} up")))?;
        settings.routes.iter().try_for_each(|route| {
            let destination = format!("{}/{}", route.destination.address, route.destination.length);
            netlink.request(&Message::route(index, route)).map_err(failed(format!("add the route to {destination}")))
        })
    };
    routes(&mut netlink).inspect_err(|_| {
        let _ = netlink.request(&Message::down(index));
    })
}
