//! A record that could not be written: it is never restored over newer rules, neither by a restart nor after a reboot.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::agent::{Agent, AgentOptions, Manifests, operator, state_folder};
use crate::bed::client::{ANSWER, tcp_ask};
use crate::bed::disk::Disk;
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::server::Server;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SECOND_SERVER, SERVER};
use crate::metrics::page;
use crate::stage::{FILE, Manifest, Stage, Way, by, on_all_backends, tcp, wait, way};

on_all_backends! {
    a_full_disk_rolls_nothing_back_and_a_reboot_restores_only_what_has_not_changed,
    a_record_of_every_shape_of_forward_explains_what_the_kernel_holds,
}

/// The port of the forward that stays.
const KEPT: u16 = 81;
/// The port of the forward that is deleted while nothing can be written.
const DELETED: u16 = 82;
/// The port of the forward that is added while nothing can be written.
const ADDED: u16 = 83;
/// What the log says about a kernel that is newer than the record.
const NEWER: &str = "newer than the record";

/// The seed on another port.
fn on_port(name: &str, port: u16) -> Manifest {
    let ports = serde_json::json!([{"name": "web", "port": port, "targetPort": 80}]);
    Manifest::seed().named(name).with("/spec/ports", ports)
}

fn ask(bed: &Bed, port: u16) -> Way {
    way(tcp_ask(&bed.client, CLIENT, (INTERNAL, port), ANSWER))
}

fn web_servers(bed: &Bed) -> [Server; 2] {
    [SERVER, SECOND_SERVER].map(|address| Server::tcp(&bed.server, address, [80]))
}

/// The rules and routes of the operator.
fn kernel(proxy: &Proxy, variant: Variant) -> (Vec<String>, Vec<serde_json::Value>) {
    (proxy.our_rules(variant), proxy.routes_to(&CLIENT.to_string()))
}

/// A stage with three forwards that are recorded on a disk of its own.
fn recorded(variant: Variant) -> (Stage, Disk) {
    let bed = Bed::new();
    let disk = Disk::at(state_folder(bed.proxy()));
    let files = [(FILE, Manifest::seed()), ("kept.yaml", on_port("kept", KEPT)), ("deleted.yaml", on_port("deleted", DELETED))];
    let stage = Stage::of(variant, bed, &files);
    for name in ["seed", "kept", "deleted"] {
        stage.agent.wait_ready(&format!("lines/{name}"));
    }
    (stage, disk)
}

/// Changes, deletes and adds a forward. The kernel follows.
fn change(stage: &Stage) {
    stage.edit(&Manifest::seed().for_second_server());
    stage.manifests.remove("deleted.yaml");
    stage.manifests.put("added.yaml", &on_port("added", ADDED).text());
    stage.agent.wait_ready("lines/added");
    stage.agent.wait_report("the forward is deleted", |report| report["items"].as_array().is_some_and(|items| items.len() == 3));
    carries_the_newest(&stage.bed);
}

#[track_caller]
fn carries_the_newest(bed: &Bed) {
    assert_eq!(tcp(bed), by(SECOND_SERVER, EXTERNAL));
    assert_eq!(ask(bed, KEPT), by(SERVER, EXTERNAL));
    assert_eq!(ask(bed, ADDED), by(SERVER, EXTERNAL));
    assert!(ask(bed, DELETED).is_err());
}

/// The manifests cannot be read any more, as with an API server that is unreachable.
fn without_manifests(manifests: &Manifests) -> impl FnOnce() + '_ {
    let aside = manifests.folder().with_extension("aside");
    fs::rename(manifests.folder(), &aside).unwrap();
    move || fs::rename(aside, manifests.folder()).unwrap()
}

fn restore(proxy: &Proxy, variant: Variant) -> std::process::Output {
    let state = state_folder(proxy);
    let [option, backend] = variant.options();
    operator(proxy, ["restore", "--node-name", "proxy", &option, &backend, "--state-dir", state.to_str().unwrap()])
}

/// Starts an agent that can read no forwards, and asserts that it leaves the kernel as it is until it can.
fn a_restart_changes_nothing(bed: &Bed, manifests: &Manifests, options: &AgentOptions) -> Agent {
    let before = kernel(bed.proxy(), options.variant);
    let give_back = without_manifests(manifests);
    let restored = restore(bed.proxy(), options.variant);
    assert!(restored.status.success() && String::from_utf8_lossy(&restored.stderr).contains(NEWER), "{restored:?}");
    assert_eq!(kernel(bed.proxy(), options.variant), before);

    let from = fs::read_to_string(bed.proxy().files().join("agent.log")).unwrap_or_default().len();
    let agent = Agent::start(bed.proxy(), manifests, options);
    let said = || agent.log()[from..].contains(NEWER);
    wait("the agent says that the kernel is newer", said);
    assert_eq!(kernel(bed.proxy(), options.variant), before);
    carries_the_newest(bed);
    give_back();
    agent.wait_ready("lines/added");
    assert_eq!(kernel(bed.proxy(), options.variant), before);
    assert!(!agent.log()[from..].contains("kernel state updated"), "{}", agent.log());
    agent
}

/// The proxy after a reboot: only its disk keeps its content.
fn rebooted(before: &Proxy) -> Bed {
    let bed = Bed::new();
    must(Command::new("cp").arg("-a").args([state_folder(before), state_folder(bed.proxy())]));
    bed
}

fn a_full_disk_rolls_nothing_back_and_a_reboot_restores_only_what_has_not_changed(variant: Variant) {
    let (stage, disk) = recorded(variant);
    let _servers = web_servers(&stage.bed);
    disk.fill();
    change(&stage);
    stage.agent.wait_log("the record cannot be written");
    assert!(page(stage.proxy(), "/metrics").text.contains("portforward_record_outdated 1"));
    let Stage { agent, manifests, options, bed } = stage;
    // Dropped before the bed: its files cannot be removed while a disk is mounted there.
    let disk = disk;
    agent.kill();
    let agent = a_restart_changes_nothing(&bed, &manifests, &options);
    assert_eq!(agent.complaints().iter().filter(|line| line.contains("the record cannot be written")).count(), 1);

    let after = rebooted(bed.proxy());
    let _also = web_servers(&after);
    let restored = restore(after.proxy(), variant);
    assert!(restored.status.success(), "{restored:?}");
    let said = String::from_utf8_lossy(&restored.stderr);
    assert!(said.contains("left_out=2") && said.contains("No space left on device"), "{said}");
    assert_eq!(ask(&after, KEPT), by(SERVER, EXTERNAL), "it has not changed since the record");
    assert!(tcp(&after).is_err() && ask(&after, DELETED).is_err() && ask(&after, ADDED).is_err());
    drop(after);

    // With space, a restart works as before: the record is used, and damage is repaired.
    disk.clear();
    agent.wait_log("the record can be written again");
    wait("the metric says so", || page(bed.proxy(), "/metrics").text.contains("portforward_record_outdated 0"));
    agent.kill();
    let _gone = without_manifests(&manifests);
    bed.proxy().lose_rules(variant);
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    wait("the record is applied", || tcp(&bed) == by(SECOND_SERVER, EXTERNAL));
    carries_the_newest(&bed);
    drop((agent, disk));
}

/// One forward of every shape that makes rules of another form.
fn shapes() -> Vec<Manifest> {
    let shape = |name: &str, ports: serde_json::Value| Manifest::seed().named(name).with("/spec/ports", ports);
    vec![
        Manifest::seed(),
        shape("range", serde_json::json!([{"name": "a", "port": 1000, "endPort": 1010}])),
        shape("shifted", serde_json::json!([{"port": 1100, "endPort": 1110, "targetPort": 2100, "targetEndPort": 2110}])),
        shape("one", serde_json::json!([{"port": 1200, "endPort": 1210, "targetPort": 80, "targetEndPort": 80}])),
        shape(
            "wide",
            serde_json::json!([
                {"name": "tcp", "port": 20000, "endPort": 40000}, {"name": "udp", "protocol": "UDP", "port": 20000, "endPort": 40000},
            ]),
        ),
        shape("clients", serde_json::json!([{"port": 1300, "targetPort": 80}]))
            .with("/spec/client/addresses", serde_json::json!(["1.1.1.2", "1.1.1.3", "1.1.2.0/24"])),
        shape("masquerade", serde_json::json!([{"port": 1400}])).without("/spec/external").without("/spec/internal/interface"),
        shape("reverse", serde_json::json!([{"port": 1500}])).with(
            "/spec/reverse",
            serde_json::json!({"ports": [
                {"name": "low", "port": 1, "endPort": 8000, "targetPort": 80, "targetEndPort": 80},
                {"name": "udp", "protocol": "UDP", "port": 9000},
            ]}),
        ),
    ]
}

fn a_record_of_every_shape_of_forward_explains_what_the_kernel_holds(variant: Variant) {
    let shapes = shapes();
    let files: Vec<String> = (0..shapes.len()).map(|number| format!("{number}.yaml")).collect();
    let manifests: Vec<(&str, Manifest)> = files.iter().map(String::as_str).zip(shapes.iter().cloned()).collect();
    let Stage { agent, manifests, options, bed } = Stage::of(variant, Bed::new(), &manifests);
    agent.wait_nodes("Programmed", shapes.len());
    let before = kernel(bed.proxy(), variant);
    assert!(agent.stop().success());
    let _gone = without_manifests(&manifests);
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_nodes("Programmed", shapes.len());
    bed.proxy().lose_rules(variant);
    agent.wait_log("repaired");
    wait("the damage is repaired", || kernel(bed.proxy(), variant) == before);
    assert!(!agent.log().contains(NEWER), "{}", agent.log());
}

#[test]
fn a_file_system_that_became_read_only_rolls_nothing_back_and_does_not_stop_an_agent() {
    let (stage, disk) = recorded(Variant::Nft);
    let _servers = web_servers(&stage.bed);
    disk.fail();
    change(&stage);
    stage.agent.wait_log("neither the record nor a note about it can be written");
    let Stage { agent, manifests, options, bed } = stage;
    // Dropped before the bed: its files cannot be removed while a disk is mounted there.
    let disk = disk;
    agent.kill();
    let agent = a_restart_changes_nothing(&bed, &manifests, &options);
    assert!(agent.log().contains("the state directory cannot be written"), "{}", agent.log());
    agent.kill();
    // After a reboot with the disk still read-only, nobody knows what was closed meanwhile.
    let after = Bed::new();
    let folder = state_folder(after.proxy());
    fs::create_dir(&folder).unwrap();
    must(Command::new("mount").args(["--bind", "-o", "ro"]).args([state_folder(bed.proxy()), folder.clone()]));
    let restored = restore(after.proxy(), Variant::Nft);
    let rules = after.proxy().our_rules(Variant::Nft);
    must(Command::new("umount").arg(&folder));
    assert!(String::from_utf8_lossy(&restored.stderr).contains("the state directory cannot be written"), "{restored:?}");
    assert_eq!(rules, [""; 0], "nothing is opened that may have been closed");
    drop((after, disk));
}

#[test]
fn a_record_that_cannot_be_replaced_rolls_nothing_back() {
    let (stage, disk) = recorded(Variant::Nft);
    let _servers = web_servers(&stage.bed);
    let record = state_folder(stage.proxy()).join("record.json");
    let immutable = |flag: &str, path: &Path| must(Command::new("chattr").arg(flag).arg(path));
    immutable("+i", &record);
    change(&stage);
    stage.agent.wait_log("the record cannot be written");
    let Stage { agent, manifests, options, bed } = stage;
    // Dropped before the bed: its files cannot be removed while a disk is mounted there.
    let disk = disk;
    agent.kill();
    let agent = a_restart_changes_nothing(&bed, &manifests, &options);
    immutable("-i", &record);
    agent.wait_log("the record can be written again");
    drop((agent, disk));
}

/// The agent is killed while the disk hangs, so that neither the record nor a note about it was written.
#[test]
fn a_disk_that_hangs_until_the_agent_is_killed_rolls_nothing_back() {
    let (stage, disk) = recorded(Variant::Nft);
    let _servers = web_servers(&stage.bed);
    let record = || fs::read(state_folder(stage.proxy()).join("record.json")).unwrap();
    let before = record();
    disk.freeze();
    change(&stage);
    // A process ends only when its write has ended.
    let id = i32::try_from(stage.agent.id()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
    disk.thaw();
    assert_eq!(record(), before, "the record is old");
    let Stage { agent, manifests, options, bed } = stage;
    // Dropped before the bed: its files cannot be removed while a disk is mounted there.
    let disk = disk;
    agent.kill();
    let agent = a_restart_changes_nothing(&bed, &manifests, &options);
    drop((agent, disk));
}

/// The other direction: what another program removes while no agent runs is repaired from a record that is up to date.
#[test]
fn a_record_that_is_up_to_date_is_applied_also_where_rules_are_missing() {
    let (stage, disk) = recorded(Variant::Nft);
    let _servers = web_servers(&stage.bed);
    let Stage { agent, manifests, options, bed } = stage;
    // Dropped before the bed: its files cannot be removed while a disk is mounted there.
    let disk = disk;
    agent.kill();
    let _gone = without_manifests(&manifests);
    bed.proxy().iptables(Variant::Nft, "-t nat -F");
    assert!(tcp(&bed) != by(SERVER, EXTERNAL));
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    wait("the record is applied", || tcp(&bed) == by(SERVER, EXTERNAL));
    assert_eq!((ask(&bed, KEPT), ask(&bed, DELETED)), (by(SERVER, EXTERNAL), by(SERVER, EXTERNAL)));
    drop((agent, disk));
}
