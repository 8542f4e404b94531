//! Writes a status by server-side apply, and removes what another field manager owns in it.
//!
//! Server-side apply removes only what its own field manager owns, also with force. Another client, for example one with a stolen
//! token and without an admission policy, can therefore add a condition that stays beside those of the agents.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use tracing::warn;

use crate::api::{PortForward, PortForwardStatus};
use crate::status::Write;

/// Applies the `body` of `write` to the status of an object, with force, and removes the leftovers. `before` is the object that
/// the write was computed from. Returns the object after the last write.
///
/// # Errors
/// When the API server refuses a write or does not answer.
pub(super) async fn apply(
    api: &Api<PortForward>,
    before: (&ObjectMeta, &PortForwardStatus),
    (manager, write): (&str, &Write),
    body: &Value,
) -> Result<PortForward, kube::Error> {
    let (metadata, status) = before;
    let name = metadata.name.as_deref().unwrap_or_default();
    let answer = api.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(body)).await;
    let operations = match &answer {
        Ok(object) => leftovers(&object.metadata, object.status.as_ref().unwrap_or(&PortForwardStatus::default()), write),
        // The result is invalid. This is the case if other conditions make the list too long.
        Err(kube::Error::Api(refusal)) if refusal.code == 422 => leftovers(metadata, status, write),
        Err(_) => None,
    };
    let Some(operations) = operations else { return answer };
    let Ok(operations) = serde_json::from_value(operations) else { return answer };
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    warn!(
        forward = format!("{namespace}/{name}"),
        "another field manager owns a part of the status that it may not write; removing it. kubectl get --show-managed-fields shows which one"
    );
    let manager = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    api.patch_status(name, &manager, &Patch::Json::<()>(operations)).await
}

/// The operations that remove from `stored` what `write` leaves out; `None` if there is nothing to remove. The patch fails if the
/// object with this metadata has changed.
fn leftovers(metadata: &ObjectMeta, stored: &PortForwardStatus, write: &Write) -> Option<Value> {
    let place = |node: &str| stored.nodes.iter().position(|entry| entry.node_name == node);
    let paths: Vec<String> = match write {
        Write::Summary(wanted) => {
            let surplus = surplus(&stored.conditions, &wanted.conditions).map(|index| format!("/status/conditions/{index}"));
            let fields = [
                ("activeNode", &stored.active_node, &wanted.active_node),
                ("ports", &stored.ports, &wanted.ports),
                ("reverse", &stored.reverse, &wanted.reverse),
            ];
            let fields = fields.into_iter().filter(|(_, stored, wanted)| stored.is_some() && wanted.is_none());
            surplus.chain(fields.map(|(field, ..)| format!("/status/{field}"))).collect()
        }
        Write::Entry(wanted) => {
            let place = place(&wanted.node_name)?;
            let surplus = surplus(&stored.nodes[place].conditions, &wanted.conditions);
            surplus.map(|index| format!("/status/nodes/{place}/conditions/{index}")).collect()
        }
        Write::Withdraw(node) => place(node).map(|place| format!("/status/nodes/{place}")).into_iter().collect(),
    };
    if paths.is_empty() {
        return None;
    }
    let version = json!({"op": "replace", "path": "/metadata/resourceVersion", "value": metadata.resource_version});
    let removals = paths.into_iter().map(|path| json!({"op": "remove", "path": path}));
    Some(std::iter::once(version).chain(removals).collect())
}

/// The places of the conditions of other types, the last one first, so that a removal moves none of the others.
fn surplus<'a>(stored: &'a [Condition], wanted: &'a [Condition]) -> impl Iterator<Item = usize> + 'a {
    let is_wanted = |condition: &Condition| wanted.iter().any(|each| each.type_ == condition.type_);
    (0..stored.len()).rev().filter(move |index| !is_wanted(&stored[*index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(types: &[&str]) -> Value {
        let condition = |kind: &&str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        types.iter().map(condition).collect()
    }

    fn status(value: Value) -> PortForwardStatus {
        serde_json::from_value(value).unwrap()
    }

    /// The paths that are removed.
    fn removed(stored: &PortForwardStatus, write: &Write) -> Vec<String> {
        let metadata = ObjectMeta { resource_version: Some("7".to_owned()), ..ObjectMeta::default() };
        let Some(operations) = leftovers(&metadata, stored, write) else { return Vec::new() };
        let operations = operations.as_array().unwrap().clone();
        assert_eq!(operations[0], json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}));
        operations[1..].iter().map(|each| each["path"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn exactly_what_the_write_leaves_out_is_removed() {
        let entry = |node: &str, types: &[&str]| json!({"nodeName": node, "role": "Active", "conditions": conditions(types)});
        let stored = status(json!({
            "conditions": conditions(&["X0", "Ready", "Stalled", "Accepted"]), "activeNode": "b", "ports": "TCP 1", "reverse": "TCP 2",
            "nodes": [entry("a", &["Ready"]), entry("b", &["Stalled", "Ready"])],
        }));
        let wanted = status(json!({"conditions": conditions(&["Ready", "Accepted"]), "ports": "TCP 3"}));
        assert_eq!(
            removed(&stored, &Write::Summary(wanted)),
            ["/status/conditions/2", "/status/conditions/0", "/status/activeNode", "/status/reverse"]
        );
        let own = status(json!({"nodes": [entry("b", &["Ready"])]})).nodes.remove(0);
        assert_eq!(removed(&stored, &Write::Entry(own)), ["/status/nodes/1/conditions/0"]);
        assert_eq!(removed(&stored, &Write::Withdraw("a".to_owned())), ["/status/nodes/0"]);
        assert_eq!(removed(&stored, &Write::Withdraw("c".to_owned())), Vec::<String>::new());
        assert_eq!(removed(&stored, &Write::Summary(stored.clone())), Vec::<String>::new());
    }
}
