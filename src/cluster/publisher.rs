//! Writes status: the entry of this node and, if this node is responsible for it, the summary. Runs as a separate task with the
//! newest report.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use super::follow::retries;
use super::recorder::Events;
use super::trouble::{Trouble, is_refusal, retry_after};
use super::{Cluster, DEADLINE, patches};
use crate::agent::Report;
use crate::api::{PortForward, PortForwardStatus};
use crate::forward::ForwardKey;
use crate::metrics::{Metrics, Written};
use crate::source::Snapshot;
use crate::status::{Judgement, View, Write};

/// The number of writes at the same time.
const AT_ONCE: usize = 8;
/// How long a summary that may be temporary must stay due before it is written: nodes report one after the other, and tools
/// delete and recreate objects.
const SETTLE: Duration = Duration::from_secs(3);

/// An object, with the parts that its status depends on.
#[derive(Clone)]
struct Subject {
    key: ForwardKey,
    metadata: ObjectMeta,
    status: PortForwardStatus,
}

/// The result of a write, kept until the watch shows it too.
struct Answer {
    /// The versions that the write replaced.
    replaced: BTreeSet<String>,
    subject: Subject,
}

struct Publisher {
    client: Client,
    node: String,
    answers: BTreeMap<ForwardKey, Answer>,
    /// The time since which a summary that may be temporary is due.
    unsettled: BTreeMap<ForwardKey, Instant>,
    trouble: Trouble,
    events: Events,
    metrics: Arc<Metrics>,
    /// The last object that was written. The next round starts after it, so that no object waits forever behind others.
    last: Option<ForwardKey>,
}

/// Publishes the reports of `node` to the API server. Runs until the agent ends; `metrics` count the failures.
pub async fn publish(cluster: &Cluster, node: &str, metrics: Arc<Metrics>, mut reports: watch::Receiver<Option<Arc<Report>>>) {
    let (mut snapshots, mut live) = (cluster.snapshots.clone(), cluster.live.clone());
    let mut publisher = Publisher {
        client: cluster.client.clone(),
        node: node.to_owned(),
        answers: BTreeMap::new(),
        unsettled: BTreeMap::new(),
        trouble: Trouble::new("status", cluster.outage.clone()),
        events: cluster.events.clone(),
        metrics,
        last: None,
    };
    let mut pauses = retries();
    let mut retry: Option<Duration> = None;
    loop {
        let pause = async {
            match retry {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let goes_on = tokio::select! {
            changed = reports.changed() => changed.is_ok(),
            changed = snapshots.changed() => changed.is_ok(),
            changed = live.changed() => changed.is_ok(),
            () = pause => true,
        };
        if !goes_on {
            return;
        }
        retry = loop {
            let known =
                (reports.borrow_and_update().clone(), snapshots.borrow_and_update().clone(), live.borrow_and_update().clone());
            let (Some(report), Some(snapshot), Some(live)) = known else { break None };
            // A report that arrives in the meantime makes the rest of the round outdated.
            let newer = async {
                if reports.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            match publisher.round(&report, &snapshot, &live, newer).await {
                Round::Wrote => pauses = retries(),
                Round::Overtaken => {}
                Round::Rest => break (!publisher.unsettled.is_empty()).then_some(SETTLE),
                Round::Failed { not_before } => break pauses.next().map(|pause| pause.max(not_before)),
            }
        };
    }
}

enum Round {
    Wrote,
    Rest,
    /// A newer report arrived before the end; the writes until then were made.
    Overtaken,
    Failed {
        /// How long the API server asks the client to wait.
        not_before: Duration,
    },
}

enum Outcome {
    /// The object after the write.
    Written(Box<PortForward>),
    /// The object was replaced or has another version; the watch will show it.
    Overtaken,
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl Outcome {
    /// Whether the next call would fail in the same way.
    fn is_outage(&self) -> bool {
        match self {
            Self::Written(_) | Self::Overtaken => false,
            Self::Failed(error) => !is_refusal(&**error),
        }
    }
}

impl Publisher {
    /// Makes the next write of every object that needs one.
    ///
    /// Starts no further write after one that met an outage, because each would take the whole time limit, or after `newer` is
    /// ready.
    async fn round(
        &mut self,
        report: &Report,
        snapshot: &Snapshot,
        live: &Arc<BTreeSet<String>>,
        newer: impl Future<Output = ()>,
    ) -> Round {
        let now = Timestamp::now();
        let mut due = Vec::new();
        let mut unsettled = BTreeMap::new();
        for subject in self.subjects(snapshot) {
            let Some(judgement) = report.judgements.get(&subject.key).filter(|judgement| is_about(judgement, &subject.metadata))
            else {
                continue;
            };
            let view = View { node: &self.node, judgement, status: &subject.status, live };
            let Some(write) = view.next(now) else { continue };
            if view.may_pass(&write) {
                let since = *unsettled.entry(subject.key.clone()).or_insert_with(|| self.since(&subject.key));
                if since.elapsed() < SETTLE {
                    continue;
                }
            }
            due.push((subject, write));
        }
        self.unsettled = unsettled;
        let all = due.len();
        let done = write_until(after(due, self.last.as_ref(), |(subject, _)| &subject.key), newer, async |(subject, write)| {
            let outcome = perform(&self.client, &self.node, &subject, &write).await;
            let goes_on = if outcome.is_outage() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            ((subject, write, outcome), goes_on)
        })
        .await;
        let complete = done.len() == all;
        self.last = done.last().map(|(subject, ..)| subject.key.clone());
        match self.conclude(done) {
            Round::Rest if !complete => Round::Overtaken,
            round @ (Round::Wrote | Round::Rest | Round::Overtaken | Round::Failed { .. }) => round,
        }
    }

    /// The time since which a summary that may be temporary is due for this object.
    fn since(&self, key: &ForwardKey) -> Instant {
        self.unsettled.get(key).copied().unwrap_or_else(Instant::now)
    }

    fn conclude(&mut self, done: Vec<(Subject, Write, Outcome)>) -> Round {
        let mut round = Round::Rest;
        for (subject, write, outcome) in done {
            match outcome {
                Outcome::Written(object) => {
                    self.trouble.worked();
                    // Another field manager owns a field that ours would remove. A repeated write would change nothing either.
                    if object.metadata.resource_version == subject.metadata.resource_version {
                        debug!(forward = %subject.key, ?write, "a write of status changed nothing; another program may write it too");
                        continue;
                    }
                    if let Write::Summary(summary) = &write {
                        self.events.record(&subject.metadata, &subject.status, summary);
                    }
                    self.answer(subject, *object);
                    round = if matches!(round, Round::Failed { .. }) { round } else { Round::Wrote };
                }
                Outcome::Overtaken => debug!(forward = %subject.key, "the object has changed in the meantime"),
                Outcome::Failed(error) => {
                    self.trouble.failed(&*error);
                    self.metrics.unwritten(Written::Status);
                    let before = if let Round::Failed { not_before } = round { not_before } else { Duration::ZERO };
                    round = Round::Failed { not_before: before.max(retry_after(&*error)) };
                }
            }
        }
        round
    }

    /// Keeps the answer of the API server until the watch shows a version that the write did not replace.
    fn answer(&mut self, before: Subject, object: PortForward) {
        let mut replaced = self.answers.remove(&before.key).map(|answer| answer.replaced).unwrap_or_default();
        replaced.extend(before.metadata.resource_version);
        let subject = Subject { key: before.key.clone(), metadata: object.metadata, status: object.status.unwrap_or_default() };
        self.answers.insert(before.key, Answer { replaced, subject });
    }

    /// Every object in the newest version, from the watch or from an answer.
    fn subjects(&mut self, snapshot: &Snapshot) -> Vec<Subject> {
        let good = snapshot.forwards.iter().map(|sourced| (&sourced.object.metadata, sourced.object.status.as_ref()));
        let unknown = snapshot.undecoded.iter().map(|undecoded| (&undecoded.metadata, undecoded.status.as_ref()));
        let mut answers = std::mem::take(&mut self.answers);
        good.chain(unknown)
            .map(|(metadata, status)| {
                let key = key(metadata);
                let overtaken = |answer: &Answer| {
                    !metadata.resource_version.as_ref().is_some_and(|version| answer.replaced.contains(version))
                };
                match answers.remove(&key).filter(|answer| !overtaken(answer)) {
                    Some(answer) => {
                        let subject = answer.subject.clone();
                        self.answers.insert(key, answer);
                        subject
                    }
                    None => Subject { key, metadata: metadata.clone(), status: status.cloned().unwrap_or_default() },
                }
            })
            .collect()
    }
}

/// The same items, starting after the one with the key `last`; the items before it come last.
fn after<T>(mut due: Vec<T>, last: Option<&ForwardKey>, key: impl Fn(&T) -> &ForwardKey) -> Vec<T> {
    let first = last.map_or(0, |last| due.iter().position(|each| key(each) > last).unwrap_or(0));
    due.rotate_left(first);
    due
}

/// Writes the items in order, up to [`AT_ONCE`] at the same time. Starts no write after one that returned `Break`, or after
/// `newer` is ready. Waits for the writes that it started.
async fn write_until<T, D, F>(due: Vec<T>, newer: impl Future<Output = ()>, write: impl Fn(T) -> F) -> Vec<D>
where
    F: Future<Output = (D, ControlFlow<()>)>,
{
    let stopped = AtomicBool::new(false);
    let begun = due.into_iter().take_while(|_| !stopped.load(Ordering::Relaxed)).map(async |each| {
        let (done, goes_on) = write(each).await;
        stopped.fetch_or(goes_on.is_break(), Ordering::Relaxed);
        done
    });
    futures::stream::iter(begun).take_until(newer).buffer_unordered(AT_ONCE).collect().await
}

fn key(metadata: &ObjectMeta) -> ForwardKey {
    ForwardKey { namespace: metadata.namespace.clone().unwrap_or_default(), name: metadata.name.clone().unwrap_or_default() }
}

/// Whether a judgement belongs to this object and content, and not to an object that was replaced.
fn is_about(judgement: &Judgement, metadata: &ObjectMeta) -> bool {
    judgement.uid == metadata.uid && metadata.generation.is_none_or(|generation| judgement.generation <= generation)
}

async fn perform(client: &Client, node: &str, subject: &Subject, write: &Write) -> Outcome {
    let (manager, body): (String, Value) = match write {
        Write::Entry(entry) => (patches::entry_manager(node), patches::entry(&subject.metadata, Some(entry))),
        Write::Withdraw(node) => (patches::entry_manager(node), patches::entry(&subject.metadata, None)),
        Write::Summary(summary) => (patches::SUMMARY_MANAGER.to_owned(), patches::summary(&subject.metadata, summary)),
    };
    let api: Api<PortForward> = Api::namespaced(client.clone(), &subject.key.namespace);
    let patch = Patch::Apply(&body);
    let manager = PatchParams::apply(&manager).force();
    match tokio::time::timeout(DEADLINE, api.patch_status(&subject.key.name, &manager, &patch)).await {
        Ok(Ok(object)) => Outcome::Written(Box::new(object)),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => Outcome::Overtaken,
        Ok(Err(error)) => Outcome::Failed(Box::new(error)),
        Err(late) => Outcome::Failed(Box::new(late)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// How many of 100 writes are started if the one with the number `outage` meets an outage.
    async fn begun(outage: usize, newer: impl Future<Output = ()>) -> usize {
        let write = async |number: usize| {
            tokio::task::yield_now().await;
            (number, if number == outage { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        write_until((0..100).collect(), newer, write).await.len()
    }

    #[tokio::test]
    async fn a_round_starts_no_write_after_an_outage_or_after_a_newer_report() {
        assert_eq!(begun(100, pending()).await, 100);
        let most = AT_ONCE * 2;
        assert!(begun(0, pending()).await <= most);
        assert!(begun(50, pending()).await <= 50 + most);
        assert_eq!(begun(100, ready(())).await, 0);
        let soon = async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        };
        let some = begun(100, soon).await;
        assert!((1..100).contains(&some), "{some}");
    }

    #[test]
    fn the_next_round_starts_after_the_last_write_of_the_previous_one() {
        let key = |name: &str| ForwardKey { namespace: "a".to_owned(), name: name.to_owned() };
        let all = || ["a", "b", "c"].map(key).to_vec();
        let order = |last: Option<&str>| {
            after(all(), last.map(key).as_ref(), |key| key).into_iter().map(|key| key.name).collect::<String>()
        };
        assert_eq!(order(None), "abc");
        assert_eq!(order(Some("a")), "bca");
        assert_eq!(order(Some("bb")), "cab");
        assert_eq!(order(Some("c")), "abc");
    }
}
