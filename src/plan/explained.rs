//! Compares what the kernel holds with what a set of forwards asks for. Decides whether the set can be older than the kernel.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::index::FlowIndex;
use crate::forward::Forward;
use crate::model::{FlowMatch, Translation};

/// The number of addresses in a network.
fn addresses(network: &IpNet) -> u128 {
    1_u128.checked_shl(u32::from(network.max_prefix_len() - network.prefix_len())).unwrap_or(u128::MAX)
}

/// The translations `held` by the kernel that none of `forwards` asks for. The new source and the interface are ignored. A backend may
/// hold a network or a range of ports in parts.
#[must_use]
pub fn unexplained<'a>(held: &'a [Translation], forwards: &[Forward]) -> Vec<&'a Translation> {
    let mut asked = FlowIndex::default();
    for translation in forwards.iter().flat_map(Forward::translations) {
        let flows = translation.flows.clone();
        asked.insert(&flows, translation);
    }
    // A backend may hold a network in parts. If one of them is missing, the kernel may have a newer, smaller network.
    let mut parts = BTreeMap::new();
    for translation in held {
        let FlowMatch { protocol, destination, ports, source, interface } = &translation.flows;
        let (flows, network) = ((*protocol, *destination, *ports, interface), (translation.destination, source));
        parts.entry(flows).or_insert_with(Vec::new).push(network);
    }
    let are_all_held = |asked: &Translation, held: &Translation| {
        let FlowMatch { protocol, destination, ports, interface, .. } = &held.flows;
        let all = parts.get(&(*protocol, *destination, *ports, interface)).map_or(&[][..], Vec::as_slice);
        let own = all.iter().filter(|(to, part)| *to == held.destination && asked.flows.source.contains(*part));
        own.map(|(_, part)| addresses(part)).sum::<u128>() == addresses(&asked.flows.source)
    };
    let explains = |asked: &Translation, held: &Translation| {
        let (all, part) = (asked.flows.ports, held.flows.ports);
        let source = asked.flows.source == held.flows.source
            || asked.flows.source.contains(&held.flows.source) && are_all_held(asked, held);
        source && (all.first() <= part.first() && part.last() <= all.last()) && asked.part(part).destination == held.destination
    };
    held.iter().filter(|held| asked.find(&held.flows, |asked| explains(asked, held)).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn forward(client: &str, ports: &Value, target: &str) -> Forward {
        let object = json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "a", "namespace": "b"},
            "spec": {
                "client": {"addresses": [client]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": target}]}, "ports": [ports],
            },
        });
        Forward::parse(&crate::api::decode(object).unwrap()).unwrap()
    }

    #[test]
    fn what_a_forward_asks_for_is_explained_also_in_part_and_nothing_else_is() {
        let recorded = forward("1.1.1.0/24", &json!({"port": 80, "endPort": 90}), "3.3.3.3");
        let explained = |held: &Forward| unexplained(&held.translations(), std::slice::from_ref(&recorded)).is_empty();
        assert!(explained(&recorded));
        assert!(explained(&forward("1.1.1.0/24", &json!({"port": 82, "endPort": 84}), "3.3.3.3")), "a port in it is reserved");
        assert!(!explained(&forward("1.1.1.0/24", &json!({"port": 80, "endPort": 91}), "3.3.3.3")), "another port");
        assert!(!explained(&forward("1.1.1.0/24", &json!({"port": 79, "endPort": 90}), "3.3.3.3")), "another port below");
        let half = |network: &str| forward(network, &json!({"port": 80, "endPort": 90}), "3.3.3.3");
        assert!(!explained(&half("1.1.1.128/25")), "a smaller network");
        let both: Vec<Translation> =
            ["1.1.1.0/25", "1.1.1.128/25"].into_iter().flat_map(|network| half(network).translations()).collect();
        assert!(unexplained(&both, std::slice::from_ref(&recorded)).is_empty(), "the network in parts");
        assert!(!explained(&forward("1.1.2.7", &json!({"port": 80, "endPort": 90}), "3.3.3.3")), "another client");
        assert!(!explained(&forward("1.1.0.0/23", &json!({"port": 80, "endPort": 90}), "3.3.3.3")), "a larger network");
        assert!(!explained(&forward("1.1.1.0/24", &json!({"port": 80, "endPort": 90}), "3.3.3.4")), "another upstream");
        let shifted = json!({"port": 80, "endPort": 90, "targetPort": 180, "targetEndPort": 190});
        assert!(!explained(&forward("1.1.1.0/24", &shifted, "3.3.3.3")), "other target ports");
        assert!(unexplained(&[], &[]).is_empty());
        assert!(!unexplained(&recorded.translations(), &[]).is_empty());
    }
}
