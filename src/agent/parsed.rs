//! The parsed objects of the last set. An object that has not changed is not parsed again.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use crate::api::PortForward;
use crate::forward::ForwardKey;
use crate::plan::Candidate;

/// The objects of a set in their order, each with its parsed form.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    objects: Vec<Arc<PortForward>>,
    candidates: Vec<Candidate>,
    /// The names of the objects that came, went or changed with this set.
    changed: BTreeSet<ForwardKey>,
    /// The former content of those that went or changed.
    former: Vec<Candidate>,
}

impl Parsed {
    /// The parsed form of `objects`, which are ordered by namespace and name. Takes over what this value has of the same objects.
    pub(super) fn renewed<'a>(self, objects: impl IntoIterator<Item = &'a Arc<PortForward>>) -> Self {
        let mut before = self.objects.into_iter().zip(self.candidates).peekable();
        let mut renewed = Self::default();
        let mut gone = Vec::new();
        for object in objects {
            let is_same = |(known, _): &(Arc<PortForward>, Candidate)| Arc::ptr_eq(known, object);
            // The common case needs no comparison of names.
            let candidate = if let Some((_, candidate)) = before.next_if(is_same) {
                candidate
            } else {
                let key = Candidate::key(object);
                while let Some((_, candidate)) = before.next_if(|(_, candidate)| candidate.key < key) {
                    gone.push(candidate);
                }
                match before.next_if(|(_, candidate)| candidate.key == key) {
                    Some(known) if is_same(&known) => known.1,
                    known => {
                        gone.extend(known.map(|(_, candidate)| candidate));
                        let candidate = Candidate::of(object);
                        renewed.changed.insert(candidate.key.clone());
                        candidate
                    }
                }
            };
            renewed.objects.push(Arc::clone(object));
            renewed.candidates.push(candidate);
        }
        gone.extend(before.map(|(_, candidate)| candidate));
        renewed.changed.extend(gone.iter().map(|candidate| candidate.key.clone()));
        renewed.former = gone;
        renewed
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

    fn object(name: &str, port: u16) -> Arc<PortForward> {
        let document = json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"namespace": "a", "name": name},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"port": port}],
            },
        });
        Arc::new(api::decode(document).unwrap())
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
        let first = Parsed::default().renewed([&a, &b, &d]);
        assert_eq!(names(&first), these("abd", ""));
        let before = places(&first);
        let changed = object("b", 9);
        let second = first.renewed([&b, &c, &d]);
        assert_eq!(names(&second), these("ac", "a"));
        let after = places(&second);
        assert_eq!((after[0], after[2]), (before[1], before[2]), "a went and c came");
        let third = second.renewed([&a, &changed, &c, &d]);
        assert_eq!(places(&third)[2..], after[1..], "a came back and b has another content");
        assert_eq!(names(&third), these("ab", "b"));
        let fresh = Parsed::default().renewed([&a, &changed, &c, &d]);
        assert_eq!(third[..], fresh[..]);
        let same = third.renewed([&a, &changed, &c, &d]);
        assert_eq!(names(&same), these("", ""));
        assert_eq!(names(&same.renewed([&a])), these("bcd", "bcd"));
    }
}
