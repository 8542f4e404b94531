//! Which agents live: each renews a Lease of its own, and a Lease that is not renewed any more tells the others.
//!
//! How old a Lease is, each agent measures by its own monotonic clock from when it saw the Lease change last: the clocks of
//! nodes need not agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::follow::follow as follow_resource;
use super::patches::hashed;
use super::trouble::{Outage, Trouble};
use super::{ALIVE_FOR, DEADLINE, Live, RENEW_EVERY};

/// The label of the Leases of agents.
const LABEL: &str = "portforward.dev/agent";
/// How often it is looked whether a Lease has become too old.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Renews the Lease of `node` for as long as it runs.
pub(super) async fn renew(client: Client, outage: Outage, node: String, namespace: String) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let manager = PatchParams::apply(&hashed("portforward-agent", &node)).force();
    let name = hashed("portforward-agent", &node);
    let mut trouble = Trouble::new("the Lease of this agent", outage);
    let mut tick = tokio::time::interval(RENEW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let lease = lease(&name, &node);
        let renewed = tokio::time::timeout(DEADLINE, api.patch(&name, &manager, &Patch::Apply(&lease))).await;
        match renewed {
            Ok(Ok(_)) => trouble.worked(),
            Ok(Err(error)) => trouble.failed(&error),
            Err(late) => trouble.failed(&late),
        }
    }
}

fn lease(name: &str, node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "labels": {LABEL: "true"}},
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": ALIVE_FOR.as_secs(),
            // MicroTime has six digits (RFC 3339, metav1).
            "renewTime": format!("{:.6}", Timestamp::now()),
        },
    })
}

/// Sends the nodes whose agents live, `node` always among them, as that changes.
pub(super) async fn follow(client: Client, outage: Outage, node: String, namespace: String, live: watch::Sender<Live>) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let leases = std::sync::Mutex::new(Leases::default());
    let with = |act: &mut dyn FnMut(&mut Leases)| {
        let mut leases = leases.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut leases);
        if leases.complete {
            let newest = Some(Arc::new(leases.live(&node, Instant::now())));
            live.send_if_modified(|current| {
                let changed = *current != newest;
                *current = newest;
                changed
            });
        }
    };
    let config = Config::default().labels(&format!("{LABEL}=true"));
    let watched = follow_resource(Trouble::new("the agents' Leases", outage), api, config, |event| {
        let mut event = Some(event);
        with(&mut |leases| {
            if let Some(event) = event.take() {
                leases.take(event, Instant::now());
            }
        });
    });
    let aged = async {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            with(&mut |_| {});
        }
    };
    tokio::join!(watched, aged);
}

/// The Leases that were seen, by name.
#[derive(Debug, Default)]
struct Leases {
    seen: BTreeMap<String, Seen>,
    coming: Option<BTreeMap<String, Seen>>,
    complete: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    node: String,
    renewed: Option<Timestamp>,
    /// When it was seen to change last.
    at: Instant,
}

impl Leases {
    fn take(&mut self, event: Event<Lease>, now: Instant) {
        match event {
            Event::Init => self.coming = Some(BTreeMap::new()),
            Event::InitApply(lease) => {
                if let Some((name, seen)) = self.seen(lease, now) {
                    self.coming.get_or_insert_default().insert(name, seen);
                }
            }
            Event::InitDone => {
                self.seen = self.coming.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(lease) => {
                if let Some((name, seen)) = self.seen(lease, now) {
                    self.seen.insert(name, seen);
                }
            }
            Event::Delete(lease) => {
                self.seen.remove(&lease.metadata.name.unwrap_or_default());
            }
        }
    }

    /// A Lease that did not change since is as old as it was.
    fn seen(&self, lease: Lease, now: Instant) -> Option<(String, Seen)> {
        let name = lease.metadata.name?;
        let spec = lease.spec?;
        let (node, renewed) = (spec.holder_identity?, spec.renew_time.map(|time| time.0));
        let same = self.seen.get(&name).filter(|before| before.renewed == renewed);
        let at = same.map_or(now, |before| before.at);
        Some((name, Seen { node, renewed, at }))
    }

    fn live(&self, own: &str, now: Instant) -> BTreeSet<String> {
        let young = self.seen.values().filter(|seen| now.duration_since(seen.at) < ALIVE_FOR);
        young.map(|seen| seen.node.clone()).chain([own.to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewed(node: &str, second: i64) -> Lease {
        let mut lease: Lease = serde_json::from_value(lease(node, node)).unwrap();
        lease.spec.as_mut().unwrap().renew_time.as_mut().unwrap().0 = Timestamp::from_second(second).unwrap();
        lease
    }

    #[test]
    fn an_agent_lives_for_forty_seconds_after_its_lease_was_seen_to_change_whatever_its_clock_says() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let live = |leases: &Leases, seconds| leases.live("me", after(seconds)).into_iter().collect::<Vec<_>>().join(" ");
        let mut leases = Leases::default();
        leases.take(Event::Init, start);
        leases.take(Event::InitApply(renewed("a", 5)), start);
        leases.take(Event::InitApply(renewed("b", 9_000_000)), start);
        leases.take(Event::InitDone, start);
        assert_eq!(live(&leases, 39), "a b me");
        leases.take(Event::Apply(renewed("a", 6)), after(30));
        leases.take(Event::Apply(renewed("b", 9_000_000)), after(30));
        assert_eq!(live(&leases, 41), "a me", "a Lease that says the same was not renewed");
        assert_eq!(live(&leases, 70), "me");
        leases.take(Event::Init, after(60));
        leases.take(Event::InitApply(renewed("a", 6)), after(60));
        leases.take(Event::InitDone, after(60));
        assert_eq!(live(&leases, 70), "me", "reading the list again makes no Lease younger");
        leases.take(Event::Apply(renewed("b", 9_000_001)), after(71));
        leases.take(Event::Delete(renewed("b", 9_000_001)), after(72));
        assert_eq!(live(&leases, 72), "me");
    }
}
