//! Finds the addresses of the API servers. A pod reaches them through the Service `kubernetes`, which has an address of its
//! own. The real addresses are in its `EndpointSlice`.
//!
//! The agent plans nothing before the slices were read once: a route could cut this node off from an API server, and then the
//! agent could no longer read the slices and see it. An agent without the right to read the slices uses the addresses that it
//! knows from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::awaited::REFUSED_FOR;
use super::follow::{follow_or, retries};
use super::trouble::{Outage, Trouble, is_refusal};
use crate::model::Sight;

/// The namespace of the Service `kubernetes`; the API server creates it there.
const NAMESPACE: &str = "default";
/// The slice that the API server creates and names itself. RBAC can restrict a watch to one object name, but not to a label.
const SLICE: &str = "metadata.name=kubernetes";

/// The addresses of the API servers, and whether these are all of them; `None` until the slices were read or the API server
/// refused them.
pub(super) type ApiServers = Option<Arc<(BTreeSet<IpAddr>, Sight)>>;

/// The interval at which the name of the API server is resolved again.
const RESOLVE_EVERY: Duration = Duration::from_mins(1);

/// The addresses of the API servers that are known without the slices.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The name and port by which this agent reaches the API server.
    pub(super) host: (String, u16),
    /// The addresses of that name; empty until it was resolved.
    pub(super) own: BTreeSet<IpAddr>,
    /// The addresses at the last plan before this start. They count until the slices were read.
    pub(super) remembered: BTreeSet<IpAddr>,
}

/// Everything that is known about the addresses of the API servers.
#[derive(Debug, Default)]
struct Seen {
    known: Known,
    /// The addresses in the slices, once they were read.
    slices: Option<BTreeSet<IpAddr>>,
    /// The time of the first refusal of the slices.
    refused: Option<Instant>,
}

/// Sends the addresses of the API servers as they change.
pub(super) async fn follow(client: Client, outage: Outage, known: Known, found: watch::Sender<ApiServers>) {
    let api: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let mut slices = Slices::default();
    let host = known.host.clone();
    let seen = Mutex::new(Seen { known, ..Seen::default() });
    let update = |change: &mut dyn FnMut(&mut Seen)| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut seen);
        let newest = seen.all(Instant::now());
        found.send_if_modified(|current| {
            let changed = current.as_deref() != newest.as_ref();
            if changed && newest.as_ref().is_some_and(|(_, sight)| *sight == Sight::Partial) {
                warn!("the addresses of the API servers are not completely known; no new route is installed, because it could cover one. Give the agent the right to list and watch the EndpointSlice kubernetes in the namespace default (deploy/base/rbac.yaml), and check that the name of the API server resolves");
            }
            *current = newest.clone().map(Arc::new);
            changed
        });
    };
    let take = |event| {
        if let Some(addresses) = slices.take(event) {
            update(&mut |seen| seen.slices = Some(addresses.clone()));
        }
    };
    let failed = |error: &(dyn std::error::Error + 'static)| {
        if is_refusal(error) {
            update(&mut |seen| seen.refused = seen.refused.or_else(|| Some(Instant::now())));
        }
    };
    let trouble = Trouble::new("the EndpointSlices of the API servers", outage);
    let watched = follow_or(trouble, api, Config::default().fields(SLICE), take, failed);
    tokio::join!(watched, resolve(host, |own| update(&mut |seen| seen.known.own.clone_from(&own))));
}

/// Resolves the name of the API server repeatedly. A new answer replaces the previous one.
async fn resolve((host, port): (String, u16), take: impl Fn(BTreeSet<IpAddr>)) {
    let mut failing = false;
    let mut pauses = retries();
    loop {
        match lookup_host((host.as_str(), port)).await.map(|found| found.map(|to| to.ip()).collect::<BTreeSet<_>>()) {
            Ok(own) => {
                if std::mem::take(&mut failing) {
                    info!(host, "the name of the API server resolves again");
                }
                pauses = retries();
                take(own);
                sleep(RESOLVE_EVERY).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(host, %error, "the name of the API server does not resolve; trying again. Correct DNS or the server in the kubeconfig");
                }
                sleep(pauses.next().unwrap_or(RESOLVE_EVERY)).await;
            }
        }
    }
}

impl Seen {
    /// All addresses that are known at the moment `now`, and whether these are all. `None` while the slices may still be read.
    ///
    /// The slices contain every address except the one by which this agent reaches the API server, which may belong to a load
    /// balancer. While the API server refuses the slices, the addresses from before the restart replace them.
    fn all(&self, now: Instant) -> Option<(BTreeSet<IpAddr>, Sight)> {
        let Known { own, remembered, .. } = &self.known;
        let refused = self.refused.is_some_and(|since| now.saturating_duration_since(since) >= REFUSED_FOR);
        let sight = |known: bool| if known && !own.is_empty() { Sight::Whole } else { Sight::Partial };
        match &self.slices {
            Some(slices) => Some((own | slices, sight(true))),
            None if refused => Some((own | remembered, sight(!remembered.is_empty()))),
            None => None,
        }
    }
}

/// The addresses of each slice, by its name.
#[derive(Debug, Default)]
struct Slices {
    complete: Option<BTreeMap<String, BTreeSet<IpAddr>>>,
    coming: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Slices {
    /// Applies an event. Returns all addresses after it, once a list was complete.
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

/// The name and the addresses of a slice. Endpoints that are not ready count too, because they will become ready.
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
    fn the_addresses_are_complete_with_the_slices_and_the_resolved_name_and_a_short_refusal_changes_nothing() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let set = |address: &str| BTreeSet::from([address.parse::<IpAddr>().unwrap()]);
        let told = |seen: &Seen, secs| seen.all(at(secs)).map(|(all, sight)| (text(Some(all)).unwrap(), sight));
        let known = Known { own: set("10.0.0.9"), ..Known::default() };
        let mut seen = Seen { known, ..Seen::default() };
        assert_eq!(told(&seen, 100), None, "nobody has answered");
        seen.refused = Some(at(0));
        assert_eq!(told(&seen, 4), None, "it may be starting");
        assert_eq!(told(&seen, 5), Some(("10.0.0.9".to_owned(), Sight::Partial)));
        seen.known.remembered = set("10.0.0.1");
        assert_eq!(told(&seen, 5), Some(("10.0.0.1 10.0.0.9".to_owned(), Sight::Whole)));
        seen.slices = Some(set("10.0.0.2"));
        assert_eq!(told(&seen, 5), Some(("10.0.0.2 10.0.0.9".to_owned(), Sight::Whole)));
        seen.known.own.clear();
        assert_eq!(told(&seen, 5), Some(("10.0.0.2".to_owned(), Sight::Partial)), "the name does not resolve");
    }

    #[tokio::test]
    async fn a_name_that_resolves_gives_its_addresses() {
        let (sender, mut found) = watch::channel(BTreeSet::new());
        let take = |own| drop(sender.send_replace(own));
        let told = async { found.wait_for(|own| !own.is_empty()).await.unwrap().clone() };
        let own = tokio::select! {
            () = resolve(("127.0.0.1".to_owned(), 6443), take) => unreachable!("it never ends"),
            own = told => own,
        };
        assert_eq!(own, BTreeSet::from([IpAddr::from([127, 0, 0, 1])]));
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

        assert_eq!(take(Event::Init), Some("10.0.0.3".to_owned()), "an incomplete list removes nothing");
        assert_eq!(take(Event::InitApply(slice("c", &["10.0.0.4"]))), Some("10.0.0.3".to_owned()));
        assert_eq!(take(Event::Init), Some("10.0.0.3".to_owned()));
        assert_eq!(take(Event::InitDone), Some(String::new()), "a restarted list starts empty");
    }
}
