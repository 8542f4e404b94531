//! The nftables backend: one table, in which each flow is found by its whole original tuple in a hash map. Written and read by
//! netlink; no program is run, except where FORWARD of iptables must accept.

mod class;
mod compare;
mod counters;
mod element;
mod expression;
mod failure;
mod layout;
mod memory;
mod ownership;
mod probe;
mod reading;
mod rule;
mod text;
mod wire;

#[cfg(test)]
mod tests;

use tokio::sync::Mutex;

use super::Look;
use super::iptables::{Accepting, LegacyTables};
use super::rules::{Counting, Function, Place, RefusedRule, RulesError, RulesReport, Step as Access};
use crate::model::{Connmark, NatPriorities, Translation, Translations};
use class::Purpose;
use compare::Held;
use failure::Failure;
use layout::Layout;
use memory::{Accepted, Memory};
use reading::{conclude, translated};
use wire::Wire;

pub use ownership::Ownership;
pub(super) use probe::probe;
pub(super) use text::{Text, render};

/// The name of the table.
pub(crate) const NFTABLES_TABLE: &str = layout::TABLE;
/// The priorities of its chains.
pub(super) const PRIORITIES: NatPriorities = NatPriorities {
    prerouting: compare::base(class::Hooked::Prerouting).1,
    postrouting: compare::base(class::Hooked::Postrouting).1,
};
/// The name of the table in messages.
pub(super) const TABLE: &str = "ip portforward";
/// The rules of the operator in a table of nftables.
#[derive(Debug)]
pub(super) struct Rules {
    mark: Connmark,
    counting: Counting,
    ownership: Ownership,
    accepting: Accepting,
    memory: Mutex<Memory>,
}

impl Rules {
    pub(super) fn new() -> Self {
        let mark = Connmark::default();
        Self {
            mark,
            counting: Counting::Off,
            ownership: Ownership::Open,
            accepting: Accepting::new(mark),
            memory: Mutex::default(),
        }
    }

    /// Sets the bit of the connection mark that the translated flows have.
    pub(super) fn marking(self, mark: Connmark) -> Self {
        Self { mark, accepting: Accepting::new(mark), ..self }
    }

    /// Sets whether the connections that match the rules are counted.
    pub(super) fn counting(self, counting: Counting) -> Self {
        Self { counting, ..self }
    }

    /// Sets whose the table is.
    pub(super) fn owned(self, ownership: Ownership) -> Self {
        Self { ownership, ..self }
    }

    /// Makes the rules those of `translations`.
    pub(super) async fn apply(&self, translations: &Translations, look: Look) -> RulesReport {
        let mut memory = self.memory.lock().await;
        let mut report = RulesReport::default();
        let begins = memory.translations.is_empty() && !translations.is_empty();
        let admitted = if begins { self.accepting.admit(translations).await } else { RulesReport::default() };
        memory.want(self.ownership).await;
        match memory.write(translations, look, (self.mark, self.counting), &mut report).await {
            Ok(()) => {
                let refused = memory.layout.without_room().iter().cloned().collect();
                report.refused.extend(without_room(refused));
            }
            Err(failure) => {
                memory.exact_at = None;
                // With the socket, the table would lose its owner.
                if matches!(failure, Failure::Netlink(_)) {
                    memory.wire = None;
                }
                report.failed.extend(failure.of_all());
            }
        }
        // The rest of iptables is removed only if the table translates what it should.
        if report.failed.is_empty() && report.differing.is_empty() && report.left.is_empty() {
            report.add_deeds(&admitted);
            self.accept(&mut memory, translations, look, &mut report).await;
        } else {
            report.merge(admitted);
        }
        report.met = memory.counters.told();
        report
    }

    /// Has FORWARD of iptables accept the flows. It is looked at again if another program has written, and with every comparison.
    async fn accept(&self, memory: &mut Memory, translations: &Translations, look: Look, report: &mut RulesReport) {
        let any = !translations.is_empty();
        let may_last = look == Look::Changes && !memory.foreign;
        let same = memory.accepted.take().filter(|last| may_last && last.asked == any && last.legacy.is_current());
        // From before the look, so that no change is between the two.
        let legacy = LegacyTables::now();
        let accepted = match &same {
            Some(last) => last.report.clone(),
            None => self.accepting.apply(translations).await,
        };
        // What was just written is looked at once more.
        let lasts = accepted.failed.is_empty() && accepted.refused.is_empty() && legacy.is_current();
        memory.accepted =
            same.or_else(|| lasts.then(|| Accepted { asked: any, legacy, report: accepted.clone().without_deeds() }));
        report.merge(accepted);
    }

    /// Reports what `apply` would find, and writes nothing.
    pub(super) async fn inspect(&self, translations: &Translations) -> RulesReport {
        let mut report = RulesReport::default();
        let layout = Layout::of(translations, self.mark);
        let held = match read_once().await {
            Ok(held) => held,
            Err(failure) => {
                report.failed = failure.of_all();
                return report;
            }
        };
        report.before = translated(&held);
        conclude(&held, &layout, &[], &mut report);
        report.refused.extend(without_room(layout.without_room().iter().cloned().collect()));
        report.merge(self.accepting.inspect(translations).await);
        report
    }

    /// Whether no other program has written rules since the apply before the last one. `false` if this is not known.
    pub(super) async fn is_untouched(&self) -> bool {
        let mut memory = self.memory.lock().await;
        let (left, foreign, is_exact) = (memory.left_at, memory.foreign, memory.exact_at.is_some());
        match memory.wire() {
            // Where the table could not be made as it should be, the retries of the caller are enough.
            Ok(wire) => !(foreign && is_exact) && left.is_some() && wire.generation().await.ok().flatten() == left,
            Err(_) => false,
        }
    }

    /// The translations in the kernel. Their new source is not included.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub(super) async fn translated(&self) -> Result<Vec<Translation>, RulesError> {
        let mut memory = self.memory.lock().await;
        let read = async { Ok::<_, Failure>(memory.wire()?.read().await?) };
        read.await.map(|held| translated(&held)).map_err(|failure| failure.told())
    }
}

async fn read_once() -> Result<Held, Failure> {
    let mut wire = Wire::open()?;
    match wire.generation().await? {
        Some(_) => Ok(wire.read().await?),
        None => Ok(Held::default()),
    }
}

/// Removes the table.
pub(super) async fn remove() -> RulesReport {
    let mut report = RulesReport::default();
    let nothing = (Connmark::default(), Counting::Off);
    if let Err(failure) = Memory::default().write(&Translations::new(), Look::Everything, nothing, &mut report).await {
        report.failed = failure.of_all();
    }
    if report.failed.is_empty() && !report.differing.is_empty() {
        let text = format!("table {TABLE}: another program changes it while it is removed");
        report.failed.insert(Function::Nat, RulesError { text, step: Access::Write, transient: true });
    }
    report
}

/// Whether there is a table of the operator, or whether this is not known.
pub(super) async fn is_in_use() -> bool {
    match Wire::open() {
        Ok(mut wire) => wire.exists().await.unwrap_or(true),
        Err(_) => true,
    }
}

/// The report about translations for which the table has no room.
fn without_room(translations: Translations) -> Option<RefusedRule> {
    let text = "a range of ports with another target range, or a network whose length is no multiple of 4, needs one element for each port and each part of the network, and all of them together are too many; keep the ports (targetPort), name fewer ports, or use --backend iptables";
    let error = RulesError { text: text.to_owned(), step: Access::Write, transient: false };
    let place = Place { table: TABLE, chain: Purpose::Dnat.name().to_owned() };
    (!translations.is_empty()).then_some(RefusedRule { place, error, translations })
}
