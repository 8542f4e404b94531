//! Tests the roles for users: who may write forwards must not be able to permit anything to himself.

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::plane::Resource;
use crate::plane::http::{Request, Response};
use crate::plane::objects::PATIENCE;
use crate::{Agent, HOUR, LINES, plane, refusal};

/// Where a role is bound.
#[derive(Clone, Copy)]
enum Bound {
    /// In the namespace of the forwards.
    Namespace,
    /// In the whole cluster.
    Cluster,
}

/// A user with this role of `deploy/base`.
fn user(name: &str, role: &str, bound: Bound) -> Agent<'static> {
    let plane = plane();
    plane.must(&Request::post(Resource::ServiceAccounts.path(Some(LINES), None), json!({"metadata": {"name": name}})));
    bind(name, role, bound);
    Agent { plane, token: plane.token(LINES, name, HOUR) }
}

/// Gives a user a role of `deploy/base`.
fn bind(name: &str, role: &str, bound: Bound) {
    let (kind, metadata) = match bound {
        Bound::Namespace => ("RoleBinding", json!({"name": format!("{name}-{role}"), "namespace": LINES})),
        Bound::Cluster => ("ClusterRoleBinding", json!({"name": format!("{name}-{role}")})),
    };
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": LINES}],
    });
    plane().apply(&binding.to_string());
}

fn is_forbidden(answer: &Response) -> bool {
    answer.status == 403 && refusal(answer).contains("cannot")
}

/// Waits until RBAC lets the user do this: the API server reads a new binding a moment later.
fn wait_allowed(user: &Agent<'_>, request: &Request) {
    assert!(eventually(PATIENCE, || user.send(request).done()), "{request:?}\n{:?}", user.send(request));
}

/// A new grant that permits everything to the namespace, and every write to an existing one.
fn writes(grant: &str) -> Vec<Request> {
    let mut object: Value = serde_saphyr::from_str(include_str!("../refusals/grant.yaml")).unwrap();
    object["metadata"] = json!({"name": "self-made"});
    object["spec"]["namespaces"] = json!([LINES]);
    let path = Resource::Grants.path(None, Some(grant));
    let wide = json!({"spec": {"clients": ["0.0.0.0/0"], "priority": 1000}});
    vec![
        Request::post(Resource::Grants.path(None, None), object.clone()),
        Request::apply(format!("{}?fieldManager=me", Resource::Grants.path(None, Some("self-made"))), object.clone()),
        Request::merge(&*path, wide),
        Request::put(&*path, object),
        Request::merge(format!("{path}/status"), json!({"status": {"forwards": 7}})),
        Request::delete(&*path),
        Request::delete(Resource::Grants.path(None, None)),
    ]
}

fn add_grant(name: &str) {
    let mut object: Value = serde_saphyr::from_str(include_str!("../refusals/grant.yaml")).unwrap();
    object["metadata"] = json!({"name": name});
    plane().apply(&object.to_string());
}

#[test]
fn who_may_write_forwards_can_neither_write_nor_read_grants() {
    add_grant("of-the-nodes");
    let listed = |resource: Resource, namespace| Request::get(resource.path(namespace, None));
    for (name, bound) in [("tenant", Bound::Namespace), ("tenant-of-all", Bound::Cluster)] {
        let tenant = user(name, "portforward-operator-edit", bound);
        wait_allowed(&tenant, &listed(Resource::Forwards, Some(LINES)));
        for request in writes("of-the-nodes") {
            assert!(is_forbidden(&tenant.send(&request)), "{request:?}");
        }
        assert!(is_forbidden(&tenant.send(&listed(Resource::Grants, None))));
    }
}

#[test]
fn a_role_for_grants_has_no_effect_in_a_namespace_and_never_writes_status() {
    add_grant("seen");
    let list = Request::get(Resource::Grants.path(None, None));
    let reader = user("reader", "portforward-operator-grants-view", Bound::Cluster);
    wait_allowed(&reader, &list);
    for request in writes("seen") {
        assert!(is_forbidden(&reader.send(&request)), "{request:?}");
    }
    let forwards = Request::get(Resource::Forwards.path(Some(LINES), None));
    let near = user("near", "portforward-operator-grants-edit", Bound::Namespace);
    // When the API server knows this binding, it knows the one before too.
    bind("near", "portforward-operator-view", Bound::Namespace);
    wait_allowed(&near, &forwards);
    let admin = user("node-admin", "portforward-operator-grants-edit", Bound::Cluster);
    wait_allowed(&admin, &list);
    for request in writes("seen").into_iter().chain([list]) {
        assert!(is_forbidden(&near.send(&request)), "{request:?}");
    }
    let status =
        Request::merge(format!("{}/status", Resource::Grants.path(None, Some("seen"))), json!({"status": {"forwards": 7}}));
    assert!(is_forbidden(&admin.send(&status)));
    admin.does(&Request::merge(Resource::Grants.path(None, Some("seen")), json!({"spec": {"priority": 7}})));
    assert!(is_forbidden(&admin.send(&forwards)), "a role for grants is none for forwards");
}
