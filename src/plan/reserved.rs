//! The ports that a node reserves, in the notation of the administrator.

use std::fmt;
use std::str::FromStr;

use crate::model::{PortRange, Protocol};

/// Ports that a node reserves, on the addresses by which it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedPorts(Vec<Reserved>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reserved {
    /// `None`: all protocols.
    protocol: Option<Protocol>,
    ports: PortRange,
}

/// A text that is not a list of reserved ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidReservedPorts(String);

impl ReservedPorts {
    /// The ports that a node of a cluster needs itself: SSH, etcd, the API server, kube-proxy and the kubelet, the controller
    /// manager, the scheduler, and the metrics of the agent.
    pub const DEFAULT: &str = "22/TCP,2379-2380/TCP,6443/TCP,10249-10250/TCP,10256-10257/TCP,10259/TCP,10450/TCP";

    /// The reserved ports of `protocol`.
    pub(super) fn of(&self, protocol: Protocol) -> impl Iterator<Item = PortRange> {
        self.0.iter().filter(move |it| it.protocol.is_none_or(|only| only == protocol)).map(|it| it.ports)
    }

    /// The lowest of `ports` that is reserved.
    pub(super) fn first_in(&self, protocol: Protocol, ports: PortRange) -> Option<u16> {
        self.of(protocol).filter_map(|reserved| reserved.intersection(ports)).map(PortRange::first).min()
    }
}

/// `22/TCP,53,30000-32767/TCP`: ports and ranges, each for one protocol or for all. Empty for none.
impl FromStr for ReservedPorts {
    type Err = InvalidReservedPorts;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| reserved(part).ok_or_else(|| InvalidReservedPorts(part.to_owned()))).collect::<Result<_, _>>().map(Self)
    }
}

fn reserved(text: &str) -> Option<Reserved> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, name)) => {
            (ports, Some(Protocol::ALL.into_iter().find(|protocol| protocol.to_string().eq_ignore_ascii_case(name))?))
        }
        None => (text, None),
    };
    Some(Reserved { protocol, ports: ports.replacen('-', ":", 1).parse().ok()? })
}

impl fmt::Display for InvalidReservedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a reserved port; write PORT or FIRST-LAST, with /TCP or /UDP for one protocol, such as 22/TCP",
            self.0
        )
    }
}

impl std::error::Error for InvalidReservedPorts {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_has_a_protocol_or_all() {
        let reserved: ReservedPorts = "22/TCP, 53,30000-32767/udp,100:101".parse().unwrap();
        let first = |protocol, ports: &str| reserved.first_in(protocol, ports.parse().unwrap());
        assert_eq!(first(Protocol::Tcp, "1:65535"), Some(22));
        assert_eq!(first(Protocol::Udp, "1:65535"), Some(53));
        assert_eq!(first(Protocol::Udp, "22"), None);
        assert_eq!(first(Protocol::Tcp, "30000:32767"), None);
        assert_eq!(first(Protocol::Udp, "32767:40000"), Some(32767));
        assert_eq!(first(Protocol::Tcp, "101"), Some(101));
        assert_eq!("".parse::<ReservedPorts>().unwrap(), ReservedPorts::default());
    }

    #[test]
    fn what_is_no_port_is_named() {
        for text in ["0", "22/ICMP", "22/", "/TCP", "90-80", "1-2-3", "http", "65536", "22;53", "22 53"] {
            let error = format!("53,{text}").parse::<ReservedPorts>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
