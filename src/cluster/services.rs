//! Reads the networks of Services. By default no forward may use them. An upstream in one of them does not work
//! either: the kernel decides NAT once per flow, so the rules of kube-proxy never see a flow that our rules translated.
//!
//! If the API server refuses them or does not know them (before Kubernetes 1.33), the last known ones count.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use super::awaited::Awaited;
use super::follow::follow_or;
use super::trouble::{Outage, Trouble};

/// The networks; `None` until they were read, or until the agent continues without them.
pub(super) type ServiceNetworks = Option<Arc<BTreeSet<IpNet>>>;

/// Sends the networks of Services whenever they change. Without an answer of the API server, sends the `remembered` ones.
pub(super) async fn follow(client: Client, outage: Outage, remembered: BTreeSet<IpNet>, found: watch::Sender<ServiceNetworks>) {
    let (mut ranges, awaited) = (Ranges::default(), Awaited::new(Arc::new(remembered), found));
    let take = |event| {
        if let Some(newest) = ranges.take(event) {
            awaited.send(newest);
        }
    };
    let failed = |error: &(dyn Error + 'static)| awaited.failed(error, Instant::now());
    let trouble = Trouble::new("the ServiceCIDRs", outage);
    follow_or(trouble, Api::<ServiceCIDR>::all(client), Config::default(), take, failed).await;
}

/// The networks of each `ServiceCIDR`, by its name.
#[derive(Debug, Default)]
struct Ranges {
    complete: Option<BTreeMap<String, BTreeSet<IpNet>>>,
    coming: BTreeMap<String, BTreeSet<IpNet>>,
}

impl Ranges {
    /// Applies an event. Returns all networks after it, once a list was complete.
    fn take(&mut self, event: Event<ServiceCIDR>) -> Option<BTreeSet<IpNet>> {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => drop(self.coming.insert(name(&object), networks(object))),
            Event::InitDone => self.complete = Some(std::mem::take(&mut self.coming)),
            Event::Apply(object) => drop(self.complete.as_mut()?.insert(name(&object), networks(object))),
            Event::Delete(object) => drop(self.complete.as_mut()?.remove(&name(&object))),
        }
        Some(self.complete.as_ref()?.values().flatten().copied().collect())
    }
}

fn name(object: &ServiceCIDR) -> String {
    object.metadata.name.clone().unwrap_or_default()
}

fn networks(object: ServiceCIDR) -> BTreeSet<IpNet> {
    object.spec.into_iter().filter_map(|spec| spec.cidrs).flatten().filter_map(|cidr| cidr.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, cidrs: &[&str]) -> ServiceCIDR {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})).unwrap()
    }

    #[test]
    fn the_networks_of_all_objects_count_once_a_list_is_complete() {
        let mut ranges = Ranges::default();
        let mut take = |event| {
            ranges.take(event).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).unwrap_or_default()
        };
        assert_eq!(take(Event::Init), "");
        assert_eq!(take(Event::InitApply(object("kubernetes", &["10.96.0.0/12", "fd00:10::/108"]))), "");
        assert_eq!(take(Event::InitDone), "10.96.0.0/12 fd00:10::/108");
        assert_eq!(
            take(Event::Apply(object("more", &["10.200.0.0/16", "no network"]))),
            "10.96.0.0/12 10.200.0.0/16 fd00:10::/108"
        );
        assert_eq!(take(Event::Delete(object("kubernetes", &[]))), "10.200.0.0/16");
    }
}
