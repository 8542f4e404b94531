//! `cleanup` removes everything of the operator from the kernel and nothing else.

use std::process::Output;

use crate::bed::agent::{operator, state_folder};
use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::{Bed, CLIENT, INTERNAL, Proxy};
use crate::stage::{FILE, Manifest, SEED, Stage, and_by_nftables, flow, on_both_variants, servers};

on_both_variants! {
    everything_of_ours_goes_and_the_rest_is_as_before_the_agent_ever_ran,
    without_a_record_everything_of_ours_goes_too,
    what_the_other_variant_holds_of_ours_goes_too,
    a_chain_that_cannot_go_is_named,
}

and_by_nftables! {
    without_a_record_everything_of_ours_goes_too,
}

fn cleanup(proxy: &Proxy) -> Output {
    let state = state_folder(proxy);
    operator(proxy, ["cleanup", "--node-name", "proxy", "--state-dir", state.to_str().unwrap()])
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// Everything in the kernel, as printed by the tools: rules, routes, and tracked connections without their times.
fn kernel(proxy: &Proxy, variant: Variant) -> (Vec<String>, Vec<serde_json::Value>, Vec<String>, String) {
    let tracked = proxy.conntrack("").into_iter().filter(|line| line.contains("sport=700"));
    let timeless = tracked
        .map(|line| line.split_whitespace().enumerate().filter(|(at, _)| *at != 2).map(|(_, word)| format!("{word} ")).collect());
    let native = must(proxy.command("nft").args(["--stateless", "list", "table", "inet", "others"]));
    (proxy.iptables_save(variant), proxy.routes(), timeless.collect(), native)
}

fn everything_of_ours_goes_and_the_rest_is_as_before_the_agent_ever_ran(variant: Variant) {
    let bed = Bed::new();
    let servers = servers(&bed);
    let proxy = bed.proxy();
    proxy.iptables(variant, "-t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE");
    proxy.iptables(variant, "-A FORWARD -m conntrack --ctstate INVALID -j DROP");
    proxy.iptables(variant, "-P FORWARD DROP");
    proxy.netns.ip("route add 10.9.0.0/16 via 192.168.0.1 dev eth1 metric 154");
    let native = "add table inet others; add chain inet others in { type filter hook input priority 7; }; add rule inet others in tcp dport 7 drop";
    must(proxy.command("nft").arg(native));
    let entry = "-p tcp -s 7.7.7.7 -d 192.168.0.2 --sport 700 --dport 81 --dst-nat 3.3.3.3:80 -t 600 --state ESTABLISHED";
    must(proxy.command("conntrack").arg("-I").args(entry.split_whitespace()));
    let before = kernel(proxy, variant);

    let Stage { agent, bed, .. } = Stage::of(variant, bed, &[(FILE, Manifest::seed())]);
    agent.wait_ready(SEED);
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let mut flow = flow(&bed);
    let refused = cleanup(bed.proxy());
    assert_eq!(refused.status.code(), Some(1), "an agent runs");
    assert!(text(&refused.stderr).contains(&format!("process {}", agent.id())), "{refused:?}");
    session.exchange(ANSWER).unwrap();
    assert!(agent.stop().success());

    let cleaned = cleanup(bed.proxy());
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert!(text(&cleaned.stdout).contains("4 jumps removed, 2 connections cut"), "{cleaned:?}");
    assert_eq!(kernel(bed.proxy(), variant), before);
    // With this policy, packets can pass outside of the forward. `is_cut` needs that for its proof.
    bed.proxy().iptables(variant, "-P FORWARD ACCEPT");
    assert!(session.is_cut(&bed) && flow.is_cut(&bed, &servers));
    bed.proxy().iptables(variant, "-P FORWARD DROP");
    assert!(!state_folder(bed.proxy()).join("record.json").exists());

    let again = cleanup(bed.proxy());
    assert!(again.status.success(), "{again:?}");
    assert_eq!(kernel(bed.proxy(), variant), before);
}

fn without_a_record_everything_of_ours_goes_too(variant: Variant) {
    let Stage { agent, bed, .. } = Stage::seed(variant);
    let _servers = servers(&bed);
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    agent.kill();
    std::fs::remove_dir_all(state_folder(bed.proxy())).unwrap();
    let cleaned = cleanup(bed.proxy());
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert!(session.is_cut(&bed), "the rules in the kernel show which connections belong to forwards");
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
    assert_eq!(bed.proxy().routes_to(&CLIENT.to_string()), [] as [serde_json::Value; 0]);
}

fn what_the_other_variant_holds_of_ours_goes_too(variant: Variant) {
    let Stage { agent, manifests, mut options, bed } = Stage::seed(variant);
    agent.kill();
    let [other] = Variant::ALL.into_iter().filter(|each| *each != variant).collect::<Vec<_>>().try_into().unwrap();
    options.variant = other;
    let agent = crate::bed::agent::Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_ready(SEED);
    assert!(agent.stop().success());
    // The agent has removed what it found in the first variant. This test loads it again.
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
    let file = manifests.folder().join(FILE);
    let rendered = operator(bed.proxy(), ["render", "--iptables", &variant.to_string(), file.to_str().unwrap()]);
    bed.proxy().iptables_restore(variant, &text(&rendered.stdout));
    assert!(Variant::ALL.into_iter().all(|each| !bed.proxy().our_rules(each).is_empty()));
    let cleaned = cleanup(bed.proxy());
    assert!(cleaned.status.success(), "{cleaned:?}");
    for each in Variant::ALL {
        assert_eq!(bed.proxy().our_rules(each), [""; 0]);
    }
}

fn a_chain_that_cannot_go_is_named(variant: Variant) {
    let Stage { agent, bed, .. } = Stage::seed(variant);
    agent.kill();
    bed.proxy().iptables(variant, "-t nat -N OTHERS");
    bed.proxy().iptables(variant, "-t nat -A OTHERS -s 9.9.9.9 -j PF-POST");
    let cleaned = cleanup(bed.proxy());
    assert_eq!(cleaned.status.code(), Some(1));
    assert!(text(&cleaned.stderr).contains("PF-POST") && text(&cleaned.stderr).contains("remove those rules"), "{cleaned:?}");
    assert_eq!(bed.proxy().our_rules(variant), ["nat :PF-POST -", "nat -A OTHERS -s 9.9.9.9/32 -j PF-POST"]);
    bed.proxy().iptables(variant, "-t nat -F OTHERS");
    assert!(cleanup(bed.proxy()).status.success());
    assert_eq!(bed.proxy().our_rules(variant), [""; 0]);
}
