//! Image layers: disks of the host, read through dm-verity with what the contract says about them.
//!
//! The host chooses what is on a disk; the contract's root hash decides whether a block is given to anybody. A block that
//! fails is an I/O error for its reader, and a kernel event that ends the container ([`Layers::corruption`]).

use std::{fs, io, os::fd::OwnedFd, path::PathBuf, sync::Mutex};

use belljar_contract::{Contract, Layer};
use belljar_guest_api::names::layer_serial;
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    dm::{Health, Mapper, Verity},
    ports,
    refusal::{Kind, Refusal},
};

const MOUNTS: &str = "/run/layers";

/// The opened layers of a pod.
#[derive(Debug)]
pub struct Layers {
    /// `None` without layers.
    mapper: Option<Mapper>,
    opened: Mutex<Vec<Opened>>,
}

#[derive(Debug)]
struct Opened {
    root: String,
    device: String,
    at: PathBuf,
}

impl Layers {
    /// Opens every layer of every container once, lowest first. Blocks on disk reads.
    pub fn open(contract: &Contract) -> Result<Self, Refusal> {
        let mapper = Mapper::open().map_err(|error| Refusal::new(Kind::Internal, error))?;
        let layers = Self { mapper: Some(mapper), opened: Mutex::default() };
        fs::create_dir_all(MOUNTS).map_err(|error| Refusal::new(Kind::Internal, format!("{MOUNTS}: {error}")))?;
        for layer in contract.containers.values().flat_map(|container| &container.layers) {
            layers.open_one(layer)?;
        }
        Ok(layers)
    }

    /// No layers: none of the pod's containers can start.
    pub fn none() -> Self {
        Self { mapper: None, opened: Mutex::default() }
    }

    fn health(&self, device: &str) -> Option<Health> {
        self.mapper.as_ref()?.health(device).ok()
    }

    fn open_one(&self, layer: &Layer) -> Result<(), Refusal> {
        let mut opened = self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if opened.iter().any(|known| known.root == layer.verity_root) {
            return Ok(());
        }
        let number = opened.len();
        let failed = |why: &dyn std::fmt::Display| {
            Refusal::new(Kind::Layer, format!("image layer {number} (verity root {}) {why}", layer.verity_root))
        };
        let serial = layer_serial(&layer.verity_root).ok_or_else(|| failed(&"has no usable root hash"))?;
        let disk = ports::disk(&serial)
            .ok_or_else(|| failed(&format_args!("is missing: the host attached no disk with serial {serial}")))?;
        let number_of_disk =
            ports::device_number(&disk).map_err(|error| failed(&format_args!("is missing: {error}")))?;
        let device = format!("layer-{number}");
        let verity = Verity {
            device: &number_of_disk,
            root: &layer.verity_root,
            salt: &layer.salt,
            data_blocks: layer.data_blocks,
        };
        let mapper = self.mapper.as_ref().ok_or_else(|| failed(&"cannot be opened: there is no device mapper"))?;
        let minor =
            mapper.create(&device, &verity).map_err(|error| failed(&format_args!("cannot be opened: {error}")))?;
        let at = PathBuf::from(format!("{MOUNTS}/{number}"));
        let mounted = fs::create_dir(&at).and_then(|()| {
            let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
            mount(format!("/dev/dm-{minor}"), &at, "erofs", flags, None).map_err(io::Error::from)
        });
        if let Err(error) = mounted {
            return Err(match self.health(&device) {
                Some(Health::Corrupted) => changed(number, &layer.verity_root),
                _ => failed(&format_args!("cannot be mounted: {error}")),
            });
        }
        opened.push(Opened { root: layer.verity_root.clone(), device, at });
        Ok(())
    }

    /// Mount points of these layers, in their order; `None` when one of them was not opened.
    pub fn mount_points(&self, layers: &[Layer]) -> Option<Vec<PathBuf>> {
        let opened = self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at =
            |layer: &Layer| opened.iter().find(|known| known.root == layer.verity_root).map(|known| known.at.clone());
        layers.iter().map(at).collect()
    }

    /// The refusal for a layer that failed verification since it was opened, if one did.
    pub fn changed(&self) -> Option<Refusal> {
        let opened = self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let corrupted = |layer: &Opened| matches!(self.health(&layer.device), Some(Health::Corrupted));
        let number = opened.iter().position(corrupted)?;
        opened.get(number).map(|layer| changed(number, &layer.root))
    }

    /// Waits until a layer fails verification. Ends early only when the kernel offers no events.
    pub async fn corruption(&self) -> io::Result<Refusal> {
        let events = Events::open()?;
        loop {
            if let Some(refusal) = self.changed() {
                return Ok(refusal);
            }
            events.next().await?;
        }
    }
}

fn changed(number: usize, root: &str) -> Refusal {
    let message =
        format!("image layer {number} (verity root {root}) was changed by the host: a block failed verification");
    Refusal::new(Kind::Layer, message)
}

/// Kernel events (`NETLINK_KOBJECT_UEVENT`): dm-verity sends one for each block that fails (drivers/md/dm-verity-target.c).
/// Their content is not looked at, only that something happened.
struct Events(AsyncFd<OwnedFd>);

impl Events {
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
        // Group 1 is the kernel itself; port 0 lets the kernel choose ours.
        bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
        // SAFETY: `socket` is an `OwnedFd`: it stays open, and the same, until the `AsyncFd` that owns it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(socket.map_err(io::Error::from)?))
    }

    async fn next(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut buffer = [0_u8; 256];
            match recv(guard.get_inner(), &mut buffer, RecvFlags::TRUNC) {
                Ok(_) => {}
                // Events were lost, so one has happened.
                Err(Errno::NOBUFS) => {}
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_layer_is_named_by_number_and_root() {
        let refusal = changed(2, &"ab".repeat(32));
        assert_eq!(refusal.kind, Kind::Layer);
        let root = "ab".repeat(32);
        let expected =
            format!("image layer 2 (verity root {root}) was changed by the host: a block failed verification");
        assert_eq!(refusal.message, expected);
    }

    #[tokio::test]
    async fn kernel_events_can_be_listened_to() {
        let events = Events::open().unwrap();
        let none = tokio::time::timeout(std::time::Duration::from_millis(1), events.next()).await;
        assert!(none.is_err() || none.is_ok_and(|event| event.is_ok()));
    }
}
