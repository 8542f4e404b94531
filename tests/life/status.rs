//! `status` shows the state of the kernel, with a running agent, a stopped one or none, and changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Output;

use serde_json::{Value, json};

use crate::bed::agent::{operator, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::netns::{must, output};
use crate::bed::{Bed, CLIENT, EXTERNAL, Proxy, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, and_by_nftables, by, on_both_variants, servers, tcp};

on_both_variants! {
    what_the_kernel_holds_is_told_with_and_without_an_agent,
    a_look_changes_nothing,
    routes_and_rules_that_are_too_many_or_too_few_are_told,
    a_node_without_any_table_gets_none_by_a_look,
    forwards_are_chosen_by_name_and_printed_for_programs,
}

and_by_nftables! {
    a_node_without_any_table_gets_none_by_a_look,
    forwards_are_chosen_by_name_and_printed_for_programs,
}

fn status(proxy: &Proxy, variant: Variant, arguments: &[&str]) -> Output {
    let state = state_folder(proxy);
    let [option, backend] = variant.options();
    let options = ["--node-name", "proxy", &option, &backend, "--state-dir", state.to_str().unwrap()];
    operator(proxy, ["status"].iter().chain(&options).chain(arguments))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// The columns of the line of a forward, up to the reason. Each column is one word.
fn line(told: &Output, name: &str) -> Vec<String> {
    let table = text(&told.stdout);
    let found = table.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
    found.unwrap_or_else(|| panic!("no {name}: {told:?}")).split_whitespace().skip(2).take(5).map(str::to_owned).collect()
}

/// Asserts that it exits with this code and prints `Programmed`, `Ready` and a reason for the example forward.
fn tells(bed: &Bed, variant: Variant, code: i32, programmed: &str, ready: &str, reason: &str) {
    let told = status(bed.proxy(), variant, &[]);
    assert_eq!(told.status.code(), Some(code), "{told:?}");
    assert_eq!(line(&told, "seed"), ["proxy(Active)", "True", programmed, ready, reason], "{told:?}");
}

fn what_the_kernel_holds_is_told_with_and_without_an_agent(variant: Variant) {
    let stage = Stage::seed(variant);
    tells(&stage.bed, variant, 0, "True", "True", "Ready");

    stage.agent.pause();
    stage.proxy().iptables(variant, "-t nat -D PF-PRE 1");
    tells(&stage.bed, variant, 4, "False", "False", "Drifted");
    stage.agent.resume();
    stage.agent.wait_log("repaired");
    tells(&stage.bed, variant, 0, "True", "True", "Ready");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let folder = state_folder(stage.proxy());
    let mut unread = stage.proxy().command(env!("CARGO_BIN_EXE_portforward-operator"));
    unread.args(["status", "--node-name=proxy", "-o=wide", &format!("--iptables={variant}"), "--state-dir"]).arg(folder);
    let unread = output(unread.stdout(writer));
    assert!(unread.status.success() && unread.stderr.is_empty(), "{unread:?}");

    let Stage { agent, bed, .. } = stage;
    assert!(agent.stop().success());
    tells(&bed, variant, 0, "True", "True", "Ready");
    let wide = text(&status(bed.proxy(), variant, &["-o", "wide"]).stdout);
    for words in [
        "lines/seed: carried, Active",
        "translation TCP 1.1.1.1/32 → 192.168.0.2:80 on eth1 → 3.3.3.3:80, source 2.2.2.2",
        "route       1.1.1.1/32 via 192.168.0.1 dev eth1: installed",
        " as planned",
    ] {
        assert!(wide.contains(words), "{words}: {wide}");
    }
    assert!(!wide.contains("not as planned") && !wide.contains("PF-"), "{wide}");

    bed.proxy().iptables(variant, "-F PF-FWD");
    tells(&bed, variant, 4, "False", "False", "Drifted");
    let wide = text(&status(bed.proxy(), variant, &["-o", "wide"]).stdout);
    assert!(wide.contains("filter PF-FWD: not as planned") && wide.contains("more as planned"), "{wide}");
    assert!(!wide.contains('…') && wide.contains("another program changes it"), "the message is not shortened: {wide}");
    bed.proxy().netns.ip("link set eth0 down");
    bed.proxy().iptables(variant, "-t nat -F PREROUTING");
    tells(&bed, variant, 4, "False", "False", "Drifted");
}

/// Everything in the kernel and in the state directory, in parts: rules (the operator's with counters, those of nft with
/// handles), addresses, routes, connections, and files with their times. Counters of built-in chains are left out, because the
/// kernel's own multicast packets change them.
fn everything(proxy: &Proxy) -> Vec<String> {
    let without_noise = |line: &str| match line.split_once("] ") {
        Some((_, rule)) if !rule.starts_with("-A PF-") => rule.to_owned(),
        Some(_) | None => line.split(" [").next().unwrap_or(line).to_owned(),
    };
    let mut parts = Vec::new();
    for variant in Variant::ALL {
        let saved = must(proxy.command(&format!("iptables-{variant}-save")).arg("-c"));
        parts.extend(saved.lines().filter(|line| !line.starts_with('#')).map(without_noise));
    }
    parts.push(must(proxy.command("nft").args(["--stateless", "--handle", "list", "ruleset"])));
    for what in ["route", "rule", "addr", "link"] {
        parts.push(must(proxy.command("ip").args(["-4", "-d", what, "show"])));
    }
    let is_timeless = |word: &&str| word.contains('=') || word.starts_with('[');
    let tuples = |line: String| line.split_whitespace().filter(is_timeless).collect::<Vec<_>>().join(" ");
    parts.extend(proxy.conntrack("").into_iter().map(tuples));
    parts.push(proxy.netns.setting("ipv4/ip_forward"));
    for entry in fs::read_dir(state_folder(proxy)).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            // The socket of the health endpoints has no content.
            continue;
        }
        let (content, found) = (fs::read_to_string(&path).unwrap(), fs::metadata(&path).unwrap());
        parts.push(format!("{} {} {} {} {content}", path.display(), found.ino(), found.mtime_nsec(), found.ctime_nsec()));
    }
    parts
}

fn a_look_changes_nothing(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "the rules have counted packets, and there is a connection");
    // A running agent may write at any moment. A paused one does not write, but still holds its lock.
    stage.agent.pause();
    let proxy = stage.proxy();
    for damage in ["", "-t nat -D PF-PRE 1", "-N PF-OLD", "-t nat -I PREROUTING -s 9.9.9.9 -j ACCEPT"] {
        if !damage.is_empty() {
            proxy.iptables(variant, damage);
        }
        let before = everything(proxy);
        for arguments in [&[][..], &["-o", "wide"], &["-o", "json"], &["-o", "yaml"], &["nobody"]] {
            status(proxy, variant, arguments);
        }
        assert_eq!(everything(proxy), before, "{damage}");
    }
    proxy.iptables(variant, "-t nat -D PREROUTING 1");
    proxy.netns.set("ipv4/ip_forward", "0");
    proxy.netns.ip(&format!("route delete {CLIENT} proto 154"));
    let before = everything(proxy);
    assert!(before.iter().any(|part| part.starts_with("[1:")), "{before:?}");
    tells(&stage.bed, variant, 4, "False", "False", "Drifted");
    assert_eq!(everything(proxy), before);
    stage.proxy().netns.set("ipv4/ip_forward", "1");
    stage.agent.resume();
    stage.agent.wait_log("repaired");
}

fn routes_and_rules_that_are_too_many_or_too_few_are_told(variant: Variant) {
    let stage = Stage::seed(variant);
    stage.agent.pause();
    let proxy = stage.proxy();
    let delete = || proxy.netns.ip(&format!("route delete {CLIENT} proto 154"));
    delete();
    tells(&stage.bed, variant, 4, "False", "False", "Drifted");
    let message = text(&status(proxy, variant, &["-o", "wide"]).stdout);
    assert!(message.contains("the route to 1.1.1.1/32 through 192.168.0.1 by eth1 is not in the kernel"), "{message}");
    proxy.netns.ip(&format!("route add {CLIENT} via 192.168.0.9 dev eth1"));
    tells(&stage.bed, variant, 4, "False", "False", "RouteContested");
    proxy.netns.ip_batch([
        format!("route delete {CLIENT}"),
        format!("route add {CLIENT} via 192.168.0.1 dev eth1 proto 154 metric 154"),
        "route add 10.9.9.9 via 192.168.0.1 dev eth1 proto 154 metric 154".to_owned(),
    ]);
    tells(&stage.bed, variant, 4, "False", "False", "Drifted");
    let message = text(&status(proxy, variant, &["-o", "wide"]).stdout);
    assert!(message.contains("1 route of ours, 10.9.9.9/32 via 192.168.0.1 dev eth1"), "{message}");
    proxy.netns.ip("route delete 10.9.9.9");
    // A rule of another program before the operator's jump takes effect first.
    proxy.iptables(variant, "-t nat -I PREROUTING -s 9.9.9.9 -j ACCEPT");
    tells(&stage.bed, variant, 4, "False", "False", "Overridden");
    proxy.iptables(variant, "-t nat -D PREROUTING 1");
    tells(&stage.bed, variant, 0, "True", "True", "Ready");
    // An obstacle stops the flow, although the kernel is as planned.
    proxy.netns.set("ipv4/ip_forward", "0");
    tells(&stage.bed, variant, 0, "True", "False", "ForwardingDisabled");
    proxy.netns.set("ipv4/ip_forward", "1");
    stage.agent.resume();

    // Rules of a deleted forward that exist again are reported too.
    let rules = proxy.iptables_save(variant).join("\n") + "\n";
    stage.edit(&Manifest::seed().with("/spec/mode", "Disabled"));
    stage.agent.wait_condition(SEED, "Programmed", "True", "Disabled");
    crate::stage::wait("the record contains the change", || status(proxy, variant, &[]).status.success());
    stage.agent.pause();
    proxy.iptables_restore(variant, &rules);
    let told = status(proxy, variant, &[]);
    assert_eq!(told.status.code(), Some(4), "{told:?}");
    assert!(text(&told.stdout).contains("Drifted"), "{told:?}");
}

fn a_node_without_any_table_gets_none_by_a_look(variant: Variant) {
    let Stage { agent, bed, .. } = Stage::seed(variant);
    agent.kill();
    // A reboot: the same addresses and files, and an empty kernel.
    let fresh = Bed::new();
    let (from, to) = (state_folder(bed.proxy()), state_folder(fresh.proxy()));
    must(std::process::Command::new("cp").arg("-a").arg(from).arg(&to));
    let tables = || {
        let legacy = fresh.proxy().netns.run(|| fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default());
        (fresh.proxy().nft_ruleset(), legacy)
    };
    let before = tables();
    assert_eq!(before, (String::new(), String::new()));
    tells(&fresh, variant, 4, "False", "False", "Drifted");
    let auto = operator(fresh.proxy(), ["status", "--node-name", "proxy", "--state-dir", to.to_str().unwrap()]);
    assert_eq!(auto.status.code(), Some(4), "{auto:?}");
    assert_eq!(tables(), before);
}

fn forwards_are_chosen_by_name_and_printed_for_programs(variant: Variant) {
    let rival = Manifest::seed().named("rival");
    let stage = Stage::of(variant, Bed::new(), &[(FILE, Manifest::seed()), ("rival.yaml", rival)]);
    stage.agent.wait_condition("lines/rival", "Ready", "True", "Ready");
    stage.agent.wait_condition(SEED, "Accepted", "False", "Conflict");
    let run = |arguments: &[&str]| status(stage.proxy(), variant, arguments);
    // Forwards of other nodes are not missing here.
    assert!(run(&[]).status.success());
    assert_eq!(text(&run(&[]).stdout).lines().count(), 3);
    for names in [&["rival"][..], &["lines/rival"], &["rival", "lines/rival"]] {
        let told = run(names);
        assert!(told.status.success() && text(&told.stdout).lines().count() == 2, "{told:?}");
        assert_eq!(line(&told, "rival")[3], "True");
    }
    for names in [&["nobody"][..], &["rival", "other/rival"]] {
        let told = run(names);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(told.stdout.is_empty() && text(&told.stderr).contains("did you mean lines/"), "{told:?}");
    }
    let json: Value = serde_json::from_slice(&run(&["-o", "json", "rival"]).stdout).unwrap();
    let yaml: Value = serde_saphyr::from_str(&text(&run(&["-o", "yaml", "rival"]).stdout)).unwrap();
    let timeless = |mut list: Value| {
        let conditions = list["items"][0]["status"]["conditions"].as_array_mut().unwrap().iter_mut();
        conditions.for_each(|condition| drop(condition.as_object_mut().unwrap().remove("lastTransitionTime").unwrap()));
        (list["kind"].take(), list["items"][0]["metadata"].take(), list["items"][0]["status"]["conditions"].take())
    };
    let mut reported = stage.agent.report().unwrap();
    reported["items"].as_array_mut().unwrap().retain(|item| item["metadata"]["name"] == "rival");
    let reported = timeless(reported);
    assert_eq!(reported.0, json!("List"));
    assert_eq!(timeless(json), reported, "it is equal to the status file");
    assert_eq!(timeless(yaml), reported);
}

#[test]
fn without_a_record_it_says_so_and_what_to_do() {
    let bed = Bed::new();
    let told = status(bed.proxy(), Variant::Nft, &[]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let said = text(&told.stderr);
    assert!(
        said.contains("no record: nothing was applied") && said.contains("start the agent") && told.stdout.is_empty(),
        "{said}"
    );
    assert!(!state_folder(bed.proxy()).exists(), "nothing is created");
}

#[test]
fn who_may_not_read_the_record_or_the_rules_is_told_to_be_root() {
    let stage = Stage::seed(Variant::Nft);
    let folder = state_folder(stage.proxy());
    let own = tempfile::tempdir().unwrap();
    // The built program may be in a folder that only root can read.
    let program = own.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_portforward-operator"), &program).unwrap();
    fs::copy(folder.join("record.json"), own.path().join("record.json")).unwrap();
    for path in [own.path(), &own.path().join("record.json")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let as_nobody = |state: &str| {
        let mut command = stage.proxy().command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]).arg(&program);
        output(command.args(["status", "--iptables=nft", "--node-name=proxy", "--state-dir", state]))
    };
    for state in [folder.to_str().unwrap(), own.path().to_str().unwrap()] {
        let told = as_nobody(state);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(text(&told.stderr).contains("run the command as root"), "{told:?}");
    }
}
