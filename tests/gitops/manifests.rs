//! The manifests with which the health script for Argo CD is tested: objects of a real API server in each state that a real
//! agent has written, with constant values for fields that differ between runs. kubectl and our rules agree on each.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bed::{SECOND_SERVER, SERVER};
use crate::fleet::{Fleet, WEB, spec, web};
use crate::plane::{Resource, proxy_address};
use crate::rules::kubectl_wait;

const FOLDER: &str = "deploy/gitops/argocd/resource_customizations/portforward.dev/PortForward/testdata";

/// Replaces the values that differ between runs by constants.
fn fixed(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "creationTimestamp" | "lastTransitionTime" => *field = json!("2026-01-01T00:00:00Z"),
                    "uid" => *field = json!("3b1f2a34-5c6d-4e7f-8091-a2b3c4d5e6f7"),
                    "resourceVersion" => *field = json!("1000"),
                    _ => fixed(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(fixed),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Compares an object with its file, or writes the file.
#[track_caller]
fn record(fleet: &Fleet, key: &str, file: &str) {
    let mut object = fleet.plane.forward(key).expect("the forward is there");
    let (_, name) = key.split_once('/').expect("a key is namespace/name");
    for kind in ["Ready", "Stalled"] {
        let (condition, forward) = (format!("--for=condition={kind}"), format!("pf/{name}"));
        let wait = fleet.plane.kubectl(["wait", &condition, "--timeout=0", "-n", "lines", &forward]);
        assert_eq!(kubectl_wait(&object, kind), wait.status.success(), "{kind} of {object:#}");
    }
    object["metadata"].as_object_mut().expect("an object has metadata").remove("managedFields");
    fixed(&mut object);
    let text = serde_saphyr::to_string(&object).expect("an object can be written as YAML");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("the folder can be written");
    } else {
        assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "renew it: UPDATE_GOLDEN=1 cargo test --test gitops");
    }
}

#[test]
fn the_manifests_for_argo_cd_are_what_the_program_makes() {
    let mut fleet = Fleet::without_agents(1);
    fleet.apply(WEB, &web());
    record(&fleet, WEB, "progressing_unseen.yaml");
    fleet.start(0);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    record(&fleet, WEB, "healthy.yaml");

    // By name, it would win.
    fleet.apply_younger("lines/rival", &spec(80, SECOND_SERVER, 80));
    fleet.apply("lines/loop", &spec(81, proxy_address(0), 80));
    fleet.apply("lines/nowhere", &spec(82, SERVER, 82).replace("192.168.0.2", "192.168.0.77"));
    fleet.plane.wait_condition("lines/loop", "Ready", "False", "ForwardLoop");
    record(&fleet, "lines/loop", "degraded_refused.yaml");
    fleet.plane.wait_condition("lines/rival", "Ready", "False", "Conflict");
    record(&fleet, "lines/rival", "degraded_conflict.yaml");
    fleet.plane.wait_condition("lines/nowhere", "Ready", "False", "NoActiveNode");
    record(&fleet, "lines/nowhere", "progressing_no_active_node.yaml");

    fleet.plane.patch(Resource::Forwards, WEB, json!({"spec": {"mode": "Disabled"}}));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Disabled");
    record(&fleet, WEB, "suspended.yaml");
    fleet.plane.wait_condition("lines/rival", "Ready", "True", "Ready");
    fleet.kill(0);
    fleet.apply("lines/rival", &spec(83, SECOND_SERVER, 80));
    record(&fleet, "lines/rival", "progressing_changed.yaml");
}
