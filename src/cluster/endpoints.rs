//! Where the API servers are. A pod reaches them by the address of the Service `kubernetes`, which is not theirs: its `EndpointSlice`
//! tells.
//!
//! Nothing is planned before they were read once, because a route may cut this node off from an API server, and then it
//! could not be read any more that it does. An agent that may not read them goes on with what it knows otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use super::follow::follow_or;
use super::trouble::{Outage, Trouble, is_refusal};

/// Where the API server itself puts the Service by which pods reach it.
const NAMESPACE: &str = "default";
/// The API server's own slice, which it makes and names itself. RBAC can grant a watch of one object by its name, not by a label.
const SLICE: &str = "metadata.name=kubernetes";

/// The addresses of the API servers; `None` until it is known, or refused, what the slices say.
pub(super) type ApiServers = Option<Arc<BTreeSet<IpAddr>>>;

/// What is known of the API servers without the slices.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The addresses by which this agent reaches them.
    pub(super) own: BTreeSet<IpAddr>,
    /// The addresses that they had when this node was last planned; they count until the slices were read.
    pub(super) remembered: BTreeSet<IpAddr>,
}

/// Sends the addresses of the API servers as they change.
pub(super) async fn follow(client: Client, outage: Outage, known: Known, found: watch::Sender<ApiServers>) {
    let api: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let mut slices = Slices::default();
    let send = |newest: BTreeSet<IpAddr>| {
        found.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&newest);
            *current = Some(Arc::new(newest));
            changed
        });
    };
    let take = |event| {
        if let Some(addresses) = slices.take(event) {
            send(&known.own | &addresses);
        }
    };
    let failed = |error: &(dyn std::error::Error + 'static)| {
        if is_refusal(error) && found.borrow().is_none() {
            send(&known.own | &known.remembered);
        }
    };
    let trouble = Trouble::new("the EndpointSlices of the API servers", outage);
    follow_or(trouble, api, Config::default().fields(SLICE), take, failed).await;
}

/// The addresses of each slice, by its name.
#[derive(Debug, Default)]
struct Slices {
    complete: Option<BTreeMap<String, BTreeSet<IpAddr>>>,
    coming: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Slices {
    /// Takes an event in; all addresses after it, once a list was complete.
    fn take(&mut self, event: Event<EndpointSlice>) -> Option<BTreeSet<IpAddr>> {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(slice) => {
                let (name, addresses) = read(slice);
                self.coming.insert(name, addresses);
            }
            Event::InitDone => self.complete = Some(std::mem::take(&mut self.coming)),
            Event::Apply(slice) => {
                let (name, addresses) = read(slice);
                self.complete.as_mut()?.insert(name, addresses);
            }
            Event::Delete(slice) => {
                self.complete.as_mut()?.remove(&slice.metadata.name.unwrap_or_default());
            }
        }
        Some(self.complete.as_ref()?.values().flatten().copied().collect())
    }
}

/// Whether an endpoint is ready does not matter: one that is not will be.
fn read(slice: EndpointSlice) -> (String, BTreeSet<IpAddr>) {
    let addresses = slice.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses);
    (slice.metadata.name.unwrap_or_default(), addresses.filter_map(|address| address.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, addresses: &[&str]) -> EndpointSlice {
        let endpoints = [json!({"addresses": addresses, "conditions": {"ready": false}})];
        let slice = json!({"metadata": {"name": name}, "addressType": "IPv4", "endpoints": endpoints, "ports": null});
        serde_json::from_value(slice).unwrap()
    }

    fn text(addresses: Option<BTreeSet<IpAddr>>) -> Option<String> {
        addresses.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_addresses_of_all_slices_count_once_a_list_is_complete() {
        let mut slices = Slices::default();
        let mut take = |event| text(slices.take(event));
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitApply(slice("a", &["10.0.0.1", "10.0.0.2"]))), None);
        assert_eq!(take(Event::InitApply(slice("b", &["2001:db8::1", "api.example.com"]))), None);
        let all = Some("10.0.0.1 10.0.0.2 2001:db8::1".to_owned());
        assert_eq!(take(Event::InitDone), all);
        assert_eq!(take(Event::Apply(slice("a", &["10.0.0.3"]))), Some("10.0.0.3 2001:db8::1".to_owned()));
        assert_eq!(take(Event::Delete(slice("b", &[]))), Some("10.0.0.3".to_owned()));

        assert_eq!(take(Event::Init), Some("10.0.0.3".to_owned()), "half a list removes nothing");
        assert_eq!(take(Event::InitApply(slice("c", &["10.0.0.4"]))), Some("10.0.0.3".to_owned()));
        assert_eq!(take(Event::Init), Some("10.0.0.3".to_owned()));
        assert_eq!(take(Event::InitDone), Some(String::new()), "a list that is begun anew begins empty");
    }
}
