//! What an apply found, did and read back of the rules, in words that hold for every backend.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{FlowMatch, Translation, Translations};
use crate::words::counted;

/// What one apply found, did and read back. A failure for a part of the rules is reported for that part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesReport {
    /// The parts that could not be read, or not be written completely, and why. The report about the other parts is complete.
    pub failed: BTreeMap<Function, RulesError>,
    /// The rules that were refused. All others are in place.
    pub refused: Vec<RefusedRule>,
    /// Read back: the translations that are still in force although they should not be.
    pub left: Vec<Translation>,
    /// The translations that were in force before; empty if these are what the last apply asked for.
    pub before: Vec<Translation>,
    /// The number of chains that were written because they were missing or had other content.
    pub written: usize,
    /// The number of chains that were deleted.
    pub deleted: usize,
    /// The places that should be gone and are empty, but that a rule of another program names.
    pub stuck: BTreeSet<Place>,
    /// The number of hooks in which the operator's rules were put first.
    pub jumps: usize,
    /// Whether another program changed the rules while they were written, so that they were written once more.
    pub disturbed: bool,
    /// Whether the rules were found as the operator had left them.
    pub as_left: bool,
    /// Read back: the places that still differ, apart from rules that were refused.
    pub differing: Vec<Place>,
    /// Read back: the hooks in which a rule of another program is before those of the operator.
    pub overridden: Vec<Overridden>,
    /// What happens to a routed packet if no rule decides.
    pub forward_policy: ForwardPolicy,
    /// Read back: what each table has of the operator, by the name of the table.
    pub held: BTreeMap<&'static str, Held>,
    /// The connections that matched the operator's rules, if they are counted.
    pub met: Met,
}

/// What a part of the rules is for. The later one decides what happens to a flow, because it translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Function {
    /// To accept the flows of forwards.
    Filter,
    /// To translate them.
    Nat,
}

/// Where rules of the operator are, as a person finds them with the tools of the backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
}

/// Why rules could not be read or written. The text says where, and what the program or the kernel answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RulesError {
    /// The message.
    pub text: String,
    /// What was tried.
    pub step: Step,
    /// Whether a retry may succeed.
    pub transient: bool,
}

/// An access to the rules in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

/// A rule of the operator that is not in the kernel because it was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRule {
    /// Where it belongs.
    pub place: Place,
    /// Why it is not there.
    pub error: RulesError,
    /// The translations whose flows need it.
    pub translations: Translations,
}

/// A hook in which a rule of another program is before those of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    /// The chain of the hook.
    pub place: Place,
    /// The rule that is there instead.
    pub instead: String,
    /// The chain of the operator that should be first.
    pub chain: String,
}

/// How many chains and rules of the operator a table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Chains.
    pub chains: usize,
    /// Rules in them.
    pub rules: usize,
}

/// What happens to a routed packet if no rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardPolicy {
    /// It is accepted.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// Whether the connections that match the rules are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// They are not counted.
    #[default]
    Off,
    /// Their counters are read together with the rules.
    On,
}

/// The connections that matched each translation since the last report. Connections before and after a write are separate,
/// because the same flow match may belong to another forward after the write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Before the rules were written, if they were.
    pub before: Vec<(FlowMatch, u64)>,
    /// After that.
    pub after: Vec<(FlowMatch, u64)>,
}

/// Chains that should be deleted still exist, but are empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}, {first} among them, cannot be deleted although empty: rules of other programs jump there; remove those rules",
    counted(*count, "chain of ours", "chains of ours")
)]
pub struct Stuck {
    count: usize,
    first: String,
}

impl Function {
    /// Both, in the order in which they are written: no flow is translated that is not accepted.
    pub const ALL: [Self; 2] = [Self::Filter, Self::Nat];

    /// The rules, in a message.
    #[must_use]
    pub const fn rules(self) -> &'static str {
        match self {
            Self::Filter => "filter rules",
            Self::Nat => "NAT rules",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.chain)
    }
}

impl RefusedRule {
    /// Whether a flow of `translation` needs the rule.
    #[must_use]
    pub fn concerns(&self, translation: &Translation) -> bool {
        self.translations.contains(translation)
    }
}

impl RulesReport {
    /// The chains that could not be deleted, if there are any.
    #[must_use]
    pub fn stuck(&self) -> Option<Stuck> {
        self.stuck.first().map(|first| Stuck { count: self.stuck.len(), first: first.chain.clone() })
    }

    /// Whether anything was written.
    #[must_use]
    pub const fn changed(&self) -> bool {
        self.written + self.deleted + self.jumps > 0
    }

    /// Whether the rules were as the operator had left them, and are now as desired. What was in force before is then what was
    /// desired before.
    #[must_use]
    pub fn is_known_change(&self) -> bool {
        self.as_left && !self.disturbed && self.is_written()
    }

    /// Whether the kernel, read back, has exactly the desired rules, and no rule of another program is before them.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.is_written() && self.overridden.is_empty()
    }

    /// As [`Self::is_exact`], but the position of the rules is ignored.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.is_written_but_for_refused() && self.refused.is_empty()
    }

    /// As [`Self::is_written`], but refused rules are ignored.
    #[must_use]
    pub fn is_written_but_for_refused(&self) -> bool {
        self.failed.is_empty() && self.left.is_empty() && self.differing.is_empty()
    }

    /// Whether no flow is translated any more that should not be. Missing translations are ignored.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.failed.contains_key(&Function::Nat) && self.left.is_empty()
    }

    /// The first failure to report, if there is one: of several functions the last, because it translates.
    #[must_use]
    pub fn failure(&self) -> Option<&RulesError> {
        self.failed.values().next_back()
    }

    /// Adds a report about other rules.
    pub(in crate::dataplane) fn merge(&mut self, more: Self) {
        self.add_deeds(&more);
        self.failed.extend(more.failed);
        self.refused.extend(more.refused);
        self.left.extend(more.left);
        self.before.extend(more.before);
        self.stuck.extend(more.stuck);
        self.differing.extend(more.differing);
        self.overridden.extend(more.overridden);
        self.held.extend(more.held);
        if more.forward_policy == ForwardPolicy::Drop {
            self.forward_policy = ForwardPolicy::Drop;
        }
    }

    /// Adds what another apply of the same rules did. What it found is not added, because it was looked at again.
    pub(in crate::dataplane) const fn add_deeds(&mut self, more: &Self) {
        self.written += more.written;
        self.deleted += more.deleted;
        self.jumps += more.jumps;
        self.disturbed |= more.disturbed;
    }

    /// What was found, without what was done.
    pub(in crate::dataplane) fn without_deeds(self) -> Self {
        Self { written: 0, deleted: 0, jumps: 0, disturbed: false, before: Vec::new(), ..self }
    }
}
