//! The effect of other programs' chains on the flows of a forward: `Ready=False` if every path through a chain drops them,
//! a note if this cannot be determined.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::flows::{Flows, Part, family_name};
use super::marks::Unmarked;
use super::packet::{Packet, number};
use super::walk::{Ending, Fate, Zone, fate};
use super::{Search, obstacle};
use crate::forward::Direction;
use crate::model::{
    BaseChain, Field, Hook, InterfaceName, NatPriorities, NewAddress, Policy, Purpose, SourceNat, TableFamily, Tool,
};
use crate::plan::verdict::{Note, Obstacle, ObstacleReason};

/// The findings for one chain.
#[derive(Default)]
struct Findings {
    dropped: Vec<Obstacle>,
    commands: BTreeSet<String>,
    notes: Vec<Note>,
}

impl<'a> Search<'a> {
    /// The effect of other programs' chains on the flows of this forward.
    pub(super) fn firewall(&self) -> (Vec<Obstacle>, Vec<Note>) {
        let mut chains: Vec<&BaseChain> = self.facts.firewall.chains.iter().collect();
        if chains.is_empty() {
            return (Vec::new(), Vec::new());
        }
        chains.sort_by_key(|chain| (chain.hook, chain.priority));
        let mut all: Vec<Passing<'_, '_>> = self.flows().into_iter().map(Passing::new).collect();
        let (mut obstacles, mut notes) = (Vec::new(), Vec::new());
        for chain in chains {
            let mut findings = Findings::default();
            let changes_mark = self.changes_mark(chain);
            for Passing { flows, parts } in &mut all {
                for (part, state) in parts {
                    let Some(packet) = self.packet(flows, *part, chain) else { continue };
                    let own = packet.leaves.and_then(|leaves| self.only_address(leaves));
                    let packet = Packet { is_marked: state.is_marked, ..packet };
                    let unmarked = if changes_mark { self.unmarked(chain, flows, *part, &packet) } else { None };
                    let fate = fate(chain, &packet);
                    state.is_marked |= fate.mark == Ending::Possible;
                    state.zone = state.zone.or_else(|| Some((fate.zone()?, chain)));
                    match chain.purpose {
                        Purpose::Filter => findings.take_filter(chain, flows, *part, fate),
                        Purpose::Nat if *part == Part::Request => {
                            findings.take_nat(chain, flows, fate, (own, self.facts.firewall.nat_priorities));
                        }
                        Purpose::Nat => {}
                    }
                    findings.take_mark(unmarked);
                }
            }
            obstacles.append(&mut findings.dropped);
            notes.extend(findings.notes.into_iter().next());
        }
        let mut findings = Findings::default();
        for passing in &all {
            findings.take_zones(passing);
        }
        obstacles.append(&mut findings.dropped);
        notes.extend(findings.notes.into_iter().next());
        (obstacles, notes)
    }

    fn flows(&self) -> Vec<Flows<'a>> {
        let passage = self.passage();
        let mut all: Vec<Flows<'a>> = Vec::new();
        for (direction, one) in self.verdict.directed() {
            // The clients of one entry are adjacent.
            if let Some(last) = all.last_mut()
                && last.direction == direction
                && (last.one.flows.protocol, last.one.flows.ports) == (one.flows.protocol, one.flows.ports)
                && last.one.destination == one.destination
            {
                last.clients.push(one.flows.source);
                continue;
            }
            let (to_client, to_upstream) =
                ((passage.from_upstream, passage.to_clients), (passage.from_clients, passage.to_upstream));
            let (request, answer) = match direction {
                Direction::Forward => (to_upstream, to_client),
                Direction::Reverse => (to_client, to_upstream),
            };
            all.push(Flows { direction, one, clients: vec![one.flows.source], request, answer });
        }
        all
    }

    /// The packets as `chain` sees them; `None` if they do not pass it.
    fn packet(&self, flows: &Flows<'a>, part: Part, chain: &BaseChain) -> Option<Packet<'a>> {
        let (enters, leaves) = match part {
            Part::Request => flows.request,
            Part::Answer => flows.answer,
        };
        let place = match chain.hook {
            Hook::Ingress => enters,
            Hook::Egress => leaves,
            Hook::Prerouting | Hook::Forward | Hook::Postrouting => None,
        };
        if !chain.devices.is_empty() && !chain.devices.contains(place?.as_str()) {
            return None;
        }
        let bridged = chain.tool == Tool::Nft(TableFamily::Bridge);
        if bridged && !self.is_bridge(place?) {
            return None;
        }
        let (enters, leaves) = match chain.hook {
            Hook::Ingress | Hook::Egress if bridged => (None, None),
            Hook::Ingress | Hook::Prerouting => (enters, None),
            Hook::Forward => (enters, leaves),
            Hook::Postrouting | Hook::Egress => (None, leaves),
        };
        let mut packet = flows.packet(part, chain);
        for (field, interface) in [(Field::InIndex, enters), (Field::OutIndex, leaves)] {
            if let Some(link) = interface.and_then(|name| self.facts.links.get(name)) {
                packet = packet.with(field, u64::from(link.index));
            }
        }
        Some(Packet { enters, leaves, ..packet })
    }

    /// The address of an interface with a single address. Of several, the kernel chooses one by the next hop.
    fn only_address(&self, interface: &InterfaceName) -> Option<IpAddr> {
        let mut held = self.facts.addresses.iter().filter(|local| local.interface.as_ref() == Some(interface));
        let first = held.next()?.address;
        held.next().is_none().then_some(first)
    }

    fn is_bridge(&self, interface: &InterfaceName) -> bool {
        let index = self.facts.links.get(interface).map(|link| link.index);
        index.is_some_and(|index| self.facts.links.values().any(|link| link.master == Some(index)))
    }
}

impl Findings {
    fn take_filter(&mut self, chain: &BaseChain, flows: &Flows<'_>, part: Part, fate: Fate) {
        if fate.stop < Ending::Possible && fate.untrack < Ending::Possible {
            return;
        }
        let (place, command, what) = (describe(chain), flows.command(part, chain), flows.description(part));
        if fate.is_stopped() || fate.is_untracked() {
            let by = match (fate.is_untracked(), fate.by_policy) {
                (true, _) => format!("has a rule that keeps {what} from being tracked, and so from being translated"),
                (false, true) => format!("has the policy drop and no rule that accepts {what}"),
                (false, false) => format!("has a rule that drops or rejects {what}"),
            };
            let message = format!(
                "{place} of another program {by}; let it pass by {command}, and keep that where the rules are loaded from"
            );
            if self.commands.insert(command) {
                self.dropped.push(obstacle(ObstacleReason::DroppedByFirewall, message));
            }
        } else if fate.stop == Ending::Possible {
            self.notes.push(may_drop(&place, &what, &command));
        } else {
            self.notes.push(Note(format!(
                "MayBeUntracked: {place} of another program may keep {what} from being tracked, and so from being translated; if it does, let it pass by {command}"
            )));
        }
    }

    /// One chain is told once, with the first flows that it concerns.
    fn take_mark(&mut self, unmarked: Option<Unmarked>) {
        match unmarked {
            Some(Unmarked::Surely(obstacle)) if self.dropped.iter().all(|other| other.reason != obstacle.reason) => {
                self.dropped.push(obstacle);
            }
            Some(Unmarked::Perhaps(note)) => self.notes.push(note),
            Some(Unmarked::Surely(_)) | None => {}
        }
    }

    /// The first chain that translates a flow decides, and later ones do not see it. Of chains with equal priority, the one
    /// that was created last comes first, so the order is not known. `own` is the address of the outgoing
    /// interface, and the priorities of the operator's chains.
    fn take_nat(&mut self, chain: &BaseChain, flows: &Flows<'_>, fate: Fate, (own, priorities): (Option<IpAddr>, NatPriorities)) {
        let (ours, becomes, promised) = match (chain.hook, flows.one.source) {
            (Hook::Prerouting, _) => {
                let target = flows.one.destination.address;
                (priorities.prerouting, format!("the flow then does not go to {target}"), Some(target))
            }
            (Hook::Postrouting, SourceNat::Address(external)) => {
                (priorities.postrouting, format!("the other side then does not see {external}"), Some(external))
            }
            (Hook::Postrouting, SourceNat::Masquerade) => (priorities.postrouting, String::new(), None),
            (Hook::Ingress | Hook::Forward | Hook::Egress, _) => return,
        };
        if chain.priority > ours {
            return;
        }
        let is_first = chain.priority < ours;
        if is_first && fate.is_stopped() {
            return self.take_filter(chain, flows, Part::Request, fate);
        }
        if fate.translate < Ending::Possible && fate.stop < Ending::Possible {
            return;
        }
        let (place, command, what) = (describe(chain), flows.command(Part::Request, chain), flows.description(Part::Request));
        let given = match (chain.hook, fate.new_address) {
            (_, Some(NewAddress::Fixed(address))) => Given::of(promised.is_some_and(|promised| number(promised) == address)),
            // To the node itself.
            (Hook::Prerouting, Some(NewAddress::Own)) => Given::Other,
            (_, Some(NewAddress::Own)) if own.is_some() => Given::of(own == promised),
            (_, Some(NewAddress::Own | NewAddress::Unknown) | None) => Given::Unknown,
        };
        if promised.is_some() && fate.translate == Ending::Possible && given != Given::Promised {
            if is_first && given == Given::Other && fate.is_translated() {
                let message = format!(
                    "{place} of another program translates {what} before our rules do, and {becomes}; let it pass by {command}, and keep that where the rules are loaded from"
                );
                if self.commands.insert(command) {
                    self.dropped.push(obstacle(ObstacleReason::TranslatedFirst, message));
                }
            } else {
                self.notes.push(Note(format!(
                    "MayBeTranslatedFirst: {place} of another program may translate {what} before our rules do, and {becomes}; let it pass by {command}"
                )));
            }
        } else if fate.stop == Ending::Possible {
            self.notes.push(may_drop(&place, &what, &command));
        }
    }

    /// Replies are recognised only in the zone of connection tracking that the first packet of the flow has for them.
    fn take_zones(&mut self, passing: &Passing<'_, '_>) {
        let Passing { flows, parts } = passing;
        let [request, answer] = parts.each_ref().map(|(_, state)| state.zone.map_or(Zone::Known(0), |(zone, _)| zone));
        if request == answer && request != Zone::Unknown {
            return;
        }
        let certain = request != Zone::Unknown && answer != Zone::Unknown;
        for (part, state) in parts {
            let Some((zone, chain)) = state.zone else { continue };
            let (place, command, what) = (describe(chain), flows.command(*part, chain), flows.description(*part));
            let zone = match zone {
                Zone::Known(zone) => format!("zone {zone}"),
                Zone::Unknown => "a zone".to_owned(),
            };
            if !certain {
                self.notes.push(Note(format!(
                    "MayBeUntracked: {place} of another program may assign {what} to {zone} of connection tracking (ct zone), and packets of the other direction to another one, so that replies are not recognised; if it does, let it pass by {command}"
                )));
            } else if self.commands.insert(command.clone()) {
                let message = format!(
                    "{place} of another program assigns {what} to {zone} of connection tracking (ct zone), but packets of the other direction to another one, so replies are not recognised; let it pass by {command}, and keep that where the rules are loaded from"
                );
                self.dropped.push(obstacle(ObstacleReason::DroppedByFirewall, message));
            }
        }
    }
}

fn may_drop(place: &str, what: &str, command: &str) -> Note {
    Note(format!(
        "MayBeDropped: {place} of another program may drop {what}: it has rules that this agent cannot judge; if it does, let it pass by {command}"
    ))
}

/// The address that a translation of another program gives, compared with the one of the forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// The same.
    Promised,
    /// Another one.
    Other,
    /// It is not known.
    Unknown,
}

impl Given {
    const fn of(same: bool) -> Self {
        if same { Self::Promised } else { Self::Other }
    }
}

/// Flows on their way through the chains.
struct Passing<'a, 'b> {
    flows: Flows<'a>,
    parts: [(Part, State<'b>); 2],
}

/// What the chains so far did to packets.
#[derive(Clone, Copy, Default)]
struct State<'b> {
    /// Whether a rule may have marked them.
    is_marked: bool,
    /// The first zone that a chain assigns, and the chain.
    zone: Option<(Zone, &'b BaseChain)>,
}

impl<'a> Passing<'a, '_> {
    fn new(flows: Flows<'a>) -> Self {
        Self { flows, parts: [(Part::Request, State::default()), (Part::Answer, State::default())] }
    }
}

/// The chain in a message: table and chain as its tool names them, its hook and priority, and its policy.
pub(super) fn describe(chain: &BaseChain) -> String {
    let BaseChain { tool, table, name, hook, priority, policy, .. } = chain;
    let place = match tool {
        Tool::Nft(family) => format!("{} {table} {name}", family_name(*family)),
        Tool::IptablesNft => format!("{table} {name} of iptables-nft"),
        Tool::IptablesLegacy => format!("{table} {name} of iptables-legacy"),
    };
    let hook = match hook {
        Hook::Ingress => "ingress",
        Hook::Prerouting => "prerouting",
        Hook::Forward => "forward",
        Hook::Postrouting => "postrouting",
        Hook::Egress => "egress",
    };
    let policy = match policy {
        Policy::Accept => "accept",
        Policy::Drop => "drop",
    };
    format!("the chain {place} (hook {hook}, priority {priority}, policy {policy})")
}
