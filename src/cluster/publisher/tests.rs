//! Tests which writes are made, in which order, with a store that does them.

use kube::core::Status;

use super::*;
use crate::api::{NodeStatus, Role};
use crate::cluster::Alive;
use crate::dataplane::Backend;
use crate::metrics::{Detail, PerForward};
use crate::source::{Snapshot, Undecoded};
use crate::status::{Circumstance, Judged, Standing, State, Type, unknown_form};

/// The objects of an API server. Each write gives another version.
#[derive(Default)]
struct Store {
    objects: BTreeMap<ForwardKey, (ObjectMeta, PortForwardStatus)>,
    version: u64,
}

impl Store {
    fn of(names: &[&str]) -> Self {
        let mut store = Self::default();
        for name in names {
            let key = key(name);
            let (namespace, name) = (Some(key.namespace.clone()), Some(key.name.clone()));
            let metadata = ObjectMeta { namespace, name, ..ObjectMeta::default() };
            store.put(&key, metadata, PortForwardStatus::default());
        }
        store
    }

    fn put(&mut self, key: &ForwardKey, metadata: ObjectMeta, status: PortForwardStatus) {
        self.version += 1;
        let metadata = ObjectMeta { resource_version: Some(self.version.to_string()), ..metadata };
        self.objects.insert(key.clone(), (metadata, status));
    }

    /// Makes a write. A summary that was computed from another version is refused.
    fn write(&mut self, key: &ForwardKey, subject: &Subject, write: &Write) -> Outcome {
        let (metadata, mut status) = self.objects[key].clone();
        match write {
            Write::Entry(entry) => {
                status.nodes.retain(|before| before.node_name != entry.node_name);
                status.nodes.push(entry.clone());
            }
            Write::Withdraw(node) => status.nodes.retain(|entry| entry.node_name != *node),
            Write::Summary(_) if subject.metadata.resource_version != metadata.resource_version => return Outcome::Overtaken,
            Write::Summary(summary) => status = PortForwardStatus { nodes: status.nodes, ..summary.clone() },
        }
        self.put(key, metadata, status);
        let (metadata, status) = self.objects[key].clone();
        let spec = serde_json::json!({
            "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
            "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
        });
        let object = PortForward { metadata, spec: serde_json::from_value(spec).unwrap(), status: Some(status) };
        Outcome::Written(Box::new(object))
    }

    /// What the agent knows after it has read the store, if it judges every object like this.
    fn known(&self, judgement: &Judgement) -> Known {
        let undecoded = |(key, (metadata, status)): (&ForwardKey, &(ObjectMeta, PortForwardStatus))| {
            let (metadata, status) = (metadata.clone(), Some(status.clone()));
            (key.clone(), Arc::new(Undecoded { metadata, status, error: String::new() }))
        };
        let snapshot = Snapshot { undecoded: self.objects.iter().map(undecoded).collect(), ..Snapshot::default() };
        let judgements = self.objects.keys().map(|key| (key.clone(), Arc::new(judgement.clone()))).collect();
        let report = Report { judgements, ..Report::default() };
        Known { report: Arc::new(report), snapshot: Arc::new(snapshot), live: px0() }
    }
}

/// Only this agent lives.
fn px0() -> Arc<Alive> {
    let all = BTreeSet::from(["px0".to_owned()]);
    Arc::new(Alive { peers: all.clone(), all, counting: None })
}

fn key(text: &str) -> ForwardKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ForwardKey::new(namespace, name)
}

/// The judgement of the active node, with this message.
fn judged(message: &str) -> Judgement {
    let ready = Judged::new(Type::Ready, State::True, Circumstance::Ready, message);
    Judgement { standing: Standing::Carried, role: Some(Role::Active), conditions: vec![ready], ..unknown_form(None, 1, "none") }
}

fn publisher() -> (Publisher, Outage) {
    let metrics = Metrics::new(Backend::default(), None, PerForward { detail: Detail::Off, limit: 0 });
    let outage = Outage::default();
    (Publisher::new("px0", outage.clone(), Events::unwritten(), Arc::new(metrics)), outage)
}

/// Makes the writes one after the other, and returns them.
fn writes(publisher: &mut Publisher, store: &mut Store, now: Instant) -> Vec<String> {
    let mut made = Vec::new();
    while let Some((key, subject, write)) = publisher.begin(now) {
        let outcome = store.write(&key, &subject, &write);
        made.push(format!("{key} {}", kind(&write)));
        publisher.conclude((key, subject, write, outcome), now);
    }
    made
}

fn kind(write: &Write) -> String {
    let text = |entry: &NodeStatus| entry.conditions[0].message.clone();
    match write {
        Write::Entry(entry) => format!("entry {}", text(entry)),
        Write::Withdraw(node) => format!("withdraw {node}"),
        Write::Summary(_) => "summary".to_owned(),
    }
}

fn failed(code: u16) -> Outcome {
    Outcome::Failed(Box::new(kube::Error::Api(Box::new(Status { code, ..Status::default() }))))
}

#[test]
fn the_first_report_of_a_generation_waits_for_no_rate_but_a_further_one_does() {
    let names: Vec<String> = (0..1_200).map(|name| format!("a/{name:04}")).collect();
    let mut store = Store::of(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let ((mut publisher, _), now) = (publisher(), Instant::now());
    publisher.learn(store.known(&judged("first")), now);
    assert_eq!(writes(&mut publisher, &mut store, now).len(), 2_400, "an entry and a summary each");
    publisher.learn(store.known(&judged("second")), now);
    assert_eq!(writes(&mut publisher, &mut store, now).len(), 2_000);
    publisher.learn(store.known(&Judgement { generation: 2, ..judged("third") }), now);
    assert_eq!(writes(&mut publisher, &mut store, now).len(), 0, "what came before takes the whole rate");
}

#[test]
fn one_object_is_completed_after_the_other_and_namespaces_take_turns() {
    let (mut store, now) = (Store::of(&["a/1", "a/2", "b/1"]), Instant::now());
    let (mut publisher, _) = publisher();
    publisher.learn(store.known(&judged("x")), now);
    let made = writes(&mut publisher, &mut store, now);
    assert_eq!(made, ["a/1 entry x", "b/1 entry x", "a/1 summary", "b/1 summary", "a/2 entry x", "a/2 summary"]);
    publisher.learn(store.known(&judged("x")), now);
    assert_eq!(writes(&mut publisher, &mut store, now), Vec::<String>::new(), "the watch shows them");
}

#[test]
fn an_object_that_changed_back_is_not_written() {
    let (mut store, now) = (Store::of(&["a/1"]), Instant::now());
    let (mut publisher, _) = publisher();
    publisher.learn(store.known(&judged("x")), now);
    writes(&mut publisher, &mut store, now);
    let before = store.known(&judged("x"));
    publisher.learn(store.known(&judged("y")), now);
    publisher.learn(before, now);
    assert_eq!(writes(&mut publisher, &mut store, now), Vec::<String>::new());
}

#[test]
fn of_many_changes_during_a_write_only_the_newest_is_written() {
    let (mut store, now) = (Store::of(&["a/1"]), Instant::now());
    let (mut publisher, _) = publisher();
    publisher.learn(store.known(&judged("x")), now);
    let (key, subject, write) = publisher.begin(now).unwrap();
    let outcome = store.write(&key, &subject, &write);
    for message in ["y", "z"] {
        publisher.learn(store.known(&judged(message)), now);
        assert!(publisher.begin(now).is_none(), "a write of this object is running");
    }
    publisher.conclude((key, subject, write, outcome), now);
    assert_eq!(writes(&mut publisher, &mut store, now), ["a/1 entry z", "a/1 summary"]);
}

/// Each further call would take its whole time limit.
#[test]
fn an_outage_stops_all_writes_until_a_pause_is_over_or_another_task_gets_an_answer() {
    let (mut store, now) = (Store::of(&["a/1", "b/1"]), Instant::now());
    let (mut publisher, outage) = publisher();
    publisher.learn(store.known(&judged("x")), now);
    let (key, subject, write) = publisher.begin(now).unwrap();
    publisher.conclude((key, subject, write, failed(503)), now);
    assert!(publisher.begin(now).is_none());
    publisher.learn(store.known(&judged("y")), now);
    assert!(publisher.begin(now).is_none(), "a newer report ends no outage");
    let wakes = publisher.wakes(now).expect("it tries again");
    let (key, subject, write) = publisher.begin(wakes).expect("after a pause");
    publisher.conclude((key, subject, write, failed(503)), wakes);
    Trouble::new("another task", outage).worked();
    publisher.learn(store.known(&judged("z")), wakes);
    assert_eq!(writes(&mut publisher, &mut store, wakes).len(), 4, "both objects");
}

#[test]
fn the_api_server_decides_how_long_to_wait() {
    let (store, now) = (Store::of(&["a/1"]), Instant::now());
    let (mut publisher, outage) = publisher();
    publisher.learn(store.known(&judged("x")), now);
    let (key, subject, write) = publisher.begin(now).unwrap();
    let details = serde_json::from_value(serde_json::json!({"retryAfterSeconds": 30})).unwrap();
    let status = Status { code: 429, details: Some(details), ..Status::default() };
    let outcome = Outcome::Failed(Box::new(kube::Error::Api(Box::new(status))));
    publisher.conclude((key, subject, write, outcome), now);
    Trouble::new("another task", outage).worked();
    publisher.learn(store.known(&judged("y")), now);
    assert!(publisher.begin(now + Duration::from_secs(29)).is_none());
    assert!(publisher.begin(now + Duration::from_secs(30)).is_some());
}

#[test]
fn an_object_that_is_refused_delays_no_other_and_is_tried_again() {
    for code in [403, 422, 500] {
        let (mut store, now) = (Store::of(&["a/1", "a/2", "b/1"]), Instant::now());
        let (mut publisher, outage) = publisher();
        publisher.learn(store.known(&judged("x")), now);
        let (key, subject, write) = publisher.begin(now).unwrap();
        assert_eq!(key.to_string(), "a/1");
        publisher.conclude((key, subject, write, failed(code)), now);
        assert!(outage.is_over(), "{code} is an answer");
        assert_eq!(writes(&mut publisher, &mut store, now).len(), 4, "{code}");
        let wakes = publisher.wakes(now).expect("it is tried again");
        publisher.expire(wakes);
        assert_eq!(writes(&mut publisher, &mut store, wakes), ["a/1 entry x", "a/1 summary"], "{code}");
    }
}

#[test]
fn a_write_that_was_overtaken_waits_for_the_newer_object() {
    let (mut store, now) = (Store::of(&["a/1"]), Instant::now());
    let (mut publisher, _) = publisher();
    publisher.learn(store.known(&judged("x")), now);
    let (key, subject, write) = publisher.begin(now).unwrap();
    publisher.conclude((key, subject, write, Outcome::Overtaken), now);
    assert!(publisher.begin(now).is_none());
    let (metadata, status) = store.objects[&self::key("a/1")].clone();
    store.put(&self::key("a/1"), metadata, status);
    publisher.learn(store.known(&judged("x")), now);
    assert_eq!(writes(&mut publisher, &mut store, now), ["a/1 entry x", "a/1 summary"]);
}
