//! Decides which object is written next: the namespaces take turns, so that a namespace with many writes does not delay the
//! write of another one.
//!
//! Writes nothing, reads no clock, and does not know what is written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use tokio::time::Instant;

use crate::forward::ForwardKey;

#[cfg(test)]
mod tests;

/// How much may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The number of writes at the same time.
    pub(super) at_once: usize,
    /// The number of writes at the same time in one namespace. If it is less than `at_once`, slow writes in one namespace leave
    /// room for those of another.
    pub(super) at_once_each: usize,
    /// The number of writes that a namespace may make without a pause.
    pub(super) burst: u32,
    /// The interval at which a namespace may make further writes after that.
    pub(super) interval: Duration,
}

/// The place of an object among those of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the order of the names.
    InOrder,
    /// Before the others, once: the second write of an object follows its first, so that a namespace with many objects completes
    /// one after the other.
    Next,
}

/// The objects that wait for a write, by namespace. An object waits once, however often it changed.
#[derive(Debug)]
pub(super) struct Turns {
    limits: Limits,
    lanes: BTreeMap<String, Lane>,
    /// The number of the last turn.
    last: u64,
    running: usize,
    held_until: Option<Instant>,
}

/// The objects of one namespace.
#[derive(Debug, Default)]
struct Lane {
    /// Names that take precedence.
    first: VecDeque<String>,
    waiting: BTreeSet<String>,
    /// The last name that was taken in order. The next one follows it, and the first one follows the last.
    last: Option<String>,
    /// The names of the writes that run, and whether the object took precedence.
    running: BTreeMap<String, Place>,
    /// Names of running writes whose object changed again.
    again: BTreeSet<String>,
    /// The number of the last turn of this namespace; 0 if it had none.
    turn: u64,
    /// The time at which the namespace has its whole burst again (generic cell rate algorithm).
    rested: Option<Instant>,
}

impl Lane {
    fn is_waiting(&self) -> bool {
        !self.first.is_empty() || !self.waiting.is_empty()
    }

    /// When the next write may begin. In the past: at once.
    fn allowed(&self, limits: Limits) -> Option<Instant> {
        let tolerance = limits.interval * limits.burst.saturating_sub(1);
        self.rested.and_then(|rested| rested.checked_sub(tolerance))
    }

    fn may_begin(&self, limits: Limits, now: Instant) -> bool {
        self.is_waiting() && self.running.len() < limits.at_once_each && self.allowed(limits).is_none_or(|allowed| allowed <= now)
    }

    fn take(&mut self) -> Option<(String, Place)> {
        if let Some(name) = self.first.pop_front() {
            return Some((name, Place::Next));
        }
        let after = self.last.as_ref().and_then(|last| self.waiting.range::<String, _>((Excluded(last), Unbounded)).next());
        let name = after.or_else(|| self.waiting.first())?.clone();
        self.waiting.remove(&name);
        self.last = Some(name.clone());
        Some((name, Place::InOrder))
    }
}

impl Turns {
    pub(super) const fn new(limits: Limits) -> Self {
        Self { limits, lanes: BTreeMap::new(), last: 0, running: 0, held_until: None }
    }

    /// The object waits for a write. If a write of it is running, it waits after that one.
    pub(super) fn mark(&mut self, key: &ForwardKey) {
        let lane = self.lanes.entry(key.namespace.clone()).or_default();
        if lane.running.contains_key(&key.name) {
            lane.again.insert(key.name.clone());
        } else if !lane.first.contains(&key.name) {
            lane.waiting.insert(key.name.clone());
        }
    }

    /// The object does not wait any more.
    pub(super) fn unmark(&mut self, key: &ForwardKey) {
        if let Some(lane) = self.lanes.get_mut(&key.namespace) {
            lane.waiting.remove(&key.name);
            lane.first.retain(|name| *name != key.name);
            lane.again.remove(&key.name);
        }
    }

    /// Whether a write of the object is running.
    pub(super) fn is_running(&self, key: &ForwardKey) -> bool {
        self.lanes.get(&key.namespace).is_some_and(|lane| lane.running.contains_key(&key.name))
    }

    /// The number of objects of a namespace that wait.
    pub(super) fn waiting(&self, namespace: &str) -> usize {
        self.lanes.get(namespace).map_or(0, |lane| lane.first.len() + lane.waiting.len())
    }

    /// Begins a write of the object that is next; `None` if none may begin now.
    ///
    /// The namespace whose last turn is the longest ago is next. Therefore no other namespace has two turns while one waits.
    pub(super) fn begin(&mut self, now: Instant) -> Option<ForwardKey> {
        if self.running >= self.limits.at_once || self.held(now).is_some() {
            return None;
        }
        self.forget(now);
        let (namespace, lane) =
            self.lanes.iter_mut().filter(|(_, lane)| lane.may_begin(self.limits, now)).min_by_key(|(_, lane)| lane.turn)?;
        let (name, place) = lane.take()?;
        self.last += 1;
        self.running += 1;
        lane.turn = self.last;
        lane.rested = Some(lane.rested.map_or(now, |rested| rested.max(now)) + self.limits.interval);
        lane.running.insert(name.clone(), place);
        Some(ForwardKey::new(namespace.clone(), name))
    }

    /// Forgets the namespaces that have their whole burst, because they are as new ones. While another one waits, the number of
    /// the last turn matters too.
    fn forget(&mut self, now: Instant) {
        if !self.lanes.values().any(Lane::is_waiting) {
            self.lanes.retain(|_, lane| !lane.running.is_empty() || lane.rested.is_some_and(|rested| rested > now));
        }
    }

    /// The last write of an object does not count for the rate of its namespace.
    pub(super) fn free_of_charge(&mut self, key: &ForwardKey) {
        if let Some(lane) = self.lanes.get_mut(&key.namespace) {
            lane.rested = lane.rested.and_then(|rested| rested.checked_sub(self.limits.interval));
        }
    }

    /// Ends a write. Returns whether the object was marked meanwhile; it does not wait because of that.
    pub(super) fn end(&mut self, key: &ForwardKey) -> bool {
        let Some(lane) = self.lanes.get_mut(&key.namespace) else { return false };
        if lane.running.remove(&key.name).is_some() {
            self.running -= 1;
        }
        lane.again.remove(&key.name)
    }

    /// Ends a write whose object waits for another one at once. An object that has taken precedence does not take it again, so
    /// that it does not delay the others of its namespace for ever.
    pub(super) fn end_and_mark(&mut self, key: &ForwardKey, place: Place) {
        let had = self.lanes.get(&key.namespace).and_then(|lane| lane.running.get(&key.name).copied());
        self.end(key);
        self.mark(key);
        if (had, place) == (Some(Place::InOrder), Place::Next)
            && let Some(lane) = self.lanes.get_mut(&key.namespace)
            && lane.waiting.remove(&key.name)
        {
            lane.first.push_back(key.name.clone());
        }
    }

    /// Begins no write before this moment; `None`: from now on.
    pub(super) const fn hold(&mut self, until: Option<Instant>) {
        self.held_until = until;
    }

    /// Until when no write begins.
    pub(super) fn held(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now)
    }

    /// When a write may begin that may not begin now; `None` if only a further event can allow one.
    pub(super) fn ready(&self, now: Instant) -> Option<Instant> {
        let lanes = self.lanes.values().filter(|lane| lane.is_waiting() && lane.running.len() < self.limits.at_once_each);
        let allowed = lanes.map(|lane| lane.allowed(self.limits).map_or(now, |allowed| allowed.max(now))).min()?;
        (self.running < self.limits.at_once).then(|| self.held_until.map_or(allowed, |until| until.max(allowed)))
    }
}
