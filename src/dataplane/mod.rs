//! Makes the kernel of this node have exactly the desired state. Does not depend on Kubernetes.

mod backend;
pub mod conntrack;
mod forwarding;
pub mod iptables;
mod kernel;
mod nftables;
pub mod routes;
pub mod rules;

use std::future::Future;

pub use backend::{Backend, EmptyTables, Layout, ScaffoldError, remove_empty_tables};
pub use forwarding::{Forwarded, Forwarding, ForwardingError};
pub use kernel::Kernel;
pub(crate) use nftables::NFTABLES_TABLE;
pub use nftables::Ownership;

use crate::model::{Desired, Translation, Translations};
use conntrack::{ConntrackError, Purged};
use routes::{RoutesError, RoutesReport};
use rules::{Function, RulesError, RulesReport};

/// How much of the kernel an apply reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Everything. This finds whatever differs.
    Everything,
    /// Only what may have changed since the last reading.
    Changes,
}

/// The kernel of a node. `apply` takes the whole state; `inspect` shows what `apply` would find.
pub trait Dataplane: Send + Sync + 'static {
    /// Makes the kernel have exactly `desired`, and reports what it read back. Each part is tried even if another one
    /// failed.
    ///
    /// `before` is what was, or may have been, in force until now: flows that match only `before` are cut.
    ///
    /// With [`Look::Changes`], what no program has changed since the last apply is not read again, as far as the kernel tells.
    fn apply(&self, desired: &Desired, before: &Translations, look: Look) -> impl Future<Output = Applied> + Send;

    /// Whether no other program has written rules since the apply before the last one, so that a new sync would find nothing. `false`
    /// if this is not known.
    fn is_untouched(&self) -> impl Future<Output = bool> + Send;

    /// The operator's translations that are now in the kernel. Their new source is not included.
    fn translated(&self) -> impl Future<Output = Result<Vec<Translation>, RulesError>> + Send;

    /// Reports how the kernel differs from `desired`, by the same criteria as `apply`, and writes nothing. Connections are
    /// not checked.
    fn inspect(&self, desired: &Desired) -> impl Future<Output = Applied> + Send;
}

/// The result of an apply or of an inspection, part by part.
#[derive(Debug)]
pub struct Applied {
    /// The rules. Failures are reported by function.
    pub rules: RulesReport,
    /// The host routes.
    pub routes: Result<RoutesReport, RoutesError>,
    /// The connections that only the old rules explain. They are not checked if the rules did not change.
    pub conntrack: Result<Purged, ConntrackError>,
    /// Whether IP forwarding is enabled, if it was to be changed. Independent of the plan.
    pub forwarding: Result<Forwarded, ForwardingError>,
}

impl Applied {
    /// Whether rules, routes and connections are all as desired, so that nothing is left to do.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_done() && self.rules.refused.is_empty()
    }

    /// As [`Self::is_complete`], but single refused rules are ignored. They concern only the forwards that need them.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.rules.is_written_but_for_refused()
            && self.routes.as_ref().is_ok_and(|routes| routes.stuck.is_empty())
            && self.conntrack.is_ok()
    }

    /// Whether all rules that may still be open were read back, and the connections of closed ones are cut.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.rules.failed.contains_key(&Function::Nat)
            && self.routes.as_ref().is_ok_and(|routes| routes.stuck.is_empty())
            && self.conntrack.is_ok()
    }

    /// Whether nothing is open, routed or connected any more that should not be. Missing parts are ignored.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_known() && self.rules.left.is_empty()
    }

    /// Whether there was a temporary failure, so that a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.rules.failed.values().any(|error| error.transient)
            || self.routes.as_ref().is_err_and(RoutesError::is_transient)
            || self.conntrack.as_ref().is_err_and(ConntrackError::is_transient)
    }

    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.rules.changed() || self.routes.as_ref().is_ok_and(|routes| routes.added + routes.removed > 0)
    }
}
