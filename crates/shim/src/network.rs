//! The pod's network on this node: its interface becomes the VM's, its name servers and host name are told to the guest where the contract
//! leaves them to the host, and ports that the contract lists are served on the pod's loopback.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use belljar_contract::{
    Contract, Dns, Network,
    model::{MAX_NAMESERVERS, MAX_RESOLVER_LIST},
};
use belljar_guest_api::api::{AgentClient, ConfigureNetworkRequest};
use belljar_guest_api::names::{ATTESTED_PORT, ATTESTED_TARGET, PORT_TARGET_PREFIX};
use belljar_launch::Tunnel;
use belljar_vmm::machine::Nic;
use belljar_vmm::network::{self, NetworkError, PodNetwork};
use tokio::task::JoinSet;

use crate::bundle::BundleConfig;
use crate::error::ShimError;

/// Largest `resolv.conf`, in bytes.
const MAX_RESOLV: u64 = 64 * 1024;
/// Most connections to one port at a time: half of the guest's tunnels, so that one port cannot take them all.
const MAX_CONNECTIONS: usize = 24;

/// What the sandbox's bundle says of the pod's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The network namespace.
    pub namespace: Option<PathBuf>,
    /// The pod's name servers, where it has a `resolv.conf` on this node.
    pub resolver: Option<Resolver>,
    /// The pod's host name.
    pub hostname: String,
}

impl Place {
    /// From the sandbox's `config.json`. `resolver` is what was said elsewhere.
    ///
    /// # Errors
    /// When the pod's `resolv.conf` cannot be read.
    pub fn of(config: &BundleConfig, resolver: Option<Resolver>) -> Result<Self, ShimError> {
        let read = |path| Resolver::read(path);
        Ok(Self {
            namespace: config.network_namespace().map(Path::to_owned),
            resolver: match resolver {
                None => config.mount_source("/etc/resolv.conf").map(read).transpose()?,
                given => given,
            },
            hostname: config.hostname.clone(),
        })
    }
}

/// The joined network; dropping it takes the joint away.
#[derive(Debug)]
pub struct Joined {
    namespace: Option<PathBuf>,
    network: Option<PodNetwork>,
    request: Option<ConfigureNetworkRequest>,
    ports: Vec<(u16, String)>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let (Some(namespace), Some(_)) = (&self.namespace, &self.network)
            && let Err(error) = network::detach(namespace)
        {
            tracing::warn!(%error, "the pod's network is not taken apart");
        }
    }
}

impl Joined {
    /// Joins the pod's interface to a tap for the VM, as far as the contract wants a network. It blocks for some system calls.
    ///
    /// # Errors
    /// [`ShimError::Refused`]: no namespace, no interface, several.
    pub fn join(contract: &Contract, place: &Place) -> Result<Self, ShimError> {
        let refused = |error: NetworkError| ShimError::Refused(error.to_string());
        let pod = &contract.pod;
        let network = match (pod.network, &place.namespace) {
            (Network::None, _) => None,
            (Network::Host, Some(namespace)) => Some(network::attach(namespace).map_err(refused)?),
            (Network::Host, None) => {
                return Err(ShimError::Refused(
                    "the pod has no network namespace of its own (hostNetwork?), and its contract asks for a network"
                        .to_owned(),
                ));
            }
        };
        let wanted = network.is_some() || pod.dns == Dns::Host || pod.hostname_from_host;
        let mut joined = Self { namespace: place.namespace.clone(), network, request: None, ports: Vec::new() };
        if wanted {
            let mut request = joined.network.as_ref().map(PodNetwork::request).unwrap_or_default();
            if let (Dns::Host, Some(resolver)) = (&pod.dns, &place.resolver) {
                resolver.nameservers.clone_into(&mut request.nameservers);
                resolver.searches.clone_into(&mut request.searches);
                resolver.options.clone_into(&mut request.options);
            }
            if pod.hostname_from_host {
                place.hostname.clone_into(&mut request.hostname);
            }
            joined.request = Some(request);
        }
        joined.ports.push((ATTESTED_PORT, ATTESTED_TARGET.to_owned()));
        joined.ports.extend(pod.ports.iter().map(|port| (*port, format!("{PORT_TARGET_PREFIX}{port}"))));
        Ok(joined)
    }

    /// The VM's interface.
    pub fn nic(&self) -> Result<Option<Nic>, ShimError> {
        let Some(network) = &self.network else { return Ok(None) };
        let tap = network.tap.try_clone().map_err(|error| ShimError::Internal(format!("tap device: {error}")))?;
        Ok(Some(Nic { tap: Arc::new(tap), mac: network.mac }))
    }

    /// What the guest is to be told, if anything.
    pub fn request(&self) -> Option<&ConfigureNetworkRequest> {
        self.request.as_ref()
    }

    /// Serves the ports on the pod's loopback as long as the result lives. A listener keeps the namespace from going away.
    pub fn serve(&self, agent: &AgentClient) -> JoinSet<()> {
        let mut serving = JoinSet::new();
        let Some(namespace) = &self.namespace else { return serving };
        for (port, target) in &self.ports {
            match network::listen_in(namespace, *port).map_err(|error| error.to_string()).and_then(|listener| {
                listener.set_nonblocking(true).map_err(|error| error.to_string())?;
                tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())
            }) {
                Ok(listener) => {
                    serving.spawn(forward(listener, agent.clone(), target.clone()));
                }
                Err(error) => tracing::warn!(port, error, "port-forward to this port does not work"),
            }
        }
        serving
    }
}

async fn forward(listener: tokio::net::TcpListener, agent: AgentClient, target: String) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            let _ = connections.join_next().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, target, "accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (agent, target) = (agent.clone(), target.clone());
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            match Tunnel::open(agent, &target).await {
                Ok(tunnel) => {
                    let ended = tunnel.carry_inward(stream).await;
                    tunnel.close(&ended.err().map(|error| error.to_string()).unwrap_or_default()).await;
                }
                Err(error) => tracing::info!(target, %error, "the guest takes no connection"),
            }
        });
    }
}

/// The parts of a `resolv.conf`, `resolv.conf(5)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn read(path: &Path) -> Result<Self, ShimError> {
        let failed = |error: std::io::Error| ShimError::Refused(format!("{}: {error}", path.display()));
        let mut text = String::new();
        std::fs::File::open(path).and_then(|file| file.take(MAX_RESOLV).read_to_string(&mut text)).map_err(failed)?;
        Ok(Self::parse(&text))
    }

    /// Reads the lines that mean something; the guest checks each value. The last `search` or `domain` line counts, as in the C library.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let line = line.trim_start();
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        Self::new(resolver.nameservers, resolver.searches, resolver.options)
    }

    /// Of these parts, as many as are used, in the form that the guest takes.
    pub fn new(mut nameservers: Vec<String>, mut searches: Vec<String>, mut options: Vec<String>) -> Self {
        // The C library reads no more name servers than three.
        nameservers.truncate(MAX_NAMESERVERS);
        searches.truncate(MAX_RESOLVER_LIST);
        searches.iter_mut().for_each(|domain| domain.make_ascii_lowercase());
        options.truncate(MAX_RESOLVER_LIST);
        Self { nameservers, searches, options }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_c_library_reads_it() {
        let resolver = Resolver::parse(
            "# made by kubelet\nsearch old.example\nsearch default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n nameserver fd00::a # x\noptions ndots:5\noptions edns0\n",
        );
        assert_eq!(resolver.nameservers, ["10.96.0.10", "fd00::a"]);
        assert_eq!(resolver.searches, ["default.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(resolver.options, ["ndots:5", "edns0"]);
        assert_eq!(Resolver::parse(&"nameserver 1.1.1.1\n".repeat(9)).nameservers.len(), 3);
        assert_eq!(Resolver::parse("search Corp.Example\n").searches, ["corp.example"]);
        assert_eq!(Resolver::parse(&format!("search{}", " a".repeat(40))).searches.len(), MAX_RESOLVER_LIST);
    }
}
