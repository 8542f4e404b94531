//! `filter FORWARD`: what our own DNAT translated may pass, in both directions, by what conntrack remembers of it.
//!
//! Never `-p`: it would drop the ICMP errors of these flows, and with them path MTU discovery.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::runs::merged;
use super::stage::host;
use crate::dataplane::iptables::rule::{Matches, Original, Rule, Target};
use crate::model::{PortRange, Protocol, Translation};

/// The verdicts of FORWARD: one per run of ports on which a listen address is served.
pub(super) fn rules<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> Vec<Rule> {
    let mut served = BTreeMap::<(Protocol, IpAddr), Vec<PortRange>>::new();
    for Translation { flows, .. } in translations {
        served.entry((flows.protocol, flows.destination)).or_default().push(flows.ports);
    }
    served
        .into_iter()
        .flat_map(|((protocol, address), ports)| merged(ports).into_iter().map(move |ports| rule(protocol, address, ports)))
        .collect()
}

fn rule(protocol: Protocol, address: IpAddr, ports: PortRange) -> Rule {
    let original = Original { protocol, destination: Some(host(address)), ports: Some(ports) };
    Rule { matches: Matches { original: Some(original), ..Matches::default() }, target: Target::Accept }
}
