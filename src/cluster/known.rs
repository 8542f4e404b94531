//! What the publisher knows: the newest report, the newest set of objects, and which agents live. Finds which objects are
//! affected if one of them changes, so that the work depends on the number of changes and not on the number of objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use kube::core::ObjectMeta;

use super::Alive;
use crate::api::PortForwardStatus;
use crate::forward::ForwardKey;
use crate::publish::Report;
use crate::source::{Difference, Snapshot, Sourced, Undecoded};

/// The inputs of every status.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) report: Arc<Report>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) live: Arc<Alive>,
}

/// An object as the API server has it.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) metadata: &'a ObjectMeta,
    /// Its `resourceVersion`.
    pub(super) version: Option<&'a str>,
    pub(super) status: Option<&'a PortForwardStatus>,
}

impl Known {
    /// An object in the newest set.
    pub(super) fn object(&self, key: &ForwardKey) -> Option<Seen<'_>> {
        object(&self.snapshot, key)
    }

    /// The objects whose next write may differ from the one that `before` gave, including those that are gone.
    pub(super) fn affected(&self, before: Option<&Self>) -> BTreeSet<ForwardKey> {
        let mut affected = BTreeSet::new();
        let before = before.filter(|before| before.live == self.live);
        if before.is_none_or(|before| !Arc::ptr_eq(&before.snapshot, &self.snapshot)) {
            let nothing = Snapshot::default();
            let (old, new) = (before.map_or(&nothing, |before| &*before.snapshot), &*self.snapshot);
            let is_other = |it: &Difference<'_>| !it.before.zip(it.now).is_some_and(|(old, new)| is_same(seen(old), seen(new)));
            affected.extend(old.forwards.differences(&new.forwards).filter(is_other).map(|difference| difference.key.clone()));
            affected.extend(old.undecoded.diff(&new.undecoded).filter_map(|difference| match difference {
                DiffItem::Add(key, _) | DiffItem::Remove(key, _) => Some(key.clone()),
                DiffItem::Update { old: (_, old), new: (key, new) } => {
                    (!is_same(seen_only(old), seen_only(new))).then(|| key.clone())
                }
            }));
        }
        if before.is_none_or(|before| !Arc::ptr_eq(&before.report, &self.report)) {
            let nothing = Report::default();
            let old = before.map_or(&nothing, |before| &*before.report);
            affected.extend(old.judgements.diff(&self.report.judgements).map(|difference| match difference {
                DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key.clone(),
            }));
        }
        affected
    }
}

/// An object in a set.
fn object<'a>(snapshot: &'a Snapshot, key: &ForwardKey) -> Option<Seen<'a>> {
    snapshot.forwards.get(key).map(seen).or_else(|| snapshot.undecoded.get(key).map(|undecoded| seen_only(undecoded)))
}

/// Whether a set contains an object of this name.
pub(super) fn contains(snapshot: &Snapshot, key: &ForwardKey) -> bool {
    object(snapshot, key).is_some()
}

/// Whether two states of an object are the same one: every change of an object has another version.
fn is_same(a: Seen<'_>, b: Seen<'_>) -> bool {
    (&a.metadata.uid, a.version) == (&b.metadata.uid, b.version)
}

fn seen(Sourced { object, stored, .. }: &Sourced) -> Seen<'_> {
    let stored = stored.as_deref();
    let version = stored.and_then(|stored| stored.version.as_deref());
    Seen { metadata: &object.metadata, version, status: stored.and_then(|stored| stored.status.as_ref()) }
}

fn seen_only(Undecoded { metadata, status, .. }: &Undecoded) -> Seen<'_> {
    Seen { metadata, version: metadata.resource_version.as_deref(), status: status.as_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PortForward;
    use crate::source::Stored;
    use crate::status::{Judgement, Standing, unknown_form};

    fn metadata(key: &str, version: &str) -> ObjectMeta {
        let (namespace, name) = key.split_once('/').unwrap();
        let text = |text: &str| Some(text.to_owned());
        ObjectMeta { namespace: text(namespace), name: text(name), resource_version: text(version), ..ObjectMeta::default() }
    }

    fn key(text: &str) -> ForwardKey {
        let (namespace, name) = text.split_once('/').unwrap();
        ForwardKey::new(namespace, name)
    }

    /// Objects with their versions, of which the last one cannot be decoded, and judgements.
    fn known(good: &[(&str, &str)], unknown: &[(&str, &str)], judged: &[(&str, Standing)]) -> Known {
        let sourced = |(key, version): &(&str, &str)| {
            let object = serde_json::json!({
                "metadata": metadata(key, ""),
                "spec": {"client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                    "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}]},
                "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
            });
            let object: PortForward = serde_json::from_value(object).unwrap();
            let stored = Stored { version: Some((*version).to_owned()), status: None };
            Sourced { stored: Some(Arc::new(stored)), ..Sourced::of(Arc::new(object), None) }
        };
        let undecoded = |(text, version): &(&str, &str)| {
            let undecoded = Undecoded { metadata: metadata(text, version), status: None, error: String::new() };
            (key(text), Arc::new(undecoded))
        };
        let snapshot = Snapshot {
            forwards: good.iter().map(sourced).collect(),
            undecoded: unknown.iter().map(undecoded).collect(),
            ..Snapshot::default()
        };
        let judgement = |(text, standing): &(&str, Standing)| {
            (key(text), Arc::new(Judgement { standing: *standing, ..unknown_form(None, 1, "a") }))
        };
        let report = Report { judgements: judged.iter().map(judgement).collect(), ..Report::default() };
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
        let before = known(&[("a/1", "1")], &[], &[]);
        let mut sourced = before.snapshot.forwards.get(&key("a/1")).unwrap().clone();
        Arc::make_mut(&mut sourced.object).metadata.uid = Some("2".to_owned());
        let forwards = [sourced].into_iter().collect();
        let now = Known { snapshot: Arc::new(Snapshot { forwards, ..Snapshot::default() }), ..before.clone() };
        assert_eq!(affected(&now, Some(&before)), "a/1");
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
        let version = |text: &str| known.object(&key(text)).and_then(|seen| seen.version.map(str::to_owned));
        assert_eq!(version("b/1").as_deref(), Some("7"));
        assert_eq!(version("c/1").as_deref(), Some("9"));
        assert_eq!(version("a/2"), None);
    }
}
