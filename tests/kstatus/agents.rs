//! Computes the status of an object with the real status code: several agents, each with its judgement, write one after the
//! other until none has anything to write. A summary that may be temporary is written last, because the agents delay it for 3
//! s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use portforward_operator::api::{self, PortForwardStatus};
use portforward_operator::status::{Contest, Judgement, Ruling, View, Write, unfollowed};
use serde_json::{Value, json};

/// One object and its live agents.
pub(crate) struct Agents {
    object: Value,
    status: PortForwardStatus,
    says: BTreeMap<String, Judgement>,
}

/// Which agent writes first if several have something to write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum First {
    /// The first by name.
    Lowest,
    /// The last by name.
    Highest,
}

/// The example of this project, as the API server stores it before an agent has seen it.
fn unseen_object() -> Value {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bank-a-web.yaml"));
    let mut object: Value = serde_saphyr::from_str(text).expect("the example is an object");
    let schema = serde_json::to_value(api::Kind::PortForward.crd()).expect("a definition is JSON");
    let schema = schema.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("the definition has a schema");
    // The first pass gives it a status, the second one sets the defaults in the status.
    object = kube::core::cel::apply_defaults(schema, &kube::core::cel::apply_defaults(schema, &object));
    object["metadata"]["generation"] = json!(1);
    object["metadata"]["uid"] = json!("3b1f2a34-5c6d-4e7f-8091-a2b3c4d5e6f7");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    object
}

impl Agents {
    /// A new object that these agents have seen and that has no status entries.
    pub(crate) fn new(says: &[(&str, Judgement)]) -> Self {
        static UNSEEN: LazyLock<Value> = LazyLock::new(unseen_object);
        let object = UNSEEN.clone();
        let status = serde_json::from_value(object["status"].clone()).expect("the definition has a default status");
        let mut agents = Self { object, status, says: BTreeMap::new() };
        agents.say(says);
        agents
    }

    /// Sets the live agents and their judgements.
    pub(crate) fn say(&mut self, says: &[(&str, Judgement)]) {
        self.says = says.iter().map(|(node, judgement)| ((*node).to_owned(), judgement.clone())).collect();
    }

    /// A user changes the spec.
    pub(crate) fn edit(&mut self) {
        let generation = self.object["metadata"]["generation"].as_i64().expect("an object has a generation");
        self.object["metadata"]["generation"] = json!(generation + 1);
    }

    /// A user deletes it while a finalizer of another program keeps it. The API server counts this as a change.
    pub(crate) fn delete(&mut self) {
        self.edit();
        self.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
        self.object["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    }

    /// Its labels change, so that none of the agents follows it any more. Returns the object after their last write.
    pub(crate) fn left(mut self) -> Value {
        self.course(First::Lowest);
        self.status.nodes.clear();
        let generation = self.object["metadata"]["generation"].as_i64().expect("an object has a generation");
        self.status = unfollowed(&self.status, generation, Timestamp::UNIX_EPOCH);
        self.object()
    }

    /// The object as the API server holds it.
    pub(crate) fn object(&self) -> Value {
        let mut object = self.object.clone();
        object["status"] = serde_json::to_value(&self.status).expect("a status is JSON");
        object
    }

    /// Lets the agents write until none has anything to write. Returns the object.
    pub(crate) fn settle(mut self) -> Value {
        self.course(First::Lowest);
        self.object()
    }

    /// The same. Returns the object after each write.
    pub(crate) fn course(&mut self, first: First) -> Vec<Value> {
        let mut seen = Vec::new();
        while let Some(write) = self.next(first) {
            match write {
                Write::Entry(entry) => {
                    self.status.nodes.retain(|other| other.node_name != entry.node_name);
                    self.status.nodes.push(entry);
                }
                Write::Withdraw(node) => self.status.nodes.retain(|entry| entry.node_name != node),
                Write::Summary(summary) => self.status = summary,
            }
            seen.push(self.object());
            assert!(seen.len() < 100, "the agents never come to rest: {:#}", self.object());
        }
        seen
    }

    /// Somebody overwrites the summary again and again with this one, and the agents write theirs again.
    pub(crate) fn contested(mut self, forged: &PortForwardStatus) -> Value {
        let mut contest = Contest::default();
        let at = |second| Timestamp::from_second(second).expect("a second is a time");
        for second in 0..6 {
            self.course(First::Lowest);
            contest.wrote(&Write::Summary(self.status.clone()));
            contest.look(&self.status, None, at(second));
            self.status = PortForwardStatus { nodes: self.status.nodes.clone(), ..forged.clone() };
            contest.look(&self.status, self.next(First::Lowest).as_ref(), at(second));
        }
        match contest.rule(&self.status, self.next(First::Lowest), at(100)) {
            Ruling::Write(Write::Summary(summary)) => self.status = summary,
            ruling @ (Ruling::Write(_) | Ruling::Rest | Ruling::Later) => panic!("{ruling:?}"),
        }
        self.object()
    }

    fn next(&self, first: First) -> Option<Write> {
        let live: BTreeSet<String> = self.says.keys().cloned().collect();
        let generation = self.object["metadata"]["generation"].as_i64();
        let mut due: Vec<(Duration, Write)> = Vec::new();
        for (node, judgement) in &self.says {
            let view = View { node, judgement, status: &self.status, live: &live, peers: &live, generation };
            due.extend(view.next(Timestamp::UNIX_EPOCH).map(|write| (view.patience(&write), write)));
        }
        if matches!(first, First::Highest) {
            due.reverse();
        }
        due.sort_by_key(|(patience, _)| *patience);
        due.into_iter().next().map(|(_, write)| write)
    }
}
