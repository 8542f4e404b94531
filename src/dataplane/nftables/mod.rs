//! The nftables backend: one table, in which each flow is found by its whole original tuple in a hash map. Written and read by
//! netlink; no program is run, except where FORWARD of iptables must accept.

mod class;
mod compare;
mod counters;
mod element;
mod expression;
mod layout;
mod probe;
mod rule;
mod text;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use imbl::ordset::DiffItem;
use ipnet::{IpNet, Ipv4Net};
use rustix::io::Errno;
use tokio::sync::Mutex;
use tracing::debug;

use super::Look;
use super::iptables::Accepting;
use super::rules::{Counting, Function, Held as Counted, Place, RefusedRule, RulesError, RulesReport, Step as Access};
use crate::model::{
    Connmark, Destination, FlowMatch, NatPriorities, PortRange, SourceNat, TargetPorts, Translation, Translations,
};
use crate::netlink::{NetlinkError, Refusal};
use class::{Class, PORT_BITS, Purpose};
use compare::{Form, Held, HeldSet, Step, Steps, changes, differences};
use counters::{Counters, When, counted};
use layout::{Layout, Touched, Value};
use wire::Wire;

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
/// The number of elements that one transaction changes at most. The kernel makes about 2,000 of them in 5 ms, and nobody else can
/// write meanwhile.
const AT_ONCE: usize = 4000;
/// More than the time that a packet needs from PREROUTING to POSTROUTING, unless a program holds it in a queue.
const PASSAGE: Duration = Duration::from_millis(2);
/// The number of touched elements that are read back one by one. More are read with the whole table.
const SINGLY: usize = 256;
/// How often the table is compared if another program keeps changing it.
const TRIES: usize = 4;

/// The rules of the operator in a table of nftables.
#[derive(Debug)]
pub(super) struct Rules {
    mark: Connmark,
    counting: Counting,
    accepting: Accepting,
    memory: Mutex<Memory>,
}

/// The connection to the kernel, and what it holds.
#[derive(Debug, Default)]
struct Memory {
    /// Opened with the first access, in the network namespace of the agent, and kept: closing a socket of `nf_tables` waits for
    /// all CPUs.
    wire: Option<Wire>,
    /// What was asked for last.
    translations: Translations,
    layout: Layout,
    /// The generation at which the kernel held exactly `layout`, if it did.
    exact_at: Option<u32>,
    /// The generation at which it was read last.
    left_at: Option<u32>,
    /// Whether another program may have written between the last two readings.
    foreign: bool,
    counters: Counters,
    /// Whether there were flows that FORWARD of iptables had to accept, and the report about it.
    accepted: Option<(bool, RulesReport)>,
}

/// Why the table could not be read or written.
#[derive(Debug)]
enum Failure {
    /// The communication with the kernel failed.
    Netlink(NetlinkError),
    /// The kernel refused a transaction.
    Refused(Refusal),
    /// The kernel has no `nf_tables`.
    Missing,
}

impl Failure {
    /// The table accepts and translates, so both failed.
    fn of_all(&self) -> BTreeMap<Function, RulesError> {
        let error = self.told();
        Function::ALL.map(|function| (function, error.clone())).into()
    }

    fn told(&self) -> RulesError {
        match self {
            Self::Netlink(error) => RulesError {
                text: format!("table {TABLE}: {}", explained(error)),
                step: Access::Read,
                // The table went while it was read.
                transient: error.is_transient() || matches!(error, NetlinkError::Refused(refusal) if is_race(refusal)),
            },
            Self::Refused(refusal) => RulesError {
                text: format!("table {TABLE}: the kernel refuses the change: {refusal}{}", advice(refusal)),
                step: Access::Write,
                transient: refusal.is_transient() || is_race(refusal),
            },
            Self::Missing => RulesError {
                text: "the kernel has no nf_tables; load the module nf_tables, or use --backend iptables".to_owned(),
                step: Access::Write,
                transient: false,
            },
        }
    }
}

/// What a person can do about a refusal.
fn advice(refusal: &Refusal) -> &'static str {
    match refusal.errno {
        Errno::PERM | Errno::ACCESS => "; another program owns the table",
        Errno::OPNOTSUPP | Errno::NOENT => {
            "; another program keeps changing the table, or a module such as nft_nat, nft_ct, nft_fib_ipv4 or nft_masq is missing: then use --backend iptables"
        }
        _ => "",
    }
}

fn explained(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error)
    }
}

impl Rules {
    pub(super) fn new() -> Self {
        let mark = Connmark::default();
        Self { mark, counting: Counting::Off, accepting: Accepting::new(mark), memory: Mutex::default() }
    }

    /// Sets the bit of the connection mark that the translated flows have.
    pub(super) fn marking(self, mark: Connmark) -> Self {
        Self { mark, accepting: Accepting::new(mark), ..self }
    }

    /// Sets whether the connections that match the rules are counted.
    pub(super) fn counting(self, counting: Counting) -> Self {
        Self { counting, ..self }
    }

    /// Makes the rules those of `translations`.
    pub(super) async fn apply(&self, translations: &Translations, look: Look) -> RulesReport {
        let mut memory = self.memory.lock().await;
        let mut report = RulesReport::default();
        let begins = memory.translations.is_empty() && !translations.is_empty();
        let admitted = if begins { self.accepting.admit(translations).await } else { RulesReport::default() };
        match memory.write(translations, look, (self.mark, self.counting), &mut report).await {
            Ok(()) => {
                let refused = memory.layout.without_room().iter().cloned().collect();
                report.refused.extend(without_room(refused));
            }
            Err(failure) => {
                memory.exact_at = None;
                memory.wire = None;
                report.failed.extend(failure.of_all());
            }
        }
        // The rest of iptables is removed only if the table translates what it should.
        if report.failed.is_empty() && report.differing.is_empty() && report.left.is_empty() {
            report.merge(RulesReport { failed: [].into(), refused: Vec::new(), ..admitted });
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
        let same = memory.accepted.as_ref().filter(|(asked, _)| *asked == any && look == Look::Changes && !memory.foreign);
        let accepted = match same {
            Some((_, accepted)) => accepted.clone(),
            None => self.accepting.apply(translations).await,
        };
        let nothing_done =
            RulesReport { written: 0, deleted: 0, jumps: 0, disturbed: false, before: Vec::new(), ..accepted.clone() };
        let is_whole = accepted.failed.is_empty() && accepted.refused.is_empty();
        memory.accepted = is_whole.then_some((any, nothing_done));
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

impl Memory {
    fn wire(&mut self) -> Result<&mut Wire, Failure> {
        if self.wire.is_none() {
            self.wire = Some(Wire::open()?);
        }
        self.wire.as_mut().ok_or(Failure::Missing)
    }

    async fn generation(&mut self) -> Result<u32, Failure> {
        self.wire()?.generation().await?.ok_or(Failure::Missing)
    }

    async fn write(
        &mut self,
        translations: &Translations,
        look: Look,
        (mark, counting): (Connmark, Counting),
        report: &mut RulesReport,
    ) -> Result<(), Failure> {
        if self.translations.is_empty() && self.layout.is_empty() {
            self.layout = Layout::new(mark, counting == Counting::On);
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
                let surplus = compare::surplus(&held, &self.layout);
                let open = |(name, key): &(String, Vec<u8>)| read(name, key, &held.sets.get(name)?.elements.get(key)?.value);
                report.before.extend(surplus.iter().filter_map(open));
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
        report.written += compare::places(&steps.now).len();
        report.deleted += compare::places(&steps.later).difference(&compare::places(&steps.now)).count();
        Ok(commits)
    }

    /// Remembers which counters begin and end.
    fn note(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Put(name, key, Value::Data(_)) if name.starts_with("new_destination") => self.counters.begins(name, key),
                Step::Take(name, key) if name.starts_with("new_destination") => self.counters.ends(name, key),
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

/// Whether a refusal says that another program has changed the table since it was read.
fn is_race(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::NOENT | Errno::EXIST | Errno::BUSY)
}

/// Reports how the table, read back, differs from `layout`. The translations `gone` were asked for until now.
fn conclude(held: &Held, layout: &Layout, gone: &[Translation], report: &mut RulesReport) {
    let Steps { now, later } = differences(held, layout);
    let mut differing: BTreeSet<String> = compare::places(&now).into_iter().chain(compare::places(&later)).collect();
    if differing.is_empty() && !(now.is_empty() && later.is_empty()) {
        differing.insert(layout::base_name(class::Hooked::Prerouting).to_owned());
    }
    report.differing = differing.into_iter().map(|chain| Place { table: TABLE, chain }).collect();
    let mut surplus = compare::surplus(held, layout);
    for translation in gone {
        let open: Vec<_> = counted(translation).filter(|element| surplus.contains(element)).collect();
        if !open.is_empty() {
            report.left.push(translation.clone());
            surplus.retain(|element| !open.contains(element));
        }
    }
    let unknown = surplus.iter().filter_map(|(name, key)| read(name, key, &held.sets.get(name)?.elements.get(key)?.value));
    report.left.extend(unknown);
    let rules = held.chains.values().map(|chain| chain.rules.len()).sum();
    report.held.insert(TABLE, Counted { chains: held.chains.len(), rules });
}

/// The translations in the table. Their new source is not known here and is given as `Masquerade`.
fn translated(held: &Held) -> Vec<Translation> {
    let all = held.sets.iter().flat_map(|(name, set)| set.elements.iter().map(move |(key, it)| (name, key, &it.value)));
    all.filter_map(|(name, key, value)| read(name, key, value)).collect()
}

/// The translation of an element of a map for new destinations.
fn read(name: &str, key: &[u8], value: &Value) -> Option<Translation> {
    let class = Class::parse(name)?;
    let found = class.read(key)?;
    let Value::Data(data) = value else { return None };
    let address = IpAddr::from(*data.first_chunk::<4>()?);
    let ports = match class.purpose {
        Purpose::Dnat => TargetPorts::One(u16::from_be_bytes(*data.get(4..)?.first_chunk()?)),
        Purpose::DnatSamePort => TargetPorts::Same,
        Purpose::Snat | Purpose::Masquerade | Purpose::Invalid => return None,
    };
    let last = u32::from(found.port) + (1 << (PORT_BITS - class.port)) - 1;
    let listened = if class.port == 0 {
        PortRange::ALL
    } else {
        PortRange::new(found.port.try_into().ok()?, u16::try_from(last).ok()?.try_into().ok()?).ok()?
    };
    Some(Translation {
        flows: FlowMatch {
            protocol: found.protocol,
            destination: found.listen.into(),
            ports: listened,
            source: IpNet::V4(Ipv4Net::new(found.client, class.client).ok()?),
            interface: found.interface,
        },
        destination: Destination { address, ports },
        source: SourceNat::Masquerade,
    })
}

impl Layout {
    /// How many chains and rules there are.
    fn held(&self) -> Counted {
        let chains = self.chains();
        Counted { chains: chains.len(), rules: chains.values().map(|chain| chain.rules.len()).sum() }
    }
}
