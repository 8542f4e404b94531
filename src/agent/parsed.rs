//! The parsed objects of the last set. An object that has not changed is not parsed again.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use crate::forward::ForwardKey;
use crate::plan::Candidate;
use crate::source::{Difference, Forwards, Sourced};

/// The objects of a set in their order, each with its parsed form.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    forwards: Forwards,
    candidates: Vec<Candidate>,
    /// The names of the objects that came, went or changed with this set.
    changed: BTreeSet<ForwardKey>,
    /// The former content of those that went or changed.
    former: Vec<Candidate>,
}

impl Parsed {
    /// The parsed form of `newest`. Takes over what this value has of the same objects.
    pub(super) fn renewed(self, newest: &Forwards) -> Self {
        let Self { forwards, mut candidates, .. } = self;
        let is_same = |a: &Sourced, b: &Sourced| Arc::ptr_eq(&a.object, &b.object);
        let differs = |it: &Difference<'_>| !it.before.zip(it.now).is_some_and(|(before, now)| is_same(before, now));
        let differences: Vec<Difference<'_>> = forwards.differences(newest).filter(differs).collect();
        let changed = differences.iter().map(|difference| difference.key.clone()).collect();
        let parsed = |now: &Sourced| Candidate::of(&now.object);
        let mut former = Vec::new();
        // The usual edit moves no other object.
        if differences.iter().all(|difference| difference.before.is_some() && difference.now.is_some()) {
            for Difference { key, now, .. } in differences {
                let place = candidates.binary_search_by(|candidate| candidate.key.cmp(key));
                if let (Some(candidate), Some(now)) = (place.ok().and_then(|place| candidates.get_mut(place)), now) {
                    former.push(std::mem::replace(candidate, parsed(now)));
                }
            }
        } else {
            let mut before = std::mem::take(&mut candidates).into_iter().peekable();
            candidates.reserve_exact(newest.len());
            for Difference { key, now, .. } in differences {
                while let Some(candidate) = before.next_if(|candidate| candidate.key < *key) {
                    candidates.push(candidate);
                }
                former.extend(before.next_if(|candidate| candidate.key == *key));
                candidates.extend(now.map(parsed));
            }
            candidates.extend(before);
        }
        Self { forwards: newest.clone(), candidates, changed, former }
    }

    /// The names of the objects that came, went or changed with this set.
    pub(super) const fn changed(&self) -> &BTreeSet<ForwardKey> {
        &self.changed
    }

    /// The same, taken out.
    pub(super) fn take_former(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.former)
    }

    /// The former content of the objects that went or changed with this set.
    pub(super) fn former(&self) -> &[Candidate] {
        &self.former
    }
}

impl Deref for Parsed {
    type Target = [Candidate];

    fn deref(&self) -> &[Candidate] {
        &self.candidates
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api;

    fn object(name: &str, port: u16) -> Sourced {
        let document = json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"namespace": "a", "name": name},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"port": port}],
            },
        });
        Sourced::of(Arc::new(api::decode(document).unwrap()), None)
    }

    fn set<const N: usize>(sourced: [&Sourced; N]) -> Forwards {
        sourced.into_iter().cloned().collect()
    }

    /// Where the parsed form of each object is in memory: only one that was not parsed again keeps its place.
    fn places(parsed: &Parsed) -> Vec<*const u8> {
        parsed.iter().map(|candidate| candidate.key.name.as_ptr()).collect()
    }

    #[test]
    fn only_what_changed_is_parsed_again_whatever_comes_and_goes() {
        let [a, b, c, d] = [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(name, port)| object(name, port));
        let names = |parsed: &Parsed| {
            let changed = parsed.changed().iter().map(|key| key.name.clone()).collect::<String>();
            (changed, parsed.former().iter().map(|candidate| candidate.key.name.clone()).collect::<String>())
        };
        let these = |changed: &str, former: &str| (changed.to_owned(), former.to_owned());
        let first = Parsed::default().renewed(&set([&a, &b, &d]));
        assert_eq!(names(&first), these("abd", ""));
        let before = places(&first);
        let changed = object("b", 9);
        let second = first.renewed(&set([&b, &c, &d]));
        assert_eq!(names(&second), these("ac", "a"));
        let after = places(&second);
        assert_eq!((after[0], after[2]), (before[1], before[2]), "a went and c came");
        let third = second.renewed(&set([&a, &changed, &c, &d]));
        assert_eq!(places(&third)[2..], after[1..], "a came back and b has another content");
        assert_eq!(names(&third), these("ab", "b"));
        let fresh = Parsed::default().renewed(&set([&a, &changed, &c, &d]));
        assert_eq!(third[..], fresh[..]);
        let same = third.renewed(&set([&a, &changed, &c, &d]));
        assert_eq!(names(&same), these("", ""));
        assert_eq!(names(&same.renewed(&set([&a]))), these("bcd", "bcd"));
    }
}
