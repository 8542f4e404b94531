//! The interfaces by which the flows of a forward enter and leave, and the effect of their settings.

use super::ways::Leaving;
use super::{Search, obstacle};
use crate::model::{Courses, Entry, Facts, InterfaceName, LocalAddress, RpFilter, Virtual};
use crate::plan::verdict::{Note, Obstacle, ObstacleReason};

/// The interfaces of the two legs, as far as they are known. With one leg both are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::plan) struct Legs<'a> {
    /// The interface by which packets of the clients enter.
    pub(in crate::plan) internal: Option<&'a InterfaceName>,
    /// The interface by which packets to the upstream leave and its replies enter.
    pub(in crate::plan) external: Option<&'a InterfaceName>,
}

impl<'a> Legs<'a> {
    /// The known ones.
    pub(in crate::plan) fn known(self) -> impl Iterator<Item = &'a InterfaceName> {
        let second = self.external.filter(|external| self.internal != Some(*external));
        self.internal.into_iter().chain(second)
    }
}

/// The setting of an interface, as sysctl(8) takes it: with dots, or with slashes if the name of the interface contains a
/// dot.
fn setting(interface: &InterfaceName, key: &str) -> String {
    if interface.as_str().contains('.') {
        format!("net/ipv4/conf/{interface}/{key}")
    } else {
        format!("net.ipv4.conf.{interface}.{key}")
    }
}

/// The interfaces that packets pass, if they are certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passage<'a> {
    /// The interface by which packets of the clients enter.
    pub(super) from_clients: Option<&'a InterfaceName>,
    /// The interface by which packets to the clients leave.
    pub(super) to_clients: Option<&'a InterfaceName>,
    /// The interface by which packets to the upstream leave.
    pub(super) to_upstream: Option<&'a InterfaceName>,
    /// The interface by which packets of the upstream enter.
    pub(super) from_upstream: Option<&'a InterfaceName>,
}

impl<'a> Search<'a> {
    /// The interfaces that packets pass, if they are certain. The incoming interface is certain if the object names it, or
    /// if the address and the route back are on the same interface. The outgoing interface is that of the route, if it is
    /// certain which one packets take.
    pub(super) fn passage(&self) -> Passage<'a> {
        let facts: &'a Facts = self.facts;
        let certain = |name: &'a InterfaceName| {
            let alone = facts.links.get(name).is_some_and(|link| link.master.is_none());
            let on_wire = |other: &InterfaceName| facts.virtuals.get(other) == Some(&Virtual::OnWireOf(*name));
            (alone && !facts.virtuals.contains_key(name) && !facts.virtuals.keys().any(on_wire)).then_some(name)
        };
        let certain_way = |courses: &Courses<'a>| courses.certain().and_then(Leaving::of).and_then(|hop| hop.interface);
        let mut ways = self.to_clients.iter().map(|(_, courses)| certain_way(courses));
        let first = ways.next().flatten();
        let back = first.filter(|first| ways.all(|way| way == Some(*first)));
        let to_upstream = self.hop_to_upstream().and_then(|hop| hop.interface);
        let entered = |named: Option<&'a InterfaceName>, holder: Option<&'a InterfaceName>, back| {
            named.or_else(|| holder.filter(|holder| Some(*holder) == back)).and_then(certain)
        };
        let external = self.forward.external;
        let holder = external.map_or(to_upstream, |external| facts.interface_of(external));
        Passage {
            from_clients: entered(
                self.forward.internal.interface.as_ref(),
                facts.interface_of(self.forward.internal.address),
                back,
            ),
            to_clients: back.and_then(certain),
            to_upstream: to_upstream.and_then(certain),
            from_upstream: entered(None, holder, to_upstream),
        }
    }

    /// The interfaces that the object names; otherwise those of the internal address and of the route to the upstream.
    pub(super) fn legs(&self) -> Legs<'a> {
        let address = self.forward.internal.address;
        // No packet enters by a dummy interface.
        let holder = || self.facts.interface_of(address).filter(|name| self.facts.virtuals.get(*name) != Some(&Virtual::Dummy));
        let internal = self.forward.internal.interface.as_ref().or_else(holder);
        let connected = || self.facts.connected(address).and_then(|local| local.interface.as_ref());
        let route = || self.hop_to_upstream().and_then(|hop| hop.interface);
        Legs { internal: internal.or_else(connected), external: self.forward.external_interface.as_ref().or_else(route) }
    }

    /// The kernel checks the setting of the incoming interface. The global setting is only the default for new interfaces.
    pub(super) fn forwarding(&self) -> Vec<Obstacle> {
        let known: Vec<_> = self.legs().known().filter_map(|name| Some((name, self.facts.links.get(name)?))).collect();
        let off = known.iter().filter(|(_, link)| !link.forwarding).map(|(name, _)| *name);
        let messages: Vec<String> = if self.facts.ip_forward {
            off.map(|name| {
                let setting = setting(name, "forwarding");
                format!(
                    "{setting} is 0, so this node does not route packets that enter by {name}; run sysctl -w {setting}=1, or start the agent with --set-ip-forward (chart value agent.setIpForward)"
                )
            })
            .collect()
        } else if known.is_empty() || off.count() > 0 {
            vec![
                "net.ipv4.ip_forward is 0, so this node routes no packets; run sysctl -w net.ipv4.ip_forward=1, or start the agent with --set-ip-forward (chart value agent.setIpForward)".to_owned(),
            ]
        } else {
            Vec::new()
        };
        messages.into_iter().map(|message| obstacle(ObstacleReason::ForwardingDisabled, message)).collect()
    }

    /// RFC 3704: with strict source validation, the route back must leave by the interface that the packet entered by.
    pub(super) fn asymmetric(&self) -> Vec<Obstacle> {
        let found = [self.strict_for_clients(), self.strict_for_upstream()];
        found.into_iter().flatten().collect()
    }

    fn strict_for_clients(&self) -> Option<Obstacle> {
        let enters =
            self.forward.internal.interface.as_ref().or_else(|| self.facts.interface_of(self.forward.internal.address))?;
        self.strict(enters)?;
        // The kernel looks for the way back as of a packet that enters where this one leaves (`__mkroute_input`,
        // net/ipv4/route.c).
        let back = self.hop_to_upstream().and_then(|hop| hop.interface).map_or(Entry::Unknown, Entry::By);
        let (client, leaves) = self.forward.clients.iter().find_map(|client| {
            let back = self.courses_to(*client, back).certain().and_then(Leaving::of)?;
            let leaves = back.interface.filter(|leaves| *leaves != enters)?;
            Some((client, leaves))
        })?;
        let setting = setting(enters, "rp_filter");
        let message = format!(
            "packets to the client {client} leave by {leaves}, and {enters}, where its packets enter, validates sources strictly (rp_filter 1) and drops them; name internal.gateways, add a route by {enters}, or run sysctl -w {setting}=2"
        );
        Some(obstacle(ObstacleReason::AsymmetricRoute, message))
    }

    fn strict_for_upstream(&self) -> Option<Obstacle> {
        let (local, enters, leaves) = self.apart()?;
        self.strict(enters)?;
        let (upstream, setting) = (self.forward.upstream, setting(enters, "rp_filter"));
        let message = format!(
            "packets to the upstream {upstream} leave by {leaves}, and {enters}, where its answers to {} enter, validates sources strictly (rp_filter 1) and drops them; add a route to the upstream by {enters}, or run sysctl -w {setting}=2",
            local.address
        );
        Some(obstacle(ObstacleReason::AsymmetricRoute, message))
    }

    fn strict(&self, interface: &InterfaceName) -> Option<()> {
        self.facts.links.get(interface).filter(|link| link.rp_filter == RpFilter::Strict).map(drop)
    }

    /// The external address, its interface, and the interface by which packets to the upstream leave, if they differ. An
    /// address that is alone in its subnet may be used on any interface: the network then decides where replies enter.
    fn apart(&self) -> Option<(&'a LocalAddress, &'a InterfaceName, &'a InterfaceName)> {
        let facts: &'a Facts = self.facts;
        let external = self.forward.external?;
        let local = facts.addresses.iter().find(|local| local.address == external && local.prefix_len < 32)?;
        let holder = local.interface.as_ref()?;
        let leaves = self.hop_to_upstream()?.interface?;
        (holder != leaves).then_some((local, holder, leaves))
    }

    /// Carriers often drop packets with a source address of another line. If the object names the interface, this is an
    /// obstacle of its own.
    pub(super) fn source_of_another_link(&self) -> Option<Note> {
        let (local, holder, leaves) = self.apart().filter(|_| self.forward.external_interface.is_none())?;
        let (upstream, address) = (self.forward.upstream, local.address);
        Some(Note(format!(
            "ExternalOnOtherLink: packets to the upstream {upstream} leave by {leaves}, but their source {address} belongs to {holder}; where the network behind {leaves} drops such sources, route the upstream by {holder}, or write an external address of {leaves}"
        )))
    }
}
