//! The part of the result of an apply that judgements depend on.

use crate::dataplane::routes::RoutesReport;
use crate::dataplane::rules::RulesReport;
use crate::dataplane::{Applied, Forwarded, ForwardingError};

/// The part of the result of an apply that judgements depend on. If two results have the same outcome, a verdict is judged the
/// same after both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    rules: RulesReport,
    routes: Result<RoutesReport, String>,
    /// Why the connections could not be checked.
    conntrack: Option<String>,
    forwarding: Result<Forwarded, ForwardingError>,
}

impl Outcome {
    /// The outcome of an apply or of an inspection.
    #[must_use]
    pub fn of(applied: &Applied) -> Self {
        let RulesReport { failed, refused, left, differing, overridden, forward_policy, .. } = &applied.rules;
        let rules = RulesReport {
            failed: failed.clone(),
            refused: refused.clone(),
            left: left.clone(),
            differing: differing.clone(),
            overridden: overridden.clone(),
            forward_policy: *forward_policy,
            ..RulesReport::default()
        };
        let routes = applied.routes.as_ref().map(|routes| RoutesReport { added: 0, removed: 0, ..routes.clone() });
        Self {
            rules,
            routes: routes.map_err(|error| format!("{error:?}")),
            conntrack: applied.conntrack.as_ref().err().map(|error| format!("{error:?}")),
            forwarding: applied.forwarding.clone(),
        }
    }
}
