//! The translations that a forward asks the kernel for: one for each port entry and client, in both directions.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Forward;
use crate::model::{Destination, FlowMatch, InterfaceName, PortRange, Protocol, SourceNat, Translation};

/// Which side opens the flows of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The client.
    Forward,
    /// The upstream, by `reverse`.
    Reverse,
}

/// What one port entry does with packets. It stands for the translations of all clients, so it costs the same for any number
/// of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite<'a> {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The listen address.
    pub address: IpAddr,
    /// The listen ports.
    pub ports: PortRange,
    /// The incoming interface, if the object names one.
    pub interface: Option<&'a InterfaceName>,
    /// The new destination.
    pub destination: Destination,
    /// The new source.
    pub source: SourceNat,
    senders: Senders<'a>,
}

/// Who may send the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Senders<'a> {
    Clients(&'a [IpNet]),
    Upstream(IpNet),
}

impl Rewrite<'_> {
    /// The networks that may send the packets: sorted, without overlaps.
    #[must_use]
    pub fn senders(&self) -> &[IpNet] {
        match &self.senders {
            Senders::Clients(clients) => clients,
            Senders::Upstream(upstream) => std::slice::from_ref(upstream),
        }
    }

    /// Whether some address of `network` may send the packets.
    #[must_use]
    pub fn admits(&self, network: IpNet) -> bool {
        let senders = self.senders();
        // Of sorted networks without overlaps, the one that contains an address is the last one that begins before it.
        let after = senders.partition_point(|sender| sender.network() <= network.network());
        let before = after.checked_sub(1).and_then(|place| senders.get(place));
        before.is_some_and(|sender| sender.contains(&network.network()))
            || senders.get(after).is_some_and(|sender| network.contains(&sender.network()))
    }

    /// Whether `translation` is one of its translations, or a part of one: a backend may hold a network or a range in parts.
    #[must_use]
    pub fn makes(&self, translation: &Translation) -> bool {
        let FlowMatch { protocol, destination, ports, source, interface } = &translation.flows;
        let part = Destination { ports: self.destination.ports.part(*ports), ..self.destination };
        (*protocol, *destination, interface.as_ref()) == (self.protocol, self.address, self.interface)
            && (self.ports.first() <= ports.first() && ports.last() <= self.ports.last())
            && (translation.destination == self.destination || translation.destination == part)
            && (self.senders().binary_search(source).is_ok() || self.senders().iter().any(|sender| sender.contains(source)))
    }

    /// The translations, one for each sender.
    fn translations(self) -> impl Iterator<Item = Translation> {
        let translation = |sender: &IpNet| Translation {
            flows: FlowMatch {
                protocol: self.protocol,
                destination: self.address,
                ports: self.ports,
                source: *sender,
                interface: self.interface.copied(),
            },
            destination: self.destination,
            source: self.source,
        };
        self.senders().iter().map(translation).collect::<Vec<_>>().into_iter()
    }
}

impl Forward {
    /// The translations of the forward, those of `reverse` last. Does not consider mode, lifecycle or other forwards.
    #[must_use]
    pub fn translations(&self) -> Vec<Translation> {
        self.rewrites().flat_map(Rewrite::translations).collect()
    }

    /// The number of [`translations`](Self::translations) of `reverse`; they are the last ones.
    #[must_use]
    pub fn reversed(&self) -> usize {
        self.towards_client().count()
    }

    /// What each port entry does, those of `reverse` last.
    pub fn rewrites(&self) -> impl Iterator<Item = Rewrite<'_>> {
        self.towards_upstream().chain(self.towards_client())
    }

    fn towards_upstream(&self) -> impl Iterator<Item = Rewrite<'_>> {
        let source = self.external.map_or(SourceNat::Masquerade, SourceNat::Address);
        self.ports.iter().map(move |entry| Rewrite {
            protocol: entry.protocol,
            address: self.internal.address,
            ports: entry.ports,
            interface: self.internal.interface.as_ref(),
            destination: Destination { address: self.upstream, ports: entry.target },
            source,
            senders: Senders::Clients(&self.clients),
        })
    }

    fn towards_client(&self) -> impl Iterator<Item = Rewrite<'_>> {
        let parties = self.external.zip(self.clients.first());
        parties.into_iter().flat_map(move |(external, client)| {
            self.reverse.iter().map(move |entry| Rewrite {
                protocol: entry.protocol,
                address: external,
                ports: entry.ports,
                interface: self.external_interface.as_ref(),
                destination: Destination { address: client.addr(), ports: entry.target },
                source: SourceNat::Address(self.internal.address),
                senders: Senders::Upstream(IpNet::from(self.upstream)),
            })
        })
    }
}
