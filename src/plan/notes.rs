//! What is worth knowing of a forward that this node carries, but stops nothing that is known.

use ipnet::IpNet;

use super::claims::Nested;
use super::node_rules::listens;
use super::verdict::{Note, RoutePlan, Verdict};
use crate::forward::Forward;
use crate::model::Facts;

/// How many notes a forward has at most, and how many of a kind one names.
pub(super) const MOST: usize = 8;

/// The notes of one forward, by itself.
pub(super) fn find(facts: &Facts, forward: &Forward, verdict: &Verdict) -> Vec<Note> {
    let search = Search { facts, forward };
    let mut notes: Vec<Note> = search.shorter_way().into_iter().collect();
    notes.extend(search.other_ways(verdict));
    notes.extend(search.shadowed_by_reverse());
    notes
}

/// What two forwards are told whose clients lie in each other and go through different gateways: the one with the larger network,
/// then the other.
pub(super) fn nested(nested: &Nested) -> [Note; 2] {
    let Nested { outer, inner } = nested;
    let outer_note = format!(
        "clients in {} are reached through {} and not through {}: {} asks for it, and the longest prefix wins",
        inner.network, inner.gateway, outer.gateway, inner.forward
    );
    let inner_note = format!(
        "{} around {} goes through {} for {}; for {} the longest prefix wins, so its way is {}",
        outer.network, inner.network, outer.gateway, outer.forward, inner.network, inner.gateway
    );
    [Note(outer_note), Note(inner_note)]
}

struct Search<'a> {
    facts: &'a Facts,
    forward: &'a Forward,
}

impl Search<'_> {
    /// A named gateway decides; where it need not, somebody may have meant something else.
    fn shorter_way(&self) -> Option<Note> {
        let gateway = self.forward.gateway?;
        let (client, subnet, interface) = self.forward.clients.iter().find_map(|client| {
            let local = self.facts.connected(client.network()).filter(|local| local.subnet().contains(client))?;
            Some((client, local.subnet(), local.interface.as_ref()?))
        })?;
        Some(Note(format!(
            "the client {client} lies in {subnet}, the subnet of {interface}, but is reached through {gateway}, because internal.gateways says so; leave internal.gateways out if {client} is on the link"
        )))
    }

    /// A longer prefix wins in the kernel: a part of a client network may go another way than the object says.
    fn other_ways(&self, verdict: &Verdict) -> Option<Note> {
        let gateway = self.forward.gateway?;
        let others = verdict.routes.iter().filter_map(RoutePlan::installed).flat_map(|planned| {
            let elsewhere = |route: &&crate::model::Route| !route.ours && route.gateway != Some(planned.gateway);
            self.facts.routes.within(planned.destination).filter(elsewhere).map(|route| route.destination)
        });
        let others: Vec<IpNet> = others.take(MOST).collect();
        (!others.is_empty()).then(|| {
            let list = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Note(format!(
                "not all clients are reached through {gateway}: routes of other programs to {list} have longer prefixes and win"
            ))
        })
    }

    fn shadowed_by_reverse(&self) -> Option<Note> {
        let external = self.forward.external?;
        let shadowed = |listener: &&crate::model::Listener| {
            listens(listener.address, external)
                && self
                    .forward
                    .reverse
                    .iter()
                    .any(|entry| entry.protocol == listener.protocol && entry.ports.contains(listener.port))
        };
        let ports: std::collections::BTreeSet<String> = self
            .facts
            .listeners
            .iter()
            .filter(shadowed)
            .map(|listener| format!("{} {}", listener.protocol, listener.port))
            .collect();
        let list: Vec<String> = ports.into_iter().take(MOST).collect();
        (!list.is_empty()).then(|| {
            Note(format!(
                "reverse takes from programs of this node what {} sends to them on {external}: {}",
                self.forward.upstream,
                list.join(", ")
            ))
        })
    }
}
