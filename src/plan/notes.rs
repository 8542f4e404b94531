//! Notes about a forward that this node carries: useful to know, but they stop nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Verdicts;
use super::claims::{Nested, Way};
use super::node_rules::hears;
use super::verdict::{Note, RoutePlan, Verdict};
use crate::forward::{Forward, PortEntry};
use crate::model::{Facts, InterfaceName, Listener, Protocol};

/// The maximum number of notes for a forward, and of names in one note.
pub(super) const MOST: usize = 8;

/// The notes for one forward that depend on it alone.
pub(super) fn find(facts: &Facts, forward: &Forward, verdict: &Verdict) -> Vec<Note> {
    let search = Search { facts, forward };
    let mut notes: Vec<Note> = search.shorter_way().into_iter().collect();
    notes.extend(search.other_ways(verdict));
    notes.extend(search.shadowed());
    notes
}

/// Adds the notes for each two forwards with different gateways, if one client network contains the other and each is reached
/// through its own gateway.
pub(super) fn add_nested(verdicts: &mut Verdicts, nested: &[Nested]) {
    for nested in nested {
        let installs = |side: &Way| {
            let mut routes = verdicts.get(&side.forward).into_iter().flat_map(|verdict| &verdict.routes);
            routes.any(|plan| plan.installed().is_some_and(|route| route.destination == side.network))
        };
        if !nested.sides().into_iter().all(installs) {
            continue;
        }
        for (side, note) in nested.sides().into_iter().zip(self::nested(nested)) {
            let Some(verdict) = verdicts.get_mut(&side.forward) else { continue };
            verdict.nested = true;
            if verdict.notes.len() < MOST {
                verdict.notes.push(note);
            }
        }
    }
}

/// For the forward with the larger network, then for the other one. A forward of another namespace is only named.
fn nested(nested: &Nested) -> [Note; 2] {
    let Nested { outer, inner } = nested;
    if outer.forward.namespace != inner.forward.namespace {
        let outer_note = format!(
            "some clients in {} are not reached through {}: {} asks for another way to them, and the longest prefix wins",
            outer.network, outer.gateway, inner.forward
        );
        let inner_note = format!(
            "{} asks for another way to a network around {}; the longest prefix wins, so the way to {} is {}",
            outer.forward, inner.network, inner.network, inner.gateway
        );
        return [Note(outer_note), Note(inner_note)];
    }
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
    /// A named gateway is used even if the client is directly on a link. This may not be intended.
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

    /// A longer prefix wins in the kernel: a part of a client network may use another route than the object specifies.
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

    /// Programs whose ports the forward takes, for its clients or its upstream only.
    fn shadowed(&self) -> Vec<Note> {
        let Forward { internal, external, external_interface, upstream, ports, reverse, .. } = self.forward;
        let clients = self.taken(internal.address, internal.interface.as_ref(), ports);
        let clients = clients.map(|list| {
            let address = internal.address;
            Note(format!("the forward takes from programs of this node what its clients send to them on {address}: {list}"))
        });
        let upstream = external.and_then(|address| {
            let list = self.taken(address, external_interface.as_ref(), reverse)?;
            Some(Note(format!("reverse takes from programs of this node what {upstream} sends to them on {address}: {list}")))
        });
        clients.into_iter().chain(upstream).collect()
    }

    /// The ports of `entries` on which programs receive packets to `address`.
    fn taken(&self, address: IpAddr, enters: Option<&InterfaceName>, entries: &[PortEntry]) -> Option<String> {
        let enters = enters.or_else(|| self.facts.interface_of(address));
        let taken = |listener: &&Listener| {
            let of = |entry: &PortEntry| entry.protocol == listener.protocol && entry.ports.contains(listener.port);
            entries.iter().any(of) && hears(self.facts, listener, address, enters)
        };
        let ports = self.facts.listeners.iter().filter(taken).map(|listener| (listener.protocol, listener.port));
        let ports: BTreeSet<(Protocol, u16)> = ports.collect();
        let list: Vec<String> = ports.into_iter().take(MOST).map(|(protocol, port)| format!("{protocol} {port}")).collect();
        (!list.is_empty()).then(|| list.join(", "))
    }
}
