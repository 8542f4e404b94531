//! `filter FORWARD`: accepts the flows that the operator's DNAT translated, in both directions, by their conntrack entry.
//!
//! Never uses `-p`: it would drop the ICMP errors of these flows, and path MTU discovery would fail.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::runs::merged;
use super::stage::host;
use crate::dataplane::iptables::rule::{Matches, Original, Rule, Target};
use crate::model::{PortRange, Protocol, Translation};

/// The final rules of FORWARD: one per range of ports on which a listen address is served.
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
