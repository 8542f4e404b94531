//! Tests agents that have more rights than intended: the admission policy still applies.

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::plane::Resource;
use crate::plane::access::{AGENT, SYSTEM};
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;
use crate::{Agent, LINES, NODE, OTHER, add_forward, forward, leases, made};

#[test]
fn with_every_right_an_agent_still_speaks_for_its_own_node_only() {
    let plane = made();
    add_forward(&plane, "web");
    let all = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "too-much"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": AGENT, "namespace": SYSTEM}],
    });
    plane.apply(&all.to_string());
    let (agent, other) = (Agent::of(&plane, NODE), Agent::of(&plane, OTHER));
    assert!(eventually(PATIENCE, || agent.send(&Request::get("/api/v1/secrets")).done()));
    let path = Resource::Forwards.path(Some(LINES), Some("web"));

    let only_status = "an agent may change only the status of a PortForward";
    let before = forward(&plane, "web");
    let named = |name: &str| json!({"apiVersion": before["apiVersion"], "kind": before["kind"], "metadata": {"name": name}, "spec": before["spec"]});
    agent.refused(&Request::merge(&*path, json!({"spec": {"mode": "Disabled"}})), only_status);
    agent.refused(&Request::merge(&*path, json!({"metadata": {"labels": {"a": "b"}}})), only_status);
    agent.refused(&Request::post(Resource::Forwards.path(Some(LINES), None), named("new")), only_status);
    agent.refused(&Request::delete(&*path), only_status);
    agent.refused(&Request::delete(Resource::Forwards.path(Some(LINES), None)), only_status);

    // A whole object, which replaces the one that was read.
    let put = |change: &dyn Fn(&mut Value)| {
        let mut object = forward(&plane, "web");
        change(&mut object);
        Request::put(format!("{path}/status"), object)
    };
    let entry = |node: &str| json!({"nodeName": node, "role": "Active"});
    agent.does(&put(&|object| object["status"]["nodes"] = json!([entry(NODE)])));
    other.does(&put(&|object| object["status"]["nodes"].as_array_mut().unwrap().push(entry(OTHER))));
    let not = "but not write the entry of node-b";
    agent.refused(&put(&|object| object["status"]["nodes"][1]["role"] = "Standby".into()), not);
    agent.refused(&put(&|object| object["status"]["nodes"] = json!([{"nodeName": OTHER, "role": "Standby"}])), not);
    agent.does(&put(&|object| {
        object["metadata"]["managedFields"] = json!([]);
        object["metadata"]["labels"] = json!({"more": "x"});
        object["spec"]["mode"] = "Disabled".into();
        object["status"]["nodes"].as_array_mut().unwrap().remove(1);
    }));
    let after = forward(&plane, "web");
    assert_eq!((&after["spec"], &after["metadata"]["labels"]), (&before["spec"], &before["metadata"]["labels"]));
    assert_eq!(after["status"]["nodes"], json!([entry(NODE)]));

    other.does(&leases::apply(OTHER, OTHER, &json!({}), ""));
    let lease = Resource::Leases.path(Some(SYSTEM), Some(OTHER));
    agent.refused(&Request::delete(&*lease), "may write only the Lease node-a");
    other.does(&Request::delete(lease));
}
