//! Builds the names of field managers and the bodies of server-side apply.

use kube::Resource;
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{NodeStatus, PortForward, PortForwardStatus};

/// The field manager of the summary. All agents share it, so the next writer takes over without a conflict.
pub(super) const SUMMARY_MANAGER: &str = "portforward-summary";

/// `prefix` and a hash of `node`. The name of a node can be longer than the 128 characters that a field manager may have.
pub(super) fn hashed(prefix: &str, node: &str) -> String {
    let hash: String = Sha256::digest(node).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}-{hash}")
}

/// The field manager of the entry of `node` in `status.nodes`.
pub(super) fn entry_manager(node: &str) -> String {
    hashed("portforward-node", node)
}

/// The identity of the object. With the `uid`, a write to another object of the same name fails.
fn identity(metadata: &ObjectMeta) -> Value {
    json!({"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid})
}

#[allow(clippy::needless_pass_by_value, reason = "json! takes it over")]
fn body(metadata: Value, status: Value) -> Value {
    json!({"apiVersion": PortForward::api_version(&()), "kind": PortForward::kind(&()), "metadata": metadata, "status": status})
}

/// The body with one node's entry. `None` removes the entry, under the same field manager.
pub(super) fn entry(metadata: &ObjectMeta, entry: Option<&NodeStatus>) -> Value {
    let status = entry.map_or_else(|| json!({}), |entry| json!({"nodes": [entry]}));
    body(identity(metadata), status)
}

/// The body with the summary. The `resourceVersion` makes the write fail if the object has changed since the summary was
/// computed.
pub(super) fn summary(metadata: &ObjectMeta, status: &PortForwardStatus) -> Value {
    let mut identity = identity(metadata);
    identity["resourceVersion"] = json!(metadata.resource_version);
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
    body(identity, fields)
}
