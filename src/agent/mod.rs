//! The sync loop of one node: the complete set of forwards and the facts in, the kernel as planned, a report out.
//!
//! Level-triggered: every event only says "look again". Knows both sides, Kubernetes and kernel, and decides nothing itself.

mod attribution;
mod changes;
mod programming;
mod publisher;
mod recording;
mod remembered;
mod retries;
mod traffic;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::debug;

pub use publisher::{Publisher, Statuses, objects, publish};
pub use recording::{Due, Recorder, Records, keep_record, recording};
pub use remembered::Memory;
pub use traffic::follow_traffic;

use crate::dataplane::{Applied, Dataplane};
use crate::forward::{Forward, ForwardKey};
use crate::metrics::{Health, Metrics, Owners, Part, Phase, Repair, SyncOutcome};
use crate::model::{Desired, Facts};
use crate::node::{FactsError, Observer};
use crate::plan::{Candidate, InForce, Plan, Policy, plan};
use crate::progress;
use crate::source::{Snapshot, Source, Sourced, Undecoded};
use crate::status::{Judgement, judge, leave, unknown_form};
use attribution::Attribution;
use changes::{Changes, Repaired};
use programming::Programming;
use retries::{Failure, Retries};

/// How long a wake waits for others, so that a burst of events is one sync: at least this, twice what a sync takes, and at most a second.
const COALESCE: Duration = Duration::from_millis(50);
/// How long the agent waits for a first complete set before it goes on with what the record holds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the kernel is compared with the plan although nothing was heard.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The shortest time between two comparisons.
    pub every: Duration,
}

/// What one sync came to, for whoever publishes it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The objects that were planned from.
    pub snapshot: Arc<Snapshot>,
    /// The objects that are gone, but of which something may still be in force.
    pub leaving: Vec<Sourced>,
    /// What this node says of each, also of those that are leaving.
    pub judgements: BTreeMap<ForwardKey, Judgement>,
    /// How often something of ours was put back that another program had changed, since the agent started.
    pub repairs: u64,
}

/// One node and everything that its sync loop needs.
pub struct Node<D> {
    /// The forwards.
    pub source: Source,
    /// The facts.
    pub observer: Observer,
    /// The kernel.
    pub dataplane: D,
    /// What the administrator decides.
    pub policy: Policy,
    /// What was last applied.
    pub memory: Memory,
    /// Says "look again".
    pub wake: Arc<Notify>,
    /// Where the newest report goes.
    pub reports: watch::Sender<Option<Arc<Report>>>,
    /// How often to look although nothing was heard.
    pub pace: Pace,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// What is said of the loop itself.
    pub health: Arc<Health>,
    /// Whose the translations in force are, for whoever counts what they carry.
    pub owners: watch::Sender<Arc<Owners>>,
}

/// What the loop remembers from one sync to the next, for people.
struct Notes {
    changes: Changes,
    attribution: Attribution,
    programming: Programming,
    retries: Retries,
    /// How soon to look again after a failure.
    retry: Duration,
}

/// Keeps the node's kernel as its forwards ask for, until the future is dropped. What is in the kernel then stays.
pub async fn run<D: Dataplane>(mut node: Node<D>) {
    let mut notes = Notes {
        changes: Changes::default(),
        attribution: Attribution::new(Arc::clone(&node.metrics), node.owners.clone()),
        programming: Programming::default(),
        retries: Retries::default(),
        retry: Duration::ZERO,
    };
    let health = Arc::clone(&node.health);
    let steps: progress::Watcher = Arc::new(move || health.step(Instant::now()));
    let started = Instant::now();
    let (mut pause, mut coalesce, mut comparison) = (Duration::ZERO, COALESCE, Duration::ZERO);
    loop {
        node.health.enter(Phase::Waiting { until: Instant::now() + pause });
        let _ = tokio::time::timeout(pause, node.wake.notified()).await;
        node.health.enter(Phase::Queued { since: Instant::now() });
        node.metrics.queued();
        tokio::time::sleep(coalesce).await;
        let listed = node.source.complete().is_some();
        let Some(snapshot) = node.snapshot(started.elapsed()) else {
            pause = PATIENCE;
            continue; // never plan from a half-read list
        };
        let begun = Instant::now();
        notes.programming.begin(snapshot.heard);
        let outcome = progress::watched(Arc::clone(&steps), node.sync(&snapshot, &mut notes)).await;
        let took = begun.elapsed();
        node.metrics.ended(outcome, took);
        if outcome != SyncOutcome::Failed {
            notes.programming.done(Instant::now()).into_iter().for_each(|took| node.metrics.programmed(took));
            if listed {
                node.health.complete();
            }
        }
        coalesce = (took * 2).clamp(COALESCE, Duration::from_secs(1));
        if outcome == SyncOutcome::Unchanged {
            comparison = took;
        }
        pause = match outcome {
            // A comparison that nothing asked for takes no more than a fiftieth of the time.
            SyncOutcome::Unchanged | SyncOutcome::Written => node.pace.every.max(comparison * 50),
            SyncOutcome::Failed => notes.retry,
        };
    }
}

impl<D: Dataplane> Node<D> {
    /// The newest complete set; if there is none yet after a while, the one that this node last applied.
    fn snapshot(&self, waited: Duration) -> Option<Arc<Snapshot>> {
        self.source.complete().or_else(|| if waited < PATIENCE { None } else { self.memory.snapshot() })
    }

    async fn sync(&mut self, snapshot: &Arc<Snapshot>, notes: &mut Notes) -> SyncOutcome {
        match sync(&self.observer, &self.dataplane, &self.policy, &self.memory, snapshot).await {
            Ok(synced) => self.conclude(snapshot, synced, notes).await,
            Err(error) => {
                self.metrics.part_failed(Part::Facts);
                self.unseen(&error, &mut notes.changes);
                notes.retry = notes.retries.after(Failure::of_facts(&error), &Desired::default());
                SyncOutcome::Failed
            }
        }
    }

    /// Reports that nobody knows how things are, of everything that was reported before.
    fn unseen(&self, error: &FactsError, changes: &mut Changes) {
        changes.note_facts(Some(error));
        let text = format!("the node cannot be looked at: {error}: {}", error.source_text());
        self.reports.send_if_modified(|report| {
            let Some(before) = report.take() else { return false };
            let judgements: BTreeMap<ForwardKey, Judgement> =
                before.judgements.iter().map(|(key, judgement)| (key.clone(), judgement.unseen(&text))).collect();
            self.metrics.judged(&judgements);
            *report = Some(Arc::new(Report { judgements, ..Report::clone(&before) }));
            true
        });
    }

    /// Remembers what is done and reports what is true.
    async fn conclude(&mut self, snapshot: &Arc<Snapshot>, synced: Synced, notes: &mut Notes) -> SyncOutcome {
        let Synced { plan, applied, judgements, leaving } = synced;
        let changes = &mut notes.changes;
        changes.note_facts(None);
        let repaired = changes.note(&plan, &applied, &judgements);
        self.count(&applied, &judgements, repaired);
        notes.attribution.note(snapshot, &plan, &applied);
        if applied.is_done() {
            self.memory.advance(snapshot, &plan.desired);
            self.memory.programmed(&plan);
        } else {
            self.memory.attempt(snapshot, &plan.desired);
            self.memory.may_hold(&plan);
        }
        self.memory.settle().await;
        if applied.is_complete() {
            notes.retries.reset();
        } else {
            notes.retry = notes.retries.after(Failure::of(&applied), &plan.desired);
        }
        debug!(forwards = plan.verdicts.len(), translations = plan.desired.translations.len(), "synced");
        let report = Report { snapshot: Arc::clone(snapshot), leaving, judgements, repairs: changes.repairs() };
        self.reports.send_replace(Some(Arc::new(report)));
        match (applied.is_complete(), applied.changed()) {
            (true, false) => SyncOutcome::Unchanged,
            (true, true) => SyncOutcome::Written,
            (false, _) => SyncOutcome::Failed,
        }
    }

    fn count(&self, applied: &Applied, judgements: &BTreeMap<ForwardKey, Judgement>, repaired: Repaired) {
        self.metrics.applied(applied);
        self.metrics.judged(judgements);
        self.metrics.repaired(Repair::Rules, repaired.chains);
        self.metrics.repaired(Repair::Jumps, repaired.jumps);
        self.metrics.repaired(Repair::Routes, repaired.routes);
    }
}

/// What one sync, or one look, planned and found, and what that means for each forward.
#[derive(Debug)]
pub struct Synced {
    /// The plan.
    pub plan: Plan,
    /// What became of it.
    pub applied: Applied,
    /// What this node says of each forward, also of those that are leaving.
    pub judgements: BTreeMap<ForwardKey, Judgement>,
    /// The objects that are gone, but of which something may still be in force.
    pub leaving: Vec<Sourced>,
}

/// Syncs once: plans the node from `snapshot`, makes its kernel so and judges what came of it.
///
/// # Errors
/// When the facts of the node cannot be read; the kernel then stays as it is.
pub async fn sync<D: Dataplane>(
    observer: &Observer,
    dataplane: &D,
    policy: &Policy,
    memory: &Memory,
    snapshot: &Snapshot,
) -> Result<Synced, FactsError> {
    let planned = Planned::of(observer, dataplane, policy, memory, snapshot).await?;
    let applied = dataplane.apply(&planned.plan.desired, memory.in_force()).await;
    let plan = planned.answered(observer, policy).await;
    let mut judgements = judgements(snapshot, &plan, &applied);
    let leaving = if applied.is_closed() { BTreeMap::new() } else { leaving(memory.gone(snapshot), &applied) };
    judgements.extend(leaving.iter().map(|(forward, sourced)| (forward.clone(), leave(&sourced.object, &applied))));
    Ok(Synced { plan, applied, judgements, leaving: leaving.into_values().collect() })
}

/// Those of `gone` that may still be in force: nobody takes a forward for closed before it is.
fn leaving(mut gone: BTreeMap<ForwardKey, Sourced>, applied: &Applied) -> BTreeMap<ForwardKey, Sourced> {
    if applied.is_known() {
        let left: BTreeSet<_> = applied.rules.left.iter().map(|it| (&it.flows, it.destination)).collect();
        gone.retain(|_, sourced| {
            let forward = Forward::parse(&sourced.object);
            forward.is_ok_and(|it| it.translations().iter().any(|it| left.contains(&(&it.flows, it.destination))))
        });
    }
    gone
}

/// Looks once: plans the node as [`sync`] does, and judges what its kernel holds, without a write.
///
/// # Errors
/// When the facts of the node cannot be read.
pub async fn inspect<D: Dataplane>(
    observer: &Observer,
    dataplane: &D,
    policy: &Policy,
    memory: &Memory,
    snapshot: &Snapshot,
) -> Result<Synced, FactsError> {
    let planned = Planned::of(observer, dataplane, policy, memory, snapshot).await?;
    let applied = dataplane.inspect(&planned.plan.desired).await;
    let plan = planned.answered(observer, policy).await;
    let judgements = judgements(snapshot, &plan, &applied);
    Ok(Synced { plan, applied, judgements, leaving: Vec::new() })
}

/// A plan, and what it was made from.
struct Planned<'a> {
    facts: Facts,
    candidates: Vec<Candidate>,
    in_force: Cow<'a, InForce>,
    plan: Plan,
}

impl<'a> Planned<'a> {
    async fn of<D: Dataplane>(
        observer: &Observer,
        dataplane: &D,
        policy: &Policy,
        memory: &'a Memory,
        snapshot: &Snapshot,
    ) -> Result<Self, FactsError> {
        let mut facts = Facts { labels: snapshot.labels.clone(), ..observer.facts().await? };
        facts.api_servers.extend(&snapshot.api_servers);
        facts.sight = snapshot.sight;
        if !snapshot.node_addresses.is_empty() {
            facts.node_addresses.clone_from(&snapshot.node_addresses);
        }
        facts.services.clone_from(&snapshot.services);
        let candidates: Vec<Candidate> = snapshot.forwards.iter().map(|sourced| Candidate::of(&sourced.object)).collect();
        let mut in_force = Cow::Borrowed(memory.flows());
        if memory.is_fresh() {
            // The record may be lost, or older than the rules: what the kernel translates is in force whoever remembers it.
            in_force.to_mut().find(&dataplane.translated().await);
        }
        let plan = plan(&facts, &candidates, policy, &in_force);
        Ok(Self { facts, candidates, in_force, plan })
    }

    /// The same plan with what its next hops answer. Only what is said of the forwards depends on that, so the kernel need
    /// not wait for it.
    async fn answered(self, observer: &Observer, policy: &Policy) -> Plan {
        let Self { mut facts, candidates, in_force, plan: before } = self;
        if !observer.want(&before.next_hops()).await {
            return before;
        }
        facts.answers = observer.answers();
        plan(&facts, &candidates, policy, &in_force)
    }
}

/// What this node says of every object, also of those whose newest content it cannot decode.
fn judgements(snapshot: &Snapshot, plan: &Plan, applied: &Applied) -> BTreeMap<ForwardKey, Judgement> {
    let mut judgements: BTreeMap<ForwardKey, Judgement> =
        plan.verdicts.iter().map(|(key, verdict)| (key.clone(), judge(verdict, applied))).collect();
    for sourced in &snapshot.forwards {
        let key = Candidate::key(&sourced.object);
        if let Some(error) = &sourced.trouble
            && let Some(judgement) = judgements.remove(&key)
        {
            judgements.insert(key, judgement.outdated(error));
        }
    }
    for undecoded in &snapshot.undecoded {
        let Undecoded { metadata, error, .. } = undecoded;
        judgements.insert(key_of(undecoded), unknown_form(metadata.uid.clone(), metadata.generation.unwrap_or(0), error));
    }
    judgements
}

/// The name of an object that cannot be decoded.
fn key_of(Undecoded { metadata, .. }: &Undecoded) -> ForwardKey {
    ForwardKey { namespace: metadata.namespace.clone().unwrap_or_default(), name: metadata.name.clone().unwrap_or_default() }
}

/// An error's causes, for a log field.
trait SourceText {
    fn source_text(&self) -> String;
}

impl<E: std::error::Error> SourceText for E {
    fn source_text(&self) -> String {
        let causes = std::iter::successors(self.source(), |cause| cause.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}
