//! Takes this node out of the status of forwards that the agent does not follow any more, because their labels or its selector
//! changed.
//!
//! The watch shows such a forward as deleted. Whether it was, and what its status is, is asked at the API server, one object at a
//! time. The entry of this node is removed after the kernel has closed the forward. The last agent of the pool corrects the summary
//! too, unless another pool follows the forward (ADR 0060).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::follow::retries;
use super::known::contains;
use super::later::{Later, until};
use super::recorder::Events;
use super::selector::ForwardSelector;
use super::trouble::{Trouble, is_about_one, retry_after};
use super::turns::{Limits, Turns};
use super::write::{Outcome, Subject, perform};
use super::{Cluster, DEADLINE, Live};
use crate::api::{PortForward, PortForwardStatus};
use crate::forward::ForwardKey;
use crate::publish::Report;
use crate::source::Snapshot;
use crate::status::{SETTLE, Write, is_left_to, unfollowed};

#[cfg(test)]
mod tests;

/// How much is asked. The requests are made one after the other.
const LIMITS: Limits = Limits { at_once: 1, at_once_each: 1, burst: 2000, interval: Duration::from_millis(20) };
/// When an object is looked at for the last time: a write that the publisher began before may have come after the first look.
const LAST_LOOK: Duration = DEADLINE.saturating_add(SETTLE);

/// A failed request, or a failed write.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// An object that is gone from the set of this agent.
#[derive(Clone, Debug)]
struct Left {
    uid: Option<String>,
    since: Instant,
    /// Whether this agent has removed its entry.
    withdrew: bool,
    /// The version that nobody has changed since a moment, if the summary is left to this pool.
    still: Option<(Option<String>, Instant)>,
}

/// What is next for an object.
#[derive(Clone, Debug, PartialEq)]
enum Next {
    /// Nothing before this moment.
    Wait(Instant),
    /// Nothing any more.
    Done,
    /// This write.
    Write(Write),
}

/// The answer of the API server about one object.
#[derive(Clone, Debug)]
struct Found {
    metadata: ObjectMeta,
    status: PortForwardStatus,
}

/// What this task knows.
struct Leaving {
    node: String,
    selector: ForwardSelector,
    turns: Turns,
    /// The set that this agent followed last.
    followed: Followed,
    left: BTreeMap<ForwardKey, Left>,
    /// Those of which this node's kernel may still hold something.
    closing: BTreeSet<ForwardKey>,
    later: Later,
    pauses: ExponentialBackoff,
}

/// The set that an agent followed last.
#[derive(Clone, Debug)]
enum Followed {
    /// The set of the record, which has no status.
    Remembered(Arc<Snapshot>),
    /// A set of the API server.
    Read(Arc<Snapshot>),
}

/// Takes `node` out of the status of the forwards that `selector` does not select any more. `remembered` is the set that this node
/// last applied before the start. Runs until the agent ends.
pub async fn leave(
    cluster: &Cluster,
    (node, selector): (&str, ForwardSelector),
    remembered: Arc<Snapshot>,
    mut reports: watch::Receiver<Option<Arc<Report>>>,
) {
    let (mut snapshots, mut live) = (cluster.snapshots.clone(), cluster.live.clone());
    let mut trouble = Trouble::new("the status of forwards of other pools", cluster.outage.clone());
    let mut leaving = Leaving::new(node, selector, remembered);
    loop {
        let (snapshot, report, alive) =
            (snapshots.borrow_and_update().clone(), reports.borrow_and_update().clone(), live.borrow_and_update().clone());
        let now = Instant::now();
        if let Some(snapshot) = &snapshot {
            leaving.learn(snapshot, report.as_deref(), &alive, now);
        }
        if let (Some(report), Some(_)) = (&report, &alive) {
            leaving.closed(report);
        }
        if let Some(key) = leaving.begin(now) {
            let looked = leaving.look(&cluster.client, &cluster.events, &key, &alive).await;
            leaving.conclude(&key, looked, &mut trouble, Instant::now());
            continue;
        }
        let wakes = leaving.wakes(now);
        let goes_on = tokio::select! {
            changed = snapshots.changed() => changed.is_ok(),
            changed = reports.changed() => changed.is_ok(),
            changed = live.changed() => changed.is_ok(),
            () = until(wakes) => true,
        };
        if !goes_on {
            return;
        }
    }
}

impl Leaving {
    fn new(node: &str, selector: ForwardSelector, remembered: Arc<Snapshot>) -> Self {
        Self {
            node: node.to_owned(),
            selector,
            turns: Turns::new(LIMITS),
            followed: Followed::Remembered(remembered),
            left: BTreeMap::new(),
            closing: BTreeSet::new(),
            later: Later::default(),
            pauses: retries(),
        }
    }

    /// Finds the objects that are gone from the newest set, or are in it again.
    fn learn(&mut self, snapshot: &Arc<Snapshot>, report: Option<&Report>, live: &Live, now: Instant) {
        let before = match &self.followed {
            Followed::Read(before) if Arc::ptr_eq(before, snapshot) => return,
            Followed::Read(before) | Followed::Remembered(before) => Arc::clone(before),
        };
        let is_first = live.as_ref().is_none_or(|live| live.peers.first() == Some(&self.node));
        for (metadata, status) in gone(&before, snapshot) {
            let key = ForwardKey::named(metadata);
            let has_entry = match &self.followed {
                Followed::Remembered(_) => true,
                Followed::Read(_) => status.is_some_and(|it| it.nodes.iter().any(|entry| entry.node_name == self.node)),
            };
            // A node with a role may be about to write its entry.
            let judgement = report.and_then(|report| report.judgements.get(&key));
            if has_entry || is_first || judgement.is_none_or(|judgement| judgement.role.is_some()) {
                self.closing.insert(key.clone());
                self.left.insert(key, Left { uid: metadata.uid.clone(), since: now, withdrew: false, still: None });
            }
        }
        self.left.retain(|key, _| {
            let is_back = contains(snapshot, key);
            if is_back {
                self.closing.remove(key);
                self.turns.unmark(key);
            }
            !is_back
        });
        self.followed = Followed::Read(Arc::clone(snapshot));
    }

    /// Lets the objects wait for their turn of which the kernel holds nothing, by the newest report.
    fn closed(&mut self, report: &Report) {
        for key in self.closing.extract_if(.., |key| !report.judgements.contains_key(key)) {
            self.turns.mark(&key);
        }
    }

    /// The object whose turn it is.
    fn begin(&mut self, now: Instant) -> Option<ForwardKey> {
        while let Some(key) = self.later.due(now) {
            if self.left.contains_key(&key) {
                self.turns.mark(&key);
            }
        }
        self.turns.begin(now)
    }

    fn wakes(&self, now: Instant) -> Option<Instant> {
        self.later.first().into_iter().chain(self.turns.ready(now)).min()
    }

    /// Reads the object and makes the write that it needs.
    async fn look(&mut self, client: &Client, events: &Events, key: &ForwardKey, live: &Live) -> Result<Next, Failed> {
        let found = timeout(DEADLINE, find(client.clone(), key)).await??;
        let (Some(left), Some(live)) = (self.left.get_mut(key), live) else { return Ok(Next::Done) };
        let next = left.next(&self.node, &self.selector, &live.peers, found.as_ref(), Instant::now());
        let (Next::Write(write), Some(Found { metadata, status })) = (&next, found) else { return Ok(next) };
        let subject = Subject { metadata, status };
        match perform(client.clone(), &self.node, key, &subject, write).await {
            Outcome::Written(_) => {}
            Outcome::Overtaken => return Ok(Next::Wait(Instant::now())),
            Outcome::Failed(error) => return Err(error),
        }
        match write {
            Write::Entry(_) | Write::Withdraw(_) => {
                info!(forward = %key, "the labels of this forward are not selected any more; the entry of this node is removed");
                left.withdrew = true;
                Ok(Next::Wait(Instant::now()))
            }
            Write::Summary(summary) => {
                events.record(key, &subject.metadata, &subject.status, summary);
                Ok(Next::Wait(left.since + LAST_LOOK))
            }
        }
    }

    fn conclude(&mut self, key: &ForwardKey, looked: Result<Next, Failed>, trouble: &mut Trouble, now: Instant) {
        self.turns.end(key);
        let next = match looked {
            Ok(next) => {
                trouble.worked();
                self.pauses = retries();
                next
            }
            Err(error) => {
                let pause = self.pauses.next().unwrap_or_default().max(retry_after(&*error));
                if is_about_one(&*error) {
                    trouble.failed_one(&*error);
                } else {
                    trouble.failed(&*error);
                    self.turns.hold(Some(now + pause));
                }
                Next::Wait(now + pause)
            }
        };
        match next {
            Next::Wait(until) => self.later.put(until, key.clone()),
            Next::Done | Next::Write(_) => {
                debug!(forward = %key, "this forward is left");
                self.left.remove(key);
            }
        }
    }
}

impl Left {
    /// What is next, by what the API server has of the object; nothing if it is gone, was replaced, or is selected again.
    fn next(
        &mut self,
        node: &str,
        selector: &ForwardSelector,
        peers: &BTreeSet<String>,
        found: Option<&Found>,
        now: Instant,
    ) -> Next {
        let Some(Found { metadata, status }) = found.filter(|found| found.metadata.uid == self.uid) else { return Next::Done };
        if selector.selects(metadata.labels.as_ref()) {
            return Next::Done;
        }
        if status.nodes.iter().any(|entry| entry.node_name == node) {
            return Next::Write(Write::Withdraw(node.to_owned()));
        }
        let generation = metadata.generation.unwrap_or_default();
        let may_write = self.withdrew || peers.first().is_some_and(|first| first == node);
        if may_write && is_left_to(peers, status, generation) {
            let version = metadata.resource_version.clone();
            return match &self.still {
                Some((same, since)) if *same == version => {
                    let until = *since + SETTLE;
                    let summary = || Write::Summary(unfollowed(status, generation, Timestamp::now()));
                    if until <= now { Next::Write(summary()) } else { Next::Wait(until) }
                }
                Some(_) | None => {
                    self.still = Some((version, now));
                    Next::Wait(now + SETTLE)
                }
            };
        }
        let last = self.since + LAST_LOOK;
        if now < last { Next::Wait(last) } else { Next::Done }
    }
}

/// The metadata and status of the objects of a set that are not in the one after it.
fn gone<'a>(before: &'a Snapshot, now: &'a Snapshot) -> impl Iterator<Item = (&'a ObjectMeta, Option<&'a PortForwardStatus>)> {
    let good = before.forwards.differences(&now.forwards).filter(|difference| difference.now.is_none());
    let good = good
        .filter_map(|difference| difference.before)
        .map(|it| (&it.object.metadata, it.stored.as_ref().and_then(|stored| stored.status.as_ref())));
    let all = good.chain(before.undecoded.values().map(|undecoded| (&undecoded.metadata, undecoded.status.as_ref())));
    all.filter(|(metadata, _)| !contains(now, &ForwardKey::named(metadata)))
}

/// Reads one object with its labels. An agent has the right to list objects, and a list of one name costs what a read costs.
async fn find(client: Client, key: &ForwardKey) -> Result<Option<Found>, kube::Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, &key.namespace, &ApiResource::erase::<PortForward>(&()));
    let listed = api.list(&ListParams::default().fields(&format!("metadata.name={}", key.name))).await?;
    Ok(listed.items.into_iter().next().map(|object| {
        let status = object.data.get("status").cloned().and_then(|status| serde_json::from_value(status).ok());
        Found { metadata: object.metadata, status: status.unwrap_or_default() }
    }))
}
