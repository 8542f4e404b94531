//! Follows the Node objects of the whole cluster, for the addresses that no forward may use.
//!
//! A Node object is large (images, conditions, managed fields), and kubelets report their status all the time. Everything
//! except addresses and pod networks is skipped while decoding, and only a change of these is passed on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::ClusterResourceScope;
use kube::core::ObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource};
use serde::{Deserialize, Deserializer};
use tokio::sync::watch;
use tokio::time::Instant;

use super::awaited::Awaited;
use super::follow::follow_or;
use super::trouble::{Outage, Trouble};
use crate::model::Nodes;

/// The addresses of nodes and pods; `None` until the Node objects were read, or until the agent continues without them.
pub(super) type KnownNodes = Option<Arc<Nodes>>;

/// The number of Node objects in one page of a list. A page is in memory as a whole, and a Node may have tens of kilobytes.
const PAGE: u32 = 100;
/// The most addresses of one Node that count. A kubelet may write any address into its own Node object.
const ADDRESSES: usize = 64;
/// The shortest prefix of a pod network that counts, in bits. A mistake in one Node must not forbid every address.
const SHORTEST: u8 = 8;

/// Whether the settings of the agent need the Node objects of the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherNodes {
    /// They are followed.
    Watched,
    /// Nothing needs them.
    Unwatched,
}

/// Sends the addresses of the cluster's nodes whenever they change. Without an answer of the API server, sends the
/// `remembered` ones. If nothing needs them, sends an empty value once.
pub(super) async fn follow(
    client: Client,
    outage: Outage,
    wanted: OtherNodes,
    remembered: Arc<Nodes>,
    found: watch::Sender<KnownNodes>,
) {
    if wanted == OtherNodes::Unwatched {
        found.send_replace(Some(Arc::default()));
        return pending().await;
    }
    let (mut objects, awaited) = (Objects::default(), Awaited::new(remembered, found));
    let take = |event| {
        if let Some(newest) = objects.take(event) {
            awaited.send(newest);
        }
    };
    let failed = |error: &(dyn Error + 'static)| awaited.failed(error, Instant::now());
    let trouble = Trouble::new("the Nodes of the cluster", outage);
    follow_or(trouble, Api::<Node>::all(client), Config::default().page_size(PAGE), take, failed).await;
}

/// What is used of a Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    addresses: Box<[IpAddr]>,
    pods: Box<[IpNet]>,
}

/// The used part of each Node object, by its name.
#[derive(Debug, Default)]
struct Objects {
    complete: Option<BTreeMap<String, Entry>>,
    coming: BTreeMap<String, Entry>,
}

impl Objects {
    /// Applies an event. Returns all addresses after it if they may have changed.
    fn take(&mut self, event: Event<Node>) -> Option<Nodes> {
        match event {
            Event::Init => {
                self.coming.clear();
                return None;
            }
            Event::InitApply(node) => {
                let (name, entry) = node.used();
                self.coming.insert(name, entry);
                return None;
            }
            Event::InitDone => self.complete = Some(std::mem::take(&mut self.coming)),
            Event::Apply(node) => {
                let (name, entry) = node.used();
                let complete = self.complete.as_mut()?;
                if complete.get(&name) == Some(&entry) {
                    return None;
                }
                complete.insert(name, entry);
            }
            Event::Delete(node) => {
                self.complete.as_mut()?.remove(&node.used().0)?;
            }
        }
        let entries = || self.complete.iter().flat_map(BTreeMap::values);
        Some(Nodes {
            addresses: entries().flat_map(|entry| entry.addresses.iter().copied()).collect(),
            pods: entries().flat_map(|entry| entry.pods.iter().copied()).collect(),
        })
    }
}

/// A Node object without the fields that are not used here.
#[derive(Clone, Debug, Deserialize)]
struct Node {
    #[serde(deserialize_with = "name_and_version")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    address: String,
}

impl Node {
    fn used(self) -> (String, Entry) {
        let addresses = self.status.addresses.iter().filter_map(|one| one.address.parse().ok()).take(ADDRESSES);
        let pods = self.spec.pod_cidrs.iter().chain(&self.spec.pod_cidr).filter_map(|cidr| cidr.parse::<IpNet>().ok());
        let pods = pods.filter(|network| network.prefix_len() >= SHORTEST).map(|network| network.trunc());
        (self.metadata.name.unwrap_or_default(), Entry { addresses: addresses.collect(), pods: pods.collect() })
    }
}

/// The name and the version of an object; a watch continues from its version. All other metadata is skipped.
fn name_and_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        resource_version: Option<String>,
    }
    let Metadata { name, resource_version } = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta { name, resource_version, ..ObjectMeta::default() })
}

impl Resource for Node {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, addresses: &[&str], pods: &[&str]) -> Value {
        let address = |address: &&str| json!({"type": "InternalIP", "address": address});
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "resourceVersion": "7", "annotations": {"a": "b"}, "managedFields": [{"manager": "kubelet"}]},
            "spec": {"podCIDR": pods.first(), "podCIDRs": pods},
            "status": {
                "addresses": addresses.iter().map(address).collect::<Vec<_>>(),
                "images": [{"names": ["a"], "sizeBytes": 1}],
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
            },
        })
    }

    fn decoded(object: Value) -> Node {
        serde_json::from_value(object).unwrap()
    }

    fn text(nodes: &Nodes) -> String {
        let addresses = nodes.addresses.iter().map(ToString::to_string);
        addresses.chain(nodes.pods.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_addresses_and_pod_networks_of_all_nodes_count_once_a_list_is_complete() {
        let mut objects = Objects::default();
        let a = || decoded(node("a", &["10.0.0.7", "fd00::7", "a.example"], &["10.244.1.0/24", "fd01::/64"]));
        assert_eq!(objects.take(Event::Init), None);
        assert_eq!(objects.take(Event::InitApply(a())), None);
        assert_eq!(text(&objects.take(Event::InitDone).unwrap()), "10.0.0.7 fd00::7 10.244.1.0/24 fd01::/64");
        let b = decoded(node("b", &["10.0.0.8"], &[]));
        assert_eq!(text(&objects.take(Event::Apply(b)).unwrap()), "10.0.0.7 10.0.0.8 fd00::7 10.244.1.0/24 fd01::/64");
        assert_eq!(text(&objects.take(Event::Delete(a())).unwrap()), "10.0.0.8");
    }

    #[test]
    fn a_list_that_was_interrupted_begins_again() {
        let mut objects = Objects::default();
        for (name, address) in [("gone", "10.0.0.7"), ("a", "10.0.0.8")] {
            objects.take(Event::Init);
            objects.take(Event::InitApply(decoded(node(name, &[address], &[]))));
        }
        assert_eq!(text(&objects.take(Event::InitDone).unwrap()), "10.0.0.8");
    }

    #[test]
    fn a_heartbeat_is_no_change() {
        let mut objects = Objects::default();
        let mut object = node("a", &["10.0.0.7"], &[]);
        objects.take(Event::Init);
        objects.take(Event::InitApply(decoded(object.clone())));
        objects.take(Event::InitDone);
        object["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:05:00Z");
        object["metadata"]["resourceVersion"] = json!("8");
        assert_eq!(objects.take(Event::Apply(decoded(object))), None);
        assert_eq!(objects.take(Event::Delete(decoded(node("unknown", &[], &[])))), None);
    }

    #[test]
    fn nothing_but_name_version_and_networks_is_kept_of_a_node() {
        let decoded = decoded(node("a", &["10.0.0.7"], &["10.244.1.0/24"]));
        let kept = ObjectMeta { name: Some("a".into()), resource_version: Some("7".into()), ..ObjectMeta::default() };
        assert_eq!(decoded.metadata, kept);
        assert!(!format!("{decoded:?}").contains("sizeBytes"));
        let bare: Node = serde_json::from_value(json!({"metadata": {"name": "bare"}})).unwrap();
        assert_eq!(bare.used(), ("bare".to_owned(), Entry::default()));
        let one: Node =
            serde_json::from_value(json!({"metadata": {"name": "one"}, "spec": {"podCIDR": "10.244.1.0/24"}})).unwrap();
        assert_eq!(one.used().1.pods.len(), 1, "without podCIDRs");
    }

    #[test]
    fn one_node_cannot_forbid_every_address() {
        let many: Vec<String> = (0..200).map(|number| format!("3.3.3.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (_, entry) = decoded(node("rogue", &many, &["0.0.0.0/0", "10.0.0.0/7", "10.244.1.9/24"])).used();
        assert_eq!((entry.addresses.len(), entry.pods.as_ref()), (ADDRESSES, &["10.244.1.0/24".parse().unwrap()][..]));
    }
}
