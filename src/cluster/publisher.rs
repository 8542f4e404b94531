//! Writes status: the entry of this node and, if this node is responsible for it, the summary. Runs as a separate task with the
//! newest report.
//!
//! An object waits for a write while what the API server has differs from what this node reports. The write is computed when its
//! turn comes, from the newest report, so an object that changes often is written once, and one that changed back is not written.
//! [`Turns`] decides whose turn it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use super::Cluster;
use super::contests::Contests;
use super::follow::retries;
use super::known::{Known, Seen};
use super::later::{Later, until};
use super::recorder::Events;
use super::trouble::{Outage, Trouble, retry_after};
use super::turns::{Limits, Place, Turns};
use super::write::{Outcome, Subject, perform};
use crate::api::{PortForward, PortForwardStatus, used};
use crate::forward::ForwardKey;
use crate::metrics::{Metrics, Written};
use crate::publish::Report;
use crate::status::{Judgement, SETTLE, View, Write};

#[cfg(test)]
mod tests;

/// How much is written. The first report of a generation does not count for the rate: whoever changed the object made a write too,
/// so there are not many more of these than the API server accepts. The rate limits the writes that a change of one object causes
/// for others, for example if it conflicts with them.
const LIMITS: Limits = Limits { at_once: 8, at_once_each: 4, burst: 2000, interval: Duration::from_millis(20) };

/// The result of a write, kept until the watch shows it too.
struct Answer {
    /// The versions that the write replaced.
    replaced: BTreeSet<String>,
    subject: Subject,
}

impl Answer {
    /// Whether the answer is newer than this object.
    fn replaces(&self, seen: Seen<'_>) -> bool {
        seen.version.is_some_and(|version| self.replaced.contains(version))
    }
}

/// An object of which the last write failed.
struct Failing {
    pauses: ExponentialBackoff,
    until: Instant,
}

/// The newest generation of an object of which this agent wrote the entry and the summary.
#[derive(Default)]
struct Reported {
    uid: Option<String>,
    generations: [Option<i64>; 2],
}

struct Publisher {
    node: String,
    known: Option<Known>,
    turns: Turns,
    answers: BTreeMap<ForwardKey, Answer>,
    /// The time since which a write is due that has to wait.
    unsettled: BTreeMap<ForwardKey, Instant>,
    contests: Contests,
    reported: BTreeMap<ForwardKey, Reported>,
    failing: BTreeMap<ForwardKey, Failing>,
    /// When an object is looked at again although nothing changes.
    later: Later,
    /// The pauses of an outage.
    pauses: ExponentialBackoff,
    /// Whether the pause ends early if another task reaches the API server.
    until_answered: bool,
    outage: Outage,
    trouble: Trouble,
    events: Events,
    metrics: Arc<Metrics>,
    /// The status of an object that has none.
    blank: PortForwardStatus,
}

/// A write and its result.
type Done = (ForwardKey, Subject, Write, Outcome);

/// Publishes the reports of `node` to the API server. Runs until the agent ends; `metrics` count the failures.
pub async fn publish(cluster: &Cluster, node: &str, metrics: Arc<Metrics>, mut reports: watch::Receiver<Option<Arc<Report>>>) {
    let (mut snapshots, mut live) = (cluster.snapshots.clone(), cluster.live.clone());
    let mut publisher = Publisher::new(node, cluster.outage.clone(), cluster.events.clone(), metrics);
    let mut writes = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        publisher.expire(now);
        while let Some((key, subject, write)) = publisher.begin(now) {
            let client = cluster.client.clone();
            writes.push(async move {
                let outcome = perform(client, node, &key, &subject, &write).await;
                (key, subject, write, outcome)
            });
        }
        let wakes = publisher.wakes(now);
        let changed = tokio::select! {
            changed = reports.changed() => changed.is_ok(),
            changed = snapshots.changed() => changed.is_ok(),
            changed = live.changed() => changed.is_ok(),
            Some(done) = writes.next() => {
                publisher.conclude(done, Instant::now());
                continue;
            }
            () = until(wakes) => continue,
        };
        if !changed {
            return;
        }
        let known =
            (reports.borrow_and_update().clone(), snapshots.borrow_and_update().clone(), live.borrow_and_update().clone());
        if let (Some(report), Some(snapshot), Some(live)) = known {
            publisher.learn(Known { report, snapshot, live }, Instant::now());
        }
    }
}

impl Publisher {
    fn new(node: &str, outage: Outage, events: Events, metrics: Arc<Metrics>) -> Self {
        Self {
            node: node.to_owned(),
            known: None,
            turns: Turns::new(LIMITS),
            answers: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            contests: Contests::new(Arc::clone(&metrics)),
            reported: BTreeMap::new(),
            failing: BTreeMap::new(),
            later: Later::default(),
            pauses: retries(),
            until_answered: false,
            trouble: Trouble::new("status", outage.clone()),
            outage,
            events,
            metrics,
            blank: PortForwardStatus::default(),
        }
    }

    /// Takes the newest state over and looks at each object that it affects.
    fn learn(&mut self, known: Known, now: Instant) {
        if self.until_answered && self.outage.is_over() {
            self.until_answered = false;
            self.turns.hold(None);
        }
        let affected = known.affected(self.known.as_ref());
        self.known = Some(known);
        for key in affected {
            self.failing.remove(&key);
            if self.turns.is_running(&key) {
                self.turns.mark(&key);
            } else {
                self.look(&key, now);
            }
        }
    }

    /// Looks again at the objects whose time has come.
    fn expire(&mut self, now: Instant) {
        while let Some(key) = self.later.due(now) {
            if !self.turns.is_running(&key) {
                self.look(&key, now);
            }
        }
    }

    /// Lets an object wait for a write if it needs one.
    fn look(&mut self, key: &ForwardKey, now: Instant) {
        match self.due(key, now) {
            Some(_) => self.turns.mark(key),
            None => self.turns.unmark(key),
        }
    }

    /// The next write that may begin now.
    fn begin(&mut self, now: Instant) -> Option<(ForwardKey, Subject, Write)> {
        while let Some(key) = self.turns.begin(now) {
            if let Some(write) = self.due(&key, now)
                && let Some(newest) = self.newest(&key)
            {
                let metadata = ObjectMeta { resource_version: newest.version.map(str::to_owned), ..newest.metadata.clone() };
                let subject = Subject { metadata, status: newest.status.cloned().unwrap_or_default() };
                return Some((key, subject, write));
            }
            self.turns.end(&key);
        }
        None
    }

    /// When something is to be done although nothing changes.
    fn wakes(&self, now: Instant) -> Option<Instant> {
        self.later.first().into_iter().chain(self.turns.ready(now)).min()
    }

    /// The object in its newest version, from the watch or from an answer.
    fn newest(&self, key: &ForwardKey) -> Option<Seen<'_>> {
        let seen = self.known.as_ref()?.object(key)?;
        let answer = self.answers.get(key).filter(|answer| answer.replaces(seen)).map(|answer| &answer.subject);
        Some(answer.map_or(seen, |Subject { metadata, status }| Seen {
            metadata,
            version: metadata.resource_version.as_deref(),
            status: Some(status),
        }))
    }

    /// The write by which the status of an object becomes what this node reports, and how long it must stay due.
    fn wanted(&self, key: &ForwardKey) -> Option<(Write, Duration)> {
        let Known { report, live, .. } = self.known.as_ref()?;
        let Seen { metadata, status, .. } = self.newest(key)?;
        let status = status.unwrap_or(&self.blank);
        let judgement = report.judgements.get(key).filter(|judgement| is_about(judgement, metadata))?;
        let (live, peers) = (&live.all, &live.peers);
        let view = View { node: &self.node, judgement, status, live, peers, generation: metadata.generation };
        let write = view.next(Timestamp::now())?;
        let patience = view.patience(&write);
        Some((write, patience))
    }

    /// The write that an object needs now.
    fn due(&mut self, key: &ForwardKey, now: Instant) -> Option<Write> {
        let shown = self.known.as_ref().and_then(|known| known.object(key));
        if let Some(answer) = self.answers.get(key)
            && !shown.is_some_and(|shown| answer.replaces(shown))
        {
            self.answers.remove(key);
        }
        let (write, patience) = self.wanted(key).unzip();
        let settled = if let Some(patience) = patience.filter(|patience| !patience.is_zero()) {
            Some(*self.unsettled.entry(key.clone()).or_insert(now) + patience)
        } else {
            self.unsettled.remove(key);
            None
        };
        let write = self.uncontested(key, write, now)?;
        let failing = self.failing.get(key).map(|failing| failing.until);
        let begins = settled.max(failing).filter(|begins| *begins > now);
        if let Some(begins) = begins {
            self.later.put(begins, key.clone());
            return None;
        }
        Some(write)
    }

    /// The write to make instead of the one that is due, if another client overwrites the status.
    fn uncontested(&mut self, key: &ForwardKey, due: Option<Write>, now: Instant) -> Option<Write> {
        let Some(newest) = self.newest(key) else {
            self.contests.forget(key);
            self.reported.remove(key);
            return due;
        };
        let stored = newest.status.cloned().unwrap_or_default();
        let (write, again) = self.contests.rule(key, &stored, due, now);
        if let Some(again) = again {
            self.later.put(again, key.clone());
        }
        write
    }

    fn conclude(&mut self, (key, subject, write, outcome): Done, now: Instant) {
        let outage = outcome.is_outage();
        match outcome {
            Outcome::Written(object) => {
                self.trouble.worked();
                self.pauses = retries();
                self.failing.remove(&key);
                self.written(&key, subject, &write, *object, now);
            }
            Outcome::Overtaken => {
                debug!(forward = %key, "the object has changed in the meantime");
                if self.turns.end(&key) {
                    self.look(&key, now);
                } else {
                    // Usually the watch shows it before.
                    self.later.put(now + SETTLE, key);
                }
            }
            Outcome::Failed(error) if outage => {
                self.trouble.failed(&*error);
                self.metrics.unwritten(Written::Status);
                // The writes that began before this one failed do not lengthen the pause.
                let until = self.turns.held(now).unwrap_or_else(|| now + self.pauses.next().unwrap_or_default());
                let asked = retry_after(&*error);
                self.turns.hold(Some(until.max(now + asked)));
                self.until_answered = asked.is_zero() && !self.outage.is_over();
                self.turns.end_and_mark(&key, Place::InOrder);
            }
            Outcome::Failed(error) => {
                self.trouble.failed_one(&*error);
                self.metrics.unwritten(Written::Status);
                self.turns.end(&key);
                let failing = self.failing.entry(key.clone()).or_insert_with(|| Failing { pauses: retries(), until: now });
                failing.until = now + failing.pauses.next().unwrap_or_default();
                self.later.put(failing.until, key);
            }
        }
    }

    fn written(&mut self, key: &ForwardKey, subject: Subject, write: &Write, object: PortForward, now: Instant) {
        // Another field manager owns a field that ours would remove. A repeated write would change nothing either.
        if object.metadata.resource_version == subject.metadata.resource_version {
            debug!(forward = %key, ?write, "a write of status changed nothing; another program may write it too");
            if self.turns.end(key) {
                self.look(key, now);
            }
            return;
        }
        if let Write::Summary(summary) = write {
            self.events.record(key, &subject.metadata, &subject.status, summary);
        }
        if self.is_first_report(key, &subject, write) {
            self.turns.free_of_charge(key);
        }
        self.answer(key, subject, object);
        self.contests.wrote(key, write);
        let place = match write {
            Write::Entry(_) | Write::Withdraw(_) => Place::Next,
            Write::Summary(_) => Place::InOrder,
        };
        match self.due(key, now) {
            Some(_) => self.turns.end_and_mark(key, place),
            None => {
                self.turns.end(key);
            }
        }
    }

    /// Whether a write was the first report of this agent about a generation of an object, whatever others wrote since.
    fn is_first_report(&mut self, key: &ForwardKey, subject: &Subject, write: &Write) -> bool {
        let (kind, generation) = match write {
            Write::Entry(entry) => (0, entry.observed_generation),
            Write::Summary(summary) => (1, summary.observed_generation),
            Write::Withdraw(_) => return false,
        };
        let reported = self.reported.entry(key.clone()).or_default();
        if reported.uid != subject.metadata.uid {
            *reported = Reported { uid: subject.metadata.uid.clone(), generations: [None; 2] };
        }
        let is_new = write.is_first_report(&subject.status) && reported.generations[kind] < generation;
        reported.generations[kind] = reported.generations[kind].max(generation);
        is_new
    }

    /// Keeps the answer of the API server until the watch shows a version that the write did not replace.
    fn answer(&mut self, key: &ForwardKey, before: Subject, object: PortForward) {
        let mut replaced = self.answers.remove(key).map(|answer| answer.replaced).unwrap_or_default();
        replaced.extend(before.metadata.resource_version);
        let subject = Subject { metadata: used(object.metadata), status: object.status.unwrap_or_default() };
        self.answers.insert(key.clone(), Answer { replaced, subject });
    }
}

/// Whether a judgement belongs to this object and content, and not to an object that was replaced.
fn is_about(judgement: &Judgement, metadata: &ObjectMeta) -> bool {
    judgement.uid == metadata.uid && metadata.generation.is_none_or(|generation| judgement.generation <= generation)
}
