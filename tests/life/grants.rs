//! Grants in a folder, with `--require-grants`: what a grant no longer permits is withdrawn on the real kernel, also what is in
//! force, and the record keeps the grants.

use std::fs;

use serde_json::{Value, json};

use crate::bed::agent::{Agent, AgentOptions, operator};
use crate::bed::client::{ANSWER, Connection, Silence, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, SERVER};
use crate::stage::{FILE, LOG, Manifest, SEED, Stage, by, flow, on_all_backends, servers, tcp, wait, way};

on_all_backends! {
    a_grant_that_shrinks_or_goes_cuts_what_is_in_force,
}

const GRANT: &str = "grant.yaml";

/// A grant that contains the forward of the example, with other values in its spec.
#[allow(clippy::needless_pass_by_value, reason = "every caller makes the value for this call")]
fn grant(changes: Value) -> String {
    let mut grant = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": "bank-a"},
        "spec": {
            "namespaces": ["lines"],
            "listen": [{"cidrs": [INTERNAL], "port": 80}, {"cidrs": [INTERNAL], "protocol": "UDP", "port": LOG}],
            "clients": [CLIENT], "upstreams": [{"cidrs": [SERVER]}], "external": [EXTERNAL],
            "gateways": [{"address": GATEWAY, "routes": [CLIENT]}],
        },
    });
    for (field, value) in changes.as_object().cloned().unwrap_or_default() {
        grant["spec"][field] = value;
    }
    grant.to_string()
}

/// The example forward under its grant, and ready.
fn stage(variant: Variant) -> Stage {
    let mut options = AgentOptions::new(variant);
    options.extra.push("--require-grants".to_owned());
    let stage = Stage::with(options, Bed::new(), &[(FILE, Manifest::seed())]);
    stage.agent.wait_condition(SEED, "Accepted", "False", "NotGranted");
    assert_eq!(stage.proxy().our_rules(variant).iter().filter(|rule| rule.contains("DNAT")).count(), 0);
    stage.manifests.put(GRANT, &grant(json!({})));
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    stage
}

/// Nothing of the example is left in the kernel.
#[track_caller]
fn assert_withdrawn(stage: &Stage, variant: Variant) {
    let rules = stage.proxy().our_rules(variant);
    assert!(!rules.iter().any(|rule| rule.contains(&SERVER.to_string())), "{rules:#?}");
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string()), Vec::<Value>::new());
    assert_eq!(tcp(&stage.bed), Err(Silence::Refused));
}

fn a_grant_that_shrinks_or_goes_cuts_what_is_in_force(variant: Variant) {
    let stage = stage(variant);
    // So that the client learns at once that the port is closed.
    stage.proxy().netns.ip(&format!("route add 1.1.1.0/24 via {GATEWAY} dev eth1"));
    let servers = servers(&stage.bed);
    for shrink in [Some(json!({"upstreams": [{"cidrs": ["9.9.9.9"]}]})), Some(json!({"gateways": []})), None] {
        let mut session = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
        session.exchange(ANSWER).unwrap();
        let mut log = flow(&stage.bed);
        match shrink {
            Some(changes) => stage.manifests.put(GRANT, &grant(changes)),
            None => stage.manifests.remove(GRANT),
        }
        for condition in ["Accepted", "Ready"] {
            stage.agent.wait_condition(SEED, condition, "False", "NotGranted");
        }
        stage.agent.wait_condition(SEED, "Stalled", "True", "NotGranted");
        assert!(session.is_cut(&stage.bed), "the connection is cut");
        assert!(log.is_cut(&stage.bed, &servers), "the flow is cut");
        assert_withdrawn(&stage, variant);
        stage.manifests.put(GRANT, &grant(json!({})));
        stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    }
}

#[test]
fn a_restart_and_a_restore_plan_with_the_grants_of_the_record() {
    let stage = stage(Variant::Nft);
    let _servers = servers(&stage.bed);
    // A forward that no grant contains is in the record too.
    let other = Manifest::seed().named("other").with("/spec/ports", json!([{"name": "x", "port": 81}]));
    stage.manifests.put("other.yaml", &other.text());
    stage.agent.wait_condition("lines/other", "Accepted", "False", "NotGranted");
    let Stage { agent, manifests, options, bed } = stage;
    agent.kill();
    let folder = crate::bed::agent::state_folder(bed.proxy());
    bed.proxy().iptables(Variant::Nft, "-t nat -F");
    // Also without the flag, restore does not carry what the agent refused.
    let restore = ["restore", "--node-name", "proxy", "--iptables", "nft", "--state-dir", folder.to_str().unwrap()];
    let restored = operator(bed.proxy(), restore);
    assert!(String::from_utf8_lossy(&restored.stdout).contains("NotGranted"), "{restored:?}");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
    assert!(!bed.proxy().our_rules(Variant::Nft).iter().any(|rule| rule.contains("dport 81 ")));

    // The file of the grant breaks while no agent runs. Its last good content is in the record.
    fs::write(manifests.folder().join(GRANT), "{").unwrap();
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    wait("the file is reported", || agent.file_error(GRANT).is_some());
    agent.wait_condition("lines/other", "Accepted", "False", "NotGranted");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
    assert!(way(tcp_ask(&bed.client, CLIENT, (INTERNAL, 81), ANSWER)).is_err());
}

#[test]
fn with_report_everything_is_carried_and_a_note_names_what_would_be_refused() {
    let mut options = AgentOptions::new(Variant::Nft);
    options.extra.push("--require-grants=report".to_owned());
    let narrow = grant(json!({"upstreams": [{"cidrs": ["9.9.9.9"]}]}));
    let stage = Stage::with(options, Bed::new(), &[(FILE, Manifest::seed())]);
    stage.manifests.put(GRANT, &narrow);
    let _servers = servers(&stage.bed);
    let wanted = "refused with --require-grants: spec.upstream.targets[0].address 3.3.3.3 is not in upstreams of grant bank-a";
    wait("the note is in the status", || stage.message(SEED, "Ready").contains(wanted));
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    stage.manifests.put(GRANT, &grant(json!({})));
    wait("the note goes", || !stage.message(SEED, "Ready").contains("--require-grants"));
}

#[test]
fn render_refuses_what_no_grant_contains() {
    let bed = Bed::new();
    let file = bed.proxy().files().join("all.yaml");
    let rendered = |grant: &str, extra: &str| {
        fs::write(&file, format!("{}---\n{grant}\n", Manifest::seed().text())).unwrap();
        let output = operator(bed.proxy(), ["render", extra, file.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let narrow = grant(json!({"external": []}));
    let (code, said) = rendered(&narrow, "--require-grants");
    assert!(code == Some(3) && said.contains("NotGranted: spec.external.addresses[0] 2.2.2.2 is not in external"), "{said}");
    assert_eq!(rendered(&narrow, "--require-grants=false").0, Some(0));
    assert_eq!(rendered(&grant(json!({})), "--require-grants=true"), (Some(0), String::new()));
}
