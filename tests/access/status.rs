//! Tests the status of forwards: an agent changes the entry of its own node and the summary, and removes the entries of other
//! nodes.

use serde_json::{Value, json};

use crate::plane::Resource;
use crate::plane::http::Request;
use crate::{Agent, LINES, NODE, OTHER, add_forward, forward, plane};

/// The path of a status, for a request with this field manager.
pub(crate) fn path(name: &str, manager: &str) -> String {
    format!("{}/status?fieldManager={manager}", Resource::Forwards.path(Some(LINES), Some(name)))
}

/// The field manager of the entry of a node.
pub(crate) fn manager(node: &str) -> String {
    format!("portforward-node-{node}")
}

/// The field manager of the summary.
pub(crate) const SUMMARY: &str = "portforward-summary";

/// An entry as an agent writes it.
pub(crate) fn entry(node: &str, role: &str) -> Value {
    let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": role, "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
    json!({"nodeName": node, "role": role, "observedGeneration": 1, "conditions": [ready]})
}

/// A forced server-side apply of some status, as every write of an agent. Null removes what the field manager owns.
pub(crate) fn apply(name: &str, manager: &str, status: &Value) -> Request {
    let mut body = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": name, "namespace": LINES},
    });
    if !status.is_null() {
        body["status"] = status.clone();
    }
    Request::apply(format!("{}&force=true", path(name, manager)), body)
}

/// One entry, with its own field manager.
pub(crate) fn apply_entry(name: &str, entry: &Value) -> Request {
    apply(name, &manager(entry["nodeName"].as_str().unwrap()), &json!({"nodes": [entry]}))
}

/// The removal of the entry of a node.
pub(crate) fn remove(name: &str, node: &str) -> Request {
    apply(name, &manager(node), &Value::Null)
}

/// The entries, as `node role`.
pub(crate) fn entries(name: &str) -> Vec<String> {
    let forward = forward(plane(), name);
    let text = |entry: &Value| format!("{} {}", entry["nodeName"].as_str().unwrap(), entry["role"].as_str().unwrap());
    let mut entries: Vec<String> = forward["status"]["nodes"].as_array().into_iter().flatten().map(text).collect();
    entries.sort();
    entries
}

#[test]
fn the_entry_of_its_own_node_is_an_agents_to_add_to_change_and_to_take_out() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "own");
    agent.does(&apply_entry("own", &entry(NODE, "Active")));
    other.does(&apply_entry("own", &entry(OTHER, "Active")));
    agent.does(&apply_entry("own", &entry(NODE, "Standby")));
    assert_eq!(entries("own"), ["node-a Standby", "node-b Active"]);
    agent.does(&remove("own", NODE));
    assert_eq!(entries("own"), ["node-b Active"]);
}

#[test]
fn an_entry_of_another_node_is_neither_added_nor_changed_by_whatever_way() {
    let agent = Agent::of(plane(), NODE);
    add_forward(plane(), "other");
    let not = "the agent of node node-a may change its own entry of status.nodes and remove the entries of others, but not write the entry of node-b";
    agent.does(&apply_entry("other", &entry(NODE, "Standby")));
    agent.refused(&apply_entry("other", &entry(OTHER, "Active")), "as the field manager \"portforward-node-node-b\"");
    agent.refused(&apply("other", &manager(NODE), &json!({"nodes": [entry(NODE, "Standby"), entry(OTHER, "Active")]})), not);
    Agent::of(plane(), OTHER).does(&apply_entry("other", &entry(OTHER, "Active")));
    let before = forward(plane(), "other");

    let forged = entry(OTHER, "Standby");
    let mut altered = entry(OTHER, "Active");
    altered["conditions"][0]["message"] = "forged".into();
    let mut older = entry(OTHER, "Active");
    older["observedGeneration"] = 0.into();
    let mut timeless = entry(OTHER, "Active");
    timeless["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:01Z".into();
    let mut bare = entry(OTHER, "Active");
    bare.as_object_mut().unwrap().remove("conditions");
    for wrong in [forged, altered, older, timeless, bare] {
        // With its own field manager, with that of the other agent, or as a replacement of the whole list.
        let both = json!({"nodes": [entry(NODE, "Active"), wrong]});
        agent.refused(&Request::merge(path("other", &manager(NODE)), json!({"status": both})), not);
        if wrong["conditions"].is_array() {
            agent.refused(&apply("other", &manager(NODE), &both), not);
        }
        agent.refused(&apply("other", &manager(OTHER), &json!({"nodes": [wrong]})), not);
        // An entry without conditions changes nothing under this manager, but it would own the rest.
        let said = if wrong["conditions"].is_array() { not } else { "may not own these fields of status" };
        agent.refused(&apply("other", SUMMARY, &json!({"nodes": [wrong]})), said);
    }
    agent.refused(&apply("other", "portforward-node-node-c", &json!({"nodes": [entry("node-c", "Active")]})), "node-c\"");
    let operations = json!([{"op": "replace", "path": "/status/nodes/1/role", "value": "Standby"}]);
    agent.refused(&Request::json_patch(path("other", &manager(NODE)), operations), not);
    // The agent renames its own entry, so that an entry of the other node exists twice or has another name.
    let operations = json!([{"op": "replace", "path": "/status/nodes/0/nodeName", "value": "node-c"}]);
    agent.refused(&Request::json_patch(path("other", &manager(NODE)), operations), "but not write the entry of node-c");
    let twice = json!([{"op": "add", "path": "/status/nodes/-", "value": entry(OTHER, "Active")}]);
    let answer = agent.send(&Request::json_patch(path("other", &manager(NODE)), twice));
    assert_eq!(answer.status, 422, "the schema takes no entry twice: {answer:?}");
    agent.unentitled(&Request::put(path("other", &manager(NODE)), before.clone()));
    let whole = Request::merge(path("other", &manager(NODE)), json!({}));
    let strategic = Request { body: Some(("application/strategic-merge-patch+json", json!({}))), ..whole };
    assert_eq!(agent.send(&strategic).status, 415, "there is no such patch of a custom resource");
    assert_eq!(forward(plane(), "other"), before);
}

#[test]
fn an_entry_that_two_own_would_stay_so_an_agent_cannot_own_that_of_another() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "owned");
    other.does(&apply_entry("owned", &entry(OTHER, "Active")));
    agent.does(&apply_entry("owned", &entry(NODE, "Standby")));
    let both = json!({"nodes": [entry(NODE, "Standby"), entry(OTHER, "Active")]});
    agent.refused(&apply("owned", &manager(NODE), &both), "may not own these fields of status");
    agent.refused(&apply("owned", &manager(OTHER), &both), "may not own these fields of status");
    agent.refused(
        &apply("owned", &manager(OTHER), &json!({"nodes": [entry(OTHER, "Active")]})),
        "may not own these fields of status",
    );
    agent.refused(&apply("owned", SUMMARY, &both), "may not own these fields of status");
    other.does(&remove("owned", OTHER));
    assert_eq!(entries("owned"), ["node-a Standby"]);
}

#[test]
fn the_entries_of_the_dead_are_taken_out_by_any_agent() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "dead");
    agent.does(&apply_entry("dead", &entry(NODE, "Active")));
    other.does(&apply_entry("dead", &entry(OTHER, "Standby")));
    agent.does(&remove("dead", OTHER));
    assert_eq!(entries("dead"), ["node-a Active"]);
    // A live agent writes the entry again.
    other.does(&apply_entry("dead", &entry(OTHER, "Standby")));
    assert_eq!(entries("dead"), ["node-a Active", "node-b Standby"]);
    // With the field manager of one entry, no other entry is removed.
    let none = json!({"status": {"nodes": []}});
    let several = "may not change or remove the entry of another node, or several entries";
    for manager in [manager(NODE), manager(OTHER), SUMMARY.to_owned()] {
        agent.refused(&Request::merge(path("dead", &manager), none.clone()), several);
    }
}

#[test]
fn a_write_of_status_reaches_neither_the_spec_nor_the_metadata() {
    let agent = Agent::of(plane(), NODE);
    add_forward(plane(), "beyond");
    agent.does(&apply_entry("beyond", &entry(NODE, "Active")));
    let before = forward(plane(), "beyond");
    let owners = |object: &Value| object["metadata"]["managedFields"].as_array().unwrap().clone();
    let spec_owner = |object: &Value| owners(object).into_iter().filter(|each| each["subresource"].is_null()).collect::<Vec<_>>();
    assert_eq!(spec_owner(&before).len(), 1);

    let metadata = json!({
        "labels": {"line": "b", "more": "x"}, "annotations": {"more": "x"}, "finalizers": ["example.com/x"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "1"}],
        "managedFields": [], "deletionTimestamp": "2026-01-01T00:00:00Z", "generation": 9, "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    for (role, metadata) in [("Standby", metadata.clone()), ("Active", json!({}))] {
        let status = json!({"nodes": [entry(NODE, role)]});
        let mut request = apply("beyond", &manager(NODE), &status);
        let body = &mut request.body.as_mut().unwrap().1;
        body["spec"] = json!({"mode": "Disabled"});
        for (field, value) in metadata.as_object().unwrap().iter().filter(|(field, _)| *field != "managedFields") {
            body["metadata"][field] = value.clone();
        }
        agent.does(&request);
        assert_eq!(entries("beyond"), [format!("node-a {role}")]);
        let after = forward(plane(), "beyond");
        assert_eq!((&after["spec"], spec_owner(&after)), (&before["spec"], spec_owner(&before)));
        for field in
            ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "generation", "creationTimestamp"]
        {
            assert_eq!(after["metadata"][field], before["metadata"][field], "{field}");
        }
    }
    // A patch of another kind changes no value of the status, and so nothing at all.
    let managed = forward(plane(), "beyond")["metadata"]["managedFields"].clone();
    for metadata in [metadata, json!({"managedFields": [{}]})] {
        agent.does(&Request::merge(path("beyond", &manager(NODE)), json!({"metadata": metadata, "spec": {"mode": "Disabled"}})));
        let after = forward(plane(), "beyond");
        assert_eq!((&after["spec"], &after["metadata"]["managedFields"]), (&before["spec"], &managed));
        assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    }
    for operations in [
        json!([{"op": "remove", "path": "/metadata/managedFields"}]),
        json!([{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "x"}]),
        json!([{"op": "add", "path": "/metadata/labels/more", "value": "x"}, {"op": "remove", "path": "/spec/reverse"}]),
    ] {
        agent.does(&Request::json_patch(path("beyond", &manager(NODE)), operations.clone()));
        let after = forward(plane(), "beyond");
        assert_eq!((&after["spec"], spec_owner(&after)), (&before["spec"], spec_owner(&before)), "{operations}");
        assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"], "{operations}");
    }
    let mut with_owners = apply_entry("beyond", &entry(NODE, "Active"));
    with_owners.body.as_mut().unwrap().1["metadata"]["managedFields"] = json!(spec_owner(&before));
    assert_eq!(agent.send(&with_owners).status, 400, "an apply names no owners");
    let mut with_spec = apply_entry("beyond", &entry(NODE, "Active"));
    with_spec.body.as_mut().unwrap().1["spec"] = before["spec"].clone();
    agent.does(&with_spec);
    assert_eq!(spec_owner(&forward(plane(), "beyond")), spec_owner(&before), "nor owns what it cannot write");

    let whole = Resource::Forwards.path(Some(LINES), Some("beyond"));
    agent.unentitled(&Request::merge(&*whole, json!({"spec": {"mode": "Disabled"}})));
    agent.unentitled(&Request::put(&*whole, before));
    agent.unentitled(&Request::get(&*whole));
    agent.unentitled(&Request::delete(whole));
}

/// With the longest list that the schema allows and the longest entries, the cost stays far below the limit of an expression.
#[test]
fn the_policy_can_be_computed_for_the_largest_status() {
    let agent = Agent::of(plane(), NODE);
    add_forward(plane(), "large");
    let large = |node: &str, message: &str| {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R".repeat(64), "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
        let conditions: Vec<Value> = ["Accepted", "Programmed", "Ready", "Stalled"].into_iter().map(condition).collect();
        json!({"nodeName": node, "role": "Standby", "observedGeneration": 1, "conditions": conditions})
    };
    // About 0.5 MB; the store accepts 1.5 MB. The node names are long, and the texts differ only at their end.
    let text = "\u{1f310}".repeat(1024);
    let nodes: Vec<String> = (0..31).map(|number| format!("{}-{number:02}", "node.".repeat(49) + "x")).collect();
    let others: Vec<Value> = nodes.iter().map(|node| large(node, &text)).collect();
    plane().must(&Request::merge(path("large", "test"), json!({"status": {"nodes": others}})));
    // As if each node owned its own entry.
    for node in &nodes[..20] {
        plane().must(&apply("large", &node[node.len() - 2..], &json!({"nodes": [large(node, &text)]})));
    }
    agent.does(&apply_entry("large", &large(NODE, &text)));
    assert_eq!(entries("large").len(), 32);
    let forged = large(&nodes[30], &text.replacen('\u{1f310}', "y", 1));
    let as_another = apply("large", "portforward-node-0123456789abcdef", &json!({"nodes": [forged]}));
    agent.refused(&as_another, &format!("but not write the entry of {}", nodes[30]));
    agent.does(&apply("large", SUMMARY, &json!({"conditions": large("", &text)["conditions"].as_array().unwrap()[..2]})));
}
