//! The interfaces of this node that a forward refers to.

use super::ReservedPorts;
use crate::forward::Forward;
use crate::model::{Facts, InterfaceName, PortRange, Translation};

/// The translations for `forward` on this node, and how many of them belong to `reverse`; these are the last ones.
///
/// If it names an interface that shares a link with others, there is one translation for each of these interfaces. Packets
/// to an address on a VRRP device enter by that device or by the link below it: a host that receives an ARP request of this
/// node learns the hardware address of the interface that sent it. (The sender address is the external address of the
/// flow.)
pub(super) fn translations(facts: &Facts, forward: &Forward) -> (Vec<Translation>, usize) {
    let asked = forward.translations();
    let towards_upstream = asked.len() - forward.reversed();
    let mut found = Vec::with_capacity(asked.len());
    let mut reversed = 0;
    for (place, translation) in asked.into_iter().enumerate() {
        let before = found.len();
        match translation.flows.interface.as_ref().map(|named| sharing(facts, named)) {
            None => found.push(translation),
            Some(interfaces) => found.extend(interfaces.into_iter().map(|interface| {
                let mut translation = translation.clone();
                translation.flows.interface = Some(*interface);
                translation
            })),
        }
        if place >= towards_upstream {
            reversed += found.len() - before;
        }
    }
    (found, reversed)
}

/// The number of [`translations`] of `forward`, without making them. A range of `reverse` counts once for each part that is left
/// of it without the reserved ports, also on an address on which they are not reserved.
pub(super) fn count(facts: &Facts, forward: &Forward, reserved: &ReservedPorts) -> usize {
    let interfaces = |named: Option<&InterfaceName>| named.map_or(1, |named| sharing(facts, named).len());
    let towards_upstream = forward.ports.len() * forward.clients.len() * interfaces(forward.internal.interface.as_ref());
    let parts = forward.reverse.iter().map(|entry| {
        let reserved: Vec<PortRange> = reserved.of(entry.protocol).collect();
        entry.ports.minus(&reserved).len().max(1)
    });
    towards_upstream + parts.sum::<usize>() * interfaces(forward.external_interface.as_ref())
}

/// `named`, and the other interfaces of this node on the same link.
fn sharing<'a>(facts: &'a Facts, named: &'a InterfaceName) -> Vec<&'a InterfaceName> {
    let others = facts.links.keys().filter(|other| *other != named && facts.on_one_wire(other, named));
    std::iter::once(named).chain(others).collect()
}
