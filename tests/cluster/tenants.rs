//! Tests that the flood of one namespace does not delay the status and the events of another one.

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::bed::{EXTERNAL, INTERNAL, SERVER};
use crate::fleet::{Fleet, spec};
use crate::plane::Resource;
use crate::plane::audit::AuditEvent;
use crate::plane::http::{Request, Response};
use crate::plane::objects::PATIENCE;

/// The namespace of the flood. The other namespaces are before and after it in the order of names.
const FLOOD: &str = "flood";
/// The number of forwards that the flood changes at once.
const MANY: usize = 300;
/// The number of writes of status that an agent makes at the same time (src/cluster/publisher.rs, `LIMITS`).
const AT_ONCE: usize = 8;

/// A forward of the flood for these clients and ports.
fn forward(name: &str, client: &str, ports: &Value) -> Request {
    let spec = json!({
        "client": {"addresses": [client]}, "internal": {"addresses": [INTERNAL]}, "external": {"addresses": [EXTERNAL]},
        "upstream": {"targets": [{"address": SERVER}]}, "ports": [ports],
    });
    let object =
        json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": name}, "spec": spec});
    Request::post(Resource::Forwards.path(Some(FLOOD), None), object)
}

/// An old forward, and [`MANY`] younger ones that conflict with it.
fn conflicts() -> Vec<Request> {
    let old = forward("dom", "1.1.1.0/24", &json!({"port": 11000, "endPort": 20000}));
    let young = |index: usize| {
        let (client, port) = (1 + index / 2, 12000 + index % 2);
        forward(&format!("f{index:03}"), &format!("1.1.1.{client}"), &json!({"port": port}))
    };
    std::iter::once(old).chain((0..MANY).map(young)).collect()
}

/// The number of forwards of the flood that have lost a conflict, according to their summary.
fn refused(fleet: &Fleet) -> usize {
    let lost = |forward: &Value| {
        let conditions = forward["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|it| it["type"] == "Accepted" && it["reason"] == "Conflict")
    };
    fleet.plane.list(Resource::Forwards).iter().filter(|forward| lost(forward)).count()
}

/// The positions of the calls that are about an object of this namespace.
fn positions(calls: &[&AuditEvent], namespace: &str) -> Vec<usize> {
    calls.iter().enumerate().filter(|(_, call)| call.namespace == namespace).map(|(index, _)| index).collect()
}

#[test]
fn the_flood_of_one_namespace_delays_no_status_and_no_event_of_another() {
    let fleet = Fleet::new(1);
    let others = [("early", 80), ("late", 81)];
    for (namespace, port) in others {
        fleet.plane.add_namespace(namespace);
        fleet.apply(&format!("{namespace}/web"), &spec(port, SERVER, port));
    }
    fleet.plane.add_namespace(FLOOD);
    let answers = fleet.plane.send(&conflicts());
    assert!(answers.iter().all(Response::done), "{:?}", answers.iter().find(|answer| !answer.done()));
    assert!(eventually(PATIENCE, || refused(&fleet) == MANY), "{} lost", refused(&fleet));
    for (namespace, _) in others {
        fleet.plane.wait_ready(&format!("{namespace}/web"));
    }

    // The agent sees all changes at the same moment.
    fleet.agent(0).pause();
    let from = fleet.plane.audit().len();
    for key in ["early/web", "late/web", "flood/dom"] {
        fleet.plane.patch(Resource::Forwards, key, json!({"spec": {"mode": "Disabled"}}));
    }
    fleet.agent(0).resume();
    for (namespace, _) in others {
        fleet.plane.wait_condition(&format!("{namespace}/web"), "Ready", "True", "Disabled");
    }
    assert!(eventually(PATIENCE, || refused(&fleet) == 0), "{} are refused", refused(&fleet));
    for (namespace, _) in others {
        let told = || fleet.events(&format!("{namespace}/web")).iter().any(|(reason, ..)| reason == "Disabled");
        assert!(eventually(PATIENCE, told), "{namespace}: {:?}", fleet.events(&format!("{namespace}/web")));
    }

    let calls = fleet.calls(from);
    let status: Vec<_> = calls.iter().filter(|call| call.subresource == "status").collect();
    assert!(positions(&status, FLOOD).len() > MANY, "each of them was written");
    for (namespace, _) in others {
        // It removes its entry and writes the summary. A write waits for those that are running, and for one of each other
        // namespace.
        let at = positions(&status, namespace);
        let most = 2 * (AT_ONCE + others.len() + 1);
        assert!(at.len() >= 2 && at[1] < most, "{namespace}: {at:?}, and not before {most}");
        let after_summary = calls.iter().rposition(|call| call.subresource == "status" && call.namespace == namespace);
        let events: Vec<_> = calls[after_summary.unwrap()..].iter().filter(|call| call.resource == "events").collect();
        // One event is running, and one of each other namespace may be next.
        assert!(positions(&events, namespace)[0] <= 1 + others.len(), "{namespace}: {events:#?}");
    }
}

/// A forward with this number of labels and an annotation of this length.
fn huge(labels: usize, annotation: usize) -> Request {
    let mut request = forward("huge", "1.1.1.9", &json!({"port": 9000}));
    let key = |number: usize| (format!("{number:05}-{}", "k".repeat(57)), json!("v".repeat(63)));
    if let Some((_, body)) = &mut request.body {
        body["metadata"]["labels"] = (0..labels).map(key).collect();
        body["metadata"]["annotations"] = json!({"example.com/note": "x".repeat(annotation)});
    }
    request
}

/// Creates a forward that is as large as the store allows, so that its status does not fit. Labels have no limit of their own,
/// and annotations have one of 256 KiB.
fn create_huge(fleet: &Fleet) {
    let (mut fits, mut too_long) = (0, 250_000);
    let labels = (1000..16_000).step_by(500).take_while(|labels| created(fleet, &huge(*labels, fits))).last();
    let labels = labels.expect("a forward with 1,000 labels fits");
    assert!(!created(fleet, &huge(labels, too_long)), "{labels} labels");
    while too_long - fits > 100 {
        let middle = fits.midpoint(too_long);
        if created(fleet, &huge(labels, middle)) { fits = middle } else { too_long = middle }
    }
    fleet.plane.must(&huge(labels, fits));
}

/// Whether the object can be created. It is deleted again.
fn created(fleet: &Fleet, request: &Request) -> bool {
    let answer = fleet.plane.send_one(request);
    if answer.done() {
        fleet.plane.delete(Resource::Forwards, "flood/huge");
    }
    answer.done()
}

#[test]
fn an_object_whose_status_cannot_be_stored_is_no_outage_for_the_others() {
    let mut fleet = Fleet::without_agents(1);
    fleet.plane.add_namespace(FLOOD);
    create_huge(&fleet);
    fleet.start(0);
    let tried = || fleet.calls(0).iter().filter(|call| call.name == "huge" && call.writes()).map(|call| call.code).collect();
    let failed = |times| eventually(PATIENCE, || Vec::len(&tried()) >= times);
    assert!(failed(3), "{:?}", tried());
    for (key, port) in [("flood/web", 80), ("lines/web", 81)] {
        fleet.apply(key, &spec(port, SERVER, port));
        fleet.plane.wait_ready(key);
    }
    let so_far = tried().len();
    assert!(failed(so_far + 1), "it is tried again");
    let codes: Vec<u64> = tried();
    assert!(codes.iter().all(|code| *code == 500), "{codes:?}");
    let complaints = fleet.agent(0).complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("refuses this"), "{complaints:#?}");
}
