//! Adds the extensions that the design plans to the CRD, and tests that no existing object becomes invalid or changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::plane::http::{Request, Response};
use super::plane::{Plane, Resource};
use super::table::{base, changed, own, rows};
use super::{NAMESPACE, examples};

/// Every extension of section 3 of the design, as a later version of the CRD could have it.
fn later() -> Value {
    let mut definition = serde_json::to_value(portforward_operator::api::Kind::PortForward.crd()).unwrap();
    let spec = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
    both_families_and_pools(spec);
    more_kinds_of_target(spec);
    more_protocols_and_ports(spec);
    new_parts(spec);
    definition
}

fn both_families_and_pools(spec: &mut Value) {
    for list in ["client", "internal", "external"] {
        let addresses = &mut spec["properties"][list]["properties"]["addresses"];
        addresses["maxItems"] = 64.into();
        without_the_family_rule(&mut addresses["items"]);
    }
    let gateways = &mut spec["properties"]["internal"]["properties"]["gateways"];
    gateways["maxItems"] = 8.into();
    without_the_family_rule(&mut gateways["items"]);
    let address = &mut spec["properties"]["upstream"]["properties"]["targets"]["items"]["properties"]["address"];
    without_the_family_rule(address);
    // The rules between fields expect IPv4 and one address of each kind. A later version would rewrite them.
    spec.as_object_mut().unwrap().remove("x-kubernetes-validations");
}

fn without_the_family_rule(address: &mut Value) {
    let rules = address["x-kubernetes-validations"].as_array_mut().unwrap();
    let before = rules.len();
    rules.retain(|rule| !rule["message"].as_str().unwrap().contains("IPv6"));
    assert!(rules.len() < before, "the addresses take IPv6 already");
}

fn more_kinds_of_target(spec: &mut Value) {
    let targets = &mut spec["properties"]["upstream"]["properties"]["targets"];
    targets["maxItems"] = 16.into();
    let target = &mut targets["items"];
    target["required"] = json!([]);
    // Without a default, because the API server would show it in existing objects. Absent means 1, as the description says.
    target["properties"]["weight"] = json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 100});
    target["properties"]["hostName"] = json!({"type": "string", "maxLength": 253});
    target["properties"]["service"] = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "maxLength": 63}, "namespace": {"type": "string", "maxLength": 63},
    }});
    target["x-kubernetes-validations"] = json!([{
        "rule": "[has(self.address), has(self.hostName), has(self.service)].filter(one, one).size() == 1",
        "message": "write one of address, hostName and service",
    }]);
}

fn more_protocols_and_ports(spec: &mut Value) {
    add(&mut spec["properties"]["mode"]["enum"], &["DryRun", "Drain"]);
    for pointer in ["/properties/ports", "/properties/reverse/properties/ports"] {
        let ports = spec.pointer_mut(pointer).unwrap();
        // These rules read `port`, which is no longer always there.
        ports.as_object_mut().unwrap().remove("x-kubernetes-validations");
        let entry = &mut ports["items"];
        entry.as_object_mut().unwrap().remove("x-kubernetes-validations");
        entry["required"] = json!([]);
        add(&mut entry["properties"]["protocol"]["enum"], &["SCTP", "ICMP", "All"]);
    }
}

fn add(words: &mut Value, more: &[&str]) {
    let words = words.as_array_mut().unwrap();
    words.extend(more.iter().map(|word| Value::from(*word)));
}

fn new_parts(spec: &mut Value) {
    let word = |words: &[&str]| json!({"type": "string", "enum": words});
    spec["properties"]["conntrack"] = json!({"type": "object", "properties": {"onChange": word(&["Keep", "Cut"])}});
    spec["properties"]["mss"] = json!({"type": "integer", "format": "int32", "minimum": 536, "maximum": 65495});
    spec["properties"]["probes"] = json!({
        "type": "array", "maxItems": 16, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": 63}, "periodSeconds": {"type": "integer", "minimum": 1},
        }},
    });
}

/// Every valid object of today: from the table and the examples.
fn good() -> Vec<Value> {
    let rows = rows().into_iter().filter(|row| row.reason.is_none()).map(|row| changed(&row.set));
    let examples = examples().into_iter().flat_map(|(_, text)| serde_saphyr::from_multiple::<Value>(&text).unwrap());
    let forwards = rows.chain(examples).filter(|object| object["kind"] == "PortForward" && own(object).is_ok());
    let named = forwards.enumerate().map(|(index, mut object)| {
        object["metadata"]["name"] = format!("today-{index}").into();
        object["metadata"]["namespace"] = NAMESPACE.into();
        object
    });
    named.collect()
}

/// One object that uses every extension.
fn tomorrow() -> Value {
    changed(&BTreeMap::from(
        [
            ("/metadata/name", json!("tomorrow")),
            ("/spec/mode", json!("DryRun")),
            ("/spec/client/addresses", json!(["1.1.1.1", "2001:db8::/64"])),
            ("/spec/internal/addresses", json!(["192.168.0.2", "192.168.0.3", "fd00::2"])),
            ("/spec/internal/gateways", json!(["192.168.0.1", "fd00::1"])),
            ("/spec/external/addresses", json!(["2.2.2.2", "2.2.2.3"])),
            ("/spec/upstream/targets/0/weight", json!(3)),
            ("/spec/upstream/targets/-", json!({"hostName": "server.example", "weight": 1})),
            ("/spec/ports/-", json!({"name": "ping", "protocol": "ICMP"})),
            ("/spec/conntrack", json!({"onChange": "Cut"})),
            ("/spec/mss", json!(1360)),
            ("/spec/probes", json!([{"name": "tcp", "periodSeconds": 5}])),
        ]
        .map(|(pointer, value)| (pointer.to_owned(), value)),
    ))
}

fn store(object: &Value) -> Request {
    let path = Resource::Forwards.path(Some(NAMESPACE), object["metadata"]["name"].as_str());
    Request::apply(format!("{path}?fieldValidation=Strict&fieldManager=today"), object.clone())
}

fn all_done(answers: &[Response]) {
    for answer in answers {
        assert!(answer.done(), "{answer:?}");
    }
}

/// Asserts that every object is unchanged, including its resource version.
fn unchanged(plane: &Plane, before: &[Value], when: &str) {
    let now = plane.list(Resource::Forwards);
    assert_eq!(now.len(), before.len(), "{when}");
    for (now, before) in now.iter().zip(before) {
        assert!(now == before, "{when}\n{now:#}\n--- before\n{before:#}");
    }
}

#[test]
fn what_is_foreseen_can_be_added_and_no_object_changes() {
    let plane = Plane::alone();
    plane.add_namespace(NAMESPACE);
    let today = good();
    assert!(today.len() > 15 && today.iter().any(|object| object["spec"].get("reverse").is_some()));
    let writes: Vec<_> = today.iter().map(store).collect();
    all_done(&plane.send(&writes));
    // The first update of an object that was created without a status stores the defaults of the status.
    all_done(&plane.send(&writes));
    assert!(!plane.send_one(&store(&tomorrow())).done(), "the additions are there already");
    let before = plane.list(Resource::Forwards);
    assert_eq!(before.len(), today.len());

    let said = plane.apply_output(&later().to_string());
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    plane.wait(Resource::Definitions, "portforwards.portforward.dev", "established", |definition| {
        definition["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|one| one["type"] == "Established"))
    });
    // From here on, the API server uses the new CRD and accepts its objects.
    assert!(
        super::bed::wait::eventually(super::plane::objects::PATIENCE, || plane.send_one(&store(&tomorrow())).done()),
        "{:?}",
        plane.send_one(&store(&tomorrow()))
    );
    plane.delete(Resource::Forwards, &format!("{NAMESPACE}/tomorrow"));

    unchanged(&plane, &before, "read by the new definition");
    // Applies them again, as GitOps does continuously: they are valid, and nothing is written (the resource version stays).
    all_done(&plane.send(&writes));
    unchanged(&plane, &before, "applied again");
    // The agent of today reads the existing objects as before, and refuses unknown fields instead of guessing.
    for object in &before {
        assert_eq!(own(object).err().map(|refusal| refusal.to_string()), None, "{object:#}");
    }
    assert!(own(&tomorrow()).is_err() && own(&base()).is_ok());
}
