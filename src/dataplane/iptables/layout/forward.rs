//! `filter FORWARD`: accepts the marked flows, in both directions. One rule, whatever the set.
//!
//! Never uses `-p`: it would drop the ICMP errors of these flows, and path MTU discovery would fail.

use crate::dataplane::iptables::rule::{MarkMatch, Matches, Rule, Target};
use crate::model::Connmark;

/// The rule of FORWARD.
pub(super) fn rule(mark: Connmark) -> Rule {
    Rule { matches: Matches { mark: Some(MarkMatch::Set(mark)), ..Matches::default() }, target: Target::Accept }
}
