//! Closing goes first: a deleted forward is closed, its connections are cut and its status is correct, even if other parts of
//! the kernel cannot be read or written.

use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use crate::bed::agent::{AgentOptions, operator, state_folder};
use crate::bed::client::{ANSWER, Connection, Silence, UdpFlow, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::server::Server;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, and_by_nftables, by, flow, on_both_variants, servers, wait, way};

on_both_variants! {
    what_the_programs_lack_an_extension_for_costs_nothing_of_ours,
    a_rule_that_is_refused_stops_its_own_forward_and_no_other,
    without_marks_no_rule_decides_about_a_flow,
    a_flow_that_began_while_its_rule_was_refused_is_translated_once_the_rule_is_taken,
    a_chain_of_ours_that_holds_what_cannot_be_printed_is_written_again,
}

and_by_nftables! {
    what_the_programs_lack_an_extension_for_costs_nothing_of_ours,
}

/// A second forward of the same client to another port.
fn second(name: &str, port: u16) -> Manifest {
    Manifest::seed().named(name).with("/spec/ports", serde_json::json!([{"name": "more", "port": port, "targetPort": 80}]))
}

/// The example forward, and another one on port 82.
fn two(options: AgentOptions) -> Stage {
    let stage = Stage::with(options, Bed::new(), &[(FILE, Manifest::seed()), ("b.yaml", second("b", 82))]);
    stage.agent.wait_ready(SEED);
    stage.agent.wait_ready("lines/b");
    stage
}

fn ask(bed: &Bed, port: u16) -> Result<(std::net::IpAddr, std::net::IpAddr), Silence> {
    way(tcp_ask(&bed.client, CLIENT, (INTERNAL, port), ANSWER))
}

fn cleanup(proxy: &Proxy, environment: Option<&PathBuf>) {
    let state = state_folder(proxy);
    let arguments = ["cleanup", "--node-name", "proxy", "--state-dir", state.to_str().unwrap()];
    let cleaned = match environment {
        None => operator(proxy, arguments),
        Some(folder) => {
            let script = format!("export XTABLES_LIBDIR={}; exec \"$@\"", folder.display());
            crate::bed::netns::output(crate::bed::agent::in_mounts(proxy, &script).args(arguments))
        }
    };
    assert!(cleaned.status.success(), "{cleaned:?}");
}

/// Deletes the example forward, creates another one and edits the second. Checks that each change takes effect.
fn closes_and_opens(stage: &Stage, claim: &str) {
    let servers = servers(&stage.bed);
    let mut session = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let mut kept = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 82), ANSWER).unwrap();
    let mut datagrams = flow(&stage.bed);
    stage.manifests.remove(FILE);
    wait(&format!("{claim}: the forward leaves the status"), || stage.agent.forward(SEED).is_none());
    assert!(session.is_cut(&stage.bed) && datagrams.is_cut(&stage.bed, &servers), "{claim}");
    assert_eq!(ask(&stage.bed, 80), Err(Silence::Refused), "{claim}: closed");
    stage.manifests.put("c.yaml", &second("c", 83).text());
    stage.agent.wait_ready("lines/c");
    assert_eq!(ask(&stage.bed, 83), by(SERVER, EXTERNAL), "{claim}: a new forward works");
    kept.exchange(ANSWER).expect(claim);
    assert_eq!(ask(&stage.bed, 82), by(SERVER, EXTERNAL), "{claim}: the other forward works");
}

/// Adds something to a table or a chain that iptables-nft cannot print. Checks that forwards can still be closed and created.
fn is_closed_beside(claim: &str, commands: &[&str]) {
    let stage = two(AgentOptions::new(Variant::Nft));
    for command in commands {
        must(stage.proxy().command("nft").arg(command));
    }
    let before = foreign_of(&stage.proxy().nft_ruleset());
    closes_and_opens(&stage, claim);
    // A new agent cannot read more than the first one, and finds everything in order.
    let Stage { agent, manifests, options, bed } = stage;
    assert!(agent.stop().success());
    let agent = crate::bed::agent::Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_ready("lines/b");
    assert!(agent.stop().success());
    cleanup(bed.proxy(), None);
    let left = bed.proxy().nft_ruleset();
    assert!(!left.contains("PF-"), "{claim}: {left}");
    assert_eq!(foreign_of(&left), before, "{claim}");
}

fn foreign_of(ruleset: &str) -> Vec<String> {
    let is_foreign = |line: &&str| ["map", "OTHERS", "elements", "flowtable"].iter().any(|word| line.contains(word));
    ruleset.lines().filter(is_foreign).map(str::to_owned).collect()
}

#[test]
fn a_rule_in_prerouting_that_cannot_be_printed_hinders_nothing() {
    is_closed_beside("PREROUTING", &["add rule ip nat PREROUTING dnat to tcp dport map { 8080 : 3.3.3.4 }"]);
}

#[test]
fn a_rule_in_postrouting_that_cannot_be_printed_hinders_nothing() {
    is_closed_beside("POSTROUTING", &["add rule ip nat POSTROUTING snat to ip saddr map { 9.9.9.9 : 2.2.2.2 }"]);
}

#[test]
fn a_chain_of_another_program_that_cannot_be_printed_hinders_nothing() {
    is_closed_beside(
        "other chains of nat and filter",
        &[
            "add chain ip nat OTHERS",
            "add rule ip nat OTHERS dnat to tcp dport map { 8080 : 3.3.3.4 }",
            "add chain ip filter OTHERS",
            "add rule ip filter OTHERS tcp dport vmap { 8080 : accept }",
        ],
    );
}

#[test]
fn sets_flowtables_and_other_base_chains_in_our_tables_hinder_nothing() {
    is_closed_beside(
        "native things in both tables",
        &[
            "add set ip nat OTHERS-set { type ipv4_addr; elements = { 9.9.9.9 } }",
            "add rule ip nat PREROUTING ip daddr @OTHERS-set dnat to 9.9.9.8",
            "add chain ip nat OTHERS { type nat hook prerouting priority -90; }",
            "add map ip filter OTHERS-map { type inet_service : verdict; elements = { 8080 : accept } }",
            "add rule ip filter FORWARD tcp dport vmap @OTHERS-map",
            "add chain ip filter OTHERS { type filter hook forward priority 10; }",
            "add rule ip filter OTHERS ct state vmap { established : accept }",
        ],
    );
}

#[test]
fn a_built_in_chain_that_cannot_be_printed_still_tells_where_our_jump_stands() {
    let stage = two(AgentOptions::new(Variant::Nft));
    let _servers = servers(&stage.bed);
    // The jump moves back at most once a minute, and it was put first a moment ago.
    let insert = "insert rule ip nat PREROUTING dnat to tcp dport map { 8080 : 3.3.3.4 }";
    must(stage.proxy().command("nft").arg(insert));
    stage.agent.wait_condition(SEED, "Ready", "False", "Overridden");
    assert!(stage.message(SEED, "Ready").contains("cannot print"), "{}", stage.message(SEED, "Ready"));
    // If the jump is deleted, it is added again at the first position.
    stage.proxy().iptables(Variant::Nft, "-t nat -D PREROUTING -m addrtype --dst-type LOCAL -j PF-PRE");
    stage.agent.wait_ready(SEED);
    assert_eq!(ask(&stage.bed, 80), by(SERVER, EXTERNAL));
}

/// The folder with the extensions of iptables.
fn installed() -> PathBuf {
    let from =
        ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/aarch64-linux-gnu/xtables", "/usr/lib/xtables", "/usr/lib64/xtables"];
    let from = from.into_iter().map(PathBuf::from).find(|from| from.is_dir());
    from.expect("the folder with the extensions of iptables exists")
}

/// The extensions of iptables except those in `without`, which rules of the operator or of another program may need.
fn extensions(proxy: &Proxy, without: &[&str]) -> PathBuf {
    let folder = proxy.files().join("xtables");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(installed()).unwrap() {
        let file = file.unwrap();
        if !without.iter().any(|name| file.file_name() == format!("lib{name}.so").as_str()) {
            std::os::unix::fs::symlink(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    folder
}

fn lacking(variant: Variant, bed: &Bed, without: &[&str]) -> (AgentOptions, PathBuf) {
    let folder = extensions(bed.proxy(), without);
    let mounts = Some(format!("export XTABLES_LIBDIR={}; exec \"$@\"", folder.display()));
    (AgentOptions { mounts, ..AgentOptions::new(variant) }, folder)
}

fn what_the_programs_lack_an_extension_for_costs_nothing_of_ours(variant: Variant) {
    let bed = Bed::new();
    let (options, folder) = lacking(variant, &bed, &["xt_statistic"]);
    let rule = "-m statistic --mode random --probability 0.5 -j RETURN";
    bed.proxy().iptables(variant, &format!("-t nat -A PREROUTING {rule}"));
    bed.proxy().iptables(variant, &format!("-A FORWARD {rule}"));
    let stage = Stage::with(options, bed, &[(FILE, Manifest::seed()), ("b.yaml", second("b", 82))]);
    stage.agent.wait_ready(SEED);
    stage.agent.wait_ready("lines/b");
    closes_and_opens(&stage, "a rule whose extension is missing");
    let Stage { agent, bed, .. } = stage;
    assert!(agent.stop().success());
    cleanup(bed.proxy(), Some(&folder));
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
    assert!(bed.proxy().iptables(variant, "-t nat -S PREROUTING").contains("statistic"));
}

fn a_rule_that_is_refused_stops_its_own_forward_and_no_other(variant: Variant) {
    let bed = Bed::new();
    let _udp = Server::udp(&bed.server, SERVER, [514]);
    // The extensions that the operator's UDP rules need, for both variants.
    let (options, folder) = lacking(variant, &bed, &["xt_udp", "xt_multiport"]);
    let udp = serde_json::json!([{"name": "log", "protocol": "UDP", "port": 514}]);
    let files = [
        (FILE, Manifest::seed().with("/spec/ports", serde_json::json!([{"name": "web", "port": 80}]))),
        ("b.yaml", second("b", 82)),
        ("u.yaml", Manifest::seed().named("u").with("/spec/ports", udp)),
    ];
    let stage = Stage::with(options, bed, &files);
    stage.agent.wait_ready(SEED);
    stage.agent.wait_condition("lines/u", "Programmed", "False", "ApplyFailed");
    stage.agent.wait_condition("lines/u", "Ready", "False", "ApplyFailed");
    let message = stage.message("lines/u", "Programmed");
    assert!(message.contains("PF-") && message.contains("nat"), "{message}");
    {
        let _servers = [Server::tcp(&stage.bed.server, SERVER, [80])];
        let mut session = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
        assert_eq!(ask(&stage.bed, 82), by(SERVER, EXTERNAL));
        stage.manifests.put("c.yaml", &second("c", 83).text());
        stage.agent.wait_ready("lines/c");
        assert_eq!(ask(&stage.bed, 83), by(SERVER, EXTERNAL), "a new forward beside it works");
        assert!(!stage.agent.log().contains("Drifted"), "it was written where it belongs at once: {}", stage.agent.log());
        let ours = stage.proxy().our_rules(variant);
        let root: Vec<_> = ours.iter().filter(|rule| rule.contains("-A PF-PRE ")).collect();
        assert!(
            root.first().unwrap().contains("--set-xmark 0x1000/") && root.last().unwrap().contains("--set-xmark 0x0/"),
            "{root:?}"
        );
        stage.manifests.remove(FILE);
        wait("the forward leaves the status", || stage.agent.forward(SEED).is_none());
        assert!(session.is_cut(&stage.bed), "its connections are cut");
        assert_eq!(ask(&stage.bed, 80), Err(Silence::Refused));
        assert_eq!(ask(&stage.bed, 82), by(SERVER, EXTERNAL), "the other forward works");
    }
    stage.agent.wait_ready("lines/b");
    stage.manifests.remove("u.yaml");
    wait("a forward that was never in force leaves the status at once", || stage.agent.forward("lines/u").is_none());
    let Stage { agent, bed, .. } = stage;
    assert!(agent.stop().success());
    cleanup(bed.proxy(), Some(&folder));
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
}

/// Without the mark, FORWARD would not know the flows, and POSTROUTING would change the source of flows of others.
fn without_marks_no_rule_decides_about_a_flow(variant: Variant) {
    let bed = Bed::new();
    let (options, folder) = lacking(variant, &bed, &["xt_connmark", "xt_CONNMARK"]);
    let stage = Stage::with(options, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_condition(SEED, "Programmed", "False", "ApplyFailed");
    let message = stage.message(SEED, "Programmed");
    assert!(message.contains("PF-") && message.to_lowercase().contains("connmark"), "{message}");
    let reached = |root: &str| {
        let ours = stage.proxy().our_rules(variant);
        ours.into_iter().filter(|rule| rule.contains(&format!("-A {root} "))).collect::<Vec<_>>()
    };
    for root in ["PF-PRE", "PF-POST", "PF-FWD"] {
        assert_eq!(reached(root), [""; 0], "{root}");
    }
    let _servers = servers(&stage.bed);
    assert_eq!(ask(&stage.bed, 80), Err(Silence::Refused), "the node itself gets the packet");
    for name in ["libxt_connmark.so", "libxt_CONNMARK.so"] {
        std::os::unix::fs::symlink(installed().join(name), folder.join(name)).unwrap();
    }
    stage.agent.wait_ready(SEED);
    assert_eq!(ask(&stage.bed, 80), by(SERVER, EXTERNAL));
}

fn a_flow_that_began_while_its_rule_was_refused_is_translated_once_the_rule_is_taken(variant: Variant) {
    let bed = Bed::new();
    let _udp = Server::udp(&bed.server, SERVER, [514]);
    let missing = ["xt_udp", "xt_multiport"];
    let (options, folder) = lacking(variant, &bed, &missing);
    let ports = |name: &str, protocol: &str, port: u16| serde_json::json!([{"name": name, "protocol": protocol, "port": port}]);
    let files = [
        (FILE, Manifest::seed().with("/spec/ports", ports("web", "TCP", 80))),
        ("u.yaml", Manifest::seed().named("u").with("/spec/ports", ports("log", "UDP", 514))),
    ];
    let stage = Stage::with(options, bed, &files);
    stage.agent.wait_condition("lines/u", "Programmed", "False", "ApplyFailed");
    let mut flow = UdpFlow::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 514)).unwrap();
    assert!(flow.ask(ANSWER).is_err(), "the node itself gets the packet");
    for name in missing.map(|name| format!("lib{name}.so")) {
        std::os::unix::fs::symlink(installed().join(&name), folder.join(&name)).unwrap();
    }
    // With this event the next sync reads only what may have changed.
    stage.manifests.put("b.yaml", &second("b", 82).text());
    stage.agent.wait_ready("lines/u");
    wait("the same flow is translated", || way(flow.ask(ANSWER)) == by(SERVER, EXTERNAL));
}

fn a_chain_of_ours_that_holds_what_cannot_be_printed_is_written_again(variant: Variant) {
    let bed = Bed::new();
    let (options, _) = lacking(variant, &bed, &["xt_statistic"]);
    let stage = Stage::with(options, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let _servers = servers(&stage.bed);
    let before = stage.proxy().our_rules(variant);
    stage.proxy().iptables(variant, "-t nat -I PF-PRE -m statistic --mode random --probability 0.5 -j RETURN");
    if variant == Variant::Nft {
        must(stage.proxy().command("nft").arg("insert rule ip nat PF-POST snat to ip saddr map { 9.9.9.9 : 2.2.2.2 }"));
    }
    wait("the rules are as before", || stage.proxy().our_rules(variant) == before);
    assert_eq!(ask(&stage.bed, 80), by(SERVER, EXTERNAL));
}

#[test]
fn while_another_program_holds_the_lock_the_status_says_that_what_is_gone_is_open() {
    let stage = two(AgentOptions::new(Variant::Legacy));
    let _servers = servers(&stage.bed);
    let mut session = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let lock = std::fs::File::create(stage.proxy().lock_file()).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    stage.manifests.remove(FILE);
    stage.agent.wait_condition(SEED, "Accepted", "False", "Leaving");
    stage.agent.wait_condition(SEED, "Programmed", "False", "ApplyFailed");
    assert!(session.is_cut(&stage.bed), "its connections are cut");
    // A new connection shows that the forward is still open.
    assert_eq!(ask(&stage.bed, 80), by(SERVER, EXTERNAL));
    // A new agent knows this from the record.
    let Stage { agent, manifests, options, bed } = stage;
    agent.kill();
    let agent = crate::bed::agent::Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Accepted", "False", "Leaving");
    drop(lock);
    wait("the forward leaves the status after it was closed", || agent.forward(SEED).is_none());
    assert_eq!(ask(&bed, 80), Err(Silence::Refused));
    assert_eq!(ask(&bed, 82), by(SERVER, EXTERNAL));
}
