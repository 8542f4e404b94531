//! The sets of forwards that are measured.
//!
//! Pure. Clients and ports are spread by a multiplication with an odd number, so that they are not consecutive in the search
//! trees of the chains.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

/// The number of forwards in the large sets.
pub(crate) const MANY: u32 = 10_000;
/// The number of forwards in the largest sets.
pub(crate) const HUGE: u32 = 100_000;

/// The number of listen addresses of [`Shape::Scattered`].
const ADDRESSES: u32 = 1_000;
/// The lowest port of shapes with many ports. The ports below it contain those that an agent reserves by default.
const LOWEST: u32 = 11_000;
/// The number of ports of a range in [`Shape::Mixture`].
const RANGE: u16 = 16;

/// How the forwards of a set differ from each other. Each forward has its own client and its own upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// Each listens on its own port: consecutive ports on eight addresses.
    OwnPort,
    /// All listen on one address and port. Their external addresses are four addresses in turn.
    OnePort,
    /// They listen on scattered ports of a thousand addresses.
    Scattered,
    /// In turn: one port, a range of ports, a network of clients, and one port of the other protocol. On eight addresses.
    Mixture,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    /// The protocol.
    pub(crate) transport: Transport,
    /// A client that may use it.
    pub(crate) client: Ipv4Addr,
    /// The length of the prefix of the clients: 32 if only this one may use it.
    pub(crate) prefix: u8,
    /// The address and the first port that the client connects to.
    pub(crate) listen: SocketAddrV4,
    /// The number of ports.
    pub(crate) ports: u16,
    /// The destination after translation. With several ports, all of them lead to this one.
    pub(crate) upstream: SocketAddrV4,
    /// The source after translation.
    pub(crate) external: Ipv4Addr,
}

impl Shape {
    /// All shapes.
    pub(crate) const ALL: [Self; 4] = [Self::OwnPort, Self::OnePort, Self::Scattered, Self::Mixture];

    /// Whether the shape has room for [`HUGE`] forwards. The ranges of a mixture would need more ports than there are.
    pub(crate) const fn may_be_huge(self) -> bool {
        !matches!(self, Self::Mixture)
    }

    /// The first `count` forwards of this shape for a protocol.
    pub(crate) fn forwards(self, count: u32, transport: Transport) -> Vec<Forward> {
        (0..count).map(|index| self.forward(index, transport)).collect()
    }

    fn forward(self, index: u32, transport: Transport) -> Forward {
        let (address, number) = match self {
            Self::OwnPort => (first_listen_addresses(index % 8), LOWEST + index / 8),
            Self::OnePort => (first_listen_addresses(0), 10_000),
            Self::Scattered => (scattered_address(index % ADDRESSES), LOWEST + index * 40_503 % 54_000),
            Self::Mixture => (first_listen_addresses(index % 8), LOWEST + index / 8 * u32::from(RANGE)),
        };
        let simple = Forward {
            transport,
            client: Ipv4Addr::from_bits(0x0a00_0000 | (index.wrapping_mul(0x9e_3779) & 0x00ff_ffff)),
            prefix: 32,
            listen: SocketAddrV4::new(address, port(number)),
            ports: 1,
            upstream: SocketAddrV4::new(Ipv4Addr::from_bits(0x0304_0001 + index), 80),
            external: Ipv4Addr::from_bits(0x0202_0202 + index % 4),
        };
        // The turn is independent of the address, which changes with each index.
        match (self, index / 8 % 4) {
            (Self::Mixture, 1) => Forward { ports: RANGE, ..simple },
            (Self::Mixture, 2) => Forward { prefix: 24, ..simple },
            (Self::Mixture, 3) => Forward { transport: transport.other(), ..simple },
            (Self::OwnPort | Self::OnePort | Self::Scattered | Self::Mixture, _) => simple,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnPort => "own port each",
            Self::OnePort => "one port, alternating externals",
            Self::Scattered => "scattered ports, 1,000 addresses",
            Self::Mixture => "mixture of ranges, networks, TCP and UDP",
        })
    }
}

impl Transport {
    /// The name in rules, in lower case.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Tcp => Self::Udp,
            Self::Udp => Self::Tcp,
        }
    }
}

impl Forward {
    /// The same client and upstream without translation: the client sends directly to the upstream.
    pub(crate) fn untranslated(self) -> Self {
        Self { listen: self.upstream, external: self.client, ..self }
    }

    /// The first address of the clients.
    pub(crate) fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.client.to_bits() & (u32::MAX << (32 - self.prefix)))
    }
}

/// The addresses on which the forwards of any shape listen, except the first one, 192.168.0.2.
pub(crate) fn listen_addresses() -> impl Iterator<Item = Ipv4Addr> {
    (1..8).map(first_listen_addresses).chain((0..ADDRESSES).map(scattered_address))
}

fn first_listen_addresses(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc0a8_0002 + index)
}

fn scattered_address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc0a8_1001 + index * 13)
}

fn port(number: u32) -> u16 {
    u16::try_from(number).expect("no shape reaches 65536")
}
