//! The labels of this node, for `nodeSelector`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use super::follow::follow as follow_resource;
use super::trouble::{Outage, Trouble};

/// Sends the labels of `node` as they change. A Node that is gone keeps the labels it had, so its forwards stay; one that
/// never was has none.
pub(super) async fn follow(
    client: Client,
    outage: Outage,
    node: String,
    labels: watch::Sender<Option<Arc<BTreeMap<String, String>>>>,
) {
    let config = Config::default().fields(&format!("metadata.name={node}"));
    let api: Api<PartialObjectMeta<Node>> = Api::all(client);
    let send = |newest: BTreeMap<String, String>| {
        labels.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&newest);
            *current = Some(Arc::new(newest));
            changed
        })
    };
    follow_resource(Trouble::new("this Node", outage), api, config, |event| match event {
        Event::Apply(node) | Event::InitApply(node) => {
            send(node.metadata.labels.unwrap_or_default());
        }
        Event::InitDone if labels.borrow().is_none() => {
            send(BTreeMap::new());
        }
        Event::InitDone | Event::Delete(_) | Event::Init => {}
    })
    .await;
}
