//! The IP families and transport protocols that forwards support.

use std::fmt;
use std::net::IpAddr;

/// An IP family that forwards support.
///
/// A match on this type lists every family without a wildcard. If a family is added, the compiler then reports each place
/// that must handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, RFC 791.
    Ipv4,
}

impl Family {
    /// The family of `address`, or `None` if forwards do not support it yet.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => Some(Self::Ipv4),
            IpAddr::V6(_) => None,
        }
    }
}

/// A transport protocol that forwards support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

impl Protocol {
    /// All protocols, in the order in which rules are laid out.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The protocol number, from the IANA registry "Assigned Internet Protocol Numbers".
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol with this IANA number, if forwards support it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The lower-case name that `iptables -p` takes.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}
