//! What the host says about the pod's network, read into typed values before anything is done with it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use belljar_contract::{Contract, ContractError, Dns, Network, PodSettings, Resolver};
use belljar_guest_api::{
    api,
    limits::{MAX_NETWORK_LIST, one_line},
    status::Code,
};

/// Smallest MTU: what IPv6 needs (RFC 8200, 5); IPv4 alone runs over 576 (RFC 791).
const MIN_MTU: u32 = 576;
const MIN_MTU_V6: u32 = 1280;
const MAX_MTU: u32 = 65_535;
/// Longest DNS name in text (RFC 1035, 2.3.4).
const MAX_DNS_NAME: usize = 253;
/// Names of the loopback in `/etc/hosts`.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "ip6-localhost", "ip6-loopback"];
/// Longest option of `/etc/resolv.conf`.
const MAX_OPTION: usize = 64;

/// Why the host's word about the network is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The contract fixes what the host gives.
    #[error("{claim} expected {expected} by the contract, found {found}")]
    Denied {
        /// Field of the contract.
        claim: &'static str,
        /// What it says.
        expected: &'static str,
        /// What the host gave.
        found: String,
    },
    /// Longer than [`MAX_NETWORK_LIST`].
    #[error("{field} has {found} entries, at most {MAX_NETWORK_LIST} are allowed")]
    TooMany {
        /// Field of the request.
        field: &'static str,
        /// Its length.
        found: usize,
    },
    /// More than name resolution takes, or in another form.
    #[error("name resolution of the host: {0}")]
    Resolver(ContractError),
    /// A value that is none of its type.
    #[error("{field} expected {expected}, found {found:?}")]
    Malformed {
        /// Field of the request.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What stands there, in one line.
        found: String,
    },
}

impl SettingsError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Denied { .. } => Code::PermissionDenied,
            _ => Code::InvalidArgument,
        }
    }
}

fn malformed(field: &'static str, expected: &'static str, found: impl std::fmt::Display) -> SettingsError {
    SettingsError::Malformed { field, expected, found: one_line(&found.to_string()) }
}

/// An address and the length of its network's prefix, or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub length: u8,
}

impl FromStr for Prefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = text.split_once('/').ok_or("it has no prefix length")?;
        let address: IpAddr = address.parse().map_err(|_| "it has no address")?;
        let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length = Some(length).filter(|l| plain && (*l == "0" || !l.starts_with('0'))).and_then(|l| l.parse().ok());
        let most = if address.is_ipv4() { 32 } else { 128 };
        match length {
            Some(length) if length <= most => Ok(Self { address, length }),
            _ => Err("its prefix length does not fit"),
        }
    }
}

impl Prefix {
    /// Whether no bit behind the prefix is set.
    fn is_network(&self) -> bool {
        match self.address {
            IpAddr::V4(v4) => v4.to_bits().checked_shl(self.length.into()).unwrap_or(0) == 0,
            IpAddr::V6(v6) => v6.to_bits().checked_shl(self.length.into()).unwrap_or(0) == 0,
        }
    }
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; length 0 is the default route.
    pub destination: Prefix,
    /// The next hop, of the destination's family; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The address of ours that packets get.
    pub source: Option<IpAddr>,
    /// The next hop is on the link although no prefix says so.
    pub on_link: bool,
}

/// The pod's network as the host wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whose interface it is.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// At least one.
    pub addresses: Vec<Prefix>,
    /// In the order in which they can be made: what others go through comes first.
    pub routes: Vec<Route>,
    /// Name resolution, where the contract leaves it to the host.
    pub resolver: Option<Resolver>,
    /// The pod's host name, where the contract leaves it to the host.
    pub hostname: Option<String>,
}

impl Settings {
    /// Reads the request and compares it with what `contract` leaves to the host.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn parse(request: &api::ConfigureNetworkRequest, contract: &Contract) -> Result<Self, SettingsError> {
        if contract.pod.network != Network::Host {
            let found = "an interface from the host".to_owned();
            return Err(SettingsError::Denied { claim: "pod.network", expected: "none", found });
        }
        for (field, found) in [
            ("addresses", request.addresses.len()),
            ("routes", request.routes.len()),
            ("nameservers", request.nameservers.len()),
            ("searches", request.searches.len()),
            ("options", request.options.len()),
        ] {
            if found > MAX_NETWORK_LIST {
                return Err(SettingsError::TooMany { field, found });
            }
        }
        let addresses = addresses(&request.addresses)?;
        Ok(Self {
            mac: mac(&request.mac)?,
            mtu: mtu(request.mtu, &addresses)?,
            routes: routes(&request.routes, &addresses)?,
            addresses,
            resolver: resolver(request, &contract.pod.dns)?,
            hostname: hostname(&request.hostname, &contract.pod)?,
        })
    }
}

fn mac(bytes: &[u8]) -> Result<[u8; 6], SettingsError> {
    let mac = <[u8; 6]>::try_from(bytes).ok().filter(|mac| *mac != [0; 6] && mac.first().is_some_and(|b| b & 1 == 0));
    mac.ok_or_else(|| malformed("mac", "six bytes of one station", hex::encode(bytes.get(..16).unwrap_or(bytes))))
}

fn mtu(mtu: u32, addresses: &[Prefix]) -> Result<u32, SettingsError> {
    let v6 = addresses.iter().any(|address| address.address.is_ipv6());
    match (v6, mtu) {
        (true, MIN_MTU_V6..=MAX_MTU) | (false, MIN_MTU..=MAX_MTU) => Ok(mtu),
        (true, _) => Err(malformed("mtu", "1280 to 65535, with an IPv6 address", mtu)),
        (false, _) => Err(malformed("mtu", "576 to 65535", mtu)),
    }
}

/// An address that one station outside this machine can have. In particular none that the guest takes for its own loopback.
fn is_station(address: &IpAddr) -> bool {
    let reserved = match address {
        IpAddr::V4(v4) => *v4 == Ipv4Addr::BROADCAST || v4.octets().first() == Some(&0),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !(reserved || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn addresses(texts: &[String]) -> Result<Vec<Prefix>, SettingsError> {
    const EXPECTED: &str = "the address of a station with its prefix length, each once";
    let mut seen = BTreeSet::new();
    let read = |text: &String| {
        let address = text.parse::<Prefix>().ok().filter(|prefix| is_station(&prefix.address) && prefix.length > 0);
        address.filter(|prefix| seen.insert(prefix.address)).ok_or_else(|| malformed("addresses", EXPECTED, text))
    };
    let addresses = texts.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() {
        return Err(malformed("addresses", "at least one", ""));
    }
    Ok(addresses)
}

fn routes(found: &[api::Route], addresses: &[Prefix]) -> Result<Vec<Route>, SettingsError> {
    let mut seen = BTreeSet::new();
    let mut routes = Vec::with_capacity(found.len());
    for route in found {
        let read = read_route(route, addresses)?;
        if !seen.insert(read.destination) {
            return Err(malformed("routes.destination", "each once", &route.destination));
        }
        routes.push(read);
    }
    // A gateway must be reachable when its route is made; stable otherwise.
    routes.sort_by_key(|route| route.gateway.is_some());
    Ok(routes)
}

fn read_route(route: &api::Route, addresses: &[Prefix]) -> Result<Route, SettingsError> {
    let optional = |field, expected, text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| malformed(field, expected, text)),
    };
    let gateway = optional("routes.gateway", "an address", &route.gateway)?;
    let source = optional("routes.source", "an address", &route.source)?;
    let destination = match (route.destination.as_str(), gateway.or(source)) {
        ("", Some(IpAddr::V4(_))) => Prefix { address: Ipv4Addr::UNSPECIFIED.into(), length: 0 },
        ("", Some(IpAddr::V6(_))) => Prefix { address: Ipv6Addr::UNSPECIFIED.into(), length: 0 },
        ("", None) => return Err(malformed("routes.gateway", "an address, for a default route", "")),
        (text, _) => text
            .parse::<Prefix>()
            .ok()
            .filter(|prefix| prefix.is_network() && (prefix.length == 0 || is_destination(&prefix.address)))
            .ok_or_else(|| malformed("routes.destination", "a network with its prefix length, or empty", text))?,
    };
    let same_family = |address: &IpAddr| address.is_ipv4() == destination.address.is_ipv4();
    if let Some(gateway) = gateway.filter(|gateway| !is_station(gateway) || !same_family(gateway)) {
        return Err(malformed("routes.gateway", "the address of a station, of the destination's family", gateway));
    }
    let ours = |address: &IpAddr| same_family(address) && addresses.iter().any(|own| own.address == *address);
    if let Some(source) = source.filter(|source| !ours(source)) {
        return Err(malformed("routes.source", "one of the addresses, of the destination's family", source));
    }
    if route.on_link && gateway.is_none() {
        return Err(malformed("routes.on_link", "false, without a gateway", true));
    }
    Ok(Route { destination, gateway, source, on_link: route.on_link })
}

/// Multicast and the rest may be routed; the guest's own loopback may not.
fn is_destination(address: &IpAddr) -> bool {
    !address.is_loopback() && !matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn resolver(request: &api::ConfigureNetworkRequest, dns: &Dns) -> Result<Option<Resolver>, SettingsError> {
    let expected = match dns {
        Dns::Host => return read_resolver(request).map(Some),
        Dns::None => "none",
        Dns::Fixed(_) => "fixed",
    };
    let lists = [("nameservers", &request.nameservers), ("searches", &request.searches), ("options", &request.options)];
    match lists.into_iter().find(|(_, list)| !list.is_empty()) {
        Some((name, _)) => {
            Err(SettingsError::Denied { claim: "pod.dns", expected, found: format!("{name} from the host") })
        }
        None => Ok(None),
    }
}

fn read_resolver(request: &api::ConfigureNetworkRequest) -> Result<Resolver, SettingsError> {
    let nameserver =
        |text: &String| text.parse().map_err(|_| malformed("nameservers", "an IPv4 or IPv6 address", text));
    let search = |text: &String| match is_search_domain(text) {
        true => Ok(text.clone()),
        false => Err(malformed("searches", "a DNS name", text)),
    };
    let option = |text: &String| match is_option(text) {
        true => Ok(text.clone()),
        false => Err(malformed("options", "a word, or a word and a number with ':' between them", text)),
    };
    let resolver = Resolver {
        nameservers: request.nameservers.iter().map(nameserver).collect::<Result<_, _>>()?,
        searches: request.searches.iter().map(search).collect::<Result<_, _>>()?,
        options: request.options.iter().map(option).collect::<Result<_, _>>()?,
    };
    // A host that has none gives nothing; otherwise the bounds are those of a contract.
    if resolver != Resolver::default() {
        resolver.check("dns").map_err(SettingsError::Resolver)?;
    }
    Ok(resolver)
}

/// A DNS name (labels may hold underscores, as service domains do), the root ".", or either with a dot at the end.
fn is_search_domain(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return text == ".";
    }
    name.len() <= MAX_DNS_NAME && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

/// The shape of every option of resolv.conf(5).
fn is_option(text: &str) -> bool {
    let (name, value) = text.split_once(':').map_or((text, None), |(name, value)| (name, Some(value)));
    let word = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let number = value.is_none_or(|value| !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()));
    !name.is_empty() && text.len() <= MAX_OPTION && word && number
}

/// The host name goes into `/etc/hosts` before the contract's aliases, so it must be none of the names that mean somebody else there.
fn hostname(text: &str, pod: &PodSettings) -> Result<Option<String>, SettingsError> {
    // RFC 1123, as Kubernetes writes it: lowercase.
    let lowercase = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    match (pod.hostname_from_host, text) {
        (true, text) if LOOPBACK_NAMES.contains(&text) => {
            Err(malformed("hostname", "another name than those of the loopback", text))
        }
        (true, text) if pod.host_aliases.values().flatten().any(|name| name == text) => Err(SettingsError::Denied {
            claim: "pod.host_aliases",
            expected: "its names for their addresses",
            found: format!("host name {text:?} from the host"),
        }),
        (true, text) if is_label(text) && lowercase => Ok(Some(text.to_owned())),
        (true, text) => Err(malformed("hostname", "a DNS label in lowercase", text)),
        (false, "") => Ok(None),
        (false, text) => Err(SettingsError::Denied {
            claim: "pod.hostname_from_host",
            expected: "false",
            found: format!("host name {:?} from the host", one_line(text)),
        }),
    }
}

/// The smallest contract that leaves the network to the host.
fn example() -> Result<Contract, ContractError> {
    let text = format!(
        "version = 1\n[containers.main]\nimage = \"i\"\nimage_digest = \"sha256:{digest}\"\n\
         args = [\"/a\"]\n[[containers.main.layers]]\nverity_root = \"{digest}\"\nsalt = \"\"\ndata_blocks = 1\n",
        digest = "0".repeat(64)
    );
    let mut contract = Contract::parse(&text)?;
    contract.pod.network = Network::Host;
    Ok(contract)
}

/// For fuzzing: whatever is parsed as a request is accepted or refused without a panic, and what is accepted keeps the bounds.
pub fn fuzz(data: &[u8]) {
    use belljar_guest_api::protobuf::Message as _;
    let Ok(request) = api::ConfigureNetworkRequest::parse_from_bytes(data) else { return };
    let Ok(mut contract) = example() else { return };
    for dns in [Dns::Host, Dns::None] {
        contract.pod.dns = dns;
        contract.pod.hostname_from_host = contract.pod.dns == Dns::Host;
        if let Ok(settings) = Settings::parse(&request, &contract) {
            assert!(!settings.addresses.is_empty() && settings.addresses.len() <= MAX_NETWORK_LIST);
            assert!(settings.addresses.iter().all(|address| is_station(&address.address)));
            let resolver = settings.resolver.unwrap_or_default();
            assert!(resolver == Resolver::default() || resolver.check("dns").is_ok());
            let _ = super::files::resolv_conf(&resolver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_contract::model::MAX_NAMESERVERS;
    use proptest::prelude::*;

    fn request() -> api::ConfigureNetworkRequest {
        let route = |destination: &str, gateway: &str| api::Route {
            destination: destination.into(),
            gateway: gateway.into(),
            ..Default::default()
        };
        api::ConfigureNetworkRequest {
            mac: vec![0x02, 0x42, 0x0a, 0x58, 0x00, 0x05],
            mtu: 1450,
            addresses: vec!["10.88.0.5/16".into(), "fd00::5/64".into()],
            routes: vec![route("", "10.88.0.1"), route("10.96.0.0/12", ""), route("::/0", "fe80::1")],
            nameservers: vec!["10.96.0.10".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local.".into(), ".".into()],
            options: vec!["ndots:5".into(), "edns0".into()],
            hostname: "web-0".into(),
            ..Default::default()
        }
    }

    fn contract() -> Contract {
        let mut contract = example().unwrap();
        contract.pod.dns = Dns::Host;
        contract.pod.hostname_from_host = true;
        contract
    }

    #[test]
    fn what_the_contract_leaves_to_the_host_is_read() {
        let settings = Settings::parse(&request(), &contract()).unwrap();
        assert_eq!(settings.mtu, 1450);
        assert_eq!(settings.addresses[1], "fd00::5/64".parse().unwrap());
        // What is on the link comes first.
        assert_eq!(settings.routes[0].destination, "10.96.0.0/12".parse().unwrap());
        assert_eq!(settings.routes[1].destination, "0.0.0.0/0".parse().unwrap());
        assert_eq!(settings.hostname.as_deref(), Some("web-0"));
        let text = super::super::files::resolv_conf(&settings.resolver.unwrap());
        let expected =
            "search default.svc.cluster.local svc.cluster.local. .\nnameserver 10.96.0.10\noptions ndots:5 edns0\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_the_contract_fixes_is_denied() {
        let denied = |change: &dyn Fn(&mut Contract), request: &api::ConfigureNetworkRequest| {
            let mut contract = contract();
            change(&mut contract);
            let error = Settings::parse(request, &contract).unwrap_err();
            assert_eq!(error.code(), Code::PermissionDenied);
            error.to_string()
        };
        let network: &dyn Fn(&mut Contract) = &|contract| contract.pod.network = Network::None;
        let expected = "pod.network expected none by the contract, found an interface from the host";
        assert_eq!(denied(network, &request()), expected);
        let expected = "pod.dns expected none by the contract, found nameservers from the host";
        assert_eq!(denied(&|contract| contract.pod.dns = Dns::None, &request()), expected);
        let fixed = Dns::Fixed(Resolver::default());
        let expected = "pod.dns expected fixed by the contract, found nameservers from the host";
        assert_eq!(denied(&|contract| contract.pod.dns = fixed.clone(), &request()), expected);
        let expected = "pod.hostname_from_host expected false by the contract, found host name \"web-0\" from the host";
        assert_eq!(denied(&|contract| contract.pod.hostname_from_host = false, &request()), expected);

        let mut silent = request();
        (silent.nameservers, silent.searches, silent.options) = Default::default();
        silent.hostname = String::new();
        let mut contract = contract();
        (contract.pod.dns, contract.pod.hostname_from_host) = (Dns::None, false);
        let settings = Settings::parse(&silent, &contract).unwrap();
        assert_eq!((settings.resolver, settings.hostname), (None, None));
    }

    #[test]
    fn each_malformed_field_is_named() {
        type Change = fn(&mut api::ConfigureNetworkRequest);
        let cases: &[(Change, &str)] = &[
            (|r| r.mac = vec![1, 2, 3, 4, 5, 6], "mac"),
            (|r| r.mac = vec![0; 6], "mac"),
            (|r| r.mac.truncate(5), "mac"),
            (|r| r.mtu = 1279, "mtu"),
            (|r| r.mtu = 0, "mtu"),
            (|r| r.addresses.clear(), "addresses"),
            (|r| r.addresses[0] = "10.88.0.5".into(), "addresses"),
            (|r| r.addresses[0] = "10.88.0.5/33".into(), "addresses"),
            (|r| r.addresses[0] = "10.88.0.5/016".into(), "addresses"),
            (|r| r.addresses[0] = "10.88.0.5/+16".into(), "addresses"),
            (|r| r.addresses[0] = "10.88.0.5/0".into(), "addresses"),
            (|r| r.addresses[0] = "127.0.0.2/8".into(), "addresses"),
            (|r| r.addresses[0] = "224.0.0.1/8".into(), "addresses"),
            (|r| r.addresses[0] = "0.0.0.1/8".into(), "addresses"),
            (|r| r.addresses[0] = "::ffff:127.0.0.1/96".into(), "addresses"),
            (|r| r.addresses[0] = "10.88.0.5/16\nx".into(), "addresses"),
            (|r| r.addresses.push("10.88.0.5/24".into()), "addresses"),
            (|r| r.routes[0].gateway = String::new(), "routes.gateway"),
            (|r| r.routes[0].gateway = "gateway".into(), "routes.gateway"),
            (|r| r.routes[0].gateway = "127.0.0.1".into(), "routes.gateway"),
            (|r| r.routes[1].gateway = "fe80::1".into(), "routes.gateway"),
            (|r| r.routes[1].destination = "10.96.0.1/12".into(), "routes.destination"),
            (|r| r.routes[1].destination = "127.0.0.0/8".into(), "routes.destination"),
            (|r| r.routes[1].destination = "0.0.0.0/0".into(), "routes.destination"),
            (|r| r.routes[1].on_link = true, "routes.on_link"),
            (|r| r.routes[0].source = "10.88.0.6".into(), "routes.source"),
            (|r| r.nameservers[0] = "dns.example".into(), "nameservers"),
            (|r| r.nameservers[0] = "10.0.0.1\noptions x".into(), "nameservers"),
            (|r| r.searches[0] = "a b".into(), "searches"),
            (|r| r.searches[0] = String::new(), "searches"),
            (|r| r.searches[0] = "a..b".into(), "searches"),
            (|r| r.options[0] = "ndots:5 debug".into(), "options"),
            (|r| r.options[0] = "ndots:".into(), "options"),
            (|r| r.hostname = "Web".into(), "hostname"),
            (|r| r.hostname = String::new(), "hostname"),
            (|r| r.hostname = "a.b".into(), "hostname"),
            (|r| r.hostname = "localhost".into(), "hostname"),
            (|r| r.hostname = "ip6-localhost".into(), "hostname"),
        ];
        for (index, (change, name)) in cases.iter().enumerate() {
            let mut request = request();
            change(&mut request);
            match Settings::parse(&request, &contract()) {
                Err(SettingsError::Malformed { field, .. }) => assert_eq!(field, *name, "case {index}"),
                other => panic!("case {index} ({name}): {other:?}"),
            }
        }
        let mut long = request();
        long.searches = vec!["a".into(); MAX_NETWORK_LIST + 1];
        let found = MAX_NETWORK_LIST + 1;
        assert_eq!(Settings::parse(&long, &contract()), Err(SettingsError::TooMany { field: "searches", found }));
        long.searches.pop();
        assert!(Settings::parse(&long, &contract()).is_ok());
    }

    #[test]
    fn the_resolver_of_the_host_has_the_bounds_of_the_contract() {
        let parse = |nameservers: usize, search: &str, option: &str| {
            let request = api::ConfigureNetworkRequest {
                nameservers: vec!["10.96.0.10".into(); nameservers],
                searches: vec![search.into()],
                options: vec![option.into()],
                ..request()
            };
            Settings::parse(&request, &contract()).map(drop).map_err(|error| {
                assert_eq!(error.code(), Code::InvalidArgument);
                error.to_string()
            })
        };
        let refused = |why: &str| Err(format!("name resolution of the host: {why}"));
        let most = MAX_NAMESERVERS;
        assert_eq!(parse(most, "a.example", "ndots:5"), Ok(()));
        let count = |found| refused(&format!("`dns.nameservers` is {found}, allowed is 1 to {most}"));
        assert_eq!(parse(most + 1, "a.example", "ndots:5"), count(most + 1));
        assert_eq!(parse(0, "a.example", "ndots:5"), count(0));
        let search = refused("`dns.searches[0]` is \"A.example\", expected a DNS name in lowercase");
        assert_eq!(parse(1, "A.example", "ndots:5"), search);
        let option = "`dns.options[0]` is \"ndots:123456\", expected a resolver option such as ndots:5 or rotate";
        assert_eq!(parse(1, "a.example", "ndots:123456"), refused(option));
        let mut none = request();
        (none.nameservers, none.searches, none.options) = Default::default();
        assert_eq!(Settings::parse(&none, &contract()).unwrap().resolver, Some(Resolver::default()));
    }

    #[test]
    fn a_host_name_hides_no_alias_of_the_contract() {
        let mut contract = contract();
        let names = ["db", "db.example"].map(str::to_owned).to_vec();
        contract.pod.host_aliases = [("10.1.2.3".parse().unwrap(), names)].into();
        let named = |hostname: &str| {
            let settings =
                Settings::parse(&api::ConfigureNetworkRequest { hostname: hostname.into(), ..request() }, &contract);
            settings.map(|settings| settings.hostname)
        };
        let error = named("db").unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);
        let expected = "pod.host_aliases expected its names for their addresses by the contract, found host name \"db\" from the host";
        assert_eq!(error.to_string(), expected);
        assert_eq!(named("db2"), Ok(Some("db2".into())));
    }

    #[test]
    fn a_gateway_beyond_every_prefix_is_on_the_link() {
        let mut request = request();
        request.routes[0].on_link = true;
        request.routes[0].source = "10.88.0.5".into();
        let settings = Settings::parse(&request, &contract()).unwrap();
        assert!(settings.routes[1].on_link);
        assert_eq!(settings.routes[1].source, Some("10.88.0.5".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..512)) {
            fuzz(&data);
        }

        #[test]
        fn what_is_accepted_writes_whole_lines(texts in prop::collection::vec("[a-z0-9.:\n #-]{0,12}", 3)) {
            let mut request = request();
            (request.nameservers[0], request.searches[0], request.options[0]) =
                (texts[0].clone(), texts[1].clone(), texts[2].clone());
            if let Ok(settings) = Settings::parse(&request, &contract()) {
                let text = super::super::files::resolv_conf(&settings.resolver.unwrap());
                prop_assert_eq!(text.lines().count(), 3);
                prop_assert!(!text.contains('#'));
            }
        }
    }
}
