//! The connection to the kernel, and what the table holds: makes it as it should be, with as few readings as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imbl::ordset::DiffItem;
use tracing::{debug, info};

use super::TABLE;
use super::compare::{Form, Held, HeldSet, Kind, Step, Steps, changes, differences, kind, places, surplus};
use super::counters::{Counters, When, counted};
use super::failure::{Failure, is_race};
use super::layout::{self, Layout, Touched};
use super::ownership::Ownership;
use super::probe::can_own;
use super::reading::{conclude, read, translated};
use super::wire::Wire;
use crate::dataplane::Look;
use crate::dataplane::iptables::LegacyTables;
use crate::dataplane::rules::{Counting, RulesReport};
use crate::model::{Connmark, Translation, Translations};

/// The number of elements that one transaction changes at most. The kernel makes about 2,000 of them in 5 ms, and nobody else can
/// write meanwhile.
const AT_ONCE: usize = 4000;
/// More than the time that a packet needs from PREROUTING to POSTROUTING, unless a program holds it in a queue.
const PASSAGE: Duration = Duration::from_millis(2);
/// The number of touched elements that are read back one by one. More are read with the whole table.
const SINGLY: usize = 256;
/// How often the table is compared if another program keeps changing it.
const TRIES: usize = 4;

/// The connection to the kernel, and what it holds.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Opened with the first access, in the network namespace of the agent, and kept: closing a socket of `nf_tables` waits for
    /// all CPUs.
    pub(super) wire: Option<Wire>,
    /// What was asked for last.
    pub(super) translations: Translations,
    pub(super) layout: Layout,
    /// The generation at which the kernel held exactly `layout`, if it did.
    pub(super) exact_at: Option<u32>,
    /// The generation at which it was read last.
    pub(super) left_at: Option<u32>,
    /// Whether another program may have written between the last two readings.
    pub(super) foreign: bool,
    /// Whether the kernel is too old to give the table an owner.
    cannot_own: bool,
    pub(super) counters: Counters,
    /// What FORWARD of iptables accepts.
    pub(super) accepted: Option<Accepted>,
}

/// How FORWARD of iptables was left.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Whether there were flows that it had to accept.
    pub(super) asked: bool,
    /// The tables of legacy xtables after it.
    pub(super) legacy: LegacyTables,
    pub(super) report: RulesReport,
}

impl Memory {
    pub(super) fn wire(&mut self) -> Result<&mut Wire, Failure> {
        if self.wire.is_none() {
            self.wire = Some(Wire::open()?);
        }
        self.wire.as_mut().ok_or(Failure::Missing)
    }

    /// Decides whom the table will belong to. Asks once whether the kernel can do it.
    pub(super) async fn want(&mut self, ownership: Ownership) {
        if self.layout.ownership == ownership || self.cannot_own {
            return;
        }
        // An error ends the write that follows, too.
        let Ok(wire) = self.wire() else { return };
        let Ok(can) = can_own(wire).await else { return };
        if can {
            self.layout.ownership = ownership;
        } else {
            self.cannot_own = true;
            info!("this kernel cannot give a table an owner (Linux 6.9 can), so every program can change the table");
        }
    }

    async fn generation(&mut self) -> Result<u32, Failure> {
        self.wire()?.generation().await?.ok_or(Failure::Missing)
    }

    pub(super) async fn write(
        &mut self,
        translations: &Translations,
        look: Look,
        (mark, counting): (Connmark, Counting),
        report: &mut RulesReport,
    ) -> Result<(), Failure> {
        if self.translations.is_empty() && self.layout.is_empty() {
            let ownership = self.layout.ownership;
            self.layout = Layout::new(mark, counting == Counting::On);
            self.layout.ownership = ownership;
        }
        let before = Form::of(&self.layout);
        let (mut touched, mut gone) = (Touched::new(), Vec::new());
        for difference in self.translations.diff(translations) {
            if let DiffItem::Remove(translation) = difference {
                self.layout.remove(translation, &mut touched);
                gone.push(translation.clone());
            }
        }
        for difference in self.translations.diff(translations) {
            if let DiffItem::Add(translation) = difference {
                self.layout.add(translation, &mut touched);
            }
        }
        self.layout.make_room(&mut touched);
        let former = std::mem::replace(&mut self.translations, translations.clone());
        let exact = self.exact_at.take();
        let known = exact.is_some() && Some(self.generation().await?) == exact;
        self.foreign = !known;
        report.as_left = known;
        if known && look == Look::Changes {
            self.change(exact, &before, &touched, &gone, report).await
        } else {
            self.settle((Some(&former), exact.filter(|_| known)), &gone, report).await
        }
    }

    /// Makes a change of a table that is as it was left.
    async fn change(
        &mut self,
        exact: Option<u32>,
        before: &Form,
        touched: &Touched,
        gone: &[Translation],
        report: &mut RulesReport,
    ) -> Result<(), Failure> {
        let steps = changes(before, &self.layout, touched);
        if steps.now.is_empty() && steps.later.is_empty() {
            (self.exact_at, self.left_at) = (exact, exact);
            self.hold(report);
            return Ok(());
        }
        if self.layout.is_empty() {
            report.deleted = before.chains();
        }
        if !gone.is_empty() && self.layout.counts() {
            let keys: Vec<(String, Vec<u8>)> = gone.iter().flat_map(counted).collect();
            let sets = if keys.len() > SINGLY { self.wire()?.read().await?.sets } else { self.read_some(&keys).await? };
            self.counters.read(&sets, gone, When::Before);
        }
        let commits = match self.perform(&steps, report).await {
            Ok(commits) => commits,
            Err(Failure::Refused(refusal)) if is_race(&refusal) => {
                debug!(%refusal, "the table is not as it was left; comparing it");
                report.as_left = false;
                return self.settle((None, None), gone, report).await;
            }
            Err(failure) => return Err(failure),
        };
        let keys: Vec<(String, Vec<u8>)> =
            touched.iter().flat_map(|(name, keys)| keys.keys().map(|key| (name.clone(), key.clone()))).collect();
        let own = exact.map(|exact| exact.wrapping_add(commits));
        let structural = steps.now.iter().chain(&steps.later).any(|step| !matches!(step, Step::Put(..) | Step::Take(..)));
        if structural || keys.len() > SINGLY || Some(self.generation().await?) != own {
            return self.settle((None, own), gone, report).await;
        }
        let sets = self.read_some(&keys).await?;
        let is_held = |(name, key): &(String, Vec<u8>)| {
            let held = sets.get(name).and_then(|set| set.elements.get(key)).map(|element| &element.value);
            held == self.layout.value(name, key).as_ref()
        };
        if !keys.iter().all(is_held) {
            return self.settle((None, own), gone, report).await;
        }
        (self.exact_at, self.left_at) = (own, own);
        self.hold(report);
        Ok(())
    }

    /// Compares the whole table, and makes it as it should be. Reads it back until nothing differs, or reports what still does.
    /// `former` is what was asked for before, if nothing was written yet. `expected` is the generation if no other program has written.
    async fn settle(
        &mut self,
        (former, expected): (Option<&Translations>, Option<u32>),
        gone: &[Translation],
        report: &mut RulesReport,
    ) -> Result<(), Failure> {
        let mut wrote = former.is_none();
        let mut refused = None;
        for attempt in 1..=TRIES {
            let begun = self.generation().await?;
            if attempt == 1 && Some(begun) != expected {
                (self.foreign, report.as_left) = (true, false);
            }
            let held = self.wire()?.read().await?;
            match former.filter(|_| !wrote) {
                Some(former) => {
                    report.before = translated(&held);
                    self.count(&held, former, When::Before);
                    // After a restart, what an element has counted so far was there before.
                    self.count(&held, &self.translations.clone(), When::Before);
                }
                None => self.count(&held, &self.translations.clone(), When::After),
            }
            let steps = differences(&held, &self.layout);
            let is_exact = steps.now.is_empty() && steps.later.is_empty();
            if is_exact || attempt == TRIES {
                let is_settled = self.generation().await? == begun;
                self.left_at = is_settled.then_some(begun);
                self.exact_at = self.left_at.filter(|_| is_exact);
                if is_exact {
                    self.hold(report);
                    return Ok(());
                }
                conclude(&held, &self.layout, gone, report);
                return refused.map_or(Ok(()), |refusal| Err(Failure::Refused(refusal)));
            }
            if wrote {
                (report.disturbed, self.foreign) = (true, true);
                // Another program put them in force, and the next write removes them.
                let wrong = surplus(&held, &self.layout);
                let open = |(name, key): &(String, Vec<u8>)| read(name, key, &held.sets.get(name)?.elements.get(key)?.value);
                report.before.extend(wrong.iter().filter_map(open));
            }
            if self.layout.is_empty() {
                report.deleted = held.chains.len();
            }
            match self.perform(&steps, report).await {
                Ok(_) => (wrote, refused) = (true, None),
                Err(Failure::Refused(refusal)) if is_race(&refusal) => {
                    debug!(%refusal, "the table was changed while it was compared; comparing it again");
                    (report.disturbed, self.foreign, refused) = (true, true, Some(refusal));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn count(&mut self, held: &Held, translations: &Translations, when: When) {
        if self.layout.counts() {
            self.counters.read(&held.sets, translations, when);
        }
    }

    /// Makes the steps, and returns the number of transactions.
    async fn perform(&mut self, steps: &Steps, report: &mut RulesReport) -> Result<u32, Failure> {
        let mut commits = 0;
        for part in [&steps.now, &steps.later] {
            if !part.is_empty() && commits > 0 {
                tokio::time::sleep(PASSAGE).await;
            }
            for some in batches(part) {
                self.wire()?.transact(layout::TABLE, some).await?.map_err(Failure::Refused)?;
                commits += 1;
                if self.layout.counts() {
                    self.note(some);
                }
            }
        }
        report.written += places(&steps.now).len();
        report.deleted += places(&steps.later).difference(&places(&steps.now)).count();
        Ok(commits)
    }

    /// Remembers which counters begin and end.
    fn note(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Put(name, key, _) if kind(name) == Kind::Destination => self.counters.begins(name, key),
                Step::Take(name, key) if kind(name) == Kind::Destination => self.counters.ends(name, key),
                Step::RemoveTable => self.counters.forget(),
                _ => {}
            }
        }
    }

    /// Some elements of maps that count.
    async fn read_some(&mut self, keys: &[(String, Vec<u8>)]) -> Result<BTreeMap<String, HeldSet>, Failure> {
        let mut by_set = BTreeMap::<&str, BTreeSet<Vec<u8>>>::new();
        for (name, key) in keys {
            by_set.entry(name).or_default().insert(key.clone());
        }
        let definitions = self.layout.definitions();
        let mut sets = BTreeMap::new();
        for (name, keys) in by_set {
            let elements = self.wire()?.elements(name, &keys).await?;
            let definition = definitions.get(name).cloned().unwrap_or_default();
            sets.insert(name.to_owned(), HeldSet { definition, elements });
        }
        Ok(sets)
    }

    /// Reports that the table is as it should be.
    fn hold(&self, report: &mut RulesReport) {
        report.held.insert(TABLE, self.layout.held());
    }
}

/// The transactions for some steps. A table that is made anew is one transaction, because it may be in use; and so is an element
/// that is replaced.
fn batches(steps: &[Step]) -> Vec<&[Step]> {
    if steps.contains(&Step::RemoveTable) {
        return vec![steps];
    }
    let (mut batches, mut rest) = (Vec::new(), steps);
    while !rest.is_empty() {
        let replaces = |at: usize| matches!((rest.get(at - 1), rest.get(at)), (Some(Step::Take(..)), Some(Step::Put(..))));
        let at = AT_ONCE.min(rest.len());
        let (batch, after) = rest.split_at(if at < rest.len() && replaces(at) { at + 1 } else { at });
        batches.push(batch);
        rest = after;
    }
    batches
}
