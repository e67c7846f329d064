//! The runtime handlers that a node offers: their names are what RuntimeClasses point at.

/// Pod annotations that containerd must hand on to the shim: the initdata, and hints for the host such as the broker's address.
pub const ANNOTATIONS: [&str; 2] = ["io.katacontainers.*", "belljar.dev/*"];

/// A runtime handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handler {
    /// Its name in containerd's configuration and in RuntimeClasses.
    pub name: &'static str,
    /// The shim's file name. The shim takes the TEE from it.
    pub shim: &'static str,
    /// `runtime_type` of containerd.
    pub runtime_type: &'static str,
}

/// All handlers. The first one's shim is a program, the others are links to it.
pub const HANDLERS: [Handler; 4] = [
    Handler { name: "belljar", shim: "containerd-shim-belljar-v2", runtime_type: "io.containerd.belljar.v2" },
    Handler {
        name: "belljar-snp",
        shim: "containerd-shim-belljar-snp-v2",
        runtime_type: "io.containerd.belljar-snp.v2",
    },
    Handler {
        name: "belljar-tdx",
        shim: "containerd-shim-belljar-tdx-v2",
        runtime_type: "io.containerd.belljar-tdx.v2",
    },
    Handler {
        name: "belljar-software",
        shim: "containerd-shim-belljar-software-v2",
        runtime_type: "io.containerd.belljar-software.v2",
    },
];

impl Handler {
    /// Whether the name is one of ours.
    #[must_use]
    pub fn is_ours(name: &str) -> bool {
        HANDLERS.iter().any(|handler| handler.name == name)
    }
}
