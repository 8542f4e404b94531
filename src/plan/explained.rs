//! Compares what the kernel holds with what a set of forwards asks for. Decides whether the set can be older than the kernel.

use super::index::FlowIndex;
use crate::forward::Forward;
use crate::model::Translation;

/// The translations `held` by the kernel that none of `forwards` asks for. The new source and the interface are ignored.
#[must_use]
pub fn unexplained<'a>(held: &'a [Translation], forwards: &[Forward]) -> Vec<&'a Translation> {
    let mut asked = FlowIndex::default();
    for translation in forwards.iter().flat_map(Forward::translations) {
        let flows = translation.flows.clone();
        asked.insert(&flows, translation);
    }
    let explains = |asked: &Translation, held: &Translation| {
        let (all, part) = (asked.flows.ports, held.flows.ports);
        asked.flows.source == held.flows.source
            && (all.first() <= part.first() && part.last() <= all.last())
            && asked.part(part).destination == held.destination
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
        assert!(!explained(&forward("1.1.1.7", &json!({"port": 80, "endPort": 90}), "3.3.3.3")), "another client");
        assert!(!explained(&forward("1.1.1.0/24", &json!({"port": 80, "endPort": 90}), "3.3.3.4")), "another upstream");
        let shifted = json!({"port": 80, "endPort": 90, "targetPort": 180, "targetEndPort": 190});
        assert!(!explained(&forward("1.1.1.0/24", &shifted, "3.3.3.3")), "other target ports");
        assert!(unexplained(&[], &[]).is_empty());
        assert!(!unexplained(&recorded.translations(), &[]).is_empty());
    }
}
