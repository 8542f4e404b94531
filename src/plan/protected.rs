//! What no route of a forward may take: packets for the addresses that this node and older forwards need, packets for pods, and
//! packets for the clients of older forwards.
//!
//! Where client networks lie inside each other, the longest prefix wins, as in the kernel. So a wider route takes nothing from
//! an older forward that has a route of its own, and a longer one takes nothing from older forwards of its own namespace
//! (ADR 52).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::index::NetworkMap;
use super::node_rules::leads_to_pods;
use super::verdict::{Obstacle, ObstacleReason};
use crate::forward::{Forward, ForwardKey};
use crate::model::Facts;

/// What the routes of the next forward must leave alone.
pub(super) struct Protected<'a> {
    facts: &'a Facts,
    /// The addresses of this node and of the API servers.
    node: BTreeSet<IpAddr>,
    /// The upstreams and gateways of the forwards so far, each with the first forward that needs it.
    parties: BTreeMap<IpAddr, &'a ForwardKey>,
    /// The clients of forwards with a gateway.
    routed: NetworkMap<(IpAddr, &'a ForwardKey)>,
    /// The clients of forwards without a gateway.
    unrouted: NetworkMap<&'a ForwardKey>,
    /// The same, by the way that other programs' routes give them. There are few such ways, so all are looked at.
    ways: BTreeMap<Way, NetworkMap<&'a ForwardKey>>,
}

/// How packets leave for a network by the routes of other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    /// The prefix length of the route; `None` if there is none.
    length: Option<u8>,
    /// The next hop.
    gateway: Option<IpAddr>,
}

impl Way {
    fn to(facts: &Facts, network: IpNet) -> Self {
        let route = facts.routes.foreign_around(network);
        Self { length: route.map(|route| route.destination.prefix_len()), gateway: route.and_then(|route| route.gateway) }
    }
}

impl<'a> Protected<'a> {
    /// What this node needs.
    pub(super) fn of(facts: &'a Facts) -> Self {
        let addresses = facts.addresses.iter().map(|local| local.address);
        Self {
            facts,
            node: addresses.chain(facts.api_servers.iter().copied()).collect(),
            parties: BTreeMap::new(),
            routed: NetworkMap::default(),
            unrouted: NetworkMap::default(),
            ways: BTreeMap::new(),
        }
    }

    /// Adds the upstream and the gateway of a forward that is carried here. Its own routes must not cover them either.
    pub(super) fn protect_parties(&mut self, forward: &'a Forward) {
        for address in [Some(forward.upstream), forward.gateway].into_iter().flatten() {
            self.parties.entry(address).or_insert(&forward.key);
        }
    }

    /// Adds the clients of a forward that is carried here, for the forwards after it.
    pub(super) fn protect_clients(&mut self, forward: &'a Forward) {
        // Of the forwards with one entry, two of different namespaces are enough.
        let is_new = |known: Vec<&ForwardKey>| known.len() < 2 && known.iter().all(|key| key.namespace != forward.key.namespace);
        for client in &forward.clients {
            match forward.gateway {
                // All forwards name the same gateway for one entry.
                Some(gateway) if is_new(self.routed.at(*client).map(|(_, key)| *key).collect()) => {
                    self.routed.insert(*client, (gateway, &forward.key));
                }
                None if is_new(self.unrouted.at(*client).copied().collect()) => {
                    self.unrouted.insert(*client, &forward.key);
                    self.ways.entry(Way::to(self.facts, *client)).or_default().insert(*client, &forward.key);
                }
                Some(_) | None => {}
            }
        }
    }

    /// Why the route of `forward` to `client` through `gateway` must not be installed.
    pub(super) fn withhold(&self, forward: &Forward, client: IpNet, gateway: IpAddr) -> Option<Obstacle> {
        let captured = || self.captured(forward, client, gateway);
        captured().or_else(|| self.pods(client, gateway)).or_else(|| self.taken(forward, client, gateway))
    }

    /// The route would take packets for pods, to which a route of the container network leads.
    fn pods(&self, client: IpNet, gateway: IpAddr) -> Option<Obstacle> {
        let route = self.facts.routes.foreign_around(client).filter(|route| route.destination.prefix_len() > 0)?;
        let interface = route.interface.as_ref().filter(|interface| leads_to_pods(interface))?;
        let message = format!(
            "the route to {client} through {gateway} is withheld: it would take packets for {}, a network of pods on {interface}; write other clients",
            route.destination
        );
        Some(Obstacle { reason: ObstacleReason::RouteCapturesNode, message })
    }

    /// The route would cover an address that is needed.
    fn captured(&self, forward: &Forward, client: IpNet, gateway: IpAddr) -> Option<Obstacle> {
        let range = client.network()..=client.broadcast();
        let own = self.node.range(range.clone()).next().copied().or_else(|| (client.prefix_len() == 0).then(|| client.network()));
        let mut parties = self.parties.range(range);
        let known = || parties.find(|(_, key)| key.namespace == forward.key.namespace).map(|(address, _)| *address);
        let (covered, also) = if let Some(address) = own.or_else(known) {
            (format!("{address}, an address that this node, this forward or an older one needs"), "remove the older forward")
        } else {
            let (_, key) = self.parties.range(client.network()..=client.broadcast()).next()?;
            (format!("an address that {key} needs, which is older or has the higher priority"), "ask the owner of that forward")
        };
        let message = format!(
            "the route to {client} through {gateway} is withheld: it would cover {covered}; write other clients, or {also}"
        );
        Some(Obstacle { reason: ObstacleReason::RouteCapturesNode, message })
    }

    /// The route would take packets for clients of an older forward, which take another way.
    fn taken(&self, forward: &Forward, client: IpNet, gateway: IpAddr) -> Option<Obstacle> {
        let other_namespace = |key: &ForwardKey| key.namespace != forward.key.namespace;
        let around = self.routed.around(client).filter(|(network, _)| *network != client);
        let routed = around.map(|(_, value)| value).find(|(other, key)| *other != gateway && other_namespace(key));
        let (key, advice) = match routed {
            Some((_, key)) => (*key, "ask its owner to leave these clients out"),
            None => (self.taken_unrouted(forward, client, gateway)?, "let that one name the gateway too"),
        };
        let message = format!(
            "the route to {client} through {gateway} is withheld: it would take packets for clients of {key}, which is older or has the higher priority, and reaches them by another way; write other clients, or {advice}"
        );
        Some(Obstacle { reason: ObstacleReason::RouteCapturesClient, message })
    }

    /// The forward without a gateway whose clients the route would take.
    fn taken_unrouted(&self, forward: &Forward, client: IpNet, gateway: IpAddr) -> Option<&'a ForwardKey> {
        let elsewhere = |way: &Way| way.gateway != Some(gateway);
        // Clients around this one: the longer prefix takes a part of them.
        let part = || {
            let mut around = self.unrouted.around(client).filter(|(network, _)| *network != client).map(|(_, key)| *key);
            around.find(|key| key.namespace != forward.key.namespace).filter(|_| elsewhere(&Way::to(self.facts, client)))
        };
        // Clients inside of it: a route of another program with a longer prefix goes on to win.
        let whole = self.ways.iter().filter(|(way, _)| elsewhere(way) && way.length <= Some(client.prefix_len())).find_map(
            |(_, networks)| {
                let same = networks.at(client).next();
                same.or_else(|| networks.within(client).next().map(|(_, key)| key)).copied()
            },
        );
        whole.or_else(part)
    }
}
