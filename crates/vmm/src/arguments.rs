//! From a [`Machine`] to QEMU's argument list: one pure function, the only place that knows QEMU's syntax.
//!
//! Options and properties are those of QEMU 8.2 to 10.0 (`qemu-system-x86_64(1)`, `docs/interop/qmp-qapi`); the TDX object
//! came with QEMU 10.1. Objects, block nodes and disks are written as JSON, so that no value can add an option.

use std::ffi::OsString;
use std::os::fd::RawFd;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use belljar_guest_api::names;
use serde_json::{Value, json};

use crate::machine::{Accel, DiskContent, Machine, QuoteSocket, Tee, mac_text};

/// Above this number of disks, notifications go without eventfds even under KVM: each one makes QEMU rebuild all of them
/// at start (128 disks: 3.2 s with, 1.2 s without). Emulation is better off without: 2000 random reads of 4 KiB took
/// 0.35, 0.30, 0.33 s with and 0.21, 0.28, 0.21 s without.
const MOST_DISKS_WITH_EVENTFD: usize = 32;
/// First free slot of the root bus: 0 is the host bridge, 1 the virtio-serial controller; 30 (1e) is the network
/// interface's, 31 (1f) the ICH9.
const FIRST_DISK_SLOT: usize = 2;
/// Slot of the network interface: behind all that disks can take.
const NIC_SLOT: &str = "1e";
const FUNCTIONS_PER_SLOT: usize = 8;
/// Set of descriptors that holds the console's.
const CONSOLE_SET: usize = 0;
/// Set of descriptors that holds the first disk's, if it is in memory.
const FIRST_DISK_SET: usize = 1;

/// Numbers of the file descriptors that QEMU inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fds {
    /// QMP, a connected stream socket.
    pub qmp: RawFd,
    /// The guest's console, the writing end of a pipe.
    pub console: RawFd,
    /// The port [`names::AGENT_PORT`], a connected stream socket.
    pub agent: RawFd,
    /// The port [`names::TEE_PORT`], a connected stream socket.
    pub tee: RawFd,
    /// The port [`names::PROBE_PORT`], a connected stream socket.
    pub probe: RawFd,
    /// Read-only memory files, one for each disk of [`DiskContent::Bytes`], in the order of the disks.
    pub memory_disks: Vec<RawFd>,
    /// The network interface's tap device.
    pub tap: Option<RawFd>,
}

/// QEMU's arguments, without the program's name.
pub fn arguments(machine: &Machine, fds: &Fds) -> Vec<OsString> {
    let mut list = Arguments::default();
    list.isolation(machine);
    list.board(machine);
    list.protection(machine);
    list.guest(machine);
    list.channels(fds);
    list.disks(machine, fds);
    list.nic(machine, fds);
    list.0
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn push(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    fn flag(&mut self, option: &str) {
        self.0.push(option.into());
    }

    fn json(&mut self, option: &str, value: &Value) {
        self.push(option, value.to_string());
    }

    fn isolation(&mut self, machine: &Machine) {
        self.push("-name", format!("guest=belljar-{}", machine.id));
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.flag("-no-reboot");
        self.push("-display", "none");
        self.push("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    }

    fn board(&mut self, machine: &Machine) {
        let accel = match machine.accel {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        };
        let mut board = format!("q35,accel={accel},memory-backend=ram,sata=off,smbus=off,vmport=off");
        match machine.tee {
            Tee::Software { .. } => {}
            Tee::Snp { .. } | Tee::Tdx { .. } => board.push_str(",kernel_irqchip=split,confidential-guest-support=tee"),
        }
        self.push("-machine", board);
        // SNP measures the CPU model in the VMSA's initial state, so it is fixed; elsewhere it is not measured.
        let cpu = match (&machine.tee, machine.accel) {
            (Tee::Snp { .. }, _) => "EPYC-v4",
            (Tee::Tdx { .. }, _) | (Tee::Software { .. }, Accel::Kvm) => "host",
            (Tee::Software { .. }, Accel::Tcg) => "max",
        };
        self.push("-cpu", cpu);
        // With one vCPU and no room for another, QEMU's translator takes the guest's locked instructions for plain ones, and
        // with them its memory barriers (`lock addl $0,-4(%rsp)`), although QEMU's own threads work on the same queues: a
        // wake-up may be lost. Room for a second one costs nothing measurable (2.0 s of CPU time per boot either way).
        let smp = match (machine.accel, machine.vcpus) {
            (Accel::Tcg, 1) => "1,maxcpus=2".to_owned(),
            (_, vcpus) => vcpus.to_string(),
        };
        self.push("-smp", smp);
        self.push("-m", format!("{}M", machine.memory_mib));
        self.push("-object", format!("memory-backend-memfd,id=ram,size={}M,share=on", machine.memory_mib));
    }

    fn protection(&mut self, machine: &Machine) {
        match &machine.tee {
            Tee::Software { host_data } => {
                self.push("-fw_cfg", format!("name=opt/org.belljar/host-data,string={}", hex::encode(host_data)));
            }
            Tee::Snp { cbitpos, reduced_phys_bits, policy, host_data } => self.json(
                "-object",
                &json!({
                    "qom-type": "sev-snp-guest",
                    "id": "tee",
                    "cbitpos": cbitpos,
                    "reduced-phys-bits": reduced_phys_bits,
                    "policy": policy,
                    "host-data": STANDARD.encode(host_data),
                    "kernel-hashes": true,
                }),
            ),
            Tee::Tdx { mr_config_id, quote_socket } => self.json(
                "-object",
                &json!({
                    "qom-type": "tdx-guest",
                    "id": "tee",
                    "sept-ve-disable": true,
                    "mrconfigid": STANDARD.encode(mr_config_id),
                    "quote-generation-socket": match quote_socket {
                        QuoteSocket::Unix(path) => json!({"type": "unix", "path": path.to_string_lossy()}),
                        QuoteSocket::Vsock { cid, port } =>
                            json!({"type": "vsock", "cid": cid.to_string(), "port": port.to_string()}),
                    },
                }),
            ),
        }
    }

    fn guest(&mut self, machine: &Machine) {
        self.push("-bios", &machine.guest.firmware);
        self.push("-kernel", &machine.guest.kernel);
        self.push("-initrd", &machine.guest.initrd);
        self.push("-append", &machine.guest.cmdline);
    }

    fn channels(&mut self, fds: &Fds) {
        self.push("-chardev", format!("socket,id=qmp,fd={}", fds.qmp));
        self.push("-mon", "chardev=qmp,mode=control");
        self.json("-device", &json!({"driver": "virtio-serial-pci", "id": "ports", "addr": "1", "max_ports": 4}));
        // A console drops what its channel does not take at once. A pipe packs the kernel's writes of 16 bytes; a socket
        // is full after 278 of them.
        self.push("-add-fd", format!("fd={},set={CONSOLE_SET},opaque=console", fds.console));
        self.push("-chardev", format!("file,id=console,append=on,path=/dev/fdset/{CONSOLE_SET}"));
        self.json("-device", &json!({"driver": "virtconsole", "bus": "ports.0", "nr": 0, "chardev": "console"}));
        let ports = [
            ("agent", names::AGENT_PORT, fds.agent),
            ("tee-port", names::TEE_PORT, fds.tee),
            ("probe", names::PROBE_PORT, fds.probe),
        ];
        for (nr, (id, name, fd)) in (1..).zip(ports) {
            self.push("-chardev", format!("socket,id={id},fd={fd}"));
            self.json(
                "-device",
                &json!({"driver": "virtserialport", "bus": "ports.0", "nr": nr, "chardev": id, "name": name}),
            );
        }
    }

    fn disks(&mut self, machine: &Machine, fds: &Fds) {
        let disks = &machine.disks;
        let eventfd = machine.accel == Accel::Kvm && disks.len() <= MOST_DISKS_WITH_EVENTFD;
        let mut memory = fds.memory_disks.iter();
        for (index, disk) in disks.iter().enumerate() {
            let file = match &disk.content {
                DiskContent::File(path) => path.to_string_lossy().into_owned(),
                DiskContent::Bytes(_) => {
                    let fd = memory.next().copied().unwrap_or(-1);
                    let set = FIRST_DISK_SET + index;
                    self.push("-add-fd", format!("fd={fd},set={set},opaque={}", disk.serial));
                    format!("/dev/fdset/{set}")
                }
            };
            let node = format!("disk{index}");
            // Locks would make every pod that shares a layer take one on the same file; nobody writes, so none is needed.
            self.json(
                "-blockdev",
                &json!({
                    "driver": "raw", "node-name": node, "read-only": true, "auto-read-only": false,
                    "cache": {"direct": false, "no-flush": false},
                    "file": {
                        "driver": "file", "filename": file, "locking": "off",
                        "read-only": true, "auto-read-only": false, "cache": {"direct": false, "no-flush": false},
                    },
                }),
            );
            let (slot, function) = (FIRST_DISK_SLOT + index / FUNCTIONS_PER_SLOT, index % FUNCTIONS_PER_SLOT);
            let first_of_many = function == 0 && index + 1 < disks.len();
            self.json(
                "-device",
                &json!({
                    "driver": "virtio-blk-pci", "drive": node, "serial": disk.serial,
                    "addr": format!("{slot:x}.{function}"), "multifunction": first_of_many,
                    "num-queues": 1, "ioeventfd": eventfd,
                }),
            );
        }
    }

    fn nic(&mut self, machine: &Machine, fds: &Fds) {
        let Some(nic) = &machine.nic else { return };
        let tap = fds.tap.unwrap_or(-1).to_string();
        self.json("-netdev", &json!({"type": "tap", "id": "net0", "fd": tap}));
        // The default `romfile` is code that firmware would run.
        self.json(
            "-device",
            &json!({
                "driver": "virtio-net-pci", "netdev": "net0", "mac": mac_text(nic.mac), "romfile": "",
                "addr": NIC_SLOT, "ioeventfd": machine.accel == Accel::Kvm,
            }),
        );
    }
}
