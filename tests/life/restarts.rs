//! The effect of a start, an end or a crash of the agent on flows and kernel, and when a record is accepted.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::bed::agent::{Agent, AgentOptions, Manifests, operator, state_folder};
use crate::bed::client::{ANSWER, Connection, UdpFlow};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SECOND_SERVER, SERVER};
use crate::stage::{FILE, LOG, Manifest, SEED, Stage, and_by_nftables, by, flow, on_both_variants, servers, tcp, way};

on_both_variants! {
    a_restart_in_the_middle_of_a_download_changes_nothing,
    a_crash_between_rules_and_purge_leaves_no_flow_with_the_old_upstream,
    a_crash_between_a_repair_and_its_purge_leaves_no_flow_untranslated,
    a_reboot_is_restored_before_any_manifest_and_the_agent_takes_over_without_a_write,
    without_its_folder_the_agent_goes_on_as_before,
    a_broken_file_at_a_restart_keeps_its_last_good_content,
}

and_by_nftables! {
    a_restart_in_the_middle_of_a_download_changes_nothing,
    a_reboot_is_restored_before_any_manifest_and_the_agent_takes_over_without_a_write,
    without_its_folder_the_agent_goes_on_as_before,
    a_broken_file_at_a_restart_keeps_its_last_good_content,
}

/// The operator's rules of the nat table with their counters. Rewriting a rule resets its counters to 0.
fn counted(proxy: &Proxy, variant: Variant) -> Vec<String> {
    if variant == Variant::Nftables {
        let listed = must(proxy.command("nft").args(["list", "table", "ip", "portforward"]));
        let counts = listed.lines().filter_map(|line| line.split_once("counter packets "));
        return counts.map(|(rule, counted)| format!("[{}:] {rule}", counted.split(' ').next().unwrap_or_default())).collect();
    }
    let saved = must(proxy.command(&format!("iptables-{variant}-save")).args(["-c", "-t", "nat"]));
    saved.lines().filter(|line| line.contains("PF-")).map(str::to_owned).collect()
}

fn record(proxy: &Proxy) -> PathBuf {
    state_folder(proxy).join("record.json")
}

/// Whether the log contains a write to the kernel.
fn tells_of_a_write(log: &str) -> bool {
    log.contains("kernel state updated") || log.contains("repaired")
}

/// The lines of a log since the last start.
fn since_last_start(log: &str) -> &str {
    log.rfind("agent starts").map_or("", |at| &log[at..])
}

fn started_again(bed: &Bed, manifests: &Manifests, options: &AgentOptions) -> Agent {
    let agent = Agent::start(bed.proxy(), manifests, options);
    agent.wait_ready(SEED);
    agent
}

fn a_restart_in_the_middle_of_a_download_changes_nothing(variant: Variant) {
    let Stage { agent, manifests, options, bed } = Stage::seed(variant);
    let _servers = servers(&bed);
    let download = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap().stream().unwrap();
    let mut flow = flow(&bed);
    let from = flow.ask(ANSWER).unwrap().peer;
    let before = (counted(bed.proxy(), variant), bed.proxy().routes(), bed.proxy().iptables_save(variant));
    assert!(before.0.iter().any(|line| line.starts_with("[1:")), "the rules have counted packets: {:?}", before.0);

    assert!(agent.stop().success());
    assert!(download.goes_on(ANSWER));
    let agent = started_again(&bed, &manifests, &options);
    assert!(download.goes_on(ANSWER));
    agent.kill();
    assert!(download.goes_on(ANSWER));
    let agent = started_again(&bed, &manifests, &options);
    assert!(download.goes_on(ANSWER));

    assert_eq!(flow.ask(ANSWER).unwrap().peer, from, "the server still sees the same flow");
    assert_eq!((counted(bed.proxy(), variant), bed.proxy().routes(), bed.proxy().iptables_save(variant)), before);
    assert_eq!(agent.log().matches("kernel state updated").count(), 1, "by the first agent");
    assert!(!agent.log().contains("repaired"));
    download.finish().unwrap();
}

/// The record is old, the kernel has the new rules, and no agent has checked the connections yet.
fn a_crash_between_rules_and_purge_leaves_no_flow_with_the_old_upstream(variant: Variant) {
    let Stage { agent, manifests, options, bed } = Stage::seed(variant);
    let _servers = servers(&bed);
    let mut flow = flow(&bed);
    agent.kill();

    let edited = Manifest::seed().for_second_server();
    manifests.put(FILE, &edited.text());
    let file = manifests.folder().join(FILE);
    let rendered = operator(bed.proxy(), ["render", "--iptables", &variant.to_string(), file.to_str().unwrap()]);
    let rules = String::from_utf8(rendered.stdout).unwrap();
    // The jumps exist already.
    let rules: String = rules.split_inclusive('\n').filter(|line| !line.starts_with("-I ")).collect();
    bed.proxy().iptables_restore(variant, &rules);
    assert_eq!(
        way(flow.ask(ANSWER)),
        by(SERVER, EXTERNAL),
        "the kernel has the new rules, but the flow still has the old translation"
    );

    let agent = started_again(&bed, &manifests, &options);
    assert_eq!(way(flow.ask(ANSWER)), by(SECOND_SERVER, EXTERNAL));
    assert!(!since_last_start(&agent.log()).contains("chains=1"), "the rules existed already");
}

/// Record and rules are equal. Only the connections show that the rules had been missing.
fn a_crash_between_a_repair_and_its_purge_leaves_no_flow_untranslated(variant: Variant) {
    let Stage { agent, manifests, options, bed } = Stage::seed(variant);
    let servers = servers(&bed);
    bed.proxy().iptables(variant, "-A INPUT -m conntrack --ctstate INVALID -j DROP");
    agent.wait_ready(SEED);
    agent.kill();
    let saved = bed.proxy().iptables_save(variant);
    bed.proxy().iptables(variant, "-t nat -F");
    let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), (INTERNAL, LOG)).unwrap();
    assert!(flow.is_cut(&bed, &servers));
    let nat = saved.iter().skip_while(|line| *line != "*nat").take_while(|line| *line != "COMMIT");
    let nat = nat.map(|line| format!("{line}\n")).collect::<String>() + "COMMIT\n";
    bed.proxy().iptables_restore(variant, &nat);
    assert!(flow.is_cut(&bed, &servers));

    let _agent = started_again(&bed, &manifests, &options);
    assert_eq!(way(flow.ask(ANSWER)), by(SERVER, EXTERNAL));
}

fn a_reboot_is_restored_before_any_manifest_and_the_agent_takes_over_without_a_write(variant: Variant) {
    let Stage { agent, options, bed: before, .. } = Stage::seed(variant);
    agent.kill();
    let bed = Bed::new();
    let _servers = servers(&bed);
    fs::create_dir(state_folder(bed.proxy())).unwrap();
    fs::copy(record(before.proxy()), record(bed.proxy())).unwrap();
    drop(before);

    let state = state_folder(bed.proxy());
    let [option, backend] = variant.options();
    let arguments = ["restore", "--node-name", "proxy", &option, &backend, "--state-dir", state.to_str().unwrap()];
    let restored = operator(bed.proxy(), arguments);
    assert!(restored.status.success(), "{restored:?}");
    assert!(String::from_utf8_lossy(&restored.stdout).contains("seed"), "{restored:?}");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
    let download = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap().stream().unwrap();

    let before = counted(bed.proxy(), variant);
    let manifests = Manifests::new(bed.proxy());
    manifests.put(FILE, &Manifest::seed().text());
    let agent = started_again(&bed, &manifests, &options);
    assert!(download.goes_on(ANSWER));
    assert_eq!(counted(bed.proxy(), variant), before);
    assert!(!tells_of_a_write(&agent.log()), "{}", agent.log());
}

fn without_its_folder_the_agent_goes_on_as_before(variant: Variant) {
    let Stage { agent, manifests, options, bed } = Stage::seed(variant);
    let _servers = servers(&bed);
    let mut flow = flow(&bed);
    assert!(agent.stop().success());
    fs::remove_dir_all(manifests.folder()).unwrap();

    let agent = started_again(&bed, &manifests, &options);
    flow.ask(ANSWER).unwrap();
    assert!(agent.log().contains("manifest folder cannot be read"), "{}", agent.log());
    assert!(!tells_of_a_write(since_last_start(&agent.log())), "{}", agent.log());
    // Repairs continue too.
    bed.proxy().lose_rules(variant);
    agent.wait_log("repaired");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
    // When the folder exists again, its content is used again.
    fs::create_dir(manifests.folder()).unwrap();
    agent.wait_report("the empty folder is read", |report| report["items"] == serde_json::json!([]));
}

fn a_broken_file_at_a_restart_keeps_its_last_good_content(variant: Variant) {
    let Stage { agent, manifests, options, bed } = Stage::seed(variant);
    let _servers = servers(&bed);
    let mut flow = flow(&bed);
    agent.kill();
    manifests.put(FILE, "spec: [");
    let agent = started_again(&bed, &manifests, &options);
    agent.wait_report("the report names the file", |_| agent.file_error(FILE).is_some());
    flow.ask(ANSWER).unwrap();
    assert!(!tells_of_a_write(since_last_start(&agent.log())), "{}", agent.log());
}

/// Damages the record of an agent and starts another agent. Checks that it logs `says` and that nothing is lost.
fn a_record_is_refused(ruin: impl FnOnce(&Proxy), says: &str) {
    let Stage { agent, manifests, options, bed } = Stage::seed(Variant::Nft);
    let _servers = servers(&bed);
    let download = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap().stream().unwrap();
    let mut flow = flow(&bed);
    let before = counted(bed.proxy(), Variant::Nft);
    agent.kill();
    ruin(bed.proxy());

    let state = state_folder(bed.proxy());
    let arguments = ["restore", "--node-name", "proxy", "--iptables", "nft", "--state-dir", state.to_str().unwrap()];
    let restored = operator(bed.proxy(), arguments);
    assert_eq!(restored.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&restored.stderr).contains(says), "{restored:?}");

    let agent = started_again(&bed, &manifests, &options);
    assert!(agent.log().contains(says), "{}", agent.log());
    assert!(download.goes_on(ANSWER));
    flow.ask(ANSWER).unwrap();
    assert_eq!(counted(bed.proxy(), Variant::Nft), before, "the kernel was in the desired state, so nothing is written");
}

#[test]
fn a_damaged_record_is_refused_and_nothing_is_lost() {
    a_record_is_refused(
        |proxy| {
            let text = fs::read_to_string(record(proxy)).unwrap();
            assert!(text.contains("3.3.3.3"));
            fs::write(record(proxy), text.replace("3.3.3.3", "3.3.3.4")).unwrap();
        },
        "the checksum does not match",
    );
}

#[test]
fn a_record_of_another_node_is_refused_and_nothing_is_lost() {
    a_record_is_refused(
        |proxy| {
            let other = Bed::new();
            let options = AgentOptions { node_name: "elsewhere".to_owned(), ..AgentOptions::new(Variant::Nft) };
            let stage = Stage::with(options, other, &[(FILE, Manifest::seed())]);
            stage.agent.wait_ready(SEED);
            fs::copy(record(stage.proxy()), record(proxy)).unwrap();
        },
        "belongs to node elsewhere",
    );
}

#[test]
fn a_record_that_is_a_link_is_refused_and_nothing_is_lost() {
    a_record_is_refused(
        |proxy| {
            let elsewhere = proxy.files().join("elsewhere.json");
            fs::rename(record(proxy), &elsewhere).unwrap();
            symlink(elsewhere, record(proxy)).unwrap();
        },
        "is a symbolic link",
    );
}

#[test]
fn a_record_that_others_may_write_is_refused_and_nothing_is_lost() {
    a_record_is_refused(
        |proxy| fs::set_permissions(record(proxy), fs::Permissions::from_mode(0o666)).unwrap(),
        "is accessible by other users",
    );
}

/// It waits first, because the other agent may be about to end.
#[test]
fn a_second_agent_on_the_same_state_names_the_first_and_ends() {
    let stage = Stage::seed(Variant::Nft);
    let (kept, folder) = (state_folder(stage.proxy()), stage.manifests.folder());
    let second = operator(
        stage.proxy(),
        ["agent", "--node-name", "proxy", "--manifests", folder.to_str().unwrap(), "--state-dir", kept.to_str().unwrap()],
    );
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("the lock was not released within 30 seconds") && said.contains("stop it first"), "{said}");
    assert_eq!(
        said.matches(&format!("an agent (process {})", stage.agent.id())).count(),
        2,
        "once when it begins to wait and once at the end: {said}"
    );
}

#[test]
fn restore_without_a_record_puts_nothing_back_and_is_no_failure() {
    let bed = Bed::new();
    let state = state_folder(bed.proxy());
    let arguments = ["restore", "--node-name", "proxy", "--iptables", "nft", "--state-dir", state.to_str().unwrap()];
    let restored = operator(bed.proxy(), arguments);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(bed.proxy().our_rules(Variant::Nft), [""; 0]);
}
