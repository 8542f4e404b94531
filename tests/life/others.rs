//! NAT, zones, marks and rare conditions in the rules of other programs, on the real kernel: what the agent reports about
//! them is what happens to the packets.

use crate::bed::kernel::Variant;
use crate::bed::{EXTERNAL, SERVER};
use crate::beside::{drop_table, dropped, load, look_again, mend, not_told, ready_with, ready_without_notes, stage};
use crate::stage::{SEED, by, on_all_backends, servers, tcp, wait};

on_all_backends! {
    a_nat_chain_that_comes_first_is_told,
    zones_that_separate_replies_from_their_flow_are_told,
    a_mark_that_a_rule_sets_is_noted_where_another_rule_drops_by_it,
    a_rule_that_changes_the_mark_of_our_flows_is_told_and_one_that_changes_other_bits_is_not,
    what_never_or_rarely_concerns_the_flows_is_not_told,
}

/// The same chain at a priority that is in the same relation to that of the operator's chains, which with nftables come 10 earlier.
fn relative(variant: Variant, chain: &str) -> String {
    if variant != Variant::Nftables {
        return chain.to_owned();
    }
    let shift = |chain: String, name: &str| {
        let chain = chain.replace(&format!("{name} - 10;"), &format!("{name} - 20;"));
        chain.replace(&format!("{name};"), &format!("{name} - 10;")).replace(&format!("{name} + 10;"), &format!("{name};"))
    };
    shift(shift(chain.to_owned(), "srcnat"), "dstnat")
}

/// A table with one chain.
fn with_chain(family: &str, chain: &str) -> String {
    format!("table {family} first {{ chain named {{ {chain}\n }}\n }}\n")
}

fn a_nat_chain_that_comes_first_is_told(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    for (chain, reason) in [
        ("type nat hook postrouting priority srcnat - 10; ip saddr 1.1.1.1 snat to 2.2.2.9", "TranslatedFirst"),
        ("type nat hook prerouting priority dstnat - 10; tcp dport 80 dnat to 3.3.3.4", "TranslatedFirst"),
        ("type nat hook prerouting priority dstnat - 10; iifname eth1 tcp dport 80 redirect to :9", "TranslatedFirst"),
        ("type nat hook prerouting priority dstnat - 10; tcp dport 80 drop", "DroppedByFirewall"),
    ] {
        load(stage.proxy(), &with_chain("ip", &relative(variant, chain)));
        stage.agent.wait_condition(SEED, "Ready", "False", reason);
        let message = stage.message(SEED, "Ready");
        assert!(message.contains("ip first named"), "{message}");
        assert_ne!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{chain}");
        mend(stage.proxy(), &message);
        ready_without_notes(&stage.agent);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{chain}");
        drop_table(stage.proxy(), "ip first");
    }
    for chain in [
        "type nat hook postrouting priority srcnat; ip saddr 1.1.1.1 snat to 2.2.2.9",
        "type nat hook prerouting priority dstnat; tcp dport 80 dnat to 3.3.3.4",
        "type nat hook prerouting priority dstnat - 10; dnat to tcp dport map { 80 : 3.3.3.4 }",
    ] {
        load(stage.proxy(), &with_chain("ip", &relative(variant, chain)));
        let message = ready_with(&stage, "MayBeTranslatedFirst");
        assert!(message.contains("ip first named"), "{message}");
        mend(stage.proxy(), &message);
        wait("the agent has seen the new rule", || !stage.message(SEED, "Ready").contains("MayBe"));
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{chain}");
        drop_table(stage.proxy(), "ip first");
    }
    for chain in [
        "type nat hook postrouting priority srcnat + 10; ip saddr 1.1.1.1 snat to 2.2.2.9",
        "type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 masquerade",
        // The only address of the interface is the external one.
        "type nat hook postrouting priority srcnat - 10; oifname eth0 masquerade",
        "type nat hook prerouting priority dstnat - 10; dnat to tcp dport map { 8080 : 3.3.3.4 }",
        "type nat hook prerouting priority dstnat; tcp dport 8080 redirect to :80",
    ] {
        not_told(&stage, &with_chain("ip", &relative(variant, chain)));
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{chain}");
        drop_table(stage.proxy(), "ip first");
    }
}

fn zones_that_separate_replies_from_their_flow_are_told(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    let zone = |rules: &str| with_chain("ip", &format!("type filter hook prerouting priority -300; {rules}"));
    for rules in ["iifname eth1 ct zone set 5", "iifname eth0 ct zone set 5"] {
        load(stage.proxy(), &zone(rules));
        let message = dropped(&stage, "ip first named");
        mend(stage.proxy(), &message);
        ready_without_notes(&stage.agent);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{rules}");
        drop_table(stage.proxy(), "ip first");
    }
    for rules in ["ct zone set 5", "iifname eth1 ct original zone set 5", "iifname eth7 ct zone set 5"] {
        not_told(&stage, &zone(rules));
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{rules}");
        drop_table(stage.proxy(), "ip first");
    }
    for each in Variant::ALL {
        stage.proxy().iptables(each, "-t raw -A PREROUTING -i eth1 -j CT --zone 5");
        look_again(&stage);
        let message = dropped(&stage, &format!("raw PREROUTING of iptables-{each}"));
        mend(stage.proxy(), &message);
        look_again(&stage);
        ready_without_notes(&stage.agent);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    }
}

fn a_mark_that_a_rule_sets_is_noted_where_another_rule_drops_by_it(variant: Variant) {
    let stage = stage(variant);
    stage.agent.wait_ready(SEED);
    load(stage.proxy(), &with_chain("ip", "type filter hook prerouting priority -150; iifname eth1 meta mark set 7"));
    load(stage.proxy(), "table ip second { chain named { type filter hook forward priority 0; meta mark 7 drop\n }\n }\n");
    let message = ready_with(&stage, "MayBeDropped");
    assert!(message.contains("ip second named"), "{message}");
    drop_table(stage.proxy(), "ip first");
    not_told(&stage, "");
}

fn a_rule_that_changes_the_mark_of_our_flows_is_told_and_one_that_changes_other_bits_is_not(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    let native = |hook: &str, rule: &str| with_chain("ip", &format!("type filter hook {hook} priority -150; {rule}"));
    let iptables = |each: Variant, does: &str, rule: &str| {
        stage.proxy().iptables(each, &format!("-t mangle -{does} {rule}"));
        look_again(&stage);
    };
    let removed = |named: &str| {
        stage.agent.wait_condition(SEED, "Ready", "False", "MarkRemoved");
        let message = stage.message(SEED, "Ready");
        assert!(message.contains(named) && message.contains("bit 0x1000") && message.contains("--connmark"), "{message}");
        assert_ne!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{named}");
    };
    let works = || {
        ready_without_notes(&stage.agent);
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    };
    for rule in ["ct mark set 7", "ct mark set meta mark", "ct mark set ct mark and 0xff"] {
        load(stage.proxy(), &native("forward", rule));
        removed("ip first named");
        drop_table(stage.proxy(), "ip first");
        works();
    }
    // Until it is answered, each packet of a flow is a new one.
    for rule in ["ct mark set meta mark", "ct state new ct mark set 7"] {
        load(stage.proxy(), &native("prerouting", rule));
        let message = ready_with(&stage, "MayBeUnmarked");
        assert!(message.contains("ip first named"), "{message}");
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "FORWARD accepts everything here");
        drop_table(stage.proxy(), "ip first");
        not_told(&stage, "");
        works();
    }
    for (hook, rule) in [
        ("forward", "ct mark set ct mark or 0x20"),
        ("forward", "ct mark set ct mark and 0xffff1fff"),
        ("forward", "iifname eth7 ct mark set 7"),
    ] {
        not_told(&stage, &native(hook, rule));
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{rule}");
        drop_table(stage.proxy(), "ip first");
    }
    for each in Variant::ALL {
        for rule in ["FORWARD -j CONNMARK --set-xmark 0x7/0xffffffff", "POSTROUTING -j CONNMARK --save-mark"] {
            iptables(each, "A", rule);
            removed(&format!("of iptables-{each}"));
            iptables(each, "D", rule);
            works();
        }
        iptables(each, "A", "PREROUTING -j CONNMARK --save-mark");
        let message = ready_with(&stage, "MayBeUnmarked");
        assert!(message.contains(&format!("mangle PREROUTING of iptables-{each}")), "{message}");
        iptables(each, "D", "PREROUTING -j CONNMARK --save-mark");
        for rule in [
            "FORWARD -j CONNMARK --set-xmark 0x20/0x60",
            "POSTROUTING -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
            "PREROUTING -j CONNMARK --restore-mark",
        ] {
            iptables(each, "A", rule);
            not_told(&stage, "");
            assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{rule}");
            iptables(each, "D", rule);
        }
    }
}

/// Rules that drop packets of other kinds, or only what exceeds a limit.
const RARE: [&str; 5] = [
    "type filter hook prerouting priority -300; fib saddr . iif oif missing drop\n fib daddr type != local iifname eth1 drop",
    "type filter hook prerouting priority -300; meta pkttype { broadcast, multicast } drop\n ip ttl < 5 drop\n ip length > 1500 drop",
    "type filter hook prerouting priority -150; tcp flags syn tcp option maxseg size 1-536 drop\n ip dscp cs1 drop",
    "type filter hook forward priority 0; meta mark 7 drop\n limit rate over 1000/second drop\n ct count over 1000 drop",
    "type filter hook prerouting priority -300; ether saddr 00:11:22:33:44:55 drop",
];

/// The same for iptables.
const RARE_FOR_IPTABLES: [&str; 7] = [
    "-m rpfilter --invert",
    "-m pkttype --pkt-type multicast",
    "-m ttl --ttl-lt 5",
    "-m length --length 0:39",
    "-p tcp -m tcp --tcp-flags SYN,RST SYN -m tcpmss --mss 1:500",
    "-m dscp --dscp-class CS1",
    "-m hashlimit --hashlimit-above 1000/sec --hashlimit-mode srcip --hashlimit-name named",
];

fn what_never_or_rarely_concerns_the_flows_is_not_told(variant: Variant) {
    let stage = stage(variant);
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    for chain in RARE {
        not_told(&stage, &with_chain("ip", chain));
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{chain}");
        drop_table(stage.proxy(), "ip first");
    }
    for each in Variant::ALL {
        for condition in RARE_FOR_IPTABLES {
            stage.proxy().iptables(each, &format!("-t mangle -A PREROUTING {condition} -j DROP"));
        }
        not_told(&stage, "");
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "iptables-{each}");
    }
}
