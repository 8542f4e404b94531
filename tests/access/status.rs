//! Tests the status of forwards: an agent changes the entry of its own node and the summary, and removes the entries of other
//! nodes.

use serde_json::{Value, json};

use crate::plane::Resource;
use crate::plane::http::Request;
use crate::{Agent, LINES, NODE, OTHER, add_forward, forward, plane};

fn path(name: &str) -> String {
    format!("{}/status", Resource::Forwards.path(Some(LINES), Some(name)))
}

/// An entry as an agent writes it.
fn entry(node: &str, role: &str) -> Value {
    let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": role, "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
    json!({"nodeName": node, "role": role, "observedGeneration": 1, "conditions": [ready]})
}

/// A forced server-side apply of some status, as every write of an agent.
fn apply(name: &str, manager: &str, status: &Value) -> Request {
    let body = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
        "metadata": {"name": name, "namespace": LINES}, "status": status,
    });
    Request::apply(format!("{}?fieldManager={manager}&force=true", path(name)), body)
}

/// One entry, with its own field manager.
fn apply_entry(name: &str, entry: &Value) -> Request {
    apply(name, entry["nodeName"].as_str().unwrap(), &json!({"nodes": [entry]}))
}

/// The entries, as `node role`.
fn entries(name: &str) -> Vec<String> {
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
    agent.does(&apply("own", NODE, &json!({})));
    assert_eq!(entries("own"), ["node-b Active"]);
}

#[test]
fn an_entry_of_another_node_is_neither_added_nor_changed_by_whatever_way() {
    let agent = Agent::of(plane(), NODE);
    add_forward(plane(), "other");
    let not = "the agent of node node-a may change its own entry of status.nodes and remove the entries of others, but not write the entry of node-b";
    agent.does(&apply_entry("other", &entry(NODE, "Standby")));
    agent.refused(&apply_entry("other", &entry(OTHER, "Active")), not);
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
        agent.refused(&Request::merge(path("other"), json!({"status": both})), not);
        if wrong["conditions"].is_array() {
            agent.refused(&apply("other", NODE, &both), not);
        }
        agent.refused(&apply("other", OTHER, &json!({"nodes": [wrong]})), not);
    }
    let operations = json!([{"op": "replace", "path": "/status/nodes/1/role", "value": "Standby"}]);
    agent.refused(&Request::json_patch(path("other"), operations), not);
    // The agent renames its own entry, so that an entry of the other node exists twice or has another name.
    let operations = json!([{"op": "replace", "path": "/status/nodes/0/nodeName", "value": "node-c"}]);
    agent.refused(&Request::json_patch(path("other"), operations), "but not write the entry of node-c");
    let twice = json!([{"op": "add", "path": "/status/nodes/-", "value": entry(OTHER, "Active")}]);
    let answer = agent.send(&Request::json_patch(path("other"), twice));
    assert_eq!(answer.status, 422, "the schema takes no entry twice: {answer:?}");
    agent.unentitled(&Request::put(path("other"), before.clone()));
    let strategic =
        Request { body: Some(("application/strategic-merge-patch+json", json!({}))), ..Request::merge(path("other"), json!({})) };
    assert_eq!(agent.send(&strategic).status, 415, "there is no such patch of a custom resource");
    assert_eq!(forward(plane(), "other"), before);
}

#[test]
fn an_entry_that_two_own_would_stay_so_an_agent_cannot_own_that_of_another() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "owned");
    other.does(&apply_entry("owned", &entry(OTHER, "Active")));
    let not = "the agent of node node-a may not own the entry of another node in status.nodes";
    for manager in [NODE, OTHER, "any", "portforward-summary"] {
        let both = json!({"nodes": [entry(NODE, "Standby"), entry(OTHER, "Active")]});
        agent.refused(&apply("owned", manager, &both), not);
    }
    agent.refused(&apply("owned", "any", &json!({"nodes": [entry(OTHER, "Active")]})), not);
    other.does(&apply("owned", OTHER, &json!({})));
    assert_eq!(entries("owned"), Vec::<String>::new());
}

#[test]
fn the_entries_of_the_dead_are_taken_out_by_any_agent() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "dead");
    agent.does(&apply_entry("dead", &entry(NODE, "Active")));
    other.does(&apply_entry("dead", &entry(OTHER, "Standby")));
    agent.does(&apply("dead", OTHER, &json!({})));
    assert_eq!(entries("dead"), ["node-a Active"]);
    // A live agent writes the entry again.
    other.does(&apply_entry("dead", &entry(OTHER, "Standby")));
    assert_eq!(entries("dead"), ["node-a Active", "node-b Standby"]);
}

/// A change of its own entry that an agent can still make, and how an administrator reverts it.
#[test]
fn an_entry_that_its_agent_owns_twice_is_taken_out_by_an_administrator() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "twice");
    agent.does(&apply_entry("twice", &entry(NODE, "Active")));
    agent.does(&apply("twice", "any", &json!({"nodes": [entry(NODE, "Active")]})));
    other.does(&apply("twice", NODE, &json!({})));
    assert_eq!(entries("twice"), ["node-a Active"]);
    let patch = ["--subresource", "status", "--type", "merge", "--patch", r#"{"status": {"nodes": []}}"#];
    let patched = plane().kubectl(["patch", "portforward", "twice", "--namespace", LINES].iter().chain(&patch));
    assert!(patched.status.success(), "{patched:?}");
    assert_eq!(entries("twice"), Vec::<String>::new());
    other.does(&apply_entry("twice", &entry(OTHER, "Active")));
    assert_eq!(entries("twice"), ["node-b Active"]);
}

#[test]
fn the_summary_is_written_by_any_agent() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "summary");
    other.does(&apply_entry("summary", &entry(OTHER, "Active")));
    let summary = |reason: &str| {
        let mut ready = entry(OTHER, "Active")["conditions"][0].clone();
        ready["reason"] = reason.into();
        apply("summary", "portforward-summary", &json!({"conditions": [ready], "activeNode": OTHER, "observedGeneration": 1}))
    };
    agent.does(&summary("Ready"));
    let written = other.does(&summary("Standby"));
    let told = written["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .any(|one| one["type"] == "Ready" && one["reason"] == "Standby");
    assert!(told && written["status"]["activeNode"] == OTHER, "{written:#}");
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
    for (role, metadata) in [("Standby", metadata), ("Active", json!({"managedFields": [{}]}))] {
        let status = json!({"nodes": [entry(NODE, role)]});
        agent
            .does(&Request::merge(path("beyond"), json!({"metadata": metadata, "spec": {"mode": "Disabled"}, "status": status})));
        assert_eq!(entries("beyond"), [format!("node-a {role}")]);
        let after = forward(plane(), "beyond");
        assert_eq!((&after["spec"], spec_owner(&after)), (&before["spec"], spec_owner(&before)));
        for field in
            ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "generation", "creationTimestamp"]
        {
            assert_eq!(after["metadata"][field], before["metadata"][field], "{field}");
        }
    }
    for operations in [
        json!([{"op": "remove", "path": "/metadata/managedFields"}]),
        json!([{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "x"}]),
        json!([{"op": "add", "path": "/metadata/labels/more", "value": "x"}, {"op": "remove", "path": "/spec/reverse"}]),
    ] {
        agent.does(&Request::json_patch(path("beyond"), operations.clone()));
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
        let condition = |number: usize| json!({"type": format!("Type{number}"), "status": "True", "reason": "Ready", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
        json!({"nodeName": node, "role": "Standby", "observedGeneration": 1, "conditions": (0..8).map(condition).collect::<Vec<_>>()})
    };
    // About 1 MB; the store accepts 1.5 MB. The node names are long, and the texts differ only at their end.
    let text = "x".repeat(3800);
    let nodes: Vec<String> = (0..31).map(|number| format!("{}-{number:02}", "node.".repeat(49) + "x")).collect();
    let others: Vec<Value> = nodes.iter().map(|node| large(node, &text)).collect();
    plane().must(&Request::merge(path("large"), json!({"status": {"nodes": others}})));
    // As if each node owned its own entry.
    for node in &nodes[..20] {
        plane().must(&apply_entry("large", &large(node, &text)).managed_by(&node[node.len() - 2..]));
    }
    agent.does(&apply_entry("large", &large(NODE, &text)));
    assert_eq!(entries("large").len(), 32);
    let forged = large(&nodes[30], &format!("{}y", &text[1..]));
    agent.refused(&apply_entry("large", &forged).managed_by("x"), &format!("but not write the entry of {}", nodes[30]));
}

impl Request {
    /// The same with another field manager.
    fn managed_by(mut self, manager: &str) -> Self {
        let (path, _) = self.path.split_once('?').expect("an apply names its manager");
        self.path = format!("{path}?fieldManager={manager}&force=true");
        self
    }
}
