//! Logs what changed since the last sync, once for each change: repairs, failures and the state of each forward.

use std::collections::BTreeMap;

use imbl::ordmap::DiffItem;
use tracing::{error, info, warn};

use super::SourceText;
use crate::dataplane::Applied;
use crate::dataplane::rules::{Function, RulesError};
use crate::forward::ForwardKey;
use crate::model::Desired;
use crate::node::FactsError;
use crate::plan::Plan;
use crate::status::{Circumstance, Judged, Judgement, Judgements, Reason, State, Type};

/// What was logged last.
#[derive(Debug, Default)]
pub(super) struct Changes {
    applied: Option<Desired>,
    troubles: BTreeMap<&'static str, String>,
    /// The judgements that were logged last.
    told: Judgements,
    repairs: u64,
}

/// What one sync repaired after another program had changed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repaired {
    /// Chains that were written or deleted.
    pub(super) chains: usize,
    /// Jumps in built-in chains.
    pub(super) jumps: usize,
    /// Routes that were added or removed.
    pub(super) routes: usize,
}

/// Logs the new state of a forward. A refusal is a warning, every other state is information.
fn tell(forward: &ForwardKey, judgement: &Judgement, ready: &Judged) {
    let Judged { state, reason, message, .. } = ready;
    let (generation, state, word) = (judgement.generation, *state, state.as_str());
    let accepted = judgement.condition(Type::Accepted).map(|accepted| accepted.state);
    match (accepted, state) {
        (Some(State::False), _) => warn!(%forward, generation, ready = word, %reason, detail = message, "forward refused"),
        (_, State::True) if *reason == Reason::Circumstance(Circumstance::Disabled) => {
            info!(%forward, generation, ready = word, %reason, detail = message, "forward disabled");
        }
        (_, State::True) => info!(%forward, generation, ready = word, %reason, detail = message, "forward ready"),
        (_, State::False) => info!(%forward, generation, ready = word, %reason, detail = message, "forward not ready"),
        (_, State::Unknown) => {
            info!(%forward, generation, ready = word, %reason, detail = message, "readiness of the forward unknown");
        }
    }
}

impl Changes {
    /// The number of syncs that repaired something.
    pub(super) const fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Logs what is new, and returns what was repaired.
    pub(super) fn note(&mut self, plan: &Plan, applied: &Applied, judgements: &Judgements) -> Repaired {
        let repaired = self.note_writes(plan, applied);
        self.note_troubles(applied);
        self.note_forwards(judgements);
        repaired
    }

    /// Logs what was written. If the desired state is the same as before and was applied completely, or chains had to be
    /// written twice, then another program must have changed them.
    fn note_writes(&mut self, plan: &Plan, applied: &Applied) -> Repaired {
        let mut repaired = Repaired::default();
        let same = self.applied.as_ref() == Some(&plan.desired);
        if applied.changed() {
            let chains = applied.rules.written + applied.rules.deleted;
            let jumps = applied.rules.jumps;
            let routes = applied.routes.as_ref().map_or(0, |routes| routes.added + routes.removed);
            let connections = applied.conntrack.as_ref().map_or(0, |purged| purged.count);
            if same || applied.rules.disturbed {
                self.repairs += 1;
                repaired = Repaired { chains, jumps, routes };
                warn!(
                    chains,
                    jumps,
                    routes,
                    connections,
                    repairs = self.repairs,
                    "another program changed rules or routes of the operator; repaired"
                );
            } else {
                info!(chains, jumps, routes, connections, "kernel state updated");
            }
        }
        self.applied = applied.is_complete().then(|| plan.desired.clone());
        repaired
    }

    /// Logs that the facts of the node cannot be read, or that they can be read again.
    pub(super) fn note_facts(&mut self, error: Option<&FactsError>) {
        self.note_trouble("facts of this node", error);
    }

    /// Logs that the rules cannot be compared with the record, or that they can be again.
    pub(super) fn note_kernel(&mut self, error: Option<&RulesError>) {
        self.note_trouble("comparison of the kernel with the record", error);
    }

    fn note_troubles(&mut self, applied: &Applied) {
        for function in Function::ALL {
            self.note_trouble(function.rules(), applied.rules.failed.get(&function));
        }
        self.note_trouble("refused rules", applied.rules.refused.first().map(|refused| &refused.error));
        self.note_trouble("stale chains", applied.rules.stuck().as_ref());
        self.note_trouble("routes", applied.routes.as_ref().err());
        self.note_trouble("conntrack", applied.conntrack.as_ref().err());
        self.note_trouble("forwarding", applied.forwarding.as_ref().err());
    }

    fn note_trouble<E: std::error::Error>(&mut self, part: &'static str, error: Option<&E>) {
        match error {
            None => {
                if self.troubles.remove(part).is_some() {
                    info!(part, "this part of the sync works again");
                }
            }
            Some(error) => {
                let text = error.to_string();
                if self.troubles.insert(part, text.clone()).as_ref() != Some(&text) {
                    error!(part, %error, cause = error.source_text(), "a part of the sync failed; the agent tries again");
                }
            }
        }
    }

    fn note_forwards(&mut self, judgements: &Judgements) {
        let told = std::mem::replace(&mut self.told, judgements.clone());
        for difference in told.diff(judgements) {
            let (forward, former, judgement) = match difference {
                DiffItem::Add(forward, judgement) => (forward, None, judgement),
                DiffItem::Update { old: (_, former), new: (forward, judgement) } => (forward, Some(former), judgement),
                DiffItem::Remove(forward, _) => {
                    info!(%forward, "forward removed");
                    continue;
                }
            };
            let Some(ready) = judgement.condition(Type::Ready) else { continue };
            if former.and_then(|former| former.condition(Type::Ready)) != Some(ready) {
                tell(forward, judgement, ready);
            }
        }
    }
}
