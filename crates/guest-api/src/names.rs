//! Names that the host gives to the guest's devices, and words of the kernel command line.

/// virtio-serial port that carries the ttrpc connection of [`crate::api::Agent`].
pub const AGENT_PORT: &str = "org.belljar.agent";
/// virtio-serial port of the software secure processor ([`crate::softport`]); absent on hardware.
pub const TEE_PORT: &str = "org.belljar.tee";
/// virtio-serial port whose queue the memory probe fills with its shared canary.
pub const PROBE_PORT: &str = "org.belljar.probe";
/// vsock port of the ttrpc connection, used when the VM has no [`AGENT_PORT`].
pub const AGENT_VSOCK_PORT: u32 = 1024;

/// virtio-blk serial of the disk that holds the initdata.
pub const INITDATA_SERIAL: &str = "initdata";
/// First part of the virtio-blk serial of a layer disk, see [`layer_serial`].
pub const LAYER_SERIAL_PREFIX: &str = "layer-";

/// Word of the kernel command line that turns on console output. It is measured with the rest of the command line.
pub const DEBUG_WORD: &str = "belljar.debug";

/// Target of an outward tunnel: the broker that the contract pins.
pub const BROKER_TARGET: &str = "broker";
/// Target of an inward tunnel: the agent's attested service (TLS, for `belljar verify`, `belljar exec`, `belljar logs`).
pub const ATTESTED_TARGET: &str = "attested";
/// Target of an inward tunnel to a TCP port of the guest's loopback: this and the port in decimal digits.
pub const PORT_TARGET_PREFIX: &str = "port:";
/// TCP port of the pod's loopback, on the host's side of the network namespace, where the shim offers the agent's attested service, so that
/// `kubectl port-forward` reaches it. A contract cannot list it.
pub const ATTESTED_PORT: u16 = 8007;

/// Kinds of refusal that `StatusResponse.refusal_kind` and `WaitContainerResponse.refusal_kind` carry.
pub mod refusal {
    /// The initdata disk is missing or malformed, or differs from what the hardware measured.
    pub const INITDATA: &str = "initdata";
    /// The contract does not parse, or asks for what the guest cannot honour.
    pub const CONTRACT: &str = "contract";
    /// No report could be had, or the broker did not accept the evidence.
    pub const ATTESTATION: &str = "attestation";
    /// The broker withheld a secret.
    pub const SECRET: &str = "secret";
    /// A layer is missing, or was changed by the host.
    pub const LAYER: &str = "layer";
    /// The broker could not be reached, or is not the one that the contract pins.
    pub const BROKER: &str = "broker";
    /// The guest itself failed.
    pub const INTERNAL: &str = "internal";
}

/// The virtio-blk serial of the layer with this dm-verity root: `layer-` and the root's first 14 hex digits, which
/// together are the 20 bytes that virtio-blk allows. `None` when `verity_root` does not start with 14 lowercase hex digits.
///
/// The serial only finds the disk; the whole root stands in the contract and decides.
pub fn layer_serial(verity_root: &str) -> Option<String> {
    let head = verity_root.get(..14)?;
    head.bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        .then(|| format!("{LAYER_SERIAL_PREFIX}{head}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_serial_fills_the_twenty_bytes_of_virtio_blk() {
        let root = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let serial = layer_serial(root).unwrap();
        assert_eq!(serial, "layer-0123456789abcd");
        assert_eq!(serial.len(), 20);
        assert_eq!(layer_serial("0123456789abcD"), None);
        assert_eq!(layer_serial("0123456789abc"), None);
        assert_eq!(layer_serial("0123456789abcd").as_deref(), Some("layer-0123456789abcd"));
    }
}
