//! What an installation leaves behind on a node: after `cleanup` there is nothing that was not there before, compared byte by
//! byte.

use std::process::Output;

use crate::bed::agent::{Agent, AgentOptions, Manifests, operator, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::{Bed, EXTERNAL, GATEWAY, INTERNAL, Proxy, ROUTER};
use crate::stage::{FILE, Manifest, SEED, Stage};

/// Everything on a node that an installation might change, as printed by the tools of the system, with all counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holdings {
    nft: String,
    iptables_nft: String,
    iptables_legacy: String,
    legacy_tables: String,
    routes: String,
    rules: String,
}

impl Holdings {
    fn of(proxy: &Proxy) -> Self {
        let print = |program: &str, arguments: &str| must(proxy.command(program).args(arguments.split_whitespace()));
        // The comments contain the current time.
        let saved = |variant: &str| -> String {
            let text = print(&format!("iptables-{variant}-save"), "-c");
            text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
        };
        Self {
            nft: print("nft", "list ruleset"),
            iptables_nft: saved("nft"),
            iptables_legacy: saved("legacy"),
            // The files are missing if the modules are not loaded.
            legacy_tables: proxy
                .netns
                .run(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default()),
            routes: print("ip", "-4 route show table all"),
            rules: print("ip", "-4 rule show"),
        }
    }
}

fn run(proxy: &Proxy, arguments: &[&str]) -> Output {
    let state = state_folder(proxy);
    let ends = ["--node-name", "proxy", "--state-dir", state.to_str().unwrap()];
    operator(proxy, arguments.iter().copied().chain(ends))
}

fn clean(proxy: &Proxy) -> String {
    let cleaned = run(proxy, &["cleanup"]);
    assert!(cleaned.status.success(), "{cleaned:?}");
    String::from_utf8(cleaned.stdout).unwrap()
}

/// A bed in which the proxy's links lead to nothing, so that no packet of a neighbour counts in a rule. The next hops have
/// permanent neighbour entries, so they need not answer.
fn quiet() -> Bed {
    let bed = Bed::new();
    for (link, address, next_hop) in [("eth0", EXTERNAL, ROUTER), ("eth1", INTERNAL, GATEWAY)] {
        bed.proxy().netns.ip_batch([
            format!("link del {link}"),
            format!("link add {link} type veth peer name far-{link}"),
            format!("link set far-{link} up"),
            format!("link set {link} up"),
            format!("addr add {address}/24 dev {link}"),
            format!("neigh add {next_hop} dev {link} lladdr 02:00:00:00:00:01 nud permanent"),
        ]);
    }
    bed.proxy().netns.ip(&format!("route add default via {ROUTER} dev eth0"));
    bed
}

/// Installs the operator and waits until the example forward is ready, then runs `meanwhile`. The agent has ended when this
/// returns.
fn install(variant: Variant, bed: Bed, meanwhile: impl FnOnce(&Proxy)) -> Bed {
    let Stage { agent, bed, .. } = Stage::of(variant, bed, &[(FILE, Manifest::seed())]);
    agent.wait_ready(SEED);
    meanwhile(bed.proxy());
    agent.wait_ready(SEED);
    assert!(agent.stop().success());
    bed
}

fn nft(proxy: &Proxy, command: &str) {
    must(proxy.command("nft").arg(command));
}

/// Rules of the same form as those of kube-proxy: its own chains in the tables that the operator also uses, jumps to them, and
/// counters.
fn like_kube_proxy(proxy: &Proxy, variant: Variant) {
    let rules = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
[31:1860] -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
[7:420] -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
[5:300] -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
[2:120] -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-A
[1:60] -A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
[1:60] -A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.0.0.5:6443
[0:0] -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
[0:0] -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
[0:0] -A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FORWARD - [0:0]
[9:540] -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
[3:180] -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
";
    let file = proxy.files().join("kube-proxy");
    std::fs::write(&file, rules).unwrap();
    let restore = format!("iptables-{variant}-restore --noflush -w -c < {}", file.display());
    must(proxy.command("sh").args(["-c", &restore]));
    proxy.iptables(variant, "-P FORWARD DROP");
}

#[test]
fn a_bare_node_is_bare_again_by_nft() {
    let bed = quiet();
    let before = Holdings::of(bed.proxy());
    assert_eq!((before.nft.as_str(), before.iptables_nft.as_str()), ("", ""), "a namespace begins without tables");
    let bed = install(Variant::Nft, bed, |_| {});
    let during = Holdings::of(bed.proxy());
    assert!(during.nft.contains("jump PF-PRE") && !during.nft.contains("portforward.dev"), "the mark is missing: {}", during.nft);
    let said = clean(bed.proxy());
    assert!(said.contains("4 built-in chains and 2 tables removed"), "{said}");
    assert_eq!(Holdings::of(bed.proxy()), before);
    assert!(!clean(bed.proxy()).contains("built-in chains"), "there is nothing more to remove");
}

/// No program can remove the tables of legacy xtables. They stay in the state in which the kernel creates them.
#[test]
fn a_bare_node_keeps_by_legacy_only_the_tables_as_the_kernel_makes_them() {
    let bed = quiet();
    let before = Holdings::of(bed.proxy());
    let bed = install(Variant::Legacy, bed, |_| {});
    clean(bed.proxy());
    let after = Holdings::of(bed.proxy());
    let fresh = quiet();
    for table in ["filter", "nat"] {
        fresh.proxy().iptables(Variant::Legacy, &format!("-t {table} -L"));
    }
    let fresh = Holdings::of(fresh.proxy());
    assert!(fresh.iptables_legacy.contains(":PREROUTING ACCEPT [0:0]"), "{fresh:?}");
    let Holdings { iptables_legacy, legacy_tables, .. } = after.clone();
    assert_eq!((&iptables_legacy, &legacy_tables), (&fresh.iptables_legacy, &fresh.legacy_tables));
    assert_eq!(after, Holdings { iptables_legacy, legacy_tables, ..before });
}

fn beside_kube_proxy(variant: Variant) {
    let bed = quiet();
    like_kube_proxy(bed.proxy(), variant);
    let before = Holdings::of(bed.proxy());
    let bed = install(variant, bed, |_| {});
    assert_ne!(Holdings::of(bed.proxy()), before);
    clean(bed.proxy());
    assert_eq!(Holdings::of(bed.proxy()), before);
}

#[test]
fn beside_kube_proxy_by_nft_every_byte_is_as_before() {
    beside_kube_proxy(Variant::Nft);
}

#[test]
fn beside_kube_proxy_by_legacy_every_byte_is_as_before() {
    beside_kube_proxy(Variant::Legacy);
}

#[test]
fn empty_tables_that_were_there_stay_by_nft() {
    let bed = quiet();
    nft(
        bed.proxy(),
        "add table ip nat; add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; };
         add table ip filter { comment \"made by hand\"; }; add table ip raw",
    );
    let before = Holdings::of(bed.proxy());
    let bed = install(Variant::Nft, bed, |_| {});
    let said = clean(bed.proxy());
    assert!(said.contains("3 built-in chains and 0 tables removed"), "PREROUTING, FORWARD and INPUT were missing: {said}");
    assert_eq!(Holdings::of(bed.proxy()), before);
}

#[test]
fn empty_tables_that_were_there_stay_by_legacy() {
    let bed = quiet();
    for table in ["filter", "nat", "raw"] {
        bed.proxy().iptables(Variant::Legacy, &format!("-t {table} -L"));
    }
    let before = Holdings::of(bed.proxy());
    let bed = install(Variant::Legacy, bed, |_| {});
    clean(bed.proxy());
    assert_eq!(Holdings::of(bed.proxy()), before);
}

/// An agent that now uses the other variant removes the rules that it left in the first one, and the tables and chains that
/// contained them.
#[test]
fn a_change_to_legacy_leaves_no_table_in_nft() {
    let stage = Stage::of(Variant::Nft, quiet(), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let Stage { agent, manifests, mut options, bed } = stage;
    assert!(agent.stop().success());
    options.variant = Variant::Legacy;
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_ready(SEED);
    assert!(agent.stop().success());
    assert_eq!(Holdings::of(bed.proxy()).nft, "");
}

/// If another program has added something to the operator's tables, it stays, and so do the tables and chains that contain it.
#[test]
fn what_others_put_into_our_tables_stays_with_what_it_hangs_in() {
    let others = |proxy: &Proxy| {
        proxy.iptables(Variant::Nft, "-t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE");
        nft(proxy, "add set ip filter allowed { type ipv4_addr; }");
    };
    let bed = install(Variant::Nft, quiet(), others);
    let said = clean(bed.proxy());
    assert!(said.contains("3 built-in chains and 0 tables removed"), "{said}");
    let alone = quiet();
    nft(alone.proxy(), "add table ip filter");
    others(alone.proxy());
    let lines = |holdings: Holdings| {
        let mut lines: Vec<String> = holdings.nft.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        lines(Holdings::of(bed.proxy())),
        lines(Holdings::of(alone.proxy())),
        "as on a node on which the operator never ran"
    );
}

#[test]
fn a_policy_that_another_program_set_on_our_chain_stays() {
    let bed = install(Variant::Nft, quiet(), |proxy| drop(proxy.iptables(Variant::Nft, "-P FORWARD DROP")));
    clean(bed.proxy());
    assert_eq!(
        bed.proxy().iptables_save(Variant::Nft),
        ["*filter", ":INPUT ACCEPT", ":FORWARD DROP", ":OUTPUT ACCEPT", "COMMIT"]
    );
}

/// Another program flushes everything and creates the same tables again, empty. They then belong to that program.
#[test]
fn tables_that_another_program_made_anew_are_not_taken_for_ours() {
    let bed = install(Variant::Nft, quiet(), |_| {});
    let anew = "flush ruleset; add table ip nat; add chain ip nat PREROUTING { type nat hook prerouting priority dstnat; }";
    nft(bed.proxy(), anew);
    let before = Holdings::of(bed.proxy()).nft;
    clean(bed.proxy());
    assert_eq!(Holdings::of(bed.proxy()).nft, before);
}

/// Not even if it restores a saved copy of the operator's tables.
#[test]
fn a_saved_copy_of_our_tables_is_not_taken_for_ours() {
    let bed = install(Variant::Nft, quiet(), |_| {});
    let proxy = bed.proxy();
    for (table, chain) in [("nat", "PF-PRE"), ("nat", "PF-POST"), ("filter", "PF-FWD"), ("filter", "PF-IN")] {
        proxy.iptables(Variant::Nft, &format!("-t {table} -F"));
        proxy.iptables(Variant::Nft, &format!("-t {table} -X {chain}"));
    }
    let copy = Holdings::of(proxy).nft;
    assert_eq!((copy.matches("table ip").count(), copy.matches("chain").count()), (2, 4), "{copy}");
    let file = proxy.files().join("copy.nft");
    std::fs::write(&file, format!("flush ruleset\n{copy}")).unwrap();
    must(proxy.command("nft").arg("-f").arg(&file));
    clean(proxy);
    assert_eq!(Holdings::of(proxy).nft, copy);
}

/// Commands that only read, on a node that carries no forward.
#[test]
fn looking_makes_no_table() {
    let bed = quiet();
    let before = Holdings::of(bed.proxy());
    let manifests = Manifests::new(bed.proxy());
    for variant in ["auto", "nft", "legacy"] {
        assert_eq!(run(bed.proxy(), &["status", "--iptables", variant]).status.code(), Some(1), "there is no record");
        assert!(run(bed.proxy(), &["restore", "--iptables", variant]).status.success());
        assert_eq!(Holdings::of(bed.proxy()), before, "{variant}");
    }
    clean(bed.proxy());
    assert_eq!(Holdings::of(bed.proxy()), before);
    for variant in Variant::ALL {
        manifests.put(FILE, &Manifest::seed().with("/spec/mode", "Disabled").text());
        let agent = Agent::start(bed.proxy(), &manifests, &AgentOptions::new(variant));
        agent.wait_condition(SEED, "Ready", "True", "Disabled");
        assert!(agent.stop().success());
        for command in ["status", "restore"] {
            let looked = run(bed.proxy(), &[command, "--iptables", &variant.to_string()]);
            assert!(looked.status.success(), "{looked:?}");
        }
        assert_eq!(Holdings::of(bed.proxy()), before, "{variant}");
    }
}
