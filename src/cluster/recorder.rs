//! Writes Kubernetes events: one for each change of an object's summary. The agent that writes the summary writes the event.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::ObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use tokio::sync::mpsc;
use tracing::debug;

use super::DEADLINE;
use super::trouble::{Outage, Trouble};
use crate::api::{PortForward, PortForwardStatus};
use crate::status::{State, Type};
use crate::supervise::Tasks;

/// The maximum length of a note in bytes (events.k8s.io/v1: "1kB").
const NOTE_BYTES: usize = 1000;

/// The number of events that may wait. Further events are dropped.
const QUEUE: usize = 256;

/// Records events in a separate task, so that a slow or lost event delays no status.
#[derive(Clone)]
pub(super) struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// Must be called within a tokio runtime.
    pub(super) fn new(client: Client, outage: Outage, node: &str, tasks: &mut Tasks) -> Self {
        let reporter = Reporter { controller: "portforward.dev/agent".to_owned(), instance: Some(node.to_owned()) };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let task = publish(Recorder::new(client, reporter), Trouble::new("events", outage), waiting);
        tasks.spawn("writer of events", task);
        Self { queue }
    }

    /// Records the change between two summaries of the object with `metadata`.
    pub(super) fn record(&self, metadata: &ObjectMeta, before: &PortForwardStatus, after: &PortForwardStatus) {
        let Some(event) = event(before, after) else { return };
        let reference = ObjectReference {
            api_version: Some(PortForward::api_version(&()).into_owned()),
            kind: Some(PortForward::kind(&()).into_owned()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        };
        if self.queue.try_send((event, reference)).is_err() {
            debug!(namespace = metadata.namespace, name = metadata.name, "too many events wait; this one is dropped");
        }
    }
}

async fn publish(recorder: Recorder, mut trouble: Trouble, mut waiting: mpsc::Receiver<(Event, ObjectReference)>) {
    while let Some((event, reference)) = waiting.recv().await {
        match tokio::time::timeout(DEADLINE, recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => trouble.worked(),
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
}
