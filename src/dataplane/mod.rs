//! Makes the kernel of this node hold exactly what is desired. Knows nothing of Kubernetes.

pub mod conntrack;
mod forwarding;
pub mod iptables;
mod kernel;
pub mod routes;

use std::collections::BTreeSet;
use std::future::Future;

pub use forwarding::{Forwarded, Forwarding, ForwardingError};
pub use kernel::Kernel;

use crate::model::{Desired, Translation};
use conntrack::{ConntrackError, Purged};
use iptables::{RulesError, RulesReport, Table};
use routes::{RoutesError, RoutesReport};

/// A backend. One verb, the whole state; and a look that shows what the verb would find.
pub trait Dataplane: Send + Sync + 'static {
    /// Makes the kernel hold exactly `desired`, and tells what it read back. Each part is tried, whatever became of the others.
    ///
    /// `before` is what was, or may have been, in force until now: flows that only it explains are cut.
    fn apply(&self, desired: &Desired, before: &BTreeSet<Translation>) -> impl Future<Output = Applied> + Send;

    /// The translations that the kernel holds of ours now, as far as it can be read; as whom their flows go on is not told.
    fn translated(&self) -> impl Future<Output = Vec<Translation>> + Send;

    /// Tells how the kernel differs from `desired`, by the same measure, and writes nothing. Connections are not looked at.
    fn inspect(&self, desired: &Desired) -> impl Future<Output = Applied> + Send;
}

/// What became of one apply, or what a look found, part by part.
#[derive(Debug)]
pub struct Applied {
    /// The rules; what failed of them is told table by table.
    pub rules: RulesReport,
    /// The host routes.
    pub routes: Result<RoutesReport, RoutesError>,
    /// The connections that only the old rules explain; not looked at where the rules did not change.
    pub conntrack: Result<Purged, ConntrackError>,
    /// Whether the node routes packets, as far as that was to be changed. Says nothing of what is planned.
    pub forwarding: Result<Forwarded, ForwardingError>,
}

impl Applied {
    /// Whether rules, routes and connections are all as desired, so that nothing is left to do.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_done() && self.rules.refused.is_empty()
    }

    /// The same but for single rules that are refused, which concern only the forwards that need them.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.rules.is_written_but_for_refused()
            && self.routes.as_ref().is_ok_and(|routes| routes.stuck.is_empty())
            && self.conntrack.is_ok()
    }

    /// Whether all that may still be open was read back, and its connections are cut.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.rules.failed.contains_key(&Table::Nat)
            && self.routes.as_ref().is_ok_and(|routes| routes.stuck.is_empty())
            && self.conntrack.is_ok()
    }

    /// Whether nothing is open, routed or connected any more that should not be. What should be and is not does not count.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_known() && self.rules.left.is_empty()
    }

    /// Whether something failed that passes by itself, so that trying again soon is worth it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.rules.failed.values().any(RulesError::is_transient)
            || self.routes.as_ref().is_err_and(RoutesError::is_transient)
            || self.conntrack.as_ref().is_err_and(ConntrackError::is_transient)
    }

    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.rules.changed() || self.routes.as_ref().is_ok_and(|routes| routes.added + routes.removed > 0)
    }
}
