//! Decides which agents live. Each agent renews a Lease of its own. If the renewals stop, the other agents see it.
//!
//! A Lease has the name of its node. An admission policy cannot compute a hash, so the plain name lets it check the owner.
//!
//! Each agent measures the age of a Lease with its own monotonic clock, from the last change that it saw, so the clocks of the
//! nodes may differ. Time in which the agent heard nothing at all, not even of its own Lease, does not count. Therefore an
//! outage of the API server makes no agent appear dead.

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
use tracing::{error, info};

use super::follow::follow as follow_resource;
use super::trouble::{Outage, Trouble};
use super::{ALIVE_FOR, DEADLINE, Live, RENEW_EVERY};
use crate::metrics::{Health, Liveness};

/// The label of the Leases of agents.
pub(super) const LABEL: &str = "portforward.dev/agent";
/// The label that names the pool of an agent that does not follow all forwards.
const POOL: &str = "portforward.dev/pool";
/// The field manager of a Lease.
pub(super) const MANAGER: &str = "portforward-agent";
/// The longest name of a node, in bytes (RFC 1123). A stolen token may write any text into its own Lease, and every agent
/// would hold it.
const LONGEST_NAME: usize = 253;
/// The interval at which the ages of the Leases are checked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The longest normal time without an event: the agent's own Lease alone is renewed twice in this time.
const HEARS_WITHIN: Duration = Duration::from_secs(20);

/// The nodes whose agents live, of those with Leases in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    /// All of them.
    pub all: BTreeSet<String>,
    /// Those that follow the same forwards as this agent, including its own.
    pub peers: BTreeSet<String>,
    /// The one that writes the status of grants: the first one that follows all forwards, else the first one.
    pub counting: Option<String>,
}

/// Where an agent renews its Lease, and its pool.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The namespace of the agents.
    pub(super) namespace: String,
    /// The pool of this agent; `None` if it follows all forwards.
    pub(super) pool: Option<String>,
}

/// Renews the Lease of `node` as long as the sync loop runs. The other agents trust the status of this node only while its
/// Lease is young.
pub(super) async fn renew(client: Client, outage: Outage, place: Place, node: String, health: Arc<Health>) {
    let Place { namespace, pool } = place;
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let manager = PatchParams::apply(MANAGER).force();
    let mut trouble = Trouble::new("the Lease of this agent", outage);
    let mut stuck = false;
    let mut tick = tokio::time::interval(RENEW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match (health.vouches(Instant::now()), &mut stuck) {
            (Liveness::Alive, false) => {}
            (Liveness::Alive, told) => {
                info!("the sync loop runs again; the Lease is renewed again");
                *told = false;
            }
            (Liveness::Stuck { since }, told) => {
                if !std::mem::replace(told, true) {
                    let seconds = since.as_secs();
                    error!(
                        seconds,
                        "the sync loop is stuck; the Lease is not renewed, so that no agent relies on the status of this node. If it stays stuck, /livez fails and the agent is restarted"
                    );
                }
                continue;
            }
        }
        let renewed =
            tokio::time::timeout(DEADLINE, api.patch(&node, &manager, &Patch::Apply(&lease(&node, pool.as_deref())))).await;
        match renewed {
            Ok(Ok(_)) => trouble.worked(),
            Ok(Err(error)) => trouble.failed(&error),
            Err(late) => trouble.failed(&late),
        }
    }
}

fn lease(node: &str, pool: Option<&str>) -> serde_json::Value {
    let mut labels = json!({LABEL: "true"});
    if let Some(pool) = pool {
        labels[POOL] = json!(pool);
    }
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node, "labels": labels},
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": ALIVE_FOR.as_secs(),
            // MicroTime has six decimal places (RFC 3339, metav1).
            "renewTime": format!("{:.6}", Timestamp::now()),
        },
    })
}

/// Sends the names of the nodes with a live agent whenever they change. This node is among them if its Lease could be renewed.
pub(super) async fn follow(client: Client, outage: Outage, place: Place, live: watch::Sender<Live>) {
    let api: Api<Lease> = Api::namespaced(client, &place.namespace);
    let leases = std::sync::Mutex::new(Leases { pool: place.pool, ..Leases::default() });
    let with = |act: &mut dyn FnMut(&mut Leases)| {
        let mut leases = leases.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut leases);
        if leases.complete {
            let newest = Some(Arc::new(leases.live(Instant::now())));
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
    /// The pool of this agent.
    pool: Option<String>,
    seen: BTreeMap<String, Seen>,
    coming: Option<BTreeMap<String, Seen>>,
    complete: bool,
    /// The time of the last event.
    heard: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Seen {
    node: String,
    pool: Option<String>,
    renewed: Option<Timestamp>,
    /// The time at which its last change was seen.
    at: Instant,
}

impl Leases {
    fn take(&mut self, event: Event<Lease>, now: Instant) {
        // The start of a list is no answer of the API server.
        if !matches!(event, Event::Init) {
            self.hear(now);
        }
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

    /// Subtracts the time in which nothing could be heard from the age of every Lease.
    fn hear(&mut self, now: Instant) {
        let deaf = self.heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard + HEARS_WITHIN));
        for seen in self.seen.values_mut() {
            seen.at += deaf;
        }
        self.heard = Some(now);
    }

    /// A Lease whose renewal time is unchanged keeps its age.
    fn seen(&self, lease: Lease, now: Instant) -> Option<(String, Seen)> {
        let name = lease.metadata.name?;
        let pool = lease.metadata.labels.and_then(|mut labels| labels.remove(POOL));
        let spec = lease.spec?;
        let (node, renewed) = (spec.holder_identity?, spec.renew_time.map(|time| time.0));
        if node.len() > LONGEST_NAME {
            return None;
        }
        let same = self.seen.get(&name).filter(|before| before.renewed == renewed);
        let at = same.map_or(now, |before| before.at);
        Some((name, Seen { node, pool, renewed, at }))
    }

    fn live(&self, now: Instant) -> Alive {
        let now = self.heard.map_or(now, |heard| now.min(heard + HEARS_WITHIN));
        let young = || self.seen.values().filter(|seen| now.saturating_duration_since(seen.at) < ALIVE_FOR);
        let names = |which: &dyn Fn(&&Seen) -> bool| young().filter(which).map(|seen| seen.node.clone()).collect();
        let all: BTreeSet<String> = names(&|_| true);
        let peers = names(&|seen| seen.pool == self.pool);
        let unlimited: BTreeSet<String> = names(&|seen| seen.pool.is_none());
        let counting = unlimited.first().or(all.first()).cloned();
        Alive { all, peers, counting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewed(node: &str, second: i64) -> Lease {
        let mut lease: Lease = serde_json::from_value(lease(node, None)).unwrap();
        lease.spec.as_mut().unwrap().renew_time.as_mut().unwrap().0 = Timestamp::from_second(second).unwrap();
        lease
    }

    /// Leases as seen by an agent that renews its own every 10 s, up to now.
    struct Seen {
        leases: Leases,
        start: Instant,
        renewed: u64,
    }

    impl Seen {
        fn listing(leases: &[Lease]) -> Self {
            let mut seen = Self { leases: Leases::default(), start: Instant::now(), renewed: 0 };
            seen.list(0, leases);
            seen
        }

        fn list(&mut self, second: u64, leases: &[Lease]) {
            let now = self.start + Duration::from_secs(second);
            self.leases.take(Event::Init, now);
            for lease in leases {
                self.leases.take(Event::InitApply(lease.clone()), now);
            }
            self.leases.take(Event::InitDone, now);
        }

        fn renew(&mut self, second: u64, lease: Lease) {
            self.leases.take(Event::Apply(lease), self.start + Duration::from_secs(second));
        }

        /// Renews its own Lease up to this second, and returns which agents live then.
        fn live(&mut self, second: u64) -> String {
            while self.renewed + 10 <= second {
                self.renewed += 10;
                self.renew(self.renewed, renewed("me", self.renewed.try_into().unwrap()));
            }
            self.live_unheard(second)
        }

        /// Which agents live at this second if no event arrives.
        fn live_unheard(&self, second: u64) -> String {
            self.leases.live(self.start + Duration::from_secs(second)).all.into_iter().collect::<Vec<_>>().join(" ")
        }
    }

    /// The holder of a stolen token may write any text into the Lease of its node.
    #[test]
    fn a_name_longer_than_any_node_has_is_not_held() {
        let (longest, longer) = ("n".repeat(LONGEST_NAME), "n".repeat(LONGEST_NAME + 1));
        let seen = Seen::listing(&[renewed(&longest, 1), renewed(&longer, 1)]);
        assert_eq!(seen.leases.live(seen.start).all, BTreeSet::from([longest]));
    }

    #[test]
    fn an_agent_lives_for_40_s_after_the_last_change_of_its_lease_independent_of_its_clock() {
        let mut seen = Seen::listing(&[renewed("a", 5), renewed("b", 9_000_000)]);
        assert_eq!(seen.live(39), "a b me");
        seen.renew(39, renewed("a", 6));
        seen.renew(39, renewed("b", 9_000_000));
        assert_eq!(seen.live(41), "a me", "an unchanged Lease was not renewed");
        assert_eq!(seen.live(78), "a me");
        assert_eq!(seen.live(80), "me");
        seen.list(81, &[renewed("a", 6), renewed("me", 80)]);
        assert_eq!(seen.live(81), "me", "reading the list again makes no Lease younger");
        seen.renew(82, renewed("b", 9_000_001));
        assert_eq!(seen.live(82), "b me");
    }

    #[test]
    fn an_agent_without_a_lease_does_not_count_as_alive() {
        assert_eq!(Seen::listing(&[renewed("a", 5)]).live_unheard(1), "a");
    }

    /// The agents of a pool agree on who reports on a forward that no node carries.
    #[test]
    fn the_agents_of_a_pool_know_their_peers_and_who_counts_forwards_for_grants() {
        let of = |node: &str, pool: Option<&str>| {
            let mut lease: Lease = serde_json::from_value(lease(node, pool)).unwrap();
            lease.spec.as_mut().unwrap().renew_time.as_mut().unwrap().0 = Timestamp::UNIX_EPOCH;
            lease
        };
        let leases = [of("a", Some("edge")), of("b", None), of("c", Some("core")), of("d", Some("edge")), of("e", None)];
        let seen = |pool: Option<&str>, leases: &[Lease]| {
            let mut seen = Seen::listing(leases);
            seen.leases.pool = pool.map(str::to_owned);
            let Alive { all, peers, counting } = seen.leases.live(seen.start);
            (all.len(), peers.into_iter().collect::<Vec<_>>().join(" "), counting.unwrap())
        };
        assert_eq!(seen(Some("edge"), &leases), (5, "a d".to_owned(), "b".to_owned()));
        assert_eq!(seen(None, &leases), (5, "b e".to_owned(), "b".to_owned()));
        assert_eq!(seen(Some("core"), &[leases[0].clone(), leases[2].clone()]), (2, "c".to_owned(), "a".to_owned()));
    }

    #[test]
    fn an_outage_makes_no_lease_older() {
        let mut seen = Seen::listing(&[renewed("a", 5), renewed("b", 5)]);
        assert_eq!(seen.live(10), "a b me");
        assert_eq!(seen.live_unheard(1000), "a b me", "nobody could renew anything");
        seen.renewed = 1000;
        seen.list(1000, &[renewed("a", 5), renewed("b", 5), renewed("me", 10)]);
        assert_eq!(seen.live(1008), "a b me", "each has the rest of its time");
        seen.renew(1009, renewed("a", 6));
        assert_eq!(seen.live(1011), "a me", "one that does not return is dead as soon as without an outage");
    }
}
