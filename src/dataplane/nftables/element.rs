//! The elements of a translation: what its flows have in the maps and sets.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::class::{ADDRESS_BITS, Class, LEVEL, PORT_BITS, Purpose, Values, word};
use crate::model::{PortRange, Protocol, SourceNat, TargetPorts, Translation};

/// Where an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The map or set of a class.
    Class(Class),
    /// What answers at an external address: that address and the upstream.
    Answers,
    /// What answers at whichever address of the node: the upstream.
    AnswersAnywhere,
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) place: Place,
    pub(super) key: Vec<u8>,
    /// The value in a map; empty in a set.
    pub(super) data: Vec<u8>,
}

/// A block of ports, aligned to its size: the first one, and the number of bits that all of them share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    first: u16,
    bits: u8,
}

/// The elements of `translation`. Those of two translations that match different packets differ, but for those that are the same
/// whoever asks for them.
pub(super) fn elements(translation: &Translation) -> Vec<Element> {
    let Translation { flows, destination, source } = translation;
    let (IpAddr::V4(listen), IpAddr::V4(upstream), IpNet::V4(clients)) = (flows.destination, destination.address, flows.source)
    else {
        return Vec::new();
    };
    let opening = flows.begins_with_opening();
    let apart = flows.interface.is_some();
    let mut found = Vec::new();
    for client in networks(clients) {
        let mut add = |purpose, block: Block, (apart, opening), data: Vec<u8>| {
            let class = Class { purpose, client: client.prefix_len(), port: block.bits, apart, opening };
            let (client, interface) = (client.network(), flows.interface.as_ref());
            let values = Values { client, port: block.first, listen, protocol: flows.protocol, interface, upstream };
            found.push(Element { place: Place::Class(class), key: class.key(values), data });
        };
        for block in blocks(flows.ports, destination.ports) {
            match target(block, destination.ports) {
                Some(port) => {
                    let data = [upstream.octets(), word(&port.to_be_bytes())].concat();
                    add(Purpose::Dnat, block, (apart, opening), data);
                }
                None => add(Purpose::DnatSamePort, block, (apart, opening), upstream.octets().to_vec()),
            }
        }
        for block in blocks(flows.ports, TargetPorts::Same) {
            match source {
                SourceNat::Address(IpAddr::V4(external)) => {
                    add(Purpose::Snat, block, (apart, false), external.octets().to_vec());
                }
                SourceNat::Address(IpAddr::V6(_)) => {}
                SourceNat::Masquerade => add(Purpose::Masquerade, block, (apart, false), Vec::new()),
            }
            if flows.protocol == Protocol::Tcp {
                add(Purpose::Invalid, block, (false, false), Vec::new());
            }
        }
    }
    if flows.protocol == Protocol::Tcp {
        found.push(answers(upstream, *source));
    }
    found
}

fn answers(upstream: Ipv4Addr, source: SourceNat) -> Element {
    let (place, key) = match source {
        SourceNat::Address(IpAddr::V4(external)) => (Place::Answers, [external.octets(), upstream.octets()].concat()),
        SourceNat::Address(IpAddr::V6(_)) | SourceNat::Masquerade => (Place::AnswersAnywhere, upstream.octets().to_vec()),
    };
    Element { place, key, data: Vec::new() }
}

/// The number of elements by which new flows of `translation` are found, without making them.
pub(super) fn count(translation: &Translation) -> usize {
    let Translation { flows, destination, .. } = translation;
    let IpNet::V4(clients) = flows.source else { return 0 };
    let ports = match destination.ports {
        TargetPorts::Shifted(_) => usize::try_from(flows.ports.count()).unwrap_or(usize::MAX),
        TargetPorts::Same | TargetPorts::One(_) => blocks(flows.ports, destination.ports).len(),
    };
    networks(clients).count().saturating_mul(ports)
}

/// The port in the value of a block: `None` if each port stays.
fn target(block: Block, ports: TargetPorts) -> Option<u16> {
    match ports {
        TargetPorts::Same if block.bits < PORT_BITS => None,
        TargetPorts::Same | TargetPorts::One(_) | TargetPorts::Shifted(_) => Some(ports.of(block.first)),
    }
}

/// `network` as networks of whole levels: at most 8.
fn networks(network: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
    let len = network.prefix_len().next_multiple_of(LEVEL).min(ADDRESS_BITS);
    network.subnets(len).into_iter().flatten()
}

/// `ports` as aligned blocks. A shifted range has a value for each port.
fn blocks(ports: PortRange, target: TargetPorts) -> Vec<Block> {
    if ports == PortRange::ALL && matches!(target, TargetPorts::Same | TargetPorts::One(_)) {
        return vec![Block { first: 0, bits: 0 }];
    }
    let (mut next, last) = (u32::from(ports.first()), u32::from(ports.last()));
    let mut blocks = Vec::new();
    while next <= last {
        let fits = |bits: &u8| {
            let size = 1_u32 << (PORT_BITS - bits);
            next.is_multiple_of(size) && next + size - 1 <= last
        };
        let levels = (LEVEL..PORT_BITS).step_by(usize::from(LEVEL));
        let bits = match target {
            TargetPorts::Same | TargetPorts::One(_) => levels.into_iter().find(fits).unwrap_or(PORT_BITS),
            TargetPorts::Shifted(_) => PORT_BITS,
        };
        blocks.push(Block { first: u16::try_from(next).unwrap_or(u16::MAX), bits });
        next += 1 << (PORT_BITS - bits);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ports: &str) -> Vec<(u16, u8)> {
        blocks(ports.parse().unwrap(), TargetPorts::Same).into_iter().map(|block| (block.first, block.bits)).collect()
    }

    #[test]
    fn a_range_is_cut_into_the_fewest_aligned_blocks() {
        assert_eq!(shown("80"), [(80, 16)]);
        assert_eq!(shown("80:95"), [(80, 12)]);
        assert_eq!(shown("79:96"), [(79, 16), (80, 12), (96, 16)]);
        assert_eq!(shown("4096:8191"), [(4096, 4)]);
        assert_eq!(shown("1:65535").len(), 1);
        for ports in ["1:65534", "2:65535", "1000:64999", "32768:60999"] {
            let range: PortRange = ports.parse().unwrap();
            let blocks = blocks(range, TargetPorts::Same);
            assert!(blocks.len() <= 120, "{ports}: {}", blocks.len());
            let mut next = u32::from(range.first());
            for Block { first, bits } in blocks {
                assert_eq!(u32::from(first), next);
                next += 1 << (PORT_BITS - bits);
            }
            assert_eq!(next, u32::from(range.last()) + 1);
        }
    }

    #[test]
    fn a_network_is_cut_at_whole_levels() {
        let cut = |network: &str| networks(network.parse().unwrap()).map(|part| part.to_string()).collect::<Vec<_>>();
        assert_eq!(cut("10.0.0.0/24"), ["10.0.0.0/24"]);
        assert_eq!(cut("10.0.0.0/23"), ["10.0.0.0/24", "10.0.1.0/24"]);
        assert_eq!(cut("0.0.0.0/0"), ["0.0.0.0/0"]);
        assert_eq!(cut("10.0.0.8/29").len(), 8);
        assert_eq!(cut("10.0.0.1/32"), ["10.0.0.1/32"]);
    }
}
