//! Changes a layout where only the destinations of some translations changed: the usual edit of a forward, which names another
//! upstream.
//!
//! The place of a rule depends on what it matches, and never on where it sends packets. So all chains stay as they are, and only the
//! targets in PREROUTING change. The rules of INPUT name the upstreams if there are few of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::ordset::DiffItem;

use super::stage::{Stage, Table};
use super::{FANOUT, Ruleset, input, prerouting, trie};
use crate::dataplane::iptables::chain::{ChainName, Chains};
use crate::dataplane::iptables::rule::Target;
use crate::model::{FlowMatch, Protocol, Translation, Translations};

/// More changes than this are laid out anew.
const MOST: usize = 64;

/// A translation before and after a change of its destination.
type Change<'a> = (&'a Translation, &'a Translation);

impl Ruleset {
    /// The chains for `now`. This layout is the one for `before`.
    #[must_use]
    pub fn amended(mut self, before: &Translations, now: &Translations) -> Self {
        if before.ptr_eq(now) || redirected(before, now).is_some_and(|changes| self.redirect(&changes, now)) {
            return self;
        }
        Self::of(now, self.mark)
    }

    /// Takes over the new destinations. Returns whether that was possible.
    fn redirect(&mut self, changes: &[Change<'_>], now: &Translations) -> bool {
        let moved = || changes.iter().filter(|(before, now)| before.destination.address != now.destination.address);
        if moved().any(|(_, it)| differ_by_interface(&it.flows, now)) {
            return false;
        }
        for (before, now) in changes {
            if !self.replace(before, now) {
                return false;
            }
        }
        if moved().any(|(_, it)| it.flows.protocol == Protocol::Tcp) && names_upstreams(changes, now) {
            self.lay_out_input(now);
        }
        true
    }

    /// Replaces the rule of one translation in PREROUTING. Returns whether it was found.
    fn replace(&mut self, before: &Translation, now: &Translation) -> bool {
        let (old, new) = (prerouting::rule(before), prerouting::rule(now));
        let path = self.path(Stage::Prerouting, before);
        let Some(chains) = self.tables.get_mut(&Stage::Prerouting.table()) else { return false };
        let place_in = |name: &ChainName| Some((name.clone(), chains.get(name)?.iter().position(|rule| *rule == old)?));
        let Some((name, place)) = path.iter().find_map(place_in) else { return false };
        chains.get_mut(&name).and_then(|rules| rules.get_mut(place)).map(|rule| *rule = new).is_some()
    }

    fn lay_out_input(&mut self, now: &Translations) {
        let chains = self.tables.entry(Table::Filter).or_default();
        for name in below(Stage::Input.root(), chains) {
            chains.remove(&name);
        }
        chains.extend(trie::grow(Stage::Input, input::rules(now)));
    }
}

/// What differs, if these are only destinations.
fn redirected<'a>(before: &'a Translations, now: &'a Translations) -> Option<Vec<Change<'a>>> {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for difference in before.diff(now).take(2 * MOST + 1) {
        match difference {
            DiffItem::Remove(translation) => gone.push(translation),
            DiffItem::Add(translation) => new.push(translation),
        }
    }
    let same = |(before, now): &Change<'_>| before.flows == now.flows && before.source == now.source;
    // Both are in the order of their flows.
    let changes: Vec<Change<'a>> = gone.iter().copied().zip(new.iter().copied()).collect();
    (gone.len() == new.len() && changes.len() <= MOST && changes.iter().all(same)).then_some(changes)
}

/// Whether the translations of the listen address of `flows` name different interfaces. A rule of POSTROUTING may then name the
/// upstream.
fn differ_by_interface(flows: &FlowMatch, now: &Translations) -> bool {
    let mut all = now.iter().map(|it| &it.flows);
    all.any(|it| (it.protocol, it.destination) == (flows.protocol, flows.destination) && it.interface != flows.interface)
}

/// Whether a rule of INPUT names an upstream of `changes`, or did before them. If many others have the same source, it does not.
fn names_upstreams(changes: &[Change<'_>], now: &Translations) -> bool {
    let own: BTreeSet<&FlowMatch> = changes.iter().map(|(_, now)| &now.flows).collect();
    let sources: BTreeSet<_> = changes.iter().map(|(_, now)| now.source).collect();
    sources.into_iter().any(|source| {
        let others = now.iter().filter(|it| it.flows.protocol == Protocol::Tcp && it.source == source);
        let mut upstreams = BTreeSet::<IpAddr>::new();
        let mut others = others.filter(|it| !own.contains(&it.flows)).map(|it| it.destination.address);
        !others.any(|upstream| upstreams.insert(upstream) && upstreams.len() > FANOUT)
    })
}

/// The chain `root` and all chains below it.
fn below(root: ChainName, chains: &Chains) -> BTreeSet<ChainName> {
    let mut found = BTreeSet::new();
    let mut next = vec![root];
    while let Some(name) = next.pop() {
        next.extend(chains.get(&name).into_iter().flatten().filter_map(|rule| match &rule.target {
            Target::Jump(to) => Some(to.clone()),
            Target::Accept
            | Target::Drop
            | Target::Dnat(_)
            | Target::Snat(_)
            | Target::Masquerade
            | Target::Return
            | Target::Mark(_)
            | Target::Unmark(_) => None,
        }));
        found.insert(name);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::iptables::layout::tests::translation;
    use crate::model::Connmark;

    fn set(upstreams: impl IntoIterator<Item = u32>) -> Translations {
        let numbered = (80..).zip(upstreams);
        numbered.map(|(port, upstream)| translation(Protocol::Tcp, 1, (port, port), (2, 32), None, None, upstream)).collect()
    }

    /// The property test would pass too if everything were laid out anew.
    #[test]
    fn another_upstream_needs_no_new_layout_and_another_forward_does() {
        for count in [3, 40] {
            let (before, now) = (set(1..=count), set((1..=count).rev()));
            let changes = redirected(&before, &now).unwrap();
            let mut ruleset = Ruleset::of(&before, Connmark::default());
            assert!(ruleset.redirect(&changes, &now));
            assert_eq!(ruleset, Ruleset::of(&now, Connmark::default()));
            assert!(redirected(&before, &set(1..=count + 1)).is_none());
        }
    }
}
