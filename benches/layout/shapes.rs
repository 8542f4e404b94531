//! The sets of forwards that are measured, and the same sets as rules that an administrator would write by hand.
//!
//! Pure. Clients and ports are spread by a multiplication with an odd number, so that they are not consecutive in the search
//! trees of the chains.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;

use portforward_operator::model::{Destination, FlowMatch, PortRange, Protocol, SourceNat, TargetPorts, Translation};

/// The number of forwards in the large sets.
pub(crate) const MANY: u32 = 10_000;

/// The number of listen addresses of [`Shape::Scattered`].
const ADDRESSES: u32 = 1_000;

/// How the forwards of a set differ from each other. Each forward has its own client and its own upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// Each listens on its own port: consecutive ports on eight addresses.
    OwnPort,
    /// All listen on one address and port. Their external addresses are four addresses in turn.
    OnePort,
    /// They listen on scattered ports of a thousand addresses.
    Scattered,
}

/// One forward of one UDP port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    /// The client that may use it.
    pub(crate) client: Ipv4Addr,
    /// The address and port that the client connects to.
    pub(crate) listen: SocketAddrV4,
    /// The destination after translation.
    pub(crate) upstream: SocketAddrV4,
    /// The source after translation.
    pub(crate) external: Ipv4Addr,
}

impl Shape {
    /// All shapes.
    pub(crate) const ALL: [Self; 3] = [Self::OwnPort, Self::OnePort, Self::Scattered];

    /// The first `count` forwards of this shape.
    pub(crate) fn forwards(self, count: u32) -> Vec<Forward> {
        (0..count).map(|index| self.forward(index)).collect()
    }

    fn forward(self, index: u32) -> Forward {
        let (address, number) = match self {
            Self::OwnPort => (first_listen_addresses(index % 8), 10_000 + index / 8),
            Self::OnePort => (first_listen_addresses(0), 10_000),
            Self::Scattered => (scattered_address(index % ADDRESSES), 1_024 + index * 40_503 % 64_000),
        };
        Forward {
            client: Ipv4Addr::from_bits(0x0a00_0000 | (index.wrapping_mul(0x9e_3779) & 0x00ff_ffff)),
            listen: SocketAddrV4::new(address, port(number)),
            upstream: SocketAddrV4::new(Ipv4Addr::from_bits(0x0303_0001 + index), 80),
            external: Ipv4Addr::from_bits(0x0202_0202 + index % 4),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnPort => "own port each",
            Self::OnePort => "one port, alternating externals",
            Self::Scattered => "scattered ports, 1,000 addresses",
        })
    }
}

impl Forward {
    /// The same client and upstream without translation: the client sends directly to the upstream.
    pub(crate) fn untranslated(self) -> Self {
        Self { listen: self.upstream, external: self.client, ..self }
    }

    /// The translation that the plan makes of it.
    pub(crate) fn translation(&self) -> Translation {
        let listen = NonZeroU16::new(self.listen.port()).expect("no shape has port 0");
        Translation {
            flows: FlowMatch {
                protocol: Protocol::Udp,
                destination: (*self.listen.ip()).into(),
                ports: PortRange::single(listen),
                source: std::net::IpAddr::from(self.client).into(),
                interface: None,
            },
            destination: Destination { address: (*self.upstream.ip()).into(), ports: TargetPorts::One(self.upstream.port()) },
            source: SourceNat::Address(self.external.into()),
        }
    }
}

/// The addresses on which the forwards of any shape listen, except the first one, 192.168.0.2.
pub(crate) fn listen_addresses() -> impl Iterator<Item = Ipv4Addr> {
    (1..8).map(first_listen_addresses).chain((0..ADDRESSES).map(scattered_address))
}

/// The whole `nat` table as written by hand: a DNAT rule and an SNAT rule for each forward, in two long chains.
pub(crate) fn by_hand(forwards: &[Forward]) -> String {
    let mut text = ["*nat", ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ""].join("\n");
    for Forward { listen, upstream, .. } in forwards {
        let (address, port) = (listen.ip(), listen.port());
        let _ = writeln!(text, "-A PREROUTING -i eth1 -d {address} -p udp --dport {port} -j DNAT --to-destination {upstream}");
    }
    for Forward { client, external, .. } in forwards {
        let _ = writeln!(text, "-A POSTROUTING -s {client} -p udp -j SNAT --to-source {external}");
    }
    text + "COMMIT\n"
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
