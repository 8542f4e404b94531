//! Tries to forge the status of forwards with the token of an agent, in every way in which a request can write it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::plane::http::Request;
use crate::status::{SUMMARY, apply, apply_entry, entries, entry, manager, path, remove};
use crate::{Agent, LINES, NODE, OTHER, add_forward, forward, plane};

const AS_MANAGER: &str = "may not write portforwards as the field manager";
const NO_SUMMARY: &str = "only the field manager portforward-summary may change the summary";
const NOT_OWNED: &str = "may not own these fields of status";
const NOT_READY: &str = "may write Ready=True only while its own entry is the only active one";

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": kind, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1})
}

/// The types of the conditions in the summary.
fn types(name: &str) -> Vec<String> {
    let conditions = forward(plane(), name)["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut types: Vec<String> = conditions.iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect();
    types.sort();
    types
}

/// The field managers that own a part of the status.
fn managers(name: &str) -> Vec<String> {
    let forward = forward(plane(), name);
    let owners = forward["metadata"]["managedFields"].as_array().unwrap().iter().filter(|each| each["subresource"] == "status");
    owners.map(|each| each["manager"].as_str().unwrap().to_owned()).collect()
}

/// The summary of an active node.
fn summary(node: &str, ready: &str) -> Value {
    let conditions = ["Accepted", "Programmed"].map(|kind| condition(kind, "True"));
    let conditions: Vec<Value> = conditions.into_iter().chain([condition("Ready", ready)]).collect();
    json!({"conditions": conditions, "activeNode": node, "observedGeneration": 1, "ports": "TCP 80"})
}

#[test]
fn the_summary_is_changed_and_owned_by_its_own_manager_only() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "summary");
    agent.does(&apply_entry("summary", &entry(NODE, "Active")));
    other.does(&apply_entry("summary", &entry(OTHER, "Standby")));
    agent.does(&apply("summary", SUMMARY, &summary(NODE, "True")));
    let before = forward(plane(), "summary");

    let forged = [
        json!({"conditions": [condition("Stalled", "True")]}),
        json!({"activeNode": OTHER}),
        json!({"observedGeneration": 9}),
        json!({"ports": "UDP 1"}),
        json!({"reverse": "UDP 1"}),
    ];
    for status in &forged {
        for (name, words) in [("evil", AS_MANAGER), ("", AS_MANAGER), ("portforward-node-none", AS_MANAGER)] {
            other.refused(&Request::merge(path("summary", name), json!({"status": status})), words);
        }
        let unforced = Request { path: path("summary", "evil"), ..apply("summary", "evil", status) };
        for request in [apply("summary", "evil", status), unforced] {
            // Without force, the API server may answer with a conflict before it asks the policy.
            let answer = other.send(&request);
            assert!(answer.status == 403 || answer.status == 409, "{request:?}\n{answer:?}");
        }
        let mut own = status.clone();
        own["nodes"] = json!([entry(OTHER, "Standby")]);
        other.refused(&apply("summary", &manager(OTHER), &own), NO_SUMMARY);
        other.refused(&Request::merge(path("summary", &manager(OTHER)), json!({"status": status})), NO_SUMMARY);
        // As the right manager, but not by server-side apply: the next summary would not remove it.
        other.refused(&Request::merge(path("summary", SUMMARY), json!({"status": status})), NOT_OWNED);
        let operations: Vec<Value> = status
            .as_object()
            .unwrap()
            .iter()
            .map(|(field, value)| json!({"op": "add", "path": format!("/status/{field}"), "value": value}))
            .collect();
        other.refused(&Request::json_patch(path("summary", SUMMARY), json!(operations)), NOT_OWNED);
        other.refused(&Request::json_patch(path("summary", &manager(OTHER)), json!(operations)), NO_SUMMARY);
        other.refused(&Request::json_patch(path("summary", "evil"), json!(operations)), AS_MANAGER);
    }
    // Nor may another manager own a field with its present value: it would stay when the summary leaves it out.
    let mut same = summary(NODE, "True");
    same["nodes"] = json!([entry(OTHER, "Standby")]);
    other.refused(&apply("summary", &manager(OTHER), &same), NOT_OWNED);
    other.refused(&apply("summary", "evil", &summary(NODE, "True")), AS_MANAGER);
    // Without a field manager, that of the request would be the user agent.
    let nameless = path("summary", "").replace("?fieldManager=", "");
    other.refused(&Request::merge(&*nameless, json!({"status": forged[0]})), AS_MANAGER);
    other.refused(&Request::json_patch(&*nameless, json!([{"op": "remove", "path": "/status/activeNode"}])), AS_MANAGER);
    let after = forward(plane(), "summary");
    assert_eq!(
        (&after["status"], &after["metadata"]["managedFields"]),
        (&before["status"], &before["metadata"]["managedFields"])
    );
}

#[test]
fn no_condition_is_invented_and_no_text_is_long() {
    let agent = Agent::of(plane(), NODE);
    add_forward(plane(), "invented");
    let with = |field: &str, value: &str| {
        let mut condition = condition("Stalled", "True");
        condition[field] = value.into();
        condition
    };
    let fraction = format!("2026-01-01T00:00:00.{}Z", "0".repeat(100));
    for wrong in [
        with("type", "X0"),
        with("type", "example.com/Ready"),
        with("reason", "two words"),
        with("reason", &"R".repeat(65)),
        with("message", &"m".repeat(1025)),
        with("lastTransitionTime", &fraction),
    ] {
        let own = json!({"nodeName": NODE, "role": "Active", "conditions": [wrong]});
        for status in [json!({"conditions": [wrong]}), json!({"nodes": [own]})] {
            for request in [
                apply("invented", SUMMARY, &status),
                apply("invented", &manager(NODE), &status),
                Request::merge(path("invented", SUMMARY), json!({"status": status})),
            ] {
                let answer = agent.send(&request);
                assert_eq!(answer.status, 422, "{request:?}\n{answer:?}");
            }
        }
    }
    for (field, size) in [("activeNode", 254), ("ports", 65), ("reverse", 65)] {
        let answer = agent.send(&apply("invented", SUMMARY, &json!({field: "x".repeat(size)})));
        assert_eq!(answer.status, 422, "{field}: {answer:?}");
    }
}

#[test]
fn an_agent_cannot_say_that_a_forward_of_another_node_is_ready() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "forged");
    other.does(&apply_entry("forged", &entry(OTHER, "Active")));
    other.does(&apply("forged", SUMMARY, &summary(OTHER, "False")));
    // Neither in the name of the other node, nor in its own name without an entry, nor with an entry beside that of the other.
    agent.refused(&apply("forged", SUMMARY, &summary(OTHER, "True")), NOT_READY);
    agent.refused(&apply("forged", SUMMARY, &summary(NODE, "True")), NOT_READY);
    agent.does(&apply_entry("forged", &entry(NODE, "Active")));
    for node in [NODE, OTHER, "nowhere"] {
        agent.refused(&apply("forged", SUMMARY, &summary(node, "True")), NOT_READY);
    }
    let mut nowhere = summary(NODE, "True");
    nowhere.as_object_mut().unwrap().remove("activeNode");
    agent.refused(&apply("forged", SUMMARY, &nowhere), NOT_READY);
    let operations = json!([{"op": "replace", "path": "/status/conditions/2/status", "value": "True"}]);
    agent.refused(&Request::json_patch(path("forged", SUMMARY), operations), NOT_OWNED);
    // Two nodes that hold the address: neither may say that it is ready.
    other.refused(&apply("forged", SUMMARY, &summary(OTHER, "True")), NOT_READY);
    other.does(&apply("forged", SUMMARY, &summary(OTHER, "False")));
    agent.does(&remove("forged", NODE));
    other.does(&apply("forged", SUMMARY, &summary(OTHER, "True")));

    // A disabled forward is ready when no node has it any more.
    plane().patch(crate::plane::Resource::Forwards, &format!("{LINES}/forged"), json!({"spec": {"mode": "Disabled"}}));
    agent.does(&apply("forged", SUMMARY, &summary(OTHER, "False")));
    agent.refused(&apply("forged", SUMMARY, &nowhere), NOT_READY);
    other.does(&remove("forged", OTHER));
    agent.does(&apply("forged", SUMMARY, &nowhere));
}

/// A body as text, with which the API server and the policy could disagree about the name of an entry.
fn text(name: &str, manager: &str, kind: &'static str, nodes: &str) -> Request {
    let body = format!(
        r#"{{"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {{"name": "{name}", "namespace": "{LINES}"}}, "status": {{"nodes": {nodes}}}}}"#
    );
    Request { body: Some((kind, body.into())), ..apply(name, manager, &Value::Null) }
}

#[test]
fn an_entry_of_another_node_is_not_forged_by_doubled_keys_another_case_or_a_blank() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "doubled");
    other.does(&apply_entry("doubled", &entry(OTHER, "Active")));
    agent.does(&apply_entry("doubled", &entry(NODE, "Standby")));
    let before = forward(plane(), "doubled")["status"].clone();
    let forged = format!(r#"{{"nodeName": "{OTHER}", "role": "Standby"}}"#);
    let own = format!(r#"{{"nodeName": "{NODE}", "role": "Standby"}}"#);
    let mut statuses = BTreeSet::new();
    for nodes in [
        format!(r#"[{{"nodeName": "{NODE}", "nodeName": "{OTHER}", "role": "Standby"}}]"#),
        format!(r#"[{{"nodeName": "{OTHER}", "nodeName": "{NODE}", "role": "Standby", "role": "Active", "role": "Standby"}}]"#),
        format!(r#"[{own}], "nodes": [{forged}]"#),
        format!(r#"[{forged}], "nodes": [{own}], "Nodes": [{forged}]"#),
        format!(r#"[{own}, {{"NodeName": "{OTHER}", "nodename": "{OTHER}", "role": "Standby"}}]"#),
    ] {
        for manager in [manager(NODE), manager(OTHER), SUMMARY.to_owned()] {
            for kind in ["application/apply-patch+yaml", "application/merge-patch+json"] {
                statuses.insert(agent.send(&text("doubled", &manager, kind, &nodes)).status);
                let after = forward(plane(), "doubled")["status"].clone();
                let of_other =
                    |status: &Value| status["nodes"].as_array().unwrap().iter().find(|it| it["nodeName"] == OTHER).cloned();
                assert_eq!(of_other(&after), of_other(&before), "{nodes} as {manager} by {kind}");
                assert!(entries("doubled").iter().all(|entry| entry.starts_with(NODE) || entry.starts_with(OTHER)));
            }
        }
    }
    assert!(statuses.contains(&200) && statuses.contains(&403), "the API server reads such texts: {statuses:?}");
    // A name that only looks like that of the other node, or that no node has.
    for name in ["Node-b", "NODE-B", "node-b ", " node-b", "node-b\n", "node-b\u{0}", "node-c", ""] {
        for manager in [manager(NODE), manager(OTHER)] {
            let answer = agent.send(&apply("doubled", &manager, &json!({"nodes": [{"nodeName": name, "role": "Active"}]})));
            assert!([400, 403, 422].contains(&answer.status), "{name:?} as {manager}\n{answer:?}");
        }
    }
    assert_eq!(entries("doubled"), ["node-a Standby", "node-b Active"]);
}

/// Each field manager is an entry of managedFields. With free names, the object would become too large for its owner to write.
#[test]
fn an_agent_cannot_fill_an_object_with_field_managers() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "managers");
    other.does(&apply_entry("managers", &entry(OTHER, "Standby")));
    for name in ["evil", "portforward-node-x", "portforward-node-0123456789abcdef", "portforward-summary2", "portforward-grants"]
    {
        for status in [json!({}), json!({"nodes": []}), json!({"nodes": [entry(NODE, "Active")]}), Value::Null] {
            agent.refused(&apply("managers", name, &status), AS_MANAGER);
        }
    }
    // The managers that it may name own nothing that is not theirs.
    for name in [manager(NODE), manager(OTHER)] {
        agent.refused(&apply("managers", &name, &json!({})), "");
    }
    agent.refused(
        &apply("managers", &manager(OTHER), &json!({"nodes": [entry(NODE, "Active")]})),
        "may not write the entry of node node-a",
    );
    agent.refused(
        &apply("managers", SUMMARY, &json!({"nodes": [entry(NODE, "Active")]})),
        "may not write the entry of node node-a",
    );
    agent.does(&apply_entry("managers", &entry(NODE, "Active")));
    agent.refused(
        &Request::merge(
            path("managers", &manager(NODE)),
            json!({"status": {"nodes": [entry(NODE, "Standby"), entry(OTHER, "Standby")]}}),
        ),
        NOT_OWNED,
    );
    agent.does(&remove("managers", OTHER));
    assert_eq!(managers("managers"), [manager(NODE)]);
    // It is removed by another agent, and nothing is left.
    other.does(&remove("managers", NODE));
    assert_eq!((entries("managers"), managers("managers")), (Vec::new(), Vec::new()));
}

/// The command of the page that removes everything from a status.
fn clean_up(name: &str) {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("    kubectl patch portforward NAME ")).expect("the page has a command");
    let (command, patch) = line.trim().split_once(" --patch ").expect("the command has a patch");
    let command = command.replace("NAME ", &format!("{name} ")).replace("NAMESPACE", LINES);
    let arguments =
        command.split(' ').skip(1).map(str::to_owned).chain(["--patch".to_owned(), patch.trim_matches('\'').to_owned()]);
    let patched = plane().kubectl(arguments);
    assert!(patched.status.success(), "{patched:?}");
}

/// What an attacker can have written before the policy was in force, or somebody with more rights.
#[test]
fn the_documented_command_removes_everything_that_was_written_with_a_stolen_token() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    add_forward(plane(), "cleaned");
    other.does(&apply_entry("cleaned", &entry(OTHER, "Active")));
    other.does(&apply("cleaned", SUMMARY, &summary(OTHER, "False")));
    plane().must(&apply("cleaned", "evil", &json!({"conditions": [condition("Stalled", "True")], "reverse": "TCP 1"})));
    plane().must(&apply("cleaned", "evil-too", &json!({"nodes": [entry(OTHER, "Active"), entry("nowhere", "Active")]})));
    plane().must(&Request::merge(path("cleaned", SUMMARY), json!({"status": {"activeNode": "nowhere"}})));
    // What other managers own stays, whatever the right one applies.
    other.does(&apply("cleaned", SUMMARY, &summary(OTHER, "False")));
    assert_eq!(types("cleaned"), ["Accepted", "Programmed", "Ready", "Stalled"]);

    clean_up("cleaned");
    assert_eq!(entries("cleaned"), Vec::<String>::new());
    other.does(&apply_entry("cleaned", &entry(OTHER, "Active")));
    other.does(&apply("cleaned", SUMMARY, &summary(OTHER, "True")));
    assert_eq!(types("cleaned"), ["Accepted", "Programmed", "Ready"]);
    let status = forward(plane(), "cleaned")["status"].clone();
    assert_eq!((&status["activeNode"], &status["reverse"]), (&json!(OTHER), &Value::Null));
    assert!(!managers("cleaned").iter().any(|manager| manager.starts_with("evil")), "{:?}", managers("cleaned"));
    agent.does(&remove("cleaned", OTHER));
    assert_eq!(entries("cleaned"), Vec::<String>::new());
}
