//! Writes one event to the API server, or counts a repeated one up.
//!
//! The names of the events are numbered, and a namespace has room for [`SLOTS`] events of a node. The API server keeps an event for
//! an hour. So an agent, or a client with its token, cannot fill the store with events: the admission policy accepts only these
//! names. A further event is not written.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as Stored;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;
use tracing::debug;

/// The field manager of events.
const MANAGER: &str = "portforward-events";
/// The reporting controller.
const CONTROLLER: &str = "portforward.dev/agent";
/// The number of names of events of a node in a namespace. The admission policy contains it too.
const SLOTS: u16 = 1024;
/// The number of names that are tried. An event of the last hour may have any of them.
const TRIES: usize = 8;
/// The distance to the next name that is tried. It has no factor in common with [`SLOTS`].
const STEP: u16 = 257;
/// For this time, no new event is written in a namespace in which the tried names were taken. The names become free one by one,
/// an hour after each event.
const FULL_FOR: Duration = Duration::from_mins(1);
/// For this time, the same event is counted up.
const REPEATED_WITHIN: Duration = Duration::from_mins(6);

/// Which events are the same: their object, type and reason.
type Same = (ObjectId, &'static str, String);
/// The namespace, the name and the uid of an object.
type ObjectId = (String, Option<String>, Option<String>);

/// An event that was written.
#[derive(Debug)]
struct Written {
    name: String,
    count: i32,
    at: Instant,
}

/// Writes the events of one node.
pub(super) struct Reporter {
    client: Client,
    node: String,
    slot: u16,
    recent: BTreeMap<Same, Written>,
    /// The namespaces without a free name, and since when.
    full: BTreeMap<String, Instant>,
}

impl Reporter {
    /// A writer of events of `node`.
    pub(super) fn new(client: Client, node: &str) -> Self {
        let seconds = Timestamp::now().as_second().rem_euclid(SLOTS.into());
        Self {
            client,
            node: node.to_owned(),
            slot: u16::try_from(seconds).unwrap_or(0),
            recent: BTreeMap::new(),
            full: BTreeMap::new(),
        }
    }

    /// Creates the event about the object, or counts it up if the same one was written a short time ago.
    ///
    /// # Errors
    /// When the API server refuses the event or does not answer.
    pub(super) async fn publish(&mut self, event: &Event, about: &ObjectReference) -> Result<(), kube::Error> {
        self.recent.retain(|_, written| written.at.elapsed() < REPEATED_WITHIN);
        self.full.retain(|_, since| since.elapsed() < FULL_FOR);
        let namespace = about.namespace.clone().unwrap_or_default();
        let api: Api<Stored> = Api::namespaced(self.client.clone(), &namespace);
        let same = ((namespace.clone(), about.name.clone(), about.uid.clone()), type_of(event), event.reason.clone());
        if let Some(written) = self.recent.get_mut(&same) {
            let series = json!({"series": {"count": written.count + 1, "lastObservedTime": MicroTime(Timestamp::now())}});
            let manager = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            match api.patch(&written.name, &manager, &Patch::Merge(&series)).await {
                Ok(_) => {
                    (written.count, written.at) = (written.count + 1, Instant::now());
                    return Ok(());
                }
                // It was deleted.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        if self.full.contains_key(&namespace) {
            return Ok(());
        }
        let manager = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        for _ in 0..TRIES {
            let name = name(&self.node, self.slot);
            match api.create(&manager, &self.stored(&name, event, about)).await {
                Ok(_) => {
                    self.slot = (self.slot + 1) % SLOTS;
                    self.recent.insert(same, Written { name, count: 1, at: Instant::now() });
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.is_already_exists() => self.slot = (self.slot + STEP) % SLOTS,
                Err(error) => return Err(error),
            }
        }
        debug!(namespace, name = about.name, "the namespace has too many events; this one is not written");
        self.full.insert(namespace, Instant::now());
        Ok(())
    }

    fn stored(&self, name: &str, event: &Event, about: &ObjectReference) -> Stored {
        Stored {
            metadata: ObjectMeta { name: Some(name.to_owned()), namespace: about.namespace.clone(), ..ObjectMeta::default() },
            event_time: Some(MicroTime(Timestamp::now())),
            action: Some(event.action.clone()),
            reason: Some(event.reason.clone()),
            note: event.note.clone(),
            type_: Some(type_of(event).to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Stored::default()
        }
    }
}

/// The name of an event. The admission policy accepts no other names.
fn name(node: &str, slot: u16) -> String {
    format!("{node}.portforward-{slot:03x}")
}

const fn type_of(event: &Event) -> &'static str {
    match event.type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::{Path, State};
    use axum::http::StatusCode;
    use axum::response::Response;
    use axum::routing::{patch, post};
    use serde_json::Value;

    use super::*;
    use crate::cluster::tests::{client, object, refused};

    /// The events of an API server, by name.
    type Events = Arc<Mutex<BTreeMap<String, Value>>>;

    async fn create(State(events): State<Events>, body: Bytes) -> Response {
        let event: Value = serde_json::from_slice(&body).unwrap();
        let name = event["metadata"]["name"].as_str().unwrap().to_owned();
        let mut events = events.lock().unwrap();
        if events.contains_key(&name) {
            return refused(StatusCode::CONFLICT, "AlreadyExists", "it exists");
        }
        events.insert(name, event.clone());
        object(&event)
    }

    async fn count(State(events): State<Events>, Path((_, name)): Path<(String, String)>, body: Bytes) -> Response {
        let change: Value = serde_json::from_slice(&body).unwrap();
        match events.lock().unwrap().get_mut(&name) {
            None => refused(StatusCode::NOT_FOUND, "NotFound", "there is none"),
            Some(event) => {
                event["series"] = change["series"].clone();
                object(event)
            }
        }
    }

    /// The writer of events of the node px0, which begins with the first name, and the events of its API server.
    async fn reporter() -> (Reporter, Events) {
        let (events, path) = (Events::default(), "/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let one = format!("{path}/{{name}}");
        let pages = Router::new().route(path, post(create)).route(&one, patch(count)).with_state(Arc::clone(&events));
        let reporter = Reporter { slot: 0, ..Reporter::new(client(pages).await, "px0") };
        (reporter, events)
    }

    async fn publish(reporter: &mut Reporter, type_: EventType) {
        let event = Event { type_, reason: "Ready".into(), note: None, action: "Judge".into(), secondary: None };
        let text = |text: &str| Some(text.to_owned());
        let about = ObjectReference { namespace: text("a"), name: text("web"), uid: text("1"), ..ObjectReference::default() };
        reporter.publish(&event, &about).await.unwrap();
    }

    /// The number of each event and how often it is counted.
    fn counted(events: &Events) -> Vec<(String, i64)> {
        let events = events.lock().unwrap();
        let counted = |(name, event): (&String, &Value)| {
            (name.strip_prefix("px0.portforward-").unwrap().to_owned(), event["series"]["count"].as_i64().unwrap_or(1))
        };
        events.iter().map(counted).collect()
    }

    fn numbers(numbers: &[(&str, i64)]) -> Vec<(String, i64)> {
        numbers.iter().map(|(number, count)| ((*number).to_owned(), *count)).collect()
    }

    #[tokio::test]
    async fn the_same_event_is_counted_up_for_some_minutes_and_another_one_has_the_next_name() {
        let (mut reporter, events) = reporter().await;
        for _ in 0..3 {
            publish(&mut reporter, EventType::Normal).await;
        }
        publish(&mut reporter, EventType::Warning).await;
        assert_eq!(counted(&events), numbers(&[("000", 3), ("001", 1)]));
        for written in reporter.recent.values_mut() {
            written.at = written.at.checked_sub(REPEATED_WITHIN).unwrap();
        }
        publish(&mut reporter, EventType::Normal).await;
        assert_eq!(counted(&events), numbers(&[("000", 3), ("001", 1), ("002", 1)]));
        assert_eq!(reporter.recent.len(), 1, "the others are forgotten");
    }

    #[tokio::test]
    async fn an_event_that_was_deleted_is_written_again() {
        let (mut reporter, events) = reporter().await;
        publish(&mut reporter, EventType::Normal).await;
        events.lock().unwrap().clear();
        publish(&mut reporter, EventType::Normal).await;
        assert_eq!(counted(&events), numbers(&[("001", 1)]));
    }

    #[tokio::test]
    async fn a_name_that_is_taken_is_passed_over_and_after_some_of_them_the_event_is_not_written() {
        let (mut reporter, events) = reporter().await;
        events.lock().unwrap().insert(name("px0", 0), Value::Null);
        publish(&mut reporter, EventType::Normal).await;
        assert_eq!(counted(&events), numbers(&[("000", 1), ("101", 1)]));
        events.lock().unwrap().extend((0..SLOTS).map(|slot| (name("px0", slot), Value::Null)));
        publish(&mut reporter, EventType::Warning).await;
        assert_eq!(events.lock().unwrap().len(), usize::from(SLOTS));
        events.lock().unwrap().clear();
        publish(&mut reporter, EventType::Warning).await;
        assert_eq!(counted(&events), [], "the API server is not asked again at once");
        for since in reporter.full.values_mut() {
            *since = since.checked_sub(FULL_FOR).unwrap();
        }
        publish(&mut reporter, EventType::Warning).await;
        assert_eq!(counted(&events).len(), 1);
    }

    #[test]
    fn the_steps_reach_every_name_and_the_names_are_those_of_the_policy() {
        let slots = std::iter::successors(Some(0_u16), |slot| Some((slot + STEP) % SLOTS)).take(SLOTS.into());
        assert_eq!(slots.collect::<BTreeSet<_>>().len(), usize::from(SLOTS));
        assert_eq!((name("px0", 0), name("px0", SLOTS - 1)), ("px0.portforward-000".into(), "px0.portforward-3ff".into()));
    }
}
