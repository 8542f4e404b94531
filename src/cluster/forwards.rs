//! Reads the forwards of the cluster as a complete set.
//!
//! Each object is decoded separately. If one has an unknown form, only this one keeps its last good content. A set is passed on
//! only after a complete list, so an object that is missing in an incomplete list is not taken for deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imbl::ordmap::DiffItem;
use kube::core::ObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::around::Around;
use super::follow::follow as follow_resource;
use super::received::Received;
use super::selector::ForwardSelector;
use super::trouble::{Outage, Trouble};
use crate::api::PortForward;
use crate::forward::{Forward, ForwardKey};
use crate::source::{Difference, Forwards, GrantSet, Heard, Snapshot, Sourced, Stored, Undecoded, Unknown};
use crate::supervise::guarded;

#[cfg(test)]
mod tests;

/// The shortest time between two sets. The first change after it becomes a set at once, and a burst of changes becomes few sets.
const APART: Duration = Duration::from_millis(20);
/// A change of status alone waits this long. Otherwise the sets of many such changes would delay a change of content by [`APART`].
const STATUS_REST: Duration = Duration::from_millis(100);

/// Sends the complete set of the forwards that `selector` selects whenever a forward or a value in `around` changes.
pub(super) async fn follow(
    client: Client,
    outage: Outage,
    selector: ForwardSelector,
    remembered: Snapshot,
    mut around: Around,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    wake: Arc<Notify>,
) {
    let api: Api<Received> = Api::all(client);
    let objects = Mutex::new(Objects::remembering(remembered));
    let (changed, status_changed) = (Notify::new(), Notify::new());
    let take = |event| match locked(&objects).take(event) {
        Some(Change::Content) => changed.notify_one(),
        Some(Change::Status) => status_changed.notify_one(),
        None => {}
    };
    let join = async {
        let mut last = None::<Instant>;
        loop {
            let goes_on = tokio::select! {
                () = changed.notified() => Ok(()),
                changed = around.changed() => changed,
                () = async { status_changed.notified().await; tokio::time::sleep(STATUS_REST).await } => Ok(()),
            };
            if goes_on.is_err() {
                return;
            }
            let heard = Heard::of(Instant::now());
            if let Some(last) = last {
                tokio::time::sleep_until(last + APART).await;
            }
            let snapshot = around.newest().and_then(|around| locked(&objects).snapshot(around));
            if let Some(snapshot) = snapshot {
                offer(Snapshot { heard, ..snapshot }, &snapshots, &wake);
            }
            last = Some(Instant::now());
        }
    };
    // The API server selects, so that an agent of a pool hears of no other forward.
    let config = if selector.selects_all() { Config::default() } else { Config::default().labels(&selector.to_string()) };
    tokio::join!(follow_resource(Trouble::new("PortForwards", outage), api, config, take), join);
}

fn locked(objects: &Mutex<Objects>) -> MutexGuard<'_, Objects> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes a set on. Wakes the sync loop if more than status changed.
fn offer(snapshot: Snapshot, snapshots: &watch::Sender<Option<Arc<Snapshot>>>, wake: &Notify) {
    let before = snapshots.borrow().clone();
    let matters = before.as_ref().is_none_or(|before| !same_but_status(before, &snapshot));
    // If only status changed, the set keeps the time of the previous one. The first set has no time.
    let heard = before.map_or(Heard::default(), |before| if matters { snapshot.heard } else { before.heard });
    snapshots.send_replace(Some(Arc::new(Snapshot { heard, ..snapshot })));
    if matters {
        wake.notify_one();
    }
}

/// Whether two contents of an object of the same name ask for the same state of the kernel.
fn same_object(a: &Arc<PortForward>, b: &Arc<PortForward>) -> bool {
    fn of(object: &PortForward) -> (Option<&String>, Option<i64>, bool) {
        (object.metadata.uid.as_ref(), object.metadata.generation, object.metadata.deletion_timestamp.is_some())
    }
    // Another version of the CRD may read the same generation differently.
    Arc::ptr_eq(a, b) || (of(a) == of(b) && a.spec == b.spec)
}

/// Whether two sets ask for the same state of the kernel.
pub(super) fn same_but_status(a: &Snapshot, b: &Snapshot) -> bool {
    let same_forward = |Difference { before, now, .. }: Difference<'_>| {
        before.zip(now).is_some_and(|(a, b)| same_object(&a.object, &b.object) && a.trouble == b.trouble)
    };
    GrantSet::are_the_same(a.grants.as_ref(), b.grants.as_ref())
        && (&a.labels, &a.api_servers, a.sight) == (&b.labels, &b.api_servers, b.sight)
        && (&a.node_addresses, &a.services, &a.nodes) == (&b.node_addresses, &b.services, &b.nodes)
        && a.forwards.differences(&b.forwards).all(same_forward)
        && a.undecoded.diff(&b.undecoded).all(|difference| match difference {
            DiffItem::Update { old: (_, a), new: (_, b) } => {
                (&a.metadata.uid, a.metadata.generation) == (&b.metadata.uid, b.metadata.generation)
            }
            DiffItem::Add(..) | DiffItem::Remove(..) => false,
        })
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// What an object asks for, or which objects there are.
    Content,
    /// Only the status of an object.
    Status,
}

/// Decodes one object, with its status.
type Decode = fn(Received) -> Result<PortForward, String>;

/// The objects that the API server holds.
#[derive(Debug)]
struct Objects {
    decode: Decode,
    /// Whether a list was complete once.
    listed: bool,
    complete: Set,
    /// The objects of a list that is not complete yet.
    coming: Option<Set>,
    /// The objects that were applied before this start, for those that can no longer be decoded.
    remembered: BTreeMap<ForwardKey, Arc<PortForward>>,
}

#[derive(Clone, Debug, Default)]
struct Set {
    forwards: Forwards,
    undecoded: Unknown,
}

impl Set {
    fn insert(&mut self, key: ForwardKey, held: Held) {
        match held {
            Held::Known(sourced) => {
                self.undecoded.remove(&key);
                self.forwards.insert(sourced);
            }
            Held::Unknown(undecoded) => {
                self.forwards.remove(&key);
                self.undecoded.insert(key, undecoded);
            }
        }
    }

    /// Removes an object. Returns whether it was there.
    fn remove(&mut self, key: &ForwardKey) -> bool {
        self.forwards.remove(key).is_some() | self.undecoded.remove(key).is_some()
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self { decode, listed: false, complete: Set::default(), coming: None, remembered: BTreeMap::new() }
    }
}

#[derive(Clone, Debug)]
enum Held {
    /// The newest content of the object, or the last good one and why the newest one cannot be decoded.
    Known(Sourced),
    /// No content of the object could be decoded.
    Unknown(Arc<Undecoded>),
}

impl Objects {
    fn remembering(Snapshot { forwards, .. }: Snapshot) -> Self {
        let remembered = forwards.iter().map(|sourced| (ForwardKey::of(&sourced.object), Arc::clone(&sourced.object))).collect();
        Self { remembered, ..Self::default() }
    }

    /// Applies an event. Returns what it changed in the complete set.
    fn take(&mut self, event: Event<Received>) -> Option<Change> {
        match event {
            Event::Init => {
                self.coming = Some(Set::default());
                None
            }
            Event::InitApply(object) => {
                let (key, held) = self.held(object);
                self.coming.get_or_insert_default().insert(key, held);
                None
            }
            Event::InitDone => {
                self.complete = self.coming.take().unwrap_or_default();
                self.listed = true;
                // The set has what is still needed of them.
                self.remembered.clear();
                Some(Change::Content)
            }
            Event::Apply(object) => {
                let (key, held) = self.held(object);
                let change = match (&held, self.complete.forwards.get(&key)) {
                    (Held::Known(now), Some(before))
                        if Arc::ptr_eq(&before.object, &now.object) && before.trouble == now.trouble =>
                    {
                        Change::Status
                    }
                    (Held::Known(_) | Held::Unknown(_), _) => Change::Content,
                };
                self.complete.insert(key, held);
                Some(change)
            }
            Event::Delete(object) => self.complete.remove(&object.key()).then_some(Change::Content),
        }
    }

    /// What is held of an object. Content that is the same as before stays the same value.
    fn held(&self, object: Received) -> (ForwardKey, Held) {
        let key = object.key();
        let (metadata, status) = (object.metadata.clone(), object.status.clone());
        // Most objects of a list that is read again have a known version.
        let known = self.complete.forwards.get(&key).and_then(|known| known.stored.clone());
        let known = known.filter(|known| known.version == metadata.resource_version && known.status == status);
        let stored = |status| known.or_else(|| Some(Arc::new(Stored { version: metadata.resource_version.clone(), status })));
        let held = match guarded(|| (self.decode)(object)) {
            Ok(object) => {
                let object = Arc::new(without_stored(object));
                let before = self.complete.forwards.get(&key).filter(|before| before.trouble.is_none());
                let same = before.filter(|before| same_object(&before.object, &object)).map(|before| Arc::clone(&before.object));
                Held::Known(Sourced { object: same.unwrap_or(object), stored: stored(status), origin: None, trouble: None })
            }
            Err(error) => match self.last_good(&key, &metadata) {
                Some(last) => {
                    let newest = with_newest(&last, metadata.clone());
                    let object = if *last == newest { last } else { Arc::new(newest) };
                    Held::Known(Sourced { object, stored: stored(status), origin: None, trouble: Some(error) })
                }
                None => Held::Unknown(Arc::new(Undecoded { metadata, status, error })),
            },
        };
        (key, held)
    }

    /// The last content of this object that could be decoded. An object with the same name and another `uid` is another object.
    fn last_good(&self, key: &ForwardKey, metadata: &ObjectMeta) -> Option<Arc<PortForward>> {
        let held = self.complete.forwards.get(key).map(|held| &held.object).or_else(|| self.remembered.get(key));
        held.filter(|object| object.metadata.uid == metadata.uid).cloned()
    }

    /// The complete set, with the values in `around`; `None` until a list was complete.
    fn snapshot(&self, around: Snapshot) -> Option<Snapshot> {
        if !self.listed {
            return None;
        }
        let Set { forwards, undecoded } = self.complete.clone();
        Some(Snapshot { forwards, undecoded, ..around })
    }
}

fn decode(object: Received) -> Result<PortForward, String> {
    let decoded = object.decode()?;
    // Only checks that parsing does not panic, so that an object that makes it panic affects only itself. The plan judges the
    // content.
    let _ = Forward::parse(&decoded);
    Ok(decoded)
}

/// What an object asks for.
fn without_stored(object: PortForward) -> PortForward {
    PortForward { metadata: ObjectMeta { resource_version: None, ..object.metadata }, status: None, ..object }
}

/// The last good spec with the newest metadata. The generation stays the one of that spec.
fn with_newest(last: &PortForward, metadata: ObjectMeta) -> PortForward {
    let metadata = ObjectMeta { generation: last.metadata.generation, ..metadata };
    without_stored(PortForward { metadata, spec: last.spec.clone(), status: None })
}
