//! How two forwards depend on each other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::index::{NetworkMap, PortIndex};
use crate::forward::{Forward, Rewrite};

/// One content of a forward, for finding what it meets.
#[derive(Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) forward: &'a Forward,
    /// Whether its routes and clients count.
    pub(super) routes: bool,
    /// Whether its upstream and gateway count.
    pub(super) parties: bool,
}

/// How a forward depends on some others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meeting {
    /// It leads to an address on which one of them listens. In a circle, some forward leads to each of its parts.
    pub(super) circle: bool,
    /// A route of one covers a party of the other.
    pub(super) routes: bool,
    pub(super) shared: Shared,
}

/// What two forwards listen for together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shared {
    /// Nothing.
    #[default]
    Nothing,
    /// They have an address in common. Which of several forwards a forward has lost to may depend on the other one.
    Address,
    /// Some packet is for both.
    Packets,
}

/// Some forwards, indexed to find which others meet them.
#[derive(Default)]
pub(super) struct Edge<'a> {
    /// The addresses on which they listen.
    listens: BTreeSet<IpAddr>,
    /// The addresses on which they listen, or would listen if they had `reverse`.
    own: BTreeSet<IpAddr>,
    /// What they do with packets.
    packets: PortIndex<Rewrite<'a>>,
    /// The clients to which they ask for routes.
    routes: NetworkMap<()>,
    /// Whom their packets come from and go to.
    parties: NetworkMap<()>,
}

impl<'a> Edge<'a> {
    pub(super) fn of(contents: &[Content<'a>]) -> Self {
        let mut edge = Self::default();
        for Content { forward, routes, parties } in contents {
            edge.listens.extend(forward.rewrites().map(|rewrite| rewrite.address));
            edge.own.extend([Some(forward.internal.address), forward.external].into_iter().flatten());
            for rewrite in forward.rewrites() {
                edge.packets.insert(rewrite.protocol, rewrite.address, rewrite.ports, rewrite);
            }
            for party in servers(forward).filter(|_| *parties) {
                edge.parties.insert(party, ());
            }
            for client in forward.clients.iter().filter(|_| *routes) {
                edge.parties.insert(*client, ());
                if forward.gateway.is_some() {
                    edge.routes.insert(*client, ());
                }
            }
        }
        edge
    }

    pub(super) fn meeting(&self, forward: &Forward) -> Meeting {
        let address = forward.rewrites().any(|rewrite| self.listens.contains(&rewrite.address));
        let covers = || forward.gateway.is_some() && forward.clients.iter().any(|client| self.parties.overlaps(*client));
        let covered = || servers(forward).chain(forward.clients.iter().copied()).any(|party| self.routes.overlaps(party));
        Meeting {
            circle: destinations(forward).any(|address| self.own.contains(&address)),
            routes: covers() || covered(),
            shared: match address {
                true if self.share_a_packet(forward) => Shared::Packets,
                true => Shared::Address,
                false => Shared::Nothing,
            },
        }
    }

    /// Whether some packet is for `forward` and one of them.
    fn share_a_packet(&self, forward: &Forward) -> bool {
        forward.rewrites().any(|own| {
            let mut others = self.packets.overlapping(own.protocol, own.address, own.ports);
            others.any(|other| own.senders().iter().any(|sender| other.admits(*sender)))
        })
    }
}

/// The addresses that a forward sends packets on to.
fn destinations(forward: &Forward) -> impl Iterator<Item = IpAddr> {
    let client = forward.clients.first().filter(|_| !forward.reverse.is_empty()).map(IpNet::addr);
    [Some(forward.upstream), client].into_iter().flatten()
}

/// The upstream and the gateway of a forward.
fn servers(forward: &Forward) -> impl Iterator<Item = IpNet> {
    [Some(forward.upstream), forward.gateway].into_iter().flatten().map(IpNet::from)
}
