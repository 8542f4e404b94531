//! Tests Leases and events: an agent writes only its own, with its own name.

use serde_json::{Value, json};

use crate::plane::Resource;
use crate::plane::access::SYSTEM;
use crate::plane::http::Request;
use crate::{Agent, LINES, NODE, OTHER, plane};

/// The field manager of Leases.
pub(crate) const LEASES: &str = "portforward-agent";
/// The field manager of events.
const EVENTS: &str = "portforward-events";

/// Creates or renews a Lease as an agent does, with additional metadata.
pub(crate) fn apply(name: &str, holder: &str, metadata: &Value, query: &str) -> Request {
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 40},
    });
    lease["metadata"]["name"] = name.into();
    let path = Resource::Leases.path(Some(SYSTEM), Some(name));
    Request::apply(format!("{path}?fieldManager={LEASES}&force=true{query}"), lease)
}

#[test]
fn an_agent_makes_and_renews_the_lease_of_its_own_node_and_no_other() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    let plain = json!({"labels": {"portforward.dev/agent": "true"}});
    let own = "may write only the Lease node-a, with itself as the holder";
    // Before the other agent has a Lease: neither with its name as holder nor with its name as object name.
    agent.refused(&apply(OTHER, OTHER, &plain, ""), own);
    agent.refused(&apply(OTHER, NODE, &plain, ""), own);
    agent.refused(&apply("any", NODE, &plain, ""), own);
    agent.refused(&apply(NODE, OTHER, &plain, ""), own);
    let post = json!({"metadata": {"name": "any"}, "spec": {"holderIdentity": NODE}});
    agent.refused(&Request::post(leases(None), post), own);

    for (node, name) in [(&agent, NODE), (&agent, NODE), (&other, OTHER), (&other, OTHER)] {
        node.does(&apply(name, name, &plain, ""));
    }
    // An agent that follows only some forwards names its pool, and takes the name back.
    let pool = json!({"labels": {"portforward.dev/agent": "true", "portforward.dev/pool": "0123456789abcdef"}});
    for metadata in [&pool, &pool, &plain] {
        let lease = agent.does(&apply(NODE, NODE, metadata, ""));
        assert_eq!(lease["metadata"]["labels"], metadata["labels"]);
    }
    // Once it has a Lease: an agent cannot renew it, take it over, give it away or end it.
    let path = |name| leases(Some(name));
    agent.refused(&apply(OTHER, OTHER, &plain, ""), own);
    agent.refused(&apply(OTHER, NODE, &plain, ""), own);
    agent.refused(&Request::merge(path(OTHER), json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})), own);
    agent.refused(&Request::merge(path(OTHER), json!({"spec": {"leaseDurationSeconds": 1}})), own);
    agent.refused(&Request::merge(path(NODE), json!({"spec": {"holderIdentity": OTHER}})), own);
    agent.refused(&Request::json_patch(path(NODE), json!([{"op": "remove", "path": "/spec/holderIdentity"}])), own);
    // Without its label, a Lease is not seen by the other agents.
    agent.refused(&Request::merge(path(OTHER), json!({"metadata": {"labels": null}})), own);
    agent.refused(&Request::json_patch(path(OTHER), json!([{"op": "remove", "path": "/metadata/labels"}])), own);
    agent.unentitled(&Request::delete(path(NODE)));
    agent.unentitled(&Request::put(path(NODE), json!({})));
    assert_eq!(plane().get(Resource::Leases, &format!("{SYSTEM}/{OTHER}")).unwrap()["spec"]["holderIdentity"], OTHER);

    let neither = "an agent may not set finalizers or owner references";
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "1"}]);
    agent.refused(&apply(NODE, NODE, &json!({"finalizers": ["example.com/x"]}), ""), neither);
    agent.refused(&apply(NODE, NODE, &json!({"ownerReferences": owner}), ""), neither);
    // Fields that an administrator has set do not prevent a renewal.
    plane().patch(Resource::Leases, &format!("{SYSTEM}/{NODE}"), json!({"metadata": {"ownerReferences": owner}}));
    agent.does(&apply(NODE, NODE, &plain, ""));
    agent.refused(&Request::merge(path(NODE), json!({"metadata": {"ownerReferences": null}})), neither);
}

/// The path of a Lease, or of all, for a request with the field manager of an agent.
pub(crate) fn leases(name: Option<&str>) -> String {
    format!("{}?fieldManager={LEASES}", Resource::Leases.path(Some(SYSTEM), name))
}

/// The same of events.
pub(crate) fn events(name: Option<&str>) -> String {
    format!("{}?fieldManager={EVENTS}", Resource::Events.path(Some(LINES), name))
}

/// An event with this name, with changes, as an agent creates it.
pub(crate) fn event(name: &str, changes: &Value) -> Request {
    let mut event = json!({
        "metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "action": "Sync", "reason": "Ready", "type": "Normal", "note": "a test",
        "reportingController": "portforward.dev/agent", "reportingInstance": NODE,
        "regarding": {"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "namespace": LINES, "name": "web"},
    });
    for (field, value) in changes.as_object().unwrap() {
        event[field] = value.clone();
    }
    Request::post(events(None), event)
}

#[test]
fn an_agent_reports_on_forwards_and_in_its_own_name() {
    let (agent, other) = (Agent::of(plane(), NODE), Agent::of(plane(), OTHER));
    let own = "may create events only about PortForwards, as portforward.dev/agent on node-a";
    agent.does(&event("node-a.portforward-000", &json!({})));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "namespace": LINES, "name": "web"});
    let stranger = json!({"apiVersion": "example.com/v1", "kind": "PortForward", "namespace": LINES, "name": "web"});
    let kindred = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "Other", "namespace": LINES, "name": "web"});
    for changes in [
        json!({"reportingInstance": OTHER}),
        json!({"reportingController": "kubelet"}),
        json!({"regarding": pod}),
        json!({"regarding": stranger}),
        json!({"regarding": kindred}),
    ] {
        agent.refused(&event("other", &changes), own);
    }
    let neither = "an agent may not set finalizers or owner references";
    let held = json!({"metadata": {"name": "node-a.portforward-001", "finalizers": ["example.com/x"]}});
    agent.refused(&event("", &held), neither);

    let path = events(Some("node-a.portforward-000"));
    let again = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    agent.does(&Request::merge(&*path, again.clone()));
    other.refused(&Request::merge(&*path, again), "on node-b");
    agent.unentitled(&Request::delete(path));

    let foreign = event("foreign", &json!({"reportingController": "kubelet", "regarding": pod}));
    plane().must(&foreign);
    let path = events(Some("foreign"));
    agent.refused(&Request::merge(path, json!({"series": {"count": 9, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}})), own);
}
