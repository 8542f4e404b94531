//! Tests which objects are looked at, and what is done about each, by what the API server has of it.

use super::*;
use crate::api::{NodeStatus, Role};
use crate::cluster::Alive;
use crate::source::Undecoded;
use crate::status::{Judgement, Standing, unknown_form};

fn selector() -> ForwardSelector {
    "pool=edge".parse().unwrap()
}

fn key(name: &str) -> ForwardKey {
    ForwardKey::new("a", name)
}

fn status(nodes: &[&str], active: Option<&str>) -> PortForwardStatus {
    let entry = |node: &&str| NodeStatus {
        node_name: (*node).to_owned(),
        role: Role::Active,
        observed_generation: Some(1),
        conditions: Vec::new(),
    };
    PortForwardStatus {
        observed_generation: Some(1),
        active_node: active.map(str::to_owned),
        nodes: nodes.iter().map(entry).collect(),
        ..PortForwardStatus::default()
    }
}

fn metadata(name: &str, version: &str, pool: &str) -> ObjectMeta {
    let text = |text: &str| Some(text.to_owned());
    let labels = Some(BTreeMap::from([("pool".to_owned(), pool.to_owned())]));
    let (generation, resource_version) = (Some(1), text(version));
    ObjectMeta {
        namespace: text("a"),
        name: text(name),
        uid: text("1"),
        generation,
        resource_version,
        labels,
        ..ObjectMeta::default()
    }
}

fn found(version: &str, pool: &str, status: PortForwardStatus) -> Found {
    Found { metadata: metadata("x", version, pool), status }
}

/// The set of these objects, each with the entries of these nodes.
fn set(objects: &[(&str, &[&str])]) -> Arc<Snapshot> {
    let object = |(name, nodes): &(&str, &[&str])| {
        let metadata = metadata(name, "1", "edge");
        let undecoded = Undecoded { metadata, status: Some(status(nodes, None)), error: String::new() };
        (ForwardKey::named(&undecoded.metadata), Arc::new(undecoded))
    };
    Arc::new(Snapshot { undecoded: objects.iter().map(object).collect(), ..Snapshot::default() })
}

fn live(names: &[&str]) -> Arc<Alive> {
    let all: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Arc::new(Alive { peers: all.clone(), all, counting: None })
}

/// A report on these objects, with this role.
fn report(names: &[&str], role: Option<Role>) -> Report {
    let judgement = Judgement { standing: Standing::Carried, role, ..unknown_form(None, 1, "a") };
    Report { judgements: names.iter().map(|name| (key(name), Arc::new(judgement.clone()))).collect(), ..Report::default() }
}

fn left(withdrew: bool, since: Instant) -> Left {
    Left { uid: Some("1".to_owned()), since, withdrew, still: None }
}

fn peers() -> BTreeSet<String> {
    BTreeSet::from(["px0".to_owned(), "px1".to_owned()])
}

/// The names of those whose turn comes.
fn turns(leaving: &mut Leaving, now: Instant) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(key) = leaving.begin(now) {
        leaving.turns.end(&key);
        names.push(key.name.clone());
    }
    names
}

#[test]
fn an_object_that_is_deleted_replaced_or_selected_again_is_left_alone() {
    let now = Instant::now();
    let next = |found: Option<&Found>| left(false, now).next("px1", &selector(), &peers(), found, now);
    assert_eq!(next(None), Next::Done);
    assert_eq!(next(Some(&found("7", "edge", status(&["px1"], None)))), Next::Done, "the watch shows it again");
    let mut other = found("7", "core", status(&["px1"], None));
    other.metadata.uid = Some("2".to_owned());
    assert_eq!(next(Some(&other)), Next::Done, "another object of this name");
    let entry = Next::Write(Write::Withdraw("px1".to_owned()));
    assert_eq!(next(Some(&found("7", "core", status(&["px0", "px1"], None)))), entry);
}

#[test]
fn the_last_agent_that_leaves_writes_the_summary_if_nobody_else_writes_for_a_moment() {
    let start = Instant::now();
    let mut last = left(true, start);
    let mut next = |version: &str, status: PortForwardStatus, at| {
        last.next("px1", &selector(), &peers(), Some(&found(version, "core", status)), start + at)
    };
    let (zero, half) = (Duration::ZERO, SETTLE / 2);
    let orphan = || status(&[], Some("px0"));
    assert_eq!(next("7", status(&["px0"], Some("px0")), zero), Next::Wait(start + LAST_LOOK), "px0 leaves after this one");
    assert_eq!(next("7", orphan(), zero), Next::Wait(start + SETTLE));
    assert_eq!(next("8", orphan(), half), Next::Wait(start + half + SETTLE), "somebody has written");
    assert_eq!(next("8", orphan(), SETTLE), Next::Wait(start + half + SETTLE));
    let Next::Write(Write::Summary(summary)) = next("8", orphan(), half + SETTLE) else { panic!("nobody corrects it") };
    assert_eq!(summary.active_node, None);
    assert_eq!(next("9", summary.clone(), SETTLE * 2), Next::Wait(start + LAST_LOOK), "it is said");
    assert_eq!(next("9", summary, LAST_LOOK), Next::Done);
    assert_eq!(next("9", status(&["core0"], Some("core0")), LAST_LOOK), Next::Done, "another pool follows it");
}

#[test]
fn without_entries_the_first_agent_of_the_pool_corrects_the_summary() {
    let now = Instant::now();
    let next = |node: &str| {
        let mut refused = left(false, now);
        let found = found("7", "core", status(&[], None));
        refused.next(node, &selector(), &peers(), Some(&found), now);
        refused.next(node, &selector(), &peers(), Some(&found), now + SETTLE)
    };
    assert!(matches!(next("px0"), Next::Write(Write::Summary(_))));
    assert_eq!(next("px1"), Next::Wait(now + LAST_LOOK));
}

/// A write of the entry that began before the label changed may come after the first look.
#[test]
fn an_entry_that_comes_late_is_removed_at_the_last_look() {
    let start = Instant::now();
    let mut late = left(true, start);
    let mut next = |status, at| late.next("px1", &selector(), &peers(), Some(&found("7", "core", status)), start + at);
    assert_eq!(next(status(&["core0"], Some("core0")), Duration::ZERO), Next::Wait(start + LAST_LOOK));
    assert!(LAST_LOOK > DEADLINE, "the write has failed or is done by then");
    assert_eq!(next(status(&["core0", "px1"], Some("core0")), LAST_LOOK), Next::Write(Write::Withdraw("px1".to_owned())));
}

#[test]
fn an_object_is_looked_at_once_the_kernel_holds_nothing_of_it() {
    let now = Instant::now();
    let mut leaving = Leaving::new("px1", selector(), Arc::default());
    leaving.learn(&set(&[("x", &["px1"]), ("y", &["px1"])]), None, &Some(live(&["px0", "px1"])), now);
    let active = report(&["x", "y"], Some(Role::Active));
    leaving.learn(&set(&[("y", &["px1"])]), Some(&active), &Some(live(&["px0", "px1"])), now);
    leaving.closed(&active);
    assert_eq!(turns(&mut leaving, now), [""; 0], "the report still has it");
    leaving.closed(&report(&["y"], Some(Role::Active)));
    assert_eq!(turns(&mut leaving, now), ["x"]);
    leaving.conclude(&key("x"), Ok(Next::Wait(now + SETTLE)), &mut Trouble::new("a", super::super::Outage::default()), now);
    assert_eq!(turns(&mut leaving, now), [""; 0]);
    assert_eq!(turns(&mut leaving, now + SETTLE), ["x"], "the next look");
    leaving.conclude(&key("x"), Ok(Next::Wait(now)), &mut Trouble::new("a", super::super::Outage::default()), now);
    leaving.learn(&set(&[("x", &[]), ("y", &["px1"])]), Some(&active), &Some(live(&["px0", "px1"])), now);
    assert_eq!(turns(&mut leaving, now + SETTLE), [""; 0], "it is selected again");
}

/// A deletion is a request for each object and agent that may have an entry, and not for each agent.
#[test]
fn a_node_that_cannot_have_an_entry_asks_nothing() {
    let now = Instant::now();
    let asks = |nodes: &[&str], role, agents: &[&str]| {
        let mut leaving = Leaving::new("px1", selector(), Arc::default());
        leaving.learn(&set(&[("x", nodes)]), None, &Some(live(agents)), now);
        leaving.learn(&set(&[]), Some(&report(&["x"], role)), &Some(live(agents)), now);
        leaving.closed(&Report::default());
        !turns(&mut leaving, now).is_empty()
    };
    assert!(!asks(&["px0"], None, &["px0", "px1"]));
    assert!(asks(&["px0", "px1"], None, &["px0", "px1"]), "it has an entry");
    assert!(asks(&["px0"], Some(Role::Standby), &["px0", "px1"]), "it may be about to write one");
    assert!(asks(&[], None, &["px1", "px2"]), "it may have to correct the summary");
    let mut restarted = Leaving::new("px1", selector(), set(&[("x", &[])]));
    restarted.learn(&set(&[]), None, &Some(live(&["px0", "px1"])), now);
    restarted.closed(&Report::default());
    assert_eq!(turns(&mut restarted, now), ["x"], "the record has no status");
}
