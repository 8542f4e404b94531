//! Tests an API server that is absent, hangs, loses its history or refuses: the kernel keeps its state and is repaired, the log
//! has one line for each cause, and everything converges afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::bed::{SECOND_SERVER, SERVER};
use crate::fleet::{Fleet, LINES, REFUSED, WEB, spec, web};
use crate::plane::Resource;
use crate::plane::access::{AGENT, SYSTEM};
use crate::plane::objects::PATIENCE;

/// Longer than a watch lasts (25 s) and longer than a client waits for a silent server (35 s), also on a busy machine.
const LONG: Duration = Duration::from_mins(3);

/// The time limit of a call of the agent (src/cluster/mod.rs, `DEADLINE`).
const GIVEN_UP: Duration = Duration::from_secs(10);

fn one_node() -> Fleet {
    let fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(80, SERVER, 80);
    fleet
}

/// Rules that another program removes are restored.
#[track_caller]
fn heals(fleet: &Fleet) {
    fleet.flush_and_wait_repaired(0);
    fleet.wait_reaches(80, SERVER, 80);
}

/// The warnings that are not about the kernel, which these tests have flushed.
fn complaints(fleet: &Fleet, node: usize) -> Vec<String> {
    fleet.agent(node).complaints().into_iter().filter(|line| !line.contains("another program changed")).collect()
}

/// Waits until a change that is made now is in the kernel and in the status.
#[track_caller]
fn converges(fleet: &Fleet, port: u16) {
    fleet.apply(WEB, &spec(port, SECOND_SERVER, port));
    let ready = || fleet.plane.condition(WEB, "Ready") == Some(("True".to_owned(), "Ready".to_owned()));
    assert!(eventually(LONG, ready), "{:#}", fleet.plane.forward(WEB).unwrap());
    fleet.reaches(port, SECOND_SERVER, port);
    assert_eq!(fleet.ask(80), REFUSED);
}

/// Waits for a warning in the log, and asserts that it is one line with this text.
#[track_caller]
fn says_once(fleet: &Fleet, text: &str) {
    says_once_on(fleet, 0, text);
}

#[track_caller]
fn says_once_on(fleet: &Fleet, node: usize, text: &str) {
    assert!(eventually(LONG, || !complaints(fleet, node).is_empty()), "no word of it");
    let said = complaints(fleet, node);
    assert!(said.len() == 1 && said[0].contains(text), "{said:#?}");
}

/// One API server is stopped and one is killed. Each causes one line.
pub(crate) fn an_api_server_that_goes_and_comes_delays_no_repair_and_is_one_line() {
    let fleet = one_node();
    fleet.plane.stop();
    heals(&fleet);
    says_once(&fleet, "the API server cannot be used");
    fleet.plane.start();
    converges(&fleet, 81);
    says_once(&fleet, "the API server cannot be used");

    fleet.plane.kill();
    assert!(eventually(LONG, || complaints(&fleet, 0).len() == 2), "{:#?}", complaints(&fleet, 0));
    fleet.plane.start();
    converges(&fleet, 82);
    assert_eq!(complaints(&fleet, 0).len(), 2, "{:#?}", complaints(&fleet, 0));
}

pub(crate) fn a_frozen_api_server_delays_no_repair() {
    let fleet = one_node();
    fleet.plane.freeze();
    // If a repair waited for a call, no repair would be faster than the time limit of a call. Only the fastest repair counts,
    // because a busy machine delays any of them.
    let healed_in = |()| {
        let begun = Instant::now();
        heals(&fleet);
        begun.elapsed()
    };
    let took = [(); 3].map(healed_in);
    assert!(took.iter().any(|took| *took < GIVEN_UP), "{took:?}");
    // The renewal of its Lease fails first.
    says_once(&fleet, "the API server cannot be used");
    heals(&fleet);
    fleet.plane.thaw();
    converges(&fleet, 81);
    says_once(&fleet, "the API server cannot be used");
}

#[test]
fn what_happened_before_the_store_forgot_it_is_seen_by_a_new_list() {
    let fleet = one_node();
    fleet.apply("lines/other", &spec(82, SERVER, 82));
    fleet.plane.wait_ready("lines/other");
    // Its connections end while it is frozen. The API server no longer has the history of the deletion and the edit.
    fleet.agent(0).freeze();
    fleet.plane.kill();
    fleet.plane.start();
    fleet.plane.delete(Resource::Forwards, "lines/other");
    fleet.apply(WEB, &spec(81, SECOND_SERVER, 81));
    fleet.plane.kill();
    fleet.plane.compact();
    fleet.plane.start();
    let from = fleet.plane.audit().len();
    fleet.agent(0).thaw();
    fleet.wait_ask(82, REFUSED);
    fleet.wait_reaches(81, SECOND_SERVER, 81);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    let asked: Vec<String> = (fleet.calls(from).iter())
        .filter(|call| call.resource == "portforwards" && !call.writes())
        .map(|call| format!("{} {}", call.verb, call.code))
        .collect();
    assert!(asked[0].starts_with("watch"), "first it asked for what had happened since: {asked:?}");
    assert_eq!(asked.iter().filter(|asked| *asked == "list 200").count(), 1, "{asked:?}");
    assert!(complaints(&fleet, 0).len() <= 1, "{:#?}", complaints(&fleet, 0));
}

pub(crate) fn an_expired_token_is_one_line_and_a_new_one_in_the_same_file_heals_it() {
    let mut fleet = Fleet::without_agents(1);
    let token = |valid_for| fleet.plane.agent_token("px0", Duration::from_secs(valid_for));
    // Long enough to become ready, also on a busy machine; as long as the parallel tests wait.
    let (short, long) = (token(50), token(3600));
    fleet.kubeconfigs[0].set_token(&short);
    fleet.start(0);
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    says_once(&fleet, "the API server cannot be used");
    assert!(complaints(&fleet, 0)[0].contains("Unauthorized"), "{:?}", complaints(&fleet, 0));
    heals(&fleet);
    fleet.kubeconfigs[0].set_token(&long);
    converges(&fleet, 81);
    says_once(&fleet, "the API server cannot be used");
}

/// Removes verbs from a rule, or adds them.
fn allow(fleet: &Fleet, resource: &str, verbs: &[&str]) {
    let mut role = fleet.plane.get(Resource::ClusterRoles, "portforward-operator").unwrap();
    let rules = role["rules"].as_array_mut().unwrap();
    let about = rules.iter_mut().find(|rule| rule["resources"] == json!([resource])).expect("the role has such a rule");
    about["verbs"] = json!(verbs);
    fleet.plane.patch(Resource::ClusterRoles, "portforward-operator", json!({"rules": Value::Array(rules.clone())}));
}

/// Waits until the API server refuses this to the agent, or allows it again.
#[track_caller]
fn wait_allowed(fleet: &Fleet, verb: &str, resource: &str, wanted: &str) {
    let arguments = ["auth", "can-i", verb, resource, "-n", LINES, "--as", crate::plane::access::AGENT_USER];
    let answer = || String::from_utf8_lossy(&fleet.plane.kubectl(arguments).stdout).trim().to_owned();
    assert!(eventually(PATIENCE, || answer() == wanted), "{verb} {resource}: {}", answer());
}

#[test]
fn without_the_right_to_write_status_the_kernel_follows_all_the_same() {
    let fleet = one_node();
    allow(&fleet, "portforwards/status", &["get"]);
    wait_allowed(&fleet, "patch", "portforwards/status.portforward.dev", "no");
    fleet.apply(WEB, &spec(81, SECOND_SERVER, 81));
    fleet.wait_reaches(81, SECOND_SERVER, 81);
    says_once(&fleet, "refuses this");
    assert!(complaints(&fleet, 0)[0].contains("status"), "{:?}", complaints(&fleet, 0));
    fleet.flush(0);
    fleet.wait_reaches(81, SECOND_SERVER, 81);
    allow(&fleet, "portforwards/status", &["patch"]);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    converges(&fleet, 82);
    says_once(&fleet, "refuses this");
}

#[test]
fn without_the_right_to_list_forwards_an_agent_goes_on_with_its_record() {
    let mut fleet = one_node();
    fleet.apply("lines/other", &spec(82, SERVER, 82));
    fleet.plane.wait_ready("lines/other");
    fleet.kill(0);
    allow(&fleet, "portforwards", &["watch"]);
    wait_allowed(&fleet, "list", "portforwards.portforward.dev", "no");
    fleet.plane.delete(Resource::Forwards, "lines/other");
    fleet.flush(0);
    fleet.start(0);
    fleet.wait_reaches(80, SERVER, 80);
    says_once(&fleet, "refuses this");
    heals(&fleet);
    fleet.reaches(82, SERVER, 82);
    // The agent has tried several times more by now.
    let denied = || fleet.calls(0).iter().filter(|call| call.verb == "list" && call.code == 403).count();
    assert!(eventually(PATIENCE, || denied() >= 4), "{}", denied());
    says_once(&fleet, "refuses this");
    allow(&fleet, "portforwards", &["list", "watch"]);
    fleet.wait_ask(82, REFUSED);
    converges(&fleet, 81);
    says_once(&fleet, "refuses this");
}

/// During the outage, no agent can renew its Lease. This must not count against them.
pub(crate) fn after_a_long_outage_no_agent_is_taken_for_dead() {
    let mut fleet = Fleet::without_agents(2);
    fleet.start(0);
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    // Later than the other one, so the two renew their Leases at different times, and one of them always returns first.
    fleet.start(1);
    fleet.wait_entries(WEB, &["px0 Active Ready", "px1 Standby Standby"]);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.wait_events(WEB, 1);
    let before = fleet.plane.forward(WEB).unwrap();
    let (events, from) = (fleet.events(WEB), fleet.plane.audit().len());
    fleet.plane.kill();
    let killed = Instant::now();
    // Longer than a Lease counts.
    assert!(eventually(Duration::from_mins(1), || killed.elapsed() > Duration::from_secs(45)));
    fleet.plane.start();
    let renewed =
        || fleet.calls(from).iter().filter(|call| call.resource == "leases" && call.writes() && call.code == 200).count();
    assert!(eventually(LONG, || renewed() >= 6), "{}", renewed());
    let writes: Vec<String> =
        fleet.calls(from).iter().filter(|call| call.writes() && call.resource != "leases").map(|call| call.uri.clone()).collect();
    assert_eq!(writes, Vec::<String>::new());
    assert_eq!(fleet.plane.forward(WEB).unwrap(), before);
    assert_eq!(fleet.events(WEB), events);
}

/// The policy refuses its writes, and it still programs its kernel.
#[test]
fn an_agent_whose_token_is_of_another_node_or_of_none_says_so_once_and_forwards() {
    let mut fleet = Fleet::without_agents(2);
    let nameless = fleet.plane.token(SYSTEM, AGENT, Duration::from_hours(1));
    let of_another = fleet.plane.agent_token("px0", Duration::from_hours(1));
    fleet.kubeconfigs[0].set_token(&nameless);
    fleet.kubeconfigs[1].set_token(&of_another);
    fleet.apply(WEB, &web());
    (0..2).for_each(|node| fleet.start(node));
    fleet.wait_reaches(80, SERVER, 80);
    fleet.wait_holds(1, "dport 80", true);
    for (node, words) in [(0, "names no node"), (1, "the agent of node px0 may write only the Lease px0")] {
        says_once_on(&fleet, node, words);
        says_once_on(&fleet, node, "the Lease of this agent");
    }
    fleet.apply(WEB, &spec(81, SECOND_SERVER, 81));
    fleet.wait_reaches(81, SECOND_SERVER, 81);
    assert_eq!(fleet.entries(WEB), Vec::<String>::new());
    assert_eq!(fleet.plane.condition(WEB, "Ready"), None, "no agent has judged it");
}

/// An agent that cannot renew its Lease counts as dead for the others. They do not compete with it for the status.
#[test]
fn an_agent_that_may_not_renew_its_lease_leaves_status_to_the_others() {
    let mut fleet = Fleet::without_agents(2);
    // Another account, which has all rights except renewing.
    let grant = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "mute", "namespace": SYSTEM}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "mute", "namespace": SYSTEM},
         "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["list", "watch"]}]},
        binding("ClusterRoleBinding", SYSTEM, "ClusterRole", "portforward-operator"),
        binding("RoleBinding", "default", "Role", "portforward-operator"),
        binding("RoleBinding", SYSTEM, "Role", "mute"),
    ]});
    fleet.plane.apply(&grant.to_string());
    fleet.kubeconfigs[1] = fleet.plane.kubeconfig("mute", &fleet.plane.token(SYSTEM, "mute", Duration::from_hours(1)));
    fleet.start(1);
    fleet.start(0);
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.wait_holds(1, "dport 80", true);
    // Several rounds of both agents. A write of one is seen by the other within milliseconds.
    let from = fleet.plane.audit().len();
    let renewed = || fleet.calls(from).iter().filter(|call| call.resource == "leases" && call.writes()).count();
    assert!(eventually(PATIENCE, || renewed() >= 2), "{}", renewed());
    let calls = fleet.plane.audit();
    let fought = calls[from..].iter().filter(|call| call.subresource == "status" && call.writes()).count();
    assert_eq!(fought, 0, "writes of status");
    says_once_on(&fleet, 1, "the Lease of this agent");
    assert_eq!(fleet.entries(WEB), ["px0 Active Ready"]);
}

fn binding(kind: &str, namespace: &str, role_kind: &str, role: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "mute", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "mute", "namespace": SYSTEM}]})
}
