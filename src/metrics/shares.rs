//! Decides which forwards have their own series: the namespaces share the limit equally, and what one does not need goes to
//! the others (max-min fairness). So many forwards in one namespace do not hide those of another one.
//!
//! Pure: reads and writes no metric.

use std::collections::{BTreeMap, BTreeSet};

use crate::forward::ForwardKey;

/// The forwards of `present` that have series: `limit` at most.
///
/// A forward that has series (`before`) keeps them as long as the share of its namespace allows. New series go to the first
/// forwards by name. What cannot be divided equally goes to the namespaces that had it before, then by name.
pub(super) fn shown(present: &BTreeSet<&ForwardKey>, before: &BTreeSet<ForwardKey>, limit: usize) -> BTreeSet<ForwardKey> {
    let mut namespaces: BTreeMap<&str, Vec<&ForwardKey>> = BTreeMap::new();
    for forward in present {
        namespaces.entry(&forward.namespace).or_default().push(*forward);
    }
    let counts: Vec<usize> = namespaces.values().map(Vec::len).collect();
    let level = level(&counts, limit);
    let mut rest = limit.saturating_sub(taken(&counts, level));
    let mut shares: Vec<Share<'_>> = namespaces.into_values().map(|forwards| Share::of(forwards, before)).collect();
    shares.sort_by_key(|share| share.kept <= level);
    let mut shown = BTreeSet::new();
    for Share { forwards, .. } in shares {
        let more = usize::from(rest > 0 && forwards.len() > level);
        rest -= more;
        shown.extend(forwards.into_iter().take(level + more).cloned());
    }
    shown
}

/// The forwards of one namespace, those with series first.
struct Share<'a> {
    forwards: Vec<&'a ForwardKey>,
    /// How many of them have series.
    kept: usize,
}

impl<'a> Share<'a> {
    fn of(mut forwards: Vec<&'a ForwardKey>, before: &BTreeSet<ForwardKey>) -> Self {
        // Stable, so the order by name stays within each part.
        forwards.sort_by_key(|forward| !before.contains(*forward));
        let kept = forwards.iter().take_while(|forward| before.contains(**forward)).count();
        Self { forwards, kept }
    }
}

/// How many series namespaces with these numbers of forwards have if each has at most `level`.
fn taken(counts: &[usize], level: usize) -> usize {
    counts.iter().map(|count| *count.min(&level)).sum()
}

/// The highest number of series that every namespace that needs them can have without exceeding `limit`.
fn level(counts: &[usize], limit: usize) -> usize {
    let (mut low, mut high) = (0, counts.iter().copied().max().unwrap_or(0));
    while low < high {
        let middle = high - (high - low) / 2;
        if taken(counts, middle) <= limit {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(namespace: &str, number: usize) -> ForwardKey {
        ForwardKey::new(namespace, format!("f{number:04}"))
    }

    fn set(namespaces: &[(&str, usize)]) -> BTreeSet<ForwardKey> {
        namespaces.iter().flat_map(|(namespace, count)| (0..*count).map(|number| key(namespace, number))).collect()
    }

    fn choose(present: &BTreeSet<ForwardKey>, before: &BTreeSet<ForwardKey>, limit: usize) -> BTreeSet<ForwardKey> {
        shown(&present.iter().collect(), before, limit)
    }

    fn count(shown: &BTreeSet<ForwardKey>, namespace: &str) -> usize {
        shown.iter().filter(|forward| forward.namespace == namespace).count()
    }

    #[test]
    fn a_thousand_forwards_of_one_namespace_leave_the_others_their_series() {
        let all = set(&[("aaa", 1000), ("victim", 3), ("zzz", 400)]);
        let shown = choose(&all, &BTreeSet::new(), 1000);
        assert_eq!(["aaa", "victim", "zzz"].map(|namespace| count(&shown, namespace)), [597, 3, 400]);
        let shown = choose(&all, &shown, 100);
        assert_eq!(["aaa", "victim", "zzz"].map(|namespace| count(&shown, namespace)), [49, 3, 48]);
    }

    #[test]
    fn a_newcomer_takes_series_only_from_those_who_have_more_than_their_share() {
        let before = choose(&set(&[("a", 4), ("b", 2)]), &BTreeSet::new(), 4);
        assert_eq!(before, set(&[("a", 2), ("b", 2)]));
        let after = choose(&set(&[("0", 9), ("a", 4), ("b", 2)]), &before, 4);
        assert_eq!(["0", "a", "b"].map(|namespace| count(&after, namespace)), [1, 2, 1], "{after:?}");
        assert!(after.is_subset(&(&before | &set(&[("0", 1)]))), "{after:?}");
    }

    #[test]
    fn a_forward_with_an_earlier_name_does_not_take_the_series_of_another_one() {
        let before: BTreeSet<_> = [key("a", 5), key("a", 7)].into();
        assert_eq!(choose(&set(&[("a", 9)]), &before, 2), before);
        assert_eq!(choose(&set(&[("a", 7)]), &before, 2), [key("a", 0), key("a", 5)].into(), "one of them is gone");
    }

    fn some() -> impl Strategy<Value = BTreeSet<ForwardKey>> {
        prop::collection::btree_set((0..6_usize, 0..12_usize), 0..50)
            .prop_map(|all| all.into_iter().map(|(namespace, number)| key(&format!("n{namespace}"), number)).collect())
    }

    proptest! {
        #[test]
        fn the_limit_is_used_and_shared_equally_and_the_choice_is_stable(all in some(), before in some(), limit in 0..40_usize) {
            let shown = choose(&all, &before, limit);
            prop_assert!(shown.is_subset(&all));
            prop_assert_eq!(shown.len(), limit.min(all.len()));
            let namespaces: BTreeSet<&str> = all.iter().map(|forward| forward.namespace.as_str()).collect();
            for one in &namespaces {
                // One that lacks series has no fewer than any other, but for what cannot be divided.
                let lacks = count(&shown, one) < count(&all, one);
                let most = namespaces.iter().map(|other| count(&shown, other)).max().unwrap_or(0);
                prop_assert!(!lacks || count(&shown, one) + 1 >= most, "{} {:?}", one, shown);
                let kept = |set: &BTreeSet<ForwardKey>| set.iter().filter(|it| it.namespace == **one && before.contains(*it)).count();
                prop_assert_eq!(kept(&shown), kept(&all).min(count(&shown, one)));
            }
            prop_assert_eq!(&choose(&all, &shown, limit), &shown);
        }
    }
}
