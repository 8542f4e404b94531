//! Builds the names of field managers and the bodies of server-side apply.

use kube::Resource;
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{NodeStatus, PortForward, PortForwardStatus};

/// The field manager of the summary. All agents share it, so the next writer takes over without a conflict.
pub(super) const SUMMARY_MANAGER: &str = "portforward-summary";

/// The longest name of a node that is a part of a field manager, which may have 128 characters.
const NODE_CHARS: usize = 100;

/// The field manager of the entry of `node` in `status.nodes`: the name of the node, so that the admission policy can compare it
/// with the node in the token. CEL cannot compute the hash that stands for a long name.
pub(super) fn entry_manager(node: &str) -> String {
    if node.len() <= NODE_CHARS {
        return format!("portforward-node-{node}");
    }
    let hash: String = Sha256::digest(node).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("portforward-node-{hash}")
}

/// The identity of the object. With the `uid`, a write to another object of the same name fails.
fn identity(metadata: &ObjectMeta) -> Value {
    json!({"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid})
}

fn identity_and_version(metadata: &ObjectMeta) -> Value {
    let mut identity = identity(metadata);
    identity["resourceVersion"] = json!(metadata.resource_version);
    identity
}

fn body(metadata: &Value) -> Value {
    json!({"apiVersion": PortForward::api_version(&()), "kind": PortForward::kind(&()), "metadata": metadata})
}

/// The body with one node's entry. `None` removes the entry, under the same field manager, which then owns nothing any more.
/// Two agents may remove the same entry, so the second removal fails if the object has changed.
pub(super) fn entry(metadata: &ObjectMeta, entry: Option<&NodeStatus>) -> Value {
    match entry {
        Some(entry) => {
            let mut body = body(&identity(metadata));
            body["status"] = json!({"nodes": [entry]});
            body
        }
        None => body(&identity_and_version(metadata)),
    }
}

/// The body with the summary. The `resourceVersion` makes the write fail if the object has changed since the summary was
/// computed.
pub(super) fn summary(metadata: &ObjectMeta, status: &PortForwardStatus) -> Value {
    let mut fields = json!({"conditions": status.conditions});
    if let Some(generation) = status.observed_generation {
        fields["observedGeneration"] = json!(generation);
    }
    for (name, shown) in [("ports", &status.ports), ("reverse", &status.reverse)] {
        if let Some(text) = shown {
            fields[name] = json!(text);
        }
    }
    if let Some(node) = &status.active_node {
        fields["activeNode"] = json!(node);
    }
    let mut body = body(&identity_and_version(metadata));
    body["status"] = fields;
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_of_an_entry_names_its_node_if_the_name_is_not_too_long() {
        assert_eq!(entry_manager("px0"), "portforward-node-px0");
        assert_eq!(entry_manager(&"n".repeat(100)).len(), 117);
        let long = entry_manager(&"n".repeat(253));
        assert_eq!((long.len(), long.starts_with("portforward-node-")), (33, true));
    }
}
