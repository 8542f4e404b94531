//! The effect of other programs' chains on the flows of a forward: `Ready=False` if every path through a chain drops them,
//! a note if this cannot be determined.

use std::collections::BTreeSet;

use super::flows::{Flows, NAT_DST, NAT_SRC, Part, family_name};
use super::packet::Packet;
use super::walk::{Ending, Fate, fate};
use super::{Search, obstacle};
use crate::forward::Direction;
use crate::model::{BaseChain, Field, Hook, InterfaceName, Policy, Purpose, SourceNat, TableFamily, Tool};
use crate::plan::verdict::{Note, Obstacle, ObstacleReason, Verdict};

/// The findings for one chain.
#[derive(Default)]
struct Findings {
    dropped: Vec<Obstacle>,
    commands: BTreeSet<String>,
    notes: Vec<Note>,
}

impl<'a> Search<'a> {
    /// The effect of other programs' chains on the flows of this forward.
    pub(super) fn firewall(&self, verdict: &'a Verdict) -> (Vec<Obstacle>, Vec<Note>) {
        let chains = &self.facts.firewall.chains;
        if chains.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let flows = self.flows(verdict);
        let (mut obstacles, mut notes) = (Vec::new(), Vec::new());
        for chain in chains {
            let mut findings = Findings::default();
            for flows in &flows {
                for part in [Part::Request, Part::Answer] {
                    if let Some(packet) = self.packet(flows, part, chain) {
                        findings.take(chain, flows, part, fate(chain, &packet));
                    }
                }
            }
            obstacles.append(&mut findings.dropped);
            notes.extend(findings.notes.into_iter().next());
        }
        (obstacles, notes)
    }

    fn flows(&self, verdict: &'a Verdict) -> Vec<Flows<'a>> {
        let passage = self.passage(verdict);
        let mut all: Vec<Flows<'a>> = Vec::new();
        for (direction, one) in verdict.directed() {
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

    fn is_bridge(&self, interface: &InterfaceName) -> bool {
        let index = self.facts.links.get(interface).map(|link| link.index);
        index.is_some_and(|index| self.facts.links.values().any(|link| link.master == Some(index)))
    }
}

impl Findings {
    fn take(&mut self, chain: &BaseChain, flows: &Flows<'_>, part: Part, fate: Fate) {
        match chain.purpose {
            Purpose::Filter => self.take_filter(chain, flows, part, fate),
            Purpose::Nat => self.take_nat(chain, flows, part, fate),
        }
    }

    fn take_filter(&mut self, chain: &BaseChain, flows: &Flows<'_>, part: Part, fate: Fate) {
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
            self.notes.push(Note(format!(
                "MayBeDropped: {place} of another program may drop {what}: it has rules that this agent cannot judge; if it does, let it pass by {command}"
            )));
        } else if fate.untrack == Ending::Possible {
            self.notes.push(Note(format!(
                "MayBeUntracked: {place} of another program may keep {what} from being tracked, and so from being translated; if it does, let it pass by {command}"
            )));
        }
    }

    /// The first chain that translates a flow decides. Of chains with equal priority, the one that was created last comes
    /// first.
    fn take_nat(&mut self, chain: &BaseChain, flows: &Flows<'_>, part: Part, fate: Fate) {
        let (ahead, becomes) = match (chain.hook, flows.one.source) {
            (Hook::Prerouting, _) => {
                (chain.priority <= NAT_DST, format!("the flow then does not go to {}", flows.one.destination.address))
            }
            (Hook::Postrouting, SourceNat::Address(external)) => {
                (chain.priority <= NAT_SRC, format!("the other side then does not see {external}"))
            }
            (Hook::Postrouting | Hook::Ingress | Hook::Forward | Hook::Egress, _) => (false, String::new()),
        };
        if part == Part::Request && ahead && fate.translate == Ending::Possible {
            let (place, command, what) = (describe(chain), flows.command(part, chain), flows.description(part));
            self.notes.push(Note(format!(
                "MayBeTranslatedFirst: {place} of another program may translate {what} before our rules do, and {becomes}; let it pass by {command}"
            )));
        }
    }
}

/// The chain in a message: table and chain as its tool names them, its hook and priority, and its policy.
fn describe(chain: &BaseChain) -> String {
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
