//! Tests the CRDs in a real API server: what they accept, refuse, explain, default and show, and that the planned extensions
//! can be added without changing an object.

#[path = "refusals/any.rs"]
mod any;
mod bed;
#[path = "refusals/grants.rs"]
mod grants;
#[path = "schema/later.rs"]
mod later;
mod plane;
#[path = "refusals/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use plane::http::{Request, Response};
use plane::{Plane, Resource, deployed};
use portforward_operator::api::Kind;
use serde_json::{Value, json};
use table::{By, Row, base, changed, own, rows};

/// The namespace of the base of the table and of the examples.
const NAMESPACE: &str = "leased-lines";

/// For tests that leave no objects in it.
static PLANE: LazyLock<Plane> = LazyLock::new(|| {
    let plane = Plane::alone();
    plane.add_namespace(NAMESPACE);
    plane
});

/// The request of `kubectl create --dry-run=server --validate=strict`.
fn create(object: &Value) -> Request {
    let path = collection(object, None);
    Request::post(format!("{path}?dryRun=All&fieldValidation=Strict&fieldManager=test"), object.clone())
}

/// The request of `kubectl apply --server-side --dry-run=server --validate=strict`.
fn apply(object: &Value) -> Request {
    let path = collection(object, object["metadata"]["name"].as_str());
    Request::apply(format!("{path}?dryRun=All&fieldValidation=Strict&fieldManager=test"), object.clone())
}

/// The path of the object `name`, or of all objects, of the kind of `object`.
fn collection(object: &Value, name: Option<&str>) -> String {
    match object["kind"].as_str() {
        Some("PortForwardGrant") => Resource::Grants.path(None, name),
        _ => Resource::Forwards.path(Some(NAMESPACE), name),
    }
}

/// The messages of all rules of the CRDs.
static MESSAGES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    fn collect(schema: &Value, found: &mut BTreeSet<String>) {
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        found.extend(rules.map(|rule| rule["message"].as_str().expect("every rule has a message").to_owned()));
        let (fields, items) = (schema.as_object(), schema.as_array());
        for inner in fields.into_iter().flat_map(|fields| fields.values()).chain(items.into_iter().flatten()) {
            collect(inner, found);
        }
    }
    let mut found = BTreeSet::new();
    for kind in Kind::ALL {
        collect(&serde_json::to_value(kind.crd()).unwrap(), &mut found);
    }
    assert!(found.len() > 25);
    found
});

/// The part that refused the object; `None` if it was accepted.
fn refused_by(response: &Response) -> Option<By> {
    if response.done() {
        return None;
    }
    let causes = response.body["details"]["causes"].as_array().into_iter().flatten();
    let said: Vec<&str> = causes.filter_map(|cause| cause["message"].as_str()).collect();
    let ours = |said: &&str| MESSAGES.iter().any(|message| said.contains(message.as_str()));
    // The API server runs rules only if the schema finds no error, except on parts that it could still read.
    Some(if !said.is_empty() && said.iter().all(ours) { By::Rule } else { By::Schema })
}

/// Whether the API server checked the object instead of failing. It answers a server-side apply with 500 if the schema lacks a
/// field.
fn answered(response: &Response) -> bool {
    let untyped = response.body["message"].as_str().is_some_and(|said| said.contains("failed to create typed patch object"));
    response.done() || (400..500).contains(&response.status) || untyped
}

/// Whether a row changes the name or kind of the object, which would be another request.
fn of_the_envelope(row: &Row) -> bool {
    row.set.keys().any(|pointer| ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"].contains(&pointer.as_str()))
}

#[test]
fn every_row_of_the_table_gets_the_verdict_of_the_types_and_of_the_rules() {
    let wrong = wrong(&rows().into_iter().map(|row| (changed(&row.set), row)).collect::<Vec<_>>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_of_the_grants_gets_the_verdict_of_the_types_and_of_the_rules() {
    let wrong = wrong(&grants::rows().into_iter().map(|row| (grants::changed(&row), row)).collect::<Vec<_>>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the API server does with the objects otherwise than their rows say.
fn wrong(rows: &[(Value, Row)]) -> Vec<String> {
    let objects: Vec<&Value> = rows.iter().map(|(object, _)| object).collect();
    let created = PLANE.send(&objects.iter().copied().map(create).collect::<Vec<_>>());
    let applied = PLANE.send(&objects.iter().copied().map(apply).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for ((_, row), (created, applied)) in rows.iter().zip(created.iter().zip(&applied)) {
        if of_the_envelope(row) {
            // The API server itself refuses these.
            if !(400..500).contains(&created.status) {
                wrong.push(format!("{}: {created:?}", row.claim));
            }
            continue;
        }
        let expected = row.by.filter(|by| *by != By::Nobody);
        for (call, response) in [("create", created), ("apply", applied)] {
            if refused_by(response) != expected || !answered(response) {
                wrong.push(format!("{} by {call}: {} {}", row.claim, response.status, response.body["message"]));
            }
        }
    }
    wrong
}

#[test]
fn any_spec_gets_the_verdict_of_the_types() {
    let objects = any::objects(1_000);
    let answers = PLANE.send(&objects.iter().map(create).collect::<Vec<_>>());
    let taken = answers.iter().filter(|answer| answer.done()).count();
    assert!((30..900).contains(&taken), "{taken} of {} were taken", objects.len());
    for (object, answer) in objects.iter().zip(&answers) {
        assert_eq!(own(object).is_ok(), answer.done(), "{object:#}\n{answer:?}");
    }
}

#[test]
fn any_grant_gets_the_verdict_of_the_types() {
    let objects = grants::objects(500);
    let answers = PLANE.send(&objects.iter().map(create).collect::<Vec<_>>());
    let taken = answers.iter().filter(|answer| answer.done()).count();
    assert!((15..450).contains(&taken), "{taken} of {} were taken", objects.len());
    for (object, answer) in objects.iter().zip(&answers) {
        assert_eq!(grants::own(object).is_ok(), answer.done(), "{object:#}\n{answer:?}");
    }
}

/// The API server estimates the cost of the rules from the maximum sizes. This is the largest grant, with 64 lists of 64 networks
/// at each place.
#[test]
fn the_largest_grant_is_taken() {
    let networks: Vec<String> = (1..=64).map(|n| format!("10.{n}.0.0/16")).collect();
    let sockets: Vec<Value> =
        (1..=64).map(|port| json!({"cidrs": networks, "protocol": "TCP", "port": port, "endPort": 65535})).collect();
    let gateways: Vec<Value> = (1..=64).map(|n| json!({"address": format!("192.168.0.{n}"), "routes": networks})).collect();
    let ports: Vec<Value> = (1..=64).map(|port| json!({"port": port, "endPort": 65535})).collect();
    let mut object = grants::base();
    for (field, list) in [("listen", &sockets), ("upstreams", &sockets), ("gateways", &gateways), ("reverse", &ports)] {
        object["spec"][field] = json!(list);
    }
    object["spec"]["clients"] = json!(networks);
    object["spec"]["external"] = json!(networks);
    let answer = PLANE.send_one(&create(&object));
    assert!(answer.done(), "{answer:?}");
    grants::own(&object).unwrap();
}

#[test]
fn the_definition_is_taken_without_a_warning_and_established() {
    // Both documents at once, as `portforward-operator crd | kubectl apply -f -` sends them.
    let output = PLANE.apply_output(&portforward_operator::api::crds_yaml());
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["portforwards.portforward.dev", "portforwardgrants.portforward.dev"] {
        let definition = PLANE.get(Resource::Definitions, name).unwrap();
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        let is = |kind: &str, status: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == status);
        assert!(is("Established", "True") && is("NamesAccepted", "True"), "{conditions:#?}");
        assert!(!is("NonStructuralSchema", "True"), "{conditions:#?}");
    }
}

#[test]
fn a_slip_of_the_pen_is_refused_by_name() {
    let slip = base().to_string().replace("\"targetPort\"", "\"targetport\"");
    let created = PLANE.kubectl_with(["create", "--dry-run=server", "--validate=strict", "-f", "-"], &slip);
    let said = String::from_utf8_lossy(&created.stderr);
    assert!(said.contains("unknown field \"spec.ports[0].targetport\""), "{said}");
    let said = PLANE.try_apply(&slip).expect_err("server-side apply knows the fields too");
    assert!(said.contains(".spec.ports[name=\"http\"].targetport: field not declared in schema"), "{said}");
}

#[test]
fn every_example_is_taken_without_a_warning() {
    for (path, text) in examples() {
        let output = PLANE.kubectl_with(["create", "--dry-run=server", "--validate=strict", "-f", "-"], &text);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("Warning"), "{path}: {said}");
    }
}

/// The examples, by file name.
fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn kubectl_explains_every_field() {
    let explain = |arguments: &[&str]| {
        let output = PLANE.kubectl([&["explain"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = explain(&["pf", "--recursive"]);
    for field in ["spec", "mode", "nodeSelector", "gateways", "endPort", "reverse", "activeNode", "observedGeneration", "role"] {
        assert!(all.lines().any(|line| line.split_whitespace().next() == Some(field)), "{field} is missing\n{all}");
    }
    let all = explain(&["pfg", "--recursive"]);
    for field in ["namespaces", "listen", "cidrs", "routes", "oneLeg", "translations", "refusals"] {
        assert!(all.lines().any(|line| line.split_whitespace().next() == Some(field)), "{field} is missing\n{all}");
    }
    let mut parts = Vec::new();
    for kind in Kind::ALL {
        let definition = serde_json::to_value(kind.crd()).unwrap();
        let name = kind.name().to_lowercase();
        parts_of(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &name, &mut parts);
        parts.push(name);
    }
    assert!(parts.len() > 20, "{parts:?}");
    for part in parts {
        let text = explain(&[&part]);
        assert!(!text.contains("<no description>") && !text.contains("<empty>"), "{part}\n{text}");
    }
}

/// The parts of a schema that have fields, as `kubectl explain` names them.
fn parts_of(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let inner = field.get("items").unwrap_or(field);
        if inner.get("properties").is_some() {
            let path = format!("{path}.{name}");
            parts_of(inner, &path, found);
            found.push(path);
        }
    }
}

#[test]
fn what_is_left_out_is_filled_in_and_an_unseen_object_is_not_taken_for_healthy() {
    let mut object = base();
    object["spec"].as_object_mut().unwrap().remove("mode");
    object["spec"]["ports"][0].as_object_mut().unwrap().remove("protocol");
    let stored = PLANE.must(&create(&object));
    assert_eq!((&stored["spec"]["mode"], &stored["spec"]["ports"][0]["protocol"]), (&json!("Enabled"), &json!("TCP")));
    assert_eq!(stored["spec"]["ports"][0]["name"], "http");
    let status = &stored["status"];
    assert_eq!(status["observedGeneration"], -1);
    assert_eq!(status.as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions", "observedGeneration"]);
    let seen: Vec<_> =
        status["conditions"].as_array().unwrap().iter().map(|one| (&one["type"], &one["status"], &one["reason"])).collect();
    let unseen = ["Accepted", "Programmed", "Ready"].map(Value::from);
    let (unknown, pending) = (json!("Unknown"), json!("Pending"));
    assert_eq!(seen, unseen.each_ref().map(|kind| (kind, &unknown, &pending)));
    // The API server adds no other field.
    for absent in ["/spec/reverse/ports/0/name", "/spec/ports/0/endPort"] {
        assert_eq!(stored.pointer(absent), object.pointer(absent), "{absent}");
    }
}

#[test]
fn the_only_entry_needs_no_name_and_keeps_its_owner_through_server_side_apply() {
    let plane = &*PLANE;
    plane.add_namespace("unnamed");
    let mut object = base();
    object["metadata"] = json!({"name": "a", "namespace": "unnamed"});
    let path = Resource::Forwards.path(Some("unnamed"), Some("a"));
    let apply = |object: &Value, manager: &str| {
        plane.must(&Request::apply(format!("{path}?fieldValidation=Strict&fieldManager={manager}"), object.clone()))
    };
    object["spec"]["ports"] = json!([{"port": 80}]);
    object["spec"]["reverse"]["ports"] = json!([{"protocol": "UDP", "port": 80}]);
    let first = apply(&object, "gitops");
    let names = |stored: &Value| {
        let list = stored["spec"]["ports"].as_array().unwrap();
        list.iter().map(|entry| format!("{} {}", entry["name"].as_str().unwrap(), entry["port"])).collect::<Vec<_>>()
    };
    assert_eq!(names(&first), ["default 80"]);
    assert_eq!(first["spec"]["reverse"]["ports"][0]["name"], "default");
    let again = apply(&object, "gitops");
    assert_eq!(again["metadata"]["generation"], first["metadata"]["generation"], "nothing changes when it is applied again");
    object["spec"]["ports"] = json!([{"port": 81}]);
    assert_eq!(names(&apply(&object, "gitops")), ["default 81"], "the entry is changed and not added");
    let more = json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": object["metadata"],
        "spec": {"ports": [{"name": "more", "port": 90}]}});
    assert_eq!(names(&apply(&more, "other")), ["default 81", "more 90"], "another manager adds its own");
    object["spec"]["ports"] = json!([]);
    assert_eq!(names(&apply(&object, "gitops")), ["more 90"]);
}

/// The answer of the API server to an object with these `ports`.
fn said_to(ports: Value) -> String {
    let mut object = base();
    object["spec"]["ports"] = ports;
    let answer = PLANE.send_one(&create(&object));
    assert!(!answer.done());
    answer.body["message"].as_str().unwrap().to_owned()
}

#[test]
fn several_entries_without_a_name_are_told_to_have_one() {
    let said = said_to(json!([{"port": 80}, {"port": 81}]));
    assert!(said.contains("several entries have no name"), "{said}");
}

#[test]
fn a_range_with_an_open_target_is_refused_with_both_forms_in_its_own_numbers() {
    let said = said_to(json!([{"port": 8000, "endPort": 8010, "targetPort": 9000}]));
    let both = "here 9010 moves each port (8000 goes to 9000, 8010 to 9010), and 9000 sends all of them to 9000";
    assert!(
        said.contains("spec.ports[0].targetEndPort") && said.contains("a range with targetPort needs targetEndPort"),
        "{said}"
    );
    assert!(said.contains(both), "{said}");
    let said = said_to(json!([{"port": 8000, "endPort": 8010, "targetPort": 9000, "targetEndPort": 9009}]));
    assert!(said.contains("have different widths") && said.contains(both), "{said}");
    let said = said_to(json!([{"port": 1, "endPort": 65535, "targetPort": 80}]));
    assert!(said.contains("; here 80 sends all of them to 80"), "{said}");
}

#[test]
fn a_user_cannot_write_the_status_with_the_object() {
    let mut object = base();
    object["status"] = json!({"observedGeneration": 7, "activeNode": "mine"});
    let stored = PLANE.must(&create(&object));
    assert_eq!(stored["status"]["observedGeneration"], -1);
    assert_eq!(stored["status"].get("activeNode"), None);
}

#[test]
fn kubectl_get_shows_what_an_administrator_asks_for_first() {
    let plane = &*PLANE;
    plane.add_namespace("shown");
    let mut object = base();
    object["metadata"]["namespace"] = "shown".into();
    object["spec"]["client"]["addresses"] = json!(["1.1.1.1", "1.1.1.2"]);
    object["spec"].as_object_mut().unwrap().remove("reverse");
    object["spec"]["description"] = "statements".into();
    plane.apply(&object.to_string());
    let path = Resource::Forwards.path(Some("shown"), Some("bank-a-web"));
    plane.must(&Request::merge(format!("{path}/status"), json!({"status": {"ports": "TCP 21,2222 +1"}})));
    let shown = |options: &[&str]| {
        let output = plane.kubectl([&["get", "pf", "-n", "shown"], options].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let narrow = shown(&[]);
    assert_eq!(narrow[0], ["NAME", "READY", "REASON", "CLIENT", "INTERNAL", "PORTS", "UPSTREAM", "NODE", "AGE"]);
    let line = ["bank-a-web", "Unknown", "Pending", r#"["1.1.1.1","1.1.1.2"]"#, "192.168.0.2", "TCP", "21,2222", "+1", "3.3.3.3"];
    assert_eq!(&narrow[1][..line.len()], line);
    let wide = shown(&["-o", "wide"]);
    assert_eq!(wide[0][..9], narrow[0][..]);
    assert_eq!(wide[0][9..], ["EXTERNAL", "REVERSE", "DESCRIPTION", "MESSAGE"]);
    let rest = r#"["2.2.2.2"] statements No agent has looked at this object yet."#;
    assert!(wide[1].join(" ").ends_with(rest), "{wide:?}");
}

#[test]
fn kubectl_get_shows_of_a_grant_whom_it_is_for_and_what_it_does() {
    let plane = &*PLANE;
    let mut object = grants::base();
    object["metadata"]["name"] = "shown".into();
    object["spec"]["namespaces"] = json!(["bank-a", "bank-b"]);
    object["spec"].as_object_mut().unwrap().remove("priority");
    object["spec"].as_object_mut().unwrap().remove("oneLeg");
    plane.apply(&object.to_string());
    let path = Resource::Grants.path(None, Some("shown"));
    let stored = plane.must(&Request::get(&*path));
    assert_eq!((&stored["spec"]["priority"], &stored["spec"]["oneLeg"]), (&json!(0), &json!(false)));
    assert_eq!(stored.get("status"), None, "without a status, no tool waits for an agent");
    let shown = |options: &[&str]| {
        let output = plane.kubectl([&["get", "pfg", "shown"], options].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let unseen = shown(&[]);
    assert_eq!(unseen[0], ["NAME", "NAMESPACES", "PRIORITY", "FORWARDS", "REFUSED", "AGE"]);
    let refusal = json!({"namespace": "bank-a", "name": "web", "message": "spec.client.addresses: outside"});
    plane.must(&Request::merge(
        format!("{path}/status"),
        json!({"status": {"observedGeneration": 1, "forwards": 12, "refused": 1, "refusals": [refusal]}}),
    ));
    assert_eq!(shown(&[])[1][..5], ["shown", r#"["bank-a","bank-b"]"#, "0", "12", "1"]);
    let wide = shown(&["-o", "wide"]);
    assert_eq!(wide[0][6..], ["DESCRIPTION", "MESSAGE"]);
    // The command in docs/grants.md, for agents that do not read grants any more.
    let output =
        plane.kubectl(["patch", "pfg", "shown", "--subresource", "status", "--type", "merge", "--patch", r#"{"status": null}"#]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(plane.must(&Request::get(&*path)).get("status"), None);
}

#[test]
fn the_status_of_a_grant_has_limits() {
    let plane = &*PLANE;
    let mut object = grants::base();
    object["metadata"]["name"] = "limited".into();
    plane.apply(&object.to_string());
    let path = Resource::Grants.path(None, Some("limited"));
    let refusal = |name: usize| json!({"namespace": "a", "name": name.to_string(), "message": ""});
    let condition = |kind: &str| json!({"type": kind, "status": "False", "reason": "InvalidPort", "message": "", "lastTransitionTime": "2026-01-31T12:00:00Z"});
    for (status, taken) in [
        (json!({"refusals": (0..16).map(refusal).collect::<Vec<_>>()}), true),
        (json!({"refusals": (0..17).map(refusal).collect::<Vec<_>>()}), false),
        (json!({"refusals": [{"namespace": "a", "name": "b", "message": "x".repeat(1025)}]}), false),
        (json!({"conditions": [condition("Accepted")]}), true),
        (json!({"conditions": [condition("Stalled")]}), false),
        (json!({"forwards": -1}), false),
    ] {
        let answer = plane.send_one(&Request::merge(format!("{path}/status?dryRun=All"), json!({"status": status})));
        assert_eq!(answer.done(), taken, "{status}\n{answer:?}");
    }
}

#[test]
fn what_is_deployed_for_the_agents_is_taken_without_a_warning() {
    let output = PLANE.apply_output(&deployed::list(&deployed::access()));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
