//! PID 1 of the pod VM.
//!
//! The agent trusts the CPU, the contract and the broker that the contract pins; it does not trust the host that started
//! it. From kernel to container, in order:
//!
//! | module | does |
//! |---|---|
//! | [`mounts`], [`modules`] | file systems, kernel modules, the way off the initramfs |
//! | [`ports`], [`transport`], [`service`] | finds virtio devices by name, answers the host's calls |
//! | [`tunnel`] | connections out of the guest and into it, carried by the host |
//! | [`inward`], [`attested`], [`logs`] | what the host may connect to: ports of the contract, and the service that proves what runs here |
//! | [`network`] | the pod's interface, and the files about it |
//! | [`initdata`], [`tee`] | the contract, and the hardware's word for it |
//! | [`layers`], [`dm`] | image layers through dm-verity |
//! | [`attest`], [`secret_api`] | the broker, its secrets, and how containers get them |
//! | [`container`], [`pod`], [`streams`] | one container, all of them in their order, and their standard streams |
//! | [`volumes`], [`sysctl`] | the pod's volumes, with the host's files checked; kernel settings |
//! | [`guest`], [`status`], [`refusal`] | the shared state, what the host sees of it, and why the guest will not go on |
//! | [`reaper`], [`power`], [`loopback`] | child processes of PID 1, power-off, the loopback interface |
//! | [`probe`] | the memory probe |
//! | [`cmdline`], [`clock`], [`console`] | words of the kernel command line, time since boot, messages in debug mode |
//! | [`start`] | puts these together |

pub mod attest;
pub mod attested;
pub mod clock;
pub mod cmdline;
pub mod console;
pub mod container;
pub mod dm;
pub mod guest;
pub mod initdata;
pub mod inward;
pub mod layers;
pub mod logs;
pub mod loopback;
pub mod modules;
pub mod mounts;
pub mod network;
pub mod pod;
pub mod ports;
pub mod power;
pub mod probe;
pub mod reaper;
pub mod refusal;
pub mod secret_api;
pub mod service;
pub mod start;
pub mod status;
pub mod streams;
pub mod sysctl;
pub mod tee;
pub mod transport;
pub mod tunnel;
pub mod volumes;
