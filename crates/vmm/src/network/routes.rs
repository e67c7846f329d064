//! The routes through the pod's interface (`rtnetlink(7)`).

use std::net::IpAddr;

use super::netlink::{Request, Socket, find, u32_at};
use super::rtnetlink::{INET, INET6, ip};
use super::{NetworkError, Prefix, Route};

const GET_ROUTE: u16 = 26;
/// `struct rtmsg`: family, lengths of destination and source, tos, table, protocol, scope, type, flags (u32).
const ROUTE: usize = 12;

const MAIN_TABLE: u32 = 254;
/// Routes that come by themselves: with an address (`RTPROT_KERNEL`), from a redirect, from a router's advertisement.
const BY_ITSELF: [u8; 3] = [2, 1, 9];
const UNICAST: u8 = 1;
const ON_LINK: u32 = 4;
const CLONED: u32 = 0x200;

/// The routes of the main table through an interface, in an order in which they can be added: those that reach a
/// gateway before those that go through it.
pub(super) fn through(kernel: &mut Socket, index: u32) -> Result<Vec<Route>, NetworkError> {
    let messages = kernel.list(Request::new(GET_ROUTE, &[&[0; ROUTE]]));
    let messages = messages.map_err(|error| NetworkError::Kernel { what: "list routes", error })?;
    let mut found = Vec::new();
    for message in &messages {
        found.extend(route(message, index)?);
    }
    Ok(ordered(found))
}

/// The route with its metric; `None` for one that is not the guest's business.
fn route(message: &[u8], index: u32) -> Result<Option<(u32, Route)>, NetworkError> {
    let [family, length, source_length, _, table, protocol, _, kind, ..] = *message else { return Ok(None) };
    let flags = u32_at(message, 8).unwrap_or(0);
    let number = |kind| find(message, ROUTE, kind).and_then(|value| u32_at(value, 0));
    let address = |kind| find(message, ROUTE, kind).and_then(|value| ip(family, value));
    if !matches!(family, INET | INET6)
        || number(15).unwrap_or(table.into()) != MAIN_TABLE
        || BY_ITSELF.contains(&protocol)
        || flags & CLONED != 0
    {
        return Ok(None);
    }
    let destination = match (length, address(1)) {
        (0, _) => None,
        (length, Some(address)) => Some(Prefix { address, length }),
        (_, None) => return Ok(None),
    };
    let refused = |what| {
        let destination = destination.map_or_else(|| "default".to_owned(), |prefix| prefix.to_string());
        Err(NetworkError::Route { destination, what })
    };
    if find(message, ROUTE, 9).is_some() {
        return refused("has several next hops");
    }
    if kind != UNICAST {
        return refused("forbids packets");
    }
    // Through another interface, such as loopback.
    if number(4) != Some(index) {
        return Ok(None);
    }
    if source_length != 0 {
        return refused("depends on the source address");
    }
    if find(message, ROUTE, 18).is_some() {
        return refused("has a gateway of another address family");
    }
    let route = Route { destination, gateway: address(5), source: address(7), on_link: flags & ON_LINK != 0 };
    Ok(Some((number(6).unwrap_or(0), route)))
}

/// Of routes to one destination the one with the least metric: the guest gets no metrics.
fn ordered(mut routes: Vec<(u32, Route)>) -> Vec<Route> {
    routes.sort_by_key(|(metric, route)| (route.gateway.is_some(), *metric));
    let mut found: Vec<Route> = Vec::new();
    for (_, route) in routes {
        let family = |route: &Route| {
            let address = route.destination.map(|prefix| prefix.address).or(route.gateway).or(route.source);
            address.is_some_and(|address| IpAddr::is_ipv6(&address))
        };
        if !found.iter().any(|other| other.destination == route.destination && family(other) == family(&route)) {
            found.push(route);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::netlink::attribute;

    /// A unicast route of the main table, as `ip route` adds it.
    fn message(length: u8, protocol: u8, kind: u8, flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![INET, length, 0, 0, 254, protocol, 0, kind];
        bytes.extend(flags.to_ne_bytes());
        for (kind, value) in attributes {
            bytes.extend(attribute(*kind, value));
        }
        bytes
    }

    const GATEWAY: (u16, &[u8]) = (5, &[10, 88, 0, 1]);
    const DESTINATION: (u16, &[u8]) = (1, &[10, 99, 0, 0]);

    #[test]
    fn routes_are_read_or_refused_by_name() {
        let through_2 = 2u32.to_ne_bytes();
        let through_1 = 1u32.to_ne_bytes();
        let read = |bytes: &[u8]| route(bytes, 2).map_err(|error| error.to_string());
        let default = message(0, 3, 1, 4, &[GATEWAY, (4, &through_2), (7, &[10, 88, 0, 5])]);
        let expected = Route {
            destination: None,
            gateway: Some("10.88.0.1".parse().unwrap()),
            source: Some("10.88.0.5".parse().unwrap()),
            on_link: true,
        };
        assert_eq!(read(&default), Ok(Some((0, expected))));
        assert_eq!(read(&message(16, 2, 1, 0, &[DESTINATION, (4, &through_2)])), Ok(None), "by itself");
        assert_eq!(read(&message(16, 3, 1, 0, &[DESTINATION, (4, &through_1)])), Ok(None), "through another one");
        let refused = |bytes: &[u8]| read(bytes).unwrap_err();
        assert_eq!(
            refused(&message(0, 3, 1, 0, &[(9, &[0; 8])])),
            "the pod's route to default has several next hops, which a pod VM cannot have"
        );
        assert_eq!(
            refused(&message(16, 3, 6, 0, &[DESTINATION])),
            "the pod's route to 10.99.0.0/16 forbids packets, which a pod VM cannot have"
        );
        assert_eq!(
            refused(&message(16, 3, 1, 0, &[DESTINATION, (4, &through_2), (18, &[0; 18])])),
            "the pod's route to 10.99.0.0/16 has a gateway of another address family, which a pod VM cannot have"
        );
    }

    #[test]
    fn a_gateway_is_reachable_before_it_is_used() {
        let route = |destination: Option<&str>, gateway: Option<&str>| Route {
            destination: destination.map(|text| Prefix { address: text.parse().unwrap(), length: 32 }),
            gateway: gateway.map(|text| text.parse().unwrap()),
            source: None,
            on_link: false,
        };
        let default = route(None, Some("169.254.1.1"));
        let default6 = route(None, Some("fe80::1"));
        let link = route(Some("169.254.1.1"), None);
        let worse = route(None, Some("169.254.1.2"));
        let given = vec![(9, worse), (1, default.clone()), (2, default6.clone()), (3, link.clone())];
        assert_eq!(ordered(given), [link, default, default6]);
    }

    proptest::proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(0u8..40, 0..80)) {
            let _ = route(&bytes, 2);
        }
    }
}
