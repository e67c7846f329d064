//! Where a broker listens. It is a hint for the host, which carries bytes; the guest checks the broker's key.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for a connection.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest address in bytes: `https://`, a name of 253, a port, a pin.
const MAX_ADDRESS: usize = 512;

/// Host and port of a broker: `https://host:port`, or a broker's whole URL with `#sha256=…`, which is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a broker cannot be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not a broker's address.
    #[error("not a broker's address: {0}; write https://host:port")]
    Address(&'static str),
    /// It cannot be reached.
    #[error("broker {address} cannot be reached: {cause}; check that it runs")]
    Unreachable {
        /// Its address.
        address: String,
        /// What happened.
        cause: String,
    },
}

impl BrokerAddress {
    /// Opens a TCP connection, within 10 s.
    pub async fn connect(&self) -> Result<TcpStream, AddressError> {
        let unreachable = |cause: String| AddressError::Unreachable { address: self.authority(), cause };
        let stream = timeout(LIMIT, TcpStream::connect((self.host.as_str(), self.port)))
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", LIMIT.as_secs())))?
            .map_err(|e| unreachable(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for BrokerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_ADDRESS {
            return Err(AddressError::Address("it is longer than 512 bytes"));
        }
        let rest = text.strip_prefix("https://").ok_or(AddressError::Address("it does not begin with https://"))?;
        let address = match rest.split_once('#') {
            None => rest,
            Some((address, pin)) if pin.starts_with("sha256=") => address,
            Some(_) => return Err(AddressError::Address("what follows # is not sha256=")),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        let (host, port) = address.rsplit_once(':').ok_or(AddressError::Address("it names no port"))?;
        let number = || AddressError::Address("the port is not a number from 1 to 65535");
        let port = Some(port).filter(|port| port.bytes().all(|b| b.is_ascii_digit())).ok_or_else(number)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(number)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = match bare {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)),
        };
        if !fits {
            return Err(AddressError::Address("the host is neither a name nor an address"));
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (host, bare) in [("127.0.0.1", "127.0.0.1"), ("broker.example", "broker.example"), ("[::1]", "::1")] {
            let plain = format!("https://{host}:8080");
            let expected = BrokerAddress { host: bare.into(), port: 8080 };
            assert_eq!(expected.to_string(), plain);
            for text in [plain.clone(), format!("{plain}/"), format!("{plain}#sha256={}", "ab".repeat(32))] {
                assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            }
        }
        for (text, why) in [
            ("http://h:1", "it does not begin with https://"),
            ("https://h", "it names no port"),
            ("https://h:0", "the port is not a number from 1 to 65535"),
            ("https://h:+1", "the port is not a number from 1 to 65535"),
            ("https://h:70000", "the port is not a number from 1 to 65535"),
            ("https://h:1#md5=00", "what follows # is not sha256="),
            ("https://a/b:1", "the host is neither a name nor an address"),
            ("https://[h]:1", "the host is neither a name nor an address"),
            ("https://::1:1", "the host is neither a name nor an address"),
            ("https://:1", "the host is neither a name nor an address"),
        ] {
            assert_eq!(text.parse::<BrokerAddress>(), Err(AddressError::Address(why)), "{text}");
        }
        let long = format!("https://{}:1", "h".repeat(600));
        assert_eq!(long.parse::<BrokerAddress>(), Err(AddressError::Address("it is longer than 512 bytes")));
    }

    #[tokio::test]
    async fn a_broker_is_reached_or_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address: BrokerAddress = format!("https://127.0.0.1:{port}").parse().unwrap();
        assert!(address.connect().await.is_ok());
        drop(listener);
        let AddressError::Unreachable { address: named, .. } = address.connect().await.unwrap_err() else { panic!() };
        assert_eq!(named, format!("127.0.0.1:{port}"));
    }
}
