//! The sync loop of one node. It takes the complete set of forwards and the facts of the node, brings the kernel to the
//! planned state, and reports the result.
//!
//! The loop is level-triggered: an event only starts a new sync and carries no data. The loop is the only module that knows
//! both Kubernetes and the kernel. It decides nothing itself.

mod attribution;
mod changes;
mod fallback;
mod judging;
mod parsed;
mod planned;
mod programming;
mod publisher;
mod recording;
mod remembered;
mod retries;
mod standing;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::debug;

pub use fallback::Fallback;
pub use publisher::{Publisher, Statuses, objects, publish};
pub use recording::{Due, Recorder, Records, keep_record, recording};
pub use remembered::Memory;
pub use traffic::follow_traffic;

use crate::dataplane::{Applied, Dataplane, Look};
use crate::forward::{Forward, ForwardKey, Rewrite};
use crate::metrics::{Health, Metrics, Owners, Part, Phase, Repair, SyncOutcome};
use crate::model::{Desired, FlowMatch};
use crate::node::{FactsError, Observer};
use crate::plan::{Former, Plan, Policy};
use crate::progress;
use crate::publish::Report;
use crate::source::{Snapshot, Source, Sourced};
use crate::status::Judgements;
use attribution::Attribution;
use changes::{Changes, Repaired};
use judging::Judging;
use planned::{LastPlan, Origin, Planned};
use programming::Programming;
use retries::{Failure, Retries};

/// The shortest pause between two syncs. The first event after it is served at once; what comes during a sync or the pause is
/// served by the next sync.
const REST: Duration = Duration::from_millis(20);
/// The longest pause between two syncs while events arrive all the time. The pause is a quarter of the last sync.
const LONGEST_REST: Duration = Duration::from_millis(100);
/// The maximum time between two comparisons of the whole kernel.
const RAREST: Duration = Duration::from_mins(1);
/// The time that the agent waits for a first complete set of objects. After it, the agent uses the set of the record.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the kernel is compared with the plan when no event arrives.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The minimum time between two comparisons.
    pub every: Duration,
    /// The same as a multiple of the time that a comparison takes, so that comparisons of a large set leave the CPU to others.
    pub times: u32,
}

/// One node and everything that its sync loop needs.
pub struct Node<D> {
    /// Provides the forwards.
    pub source: Source,
    /// Reads the facts of the node.
    pub observer: Observer,
    /// Reads and writes the kernel.
    pub dataplane: D,
    /// The settings of the administrator.
    pub policy: Policy,
    /// The state that was last applied.
    pub memory: Memory,
    /// Whether `memory` may be applied while the source has no complete set.
    pub fallback: Fallback,
    /// Starts a new sync.
    pub wake: Arc<Notify>,
    /// Starts a new sync if another program has written rules.
    pub rules: Arc<Notify>,
    /// Receives the newest report.
    pub reports: watch::Sender<Option<Arc<Report>>>,
    /// How often to compare when no event arrives.
    pub pace: Pace,
    /// The metrics of the agent.
    pub metrics: Arc<Metrics>,
    /// The state of the loop, for the health endpoints.
    pub health: Arc<Health>,
    /// Receives the owners of the translations in force, for the tasks that count traffic.
    pub owners: watch::Sender<Arc<Owners>>,
}

/// What the loop keeps from one sync to the next for logs, metrics and retries.
struct Notes {
    changes: Changes,
    attribution: Attribution,
    programming: Programming,
    retries: Retries,
    /// The time until the next sync after a failure.
    retry: Duration,
}

/// Keeps the node's kernel in the state that its forwards ask for, until the future is dropped. The kernel state then stays.
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
    let (mut pause, mut rested) = (Duration::ZERO, started);
    // When the whole kernel was last compared, how long that took, and how often it is done.
    let (mut compared, mut comparison, mut every) = (started, Duration::ZERO, Duration::ZERO);
    loop {
        node.health.enter(Phase::Waiting { until: Instant::now() + pause });
        let woken = node.woken(pause).await;
        node.health.enter(Phase::Queued { since: Instant::now() });
        node.metrics.queued();
        tokio::time::sleep_until(rested).await;
        let listed = node.source.complete().is_some();
        let Some(snapshot) = node.snapshot(started.elapsed(), &mut notes.changes).await else {
            pause = PATIENCE;
            continue; // Never plan from a list that is not complete.
        };
        let begun = Instant::now();
        notes.programming.begin(snapshot.heard);
        let look = if woken && compared.elapsed() < every * 2 { Look::Changes } else { Look::Everything };
        let outcome = progress::watched(Arc::clone(&steps), node.sync(&snapshot, look, &mut notes)).await;
        let took = begun.elapsed();
        node.metrics.ended(outcome, took);
        if outcome != SyncOutcome::Failed {
            notes.programming.done(Instant::now()).into_iter().for_each(|took| node.metrics.programmed(took));
            if listed {
                node.health.complete();
            }
        }
        rested = Instant::now() + (took / 4).clamp(REST, LONGEST_REST);
        if look == Look::Everything {
            compared = Instant::now();
            if outcome == SyncOutcome::Unchanged {
                comparison = took;
            }
            every = node.pace.every.max(RAREST.min(comparison * node.pace.times));
        }
        pause = match outcome {
            SyncOutcome::Unchanged | SyncOutcome::Written => every.saturating_sub(compared.elapsed()),
            SyncOutcome::Failed => notes.retry,
        };
    }
}

impl<D: Dataplane> Node<D> {
    /// Waits for an event, at most for `pause`. Returns whether there was one. The agent's own rules are no event.
    async fn woken(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = self.wake.notified() => return true,
                () = self.rules.notified() => if !self.dataplane.is_untouched().await {
                    return true;
                },
                () = tokio::time::sleep_until(until) => return false,
            }
        }
    }

    /// The newest complete set. If there is none after [`PATIENCE`], the set that this node last applied, unless the kernel is
    /// newer.
    async fn snapshot(&mut self, waited: Duration, changes: &mut Changes) -> Option<Arc<Snapshot>> {
        let complete = self.source.complete();
        if complete.is_some() || waited < PATIENCE {
            return complete;
        }
        let allowed = self.fallback.allows(&self.memory, &self.dataplane).await;
        changes.note_kernel(allowed.as_ref().err());
        if allowed.unwrap_or_default() { self.memory.snapshot() } else { None }
    }

    async fn sync(&mut self, snapshot: &Arc<Snapshot>, look: Look, notes: &mut Notes) -> SyncOutcome {
        self.memory.intend(self.policy.require_grants, snapshot).await;
        match sync(&self.observer, &self.dataplane, &self.policy, &self.memory, snapshot, look).await {
            Ok(synced) => self.conclude(snapshot, synced, notes).await,
            Err(error) => {
                self.metrics.part_failed(Part::Facts);
                self.unseen(&error, &mut notes.changes);
                notes.retry = notes.retries.after(Failure::of_facts(&error), &Desired::default());
                SyncOutcome::Failed
            }
        }
    }

    /// Reports the state of all previously reported forwards as unknown.
    fn unseen(&self, error: &FactsError, changes: &mut Changes) {
        changes.note_facts(Some(error));
        let text = format!("the state of the node cannot be read: {error}: {}", error.source_text());
        self.reports.send_if_modified(|report| {
            let Some(before) = report.take() else { return false };
            let unseen = before.judgements.iter().map(|(key, judgement)| (key.clone(), Arc::new(judgement.unseen(&text))));
            let judgements = unseen.collect();
            self.metrics.judged(&judgements);
            *report = Some(Arc::new(Report { judgements, ..Report::clone(&before) }));
            true
        });
    }

    /// Updates the memory with the result of the sync and reports it.
    async fn conclude(&mut self, snapshot: &Arc<Snapshot>, synced: Synced, notes: &mut Notes) -> SyncOutcome {
        let Synced { plan, applied, judgements, leaving, kept: Kept { former, origin, judging } } = synced;
        let changes = &mut notes.changes;
        changes.note_facts(None);
        let repaired = changes.note(&plan, &applied, &judgements);
        self.count(&applied, &judgements, repaired);
        notes.attribution.note(&plan, &former, &applied);
        let lasting = self.memory.lasting(self.policy.require_grants, snapshot);
        if applied.is_done() {
            self.memory.programmed(&plan, &former, &origin);
            self.memory.advance(&lasting, &plan.desired);
        } else {
            self.memory.may_hold(&plan);
            self.memory.attempt(&lasting, &plan.desired);
        }
        self.memory.settle().await;
        if applied.is_complete() {
            notes.retries.reset();
        } else {
            notes.retry = notes.retries.after(Failure::of(&applied), &plan.desired);
        }
        debug!(forwards = plan.verdicts.len(), translations = plan.desired.translations.len(), "synced");
        self.memory.keep(LastPlan::of(plan, former, origin, judging, applied.is_done()));
        let report = Report { snapshot: Arc::clone(snapshot), leaving, judgements, repairs: changes.repairs() };
        self.reports.send_replace(Some(Arc::new(report)));
        match (applied.is_complete(), applied.changed()) {
            (true, false) => SyncOutcome::Unchanged,
            (true, true) => SyncOutcome::Written,
            (false, _) => SyncOutcome::Failed,
        }
    }

    fn count(&self, applied: &Applied, judgements: &Judgements, repaired: Repaired) {
        self.metrics.applied(applied);
        self.metrics.judged(judgements);
        self.metrics.repaired(Repair::Rules, repaired.chains);
        self.metrics.repaired(Repair::Jumps, repaired.jumps);
        self.metrics.repaired(Repair::Routes, repaired.routes);
    }
}

/// The result of one sync or one inspection: the plan, the state of the kernel, and the judgement on each forward.
#[derive(Debug)]
pub struct Synced {
    /// The plan.
    pub plan: Plan,
    /// The state of the kernel after the apply, or as found by the inspection.
    pub applied: Applied,
    /// The judgement of this node on each forward, including deleted ones in `leaving`.
    pub judgements: Judgements,
    /// Deleted objects of which something may still be in force.
    pub leaving: Vec<Sourced>,
    /// What the next sync needs of this one.
    pub kept: Kept,
}

/// What the next sync needs of this one, so that its work depends on the number of changes.
#[derive(Debug, Default)]
pub struct Kept {
    former: Former,
    origin: Origin,
    judging: Judging,
}

/// Syncs once: plans the node from `snapshot`, applies the plan to its kernel and judges the result.
///
/// # Errors
/// When the facts of the node cannot be read. The kernel is not changed then.
pub async fn sync<D: Dataplane>(
    observer: &Observer,
    dataplane: &D,
    policy: &Policy,
    memory: &Memory,
    snapshot: &Snapshot,
    look: Look,
) -> Result<Synced, FactsError> {
    let planned = Planned::of(observer, dataplane, policy, memory, snapshot).await?;
    let applied = dataplane.apply(&planned.plan.desired, memory.in_force(), look).await;
    let (plan, former, origin, judging) = planned.answered(observer).await;
    let leaving = if applied.is_closed() { BTreeMap::new() } else { leaving(memory.gone(snapshot), &applied) };
    let judging = judging.renewed((&plan, &former), &applied, snapshot, &leaving);
    let judgements = judging.judgements().clone();
    let kept = Kept { former, origin, judging };
    Ok(Synced { plan, applied, judgements, leaving: leaving.into_values().collect(), kept })
}

/// Those of the objects `gone` that may still be in force. Such a forward must not be reported as closed.
fn leaving(mut gone: BTreeMap<ForwardKey, Sourced>, applied: &Applied) -> BTreeMap<ForwardKey, Sourced> {
    if applied.is_known() {
        let mut left = BTreeMap::<_, Vec<_>>::new();
        for translation in &applied.rules.left {
            let FlowMatch { protocol, destination, .. } = translation.flows;
            left.entry((protocol, destination)).or_default().push(translation);
        }
        let is_left = |rewrite: Rewrite<'_>| {
            let found = left.get(&(rewrite.protocol, rewrite.address)).into_iter().flatten();
            found.into_iter().any(|translation| rewrite.makes(translation))
        };
        gone.retain(|_, sourced| Forward::parse(&sourced.object).is_ok_and(|forward| forward.rewrites().any(is_left)));
    }
    gone
}

/// Inspects once: plans the node as [`sync`] does, and judges the state of its kernel without a write.
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
    let (plan, former, _, judging) = planned.answered(observer).await;
    let judging = judging.renewed((&plan, &former), &applied, snapshot, &BTreeMap::new());
    Ok(Synced { plan, applied, judgements: judging.judgements().clone(), leaving: Vec::new(), kept: Kept::default() })
}

/// The causes of an error, for a log field.
trait SourceText {
    fn source_text(&self) -> String;
}

impl<E: std::error::Error> SourceText for E {
    fn source_text(&self) -> String {
        let causes = std::iter::successors(self.source(), |cause| cause.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}
