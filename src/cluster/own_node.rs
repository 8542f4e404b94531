//! Reads the Node object of this node: its labels, for `nodeSelector`, and its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use super::follow::follow as follow_resource;
use super::trouble::{Outage, Trouble};

/// The fields of the Node object that the agent uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Its addresses (`InternalIP`, `ExternalIP` and every other entry that is an IP address and not a name).
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Own {
    fn of(node: Node) -> Self {
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        Self {
            labels: node.metadata.labels.unwrap_or_default(),
            addresses: addresses.iter().filter_map(|address| address.address.parse().ok()).collect(),
        }
    }
}

/// Sends the fields of the Node object `node` whenever they change. If the object is deleted, the last fields stay, so that its
/// forwards stay. If it never existed, the fields are empty.
pub(super) async fn follow(client: Client, outage: Outage, node: String, own: watch::Sender<Option<Arc<Own>>>) {
    let config = Config::default().fields(&format!("metadata.name={node}"));
    let api: Api<Node> = Api::all(client);
    let send = |newest: Own| {
        own.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&newest);
            *current = Some(Arc::new(newest));
            changed
        })
    };
    follow_resource(Trouble::new("this Node", outage), api, config, |event| match event {
        Event::Apply(node) | Event::InitApply(node) => {
            send(Own::of(node));
        }
        Event::InitDone if own.borrow().is_none() => {
            send(Own::default());
        }
        Event::InitDone | Event::Delete(_) | Event::Init => {}
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_node_object_counts_and_host_names_do_not() {
        let node = serde_json::json!({
            "metadata": {"name": "a", "labels": {"zone": "b"}},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "10.0.0.7"}, {"type": "ExternalIP", "address": "203.0.113.7"},
                {"type": "InternalIP", "address": "fd00::7"}, {"type": "Hostname", "address": "a"},
            ]},
        });
        let own = Own::of(serde_json::from_value(node).unwrap());
        let addresses: Vec<String> = own.addresses.iter().map(ToString::to_string).collect();
        assert_eq!((addresses.join(" ").as_str(), own.labels["zone"].as_str()), ("10.0.0.7 203.0.113.7 fd00::7", "b"));
    }
}
