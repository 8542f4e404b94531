//! Objects of the API, by raw calls (a few milliseconds each) and by `kubectl apply` as users do it.

use std::process::Output;

use serde_json::{Value, json};

use super::Plane;
use super::http::Request;
pub(crate) use crate::bed::wait::PATIENCE;
use crate::bed::wait::eventually;

/// The resources that tests look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Ours.
    Forwards,
    /// Of the cluster.
    Nodes,
    /// Of the cluster.
    Namespaces,
    /// Of a namespace.
    ServiceAccounts,
    /// Of a namespace, in `coordination.k8s.io`.
    Leases,
    /// Of a namespace, in `events.k8s.io`.
    Events,
    /// Of the cluster.
    ClusterRoles,
    /// Of a namespace.
    Roles,
    /// The definitions of resources, of the cluster.
    Definitions,
    /// Of a namespace, in `discovery.k8s.io`.
    EndpointSlices,
}

impl Resource {
    /// The path of `namespace/name`, or of `name` where it belongs to the cluster; without a name, of the collection.
    pub(crate) fn path(self, namespace: Option<&str>, name: Option<&str>) -> String {
        let (group, plural) = match self {
            Self::Forwards => ("apis/portforward.dev/v1alpha1", "portforwards"),
            Self::Nodes => ("api/v1", "nodes"),
            Self::Namespaces => ("api/v1", "namespaces"),
            Self::ServiceAccounts => ("api/v1", "serviceaccounts"),
            Self::Leases => ("apis/coordination.k8s.io/v1", "leases"),
            Self::Events => ("apis/events.k8s.io/v1", "events"),
            Self::ClusterRoles => ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
            Self::Roles => ("apis/rbac.authorization.k8s.io/v1", "roles"),
            Self::Definitions => ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
            Self::EndpointSlices => ("apis/discovery.k8s.io/v1", "endpointslices"),
        };
        let namespace = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        let name = name.map(|name| format!("/{name}")).unwrap_or_default();
        format!("/{group}{namespace}/{plural}{name}")
    }

    /// The path of an object by its key, `namespace/name` or `name`.
    fn object(self, key: &str) -> String {
        match key.split_once('/') {
            Some((namespace, name)) => self.path(Some(namespace), Some(name)),
            None => self.path(None, Some(key)),
        }
    }
}

impl Plane {
    /// `kubectl apply --server-side --validate=strict` of a text, which has to succeed; what it printed.
    pub(crate) fn apply(&self, yaml: &str) -> String {
        self.try_apply(yaml).unwrap_or_else(|refusal| panic!("{refusal}\n{yaml}"))
    }

    /// The same; `Err` with what a user reads where it is refused.
    pub(crate) fn try_apply(&self, yaml: &str) -> Result<String, String> {
        let output = self.apply_output(yaml);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The same, with its warnings on stderr.
    pub(crate) fn apply_output(&self, yaml: &str) -> Output {
        let arguments = ["apply", "--server-side", "--validate=strict", "--field-manager=test", "--force-conflicts", "-f", "-"];
        self.kubectl_with(arguments, yaml)
    }

    /// An object by its key (`namespace/name`, or `name`); `None` where there is none.
    pub(crate) fn get(&self, resource: Resource, key: &str) -> Option<Value> {
        let answer = self.send_one(&Request::get(resource.object(key)));
        assert!(answer.done() || answer.status == 404, "{resource:?} {key}: {answer:?}");
        answer.done().then_some(answer.body)
    }

    /// Every object of a resource, of all namespaces.
    pub(crate) fn list(&self, resource: Resource) -> Vec<Value> {
        let answer = self.send_one(&Request::get(resource.path(None, None)));
        assert!(answer.done(), "{resource:?}: {answer:?}");
        answer.body["items"].as_array().cloned().unwrap_or_default()
    }

    /// Deletes an object that is there.
    pub(crate) fn delete(&self, resource: Resource, key: &str) {
        self.must(&Request::delete(resource.object(key)));
    }

    /// Changes the fields that `changes` names, null removes; what the object is then.
    pub(crate) fn patch(&self, resource: Resource, key: &str, changes: Value) -> Value {
        self.must(&Request::merge(resource.object(key), changes))
    }

    /// Sends a call that has to succeed; its answer.
    pub(crate) fn must(&self, request: &Request) -> Value {
        let answer = self.send_one(request);
        assert!(answer.done(), "{request:?}\n{answer:?}");
        answer.body
    }

    /// Makes a namespace.
    pub(crate) fn add_namespace(&self, name: &str) {
        self.must(&Request::post(Resource::Namespaces.path(None, None), json!({"metadata": {"name": name}})));
    }

    /// Deletes a namespace with the forwards in it, as the controller of namespaces does, which is not part of a plane.
    pub(crate) fn delete_namespace(&self, name: &str) {
        let path = Resource::Namespaces.path(None, Some(name));
        self.must(&Request::delete(&*path));
        self.must(&Request::delete(Resource::Forwards.path(Some(name), None)));
        let mut namespace = self.must(&Request::get(&*path));
        namespace["spec"]["finalizers"] = json!([]);
        self.must(&Request::put(format!("{path}/finalize"), namespace));
    }

    /// Makes a node, as a kubelet would.
    pub(crate) fn add_node(&self, name: &str, labels: &Value) {
        let node = json!({"metadata": {"name": name, "labels": labels}});
        self.must(&Request::post(Resource::Nodes.path(None, None), node));
    }

    /// Waits until the API serves forwards: the definition is established and the first list comes back.
    pub(crate) fn wait_served(&self) {
        let served = || self.send_one(&Request::get(Resource::Forwards.path(None, None))).done();
        assert!(eventually(PATIENCE, served), "forwards are not served\n{:#?}", self.list(Resource::Definitions));
    }

    /// Waits for an object to hold something; panics with the object if it does not come.
    pub(crate) fn wait(&self, resource: Resource, key: &str, claim: &str, holds: impl Fn(&Value) -> bool) {
        let held = eventually(PATIENCE, || self.get(resource, key).is_some_and(|object| holds(&object)));
        assert!(held, "{key}: {claim}\n{:#}", self.get(resource, key).unwrap_or_default());
    }

    /// The forward `namespace/name`.
    pub(crate) fn forward(&self, key: &str) -> Option<Value> {
        self.get(Resource::Forwards, key)
    }

    /// The `(status, reason)` of a condition of the summary that judges the present generation; `None` while it judges an older one.
    pub(crate) fn condition(&self, key: &str, condition: &str) -> Option<(String, String)> {
        judged(&self.forward(key)?, condition)
    }

    /// Waits for a condition of the summary to have this status and reason; panics with the object if it does not come.
    pub(crate) fn wait_condition(&self, key: &str, condition: &str, status: &str, reason: &str) {
        let wanted = Some((status.to_owned(), reason.to_owned()));
        let claim = format!("never became {condition}={status} {reason}");
        self.wait(Resource::Forwards, key, &claim, |forward| judged(forward, condition) == wanted);
    }

    /// Waits for `Ready=True` with any reason.
    pub(crate) fn wait_ready(&self, key: &str) {
        let ready = |forward: &Value| judged(forward, "Ready").is_some_and(|(status, _)| status == "True");
        self.wait(Resource::Forwards, key, "never became ready", ready);
    }
}

/// The `(status, reason)` of a condition of the summary, if it judges the present generation.
fn judged(forward: &Value, condition: &str) -> Option<(String, String)> {
    let found = forward["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == condition)?;
    let text = |field: &str| found[field].as_str().map(str::to_owned);
    (found["observedGeneration"] == forward["metadata"]["generation"]).then_some((text("status")?, text("reason")?))
}
