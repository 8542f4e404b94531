//! The state that this node last applied. It is kept in memory for the next sync and sent to the writer of the record.
//!
//! The record always contains everything that may be in force. A translation is added as soon as it is attempted. It is
//! removed only when rules, routes and connections are all done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::key_of;
use super::recording::Records;
use crate::forward::{Forward, ForwardKey};
use crate::model::{Desired, Sight, Translation};
use crate::plan::{Candidate, InForce, Plan};
use crate::record::Record;
use crate::source::{Snapshot, Sourced};
use kube::core::ObjectMeta;

/// The state that this node last applied.
#[derive(Debug)]
pub struct Memory {
    record: Record,
    in_force: BTreeSet<Translation>,
    /// What is not in force, but may come back without being a new claim. The record contains it, so it survives a restart.
    suspended: BTreeSet<Translation>,
    /// The objects of sets that were applied only in part since the record was written.
    attempted: BTreeMap<ForwardKey, Sourced>,
    /// The flows that may be in force, with their forwards, for planning.
    flows: InForce,
    /// Whether a plan was applied completely since the start. Before that, the kernel may hold more than is known here.
    settled: bool,
    /// Whether a set was ever applied completely.
    complete: bool,
    /// The set that the record contains.
    set: Option<Arc<Snapshot>>,
    recorder: Option<Records>,
}

impl Memory {
    /// Starts from `record`, or empty.
    #[must_use]
    pub fn new(node: &str, record: Option<Record>) -> Self {
        let complete = record.is_some();
        let record = record.unwrap_or_else(|| Record { node: node.to_owned(), ..Record::default() });
        let in_force: BTreeSet<Translation> = record.in_force.iter().cloned().collect();
        let forwards: Vec<Forward> = record.forwards.iter().filter_map(|it| Forward::parse(&it.object).ok()).collect();
        let flows = InForce::recorded(&record.in_force, &forwards);
        let suspended = BTreeSet::new();
        Self {
            record,
            in_force,
            suspended,
            attempted: BTreeMap::new(),
            flows,
            settled: false,
            complete,
            set: None,
            recorder: None,
        }
    }

    /// The same, but each new record is sent to `recorder`.
    #[must_use]
    pub fn recorded_by(self, recorder: Records) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// The translations that are or may be in force.
    #[must_use]
    pub fn in_force(&self) -> &BTreeSet<Translation> {
        &self.in_force
    }

    /// The flows that are or may be in force.
    #[must_use]
    pub fn flows(&self) -> &InForce {
        &self.flows
    }

    /// Whether no plan was applied completely since the start. The kernel may then hold translations that are not known here.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        !self.settled
    }

    /// Notes that the kernel holds exactly the flows of `plan`.
    pub fn programmed(&mut self, plan: &Plan) {
        self.flows = InForce::of(&plan.verdicts);
        self.suspended = plan.suspended().cloned().collect();
        self.settled = true;
    }

    /// Notes that the kernel may hold some flows of `plan`.
    pub fn may_hold(&mut self, plan: &Plan) {
        self.flows.extend(&plan.verdicts);
        self.suspended.extend(plan.suspended().cloned());
    }

    /// The objects that were last applied.
    #[must_use]
    pub fn forwards(&self) -> &[Sourced] {
        &self.record.forwards
    }

    /// The objects that were last applied, as a complete set; `None` if there are none.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let Record { forwards, labels, api_servers, node_addresses, .. } = self.record.clone();
        // Addresses of API servers are recorded only if all of them are known. So they are unknown if the objects come from a
        // cluster and the record contains no address.
        let clustered = forwards.iter().any(|sourced| sourced.origin.is_none());
        let sight = if clustered && api_servers.is_empty() { Sight::Partial } else { Sight::Whole };
        let snapshot = Snapshot { forwards, labels, api_servers, sight, node_addresses, ..Snapshot::default() };
        (!snapshot.forwards.is_empty()).then(|| Arc::new(snapshot))
    }

    /// The objects that `snapshot` no longer contains, but of which something may be in force.
    #[must_use]
    pub fn gone(&self, snapshot: &Snapshot) -> BTreeMap<ForwardKey, Sourced> {
        let recorded = self.record.forwards.iter().map(|sourced| (Candidate::key(&sourced.object), sourced.clone()));
        let mut gone: BTreeMap<ForwardKey, Sourced> = recorded.chain(self.attempted.clone()).collect();
        for sourced in &snapshot.forwards {
            gone.remove(&Candidate::key(&sourced.object));
        }
        for undecoded in &snapshot.undecoded {
            gone.remove(&key_of(undecoded));
        }
        gone
    }

    /// Notes that `desired` was applied only in part: some of it may be in force.
    pub fn attempt(&mut self, snapshot: &Snapshot, desired: &Desired) {
        let objects = snapshot.forwards.iter().map(|sourced| (Candidate::key(&sourced.object), sourced.clone()));
        self.attempted.extend(objects);
        self.in_force.extend(desired.translations.iter().cloned());
        if self.complete && !self.records_flows() {
            self.record_flows();
            self.hand_on();
        }
    }

    /// Notes that `desired` was applied completely: rules, routes and connections.
    pub fn advance(&mut self, snapshot: &Arc<Snapshot>, desired: &Desired) {
        self.attempted.clear();
        self.in_force.clone_from(&desired.translations);
        let same_set = self.set.as_ref().is_some_and(|set| Arc::ptr_eq(set, snapshot)) || self.complete && self.says(snapshot);
        self.set = Some(Arc::clone(snapshot));
        // This compares with the record, because `in_force` may contain translations that were only attempted.
        if same_set && self.records_flows() {
            return;
        }
        self.complete = true;
        self.record.forwards.clone_from(&snapshot.forwards);
        self.record.labels.clone_from(&snapshot.labels);
        self.record.api_servers.clone_from(known(snapshot));
        self.record.node_addresses.clone_from(&snapshot.node_addresses);
        self.record_flows();
        self.hand_on();
    }

    fn record_flows(&mut self) {
        self.record.in_force = self.in_force.union(&self.suspended).cloned().collect();
    }

    /// Whether the record contains exactly the flows that are in force or suspended.
    fn records_flows(&self) -> bool {
        self.record.in_force.iter().eq(self.in_force.union(&self.suspended))
    }

    /// Whether the record has the content of `snapshot`. A change of status alone does not count, so it causes no write.
    fn says(&self, snapshot: &Snapshot) -> bool {
        let Record { forwards, labels, api_servers, node_addresses, .. } = &self.record;
        (labels, api_servers, node_addresses) == (&snapshot.labels, known(snapshot), &snapshot.node_addresses)
            && forwards.len() == snapshot.forwards.len()
            && forwards.iter().zip(&snapshot.forwards).all(|(a, b)| same_but_status(a, b))
    }

    fn hand_on(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.send(Arc::new(self.record.clone()));
        }
    }

    /// Waits a short time for the disk to write the sent records; see `Records::settle`.
    pub async fn settle(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.settle().await;
        }
    }
}

/// The addresses of the API servers if all of them are known, otherwise none.
fn known(snapshot: &Snapshot) -> &BTreeSet<IpAddr> {
    static NONE: BTreeSet<IpAddr> = BTreeSet::new();
    match snapshot.sight {
        Sight::Whole => &snapshot.api_servers,
        Sight::Partial => &NONE,
    }
}

/// Whether two objects are equal in the record, which contains no status.
fn same_but_status(a: &Sourced, b: &Sourced) -> bool {
    let lasting = |metadata: &ObjectMeta| ObjectMeta { resource_version: None, managed_fields: None, ..metadata.clone() };
    let same_object = Arc::ptr_eq(&a.object, &b.object)
        || (a.object.spec == b.object.spec && lasting(&a.object.metadata) == lasting(&b.object.metadata));
    same_object && a.origin == b.origin
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::agent::recording::{Due, recording};
    use crate::model::{Destination, FlowMatch, PortRange, Protocol, SourceNat, TargetPorts};

    fn desired(ports: &[u16]) -> Desired {
        let translation = |port: &u16| Translation {
            flows: FlowMatch {
                protocol: Protocol::Tcp,
                destination: "192.168.0.2".parse().unwrap(),
                ports: {
                    let port = NonZeroU16::new(*port).unwrap();
                    PortRange::new(port, port).unwrap()
                },
                source: "1.1.1.1/32".parse().unwrap(),
                interface: None,
            },
            destination: Destination { address: "3.3.3.3".parse().unwrap(), ports: TargetPorts::Same },
            source: SourceNat::Masquerade,
        };
        Desired { translations: ports.iter().map(translation).collect(), ..Desired::default() }
    }

    /// A set of one object with this active node in its status.
    fn set(active_node: &str) -> Arc<Snapshot> {
        let object = serde_json::json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "a", "namespace": "b"},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
            },
        });
        let mut object = crate::api::decode(object).unwrap();
        object.metadata.resource_version = Some(active_node.to_owned());
        object.status.get_or_insert_default().active_node = Some(active_node.to_owned());
        Arc::new(Snapshot {
            forwards: vec![Sourced { object: Arc::new(object), origin: None, trouble: None }],
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            api_servers: ["10.0.0.1".parse().unwrap()].into(),
            node_addresses: ["192.168.7.1".parse().unwrap()].into(),
            ..Snapshot::default()
        })
    }

    /// A memory, and the receiver of its records.
    struct Recorded {
        memory: Memory,
        due: Due,
    }

    impl Recorded {
        fn new(record: Option<Record>) -> Self {
            let (records, due) = recording();
            Self { memory: Memory::new("a", record).recorded_by(records), due }
        }

        /// The ports in the newest record, if there is a new one.
        fn due(&mut self) -> Option<Vec<u16>> {
            let newest = self.due.newest()?;
            Some(newest.in_force.iter().map(|it| it.flows.ports.first()).collect())
        }
    }

    #[test]
    fn the_record_names_all_that_may_be_in_force_until_it_is_done() {
        let mut recorded = Recorded::new(None);
        recorded.memory.attempt(&Snapshot::default(), &desired(&[80]));
        assert_eq!(recorded.due(), None, "nothing was ever applied completely, so there is nothing to restore");
        recorded.memory.advance(&set("x"), &desired(&[80]));
        assert_eq!(recorded.due(), Some(vec![80]));
        recorded.memory.attempt(&Snapshot::default(), &desired(&[81]));
        assert_eq!(recorded.due(), Some(vec![80, 81]));
        recorded.memory.attempt(&Snapshot::default(), &desired(&[81]));
        assert_eq!(recorded.due(), None, "the same state again");
        recorded.memory.attempt(&Snapshot::default(), &desired(&[82]));
        assert_eq!(recorded.due(), Some(vec![80, 81, 82]));
        recorded.memory.advance(&set("x"), &desired(&[82]));
        assert_eq!(recorded.due(), Some(vec![82]));
    }

    #[test]
    fn the_record_keeps_what_may_come_back_without_being_a_new_claim() {
        use crate::plan::{Acceptance, Verdict};
        let mut recorded = Recorded::new(None);
        let suspended = desired(&[80]).translations.into_iter().collect();
        let verdict = Verdict { suspended, ..Verdict::new(None, 1, Acceptance::Accepted, None) };
        let key = ForwardKey { namespace: "b".to_owned(), name: "a".to_owned() };
        recorded.memory.programmed(&Plan { verdicts: [(key, verdict)].into(), ..Plan::default() });
        recorded.memory.advance(&set("x"), &desired(&[81]));
        assert_eq!(recorded.due(), Some(vec![80, 81]));
        assert_eq!(recorded.memory.in_force(), &desired(&[81]).translations, "it is not in the kernel");
        recorded.memory.advance(&set("x"), &desired(&[81]));
        assert_eq!(recorded.due(), None, "nothing is new");
        recorded.memory.programmed(&Plan::default());
        recorded.memory.advance(&set("x"), &desired(&[81]));
        assert_eq!(recorded.due(), Some(vec![81]));
    }

    #[test]
    fn addresses_of_api_servers_that_may_not_be_all_are_not_recorded_as_if_they_were() {
        let mut recorded = Recorded::new(None);
        let partly = Arc::new(Snapshot { sight: Sight::Partial, ..Snapshot::clone(&set("x")) });
        recorded.memory.advance(&partly, &Desired::default());
        let record = recorded.due.newest().as_deref().cloned();
        let restarted = Memory::new("a", record).snapshot().unwrap();
        assert_eq!((restarted.sight, restarted.api_servers.len()), (Sight::Partial, 0));
    }

    #[test]
    fn a_change_of_status_alone_is_no_new_record() {
        let mut recorded = Recorded::new(None);
        recorded.memory.advance(&set("x"), &desired(&[80]));
        recorded.due();
        recorded.memory.advance(&set("y"), &desired(&[80]));
        assert_eq!(recorded.due(), None);
        let relabelled = Arc::new(Snapshot { labels: [].into(), ..Snapshot::clone(&set("y")) });
        recorded.memory.advance(&relabelled, &desired(&[80]));
        assert_eq!(recorded.due(), Some(vec![80]));
    }

    #[test]
    fn a_restart_with_the_same_set_is_no_new_record() {
        let mut recorded = Recorded::new(None);
        recorded.memory.advance(&set("x"), &desired(&[80]));
        let record = recorded.due.newest().as_deref().cloned();
        let mut restarted = Recorded::new(record);
        restarted.memory.advance(&set("y"), &desired(&[80]));
        assert_eq!(restarted.due(), None);
    }

    #[test]
    fn what_the_api_server_said_is_there_after_a_restart() {
        let mut recorded = Recorded::new(None);
        recorded.memory.advance(&set("x"), &Desired::default());
        let record = recorded.due.newest().as_deref().cloned();
        assert_eq!(Memory::new("a", record).snapshot(), Some(set("x")));
    }
}
