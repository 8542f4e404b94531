//! Which interfaces a forward means on this node.

use crate::forward::Forward;
use crate::model::{Facts, InterfaceName, Translation};

/// What `forward` asks for on this node, and how many of it, the last, are of `reverse`.
///
/// Where it names an interface that shares a wire with others, there is one translation for each. Packets to an address on a
/// VRRP device enter by that device, or by the link below it: whoever hears an ARP request of this node learns that the address
/// is at the link which sent it (the sender address is the one that the packets go on as).
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
                translation.flows.interface = Some(interface.clone());
                translation
            })),
        }
        if place >= towards_upstream {
            reversed += found.len() - before;
        }
    }
    (found, reversed)
}

/// `named`, and the other interfaces of this node on its wire.
fn sharing<'a>(facts: &'a Facts, named: &'a InterfaceName) -> Vec<&'a InterfaceName> {
    let others = facts.links.keys().filter(|other| *other != named && facts.on_one_wire(other, named));
    std::iter::once(named).chain(others).collect()
}
