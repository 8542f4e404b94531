//! The forwards of the cluster as a complete set.
//!
//! Objects are decoded one by one, so one of an unknown form costs only itself: its last good content stays in force. A set
//! is handed on only when a list was complete; what the API server says in between is not taken for a deletion.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::core::{ApiResource, DynamicObject, ObjectMeta};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::around::Around;
use super::follow::follow as follow_resource;
use super::trouble::{Outage, Trouble};
use crate::api::{self, PortForward, PortForwardStatus};
use crate::forward::Forward;
use crate::source::{Heard, Key, Snapshot, Sourced, Undecoded, key};
use crate::supervise::guarded;

/// How long a change waits for others, so that a burst of them is one set.
const COALESCE: Duration = Duration::from_millis(20);

/// Sends the complete set of forwards whenever it, or what is around it, changes.
pub(super) async fn follow(
    client: Client,
    outage: Outage,
    remembered: Snapshot,
    mut around: Around,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    wake: Arc<Notify>,
) {
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<PortForward>(&()));
    let objects = Mutex::new(Objects::remembering(remembered));
    let changed = Notify::new();
    let take = |event| {
        if locked(&objects).take(event) {
            changed.notify_one();
        }
    };
    let join = async {
        loop {
            let goes_on = tokio::select! {
                () = changed.notified() => Ok(()),
                changed = around.changed() => changed,
            };
            if goes_on.is_err() {
                return;
            }
            let heard = Heard::of(Instant::now());
            // A burst of events is one set.
            tokio::time::sleep(COALESCE).await;
            let snapshot = around.newest().and_then(|around| locked(&objects).snapshot(around));
            if let Some(snapshot) = snapshot {
                offer(Snapshot { heard, ..snapshot }, &snapshots, &wake);
            }
        }
    };
    tokio::join!(follow_resource(Trouble::new("PortForwards", outage), api, Config::default(), take), join);
}

fn locked(objects: &Mutex<Objects>) -> MutexGuard<'_, Objects> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands a set on; wakes the sync loop where more than status changed.
fn offer(snapshot: Snapshot, snapshots: &watch::Sender<Option<Arc<Snapshot>>>, wake: &Notify) {
    let before = snapshots.borrow().clone();
    let matters = before.as_ref().is_none_or(|before| !same_but_status(before, &snapshot));
    // A set that asks for nothing new came of the change that the one before came of; the first of all, of none.
    let heard = before.map_or(Heard::default(), |before| if matters { snapshot.heard } else { before.heard });
    snapshots.send_replace(Some(Arc::new(Snapshot { heard, ..snapshot })));
    if matters {
        wake.notify_one();
    }
}

/// Whether two sets ask for the same.
fn same_but_status(a: &Snapshot, b: &Snapshot) -> bool {
    let same_object = |a: &PortForward, b: &PortForward| {
        let of = |object: &PortForward| {
            (object.metadata.uid.clone(), object.metadata.generation, object.metadata.deletion_timestamp.clone())
        };
        key(a) == key(b) && of(a) == of(b)
    };
    let same_forward = |(a, b): (&Sourced, &Sourced)| {
        Arc::ptr_eq(&a.object, &b.object) || (same_object(&a.object, &b.object) && a.trouble == b.trouble)
    };
    (&a.labels, &a.api_servers, a.sight) == (&b.labels, &b.api_servers, b.sight)
        && (&a.node_addresses, &a.services) == (&b.node_addresses, &b.services)
        && a.forwards.len() == b.forwards.len()
        && a.forwards.iter().zip(&b.forwards).all(same_forward)
        && a.undecoded.len() == b.undecoded.len()
        && a.undecoded
            .iter()
            .zip(&b.undecoded)
            .all(|(a, b)| (&a.metadata.uid, a.metadata.generation) == (&b.metadata.uid, b.metadata.generation))
}

/// Reads one object with its status.
type Decode = fn(DynamicObject, Option<PortForwardStatus>) -> Result<PortForward, String>;

/// What the API server holds.
#[derive(Debug)]
struct Objects {
    decode: Decode,
    /// Whether a list was complete once.
    listed: bool,
    complete: BTreeMap<Key, Held>,
    /// A list that is not complete yet.
    coming: Option<BTreeMap<Key, Held>>,
    /// What was applied before this start, by name; for objects that cannot be decoded any more.
    remembered: BTreeMap<Key, Arc<PortForward>>,
}

impl Default for Objects {
    fn default() -> Self {
        Self { decode, listed: false, complete: BTreeMap::new(), coming: None, remembered: BTreeMap::new() }
    }
}

#[derive(Clone, Debug)]
enum Held {
    /// Its newest content.
    Good(Arc<PortForward>),
    /// Its last good content, and why its newest one cannot be decoded.
    Outdated(Arc<PortForward>, String),
    /// It never could be decoded.
    Unknown(Arc<Undecoded>),
}

impl Objects {
    fn remembering(remembered: Snapshot) -> Self {
        let remembered = remembered.forwards.into_iter().map(|sourced| (key(&sourced.object), sourced.object)).collect();
        Self { remembered, ..Self::default() }
    }

    /// Takes an event in; whether the complete set changed.
    fn take(&mut self, event: Event<DynamicObject>) -> bool {
        match event {
            Event::Init => {
                self.coming = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let (key, held) = self.held(object);
                self.coming.get_or_insert_default().insert(key, held);
                false
            }
            Event::InitDone => {
                self.complete = self.coming.take().unwrap_or_default();
                self.listed = true;
                true
            }
            Event::Apply(object) => {
                let (key, held) = self.held(object);
                self.complete.insert(key, held);
                true
            }
            Event::Delete(object) => {
                self.remembered.remove(&dynamic_key(&object));
                self.complete.remove(&dynamic_key(&object)).is_some()
            }
        }
    }

    fn held(&self, object: DynamicObject) -> (Key, Held) {
        let key = dynamic_key(&object);
        let (metadata, status) = (object.metadata.clone(), status(&object));
        let held = match guarded(|| (self.decode)(object, status.clone())) {
            Ok(object) => Held::Good(Arc::new(object)),
            Err(error) => match self.last_good(&key, &metadata) {
                Some(last) => Held::Outdated(Arc::new(with_newest(&last, metadata, status)), error),
                None => Held::Unknown(Arc::new(Undecoded { metadata, status, error })),
            },
        };
        (key, held)
    }

    /// The last content of this very object that could be decoded: one of the same name with another `uid` is another object.
    fn last_good(&self, key: &Key, metadata: &ObjectMeta) -> Option<Arc<PortForward>> {
        let held = match self.complete.get(key) {
            Some(Held::Good(object) | Held::Outdated(object, _)) => Some(object),
            Some(Held::Unknown(_)) | None => self.remembered.get(key),
        };
        held.filter(|object| object.metadata.uid == metadata.uid).cloned()
    }

    /// The complete set, with what is `around` it; `None` until there was one.
    fn snapshot(&self, around: Snapshot) -> Option<Snapshot> {
        if !self.listed {
            return None;
        }
        let mut snapshot = around;
        for held in self.complete.values() {
            let sourced = |object: &Arc<PortForward>, trouble| Sourced { object: Arc::clone(object), origin: None, trouble };
            match held {
                Held::Good(object) => snapshot.forwards.push(sourced(object, None)),
                Held::Outdated(object, error) => snapshot.forwards.push(sourced(object, Some(error.clone()))),
                Held::Unknown(undecoded) => snapshot.undecoded.push(Undecoded::clone(undecoded)),
            }
        }
        Some(snapshot)
    }
}

fn dynamic_key(object: &DynamicObject) -> Key {
    (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default())
}

/// The status, as far as this program knows its form; it is no reason to take a spec for unknown.
fn status(object: &DynamicObject) -> Option<PortForwardStatus> {
    serde_json::from_value(object.data.get("status")?.clone()).ok()
}

/// Strict about the spec: a field that this program does not know may change what the others mean.
fn decode(object: DynamicObject, status: Option<PortForwardStatus>) -> Result<PortForward, String> {
    let mut document = serde_json::to_value(object).map_err(|error| error.to_string())?;
    if let Some(fields) = document.as_object_mut() {
        fields.remove("status");
        fields.get_mut("metadata").and_then(Value::as_object_mut).map(|metadata| metadata.remove("managedFields"));
    }
    let decoded = api::decode(document).map_err(|error| error.to_string())?;
    // What it asks for is judged by the plan. Here it only has to come back: one that crashes is to cost itself.
    let _ = Forward::parse(&decoded);
    Ok(PortForward { status, ..decoded })
}

/// The last good spec, under the newest identity and status; its generation stays that of the spec.
fn with_newest(last: &PortForward, metadata: ObjectMeta, status: Option<PortForwardStatus>) -> PortForward {
    let metadata = ObjectMeta { generation: last.metadata.generation, managed_fields: None, ..metadata };
    PortForward { metadata, spec: last.spec.clone(), status }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::Sight;

    fn object(name: &str, uid: &str, generation: i64, mode: &str) -> DynamicObject {
        let spec = serde_json::json!({
            "mode": mode, "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
            "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
        });
        serde_json::from_value(serde_json::json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "spec": spec,
            "metadata": {"name": name, "namespace": "a", "uid": uid, "generation": generation},
        }))
        .unwrap()
    }

    fn text(objects: &Objects) -> Vec<String> {
        let snapshot = objects.snapshot(Snapshot::default()).unwrap();
        let forwards = snapshot.forwards.iter().map(|sourced| {
            let metadata = &sourced.object.metadata;
            format!(
                "{} {}{}",
                metadata.name.as_ref().unwrap(),
                metadata.generation.unwrap(),
                if sourced.trouble.is_some() { " outdated" } else { "" }
            )
        });
        forwards
            .chain(snapshot.undecoded.iter().map(|undecoded| format!("{} unknown", undecoded.metadata.name.as_ref().unwrap())))
            .collect()
    }

    #[test]
    fn nothing_is_taken_for_deleted_before_a_list_is_complete() {
        let mut objects = Objects::default();
        objects.take(Event::Init);
        objects.take(Event::InitApply(object("x", "1", 1, "Enabled")));
        objects.take(Event::InitApply(object("y", "2", 1, "Enabled")));
        assert!(objects.snapshot(Snapshot::default()).is_none(), "half a list is no set");
        assert!(objects.take(Event::InitDone));
        assert!(!objects.take(Event::Init));
        assert!(!objects.take(Event::InitApply(object("y", "2", 1, "Enabled"))));
        assert_eq!(text(&objects), ["x 1", "y 1"], "half a list removes nothing");
        assert!(objects.take(Event::InitDone));
        assert_eq!(text(&objects), ["y 1"]);
        assert!(objects.take(Event::Delete(object("y", "2", 1, "Enabled"))));
        assert_eq!(text(&objects), Vec::<String>::new());
    }

    #[test]
    fn an_object_of_unknown_form_keeps_its_last_good_content_and_costs_no_other() {
        let mut objects = Objects { listed: true, ..Objects::default() };
        objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
        objects.take(Event::Apply(object("x", "1", 2, "DryRun")));
        objects.take(Event::Apply(object("y", "2", 1, "DryRun")));
        objects.take(Event::Apply(object("z", "3", 1, "Enabled")));
        assert_eq!(text(&objects), ["x 1 outdated", "z 1", "y unknown"]);
        objects.take(Event::Apply(object("x", "9", 1, "DryRun")));
        assert_eq!(text(&objects), ["z 1", "x unknown", "y unknown"], "another object of the same name has no last good content");
    }

    #[test]
    fn an_object_that_crashes_its_reader_keeps_its_last_good_content_and_costs_no_other() {
        let decode: Decode = |object, status| {
            assert_ne!(object.metadata.generation, Some(2), "a fault of the decoder");
            decode(object, status)
        };
        let mut objects = Objects { decode, listed: true, ..Objects::default() };
        objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
        objects.take(Event::Apply(object("x", "1", 2, "Enabled")));
        objects.take(Event::Apply(object("y", "2", 2, "Enabled")));
        objects.take(Event::Apply(object("z", "3", 1, "Enabled")));
        assert_eq!(text(&objects), ["x 1 outdated", "z 1", "y unknown"]);
        let snapshot = objects.snapshot(Snapshot::default()).unwrap();
        assert!(snapshot.undecoded[0].error.contains("a fault of the decoder"), "{}", snapshot.undecoded[0].error);
    }

    #[test]
    fn a_set_came_of_the_last_change_that_asks_for_anything() {
        let mut objects = Objects { listed: true, ..Objects::default() };
        let (sender, receiver) = watch::channel(None);
        let wake = Notify::new();
        let start = Instant::now();
        let heard = |objects: &Objects, secs| {
            let heard = Heard::of(start + Duration::from_secs(secs));
            offer(Snapshot { heard, ..objects.snapshot(Snapshot::default()).unwrap() }, &sender, &wake);
            receiver.borrow().as_ref().and_then(|snapshot: &Arc<Snapshot>| snapshot.heard.at()).map(|at| (at - start).as_secs())
        };
        objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
        assert_eq!(heard(&objects, 1), None, "found at the start");
        objects.take(Event::Apply(object("x", "1", 2, "Enabled")));
        assert_eq!(heard(&objects, 2), Some(2));
        let mut changed = object("x", "1", 2, "Enabled");
        changed.metadata.resource_version = Some("7".to_owned());
        objects.take(Event::Apply(changed));
        assert_eq!(heard(&objects, 3), Some(2), "a change of status is none");
    }

    #[test]
    fn a_change_of_status_alone_asks_for_nothing_new() {
        let mut objects = Objects { listed: true, ..Objects::default() };
        objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
        let before = objects.snapshot(Snapshot::default()).unwrap();
        let mut changed = object("x", "1", 1, "Enabled");
        changed.data["status"] = serde_json::json!({"activeNode": "a"});
        changed.metadata.resource_version = Some("7".to_owned());
        objects.take(Event::Apply(changed));
        let after = objects.snapshot(Snapshot::default()).unwrap();
        assert!(same_but_status(&before, &after));
        assert_eq!(after.forwards[0].object.status.as_ref().unwrap().active_node.as_deref(), Some("a"));
        objects.take(Event::Apply(object("x", "1", 2, "Disabled")));
        assert!(!same_but_status(&before, &objects.snapshot(Snapshot::default()).unwrap()));
    }

    #[test]
    fn what_is_around_a_set_is_handed_on_with_it_and_a_change_of_it_is_one() {
        let (own, own_receiver) = watch::channel(None);
        let (api_servers, api_server_receiver) = watch::channel(None);
        let services = watch::channel(Arc::default()).1;
        let mut around = Around { own: own_receiver, api_servers: api_server_receiver, services };
        assert!(around.newest().is_none());
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let addresses = BTreeSet::from(["192.168.7.1".parse().unwrap()]);
        own.send_replace(Some(Arc::new(crate::cluster::own_node::Own { labels, addresses: addresses.clone() })));
        assert!(around.newest().is_none(), "what is not known of the API servers may be covered by a route");
        api_servers.send_replace(Some(Arc::default()));
        let before = around.newest().unwrap();
        assert_eq!((before.labels["zone"].as_str(), &before.node_addresses), ("a", &addresses));
        api_servers.send_replace(Some(Arc::new((["10.0.0.1".parse().unwrap()].into(), Sight::Whole))));
        let after = around.newest().unwrap();
        assert!(!same_but_status(&before, &after) && same_but_status(&after, &around.newest().unwrap()));
    }
}
