//! Connections that the host opens into the guest: to a TCP port of the loopback that the contract lists, and to the agent's own
//! attested service.

use std::{net::Ipv4Addr, net::Ipv6Addr, sync::Arc, time::Duration};

use belljar_contract::Contract;
use belljar_guest_api::{
    limits::one_line,
    names::{ATTESTED_TARGET, PORT_TARGET_PREFIX},
};
use tokio::{io::copy_bidirectional, net::TcpStream, time::timeout};

use crate::{
    attested::Attested,
    tunnel::{GuestEnd, TunnelError, Tunnels},
};

/// Longest time for a connection on the loopback.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a tunnel leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Attested,
    Port(u16),
}

impl Target {
    /// `attested`, or `port:N` for a port of the contract, in decimal digits as everybody writes them.
    fn parse(text: &str, contract: &Contract) -> Result<Self, TunnelError> {
        if text == ATTESTED_TARGET {
            return Ok(Self::Attested);
        }
        let ports = &contract.pod.ports;
        if let Some(port) =
            ports.iter().find(|port| text.strip_prefix(PORT_TARGET_PREFIX) == Some(port.to_string().as_str()))
        {
            return Ok(Self::Port(*port));
        }
        let mut allowed = vec![ATTESTED_TARGET.to_owned()];
        allowed.extend(ports.iter().map(|port| format!("{PORT_TARGET_PREFIX}{port}")));
        Err(TunnelError::Target { allowed: allowed.join(" or "), found: one_line(text) })
    }
}

/// Opens a connection to `target`; gives its id.
///
/// # Errors
/// [`TunnelError::Target`] for what the contract does not list, [`TunnelError::Refused`] when nobody listens,
/// [`TunnelError::TooMany`].
pub async fn open(
    tunnels: &Arc<Tunnels>,
    contract: &Contract,
    attested: Arc<Attested>,
    target: &str,
) -> Result<u64, TunnelError> {
    match Target::parse(target, contract)? {
        Target::Attested => {
            let place = attested.admit().ok_or(TunnelError::Busy)?;
            let end = tunnels.inward()?;
            let id = end.id();
            tokio::spawn(async move {
                let mut closed = end.reason();
                tokio::select! {
                    () = attested.serve(end, place) => {}
                    _ = closed.wait_for(Option::is_some) => {}
                }
            });
            Ok(id)
        }
        Target::Port(port) => {
            let stream = connect(port).await?;
            let end = tunnels.inward()?;
            let id = end.id();
            tokio::spawn(carry(stream, end));
            Ok(id)
        }
    }
}

/// IPv4 first: it is what most programs listen on.
async fn connect(port: u16) -> Result<TcpStream, TunnelError> {
    let refused = |why: String| TunnelError::Refused { port, why };
    let both = async {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(stream) => Ok(stream),
            Err(error) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| refused(error.to_string())),
        }
    };
    timeout(CONNECT_LIMIT, both).await.unwrap_or_else(|_| Err(refused("no answer".to_owned())))
}

async fn carry(mut stream: TcpStream, mut end: GuestEnd) {
    let mut closed = end.reason();
    tokio::select! {
        _ = copy_bidirectional(&mut stream, &mut end) => {}
        _ = closed.wait_for(Option::is_some) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_contract_lists_is_reached() {
        let text = format!(
            "version = 1\n[containers.main]\nimage = \"i\"\nimage_digest = \"sha256:{digest}\"\nargs = [\"/a\"]\n\
             [[containers.main.layers]]\nverity_root = \"{digest}\"\nsalt = \"\"\ndata_blocks = 1\n",
            digest = "0".repeat(64)
        );
        let mut contract = Contract::parse(&text).unwrap();
        contract.pod.ports = vec![8080, 9090];
        assert_eq!(Target::parse("attested", &contract), Ok(Target::Attested));
        assert_eq!(Target::parse("port:8080", &contract), Ok(Target::Port(8080)));
        for found in ["port:8081", "port:08080", "port:+8080", "port:", "8080", "broker", "port:8080 ", ""] {
            let expected = "attested or port:8080 or port:9090".to_owned();
            let found = found.to_owned();
            assert_eq!(Target::parse(&found, &contract), Err(TunnelError::Target { allowed: expected, found }));
        }
    }

    #[tokio::test]
    async fn a_port_is_carried_and_a_closed_one_is_told() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tunnels = Arc::<Tunnels>::default();
        let stream = connect(port).await.unwrap();
        let end = tunnels.inward().unwrap();
        let id = end.id();
        tokio::spawn(carry(stream, end));
        let (mut server, _) = listener.accept().await.unwrap();
        tunnels.write(id, b"ping").await.unwrap();
        tunnels.write(id, b"").await.unwrap();
        let mut said = String::new();
        server.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "ping");
        server.write_all(b"pong").await.unwrap();
        drop(server);
        assert_eq!(tunnels.read(id, 100).await.unwrap(), b"pong");
        assert_eq!(tunnels.read(id, 100).await.unwrap(), b"");
        drop(listener);
        let refused = connect(port).await.unwrap_err().to_string();
        assert!(refused.starts_with(&format!("cannot connect to port {port} of the pod's loopback: ")), "{refused}");
    }
}
