//! What the publisher knows: the newest report, the newest set of objects, and which agents live. Finds which objects are
//! affected if one of them changes, so that the work depends on the number of changes and not on the number of objects.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use kube::core::ObjectMeta;

use super::Alive;
use crate::agent::Report;
use crate::api::PortForwardStatus;
use crate::forward::ForwardKey;
use crate::source::{Snapshot, Sourced, Undecoded};
use crate::status::Judgement;

/// The inputs of every status.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) report: Arc<Report>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) live: Arc<Alive>,
}

/// The namespace and name of an object.
pub(super) type Name<'a> = (&'a str, &'a str);

impl Known {
    /// The metadata and the status of an object in the newest set.
    pub(super) fn object(&self, key: &ForwardKey) -> Option<(&ObjectMeta, Option<&PortForwardStatus>)> {
        let wanted = (key.namespace.as_str(), key.name.as_str());
        object(&self.snapshot, wanted)
    }

    /// The objects whose next write may differ from the one that `before` gave, including those that are gone.
    pub(super) fn affected(&self, before: Option<&Self>) -> BTreeSet<ForwardKey> {
        let mut affected = BTreeSet::new();
        let before = before.filter(|before| before.live == self.live);
        if before.is_none_or(|before| !Arc::ptr_eq(&before.snapshot, &self.snapshot)) {
            let nothing = Snapshot::default();
            let (old, new) = (before.map_or(&nothing, |before| &*before.snapshot), &*self.snapshot);
            differing((&old.forwards, &new.forwards), good, is_same_object, same_good, &mut affected);
            differing((&old.undecoded, &new.undecoded), unknown, |_, _| false, same_unknown, &mut affected);
        }
        if before.is_none_or(|before| !Arc::ptr_eq(&before.report, &self.report)) {
            let nothing = Report::default();
            let old = before.map_or(&nothing, |before| &*before.report);
            let both = (&*old.judgements, &*self.report.judgements);
            differing(both, judged, is_same_judgement, |(_, old), (_, new)| old == new, &mut affected);
        }
        affected
    }
}

/// The metadata and the status of an object in a set.
fn object<'a>(snapshot: &'a Snapshot, wanted: Name<'_>) -> Option<(&'a ObjectMeta, Option<&'a PortForwardStatus>)> {
    let Snapshot { forwards, undecoded, .. } = snapshot;
    if let Ok(index) = forwards.binary_search_by(|sourced| name(&sourced.object.metadata).cmp(&wanted)) {
        let object = &forwards[index].object;
        return Some((&object.metadata, object.status.as_ref()));
    }
    let index = undecoded.binary_search_by(|undecoded| name(&undecoded.metadata).cmp(&wanted)).ok()?;
    Some((&undecoded[index].metadata, undecoded[index].status.as_ref()))
}

/// Whether a set contains an object of this name.
pub(super) fn contains(snapshot: &Snapshot, wanted: Name<'_>) -> bool {
    object(snapshot, wanted).is_some()
}

pub(super) fn name(metadata: &ObjectMeta) -> Name<'_> {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// A judgement with its object.
type Named<'a> = (&'a ForwardKey, &'a Arc<Judgement>);

fn judged((key, _): Named<'_>) -> Name<'_> {
    (&key.namespace, &key.name)
}

fn is_same_judgement((_, a): Named<'_>, (_, b): Named<'_>) -> bool {
    Arc::ptr_eq(a, b)
}

fn good(sourced: &Sourced) -> Name<'_> {
    name(&sourced.object.metadata)
}

fn is_same_object(a: &Sourced, b: &Sourced) -> bool {
    Arc::ptr_eq(&a.object, &b.object)
}

fn same_good(a: &Sourced, b: &Sourced) -> bool {
    version(&a.object.metadata) == version(&b.object.metadata)
}

fn unknown(undecoded: &Undecoded) -> Name<'_> {
    name(&undecoded.metadata)
}

fn same_unknown(a: &Undecoded, b: &Undecoded) -> bool {
    version(&a.metadata) == version(&b.metadata)
}

/// Every change of an object has another version.
fn version(metadata: &ObjectMeta) -> (Option<&str>, Option<&str>) {
    (metadata.uid.as_deref(), metadata.resource_version.as_deref())
}

/// Adds the names that occur in only one of two sequences, or with different values. Both are ordered by name. Of values that are
/// `identical`, neither the names nor the contents are compared.
fn differing<'a, T, S>(
    (old, new): (S, S),
    name: impl Fn(T) -> Name<'a>,
    identical: impl Fn(T, T) -> bool,
    same: impl Fn(T, T) -> bool,
    names: &mut BTreeSet<ForwardKey>,
) where
    T: Copy + 'a,
    S: IntoIterator<Item = T>,
{
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) if identical(*old, *new) => Ordering::Equal,
            (Some(old), Some(new)) => name(*old).cmp(&name(*new)),
        };
        let old = if order.is_le() { old.next() } else { None };
        let new = if order.is_ge() { new.next() } else { None };
        if let (Some(old), Some(new)) = (old, new)
            && (identical(old, new) || same(old, new))
        {
            continue;
        }
        if let Some((namespace, name)) = old.or(new).map(&name) {
            names.insert(ForwardKey { namespace: namespace.to_owned(), name: name.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PortForward;
    use crate::status::{Standing, unknown_form};

    fn metadata(key: &str, version: &str) -> ObjectMeta {
        let (namespace, name) = key.split_once('/').unwrap();
        let text = |text: &str| Some(text.to_owned());
        ObjectMeta { namespace: text(namespace), name: text(name), resource_version: text(version), ..ObjectMeta::default() }
    }

    fn key(text: &str) -> ForwardKey {
        let (namespace, name) = text.split_once('/').unwrap();
        ForwardKey { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Objects with their versions, of which the last one cannot be decoded, and judgements.
    fn known(good: &[(&str, &str)], unknown: &[(&str, &str)], judged: &[(&str, Standing)]) -> Known {
        let sourced = |(key, version): &(&str, &str)| {
            let object = serde_json::json!({
                "metadata": metadata(key, version),
                "spec": {"client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                    "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}]},
                "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
            });
            let object: PortForward = serde_json::from_value(object).unwrap();
            Sourced { object: Arc::new(object), origin: None, trouble: None }
        };
        let undecoded =
            |(key, version): &(&str, &str)| Undecoded { metadata: metadata(key, version), status: None, error: String::new() };
        let snapshot = Snapshot {
            forwards: good.iter().map(sourced).collect(),
            undecoded: unknown.iter().map(undecoded).collect(),
            ..Snapshot::default()
        };
        let judgement = |(text, standing): &(&str, Standing)| {
            (key(text), Arc::new(Judgement { standing: *standing, ..unknown_form(None, 1, "a") }))
        };
        let report = Report { judgements: Arc::new(judged.iter().map(judgement).collect()), ..Report::default() };
        Known { report: Arc::new(report), snapshot: Arc::new(snapshot), live: Arc::default() }
    }

    fn affected(now: &Known, before: Option<&Known>) -> String {
        now.affected(before).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_changed_objects_and_judgements_are_affected() {
        let before = known(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")], &[("a/9", "1")], &[("a/1", Standing::Carried)]);
        assert_eq!(affected(&before, None), "a/1 a/2 a/9 b/1");
        assert_eq!(affected(&before, Some(&before)), "");
        let same = known(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")], &[("a/9", "1")], &[("a/1", Standing::Carried)]);
        assert_eq!(affected(&same, Some(&before)), "", "a list that was read again");
        let now = known(&[("a/1", "1"), ("a/3", "1"), ("b/1", "2")], &[("a/9", "2")], &[("a/1", Standing::Elsewhere)]);
        assert_eq!(affected(&now, Some(&before)), "a/1 a/2 a/3 a/9 b/1");
        let now = known(&[("a/1", "1"), ("a/2", "1"), ("a/9", "2"), ("b/1", "1")], &[], &[]);
        assert_eq!(affected(&now, Some(&before)), "a/1 a/9", "it can be decoded now, and the other has no judgement");
    }

    #[test]
    fn another_object_of_the_same_name_and_version_is_another_one() {
        let with = |uid: &str| ObjectMeta { uid: Some(uid.to_owned()), ..metadata("a/1", "1") };
        assert_ne!(version(&with("1")), version(&with("2")));
    }

    #[test]
    fn all_objects_are_affected_if_an_agent_begins_or_ends() {
        let before = known(&[("a/1", "1"), ("b/1", "1")], &[], &[]);
        let now =
            Known { live: Arc::new(Alive { all: BTreeSet::from(["px0".to_owned()]), ..Alive::default() }), ..before.clone() };
        assert_eq!(affected(&now, Some(&before)), "a/1 b/1");
    }

    #[test]
    fn an_object_is_found_in_the_newest_set() {
        let known = known(&[("a/1", "1"), ("b/1", "7")], &[("a/9", "8"), ("c/1", "9")], &[]);
        let version = |text: &str| known.object(&key(text)).and_then(|(metadata, _)| metadata.resource_version.clone());
        assert_eq!(version("b/1").as_deref(), Some("7"));
        assert_eq!(version("c/1").as_deref(), Some("9"));
        assert_eq!(version("a/2"), None);
    }
}
