//! Pools of nodes: agents with `--forward-selector`, which follow only the forwards whose labels match.

use std::process::Command;

use serde_json::{Value, json};

use crate::bed::netns::output;
use crate::bed::wait::eventually;
use crate::bed::{SECOND_SERVER, SERVER};
use crate::fleet::{Fleet, LINES, REFUSED, WEB, manifest, spec, web};
use crate::plane::Resource;
use crate::plane::access::{AGENT, SYSTEM};
use crate::plane::objects::PATIENCE;

const OTHER: &str = "lines/other";
const EDGE: &[&str] = &["--forward-selector", "pool=edge"];
const CORE: &[&str] = &["--forward-selector", "pool in (core, spare)"];

/// Applies a forward with the label `pool`.
fn apply(fleet: &Fleet, key: &str, spec: &str, pool: &str) {
    let labelled = manifest(key, spec).replacen("metadata: {", &format!("metadata: {{labels: {{pool: {pool}}}, "), 1);
    fleet.plane.apply(&labelled);
}

/// Changes the label `pool` of a forward, or removes it.
fn label(fleet: &Fleet, key: &str, pool: Option<&str>) {
    fleet.plane.patch(Resource::Forwards, key, json!({"metadata": {"labels": {"pool": pool}}}));
}

/// The pool in the Lease of a node.
fn lease_pool(fleet: &Fleet, node: &str) -> Option<String> {
    let lease = fleet.plane.get(Resource::Leases, &format!("{SYSTEM}/{node}"))?;
    lease["metadata"]["labels"]["portforward.dev/pool"].as_str().map(str::to_owned)
}

#[test]
fn each_pool_carries_and_reports_its_own_forwards_and_a_changed_label_moves_one() {
    let mut fleet = Fleet::without_agents(2);
    fleet.start_with(0, EDGE);
    fleet.start_with(1, CORE);
    apply(&fleet, WEB, &web(), "edge");
    fleet.plane.wait_ready(WEB);
    fleet.reaches(80, SERVER, 80);
    fleet.wait_entries(WEB, &["px0 Active Ready"]);
    // No node of its pool holds the address. The agent of the pool reports that, although the other one comes first by name.
    apply(&fleet, OTHER, &spec(81, SERVER, 81), "spare");
    fleet.wait_entries(OTHER, &["px1 Standby Standby"]);
    fleet.plane.wait_condition(OTHER, "Ready", "False", "NoActiveNode");
    fleet.wait_holds(1, "--dport 81", true);
    assert!(!fleet.holds(1, "--dport 80") && !fleet.holds(0, "--dport 81"), "each follows its own forwards only");
    assert!(lease_pool(&fleet, "px0").is_some() && lease_pool(&fleet, "px0") != lease_pool(&fleet, "px1"));

    // From one pool to the other, and back.
    label(&fleet, WEB, Some("core"));
    fleet.wait_ask(80, REFUSED);
    fleet.wait_holds(0, "DNAT", false);
    fleet.wait_entries(WEB, &["px1 Standby Standby"]);
    fleet.plane.wait_condition(WEB, "Ready", "False", "NoActiveNode");
    fleet.wait_active(WEB, None);
    label(&fleet, WEB, Some("edge"));
    fleet.wait_reaches(80, SERVER, 80);
    fleet.wait_entries(WEB, &["px0 Active Ready"]);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.wait_active(WEB, Some(0));

    // To no pool at all: nobody is left with an entry, and the summary says nothing of what was.
    label(&fleet, WEB, None);
    fleet.wait_ask(80, REFUSED);
    fleet.wait_entries(WEB, &[]);
    for condition in ["Ready", "Programmed", "Accepted"] {
        fleet.plane.wait_condition(WEB, condition, "Unknown", "NotFollowed");
    }
    fleet.wait_active(WEB, None);
    let told = || fleet.events(WEB).iter().any(|(reason, ..)| reason == "NotFollowed");
    assert!(eventually(PATIENCE, told), "{:?}", fleet.events(WEB));
    label(&fleet, WEB, Some("edge"));
    fleet.plane.wait_ready(WEB);
    fleet.reaches(80, SERVER, 80);

    // The API server selects. Apart from that, an agent asks for single objects.
    let asked = |call: &&crate::plane::audit::AuditEvent| call.resource == "portforwards" && !call.writes();
    let calls = fleet.calls(0);
    let all: Vec<_> = calls
        .iter()
        .filter(asked)
        .filter(|call| !call.uri.contains("labelSelector=pool") && !call.uri.contains("fieldSelector=metadata.name"))
        .collect();
    assert!(all.is_empty() && calls.iter().filter(asked).count() > 3, "{all:?}");
    for node in 0..2 {
        assert_eq!(fleet.agent(node).complaints(), Vec::<String>::new());
    }
}

#[test]
fn a_changed_selector_and_a_label_that_changed_while_the_agent_was_away_take_effect_at_the_start() {
    let mut fleet = Fleet::without_agents(1);
    fleet.start(0);
    apply(&fleet, WEB, &web(), "edge");
    apply(&fleet, OTHER, &spec(82, SECOND_SERVER, 82), "core");
    for key in [WEB, OTHER] {
        fleet.plane.wait_ready(key);
    }
    assert_eq!(lease_pool(&fleet, "px0"), None);
    fleet.kill(0);
    fleet.start_with(0, EDGE);
    fleet.wait_ask(82, REFUSED);
    fleet.wait_entries(OTHER, &[]);
    fleet.plane.wait_condition(OTHER, "Ready", "Unknown", "NotFollowed");
    fleet.wait_active(OTHER, None);
    fleet.reaches(80, SERVER, 80);
    fleet.plane.wait_ready(WEB);

    fleet.kill(0);
    label(&fleet, WEB, Some("core"));
    label(&fleet, OTHER, Some("edge"));
    fleet.reaches(80, SERVER, 80);
    fleet.start_with(0, EDGE);
    fleet.wait_reaches(82, SECOND_SERVER, 82);
    fleet.wait_ask(80, REFUSED);
    fleet.wait_entries(WEB, &[]);
    fleet.plane.wait_condition(WEB, "Ready", "Unknown", "NotFollowed");
    fleet.plane.wait_ready(OTHER);

    // Without a selector, the agent follows all of them again.
    fleet.kill(0);
    fleet.start(0);
    fleet.plane.wait_ready(WEB);
    fleet.reaches(80, SERVER, 80);
    fleet.reaches(82, SECOND_SERVER, 82);
    assert!(eventually(PATIENCE, || lease_pool(&fleet, "px0").is_none()), "its Lease names no pool");
}

/// During an update of the `DaemonSet`, agents with the old and the new selector follow the same forward.
#[test]
fn agents_with_different_selectors_that_follow_the_same_forward_agree_on_its_status() {
    let mut fleet = Fleet::without_agents(3);
    fleet.start(0);
    fleet.start_with(1, EDGE);
    fleet.start(2);
    apply(&fleet, WEB, &web(), "edge");
    let all = ["px0 Active Ready", "px1 Standby Standby", "px2 Standby Standby"];
    fleet.plane.wait_ready(WEB);
    fleet.wait_entries(WEB, &all);
    fleet.kill(0);
    fleet.start_with(0, EDGE);
    fleet.agent(0).wait_log("kernel state updated");
    // Every agent has seen a later object, so each has had the time to do something about the first one.
    apply(&fleet, OTHER, &spec(81, SERVER, 81), "edge");
    fleet.plane.wait_ready(OTHER);
    fleet.wait_entries(OTHER, &all);
    fleet.wait_entries(WEB, &all);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    let overwritten = |node| fleet.agent(node).log().matches("another client keeps overwriting").count();
    assert_eq!((0..3).map(overwritten).sum::<usize>(), 0);
}

/// No agent of a pool knows all forwards.
#[test]
fn a_grant_is_reported_without_counts_unless_an_agent_follows_all_forwards() {
    let mut fleet = Fleet::without_agents(2);
    let start = |fleet: &mut Fleet, node, selector: &[&str]| {
        fleet.start_with(node, &[&["--require-grants"], selector].concat());
    };
    start(&mut fleet, 0, EDGE);
    fleet.plane.apply(&format!(
        "{{apiVersion: portforward.dev/v1alpha1, kind: PortForwardGrant, metadata: {{name: a}}, spec: {{\
         namespaces: [{LINES}], clients: [1.1.1.0/24], listen: [{{cidrs: [192.168.0.0/24]}}], external: [2.2.2.0/24], \
         gateways: [{{address: 192.168.0.1, routes: [1.1.1.0/24]}}], upstreams: [{{cidrs: [{SERVER}]}}]}}}}"
    ));
    apply(&fleet, WEB, &web(), "edge");
    fleet.plane.wait_ready(WEB);
    let status = || fleet.plane.get(Resource::Grants, "a").unwrap_or_default()["status"].clone();
    let accepted = |status: &Value| status["conditions"][0]["status"] == "True";
    assert!(eventually(PATIENCE, || accepted(&status())), "{}", status());
    assert!(status()["forwards"].is_null(), "{}", status());
    start(&mut fleet, 1, &[]);
    let status = || fleet.plane.get(Resource::Grants, "a").unwrap_or_default()["status"].clone();
    assert!(eventually(PATIENCE, || status()["forwards"] == 1), "{}", status());
}

/// Releases of the chart in different namespaces have their Leases there, and do not know of each other.
#[test]
fn a_forward_moves_between_pools_whose_leases_are_in_different_namespaces() {
    let mut fleet = Fleet::without_agents(2);
    fleet.plane.add_namespace("proxies-core");
    fleet.plane.apply(&format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: agents, namespace: proxies-core}}, \
          rules: [{{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [list, watch, create, patch]}}]}}\n---\n\
         {{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: agents, namespace: proxies-core}}, \
          roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: agents}}, \
          subjects: [{{kind: ServiceAccount, name: {AGENT}, namespace: {SYSTEM}}}]}}\n"
    ));
    fleet.start_with(0, EDGE);
    fleet.start_with(1, &[CORE, &["--namespace", "proxies-core"]].concat());
    apply(&fleet, WEB, &web(), "edge");
    fleet.plane.wait_ready(WEB);
    for _ in 0..2 {
        label(&fleet, WEB, Some("core"));
        fleet.wait_ask(80, REFUSED);
        fleet.wait_entries(WEB, &["px1 Standby Standby"]);
        fleet.plane.wait_condition(WEB, "Ready", "False", "NoActiveNode");
        label(&fleet, WEB, Some("edge"));
        fleet.wait_reaches(80, SERVER, 80);
        fleet.wait_entries(WEB, &["px0 Active Ready"]);
        fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    }
    for node in 0..2 {
        assert_eq!(fleet.agent(node).complaints(), Vec::<String>::new());
    }
}

#[test]
fn a_selector_with_a_mistake_or_beside_a_folder_is_refused_at_the_start() {
    let refused = |arguments: &[&str], variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portforward-operator"));
        command.arg("agent").args(arguments);
        command.envs(variable.map(|selector| ("PORTFORWARD_FORWARD_SELECTOR", selector)));
        let output = output(&mut command);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--forward-selector", "pool in edge"], None);
    assert!(said.contains("( with the values is missing before \"edge\""), "{said}");
    let said = refused(&[], Some("pool>1"));
    assert!(said.contains("> is not supported"), "{said}");
    for (arguments, variable) in
        [(&["--manifests", "/none", "--forward-selector", "a=b"][..], None), (&["--manifests", "/none"][..], Some("a=b"))]
    {
        let said = refused(arguments, variable);
        assert!(said.contains("--manifests <DIR>' cannot be used with '--forward-selector <SELECTOR>'"), "{said}");
    }
}
