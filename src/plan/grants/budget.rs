//! How much the forwards under each grant ask for on this node, against the limits of the grant.

use std::collections::BTreeMap;

use super::super::verdict::{NodeRefusal, NodeRefusalReason};
use crate::forward::Forward;
use crate::grant::Grant;

/// What the forwards that were accepted so far ask for, by the name of their grant.
#[derive(Debug, Default)]
pub(super) struct Budgets<'a>(BTreeMap<&'a str, Spent>);

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    forwards: usize,
    translations: usize,
    routes: usize,
}

impl Spent {
    /// The same with a further forward.
    fn and(self, forward: &Forward) -> Self {
        let translations = forward.ports.len() * forward.clients.len() + forward.reverse.len();
        let routes = forward.gateway.map_or(0, |_| forward.clients.len());
        Self { forwards: self.forwards + 1, translations: self.translations + translations, routes: self.routes + routes }
    }
}

impl<'a> Budgets<'a> {
    /// Why `forward` is more than `grant` permits, if it is.
    pub(super) fn refuse(&self, grant: &Grant, forward: &Forward) -> Option<NodeRefusal> {
        let spent = self.0.get(grant.name.as_str()).copied().unwrap_or_default();
        let with = spent.and(forward);
        let limits = [
            ("forwards", grant.limits.forwards, spent.forwards, with.forwards),
            ("translations", grant.limits.translations, spent.translations, with.translations),
            ("routes", grant.limits.routes, spent.routes, with.routes),
        ];
        let (what, limit, spent, with) = limits.into_iter().find_map(|(what, limit, spent, with)| {
            let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))?;
            // A forward without routes does not exceed the limit of routes, also if the limit was lowered.
            (with > limit && with > spent).then_some((what, limit, spent, with))
        })?;
        let name = &grant.name;
        let message = format!(
            "with this forward there would be {with} {what} under grant {name} on this node, and it permits {limit} (limits.{what}); forwards that come first have {spent}; delete forwards that are not needed, or ask the administrators of the nodes for a higher limit"
        );
        Some(NodeRefusal { reason: NodeRefusalReason::TooMany, message })
    }

    /// Counts an accepted forward.
    pub(super) fn spend(&mut self, grant: &'a Grant, forward: &Forward) {
        let spent = self.0.entry(grant.name.as_str()).or_default();
        *spent = spent.and(forward);
    }
}
