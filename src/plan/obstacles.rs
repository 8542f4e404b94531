//! The known problems that stop the flows of a forward that this node carries, and notes about its legs.

mod firewall;
mod flows;
mod legs;
mod marks;
mod next_hops;
mod packet;
#[cfg(test)]
mod tests;
mod walk;
mod ways;

use std::net::IpAddr;

use ipnet::IpNet;

use super::verdict::{Note, Obstacle, ObstacleReason, RoutePlan, Verdict};
use crate::api::Role;
use crate::forward::Forward;
use crate::model::{Connmark, Courses, Facts, InterfaceName, NextHop, Virtual};

/// What stops or may stop a forward, and the next hops that it depends on.
pub(super) struct Found {
    /// The obstacles, the worst first.
    pub(super) obstacles: Vec<Obstacle>,
    /// The notes.
    pub(super) notes: Vec<Note>,
    /// The neighbours that must answer.
    pub(super) next_hops: Vec<NextHop>,
    /// The interfaces by which the flows enter, as far as they are known.
    pub(super) legs: Vec<InterfaceName>,
}

/// Checks for everything that is known to stop `forward`, whose flows have the mark `connmark`.
pub(super) fn find<'a>(facts: &'a Facts, connmark: Connmark, forward: &'a Forward, verdict: &'a Verdict) -> Found {
    let search = Search::of(facts, connmark, forward, verdict);
    let next_hops = search.next_hops();
    let mut obstacles = search.forwarding();
    obstacles.extend(search.interfaces());
    obstacles.extend(search.upstream_is_service());
    if verdict.role == Some(Role::Active) {
        obstacles.extend(search.addresses());
        obstacles.extend(search.way_to_upstream());
    }
    obstacles.extend(search.obstacles_to_clients());
    obstacles.extend(next_hops.iter().filter_map(|next_hop| search.at_next_hop(next_hop)));
    let (dropped, mut notes) = search.firewall();
    obstacles.extend(dropped);
    obstacles.sort_by_key(|obstacle| obstacle.reason);
    notes.extend(search.notes());
    let mut next_hops: Vec<NextHop> = next_hops.into_iter().map(|(next_hop, _)| next_hop).collect();
    next_hops.dedup();
    Found { obstacles, notes, next_hops, legs: search.legs().known().copied().collect() }
}

struct Search<'a> {
    facts: &'a Facts,
    forward: &'a Forward,
    verdict: &'a Verdict,
    /// The bit of the connection mark that the flows have.
    connmark: Connmark,
    /// The ways of packets from each client to the upstream.
    to_upstream: Vec<(IpNet, Courses<'a>)>,
    /// The ways of packets from the upstream to each client.
    to_clients: Vec<(IpNet, Courses<'a>)>,
}

impl<'a> Search<'a> {
    fn of(facts: &'a Facts, connmark: Connmark, forward: &'a Forward, verdict: &'a Verdict) -> Self {
        let to_upstream = ways::to_upstream(facts, forward);
        let mut search = Self { facts, forward, verdict, connmark, to_upstream, to_clients: Vec::new() };
        search.to_clients = search.ways_to_clients();
        search
    }
}

fn obstacle(reason: ObstacleReason, message: String) -> Obstacle {
    Obstacle { reason, message }
}

impl Search<'_> {
    /// The interfaces that the object names; for a leg without one, the interface that its packets certainly pass.
    fn interfaces(&self) -> Vec<Obstacle> {
        let passage = self.passage();
        let (internal, external) = (&self.forward.internal.interface, &self.forward.external_interface);
        let clients = passage.from_clients.filter(|_| internal.is_none());
        let upstream = passage.to_upstream.filter(|leaves| external.is_none() && clients != Some(*leaves));
        let named = [("internal", internal), ("external", external)];
        let named = named.into_iter().filter_map(|(leg, interface)| self.interface(leg, interface.as_ref()?));
        let passed = [("internal", clients), ("external", upstream)];
        named.chain(passed.into_iter().filter_map(|(leg, interface)| self.passed_interface(leg, interface?))).collect()
    }

    /// The object does not name the interface of this leg.
    fn passed_interface(&self, leg: &str, interface: &InterfaceName) -> Option<Obstacle> {
        let link = self.facts.links.get(interface)?;
        let message = format!("{interface}, the interface of the {leg} leg, is down or has no carrier");
        (!link.up).then(|| obstacle(ObstacleReason::InterfaceDown, message))
    }

    fn interface(&self, leg: &str, interface: &InterfaceName) -> Option<Obstacle> {
        let Some(link) = self.facts.links.get(interface) else {
            let message = format!("{leg}.interface {interface} is not on this node; the rules are in place and match once it is");
            return Some(obstacle(ObstacleReason::WaitingForInterface, message));
        };
        if let Some(master) = link.master {
            let owner = self.facts.links.iter().find(|(_, link)| link.index == master);
            let owner = owner.map_or_else(|| format!("interface number {master}"), |(name, _)| name.to_string());
            let message = format!("{leg}.interface {interface} is a port of {owner}, which takes its packets; write {owner}");
            return Some(obstacle(ObstacleReason::EnslavedInterface, message));
        }
        let message = format!("{leg}.interface {interface} is down or has no carrier");
        (!link.up).then(|| obstacle(ObstacleReason::InterfaceDown, message))
    }

    fn addresses(&self) -> Vec<Obstacle> {
        let legs = [
            ("internal", Some(self.forward.internal.address), &self.forward.internal.interface),
            ("external", self.forward.external, &self.forward.external_interface),
        ];
        legs.into_iter().filter_map(|(leg, address, interface)| self.address(leg, address?, interface.as_ref())).collect()
    }

    fn address(&self, leg: &str, address: IpAddr, named: Option<&InterfaceName>) -> Option<Obstacle> {
        if !self.facts.holds(address) {
            let message = format!(
                "this node does not have the {leg} address {address}: answers to it do not come back; give it to an interface"
            );
            return Some(obstacle(ObstacleReason::ExternalAddressMissing, message));
        }
        // If the address is on the loopback, or in a `local` route without an interface, the node accepts it on every
        // interface.
        let (named, holder) = (named?, self.facts.interface_of(address)?);
        let message = format!(
            "the {leg} address {address} is on {holder} and not on {leg}.interface {named}; write {holder}, or move the address"
        );
        let enters = self.facts.virtuals.get(holder) == Some(&Virtual::Dummy) || self.facts.on_one_wire(holder, named);
        (!enters).then(|| obstacle(ObstacleReason::AddressNotOnInterface, message))
    }

    /// NAT is decided once, where a flow begins: what our rules translated, those of kube-proxy never see.
    fn upstream_is_service(&self) -> Option<Obstacle> {
        let upstream = self.forward.upstream;
        let network = self.facts.services.iter().find(|network| network.contains(&upstream))?;
        let message = format!(
            "the upstream {upstream} lies in {network}, the network of this cluster's Services: no host has such an address, and kube-proxy does not translate a flow that a forward has translated; write the address of a load balancer, or of another host"
        );
        Some(obstacle(ObstacleReason::UpstreamIsService, message))
    }

    fn way_to_upstream(&self) -> Vec<Obstacle> {
        let upstream = self.forward.upstream;
        let mut found: Vec<Obstacle> = self.stopped_to_upstream().into_iter().collect();
        if let (Some(named), Some(leaves)) =
            (&self.forward.external_interface, self.hop_to_upstream().and_then(|hop| hop.interface))
            && !self.facts.on_one_wire(named, leaves)
        {
            let rule = self.to_upstream.first().and_then(|(_, courses)| courses.usual.rule);
            let why = rule.map_or_else(String::new, |rule| format!(" (routing rule \"{rule}\")"));
            let message = format!(
                "packets to the upstream {upstream} leave by {leaves}{why} and not by external.interface {named}; correct the object or the route"
            );
            found.push(obstacle(ObstacleReason::UpstreamNotOnInterface, message));
        }
        found
    }

    fn obstacles_to_clients(&self) -> Vec<Obstacle> {
        let mut found = Vec::new();
        for route in &self.verdict.routes {
            match route {
                RoutePlan::Withheld(withheld) if !found.contains(withheld) => found.push(withheld.clone()),
                RoutePlan::Install(_) | RoutePlan::Withheld(_) => {}
            }
        }
        found.extend(self.stopped_to_clients());
        found.extend(self.bypassed_route());
        found.extend(self.asymmetric());
        found
    }

    fn notes(&self) -> Vec<Note> {
        let active = self.verdict.role == Some(Role::Active);
        let other_link = active.then(|| self.source_of_another_link()).flatten();
        other_link.into_iter().chain(self.undecided()).collect()
    }
}
