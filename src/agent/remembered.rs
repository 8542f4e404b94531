//! What this node last applied: in memory for the next sync, on disk for the next start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{info, warn};

use super::SourceText;
use crate::model::{Desired, Translation};
use crate::record::{self, Record};
use crate::source::{Snapshot, Sourced};

/// What this node last applied.
#[derive(Debug)]
pub struct Memory {
    state_dir: PathBuf,
    record: Record,
    in_force: BTreeSet<Translation>,
    /// Whether the record on disk could be written last time; a change is told once.
    storable: bool,
    /// The set that the record on disk was written from.
    stored: Option<Arc<Snapshot>>,
}

impl Memory {
    /// Goes on from `record`, or from nothing.
    #[must_use]
    pub fn new(state_dir: PathBuf, node: &str, record: Option<Record>) -> Self {
        let record = record.unwrap_or_else(|| Record { node: node.to_owned(), ..Record::default() });
        let in_force: BTreeSet<Translation> = record.in_force.iter().cloned().collect();
        Self { state_dir, record, in_force, storable: true, stored: None }
    }

    /// The translations that are, or may be, in force.
    #[must_use]
    pub fn in_force(&self) -> &BTreeSet<Translation> {
        &self.in_force
    }

    /// The objects that were last applied.
    #[must_use]
    pub fn forwards(&self) -> &[Sourced] {
        &self.record.forwards
    }

    /// The objects that were last applied, as a complete set; `None` if there never were any.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let Record { forwards, labels, api_servers, .. } = self.record.clone();
        (!forwards.is_empty()).then(|| Arc::new(Snapshot { forwards, labels, api_servers, ..Snapshot::default() }))
    }

    /// Whether the record could be written when it last was due.
    #[must_use]
    pub const fn is_stored(&self) -> bool {
        self.storable
    }

    /// Remembers that not everything of `desired` is done: some of it may be in force.
    pub fn attempt(&mut self, desired: &Desired) {
        self.in_force.extend(desired.translations.iter().cloned());
    }

    /// Remembers that everything is done: rules, routes and connections.
    pub fn advance(&mut self, snapshot: &Arc<Snapshot>, desired: &Desired) {
        let same_set = self.stored.as_ref().is_some_and(|stored| Arc::ptr_eq(stored, snapshot));
        // Compared with what is on disk: `in_force` may hold what was only attempted.
        if same_set && self.record.in_force.iter().eq(&desired.translations) {
            self.in_force.clone_from(&desired.translations);
            return;
        }
        self.record.forwards.clone_from(&snapshot.forwards);
        self.record.labels.clone_from(&snapshot.labels);
        self.record.api_servers.clone_from(&snapshot.api_servers);
        self.record.in_force = desired.translations.iter().cloned().collect();
        self.in_force.clone_from(&desired.translations);
        let stored = record::store(&self.state_dir, &self.record);
        match (&stored, self.storable) {
            (Ok(_), false) => info!("the record can be written again"),
            (Err(error), true) => {
                warn!(%error, cause = error.source_text(), "the record cannot be written: a reboot would bring back an older state");
            }
            (Ok(_), true) | (Err(_), false) => {}
        }
        self.storable = stored.is_ok();
        self.stored = stored.is_ok().then(|| Arc::clone(snapshot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Destination, FlowMatch, PortRange, Protocol, SourceNat, TargetPorts};

    #[test]
    fn what_was_attempted_first_is_recorded_once_it_is_done() {
        let flows = FlowMatch {
            protocol: Protocol::Tcp,
            destination: "192.168.0.2".parse().unwrap(),
            ports: PortRange::ALL,
            source: "1.1.1.1/32".parse().unwrap(),
            interface: None,
        };
        let destination = Destination { address: "3.3.3.3".parse().unwrap(), ports: TargetPorts::Same };
        let translation = Translation { flows, destination, source: SourceNat::Masquerade };
        let desired = Desired { translations: [translation.clone()].into(), ..Desired::default() };
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let mut memory = Memory::new(state.clone(), "a", None);
        let snapshot = Arc::new(Snapshot::default());
        memory.advance(&snapshot, &Desired::default());
        memory.attempt(&desired);
        memory.advance(&snapshot, &desired);
        assert_eq!(record::load(&state, "a").unwrap().unwrap().record.in_force, [translation]);
    }

    #[test]
    fn what_the_api_server_said_is_there_after_a_restart() {
        let object = serde_json::json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "a", "namespace": "b"},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
            },
        });
        let object = Arc::new(crate::api::decode(object).unwrap());
        let snapshot = Arc::new(Snapshot {
            forwards: vec![Sourced { object, origin: None, trouble: None }],
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            api_servers: ["10.0.0.1".parse().unwrap()].into(),
            ..Snapshot::default()
        });
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        Memory::new(state.clone(), "a", None).advance(&snapshot, &Desired::default());
        let record = record::load(&state, "a").unwrap().unwrap().record;
        assert_eq!(Memory::new(state, "a", Some(record)).snapshot(), Some(snapshot));
    }
}
