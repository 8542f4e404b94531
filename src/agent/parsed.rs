//! The parsed objects of the last set. An object that has not changed is not parsed again.

use std::ops::Deref;
use std::sync::Arc;

use crate::api::PortForward;
use crate::plan::Candidate;

/// The objects of a set in their order, each with its parsed form.
#[derive(Debug, Default)]
pub struct Parsed {
    objects: Vec<Arc<PortForward>>,
    candidates: Vec<Candidate>,
}

impl Parsed {
    /// The parsed form of `objects`, which are ordered by namespace and name. Takes over what this value has of the same objects.
    pub(super) fn renewed<'a>(self, objects: impl IntoIterator<Item = &'a Arc<PortForward>>) -> Self {
        let mut before = self.objects.into_iter().zip(self.candidates).peekable();
        let mut renewed = Self::default();
        for object in objects {
            let is_same = |(known, _): &(Arc<PortForward>, Candidate)| Arc::ptr_eq(known, object);
            // The common case needs no comparison of names.
            let candidate = if let Some((_, candidate)) = before.next_if(is_same) {
                candidate
            } else {
                let key = Candidate::key(object);
                while before.next_if(|(_, candidate)| candidate.key < key).is_some() {}
                let known = before.next_if(|(_, candidate)| candidate.key == key);
                known.filter(is_same).map_or_else(|| Candidate::of(object), |(_, candidate)| candidate)
            };
            renewed.objects.push(Arc::clone(object));
            renewed.candidates.push(candidate);
        }
        renewed
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
        let first = Parsed::default().renewed([&a, &b, &d]);
        let before = places(&first);
        let changed = object("b", 9);
        let second = first.renewed([&b, &c, &d]);
        let after = places(&second);
        assert_eq!((after[0], after[2]), (before[1], before[2]), "a went and c came");
        let third = second.renewed([&a, &changed, &c, &d]);
        assert_eq!(places(&third)[2..], after[1..], "a came back and b has another content");
        let fresh = Parsed::default().renewed([&a, &changed, &c, &d]);
        assert_eq!(third[..], fresh[..]);
    }
}
