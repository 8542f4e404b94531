//! Whether each forward is ready on this node, as one series per forward.
//!
//! Shows the result of the last sync for each forward and decides nothing. A disabled forward has no series.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::api::Role;
use crate::forward::ForwardKey;
use crate::status::{Judgement, Judgements, Standing, State, Type};

/// The last judgements of this node.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<Judgements>);

/// The result of this node for one forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// `None` on a node that is not a candidate.
    role: Option<Role>,
    ready: State,
}

impl Ready {
    /// Takes over the result of a sync.
    pub(super) fn judged(&self, judgements: &Judgements) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = judgements.clone();
    }

    /// The result for each forward that would have a series without the limit.
    pub(super) fn forwards(&self) -> BTreeMap<ForwardKey, Readiness> {
        self.judgements().iter().filter_map(|(key, judged)| Some((key.clone(), readiness(judged)?))).collect()
    }

    /// The judgements of the last sync.
    pub(super) fn judgements(&self) -> Judgements {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Writes the series of the forwards in `shown`.
pub(super) fn encode(
    forwards: &BTreeMap<ForwardKey, Readiness>,
    shown: &BTreeSet<ForwardKey>,
    metric: &mut MetricEncoder<'_>,
) -> fmt::Result {
    for (forward, Readiness { role, ready }) in forwards.iter().filter(|(forward, _)| shown.contains(*forward)) {
        let labels = [("namespace", forward.namespace.as_str()), ("name", &forward.name), ("role", label(*role))];
        let value = match ready {
            State::True => 1,
            State::False | State::Unknown => 0_i64,
        };
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn readiness(judgement: &Judgement) -> Option<Readiness> {
    let ready = judgement.condition(Type::Ready).map_or(State::Unknown, |condition| condition.state);
    match judgement.standing {
        Standing::Withdrawn => None,
        Standing::Carried | Standing::Elsewhere | Standing::Refused | Standing::RefusedHere => {
            Some(Readiness { role: judgement.role, ready })
        }
    }
}

/// The value of the label `role`.
const fn label(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Active) => "Active",
        Some(Role::Standby) => "Standby",
        None => "None",
    }
}
