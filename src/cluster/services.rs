//! Reads the networks of Services. An upstream must not be in one of them: the kernel decides NAT once per flow, so the rules
//! of kube-proxy never see a flow that our rules translated.
//!
//! Nothing waits for these networks. If the agent may not read them, or the cluster has none, it reports nothing about such
//! upstreams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use super::follow::follow as follow_resource;
use super::trouble::{Outage, Trouble};

/// The networks; empty until they were read.
pub(super) type ServiceNetworks = Arc<BTreeSet<IpNet>>;

/// Sends the networks of Services whenever they change.
pub(super) async fn follow(client: Client, outage: Outage, found: watch::Sender<ServiceNetworks>) {
    let mut ranges = Ranges::default();
    follow_resource(Trouble::new("the ServiceCIDRs", outage), Api::<ServiceCIDR>::all(client), Config::default(), |event| {
        if let Some(newest) = ranges.take(event) {
            found.send_if_modified(|current| {
                let changed = **current != newest;
                *current = Arc::new(newest);
                changed
            });
        }
    })
    .await;
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
