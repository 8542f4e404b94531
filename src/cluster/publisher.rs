//! Writes status: this node's entry and, where it falls to this node, the summary. A task of its own, which takes the newest report.

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

/// How many writes are under way at once.
const AT_ONCE: usize = 8;
/// How long what may pass has to last before it is said: nodes speak one after the other, and tools replace one object by another.
const SETTLE: Duration = Duration::from_secs(3);

/// An object as far as status goes.
#[derive(Clone)]
struct Subject {
    key: ForwardKey,
    metadata: ObjectMeta,
    status: PortForwardStatus,
}

/// What a write gave back, until the watch has seen it too.
struct Answer {
    /// The versions that it replaced.
    replaced: BTreeSet<String>,
    subject: Subject,
}

struct Publisher {
    client: Client,
    node: String,
    answers: BTreeMap<ForwardKey, Answer>,
    /// Since when a summary is due that may pass.
    unsettled: BTreeMap<ForwardKey, Instant>,
    trouble: Trouble,
    events: Events,
    metrics: Arc<Metrics>,
    /// The last object that was written: the next round begins behind it, so that none waits for those before it for ever.
    last: Option<ForwardKey>,
}

/// Publishes the reports of `node` to the API server for as long as it runs; `metrics` count what fails.
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
            // A report that comes meanwhile makes what is left of the round old.
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
    /// A newer report came before the end; what was written by then is.
    Overtaken,
    Failed {
        /// How long the API server wants to be left alone.
        not_before: Duration,
    },
}

enum Outcome {
    /// The object as it is now.
    Written(Box<PortForward>),
    /// It is another object by now, or another version: the watch will tell.
    Overtaken,
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl Outcome {
    /// Whether the next call would fare no better.
    fn is_outage(&self) -> bool {
        match self {
            Self::Written(_) | Self::Overtaken => false,
            Self::Failed(error) => !is_refusal(&**error),
        }
    }
}

impl Publisher {
    /// Writes for every object what comes next, if anything does.
    ///
    /// Begins no further write once one met an outage, because each would take as long as a call may, or once `newer` is there.
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

    /// Since when a summary that may pass is due about this object.
    fn since(&self, key: &ForwardKey) -> Instant {
        self.unsettled.get(key).copied().unwrap_or_else(Instant::now)
    }

    fn conclude(&mut self, done: Vec<(Subject, Write, Outcome)>) -> Round {
        let mut round = Round::Rest;
        for (subject, write, outcome) in done {
            match outcome {
                Outcome::Written(object) => {
                    self.trouble.worked();
                    // Somebody else holds a field that ours would take out: the same again would change as little.
                    if object.metadata.resource_version == subject.metadata.resource_version {
                        debug!(forward = %subject.key, ?write, "a write of status changed nothing; does another program write it too?");
                        continue;
                    }
                    if let Write::Summary(summary) = &write {
                        self.events.record(&subject.metadata, &subject.status, summary);
                    }
                    self.answer(subject, *object);
                    round = if matches!(round, Round::Failed { .. }) { round } else { Round::Wrote };
                }
                Outcome::Overtaken => debug!(forward = %subject.key, "another version by now"),
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

    /// Remembers what the API server gave back, until the watch shows a version that this one did not replace.
    fn answer(&mut self, before: Subject, object: PortForward) {
        let mut replaced = self.answers.remove(&before.key).map(|answer| answer.replaced).unwrap_or_default();
        replaced.extend(before.metadata.resource_version);
        let subject = Subject { key: before.key.clone(), metadata: object.metadata, status: object.status.unwrap_or_default() };
        self.answers.insert(before.key, Answer { replaced, subject });
    }

    /// Every object as it was last seen, by the watch or in an answer.
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

/// The same, beginning behind the one with the key `last`; those before it come at the end.
fn after<T>(mut due: Vec<T>, last: Option<&ForwardKey>, key: impl Fn(&T) -> &ForwardKey) -> Vec<T> {
    let first = last.map_or(0, |last| due.iter().position(|each| key(each) > last).unwrap_or(0));
    due.rotate_left(first);
    due
}

/// Writes one after the other, some at once, in order; begins none after one that said to stop, or once `newer` is there. What
/// was begun is waited for.
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

/// Whether a judgement is about this very object and content, and not about one that it replaced.
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

    /// Which of a hundred writes are begun where the one numbered `outage` meets one.
    async fn begun(outage: usize, newer: impl Future<Output = ()>) -> usize {
        let write = async |number: usize| {
            tokio::task::yield_now().await;
            (number, if number == outage { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        write_until((0..100).collect(), newer, write).await.len()
    }

    #[tokio::test]
    async fn a_round_begins_no_write_after_an_outage_and_none_once_a_newer_report_is_there() {
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
    fn the_next_round_begins_behind_the_last_write_of_the_one_before() {
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
