//! Writes Kubernetes events: one for each change of an object's summary. The agent that writes the summary writes the event.
//!
//! Events are for people. They are written one after the other, so that they do not delay status, and a namespace has a small
//! rate, because each event stays in the store for an hour. The namespaces take turns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::ObjectMeta;
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::DEADLINE;
use super::reporter::Reporter;
use super::trouble::{Outage, Trouble, is_about_one};
use super::turns::{Limits, Turns};
use crate::api::{PortForward, PortForwardStatus};
use crate::forward::ForwardKey;
use crate::status::{State, Type};
use crate::supervise::Tasks;

/// The maximum length of a note in bytes (events.k8s.io/v1: "1kB").
const NOTE_BYTES: usize = 1000;

/// How many events are written.
const LIMITS: Limits = Limits { at_once: 1, at_once_each: 1, burst: 100, interval: Duration::from_millis(500) };
/// The number of events that may wait in one namespace. Further events are dropped.
const WAITING_EACH: usize = 256;
/// The number of events that may wait in all namespaces. With more, a namespace keeps one.
const WAITING: usize = 4096;

/// An event and the object that it is about.
type About = (Event, ObjectReference);

/// Records events in a separate task, so that a slow or lost event delays no status.
#[derive(Clone)]
pub(super) struct Events {
    waiting: Arc<Mutex<Waiting>>,
    added: Arc<Notify>,
}

/// The events that wait, the newest one of each object.
struct Waiting {
    turns: Turns,
    events: BTreeMap<ForwardKey, About>,
}

impl Waiting {
    fn new() -> Self {
        Self { turns: Turns::new(LIMITS), events: BTreeMap::new() }
    }

    /// Adds an event. Returns whether there was room for it.
    fn add(&mut self, key: &ForwardKey, about: About) -> bool {
        let most = if self.events.len() < WAITING { WAITING_EACH } else { 1 };
        let fits = self.events.contains_key(key) || self.turns.waiting(&key.namespace) < most;
        if fits {
            self.turns.mark(key);
            self.events.insert(key.clone(), about);
        }
        fits
    }

    /// The next event, or when there may be one; `None` if nothing waits.
    fn next(&mut self, now: Instant) -> Result<About, Option<Instant>> {
        while let Some(key) = self.turns.begin(now) {
            // The task writes one event after the other, so the turns need not wait for the end.
            self.turns.end(&key);
            if let Some(about) = self.events.remove(&key) {
                return Ok(about);
            }
        }
        Err(self.turns.ready(now))
    }
}

impl Events {
    /// Must be called within a tokio runtime.
    pub(super) fn new(client: Client, outage: Outage, node: &str, tasks: &mut Tasks) -> Self {
        let events = Self::unwritten();
        let task = publish(Reporter::new(client, node), Trouble::new("events", outage), events.clone());
        tasks.spawn("writer of events", task);
        events
    }

    /// Events that no task writes yet.
    pub(super) fn unwritten() -> Self {
        Self { waiting: Arc::new(Mutex::new(Waiting::new())), added: Arc::new(Notify::new()) }
    }

    /// Records the change between two summaries of the object with `metadata`.
    pub(super) fn record(&self, key: &ForwardKey, metadata: &ObjectMeta, before: &PortForwardStatus, after: &PortForwardStatus) {
        let Some(event) = event(before, after) else { return };
        let reference = ObjectReference {
            api_version: Some(PortForward::api_version(&()).into_owned()),
            kind: Some(PortForward::kind(&()).into_owned()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        };
        if self.locked().add(key, (event, reference)) {
            self.added.notify_one();
        } else {
            debug!(forward = %key, "too many events of this namespace wait; this one is dropped");
        }
    }

    fn locked(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next event that may be written.
    async fn next(&self) -> About {
        loop {
            let ready = match self.locked().next(Instant::now()) {
                Ok(about) => return about,
                Err(ready) => ready,
            };
            let added = self.added.notified();
            match ready {
                Some(at) => drop(tokio::time::timeout_at(at, added).await),
                None => added.await,
            }
        }
    }
}

async fn publish(mut reporter: Reporter, mut trouble: Trouble, events: Events) {
    loop {
        let (event, reference) = events.next().await;
        match tokio::time::timeout(DEADLINE, reporter.publish(&event, &reference)).await {
            Ok(Ok(())) => trouble.worked(),
            Ok(Err(error)) if is_about_one(&error) => trouble.failed_one(&error),
            Ok(Err(error)) => trouble.failed(&error),
            Err(late) => trouble.failed(&late),
        }
    }
}

/// The event for a change: the forward is refused or has another reason for a refusal; otherwise its `Ready` condition changed.
fn event(before: &PortForwardStatus, after: &PortForwardStatus) -> Option<Event> {
    let changed = |kind: Type| {
        let now = condition(after, kind)?;
        let same = condition(before, kind).is_some_and(|was| (&was.status, &was.reason) == (&now.status, &now.reason));
        (!same).then_some(now)
    };
    let refused = changed(Type::Accepted).filter(|accepted| accepted.status == State::False.as_str());
    let told = refused.or_else(|| changed(Type::Ready))?;
    let type_ = if told.status == State::True.as_str() { EventType::Normal } else { EventType::Warning };
    let mut note = told.message.clone();
    note.truncate(note.floor_char_boundary(NOTE_BYTES));
    Some(Event { type_, reason: told.reason.clone(), note: Some(note), action: "Sync".to_owned(), secondary: None })
}

fn condition(status: &PortForwardStatus, kind: Type) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> PortForwardStatus {
        let condition = |(type_, status, reason): &(&str, &str, &str)| Condition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "é".repeat(900),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        PortForwardStatus { conditions: conditions.iter().map(condition).collect(), ..PortForwardStatus::default() }
    }

    #[test]
    fn only_a_transition_is_an_event() {
        let ready = status(&[("Accepted", "True", "Accepted"), ("Ready", "True", "Ready")]);
        let conflict = status(&[("Accepted", "False", "Conflict"), ("Ready", "False", "Conflict")]);
        let reason = |before: &PortForwardStatus, after: &PortForwardStatus| event(before, after).map(|event| event.reason);
        assert_eq!(reason(&status(&[]), &ready), Some("Ready".to_owned()));
        assert_eq!(reason(&ready, &ready), None);
        assert_eq!(reason(&ready, &conflict), Some("Conflict".to_owned()));
        assert_eq!(reason(&conflict, &ready), Some("Ready".to_owned()));
        assert!(event(&status(&[]), &ready).unwrap().note.unwrap().len() <= NOTE_BYTES);
    }
    fn key(text: &str) -> ForwardKey {
        let (namespace, name) = text.split_once('/').unwrap();
        ForwardKey::new(namespace, name)
    }

    fn about(reason: &str) -> About {
        let action = "Sync".to_owned();
        (
            Event { type_: EventType::Normal, reason: reason.to_owned(), note: None, action, secondary: None },
            ObjectReference::default(),
        )
    }

    #[test]
    fn an_event_of_another_namespace_is_next_however_many_wait_in_one() {
        let (mut waiting, now) = (Waiting::new(), Instant::now());
        let added = (0..1000).filter(|name| waiting.add(&key(&format!("a/{name:03}")), about("Conflict"))).count();
        assert_eq!(added, WAITING_EACH);
        assert_eq!(waiting.next(now).ok().unwrap().0.reason, "Conflict");
        assert!(waiting.add(&key("z/web"), about("Ready")));
        assert_eq!(waiting.next(now).ok().unwrap().0.reason, "Ready");
        let more = (0..1000).take_while(|_| waiting.next(now).is_ok()).count();
        assert_eq!(more + 1, 100, "the burst of the first namespace");
        assert_eq!(waiting.next(now).err(), Some(Some(now + LIMITS.interval)));
    }

    #[test]
    fn of_one_object_the_newest_event_waits() {
        let (mut waiting, now) = (Waiting::new(), Instant::now());
        assert!(waiting.add(&key("a/web"), about("Conflict")) && waiting.add(&key("a/web"), about("Ready")));
        assert_eq!(waiting.next(now).ok().unwrap().0.reason, "Ready");
        assert_eq!(waiting.next(now).err(), Some(None));
    }

    #[test]
    fn a_namespace_without_a_waiting_event_has_room_for_one() {
        let mut waiting = Waiting::new();
        for namespace in 0..20 {
            let added =
                (0..WAITING_EACH).filter(|name| waiting.add(&key(&format!("a{namespace}/{name}")), about("Conflict"))).count();
            assert!(added == WAITING_EACH || added == 1, "{namespace}: {added}");
        }
        assert_eq!(waiting.events.len(), WAITING + 4, "each namespace after the limit keeps one");
        assert!(waiting.add(&key("z/web"), about("Ready")) && !waiting.add(&key("z/other"), about("Ready")));
    }
}
