//! The agent repairs, logs and counts what another program changes of the operator's rules and routes, and leaves foreign
//! rules and routes unchanged.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::bed::agent::AgentOptions;
use crate::bed::kernel::Variant;
use crate::bed::{CLIENT, EXTERNAL, GATEWAY, INTERNAL, Proxy, SECOND_SERVER, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, and_by_nftables, by, on_both_variants, servers, tcp, wait};

on_both_variants! {
    whatever_is_done_to_our_rules_is_repaired_logged_and_counted,
    a_rule_before_our_jump_is_told_and_our_jump_moves_back_once_a_minute_at_most,
    routes_that_are_gone_or_changed_are_back,
    a_link_that_flaps_and_an_address_that_comes_back_bring_the_route_back,
    a_foreign_rule_that_jumps_to_a_stale_chain_of_ours_holds_up_nothing,
    a_chain_that_is_flushed_while_the_agent_writes_is_written_again_before_the_status_says_anything,
}

and_by_nftables! {
    routes_that_are_gone_or_changed_are_back,
    a_link_that_flaps_and_an_address_that_comes_back_bring_the_route_back,
}

/// Asserts that the agent repaired because of an event. It compares without an event every ten seconds after its
/// last repair, so a repair without an event would take longer. The shortest repair is checked, because a busy machine can
/// delay any of them. With legacy, the agent asks the kernel often.
fn was_told(took: &[Duration]) {
    assert!(took.iter().any(|took| *took < Duration::from_secs(5)), "{took:?}");
}

/// Foreign rules and routes of every kind that the agent could take for its own.
fn make_foreign(proxy: &Proxy, variant: Variant) {
    for rule in [
        "-t nat -A PREROUTING -p tcp --dport 8443 -j DNAT --to-destination 9.9.9.9",
        "-t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE",
        "-A FORWARD -s 10.9.0.0/16 -m comment --comment PFX -j ACCEPT",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-t mangle -A PREROUTING -s 10.9.0.1 -j MARK --set-mark 7",
    ] {
        proxy.iptables(variant, rule);
    }
    proxy.iptables(variant, "-N OTHERS");
    proxy.iptables(variant, "-A OTHERS -j RETURN");
    proxy
        .netns
        .ip_batch(["route add 10.9.0.0/16 via 192.168.0.1 dev eth1", "route add 10.8.0.1 via 2.2.2.1 proto 99 metric 154"]);
}

fn foreign_routes(proxy: &Proxy) -> Vec<serde_json::Value> {
    proxy.routes().into_iter().filter(|route| route["protocol"] != "154").collect()
}

/// The number in the last `repairs=` of the log.
fn repairs(log: &str) -> u32 {
    let mut counts = log.lines().filter(|line| line.contains("repaired")).filter_map(|line| line.rsplit_once("repairs="));
    counts.next_back().map_or(0, |(_, count)| count.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
}

/// Makes all changes of one kind of damage before the agent sees any of them. Waits until the agent has repaired and counted
/// them, and checks that the forward works. Returns how long the repair took.
fn repaired(
    stage: &Stage,
    variant: Variant,
    damage: &str,
    done: impl FnOnce(&Proxy),
    whole: impl Fn(&Proxy) -> bool,
) -> Duration {
    let (proxy, counted) = (stage.proxy(), repairs(&stage.agent.log()));
    let before = proxy.our_rules(variant);
    stage.agent.pause();
    done(proxy);
    stage.agent.resume();
    let begun = Instant::now();
    wait(&format!("{damage}: repaired"), || whole(proxy) && proxy.our_rules(variant) == before);
    wait(&format!("{damage}: counted"), || repairs(&stage.agent.log()) > counted);
    let took = begun.elapsed();
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "{damage}");
    took
}

fn whatever_is_done_to_our_rules_is_repaired_logged_and_counted(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    make_foreign(bed.proxy(), variant);
    let foreign = (bed.proxy().foreign_rules(variant), foreign_routes(bed.proxy()));
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let damages: [(&str, &[&str]); 9] = [
        (
            "one rule is changed",
            &["-t nat -R PF-PRE 1 -s 1.1.1.1 -d 192.168.0.2 -p tcp --dport 80 -j DNAT --to-destination 3.3.3.4:80"],
        ),
        ("one rule is deleted", &["-t nat -D PF-PRE 1"]),
        ("a chain is flushed", &["-t nat -F PF-PRE"]),
        ("a rule is added", &["-t nat -A PF-POST -s 9.9.9.9 -j ACCEPT"]),
        ("a rule is inserted", &["-I PF-FWD -j DROP"]),
        ("the operator's jump exists twice", &["-t nat -A POSTROUTING -j PF-POST"]),
        ("the operator's jump is deleted from PREROUTING", &["-t nat -D PREROUTING 1"]),
        ("the operator's jump is deleted from FORWARD", &["-D FORWARD 1"]),
        ("the operator's jump and chain are deleted", &["-t nat -D POSTROUTING 1", "-t nat -F PF-POST", "-t nat -X PF-POST"]),
    ];
    // With events, each kind of damage is repaired on its own. On legacy, a repair may take a second or two, so several kinds are
    // repaired together.
    let at_once = match variant {
        Variant::Nft | Variant::Nftables => 1,
        Variant::Legacy => 3,
    };
    let mut took = Vec::new();
    for damages in damages.chunks(at_once) {
        let named = damages.iter().map(|(damage, _)| *damage).collect::<Vec<_>>().join(", ");
        let commands = damages.iter().flat_map(|(_, commands)| *commands);
        let done = |proxy: &Proxy| commands.for_each(|command| drop(proxy.iptables(variant, command)));
        took.push(repaired(&stage, variant, &named, done, |_| true));
    }
    was_told(&took);
    assert_eq!((stage.proxy().foreign_rules(variant), foreign_routes(stage.proxy())), foreign);

    // A program that flushes all chains also deletes the foreign rules.
    let empty = |commands: &[&str]| {
        let done = |proxy: &Proxy| {
            for table in ["nat", "filter"] {
                for command in commands {
                    proxy.iptables(variant, &format!("-t {table} {command}"));
                }
            }
        };
        repaired(&stage, variant, &commands.join(" "), done, |_| true)
    };
    empty(&["-F"]);
    empty(&["-F", "-X"]);
    if variant == Variant::Nft {
        let flush = |proxy: &Proxy| drop(crate::bed::netns::must(proxy.command("nft").args(["flush", "ruleset"])));
        repaired(&stage, variant, "nft flush ruleset", flush, |_| true);
    }
}

fn a_rule_before_our_jump_is_told_and_our_jump_moves_back_once_a_minute_at_most(variant: Variant) {
    let bed = Bed::new();
    let _servers = servers(&bed);
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let first = || stage.proxy().iptables(variant, "-t nat -S PREROUTING 1");
    // The jump was put first when the agent started, so it does not move again within a minute.
    let rule = "-s 9.9.9.9/32 -j ACCEPT";
    stage.proxy().iptables(variant, &format!("-t nat -I PREROUTING {rule}"));
    stage.agent.wait_condition(SEED, "Programmed", "False", "Overridden");
    stage.agent.wait_condition(SEED, "Ready", "False", "Overridden");
    let message = stage.message(SEED, "Ready");
    assert!(message.contains("PREROUTING") && message.contains("9.9.9.9/32"), "{message}");
    // The sync after an edit does not change the order.
    stage.edit_unready(&Manifest::seed().for_second_server());
    assert!(first().contains(rule), "{}", first());
    assert_eq!(tcp(&stage.bed), by(crate::bed::SECOND_SERVER, EXTERNAL), "nothing else is affected");
    // The obstacle is reported as long as it exists, and not longer.
    stage.proxy().iptables(variant, &format!("-t nat -D PREROUTING {rule}"));
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");

    // A new agent has not moved the jump yet.
    let Stage { agent, manifests, options, bed } = stage;
    assert!(agent.stop().success());
    bed.proxy().iptables(variant, &format!("-t nat -I PREROUTING {rule}"));
    let agent = crate::bed::agent::Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    let rules = bed.proxy().iptables(variant, "-t nat -S PREROUTING");
    let ours = rules.lines().position(|line| line.contains("PF-PRE"));
    assert!(ours < rules.lines().position(|line| line.contains(rule)), "{rules}");
}

fn routes_that_are_gone_or_changed_are_back(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let client = CLIENT.to_string();
    let before = stage.proxy().routes();
    let mut took = Vec::new();
    let whole = |proxy: &Proxy| proxy.routes() == before;
    let ip = |command: String| move |proxy: &Proxy| drop(proxy.netns.ip(&command));
    took.push(repaired(&stage, variant, "the route is deleted", ip(format!("route delete {client} proto 154")), whole));
    let other = format!("route replace {client} via 192.168.0.9 dev eth1 proto 154 metric 154");
    took.push(repaired(&stage, variant, "the route has another gateway", ip(other), whole));
    let more = "route add 10.9.9.9 via 192.168.0.1 dev eth1 proto 154 metric 154".to_owned();
    took.push(repaired(&stage, variant, "there is a surplus route of the operator", ip(more), whole));
    was_told(&took);
}

fn a_link_that_flaps_and_an_address_that_comes_back_bring_the_route_back(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let proxy = &stage.proxy().netns;
    let routes = || stage.proxy().routes_to(&CLIENT.to_string()).len();
    let back = || {
        let begun = Instant::now();
        wait("the route is back", || routes() == 1);
        let took = begun.elapsed();
        stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
        assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
        took
    };
    proxy.ip_batch(["link set eth1 down", "link set eth1 up"]);
    let mut took = vec![back()];
    proxy.ip("link set eth1 down");
    stage.agent.wait_condition(SEED, "Ready", "False", "InterfaceDown");
    proxy.ip("link set eth1 up");
    took.push(back());
    proxy.ip(&format!("addr del {INTERNAL}/24 dev eth1"));
    stage.agent.wait_report("no node holds the address", |_| {
        stage.agent.condition(SEED, "Ready").is_some_and(|(status, _)| status == "False")
    });
    proxy.ip(&format!("addr add {INTERNAL}/24 dev eth1"));
    took.push(back());
    was_told(&took);
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string())[0]["gateway"], GATEWAY.to_string());
}

fn a_foreign_rule_that_jumps_to_a_stale_chain_of_ours_holds_up_nothing(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let proxy = stage.proxy();
    proxy.iptables(variant, "-t nat -N OTHERS");
    proxy.iptables(variant, "-t nat -A OTHERS -s 9.9.9.9 -j PF-PRE");
    let others = || proxy.iptables(variant, "-t nat -S OTHERS");
    let before = others();
    stage.edit(&Manifest::seed().for_second_server());
    stage.agent.wait_condition(SEED, "Programmed", "True", "Programmed");
    assert_eq!(tcp(&stage.bed), by(crate::bed::SECOND_SERVER, EXTERNAL));

    // Now every chain is stale, and one of them cannot be deleted.
    stage.manifests.remove(FILE);
    stage.agent.wait_log("rules of other programs jump there");
    wait("every chain that can be deleted is deleted", || {
        proxy.our_rules(variant) == ["nat :PF-PRE -", "nat -A OTHERS -s 9.9.9.9/32 -j PF-PRE"]
    });
    assert_eq!(others(), before);
    stage.manifests.put(FILE, &Manifest::seed().text());
    stage.agent.wait_ready(SEED);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));

    proxy.iptables(variant, "-t nat -F OTHERS");
    stage.manifests.remove(FILE);
    wait("the last chain is deleted too", || proxy.our_rules(variant).is_empty());
}

/// Puts a program in front of the real iptables-restore. After the real one has written the rules of a chain, it flushes that
/// chain: once if the file `once` exists, each time if the file `always` exists. Returns the options of an agent that uses it.
fn with_a_rival(proxy: &Proxy, variant: Variant) -> AgentOptions {
    let files = proxy.files();
    let name = format!("iptables-{variant}-restore");
    let real = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(&name));
    let real = real.iter().find(|path| path.exists()).expect("iptables is installed").display();
    let files = files.display();
    let script = format!(
        "#!/bin/sh
cat > {files}/input
{real} \"$@\" < {files}/input
ended=$?
grep -q -e '-A PF-PRE' {files}/input || exit $ended
if rm {files}/once 2>/dev/null || [ -e {files}/always ]; then
    iptables-{variant} -w -t nat -F PF-PRE
fi
exit $ended
"
    );
    let folder = proxy.files().join("rival");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(&name), script).unwrap();
    fs::set_permissions(folder.join(&name), Permissions::from_mode(0o755)).unwrap();
    let mounts = Some(format!("PATH={}:$PATH; exec \"$@\"", folder.display()));
    AgentOptions { mounts, ..AgentOptions::new(variant) }
}

fn a_chain_that_is_flushed_while_the_agent_writes_is_written_again_before_the_status_says_anything(variant: Variant) {
    let bed = Bed::new();
    let options = with_a_rival(bed.proxy(), variant);
    let stage = Stage::with(options, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let _servers = servers(&stage.bed);
    let once = stage.proxy().files().join("once");
    fs::write(&once, "").unwrap();
    stage.edit(&Manifest::seed().for_second_server());
    assert!(!once.exists(), "the chain was flushed while the agent wrote");
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
    let log = stage.agent.log();
    assert!(log.contains("repaired") && !log.contains("Drifted"), "{log}");

    // A program that does it each time is reported.
    fs::write(stage.proxy().files().join("always"), "").unwrap();
    stage.edit_unready(&Manifest::seed());
    stage.agent.wait_condition(SEED, "Ready", "False", "Drifted");
}
