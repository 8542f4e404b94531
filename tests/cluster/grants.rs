//! Grants of the cluster, with `--require-grants`: status of grants, and agents that cannot read them.

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::bed::{SECOND_SERVER, SERVER};
use crate::fleet::{Fleet, LINES, REFUSED, WEB, spec, web};
use crate::plane::Resource;
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;

const OTHER: &str = "lines/other";
const ROLE: &str = "portforward-operator";

/// A grant for the namespace of the forwards, with the content of its spec besides in YAML flow style.
fn grant(name: &str, upstreams: &str) -> String {
    format!(
        "apiVersion: portforward.dev/v1alpha1\nkind: PortForwardGrant\nmetadata: {{name: {name}}}\nspec: {{\
         namespaces: [{LINES}], clients: [1.1.1.0/24], listen: [{{cidrs: [192.168.0.0/24]}}], external: [2.2.2.0/24], \
         gateways: [{{address: 192.168.0.1, routes: [1.1.1.0/24]}}], upstreams: [{{cidrs: {upstreams}}}]}}\n"
    )
}

fn status(fleet: &Fleet, name: &str) -> Value {
    fleet.plane.get(Resource::Grants, name).unwrap_or_default()["status"].clone()
}

#[track_caller]
fn wait_counts(fleet: &Fleet, name: &str, wanted: (u64, u64)) {
    let counts = || {
        let status = status(fleet, name);
        Some((status["forwards"].as_u64()?, status["refused"].as_u64()?))
    };
    assert!(eventually(PATIENCE, || counts() == Some(wanted)), "{name}: {:?} instead of {wanted:?}", counts());
}

#[test]
fn a_grant_counts_its_forwards_and_one_that_shrinks_or_goes_withdraws_them() {
    let mut fleet = Fleet::without_agents(2);
    (0..2).for_each(|node| fleet.start_with(node, &["--require-grants"]));
    fleet.plane.apply(&grant("a", "[3.3.3.3]"));
    fleet.apply(WEB, &web());
    fleet.apply(OTHER, &spec(82, SECOND_SERVER, 82));
    fleet.plane.wait_ready(WEB);
    fleet.plane.wait_condition(OTHER, "Accepted", "False", "NotGranted");
    fleet.reaches(80, SERVER, 80);
    assert_eq!(fleet.ask(82), REFUSED);
    wait_counts(&fleet, "a", (1, 1));
    let refusal = status(&fleet, "a")["refusals"][0].clone();
    assert_eq!((refusal["namespace"].as_str(), refusal["name"].as_str()), (Some(LINES), Some("other")));
    assert!(refusal["message"].as_str().unwrap().contains("is not in upstreams of grant a"), "{refusal}");

    // The status is not written again while nothing changes.
    let version = |fleet: &Fleet| fleet.plane.get(Resource::Grants, "a").unwrap()["metadata"]["resourceVersion"].clone();
    let before = version(&fleet);
    fleet.plane.apply(&grant("b", &format!("[{SECOND_SERVER}]")));
    fleet.plane.wait_ready(OTHER);
    wait_counts(&fleet, "b", (1, 0));
    wait_counts(&fleet, "a", (1, 0));
    assert_ne!(version(&fleet), before);
    let before = version(&fleet);

    fleet.plane.apply(&grant("b", "[9.9.9.9]"));
    fleet.plane.wait_condition(OTHER, "Accepted", "False", "NotGranted");
    fleet.wait_ask(82, REFUSED);
    wait_counts(&fleet, "b", (0, 1));
    wait_counts(&fleet, "a", (1, 1));
    assert_ne!(version(&fleet), before);
    fleet.plane.delete(Resource::Grants, "a");
    fleet.plane.wait_condition(WEB, "Accepted", "False", "NotGranted");
    fleet.wait_ask(80, REFUSED);
    assert!(!fleet.holds(0, "DNAT") && !fleet.holds(1, "DNAT"));

    // The writer is the first live agent by name, and the next one takes over.
    fleet.kill(0);
    fleet.plane.apply(&grant("b", &format!("[{SERVER}, {SECOND_SERVER}]")));
    wait_counts(&fleet, "b", (2, 0));
}

#[test]
fn an_agent_that_may_not_read_the_grants_keeps_what_its_record_holds_and_carries_nothing_new() {
    let mut fleet = Fleet::without_agents(1);
    fleet.start_with(0, &["--require-grants"]);
    fleet.plane.apply(&grant("a", &format!("[{SERVER}, {SECOND_SERVER}]")));
    fleet.apply(WEB, &web());
    fleet.plane.wait_ready(WEB);
    fleet.kill(0);

    let rules = fleet.plane.get(Resource::ClusterRoles, ROLE).unwrap()["rules"].clone();
    let reads = |rule: &&Value| !rule["resources"].to_string().contains("portforwardgrants\"");
    let without: Vec<Value> = rules.as_array().unwrap().iter().filter(reads).cloned().collect();
    assert_eq!(without.len() + 1, rules.as_array().unwrap().len(), "one rule lets agents read grants");
    fleet.plane.patch(Resource::ClusterRoles, ROLE, json!({"rules": without}));
    fleet.apply(OTHER, &spec(82, SECOND_SERVER, 82));
    fleet.apply(WEB, &spec(80, SECOND_SERVER, 80));
    for round in ["first", "second"] {
        fleet.flush(0);
        fleet.start_with(0, &["--require-grants"]);
        fleet.agent(0).wait_log("the grants cannot be read");
        fleet.wait_reaches(80, SERVER, 80);
        fleet.plane.wait_condition(OTHER, "Accepted", "False", "NotGranted");
        // Its conditions are those of the generation that is in force.
        fleet.plane.wait(Resource::Forwards, WEB, "never said what stays in force", |forward| {
            let conditions = forward["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|one| {
                (&one["type"], &one["status"], &one["reason"]) == (&json!("Accepted"), &json!("False"), &json!("NotGranted"))
                    && one["message"].as_str().is_some_and(|said| said.contains("generation 1 stays in force"))
            })
        });
        fleet.reaches(80, SERVER, 80);
        assert_eq!(fleet.ask(82), REFUSED, "{round} start");
        if round == "first" {
            fleet.kill(0);
        }
    }
    // What is deleted is closed nevertheless.
    fleet.plane.delete(Resource::Forwards, WEB);
    fleet.wait_ask(80, REFUSED);

    fleet.plane.must(&Request::merge(Resource::ClusterRoles.path(None, Some(ROLE)), json!({"rules": rules})));
    fleet.plane.wait_ready(OTHER);
    fleet.reaches(82, SECOND_SERVER, 82);
}
