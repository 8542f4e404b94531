//! The kernel of this node: rules, then routes, then the connections that only the old rules explain.

use std::collections::BTreeSet;

use super::iptables::{Iptables, Ruleset, Variant};
use super::{Applied, Dataplane, conntrack, routes};
use crate::model::{Desired, Translation};

/// The kernel of this node's network namespace.
#[derive(Debug)]
pub struct Kernel {
    iptables: Iptables,
}

impl Kernel {
    /// The kernel, with its rules written by the programs of `variant`.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self { iptables: Iptables::new(variant) }
    }
}

impl Dataplane for Kernel {
    async fn apply(&self, desired: &Desired, before: &BTreeSet<Translation>) -> Applied {
        let rules = self.iptables.apply(&Ruleset::of(&desired.translations)).await;
        let routes = routes::apply(&desired.routes).await;
        let conntrack = match &rules {
            // What the rules said until now is known best from the rules themselves; the caller may know of more.
            Ok(report) if report.changed() || *before != desired.translations => {
                let before: BTreeSet<Translation> = before.iter().chain(&report.before).cloned().collect();
                conntrack::purge(&before, &desired.translations).await
            }
            Ok(_) | Err(_) => Ok(conntrack::Purged::default()),
        };
        Applied { rules, routes, conntrack }
    }
}
