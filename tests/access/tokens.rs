//! Tests which token is accepted for which node.

use serde_json::{Value, json};

use crate::plane::Resource;
use crate::plane::access::{AGENT, SYSTEM};
use crate::plane::http::Request;
use crate::{Agent, HOUR, LINES, NO_NODE, NODE, OTHER, add_forward, leases, plane};

fn entry(name: &str, node: &str) -> Request {
    let body = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": name, "namespace": LINES},
        "status": {"nodes": [{"nodeName": node, "role": "Standby"}]},
    });
    let path = Resource::Forwards.path(Some(LINES), Some(name));
    Request::apply(format!("{path}/status?fieldManager=portforward-node-{node}&force=true"), body)
}

/// A pod of the agents, on a node or not scheduled yet.
fn add_pod(name: &str, node: Option<&str>) {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"serviceAccountName": AGENT, "containers": [{"name": "agent", "image": "none"}]},
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    plane().must(&Request::post(format!("/api/v1/namespaces/{SYSTEM}/pods"), pod));
}

/// A token that the API server issues.
fn minted(bound: &[&str]) -> Agent<'static> {
    let made = plane().kubectl(["create", "token", AGENT, "--namespace", SYSTEM].iter().chain(bound));
    assert!(made.status.success(), "{made:?}");
    Agent { plane: plane(), token: String::from_utf8(made.stdout).unwrap().trim().to_owned() }
}

#[test]
fn a_token_that_names_no_node_writes_nothing() {
    add_forward(plane(), "nameless");
    add_pod("waiting", None);
    let forged = Agent { plane: plane(), token: plane().token(SYSTEM, AGENT, HOUR) };
    for agent in [forged, minted(&[]), minted(&["--bound-object-kind", "Pod", "--bound-object-name", "waiting"])] {
        agent.refused(&entry("nameless", NODE), NO_NODE);
        agent.refused(&leases::apply(NODE, NODE, &json!({}), ""), NO_NODE);
        agent.refused(&leases::apply("none", "", &json!({}), ""), NO_NODE);
        let path = Resource::Forwards.path(Some(LINES), Some("nameless"));
        let summary = Request::merge(format!("{path}/status"), json!({"status": {"activeNode": NODE}}));
        agent.refused(&summary, "kubectl create token --bound-object-kind Node --bound-object-name NODE");
        agent.does(&Request::get(Resource::Forwards.path(None, None)));
    }
}

#[test]
fn the_token_of_a_pod_and_one_that_is_bound_to_a_node_speak_for_that_node() {
    add_forward(plane(), "bound");
    add_pod("at-work", Some(NODE));
    let pod = ["--bound-object-kind", "Pod", "--bound-object-name", "at-work"];
    let node = ["--bound-object-kind", "Node", "--bound-object-name", NODE];
    for agent in [minted(&pod), minted(&node), Agent::of(plane(), NODE)] {
        agent.does(&entry("bound", NODE));
        agent.refused(&entry("bound", OTHER), "the agent of node node-a may not write portforwards as the field manager");
        agent.does(&leases::apply(NODE, NODE, &json!({}), "&dryRun=All"));
    }
    let other = Agent::of(plane(), OTHER);
    // If the other agent applied the same entry, it would also own it.
    other.refused(&entry("bound", NODE), "the agent of node node-b may not own these fields of status");
    other.refused(&leases::apply(NODE, NODE, &json!({}), ""), "may write only the Lease node-b");
}

#[test]
fn nobody_but_the_agents_is_held_to_the_policy() {
    add_forward(plane(), "free");
    let body: Value = entry("free", NODE).body.unwrap().1;
    let path = Resource::Forwards.path(Some(LINES), Some("free"));
    plane().must(&Request::apply(format!("{path}/status?fieldManager=x&force=true"), body));
    plane().must(&leases::apply("free", "free", &json!({"finalizers": ["example.com/x"]}), "&dryRun=All"));
    // Another account of the same namespace, with the same rights.
    let grant = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "another", "namespace": SYSTEM}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "another", "namespace": SYSTEM},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "portforward-operator"},
         "subjects": [{"kind": "ServiceAccount", "name": "another", "namespace": SYSTEM}]},
    ]});
    plane().apply(&grant.to_string());
    let another = Agent { plane: plane(), token: plane().token(SYSTEM, "another", HOUR) };
    let lease = leases::apply("free", "free", &json!({}), "&dryRun=All");
    assert!(
        crate::bed::wait::eventually(crate::plane::objects::PATIENCE, || another.send(&lease).done()),
        "{:?}",
        another.send(&lease)
    );
}
