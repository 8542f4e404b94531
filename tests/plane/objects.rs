//! Access to API objects: by raw calls (a few milliseconds each) and by `kubectl apply`, as users do it.

use std::process::Output;

use serde_json::{Value, json};

use super::Plane;
use super::http::Request;
pub(crate) use crate::bed::wait::PATIENCE;
use crate::bed::wait::eventually;

/// The resources that tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// PortForwards, namespaced.
    Forwards,
    /// `PortForwardGrant` objects, cluster-scoped.
    Grants,
    /// Cluster-scoped.
    Nodes,
    /// Cluster-scoped.
    Namespaces,
    /// Namespaced.
    ServiceAccounts,
    /// Namespaced, in `coordination.k8s.io`.
    Leases,
    /// Namespaced, in `events.k8s.io`.
    Events,
    /// Cluster-scoped.
    ClusterRoles,
    /// Namespaced.
    Roles,
    /// CRDs, cluster-scoped.
    Definitions,
    /// Namespaced, in `discovery.k8s.io`.
    EndpointSlices,
}

impl Resource {
    /// The path of `namespace/name`, or of `name` for a cluster-scoped object. Without a name, the path of the collection.
    pub(crate) fn path(self, namespace: Option<&str>, name: Option<&str>) -> String {
        let (group, plural) = match self {
            Self::Forwards => ("apis/portforward.dev/v1alpha1", "portforwards"),
            Self::Grants => ("apis/portforward.dev/v1alpha1", "portforwardgrants"),
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

    /// The path of an object with the key `namespace/name` or `name`.
    fn object(self, key: &str) -> String {
        match key.split_once('/') {
            Some((namespace, name)) => self.path(Some(namespace), Some(name)),
            None => self.path(None, Some(key)),
        }
    }
}

impl Plane {
    /// Runs `kubectl apply --server-side --validate=strict` with this text, which must succeed. Returns its output.
    pub(crate) fn apply(&self, yaml: &str) -> String {
        self.try_apply(yaml).unwrap_or_else(|refusal| panic!("{refusal}\n{yaml}"))
    }

    /// The same; returns `Err` with the error output if it is refused.
    pub(crate) fn try_apply(&self, yaml: &str) -> Result<String, String> {
        let output = self.apply_output(yaml);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The same; returns the whole output, with warnings on stderr.
    pub(crate) fn apply_output(&self, yaml: &str) -> Output {
        let arguments = ["apply", "--server-side", "--validate=strict", "--field-manager=test", "--force-conflicts", "-f", "-"];
        self.kubectl_with(arguments, yaml)
    }

    /// The object with this key (`namespace/name` or `name`); `None` if it does not exist.
    pub(crate) fn get(&self, resource: Resource, key: &str) -> Option<Value> {
        let answer = self.send_one(&Request::get(resource.object(key)));
        assert!(answer.done() || answer.status == 404, "{resource:?} {key}: {answer:?}");
        answer.done().then_some(answer.body)
    }

    /// Every object of a resource, in all namespaces.
    pub(crate) fn list(&self, resource: Resource) -> Vec<Value> {
        let answer = self.send_one(&Request::get(resource.path(None, None)));
        assert!(answer.done(), "{resource:?}: {answer:?}");
        answer.body["items"].as_array().cloned().unwrap_or_default()
    }

    /// Deletes an object, which must exist.
    pub(crate) fn delete(&self, resource: Resource, key: &str) {
        self.must(&Request::delete(resource.object(key)));
    }

    /// Changes the fields in `changes`; null removes a field. Returns the changed object.
    pub(crate) fn patch(&self, resource: Resource, key: &str, changes: Value) -> Value {
        self.must(&Request::merge(resource.object(key), changes))
    }

    /// Sends a call that must succeed. Returns its answer.
    pub(crate) fn must(&self, request: &Request) -> Value {
        let answer = self.send_one(request);
        assert!(answer.done(), "{request:?}\n{answer:?}");
        answer.body
    }

    /// Creates a namespace.
    pub(crate) fn add_namespace(&self, name: &str) {
        self.must(&Request::post(Resource::Namespaces.path(None, None), json!({"metadata": {"name": name}})));
    }

    /// Deletes a namespace and the forwards in it. The namespace controller does this in a cluster, but does not run in a
    /// plane.
    pub(crate) fn delete_namespace(&self, name: &str) {
        let path = Resource::Namespaces.path(None, Some(name));
        self.must(&Request::delete(&*path));
        self.must(&Request::delete(Resource::Forwards.path(Some(name), None)));
        let mut namespace = self.must(&Request::get(&*path));
        namespace["spec"]["finalizers"] = json!([]);
        self.must(&Request::put(format!("{path}/finalize"), namespace));
    }

    /// Creates a node, as a kubelet does.
    pub(crate) fn add_node(&self, name: &str, labels: &Value) {
        let node = json!({"metadata": {"name": name, "labels": labels}});
        self.must(&Request::post(Resource::Nodes.path(None, None), node));
    }

    /// Waits until the API serves forwards: the CRD is established and a list succeeds.
    pub(crate) fn wait_served(&self) {
        let served = |resource: Resource| self.send_one(&Request::get(resource.path(None, None))).done();
        let both = || served(Resource::Forwards) && served(Resource::Grants);
        assert!(eventually(PATIENCE, both), "forwards and grants are not served\n{:#?}", self.list(Resource::Definitions));
    }

    /// Waits until `holds` is true for the object. Otherwise panics with the object.
    pub(crate) fn wait(&self, resource: Resource, key: &str, claim: &str, holds: impl Fn(&Value) -> bool) {
        let held = eventually(PATIENCE, || self.get(resource, key).is_some_and(|object| holds(&object)));
        assert!(held, "{key}: {claim}\n{:#}", self.get(resource, key).unwrap_or_default());
    }

    /// The forward `namespace/name`.
    pub(crate) fn forward(&self, key: &str) -> Option<Value> {
        self.get(Resource::Forwards, key)
    }

    /// The `(status, reason)` of a summary condition for the current generation; `None` while the condition refers to an older
    /// one.
    pub(crate) fn condition(&self, key: &str, condition: &str) -> Option<(String, String)> {
        judged(&self.forward(key)?, condition)
    }

    /// Waits until a summary condition has this status and reason. Otherwise panics with the object.
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

/// The `(status, reason)` of a summary condition, if it refers to the current generation.
fn judged(forward: &Value, condition: &str) -> Option<(String, String)> {
    let found = forward["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == condition)?;
    let text = |field: &str| found[field].as_str().map(str::to_owned);
    (found["observedGeneration"] == forward["metadata"]["generation"]).then_some((text("status")?, text("reason")?))
}
