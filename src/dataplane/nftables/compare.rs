//! How the kernel differs from the layout, and the steps that end it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::class::{Class, Hooked};
use super::expression::are_held;
use super::layout::{Chain, Definition, LISTEN, Layout, TRANSLATED, Touched, Value, base_name};
use super::ownership::{Owner, Ownership};

/// What the kernel holds in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Whether there is a table.
    pub(super) exists: bool,
    pub(super) owner: Owner,
    /// Whether it is dormant: a flag by which a table does nothing.
    pub(super) dormant: bool,
    pub(super) sets: BTreeMap<String, HeldSet>,
    pub(super) chains: BTreeMap<String, HeldChain>,
}

/// A map or set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldSet {
    pub(super) definition: Definition,
    pub(super) elements: BTreeMap<Vec<u8>, HeldElement>,
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldElement {
    pub(super) value: Value,
    /// The number of packets that it has counted.
    pub(super) packets: u64,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldChain {
    /// The hook, the priority, the type and the policy of a base chain.
    pub(super) base: Option<(u32, i32, String, u32)>,
    /// The expressions of each rule.
    pub(super) rules: Vec<Vec<u8>>,
}

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    MakeTable(Ownership),
    /// The table, which has no owner any more, belongs to the agent from now on.
    OwnTable,
    RemoveTable,
    MakeSet(String, Definition),
    RemoveSet(String),
    MakeChain(String, Option<Hooked>),
    /// Gives a chain these rules, in place of those that it has.
    Fill(String, Chain),
    /// Takes all rules out of a chain that goes.
    Flush(String),
    RemoveChain(String),
    /// Puts an element in.
    Put(String, Vec<u8>, Value),
    /// Takes an element out.
    Take(String, Vec<u8>),
}

/// The steps in two parts. Packets that are between PREROUTING and POSTROUTING while the first one is made still find their new
/// source; the second one removes it a moment later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) now: Vec<Step>,
    pub(super) later: Vec<Step>,
}

/// The hook, the priority, the type and the policy of a base chain. Nat chains of other programs are at -100 and 100, so those of the
/// operator decide first. (`enum nf_ip_hook_priorities`, `include/uapi/linux/netfilter_ipv4.h`.)
pub(super) const fn base(hooked: Hooked) -> (u32, i32, &'static str, u32) {
    match hooked {
        Hooked::Prerouting => (0, -110, "nat", ACCEPT),
        Hooked::Postrouting => (4, 90, "nat", ACCEPT),
        Hooked::Input => (1, 0, "filter", ACCEPT),
    }
}

/// The accept policy (`NF_ACCEPT`, `include/uapi/linux/netfilter.h`).
pub(super) const ACCEPT: u32 = 1;

impl HeldChain {
    fn has_rules(&self, chain: &Chain) -> bool {
        let all = self.rules.iter().zip(&chain.rules).all(|(held, rule)| are_held(&rule.expressions(), held));
        self.rules.len() == chain.rules.len() && all
    }

    fn has_base(&self, chain: &Chain) -> bool {
        let held = self.base.as_ref().map(|(hook, priority, kind, policy)| (*hook, *priority, kind.as_str(), *policy));
        held == chain.hooked.map(base)
    }
}

/// Everything that differs between `held` and `layout`.
pub(super) fn differences(held: &Held, layout: &Layout) -> Steps {
    if layout.is_empty() {
        return if held.exists { removal(held.chains.contains_key(base_name(Hooked::Prerouting))) } else { Steps::default() };
    }
    let (definitions, chains, elements) = (layout.definitions(), layout.chains(), layout.elements());
    let mut steps = Builder::default();
    // A table or set of another form cannot be changed, so it is made anew, and so is everything in it.
    let remade = held.dormant
        || layout.ownership != Ownership::Open && held.owner == Owner::None
        || held.sets.iter().any(|(name, set)| definitions.get(name).is_some_and(|it| !set.definition.serves_as(it)));
    // The kernel adds no base chain to a table while it gets an owner.
    let adopted = layout.ownership == Ownership::Owned && held.owner == Owner::Left;
    let lacks_base = chains.iter().any(|(name, chain)| chain.hooked.is_some() && !held.chains.contains_key(name));
    let remade = remade || adopted && lacks_base;
    let wrong_base = |(name, chain): (&String, &HeldChain)| chains.get(name).is_some_and(|wanted| !chain.has_base(wanted));
    let nothing = Held::default();
    let held = if held.exists && (remade || held.chains.iter().any(wrong_base)) {
        steps.now.push(Step::RemoveTable);
        &nothing
    } else {
        held
    };
    if !held.exists {
        steps.now.push(Step::MakeTable(layout.ownership));
    } else if adopted {
        steps.now.push(Step::OwnTable);
    }
    for (name, definition) in &definitions {
        if !held.sets.contains_key(name) {
            steps.now.push(Step::MakeSet(name.clone(), definition.clone()));
        }
    }
    for (name, chain) in &chains {
        let found = held.chains.get(name);
        if found.is_none() {
            steps.now.push(Step::MakeChain(name.clone(), chain.hooked));
        }
        if found.is_none_or(|found| !found.has_rules(chain)) {
            steps.fill(name, chain);
        }
    }
    for (name, wanted) in &elements {
        let none = BTreeMap::new();
        let found = held.sets.get(name).map_or(&none, |set| &set.elements);
        for (key, value) in wanted {
            let before = found.get(*key).map(|element| &element.value);
            if before != Some(value) {
                steps.put(name, key, value.clone(), before);
            }
        }
        for key in found.keys().filter(|key| !wanted.contains_key(key.as_slice())) {
            steps.take(name, key);
        }
    }
    let stale_chains = held.chains.keys().filter(|name| !chains.contains_key(*name)).cloned().collect();
    steps.remove(stale_chains, held.sets.keys().filter(|name| !definitions.contains_key(*name)).cloned().collect());
    steps.done()
}

/// The maps, sets and chains of a layout: few, however many elements there are.
#[derive(Clone, Debug)]
pub(super) struct Form {
    definitions: BTreeMap<String, Definition>,
    chains: BTreeMap<String, Chain>,
}

impl Form {
    /// The number of chains.
    pub(super) fn chains(&self) -> usize {
        self.chains.len()
    }

    pub(super) fn of(layout: &Layout) -> Self {
        Self { definitions: layout.definitions(), chains: layout.chains() }
    }
}

/// What differs between the layout of the form `before`, which the kernel holds exactly, and `layout`, of which only what is `touched`
/// may differ.
pub(super) fn changes(before: &Form, layout: &Layout, touched: &Touched) -> Steps {
    let Form { definitions: old, chains: old_chains } = before;
    if old.is_empty() || layout.is_empty() {
        return if old.is_empty() { differences(&Held::default(), layout) } else { removal(true) };
    }
    let mut steps = Builder::default();
    let Form { definitions: new, chains: new_chains } = Form::of(layout);
    for (name, definition) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        steps.now.push(Step::MakeSet(name.clone(), definition.clone()));
    }
    for (name, chain) in &new_chains {
        let found = old_chains.get(name);
        if found.is_none() {
            steps.now.push(Step::MakeChain(name.clone(), chain.hooked));
        }
        if found != Some(chain) {
            steps.fill(name, chain);
        }
    }
    for (name, keys) in touched {
        for (key, before) in keys {
            match (before.clone(), layout.value(name, key)) {
                (old, Some(new)) if old.as_ref() != Some(&new) => steps.put(name, key, new, old.as_ref()),
                // The elements of a map that goes go with it.
                (Some(_), None) if new.contains_key(name) => steps.take(name, key),
                (_, _) => {}
            }
        }
    }
    let stale_chains = old_chains.keys().filter(|name| !new_chains.contains_key(*name)).cloned().collect();
    steps.remove(stale_chains, old.keys().filter(|name| !new.contains_key(*name)).cloned().collect());
    steps.done()
}

impl Definition {
    /// Whether a map or set of this form does what `wanted` should. One that counts serves those who do not ask too.
    fn serves_as(&self, wanted: &Self) -> bool {
        *self == Self { counted: self.counted, ..wanted.clone() } && (self.counted || !wanted.counted)
    }
}

/// The elements by which flows are translated although they should not be, or not like this.
pub(super) fn surplus(held: &Held, layout: &Layout) -> BTreeSet<(String, Vec<u8>)> {
    let all = held.sets.iter().filter(|(name, _)| kind(name) == Kind::Destination);
    let elements = all.flat_map(|(name, set)| set.elements.iter().map(move |(key, element)| (name, key, element)));
    let wrong = elements.filter(|(name, key, element)| layout.value(name, key).as_ref() != Some(&element.value));
    wrong.map(|(name, key, _)| (name.clone(), key.clone())).collect()
}

/// Steps, by when they are made.
#[derive(Default)]
struct Builder {
    now: Vec<Step>,
    /// New sources, before the new destinations.
    sources: Vec<Step>,
    destinations: Vec<Step>,
    /// The ways to them.
    ways: Vec<Step>,
    /// Rules of base chains.
    bases: Vec<Step>,
    /// What nobody needs any more, after the packets on their way have passed.
    later: Vec<Step>,
    last: Vec<Step>,
}

impl Builder {
    fn fill(&mut self, name: &str, chain: &Chain) {
        let step = Step::Fill(name.to_owned(), chain.clone());
        if chain.hooked.is_some() { self.bases.push(step) } else { self.now.push(step) }
    }

    fn put(&mut self, name: &str, key: &[u8], value: Value, before: Option<&Value>) {
        let steps = match kind(name) {
            Kind::Source => &mut self.sources,
            Kind::Destination => &mut self.destinations,
            // A packet on its way may still need a class that is not asked any more.
            Kind::Way if name == TRANSLATED && before.is_some_and(|before| narrows(before, &value)) => &mut self.later,
            Kind::Way => &mut self.ways,
        };
        if before.is_some() {
            steps.push(Step::Take(name.to_owned(), key.to_vec()));
        }
        steps.push(Step::Put(name.to_owned(), key.to_vec(), value));
    }

    fn take(&mut self, name: &str, key: &[u8]) {
        let steps = match kind(name) {
            // After the new ways, so that no flow is between an old and a new key.
            Kind::Destination => &mut self.ways,
            Kind::Way if name == LISTEN => &mut self.ways,
            Kind::Source | Kind::Way => &mut self.later,
        };
        steps.push(Step::Take(name.to_owned(), key.to_vec()));
    }

    /// Removes chains and sets that nothing leads to any more. A chain may name another one or a set, so all are flushed first.
    fn remove(&mut self, chains: Vec<String>, sets: Vec<String>) {
        self.last.extend(chains.iter().cloned().map(Step::Flush));
        self.last.extend(sets.into_iter().map(Step::RemoveSet));
        self.last.extend(chains.into_iter().map(Step::RemoveChain));
    }

    fn done(self) -> Steps {
        let Self { mut now, sources, destinations, ways, bases, mut later, last } = self;
        for more in [sources, destinations, ways, bases] {
            now.extend(more);
        }
        later.extend(last);
        Steps { now, later }
    }
}

/// The removal of the whole table: first nothing is translated any more, and a moment later the sources go too.
fn removal(translates: bool) -> Steps {
    let name = base_name(Hooked::Prerouting).to_owned();
    let now = if translates { vec![Step::Flush(name)] } else { Vec::new() };
    Steps { now, later: vec![Step::RemoveTable] }
}

/// Whether a way leads to fewer classes than before, and to no other ones.
fn narrows(before: &Value, now: &Value) -> bool {
    match (before, now) {
        (Value::Goto(before), Value::Goto(now)) => {
            let asked = |chain: &str| chain.split('.').map(str::to_owned).collect::<BTreeSet<String>>();
            before != now && asked(now).is_subset(&asked(before))
        }
        (_, _) => false,
    }
}

/// What the elements of a map or set are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Source,
    Destination,
    Way,
}

pub(super) fn kind(name: &str) -> Kind {
    match name {
        LISTEN | TRANSLATED => Kind::Way,
        _ if Class::parse(name).is_some_and(|class| class.purpose.chain() == Hooked::Prerouting) => Kind::Destination,
        _ => Kind::Source,
    }
}

/// The chains and sets that steps are about.
pub(super) fn places(steps: &[Step]) -> BTreeSet<String> {
    let place = |step: &Step| match step {
        Step::MakeTable(_) | Step::OwnTable | Step::RemoveTable => None,
        Step::MakeSet(name, _)
        | Step::RemoveSet(name)
        | Step::MakeChain(name, _)
        | Step::Fill(name, _)
        | Step::Flush(name)
        | Step::RemoveChain(name)
        | Step::Put(name, ..)
        | Step::Take(name, _) => Some(name.clone()),
    };
    steps.iter().filter_map(place).collect()
}
