//! A reboot without an API server or manifests. `restore --stay` restores the last applied state, even if links and addresses
//! come up later. An agent that starts takes over.

use std::fs;

use crate::bed::agent::{Agent, AgentOptions, Manifests, Running, in_mounts, operator, state_folder};
use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::netns::output;
use crate::bed::wait::eventually;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SERVER};
use crate::stage::{FILE, Manifest, SEED, SOON, Stage, by, on_all_backends, servers, tcp};

on_all_backends! {
    a_link_that_comes_late_is_served_and_an_agent_takes_over,
    what_another_program_breaks_meanwhile_is_repaired,
    what_cleanup_removed_does_not_come_back,
    the_rights_that_the_unit_grants_are_enough,
}

/// The command line of `restore --stay` on a proxy.
fn stay(proxy: &Proxy, variant: Variant) -> Vec<String> {
    let backend = variant.options().join(" ");
    let words = format!("restore --stay --node-name proxy {backend} --state-dir {}", state_folder(proxy).display());
    words.split_whitespace().map(str::to_owned).collect()
}

/// The proxy after a reboot: only its disk keeps its content.
fn rebooted(variant: Variant) -> (Bed, AgentOptions) {
    let Stage { agent, options, bed: before, .. } = Stage::seed(variant);
    agent.kill();
    let bed = Bed::new();
    fs::create_dir(state_folder(bed.proxy())).unwrap();
    let record = |proxy: &Proxy| state_folder(proxy).join("record.json");
    fs::copy(record(before.proxy()), record(bed.proxy())).unwrap();
    (bed, options)
}

/// Starts `restore --stay` on a proxy.
pub(crate) fn start(proxy: &Proxy, variant: Variant) -> Running {
    let arguments = stay(proxy, variant);
    Running::start(proxy, "restore", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn a_link_that_comes_late_is_served_and_an_agent_takes_over(variant: Variant) {
    let (bed, options) = rebooted(variant);
    let _servers = servers(&bed);
    let proxy = bed.proxy();
    proxy.netns.ip_batch(["link set eth1 down", "addr flush dev eth1"]);
    let mut restore = start(proxy, variant);
    restore.wait("NoActiveNode");
    proxy.netns.ip("link set eth1 up");
    proxy.netns.ip(&format!("addr add {INTERNAL}/24 dev eth1"));
    assert!(eventually(SOON, || tcp(&bed) == by(SERVER, EXTERNAL)), "{}", restore.said());
    assert!(!proxy.routes_to(&CLIENT.to_string()).is_empty());

    // The link goes down and up again while no agent runs. The kernel deletes its routes.
    proxy.netns.ip_batch(["link set eth1 down", "link set eth1 up"]);
    assert!(eventually(SOON, || !proxy.routes_to(&CLIENT.to_string()).is_empty()), "{}", restore.said());
    let download = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap().stream().unwrap();

    let manifests = Manifests::new(proxy);
    manifests.put(FILE, &Manifest::seed().text());
    let agent = Agent::start(proxy, &manifests, &options);
    agent.wait_ready(SEED);
    restore.wait("an agent has taken over this node; waiting until stopped");
    assert!(restore.runs(), "if it ended, its pod would be restarted again and again");
    assert!(!agent.log().contains("kernel state updated"), "{}", agent.log());
    assert!(download.goes_on(ANSWER));
    assert!(restore.stop().success());
    assert!(download.goes_on(ANSWER));
}

fn what_another_program_breaks_meanwhile_is_repaired(variant: Variant) {
    let (bed, _) = rebooted(variant);
    let _servers = servers(&bed);
    let restore = start(bed.proxy(), variant);
    restore.wait("Ready");
    bed.proxy().lose_rules(variant);
    assert!(eventually(SOON, || tcp(&bed) == by(SERVER, EXTERNAL)), "{}", restore.said());
}

fn what_cleanup_removed_does_not_come_back(variant: Variant) {
    let (bed, _) = rebooted(variant);
    let proxy = bed.proxy();
    let restore = start(proxy, variant);
    restore.wait("Ready");
    let state = state_folder(proxy);
    let clean = || operator(proxy, ["cleanup", "--node-name", "proxy", "--state-dir", state.to_str().unwrap()]);
    // It is refused while restore holds the lock to write, which takes a moment.
    assert!(eventually(SOON, || clean().status.success()));
    restore.wait("no record: nothing to restore");
    proxy.netns.ip_batch(["link set eth1 down", "link set eth1 up"]);
    proxy.netns.ip("route add 10.99.0.0/16 via 192.168.0.1");
    // When it logs a message about this file, it has compared the state again.
    fs::write(state.join("record.json"), "{}").unwrap();
    assert!(eventually(SOON, || restore.said().contains("is accessible by other users")));
    assert_eq!(proxy.our_rules(variant), [""; 0]);
    assert_eq!(proxy.routes_to(&CLIENT.to_string()), [] as [serde_json::Value; 0]);
}

/// Root with only the capabilities of the systemd unit, which the pod has too, and without a way to get more.
fn the_rights_that_the_unit_grants_are_enough(variant: Variant) {
    let unit = include_str!("../../deploy/systemd/portforward-restore.service");
    let granted =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("the unit has a CapabilityBoundingSet");
    let granted: String = granted.split_whitespace().map(|name| format!(",+{}", name["CAP_".len()..].to_lowercase())).collect();
    let script = format!("exec setpriv --no-new-privs --bounding-set=-all{granted} \"$@\"");

    let (bed, options) = rebooted(variant);
    let _servers = servers(&bed);
    let state = state_folder(bed.proxy());
    let mut limited = in_mounts(bed.proxy(), &script);
    let arguments = ["restore", "--node-name", "proxy"];
    let restored = output(limited.args(arguments).args(variant.options()).arg("--state-dir").arg(&state));
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));

    let manifests = Manifests::new(bed.proxy());
    manifests.put(FILE, &Manifest::seed().text());
    let agent = Agent::start(bed.proxy(), &manifests, &AgentOptions { mounts: Some(script), ..options });
    agent.wait_ready(SEED);
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    manifests.remove(FILE);
    agent.wait_report("the forward is deleted", |report| report["items"] == serde_json::json!([]));
    assert!(session.is_cut(&bed), "its connections are cut too");
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
    assert_eq!(agent.complaints(), [""; 0]);
}
