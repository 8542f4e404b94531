//! How many translations the forwards of one namespace may have on this node.
//!
//! Counts what a forward asks for, without making its translations, and refuses what does not fit before anything is made. So
//! objects that are refused cost little, however much each of them asks for.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::admission::Part;
use super::node_rules::refusal;
use super::verdict::{NodeRefusal, NodeRefusalReason};
use super::{Candidate, InForce, Policy, wires};
use crate::forward::{Forward, ForwardKey};
use crate::model::Facts;

/// The most translations of one namespace on one node; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationLimit(NonZeroU32);

/// A text that is not such a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTranslationLimit;

/// The share of each namespace in the translations of this node.
///
/// What is in force is set aside first, the older forwards first. So a new forward, or one that grows, takes nothing from a
/// younger one that is in force, and a lower limit takes it from the youngest. The others follow in the order in which they
/// are judged; one that does not fit leaves room for a smaller one after it.
#[derive(Debug)]
pub(super) struct Shares<'a> {
    facts: &'a Facts,
    policy: &'a Policy,
    in_force: &'a InForce,
    namespaces: BTreeMap<&'a str, Share>,
    /// What is set aside for forwards in force that were not judged yet.
    kept: BTreeMap<&'a ForwardKey, usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// The translations of accepted forwards, and those that are set aside.
    taken: usize,
    /// What forwards asked for that were refused only after all of it was looked at, for example because of a conflict.
    refused: usize,
    /// What disabled forwards ask for that were looked for in the kernel.
    looked_for: usize,
}

/// The part of a forward that its namespace has room for.
#[derive(Debug)]
pub(super) struct Fitting<'a> {
    /// All of it, or the part that is in force.
    pub(super) forward: Part<'a>,
    /// Why the rest is left out.
    pub(super) objection: Option<NodeRefusal>,
    /// The number of its translations.
    count: usize,
}

impl<'a> Shares<'a> {
    /// Sets aside what is in force of `candidates`.
    pub(super) fn of(facts: &'a Facts, policy: &'a Policy, in_force: &'a InForce, candidates: &'a [Candidate]) -> Self {
        let mut shares = Self { facts, policy, in_force, namespaces: BTreeMap::new(), kept: BTreeMap::new() };
        let kept = |candidate: &'a Candidate| {
            let forward = candidate.forward.as_ref().ok().filter(|forward| forward.is_in_force())?;
            let served = in_force.count(forward);
            (served > 0).then(|| (candidate, forward, served.min(shares.count(forward))))
        };
        let mut in_force: Vec<_> = candidates.iter().filter_map(kept).collect();
        in_force.sort_by_key(|(candidate, _, _)| (candidate.created, &candidate.key));
        for (_, forward, count) in in_force {
            let share = shares.namespaces.entry(&forward.key.namespace).or_default();
            if share.taken + count <= policy.translations.get() {
                share.taken += count;
                shares.kept.insert(&forward.key, count);
            }
        }
        shares
    }

    /// The part of `forward` that fits.
    ///
    /// # Errors
    /// When nothing of it fits. It is not to be looked at any further.
    pub(super) fn fit(&self, forward: &'a Forward) -> Result<Fitting<'a>, NodeRefusal> {
        let (limit, namespace) = (self.policy.translations.get(), forward.key.namespace.as_str());
        let share = self.namespaces.get(namespace).copied().unwrap_or_default();
        let kept = self.kept.get(&forward.key).copied().unwrap_or(0);
        let (count, others) = (self.count(forward), share.taken - kept);
        if kept == 0 && share.refused >= limit {
            return Err(too_many(format!(
                "the forwards of namespace {namespace} that this node refuses or that lose conflicts ask for {} translations already, and no more than {limit} are looked at; delete or correct those first, or raise the limit {FLAG}",
                share.refused
            )));
        }
        if others + count <= limit {
            return Ok(Fitting { forward: Part::Whole(forward), objection: None, count });
        }
        let message = format!(
            "this forward asks for {count} translations (port entries times client entries, and entries of reverse), and others of namespace {namespace} have {others} of the {limit} that one namespace may have on this node; write networks instead of addresses and ranges instead of ports, delete forwards that are not needed, or raise the limit {FLAG}"
        );
        let part = self.in_force.part(forward).filter(|part| self.count(part) <= kept);
        let Some(part) = part else { return Err(too_many(message)) };
        let objection = too_many(format!("{message}; what was in force of this forward stays, and the rest of it is left out"));
        Ok(Fitting { count: self.count(&part), forward: Part::Some(Box::new(part)), objection: Some(objection) })
    }

    /// Counts a forward that is accepted with this part.
    pub(super) fn take(&mut self, forward: &'a Forward, fitting: &Fitting<'_>) {
        self.release(forward);
        self.namespaces.entry(&forward.key.namespace).or_default().taken += fitting.count;
    }

    /// Counts a forward that fits but is refused for another reason.
    pub(super) fn refuse(&mut self, forward: &'a Forward, fitting: &Fitting<'_>) {
        self.release(forward);
        self.namespaces.entry(&forward.key.namespace).or_default().refused += fitting.count;
    }

    /// Whether a disabled forward may be looked for among the translations in the kernel: only until those that were looked for
    /// ask for more than the limit.
    pub(super) fn look(&mut self, forward: &'a Forward) -> bool {
        let count = self.count(forward);
        let share = self.namespaces.entry(&forward.key.namespace).or_default();
        let may = share.looked_for < self.policy.translations.get();
        share.looked_for += count;
        may
    }

    /// Gives back what was set aside for a forward that is not carried.
    pub(super) fn release(&mut self, forward: &'a Forward) {
        if let Some(kept) = self.kept.remove(&forward.key) {
            self.namespaces.entry(&forward.key.namespace).or_default().taken -= kept;
        }
    }

    fn count(&self, forward: &Forward) -> usize {
        wires::count(self.facts, forward, &self.policy.reserved_ports)
    }
}

const FLAG: &str = "(--max-translations, chart value agent.maxTranslations)";

fn too_many(message: String) -> NodeRefusal {
    refusal(NodeRefusalReason::TooMany, message)
}

impl TranslationLimit {
    /// The number.
    #[must_use]
    pub fn get(self) -> usize {
        usize::try_from(self.0.get()).unwrap_or(usize::MAX)
    }
}

impl Default for TranslationLimit {
    /// 10,000: a change of all forwards of one namespace then delays those of others by less than a second.
    fn default() -> Self {
        const { Self(NonZeroU32::new(10_000).unwrap()) }
    }
}

impl FromStr for TranslationLimit {
    type Err = InvalidTranslationLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| InvalidTranslationLimit)
    }
}

impl fmt::Display for TranslationLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for InvalidTranslationLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write how many translations one namespace may have, from 1 to {}", u32::MAX)
    }
}

impl std::error::Error for InvalidTranslationLimit {}
