//! The operator together with rules of other programs, on the real kernel: what the agent reports about these rules is what
//! happens to the packets.

use std::io::Write as _;
use std::process::Stdio;

use crate::bed::agent::Agent;
use crate::bed::kernel::Variant;
use crate::bed::{Bed, EXTERNAL, Proxy, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, and_by_nftables, by, on_both_variants, servers, tcp, wait};

on_both_variants! {
    what_a_chain_does_to_the_flows_is_said,
    the_line_in_the_message_mends_it,
    a_policy_of_drop_in_the_other_variant_is_named_and_its_line_mends_it,
    an_answer_that_is_dropped_is_told_too,
    a_chain_of_nft_in_a_table_of_iptables_is_told_too,
    what_is_no_business_of_the_flows_is_not_told,
}

and_by_nftables! {
    what_a_chain_does_to_the_flows_is_said,
    the_line_in_the_message_mends_it,
    an_answer_that_is_dropped_is_told_too,
    a_chain_of_nft_in_a_table_of_iptables_is_told_too,
    what_is_no_business_of_the_flows_is_not_told,
}

/// The expected report of the agent, and the expected result of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// `Ready=False`, and no connection succeeds.
    Dropped,
    /// `Ready=True` without a note, and connections succeed.
    Nothing,
    /// `Ready=True` with a note. Connections may succeed or fail.
    Noted,
}

pub(crate) fn load(proxy: &Proxy, rules: &str) {
    let mut nft = proxy.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    nft.stdin.take().expect("the input is piped").write_all(rules.as_bytes()).expect("nft reads");
    assert!(nft.wait().expect("nft ends").success(), "{rules}");
}

pub(crate) fn drop_table(proxy: &Proxy, table: &str) {
    load(proxy, &format!("delete table {table}\n"));
}

pub(crate) fn dropped(stage: &Stage, named: &str) -> String {
    stage.agent.wait_condition(SEED, "Ready", "False", "DroppedByFirewall");
    let message = stage.message(SEED, "Ready");
    assert!(message.contains(named), "{message}");
    assert!(tcp(&stage.bed).is_err(), "{message}");
    message
}

pub(crate) fn ready_without_notes(agent: &Agent) {
    agent.wait_condition(SEED, "Ready", "True", "Ready");
}

pub(crate) fn ready_with(stage: &Stage, note: &str) -> String {
    wait(note, || is_ready(stage) && stage.message(SEED, "Ready").contains(note));
    stage.message(SEED, "Ready")
}

/// Runs the command that the message proposes.
pub(crate) fn mend(proxy: &Proxy, message: &str) {
    let (_, command) =
        message.split_once("let it pass by ").unwrap_or_else(|| panic!("the message contains no command: {message}"));
    let command = command.split(", and keep").next().unwrap_or(command);
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output = proxy.command(program).args(words).output().expect("it can be run");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_ready(stage: &Stage) -> bool {
    stage.agent.condition(SEED, "Ready").is_some_and(|(status, _)| status == "True")
}

/// A chain that the agent always notes and that drops no packet of the tests. When the agent reports it, the agent has read
/// everything that was loaded before it.
const MARKER: &str = "table inet marker { chain named { type filter hook forward priority 5; meta cpu 4095 drop\n }\n }\n";

/// Loads `rules`, waits until the agent has read them, and asserts that it reports nothing about them.
pub(crate) fn not_told(stage: &Stage, rules: &str) {
    load(stage.proxy(), rules);
    load(stage.proxy(), MARKER);
    let message = ready_with(stage, "inet marker named");
    assert_eq!(message.matches("MayBe").count(), 1, "{rules}: {message}");
    drop_table(stage.proxy(), "inet marker");
    // Otherwise the next marker could be taken for read because of this one.
    wait("the marker is gone from the message", || !stage.message(SEED, "Ready").contains("inet marker named"));
}

/// A change of legacy iptables causes no event. This change causes one.
pub(crate) fn look_again(stage: &Stage) {
    load(stage.proxy(), "table inet marker\n");
    drop_table(stage.proxy(), "inet marker");
}

pub(crate) fn stage(variant: Variant) -> Stage {
    Stage::of(variant, Bed::new(), &[(FILE, Manifest::seed())])
}

/// The rules of a forward chain with policy drop, and the expected result for the example forward.
const WITH_POLICY_DROP: [(&str, Said); 25] = [
    ("", Said::Dropped),
    ("ct state established,related accept", Said::Dropped),
    ("ct state { established, related } accept", Said::Dropped),
    ("ct state vmap { established : accept, related : accept, invalid : drop }", Said::Dropped),
    ("ct state vmap { established : accept, new : accept }", Said::Nothing),
    ("ct state established,related accept\n ct status dnat accept", Said::Nothing),
    ("iifname \"eth1\" oifname \"eth0\" accept\n ct state established accept", Said::Nothing),
    ("iifname { \"eth1\", \"eth0\" } accept", Said::Nothing),
    ("iifname \"eth*\" accept", Said::Nothing),
    ("ip saddr { 1.1.0.0/16, 9.0.0.0/8 } tcp dport { 80, 443 } accept\n ct state established accept", Said::Dropped),
    (
        "ip saddr { 1.1.0.0/16 } meta l4proto { tcp, udp } th dport { 80, 514 } accept\n ct state established accept",
        Said::Nothing,
    ),
    ("ip daddr 3.3.0.0/16 jump on\n ct state established accept", Said::Nothing),
    ("ip daddr 3.3.0.0/16 ct state new jump off\n accept", Said::Dropped),
    ("goto back\n accept", Said::Dropped),
    ("ip saddr @clients accept\n ct state established accept", Said::Nothing),
    ("ip saddr @strangers accept\n ct state established accept", Said::Dropped),
    ("ip saddr @banned drop\n accept", Said::Dropped),
    ("iifname vmap { \"eth1\" : jump on, \"eth0\" : goto on }", Said::Nothing),
    ("iifname { \"eth*\", \"lo\" } accept", Said::Nothing),
    ("iifname . oifname vmap { \"eth1\" . \"eth0\" : accept }\n ct state established accept", Said::Nothing),
    ("iifname . oifname { \"eth1\" . \"eth7\" } accept\n ct state established accept", Said::Dropped),
    ("ip saddr != 9.0.0.0-9.0.0.9 accept", Said::Nothing),
    ("tcp flags & (fin | syn | rst | ack) != syn ct state new drop\n ip frag-off & 0x1fff != 0 drop\n accept", Said::Nothing),
    ("meta mark 7 accept\n ct state established accept", Said::Noted),
    ("limit rate 1000/second accept", Said::Noted),
];

fn what_a_chain_does_to_the_flows_is_said(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    for family in ["inet", "ip"] {
        for (rules, said) in WITH_POLICY_DROP {
            let chain = format!("chain forward {{ type filter hook forward priority 0; policy drop;\n {rules}\n }}");
            let sets = "set clients { type ipv4_addr; flags interval; elements = { 1.1.0.0/16, 9.9.9.9 }\n }
                set strangers { type ipv4_addr; counter; elements = { 9.9.9.9 }\n }
                set banned { type ipv4_addr; flags timeout; elements = { 1.1.1.1 timeout 1h }\n }";
            let others = "chain on { accept\n }\n chain off { counter drop\n }\n chain back { return\n }";
            load(stage.proxy(), &format!("table {family} guard {{ {sets}\n {others}\n {chain}\n }}\n"));
            match said {
                // UDP may be dropped in cases where TCP is not.
                Said::Dropped => {
                    stage.agent.wait_condition(SEED, "Ready", "False", "DroppedByFirewall");
                    let message = stage.message(SEED, "Ready");
                    assert!(message.contains(&format!("{family} guard forward")), "{message}");
                }
                Said::Nothing => {
                    wait(&format!("ready: {rules}"), || is_ready(&stage));
                    let message = stage.message(SEED, "Ready");
                    assert!(!message.contains("MayBe"), "{rules}: {message}");
                    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{rules}");
                }
                Said::Noted => drop(ready_with(&stage, "MayBeDropped")),
            }
            drop_table(stage.proxy(), &format!("{family} guard"));
            wait("the forward is ready again without a note", || {
                is_ready(&stage) && !stage.message(SEED, "Ready").contains("MayBe")
            });
        }
    }
}

fn the_line_in_the_message_mends_it(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    let chains = [
        ("inet", "type filter hook forward priority 0; policy drop; ct state established,related accept"),
        ("inet", "type filter hook forward priority 10; policy accept; tcp dport 22 accept\n reject with icmpx admin-prohibited"),
        ("ip", "type filter hook prerouting priority -300; policy accept; ip saddr 1.1.1.1 drop"),
        ("ip", "type filter hook prerouting priority -150; policy accept; ip daddr 192.168.0.2 tcp dport 80 drop"),
        ("ip", "type filter hook postrouting priority 0; policy drop;"),
        ("ip", "type filter hook prerouting priority -300; policy accept; udp dport 9 notrack\n ip saddr 1.1.1.1 notrack"),
        ("inet", "type filter hook prerouting priority -300; policy accept; iifname eth0 notrack"),
        ("netdev", "type filter hook egress device eth0 priority 0; policy accept; ip daddr 3.3.3.3 drop"),
        ("netdev", "type filter hook ingress device eth1 priority 0; policy accept; ip saddr 1.1.1.1 drop"),
    ];
    for (family, chain) in chains {
        load(stage.proxy(), &format!("table {family} guard {{ chain named {{ {chain}\n }}\n }}\n"));
        let mut message = dropped(&stage, &format!("{family} guard named"));
        // If the chain drops both directions, the message has one command for each.
        for _ in 0..2 {
            mend(stage.proxy(), &message);
            let before = message.clone();
            wait("the agent has seen the new rule", || stage.message(SEED, "Ready") != before);
            message = stage.message(SEED, "Ready");
            if is_ready(&stage) {
                break;
            }
        }
        ready_without_notes(&stage.agent);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{chain}");
        drop_table(stage.proxy(), &format!("{family} guard"));
    }
}

const fn other(variant: Variant) -> Variant {
    match variant {
        Variant::Nft | Variant::Nftables => Variant::Legacy,
        Variant::Legacy => Variant::Nft,
    }
}

fn a_policy_of_drop_in_the_other_variant_is_named_and_its_line_mends_it(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let other = other(variant);
    bed.proxy().iptables(other, "-P FORWARD DROP");
    bed.proxy().iptables(other, "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    bed.proxy().iptables(other, "-A FORWARD -i eth0 -m comment --comment the,line -j DROP");
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed())]);
    let message = dropped(&stage, &format!("filter FORWARD of iptables-{other} (hook forward, priority 0, policy drop)"));
    mend(stage.proxy(), &message);
    look_again(&stage);
    ready_without_notes(&stage.agent);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    // The same in the mangle table, which contains no jump of the operator, in both variants.
    for each in Variant::ALL {
        stage.proxy().iptables(each, "-t mangle -A FORWARD -p tcp --dport 80 -j DROP");
        look_again(&stage);
        let message = dropped(&stage, &format!("mangle FORWARD of iptables-{each}"));
        mend(stage.proxy(), &message);
        look_again(&stage);
        ready_without_notes(&stage.agent);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    }
}

fn an_answer_that_is_dropped_is_told_too(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    load(
        stage.proxy(),
        "table inet guard { chain forward { type filter hook forward priority 0; policy drop; iifname eth1 accept\n }\n }\n",
    );
    let message = dropped(&stage, "answers of the upstream");
    mend(stage.proxy(), &message);
    ready_without_notes(&stage.agent);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

/// iptables-nft has tables with the same names, but knows only its own base chains.
fn a_chain_of_nft_in_a_table_of_iptables_is_told_too(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    load(stage.proxy(), "table ip filter { chain forward { type filter hook forward priority 0; policy drop; }\n }\n");
    let mut message = dropped(&stage, "ip filter forward (hook forward");
    while !is_ready(&stage) {
        mend(stage.proxy(), &message);
        let before = message.clone();
        wait("the agent has seen the new rule", || stage.message(SEED, "Ready") != before);
        message = stage.message(SEED, "Ready");
    }
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}

/// Rules that other programs have on real nodes.
const HARMLESS: [&str; 8] = [
    // Disabled.
    "table inet guard { flags dormant; chain forward { type filter hook forward priority 0; policy drop; }\n }",
    // Chains that nothing calls, or that are for other packets.
    "table inet guard { chain forward { drop\n }\n chain input { type filter hook input priority 0; policy drop; }\n }",
    "table ip6 guard { chain forward { type filter hook forward priority 0; policy drop; }\n }",
    "table arp guard { chain input { type filter hook input priority 0; policy accept; drop\n }\n }",
    "table netdev guard { chain named { type filter hook ingress device lo priority 0; policy drop; }\n }",
    "table bridge guard { chain forward { type filter hook forward priority 0; policy drop; }\n chain in { type filter hook prerouting priority 0; policy drop; }\n }",
    // The essential rules of firewalld.
    "table inet firewalld { chain prerouting { type filter hook prerouting priority filter + 10; policy accept; icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept\n meta nfproto ipv6 fib saddr . mark . iif oif missing drop\n }
     chain forward { type filter hook forward priority filter + 10; policy accept; ct state { established, related } accept\n ct status dnat accept\n iifname \"lo\" accept\n ct state { invalid } drop\n reject with icmpx admin-prohibited\n }\n }",
    // The essential rules of kube-proxy.
    "table ip kube-proxy { chain check { reject\n }\n chain forward { type filter hook forward priority -110; ct state new jump check\n }
     chain postrouting { type nat hook postrouting priority srcnat; meta mark and 0x4000 != 0 masquerade\n }\n }",
];

fn what_is_no_business_of_the_flows_is_not_told(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    for rules in HARMLESS {
        not_told(&stage, &format!("{rules}\n"));
        if !rules.contains("kube-proxy") {
            assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{rules}");
        }
        let table: Vec<&str> = rules.split_whitespace().skip(1).take(2).collect();
        drop_table(stage.proxy(), &table.join(" "));
    }
}
