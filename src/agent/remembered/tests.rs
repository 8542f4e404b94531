//! Uses the receiver of the records, without a disk.

use std::num::NonZeroU16;

use super::*;
use crate::agent::recording::{Due, recording};
use crate::api::PortForwardStatus;
use crate::model::{Destination, FlowMatch, Nodes, PortRange, Protocol, SourceNat, TargetPorts};
use crate::source::Stored;

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
    let sourced = Sourced::of(Arc::new(crate::api::decode(object).unwrap()), None);
    let status = PortForwardStatus { active_node: Some(active_node.to_owned()), ..PortForwardStatus::default() };
    let stored = Stored { version: Some(active_node.to_owned()), status: Some(status) };
    Arc::new(Snapshot {
        forwards: [Sourced { stored: Some(Arc::new(stored)), ..sourced }].into_iter().collect(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        api_servers: ["10.0.0.1".parse().unwrap()].into(),
        node_addresses: ["192.168.7.1".parse().unwrap()].into(),
        services: ["10.96.0.0/12".parse().unwrap()].into(),
        nodes: Arc::new(Nodes { pods: ["10.244.1.0/24".parse().unwrap()].into(), ..Nodes::default() }),
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
        let newest = self.due.newest()?.record;
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
    let key = ForwardKey::new("b", "a");
    recorded.memory.programmed(
        &Plan { verdicts: [(key, Box::new(verdict))].into(), ..Plan::default() },
        &BTreeMap::new(),
        &Origin::default(),
    );
    recorded.memory.advance(&set("x"), &desired(&[81]));
    assert_eq!(recorded.due(), Some(vec![80, 81]));
    assert_eq!(recorded.memory.in_force(), &desired(&[81]).translations, "it is not in the kernel");
    recorded.memory.advance(&set("x"), &desired(&[81]));
    assert_eq!(recorded.due(), None, "nothing is new");
    recorded.memory.programmed(&Plan::default(), &BTreeMap::new(), &Origin::default());
    recorded.memory.advance(&set("x"), &desired(&[81]));
    assert_eq!(recorded.due(), Some(vec![81]));
}

#[test]
fn addresses_of_api_servers_that_may_not_be_all_are_not_recorded_as_if_they_were() {
    let mut recorded = Recorded::new(None);
    let partly = Arc::new(Snapshot { sight: Sight::Partial, ..Snapshot::clone(&set("x")) });
    recorded.memory.advance(&partly, &Desired::default());
    let record = recorded.due.newest().map(|step| Record::clone(&step.record));
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
fn a_restart_with_the_same_set_confirms_the_record_once() {
    let mut recorded = Recorded::new(None);
    recorded.memory.advance(&set("x"), &desired(&[80]));
    let record = recorded.due.newest().map(|step| Record::clone(&step.record));
    let mut restarted = Recorded::new(record.clone());
    restarted.memory.advance(&set("y"), &desired(&[80]));
    assert_eq!(restarted.due.newest().map(|step| (Record::clone(&step.record), step.next)), record.map(|same| (same, None)));
    restarted.memory.advance(&set("z"), &desired(&[80]));
    assert_eq!(restarted.due(), None);
}

#[tokio::test]
async fn another_set_is_announced_once_before_it_is_applied_and_is_no_longer_when_it_is_done() {
    let mut recorded = Recorded::new(None);
    let (first, empty) = (set("x"), Arc::new(Snapshot { forwards: Forwards::default(), ..Snapshot::clone(&set("x")) }));
    recorded.memory.intend(RequireGrants::No, &first).await;
    assert_eq!(recorded.due(), None, "nothing is recorded that could be restored");
    recorded.memory.advance(&first, &desired(&[80]));
    recorded.due();
    recorded.memory.intend(RequireGrants::No, &set("y")).await;
    assert_eq!(recorded.due(), None, "only the status differs");
    recorded.memory.intend(RequireGrants::No, &empty).await;
    let step = recorded.due.newest().unwrap();
    assert_eq!((step.record.forwards.len(), step.next.unwrap().forwards.len()), (1, 0));
    recorded.memory.attempt(&empty, &desired(&[81]));
    let step = recorded.due.newest().unwrap();
    assert!(step.record.forwards.len() == 1 && step.next.is_some(), "it is applied only in part");
    recorded.memory.intend(RequireGrants::No, &empty).await;
    assert_eq!(recorded.due(), None, "it is announced already");
    recorded.memory.advance(&empty, &desired(&[]));
    let step = recorded.due.newest().unwrap();
    assert!(step.record.forwards.is_empty() && step.next.is_none());
}

#[tokio::test]
async fn a_change_that_is_taken_back_before_it_was_done_is_no_longer_announced() {
    let mut recorded = Recorded::new(None);
    recorded.memory.advance(&set("x"), &desired(&[80]));
    recorded.due();
    recorded.memory.intend(RequireGrants::No, &Arc::default()).await;
    assert!(recorded.due.newest().unwrap().next.is_some());
    recorded.memory.intend(RequireGrants::No, &set("x")).await;
    recorded.memory.advance(&set("x"), &desired(&[80]));
    assert!(recorded.due.newest().unwrap().next.is_none());
}

#[test]
fn what_the_api_server_said_is_there_after_a_restart() {
    let mut recorded = Recorded::new(None);
    recorded.memory.advance(&set("x"), &Desired::default());
    let record = recorded.due.newest().map(|step| Record::clone(&step.record));
    assert_eq!(Memory::new("a", record).snapshot(), Some(set("x")));
}
