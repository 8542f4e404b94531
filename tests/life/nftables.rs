//! The table of nftables: how it reads, what happens to it, and how an agent changes from iptables to it and back.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::bed::agent::{Agent, AgentOptions, Manifests, operator, state_folder};
use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::netns::{must, output};
use crate::bed::wait::eventually;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SERVER};
use crate::beside::{drop_table, dropped, load};
use crate::stage::{FILE, Manifest, SEED, SOON, Stage, by, flow, servers, tcp, wait};

fn table(proxy: &Proxy) -> Vec<String> {
    let listed = output(proxy.command("nft").args(["--stateless", "list", "table", "ip", "portforward"]));
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn the_table_reads_well_and_is_what_render_prints() {
    let stage = Stage::seed(Variant::Nftables);
    let held = table(stage.proxy());
    for line in [
        "fib daddr type local ip daddr . meta l4proto vmap @listen",
        "\"eth1\" . 192.168.0.2 . tcp . 80 . 1.1.1.1 counter : 3.3.3.3 . 80",
        "type nat hook prerouting priority dstnat - 10; policy accept;",
        "type nat hook postrouting priority srcnat - 10; policy accept;",
    ] {
        let text = held.join("\n");
        assert!(text.contains(line), "{line}\n{text}");
    }
    // No program was run for it, so iptables has no tables.
    assert!(!stage.proxy().nft_ruleset().contains("table ip nat"), "{}", stage.proxy().nft_ruleset());
    let file = stage.manifests.folder().join(FILE);
    let rendered = operator(stage.proxy(), ["render", "--backend", "nftables", "--this-node", file.to_str().unwrap()]);
    let rendered = String::from_utf8(rendered.stdout).unwrap();
    let rules: String = rendered.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    // In a network namespace without the table.
    let mut check = Command::new("unshare");
    check.args(["--net", "nft", "-c", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    // nft 1.0.6 cannot load the rule for sources.
    let loadable: String =
        rules.lines().filter(|line| !line.trim_start().starts_with("snat to")).map(|line| format!("{line}\n")).collect();
    check.stdin.take().unwrap().write_all(loadable.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}\n{loadable}", String::from_utf8_lossy(&checked.stderr));
    for line in held.iter().map(|line| line.trim()).filter(|line| line.contains(" map @") || line.contains(" vmap @")) {
        assert!(rules.contains(line), "{line}\n{rules}");
    }
}

/// An agent whose table no other program can change.
fn owner() -> AgentOptions {
    AgentOptions { extra: vec!["--nftables-table=owned".to_owned()], ..AgentOptions::new(Variant::Nftables) }
}

/// Asserts that another program cannot change the table, and that a flush of all tables leaves it out.
fn is_owned(proxy: &Proxy) {
    let before = table(proxy);
    assert!(before.iter().any(|line| line.contains("flags owner")), "is this Linux 6.9 or later? {before:#?}");
    for change in ["delete table ip portforward", "flush chain ip portforward prerouting", "add chain ip portforward other"] {
        let refused = output(proxy.command("nft").arg(change));
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains("Operation not permitted"), "{change}: {error}");
    }
    must(proxy.command("nft").args(["flush", "ruleset"]));
    assert_eq!(table(proxy), before);
}

#[test]
fn an_owned_table_is_changed_by_nobody_else_and_survives_its_agent() {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let manifests = Manifests::new(bed.proxy());
    manifests.put(FILE, &Manifest::seed().text());
    let (options, proxy) = (owner(), bed.proxy());
    let agent = Agent::start(proxy, &manifests, &options);
    agent.wait_ready(SEED);
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let mut udp = flow(&bed);
    let from = udp.ask(ANSWER).unwrap().peer;
    let mut goes_on = |what: &str| {
        session.exchange(ANSWER).unwrap_or_else(|silence| panic!("{what}: {silence}"));
        assert_eq!(udp.ask(ANSWER).unwrap().peer, from, "{what}");
        assert_eq!(tcp(&bed), by(SERVER, EXTERNAL), "{what}");
    };
    is_owned(proxy);
    goes_on("a flush of all tables");
    let owned = table(proxy);
    let rules = |table: Vec<String>| {
        let is_rule = |line: &String| !line.is_empty() && !line.contains("flags") && !line.contains("table ");
        table.into_iter().filter(is_rule).collect::<Vec<_>>()
    };
    agent.kill();
    assert!(table(proxy).iter().all(|line| !line.contains("owner")), "{:#?}", table(proxy));
    assert_eq!(rules(table(proxy)), rules(owned.clone()));
    goes_on("without an agent");
    // The next agent takes it over as it is.
    let mut agent = Agent::start(proxy, &manifests, &options);
    wait("the table has an owner", || table(proxy) == owned);
    is_owned(proxy);
    goes_on("with the next agent");
    assert!(!agent.log().contains("repaired"), "{}", agent.log());
    // A table that was damaged without an agent.
    for damage in
        ["flush chain ip portforward input; delete chain ip portforward input", "delete chain ip portforward prerouting"]
    {
        agent.kill();
        must(proxy.command("nft").arg("flush chain ip portforward prerouting"));
        must(proxy.command("nft").arg(damage));
        agent = Agent::start(proxy, &manifests, &options);
        wait(&format!("{damage}: repaired"), || table(proxy) == owned);
        is_owned(proxy);
    }
    // An agent that leaves it open, and one that makes an open table its own.
    assert!(agent.stop().success());
    must(proxy.command("nft").args(["delete", "table", "ip", "portforward"]));
    let agent = Agent::start(proxy, &manifests, &AgentOptions::new(Variant::Nftables));
    agent.wait_ready(SEED);
    wait("the table is there", || rules(table(proxy)) == rules(owned.clone()));
    assert!(table(proxy).iter().all(|line| !line.contains("owner")));
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    assert!(agent.stop().success());
    let agent = Agent::start(proxy, &manifests, &options);
    wait("the table has an owner", || table(proxy) == owned);
    session.exchange(ANSWER).unwrap();
    assert!(agent.stop().success());
    let state = state_folder(proxy);
    let cleaned = operator(proxy, ["cleanup", "--node-name", "proxy", "--state-dir", state.to_str().unwrap()]);
    assert!(cleaned.status.success() && table(proxy).is_empty(), "{cleaned:?}");
}

#[test]
fn whatever_is_done_to_an_open_table_is_repaired() {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let stage = Stage::of(Variant::Nftables, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let (proxy, before) = (stage.proxy(), table(stage.proxy()));
    for damage in [
        "delete table ip portforward",
        "flush ruleset",
        "flush table ip portforward",
        "flush chain ip portforward prerouting",
        "delete element ip portforward new_destination_interface { eth1 . 192.168.0.2 . tcp . 80 . 1.1.1.1 }",
        "add element ip portforward new_destination_interface { eth1 . 192.168.0.2 . tcp . 81 . 1.1.1.1 : 3.3.3.3 . 80 }",
        "add chain ip portforward other",
        "insert rule ip portforward prerouting tcp dport 80 drop",
        "add set ip portforward other { type ipv4_addr; }",
        "add table ip portforward { flags dormant; }",
        "chain ip portforward postrouting { policy drop; }",
    ] {
        stage.agent.pause();
        must(proxy.command("nft").arg(damage));
        assert_ne!(table(proxy), before, "{damage}");
        stage.agent.resume();
        wait(&format!("{damage}: repaired"), || table(proxy) == before);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{damage}");
    }
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
}

#[test]
fn a_change_from_iptables_to_nftables_and_back_cuts_nothing_and_leaves_nothing() {
    for variant in Variant::ALL {
        let Stage { mut agent, manifests, bed, .. } = Stage::seed(variant);
        let _servers = servers(&bed);
        let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
        session.exchange(ANSWER).unwrap();
        let mut udp = flow(&bed);
        let from = udp.ask(ANSWER).unwrap().peer;
        for to in [Variant::Nftables, variant, Variant::Nftables] {
            assert!(agent.stop().success());
            agent = Agent::start(bed.proxy(), &manifests, &AgentOptions::new(to));
            agent.wait_ready(SEED);
            session.exchange(ANSWER).unwrap();
            assert_eq!(udp.ask(ANSWER).unwrap().peer, from, "the same flow, to {to}");
            assert_eq!(tcp(&bed), by(SERVER, EXTERNAL), "{to}");
            let left = || match to {
                Variant::Nftables => bed.proxy().our_rules(variant),
                Variant::Nft | Variant::Legacy => table(bed.proxy()),
            };
            assert!(eventually(SOON, || left().is_empty()), "from {variant}, to {to}: {:#?}\n{}", left(), agent.log());
            assert!(!bed.proxy().our_rules(to).is_empty());
        }
    }
}

#[test]
fn forward_of_iptables_that_drops_gets_one_rule_and_only_then() {
    for variant in Variant::ALL {
        let stage = Stage::seed(Variant::Nftables);
        let _servers = servers(&stage.bed);
        let proxy = stage.proxy();
        proxy.iptables(variant, "-P FORWARD DROP");
        crate::beside::look_again(&stage);
        let ours = |proxy: &Proxy| proxy.our_rules(variant).into_iter().filter(|line| line.contains(" -A ")).collect::<Vec<_>>();
        wait("the rule is there", || ours(proxy).len() == 2);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{variant}");
        wait("the status says it", || stage.message(SEED, "Ready").contains("the policy of FORWARD is DROP"));
        proxy.iptables(variant, "-F FORWARD");
        crate::beside::look_again(&stage);
        wait("the rule is back", || ours(proxy).len() == 2);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{variant}");
        proxy.iptables(variant, "-P FORWARD ACCEPT");
        crate::beside::look_again(&stage);
        wait("the rule is gone", || proxy.our_rules(variant).is_empty());
        stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    }
}

#[test]
fn another_table_that_drops_or_translates_first_is_named() {
    let stage = Stage::seed(Variant::Nftables);
    let _servers = servers(&stage.bed);
    load(stage.proxy(), "table inet guard { chain named { type filter hook forward priority 0; policy drop;\n }\n }\n");
    let message = dropped(&stage, "inet guard named");
    assert!(message.contains("policy drop"), "{message}");
    drop_table(stage.proxy(), "inet guard");
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    let nat = |priority: &str| {
        format!(
            "table ip first {{ chain named {{ type nat hook prerouting priority {priority}; tcp dport 80 dnat to 3.3.3.4\n }}\n }}\n"
        )
    };
    load(stage.proxy(), &nat("dstnat - 20"));
    stage.agent.wait_condition(SEED, "Ready", "False", "TranslatedFirst");
    drop_table(stage.proxy(), "ip first");
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    // The usual priority comes after the operator's.
    crate::beside::not_told(&stage, &nat("dstnat"));
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

#[test]
fn cleanup_removes_the_table() {
    let Stage { agent, bed, .. } = Stage::seed(Variant::Nftables);
    bed.proxy().iptables(Variant::Nft, "-P FORWARD DROP");
    wait("the rule of FORWARD is there", || !bed.proxy().our_rules(Variant::Nft).is_empty());
    assert!(agent.stop().success());
    let state = state_folder(bed.proxy());
    let cleaned = operator(bed.proxy(), ["cleanup", "--node-name", "proxy", "--state-dir", state.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&cleaned.stdout).into_owned();
    assert!(cleaned.status.success() && text.contains("nftables: "), "{cleaned:?}");
    let left = output(bed.proxy().command("nft").args(["list", "table", "ip", "portforward"]));
    assert!(!left.status.success(), "{left:?}");
    assert!(bed.proxy().our_rules(Variant::Nft).is_empty());
}
