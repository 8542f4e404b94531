//! Tests agents that have more rights than intended: the admission policy still applies.

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::plane::access::{AGENT, SYSTEM};
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;
use crate::plane::{Plane, Resource};
use crate::status::manager;
use crate::{Agent, LINES, NODE, OTHER, add_forward, forward, leases, made, status};

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

    // A whole object, which replaces the one that was read. It may remove entries, and write none.
    let put = |manager: &str, change: &dyn Fn(&mut Value)| {
        let mut object = forward(&plane, "web");
        change(&mut object);
        Request::put(format!("{path}/status?fieldManager={manager}"), object)
    };
    agent.does(&status::apply_entry("web", &status::entry(NODE, "Active")));
    other.does(&status::apply_entry("web", &status::entry(OTHER, "Active")));
    let not = "but not write the entry of node-b";
    agent.refused(&put(&manager(NODE), &|object| object["status"]["nodes"][1]["role"] = "Standby".into()), not);
    agent.refused(
        &put(&manager(NODE), &|object| object["status"]["nodes"] = json!([{"nodeName": OTHER, "role": "Standby"}])),
        not,
    );
    agent.refused(
        &put(&manager(NODE), &|object| object["status"]["nodes"][0]["role"] = "Standby".into()),
        "may not own these fields",
    );
    agent.refused(
        &put(&manager(NODE), &|object| object["status"]["activeNode"] = NODE.into()),
        "only the field manager portforward-summary",
    );
    agent.does(&put(&manager(OTHER), &|object| {
        object["metadata"]["managedFields"] = json!([]);
        object["metadata"]["labels"] = json!({"more": "x"});
        object["spec"]["mode"] = "Disabled".into();
        object["status"]["nodes"].as_array_mut().unwrap().remove(1);
    }));
    let after = forward(&plane, "web");
    assert_eq!((&after["spec"], &after["metadata"]["labels"]), (&before["spec"], &before["metadata"]["labels"]));
    assert_eq!(after["status"]["nodes"], json!([status::entry(NODE, "Active")]));

    other.does(&leases::apply(OTHER, OTHER, &json!({}), ""));
    let lease = Resource::Leases.path(Some(SYSTEM), Some(OTHER));
    agent.refused(&Request::delete(&*lease), "may write only the Lease node-a");
    other.does(&Request::delete(lease));

    only_the_status_of_a_grant(&plane, &agent);
}

/// A grant is written by the administrators of the nodes. The agents write its status only.
#[track_caller]
fn only_the_status_of_a_grant(plane: &Plane, agent: &Agent<'_>) {
    let base = "/apis/portforward.dev/v1alpha1/portforwardgrants";
    let grant = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": "lines"},
        "spec": {
            "namespaces": [LINES], "clients": ["1.1.0.0/16"],
            "listen": [{"cidrs": ["192.168.0.0/24"]}], "upstreams": [{"cidrs": ["3.3.3.0/24"]}],
        },
    });
    plane.apply(&grant.to_string());
    let only_status = "an agent may change only the status of a PortForward or PortForwardGrant";
    let mut wider = grant.clone();
    wider["spec"]["namespaces"] = json!([LINES, "default"]);
    let path = format!("{base}/lines");
    agent.refused(&Request::apply(format!("{path}?fieldManager=portforward-grants&force=true"), wider.clone()), only_status);
    agent.refused(&Request::merge(&*path, json!({"spec": {"clients": ["0.0.0.0/1"]}})), only_status);
    agent.refused(&Request::merge(&*path, json!({"metadata": {"labels": {"a": "b"}}})), only_status);
    wider["metadata"]["name"] = "new".into();
    agent.refused(&Request::post(base, wider), only_status);
    agent.refused(&Request::delete(&*path), only_status);
    agent.refused(&Request::delete(base), only_status);

    let mut written = grant;
    written["status"] = json!({"observedGeneration": 1, "forwards": 2, "refused": 1, "refusals": [{"namespace": LINES, "name": "web", "message": "spec.ports"}]});
    let apply = |manager: &str| Request::apply(format!("{path}/status?fieldManager={manager}&force=true"), written.clone());
    agent.does(&apply("portforward-grants"));
    for manager in ["evil", "portforward-summary", "portforward-node-node-a"] {
        agent.refused(&apply(manager), "may not write portforwardgrants as the field manager");
    }
    let count = json!({"status": {"forwards": 9}});
    agent.refused(
        &Request::merge(format!("{path}/status"), count.clone()),
        "may not write portforwardgrants as the field manager",
    );
    agent.refused(
        &Request::merge(format!("{path}/status?fieldManager=portforward-grants"), count),
        "may not own these fields of status",
    );
    let long = json!({"status": {"refusals": [{"namespace": LINES, "name": "web", "message": "m".repeat(1025)}]}});
    assert_eq!(agent.send(&Request::merge(format!("{path}/status?fieldManager=portforward-grants"), long)).status, 422);
    let after = plane.must(&Request::get(path));
    assert_eq!((&after["spec"]["namespaces"], &after["status"]["forwards"]), (&json!([LINES]), &json!(2)));
}
