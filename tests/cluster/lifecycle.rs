//! Tests the life of objects from apply to delete, and the result for the client after each step.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::wait::eventually;
use crate::bed::{CLIENT, INTERNAL, SECOND_SERVER, SERVER};
use crate::fleet::{Fleet, LINES, REFUSED, WEB, manifest, spec, web};
use crate::plane::Resource;
use crate::plane::http::{Request, Response};
use crate::plane::objects::PATIENCE;

/// Waits as users and pipelines do.
#[track_caller]
fn kubectl_wait(fleet: &Fleet, what: &str) {
    let output = fleet.plane.kubectl(["wait", "--for", what, "--timeout=120s", "-n", LINES, "pf/web"]);
    assert!(output.status.success(), "kubectl wait {what}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_forward_is_applied_edited_disabled_enabled_and_deleted() {
    let fleet = Fleet::new(1);
    let nothing = Vec::<String>::new();
    let routes = fleet.proxy(0).routes();
    fleet.wait_ask(80, REFUSED);

    fleet.apply(WEB, &web());
    kubectl_wait(&fleet, "condition=Ready");
    fleet.reaches(80, SERVER, 80);
    fleet.wait_entries(WEB, &["px0 Active Ready"]);
    fleet.wait_active(WEB, Some(0));

    fleet.apply(WEB, &spec(81, SECOND_SERVER, 82));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(81, SECOND_SERVER, 82);
    assert_eq!(fleet.ask(80), REFUSED);

    let mut session = Connection::open(&fleet.bed.client, (CLIENT, 0), (INTERNAL, 81), ANSWER).unwrap();
    session.exchange(ANSWER).unwrap();
    fleet.plane.patch(Resource::Forwards, WEB, json!({"spec": {"mode": "Disabled"}}));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Disabled");
    kubectl_wait(&fleet, "condition=Ready");
    for condition in ["Accepted", "Programmed"] {
        assert_eq!(fleet.plane.condition(WEB, condition), Some(("True".to_owned(), "Disabled".to_owned())));
    }
    assert_eq!(fleet.ask(81), REFUSED);
    assert!(session.exchange(ANSWER).is_err(), "a session outlived the forward");
    assert_eq!(fleet.proxy(0).our_rules(Variant::Nft), nothing);
    fleet.wait_entries(WEB, &[]);
    fleet.wait_active(WEB, None);

    fleet.plane.patch(Resource::Forwards, WEB, json!({"spec": {"mode": "Enabled"}}));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(81, SECOND_SERVER, 82);

    assert!(fleet.plane.kubectl(["delete", "-n", LINES, "pf/web", "--timeout=60s"]).status.success(), "nothing holds it");
    fleet.wait_ask(81, REFUSED);
    assert!(eventually(PATIENCE, || fleet.proxy(0).our_rules(Variant::Nft) == nothing));
    assert!(eventually(PATIENCE, || fleet.proxy(0).routes() == routes));
    assert_eq!(fleet.agent(0).complaints(), nothing);
}

/// An object with a finalizer of another program stays after its deletion. It asks for nothing any more.
#[test]
fn a_finalizer_keeps_the_object_and_not_its_rules() {
    let fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.plane.wait_ready(WEB);
    fleet.plane.patch(Resource::Forwards, WEB, json!({"metadata": {"finalizers": ["example.com/held"]}}));
    let mut session = Connection::open(&fleet.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    session.exchange(ANSWER).unwrap();
    assert!(fleet.plane.kubectl(["delete", "-n", LINES, "pf/web", "--wait=false"]).status.success());
    fleet.wait_ask(80, REFUSED);
    assert!(eventually(PATIENCE, || fleet.proxy(0).our_rules(Variant::Nft).is_empty()));
    assert!(session.exchange(ANSWER).is_err(), "a session outlived the forward");
    let kept = fleet.plane.forward(WEB).expect("the finalizer keeps it");
    assert!(kept["metadata"]["deletionTimestamp"].is_string(), "{kept:#}");
    fleet.plane.patch(Resource::Forwards, WEB, json!({"metadata": {"finalizers": null}}));
    assert!(eventually(PATIENCE, || fleet.plane.forward(WEB).is_none()));
}

#[test]
fn the_older_forward_wins_and_the_younger_takes_over_when_its_namespace_goes() {
    let fleet = Fleet::new(1);
    // By name, the other one would win.
    fleet.plane.add_namespace("zz");
    fleet.apply("zz/old", &web());
    fleet.plane.wait_ready("zz/old");
    fleet.apply_younger(WEB, &spec(80, SECOND_SERVER, 81));
    fleet.plane.wait_condition(WEB, "Accepted", "False", "Conflict");
    fleet.plane.wait_condition(WEB, "Ready", "False", "Conflict");
    fleet.reaches(80, SERVER, 80);
    let told = || {
        fleet.events(WEB).into_iter().any(|(reason, count, note)| (&*reason, count) == ("Conflict", 1) && note.contains("zz/old"))
    };
    assert!(eventually(PATIENCE, told), "{:?}", fleet.events(WEB));

    fleet.plane.delete_namespace("zz");
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(80, SECOND_SERVER, 81);
    assert!(!fleet.holds(0, &format!("{SERVER}:80")), "nothing is left of the winner");
}

/// Deletes a forward and creates another one with the same name, without a pause.
fn replace(fleet: &Fleet, spec: &str) {
    let object = serde_saphyr::from_str(&manifest(WEB, spec)).unwrap();
    let collection = Resource::Forwards.path(Some(LINES), None);
    let answers = fleet.plane.send(&[Request::delete(format!("{collection}/web")), Request::post(collection, object)]);
    assert!(answers.iter().all(Response::done), "{answers:?}");
}

#[test]
fn a_forward_made_again_under_its_name_is_another_one_also_while_the_agent_is_away() {
    let mut fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.apply("lines/gone", &spec(82, SERVER, 82));
    fleet.plane.wait_ready(WEB);
    fleet.plane.wait_ready("lines/gone");
    fleet.reaches(82, SERVER, 82);

    replace(&fleet, &spec(81, SECOND_SERVER, 81));
    fleet.plane.wait_ready(WEB);
    fleet.reaches(81, SECOND_SERVER, 81);
    assert_eq!(fleet.ask(80), REFUSED);

    let mut sessions = [81, 82].map(|port| Connection::open(&fleet.bed.client, (CLIENT, 0), (INTERNAL, port), ANSWER).unwrap());
    fleet.kill(0);
    replace(&fleet, &web());
    fleet.plane.delete(Resource::Forwards, "lines/gone");
    for session in &mut sessions {
        session.exchange(ANSWER).expect("an agent that is away breaks nothing");
    }
    fleet.start(0);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.wait_entries(WEB, &["px0 Active Ready"]);
    fleet.reaches(80, SERVER, 80);
    assert_eq!([81, 82].map(|port| fleet.ask(port)), [REFUSED; 2]);
    for session in &mut sessions {
        session.exchange(ANSWER).expect_err("a session outlived its forward");
    }
    let left = fleet.proxy(0).conntrack("--dst-nat");
    assert!(left.iter().all(|entry| entry.contains("dport=80 ")), "{left:#?}");
    assert!(!["dport 81", "dport 82"].iter().any(|text| fleet.holds(0, text)));
}

#[test]
fn a_status_that_somebody_forges_or_empties_is_written_again() {
    let fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.plane.wait_ready(WEB);
    fleet.wait_entries(WEB, &["px0 Active Ready"]);
    let status = || fleet.plane.forward(WEB).expect("it exists")["status"].clone();
    let right = status();
    let forged = json!({"type": "Ready", "status": "False", "reason": "Forged", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z"});
    let mut entry = right["nodes"][0].clone();
    entry["role"] = "Standby".into();
    entry["conditions"] = json!([forged.clone()]);
    for wrong in [
        json!({"conditions": [forged], "observedGeneration": 99, "activeNode": "nowhere", "ports": "TCP 1", "nodes": null}),
        json!({"nodes": [entry]}),
        json!({"conditions": null, "nodes": null, "observedGeneration": null, "activeNode": null, "ports": null}),
    ] {
        let path = format!("{}/status", Resource::Forwards.path(Some(LINES), Some("web")));
        fleet.plane.must(&Request::merge(path, json!({"status": wrong})));
        let timeless = |status: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let conditions = |list: &Value| {
                let each = |it: &Value| (text(&it["type"]), text(&it["status"]), text(&it["reason"]), text(&it["message"]));
                list.as_array().into_iter().flatten().map(each).collect::<BTreeSet<_>>()
            };
            let entry = &status["nodes"][0];
            let fields = ["observedGeneration", "activeNode", "ports"].map(|field| status[field].clone());
            (conditions(&status["conditions"]), fields, entry["role"].clone(), conditions(&entry["conditions"]))
        };
        let repaired = eventually(PATIENCE, || timeless(&status()) == timeless(&right));
        assert!(repaired, "after {wrong}: {:#} instead of {right:#}", status());
    }
}
