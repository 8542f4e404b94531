//! A client of the API server in the benchmark's own process, so that a call costs no start of a program.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::api::{
    ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// The namespace of all objects.
pub(crate) const NAMESPACE: &str = "bench";
/// The number of objects that are created at the same time.
const AT_ONCE: usize = 12;

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `PortForward`.
    Forward,
    /// `Service`.
    Service,
    /// `EndpointSlice`.
    Slice,
}

/// A client. It works in the network namespace of the thread that has created it.
pub(crate) struct Api {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Api {
    /// A client with this kubeconfig.
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig can be read");
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            Client::try_from(config.expect("the kubeconfig is valid")).expect("the kubeconfig is valid")
        });
        Self { runtime, client }
    }

    /// Creates all objects.
    pub(crate) fn create(&self, kind: Kind, objects: Vec<Value>) {
        let api = self.of(kind);
        let create = async |object: Value| {
            let object: DynamicObject = serde_json::from_value(object).expect("it is an object");
            api.create(&PostParams::default(), &object).await.map(drop)
        };
        let created = futures::stream::iter(objects).map(create).buffer_unordered(AT_ONCE).try_collect::<()>();
        self.runtime.block_on(created).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }

    /// Changes an object (RFC 7386). Returns it, and when the answer came.
    pub(crate) fn change(&self, kind: Kind, name: &str, change: &Value) -> (DynamicObject, Instant) {
        let api = self.of(kind);
        let params = PatchParams::default();
        let changed = self.runtime.block_on(api.patch(name, &params, &Patch::Merge(change)));
        let answered = Instant::now();
        (changed.unwrap_or_else(|error| panic!("{kind:?} {name}: {error}")), answered)
    }

    /// Waits until a forward is ready in this generation. Returns when it was seen.
    pub(crate) fn wait_ready(&self, name: &str, generation: Option<i64>, limit: Duration) -> Instant {
        let api = self.of(Kind::Forward);
        let deadline = Instant::now() + limit;
        loop {
            let object = self.runtime.block_on(api.get(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            if is_ready(&object) && object.metadata.generation == generation {
                return Instant::now();
            }
            let status = object.data.get("status").cloned().unwrap_or_default();
            assert!(Instant::now() < deadline, "{name} is not ready in generation {generation:?}: {status:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The version of the collection of forwards.
    pub(crate) fn version(&self) -> String {
        let list = self.runtime.block_on(self.of(Kind::Forward).list(&ListParams::default().limit(1)));
        list.expect("forwards can be listed").metadata.resource_version.expect("a list has a version")
    }

    /// Follows the forwards from this version on until this number of them is ready. Returns when, and how many were ready if
    /// the limit came first.
    pub(crate) fn wait_all_ready(&self, version: &str, count: usize, limit: Duration) -> Result<Instant, usize> {
        let mut ready = BTreeSet::new();
        let follow = async {
            let (api, mut version) = (self.of(Kind::Forward), version.to_owned());
            loop {
                let mut events = api.watch(&WatchParams::default(), &version).await.expect("a watch can begin").boxed();
                while let Some(Ok(event)) = events.next().await {
                    let WatchEvent::Modified(object) = event else { continue };
                    version = object.metadata.resource_version.clone().unwrap_or(version);
                    if is_ready(&object) && ready.insert(object.metadata.name.unwrap_or_default()) && ready.len() == count {
                        return Instant::now();
                    }
                }
            }
        };
        let came = self.runtime.block_on(async { tokio::time::timeout(limit, follow).await.ok() });
        came.ok_or(ready.len())
    }

    fn of(&self, kind: Kind) -> kube::Api<DynamicObject> {
        let (group, version, name, plural) = match kind {
            Kind::Forward => ("portforward.dev", "v1alpha1", "PortForward", "portforwards"),
            Kind::Service => ("", "v1", "Service", "services"),
            Kind::Slice => ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        };
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
        kube::Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
    }
}

/// Whether `Ready` is true for the current generation.
fn is_ready(object: &DynamicObject) -> bool {
    let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
    let generation = object.metadata.generation;
    conditions
        .into_iter()
        .any(|one| one["type"] == "Ready" && one["status"] == "True" && one["observedGeneration"].as_i64() == generation)
}
