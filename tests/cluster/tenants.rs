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
