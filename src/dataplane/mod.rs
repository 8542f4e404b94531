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
use iptables::{RulesError, RulesReport};
use routes::{RoutesError, RoutesReport};

/// A backend. One verb, the whole state; and a look that shows what the verb would find.
pub trait Dataplane: Send + Sync + 'static {
    /// Makes the kernel hold exactly `desired`, and tells what it read back. Each part is tried, whatever became of the others.
    ///
    /// `before` is what was, or may have been, in force until now: flows that only it explains are cut.
    fn apply(&self, desired: &Desired, before: &BTreeSet<Translation>) -> impl Future<Output = Applied> + Send;

    /// Tells how the kernel differs from `desired`, by the same measure, and writes nothing. Connections are not looked at.
    fn inspect(&self, desired: &Desired) -> impl Future<Output = Applied> + Send;
}

/// What became of one apply, or what a look found, part by part.
#[derive(Debug)]
pub struct Applied {
    /// The rules.
    pub rules: Result<RulesReport, RulesError>,
    /// The host routes.
    pub routes: Result<RoutesReport, RoutesError>,
    /// The connections that only the old rules explain; not looked at where the rules did not change or failed.
    pub conntrack: Result<Purged, ConntrackError>,
    /// Whether the node routes packets, as far as that was to be changed. Says nothing of what is planned.
    pub forwarding: Result<Forwarded, ForwardingError>,
}

impl Applied {
    /// Whether rules, routes and connections are all as desired, so that nothing is left to do.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rules.as_ref().is_ok_and(|rules| rules.differing.is_empty())
            && self.routes.as_ref().is_ok_and(|routes| routes.stuck.is_empty())
            && self.conntrack.is_ok()
    }

    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.rules.as_ref().is_ok_and(RulesReport::changed)
            || self.routes.as_ref().is_ok_and(|routes| routes.added + routes.removed > 0)
    }
}
