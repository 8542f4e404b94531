//! Reads the grants of the cluster as a complete set.
//!
//! While the agent requires grants, it passes no set of forwards on before the grants were read once. If the API server refuses
//! them, or does not serve the kind, the agent continues without them, and the plan then carries nothing new.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::core::{ApiResource, DynamicObject, ObjectMeta};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::follow::follow_or;
use super::trouble::{Outage, Trouble, is_refusal};
use crate::api::{self, PortForwardGrant, PortForwardGrantStatus};
use crate::grant::Grant;
use crate::plan::RequireGrants;
use crate::source::{GrantSet, SourcedGrant, UndecodedGrant};
use crate::supervise::guarded;

/// How long the API server must refuse the grants before the agent continues without them. A starting API server refuses for a
/// moment.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What this agent knows of the grants.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known {
    /// Nothing yet, and no set of forwards is complete without them.
    Awaited,
    /// Nothing, and nothing waits for them.
    Without,
    /// All grants.
    Read(Arc<GrantSet>),
}

impl Known {
    /// The knowledge at the start of an agent.
    pub(super) const fn at_first(required: RequireGrants) -> Self {
        match required {
            RequireGrants::Yes => Self::Awaited,
            RequireGrants::No | RequireGrants::Report => Self::Without,
        }
    }
}

/// Sends the complete set of grants whenever one changes. `remembered` are the grants of the record: a grant that cannot be
/// decoded keeps its content from there.
pub(super) async fn follow(client: Client, outage: Outage, remembered: Option<Arc<GrantSet>>, found: watch::Sender<Known>) {
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<PortForwardGrant>(&()));
    let objects = Mutex::new(Objects::remembering(remembered.as_deref()));
    let mut refused: Option<Instant> = None;
    let take = |event| {
        if let Some(newest) = locked(&objects).take(event) {
            found.send_if_modified(|current| {
                let changed = !matches!(current, Known::Read(set) if **set == newest);
                if changed {
                    tell(current, &newest);
                    *current = Known::Read(Arc::new(newest));
                }
                changed
            });
        }
    };
    let failed = |error: &(dyn std::error::Error + 'static)| {
        if is_refusal(error) {
            let since = *refused.get_or_insert_with(Instant::now);
            found.send_if_modified(|current| {
                let changed = *current == Known::Awaited && since.elapsed() >= REFUSED_FOR;
                if changed {
                    warn!("the grants cannot be read, and --require-grants is set: what the record of this node holds stays in force, and nothing new is carried. Apply the CRD of PortForwardGrant, and give the agent the right to list and watch portforwardgrants (deploy/base/rbac.yaml)");
                    *current = Known::Without;
                }
                changed
            });
        } else {
            refused = None;
        }
    };
    follow_or(Trouble::new("PortForwardGrants", outage), api, Config::default(), take, failed).await;
}

fn locked(objects: &Mutex<Objects>) -> MutexGuard<'_, Objects> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs what changed, and each grant that cannot be used.
fn tell(before: &Known, newest: &GrantSet) {
    let same = matches!(before, Known::Read(before) if before.permits_the_same(newest));
    if same {
        return;
    }
    info!(grants = newest.grants.len() + newest.undecoded.len(), "grants read");
    let unknown = |name: Option<&String>, error: &str, effect: &str| {
        warn!(grant = name, error, "this agent does not know the form of a grant; {effect}; upgrade the agent");
    };
    for SourcedGrant { object, trouble, .. } in &newest.grants {
        let name = object.metadata.name.as_ref();
        match (trouble, Grant::parse(object)) {
            (Some(error), _) => unknown(name, error, "its last good content stays in force"),
            (None, Err(refusals)) => warn!(grant = name, error = %refusals.summary(), "a grant is refused; it permits nothing"),
            (None, Ok(_)) => {}
        }
    }
    newest.undecoded.iter().for_each(|it| unknown(it.metadata.name.as_ref(), &it.error, "it permits nothing"));
}

/// The grants that the API server holds.
#[derive(Debug, Default)]
struct Objects {
    /// Every grant by name, once a list was complete.
    complete: Option<BTreeMap<String, Held>>,
    /// The grants of a list that is not complete yet.
    coming: BTreeMap<String, Held>,
    /// The grants of the record, for those that can no longer be decoded.
    remembered: BTreeMap<String, Arc<PortForwardGrant>>,
}

#[derive(Clone, Debug)]
enum Held {
    Good(SourcedGrant),
    /// No content of the grant could be decoded.
    Unknown(Box<UndecodedGrant>),
}

impl Objects {
    fn remembering(remembered: Option<&GrantSet>) -> Self {
        let grants = remembered.into_iter().flat_map(|set| &set.grants).map(|sourced| &sourced.object);
        let remembered = grants.map(|grant| (grant.metadata.name.clone().unwrap_or_default(), Arc::clone(grant))).collect();
        Self { remembered, ..Self::default() }
    }

    /// Applies an event. Returns all grants after it, once a list was complete.
    fn take(&mut self, event: Event<DynamicObject>) -> Option<GrantSet> {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => {
                let (name, held) = self.held(object);
                self.coming.insert(name, held);
            }
            Event::InitDone => self.complete = Some(std::mem::take(&mut self.coming)),
            Event::Apply(object) => {
                let (name, held) = self.held(object);
                self.complete.as_mut()?.insert(name, held);
            }
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                self.complete.as_mut()?.remove(&name);
            }
        }
        let mut set = GrantSet::default();
        for held in self.complete.as_ref()?.values() {
            match held.clone() {
                Held::Good(sourced) => set.grants.push(sourced),
                Held::Unknown(undecoded) => set.undecoded.push(*undecoded),
            }
        }
        Some(set)
    }

    fn held(&self, object: DynamicObject) -> (String, Held) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let metadata = ObjectMeta { managed_fields: None, annotations: None, ..object.metadata.clone() };
        let status: Option<PortForwardGrantStatus> =
            object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
        let sourced = |object, trouble| Held::Good(SourcedGrant { object: Arc::new(object), origin: None, trouble });
        let held = match guarded(|| decode(object)) {
            Ok(grant) => sourced(PortForwardGrant { metadata, spec: grant.spec, status }, None),
            Err(error) => match self.last_good(&name, &metadata) {
                Some(last) => {
                    // The generation stays the one of the content.
                    let metadata = ObjectMeta { generation: last.metadata.generation, ..metadata };
                    sourced(PortForwardGrant { metadata, spec: last.spec.clone(), status }, Some(error))
                }
                None => Held::Unknown(Box::new(UndecodedGrant { metadata, status, error })),
            },
        };
        (name, held)
    }

    /// The last content of this grant that could be decoded. An object with the same name and another `uid` is another grant.
    fn last_good(&self, name: &str, metadata: &ObjectMeta) -> Option<&PortForwardGrant> {
        let held = match self.complete.as_ref().and_then(|complete| complete.get(name)) {
            Some(Held::Good(sourced)) => Some(&sourced.object),
            Some(Held::Unknown(_)) | None => self.remembered.get(name),
        };
        held.map(AsRef::as_ref).filter(|object| object.metadata.uid == metadata.uid)
    }
}

/// Decodes strictly: an unknown field may restrict the other ones.
fn decode(object: DynamicObject) -> Result<PortForwardGrant, String> {
    let mut document = serde_json::to_value(object).map_err(|error| error.to_string())?;
    if let Some(fields) = document.as_object_mut() {
        fields.remove("status");
        fields.get_mut("metadata").and_then(Value::as_object_mut).map(|metadata| metadata.remove("managedFields"));
    }
    let grant = api::decode_grant(document).map_err(|error| error.to_string())?;
    // Only checks that parsing does not panic. The plan judges the content.
    let _ = Grant::parse(&grant);
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, uid: &str, generation: i64, change: impl FnOnce(&mut Value)) -> DynamicObject {
        let mut document = serde_json::json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant",
            "metadata": {"name": name, "uid": uid, "generation": generation},
            "spec": {
                "namespaces": ["lines"], "clients": ["1.1.1.1"],
                "listen": [{"cidrs": ["192.168.0.2"]}], "upstreams": [{"cidrs": ["3.3.3.3"]}],
            },
        });
        change(&mut document["spec"]);
        serde_json::from_value(document).unwrap()
    }

    fn text(set: Option<GrantSet>) -> Option<String> {
        let set = set?;
        let good = set.grants.iter().map(|sourced| {
            let metadata = &sourced.object.metadata;
            let trouble = if sourced.trouble.is_some() { " outdated" } else { "" };
            format!("{} {}{trouble}", metadata.name.as_deref().unwrap(), metadata.generation.unwrap())
        });
        let unknown = set.undecoded.iter().map(|it| format!("{} unknown", it.metadata.name.as_deref().unwrap()));
        Some(good.chain(unknown).collect::<Vec<_>>().join(", "))
    }

    fn newer(spec: &mut Value) {
        spec["schedule"] = "nights".into();
    }

    #[test]
    fn a_grant_counts_as_deleted_only_after_a_complete_list() {
        let mut objects = Objects::default();
        let mut take = |event| text(objects.take(event));
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitApply(object("a", "1", 1, |_| ()))), None);
        assert_eq!(take(Event::InitApply(object("b", "2", 1, |_| ()))), None);
        assert_eq!(take(Event::InitDone).as_deref(), Some("a 1, b 1"));
        assert_eq!(take(Event::Init).as_deref(), Some("a 1, b 1"));
        assert_eq!(take(Event::InitApply(object("b", "2", 1, |_| ()))).as_deref(), Some("a 1, b 1"));
        assert_eq!(take(Event::InitDone).as_deref(), Some("b 1"));
        assert_eq!(take(Event::Delete(object("b", "2", 1, |_| ()))).as_deref(), Some(""));
    }

    #[test]
    fn a_list_that_was_interrupted_begins_again() {
        let mut objects = Objects::default();
        objects.take(Event::Init);
        objects.take(Event::InitApply(object("gone", "1", 1, |_| ())));
        objects.take(Event::Init);
        objects.take(Event::InitApply(object("a", "2", 1, |_| ())));
        assert_eq!(text(objects.take(Event::InitDone)).as_deref(), Some("a 1"));
    }

    #[test]
    fn annotations_are_not_kept_and_a_status_of_unknown_form_is_no_trouble() {
        let mut grant = object("a", "1", 1, |_| ());
        grant.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        grant.data["status"] = serde_json::json!({"forwards": "many"});
        let (_, Held::Good(SourcedGrant { object, trouble, .. })) = Objects::default().held(grant) else { panic!("it decodes") };
        assert_eq!((&object.metadata.annotations, &object.status, trouble), (&None, &None, None));
    }

    #[test]
    fn a_grant_of_unknown_form_keeps_its_last_good_content_or_permits_nothing() {
        let recorded = Objects::default().held(object("c", "3", 4, |_| ())).1;
        let Held::Good(recorded) = recorded else { panic!("it decodes") };
        let mut objects = Objects::remembering(Some(&GrantSet { grants: vec![recorded], undecoded: Vec::new() }));
        objects.take(Event::InitApply(object("a", "1", 1, |_| ())));
        objects.take(Event::InitApply(object("b", "2", 1, newer)));
        objects.take(Event::InitApply(object("c", "3", 5, newer)));
        assert_eq!(text(objects.take(Event::InitDone)).as_deref(), Some("a 1, c 4 outdated, b unknown"));
        assert_eq!(
            text(objects.take(Event::Apply(object("a", "1", 2, newer)))).as_deref(),
            Some("a 1 outdated, c 4 outdated, b unknown")
        );
        let another = objects.take(Event::Apply(object("a", "9", 1, newer)));
        assert_eq!(text(another).as_deref(), Some("c 4 outdated, a unknown, b unknown"), "another grant of the same name");
    }

    #[test]
    fn a_change_of_the_status_alone_permits_the_same() {
        let mut objects = Objects::default();
        objects.take(Event::InitApply(object("a", "1", 1, |_| ())));
        let before = objects.take(Event::InitDone).unwrap();
        let mut changed = object("a", "1", 1, |_| ());
        changed.data["status"] = serde_json::json!({"forwards": 3});
        changed.metadata.resource_version = Some("7".to_owned());
        let after = objects.take(Event::Apply(changed)).unwrap();
        assert!(before != after && before.permits_the_same(&after));
        assert_eq!(after.grants[0].object.status.as_ref().unwrap().forwards, Some(3));
        let wider = objects.take(Event::Apply(object("a", "1", 2, |spec| spec["oneLeg"] = true.into()))).unwrap();
        assert!(!after.permits_the_same(&wider));
    }
}
