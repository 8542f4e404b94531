//! A listen address for HTTP, as given on the command line.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The address at which metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Not served.
    Off,
    /// At this address and port.
    At(SocketAddr),
}

/// A text that is not an address with a port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address with a port: write 127.0.0.1:10450, or [::1]:10450 for IPv6, or an empty value to serve nothing")]
pub struct NoAddress;

impl FromStr for ListenAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        if text.is_empty() {
            return Ok(Self::Off);
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self::At(address)),
            Ok(_) | Err(_) => Err(NoAddress),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => Ok(()),
            Self::At(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_an_empty_one_switches_off() {
        for text in ["127.0.0.1:10450", "[::1]:10450", "0.0.0.0:9"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_ne!(address, ListenAddress::Off);
        }
        assert_eq!("".parse(), Ok(ListenAddress::Off));
        for text in [" ", ":10450", "127.0.0.1", "localhost:10450", "127.0.0.1:0", "127.0.0.1:65536", "::1:10450"] {
            assert_eq!(text.parse::<ListenAddress>(), Err(NoAddress), "{text:?}");
        }
    }
}
