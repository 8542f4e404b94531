//! Tries to store more in Leases and events than they need: the store has a limited size, and when it is full, nobody in the
//! cluster can write.

use serde_json::{Value, json};

use crate::leases::{LEASES, apply, event, events, leases};
use crate::plane::Resource;
use crate::plane::access::SYSTEM;
use crate::plane::http::Request;
use crate::{Agent, LINES, NODE, plane};

const METADATA: &str = "an agent may set no annotations";
const MANAGED: &str = "an agent may not extend managedFields";
const EVENT: &str = "an event of an agent has the name";

/// An entry of managedFields with many bytes in its keys.
fn tracked(manager: &str, group: &str, fields: &Value) -> Value {
    json!([{"manager": manager, "operation": "Update", "apiVersion": format!("{group}/v1"), "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields}])
}

fn large() -> String {
    "x".repeat(10_000)
}

/// The same patch in every form that the resource knows.
fn patches(path: &str, change: &Value) -> Vec<Request> {
    let merge = Request::merge(path, change.clone());
    let strategic = Request { body: Some(("application/strategic-merge-patch+json", change.clone())), ..merge.clone() };
    vec![merge, strategic]
}

#[test]
fn a_lease_holds_a_name_and_times_and_nothing_large() {
    let plane = crate::made();
    let agent = Agent::of(&plane, NODE);
    let plain = json!({"labels": {"portforward.dev/agent": "true"}});
    let own = leases(Some(NODE));
    let metadata = [
        (json!({"annotations": {"a": large()}}), METADATA),
        (json!({"labels": {"portforward.dev/agent": "true", "a": "b"}}), METADATA),
        (json!({"labels": {"portforward.dev/agent": "more"}}), METADATA),
        (json!({"labels": {"portforward.dev/agent": "true", "portforward.dev/pool": "any-other-text"}}), METADATA),
        (json!({"generateName": "node"}), METADATA),
        (json!({"finalizers": [format!("example.com/{}", "x".repeat(60))]}), "finalizers or owner references"),
        (
            json!({"managedFields": tracked("x", "coordination.k8s.io", &json!({"f:spec": {format!("f:{}", large()): {}}}))}),
            MANAGED,
        ),
        (
            json!({"managedFields": tracked(LEASES, "coordination.k8s.io", &json!({"f:spec": {format!("f:{}", large()): {}}}))}),
            MANAGED,
        ),
        (json!({"managedFields": tracked(LEASES, "coordination.k8s.io", &json!({format!("f:{}", large()): {}}))}), MANAGED),
        (
            json!({"managedFields": tracked(LEASES, "coordination.k8s.io", &json!({"f:spec": {"f:renewTime": {"f:x": {}}}}))}),
            MANAGED,
        ),
        (
            json!({"managedFields": tracked(LEASES, "coordination.k8s.io", &json!({"f:metadata": {"f:labels": {format!("f:{}", large()): {}}}}))}),
            MANAGED,
        ),
        (
            json!({"managedFields": tracked("before-first-apply", "coordination.k8s.io", &json!({"f:metadata": {"f:annotations": {format!("f:{}", large()): {}}}}))}),
            MANAGED,
        ),
    ];
    let spec = |spec: Value| {
        let mut spec = spec;
        spec["holderIdentity"] = NODE.into();
        spec
    };
    let specs = [json!({"leaseTransitions": 1}), json!({"acquireTime": "2026-01-01T00:00:00.000000Z"})];
    // At the creation, and of an existing Lease. A part may be refused by the API server itself, for another reason.
    for existing in [false, true] {
        if existing {
            agent.does(&apply(NODE, NODE, &plain, ""));
        }
        for (metadata, words) in &metadata {
            let mut whole = json!({"metadata": metadata, "spec": spec(json!({}))});
            whole["metadata"]["name"] = NODE.into();
            if existing {
                for request in patches(&own, &json!({"metadata": metadata})) {
                    agent.refused(&request, words);
                }
            } else {
                agent.refused(&Request::post(leases(None), whole), words);
            }
            if metadata["managedFields"].is_null() && metadata["generateName"].is_null() {
                agent.refused(&apply(NODE, NODE, metadata, ""), words);
            }
        }
        for part in &specs {
            let words = "an agent may set only holderIdentity, leaseDurationSeconds and renewTime";
            if existing {
                for request in patches(&own, &json!({"spec": part})) {
                    agent.refused(&request, words);
                }
            }
            let mut request = apply(NODE, NODE, &plain, "");
            request.body.as_mut().unwrap().1["spec"] = spec(part.clone());
            agent.refused(&request, words);
        }
    }
    // The preferred holder is a text without a limit. The API server drops it unless a feature is on.
    let answer = agent.send(&Request::merge(&*own, json!({"spec": {"preferredHolder": large(), "strategy": "x"}})));
    assert!(plane.get(Resource::Leases, &format!("{SYSTEM}/{NODE}")).unwrap()["spec"]["preferredHolder"].is_null(), "{answer:?}");
    for manager in ["evil", ""] {
        let path = own.replace(LEASES, manager);
        agent.refused(
            &Request::merge(path, json!({"spec": {"leaseDurationSeconds": 40}})),
            "may not write leases as the field manager",
        );
    }
    let nameless = Resource::Leases.path(Some(SYSTEM), Some(NODE));
    agent.refused(&Request::merge(nameless, json!({"spec": {"leaseDurationSeconds": 40}})), "as the field manager \"\"");
}

/// An agent that could not renew its Lease would count as dead.
#[test]
fn whatever_an_administrator_writes_into_a_lease_the_agent_renews_it() {
    let plane = crate::made();
    let agent = Agent::of(&plane, NODE);
    let plain = json!({"labels": {"portforward.dev/agent": "true"}});
    let path = Resource::Leases.path(Some(SYSTEM), Some(NODE));
    let metadata = json!({"annotations": {"note": large()}, "labels": {"a": "b", "portforward.dev/agent": "x"}, "finalizers": ["example.com/x"]});
    agent.does(&apply(NODE, NODE, &plain, ""));
    let spec = json!({"leaseTransitions": 3, "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 1});
    for managed in [json!(null), json!([{}])] {
        let mut metadata = metadata.clone();
        if !managed.is_null() {
            metadata["managedFields"] = managed;
            metadata.as_object_mut().unwrap().remove("finalizers");
            plane.must(&Request::merge(&*path, json!({"metadata": {"finalizers": null}})));
        }
        plane.must(&Request::merge(format!("{path}?fieldManager=kubectl-edit"), json!({"metadata": metadata, "spec": spec})));
        agent.does(&apply(NODE, NODE, &plain, ""));
        agent.does(&apply(NODE, NODE, &plain, ""));
        assert_eq!(plane.get(Resource::Leases, &format!("{SYSTEM}/{NODE}")).unwrap()["spec"]["leaseDurationSeconds"], 40);
    }
}

#[test]
fn an_event_is_short_and_the_number_of_events_of_a_node_is_limited() {
    let agent = Agent::of(plane(), NODE);
    let name = "node-a.portforward-0ff";
    agent.does(&event(name, &json!({})));
    let regarding = |field: &str, value: &str| {
        let mut regarding =
            json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "namespace": LINES, "name": "web"});
        regarding[field] = value.into();
        json!({"regarding": regarding})
    };
    let metadata = |field: &str, value: Value| {
        let mut metadata = json!({"name": "node-a.portforward-100"});
        metadata[field] = value;
        json!({"metadata": metadata})
    };
    let named = |name: &str| json!({"metadata": {"name": name}});
    for (changes, words) in [
        // Attack 18 filled the store with labels.
        (metadata("labels", json!({"a": "b"})), METADATA),
        (metadata("annotations", json!({"a": large()})), METADATA),
        (metadata("generateName", json!(NODE)), METADATA),
        (metadata("finalizers", json!(["example.com/x"])), "finalizers or owner references"),
        (metadata("managedFields", tracked("x", "events.k8s.io", &json!({format!("f:{}", large()): {}}))), MANAGED),
        (
            metadata(
                "managedFields",
                tracked("portforward-events", "events.k8s.io", &json!({"f:note": {format!("f:{}", large()): {}}})),
            ),
            MANAGED,
        ),
        // The number of names is limited, and with it the number of events.
        (named("any"), EVENT),
        (named("node-a.portforward-400"), EVENT),
        (named("node-a.portforward-0000"), EVENT),
        (named("node-b.portforward-000"), EVENT),
        (json!({"metadata": {"generateName": "node-a.portforward-0"}}), EVENT),
        (json!({"reason": "two words"}), EVENT),
        (json!({"reason": "R".repeat(65)}), EVENT),
        (json!({"action": "Other"}), EVENT),
        (json!({"related": {"kind": "Pod", "fieldPath": large()}}), EVENT),
        (regarding("fieldPath", &large()), EVENT),
        (regarding("resourceVersion", "1"), EVENT),
        (regarding("name", &large()), EVENT),
        (regarding("uid", &large()), EVENT),
        (regarding("namespace", "default"), EVENT),
        (regarding("apiVersion", &format!("portforward.dev/{}", large())), "may create events only about PortForwards"),
    ] {
        let mut changes = changes;
        if changes["metadata"].is_null() {
            changes["metadata"] = json!({"name": "node-a.portforward-100"});
        }
        agent.refused(&event("", &changes), words);
    }
    // The API server refuses these itself.
    for changes in [
        json!({"note": "n".repeat(1025)}),
        json!({"deprecatedSource": {"component": large()}}),
        json!({"deprecatedCount": 3}),
        json!({"deprecatedFirstTimestamp": "2026-01-01T00:00:00Z"}),
    ] {
        let answer = agent.send(&event("node-a.portforward-100", &changes));
        assert!([403, 422].contains(&answer.status), "{changes}\n{answer:?}");
    }

    let own = events(Some(name));
    for (change, words) in [
        (json!({"metadata": {"labels": {"a": large()}}}), ""),
        (json!({"metadata": {"annotations": {"a": large()}}}), METADATA),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "1"}]}}),
            "finalizers or owner references",
        ),
        (
            json!({"metadata": {"managedFields": tracked("portforward-events", "events.k8s.io", &json!({"f:series": {format!("f:{}", large()): {}}}))}}),
            MANAGED,
        ),
    ] {
        for request in patches(&own, &change) {
            let answer = agent.send(&request);
            assert!([403, 422].contains(&answer.status), "{request:?}\n{answer:?}");
            if answer.status == 403 {
                agent.refused(&request, words);
            }
        }
    }
    for path in [own.replace("portforward-events", "evil"), Resource::Events.path(Some(LINES), Some(name))] {
        let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
        agent.refused(&Request::merge(path, series), "may not write events as the field manager");
    }
    let applied = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name, "labels": {"a": "b"}}, "eventTime": "2026-01-01T00:00:00.000000Z"});
    agent.refused(&Request::apply(format!("{}&force=true", own.replace("portforward-events", "evil")), applied.clone()), "");
    agent.refused(&Request::apply(format!("{own}&force=true"), applied), METADATA);
    // The old group has the same events under another form.
    agent.unentitled(&Request::post(format!("/api/v1/namespaces/{LINES}/events?fieldManager=portforward-events"), json!({})));
}
