//! What a scraper and a probe receive from a running agent, in the network namespace of its node.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::bed::agent::{AgentOptions, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::wait::eventually;
use crate::bed::{Bed, INTERNAL, Proxy};
use crate::exposition::scrape::{Page, get, get_from};
use crate::exposition::{parse, value};
use crate::stage::{FILE, Manifest, SEED, SOON, Stage, on_both_variants, wait};

on_both_variants! {
    a_chain_that_is_flushed_is_a_repair_that_a_scrape_shows,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");

/// The default address for metrics.
pub(crate) const METRICS: &str = "127.0.0.1:10450";

/// Requests a page of the agent: metrics at the default address, health at the socket in the state directory.
pub(crate) fn ask(proxy: &Proxy, path: &str) -> io::Result<Page> {
    if path == "/metrics" {
        let address: SocketAddr = METRICS.parse().unwrap();
        proxy.netns.run(|| get(address, path))
    } else {
        get_from(&state_folder(proxy).join("health.sock"), path)
    }
}

/// A page of the agent on this proxy. Waits until it is served.
pub(crate) fn page(proxy: &Proxy, path: &str) -> Page {
    let mut found = None;
    wait(&format!("{path} is served"), || {
        found = ask(proxy, path).ok();
        found.is_some()
    });
    found.expect("the wait succeeded")
}

fn scraped(proxy: &Proxy, series: &str) -> f64 {
    value(&page(proxy, "/metrics").text, series)
}

fn a_chain_that_is_flushed_is_a_repair_that_a_scrape_shows(variant: Variant) {
    let stage = Stage::seed(variant);
    let proxy = stage.proxy();
    wait("ready", || page(proxy, "/readyz").status == 200);
    assert_eq!(page(proxy, "/livez").status, 200);
    let text = page(proxy, "/metrics").text;
    parse(&text);
    let commit = portforward_operator::version::COMMIT.unwrap_or("unknown");
    let build = format!(
        "portforward_build_info{{version=\"{}\",commit=\"{commit}\",backend=\"iptables-{variant}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    for (series, wanted) in [
        (build.as_str(), 1.0),
        ("portforward_forwards{condition=\"Ready\",status=\"True\"}", 1.0),
        ("portforward_routes{state=\"installed\"}", 1.0),
        ("portforward_repairs_total{what=\"rules\"}", 0.0),
        ("portforward_sync_failures_total{part=\"rules\"}", 0.0),
    ] {
        assert!((value(&text, series) - wanted).abs() < f64::EPSILON, "{series}: {text}");
    }
    let shown =
        ["filter", "nat"].map(|table| value(&text, &format!("portforward_rules{{table=\"{table}\"}}"))).iter().sum::<f64>();
    let ours = proxy.our_rules(variant);
    let held = ours.iter().filter(|line| line.contains(" -A PF-")).count();
    assert_eq!(format!("{shown:.0}"), held.to_string(), "{ours:#?}\n{text}");
    assert!(value(&text, "portforward_sync_last_timestamp_seconds") > 1.7e9, "{text}");

    proxy.iptables(variant, "-t nat -F PF-PRE");
    // A comparison may take long on a busy machine. The pause before the next one is then longer too.
    let counted = |what: &str| scraped(proxy, &format!("portforward_repairs_total{{what=\"{what}\"}}")) >= 1.0;
    assert!(eventually(3 * SOON, || counted("rules")), "the repair is counted");
    proxy.iptables(variant, "-D FORWARD 1");
    assert!(eventually(3 * SOON, || counted("jumps")), "the jump is counted");
    assert!(counted("rules"));
    stage.agent.wait_ready(SEED);
}

#[test]
fn a_change_is_timed_until_it_is_in_the_kernel_and_what_is_found_at_the_start_is_not() {
    let stage = Stage::seed(Variant::Nft);
    let timed = |what: &str| scraped(stage.proxy(), &format!("portforward_network_programming_duration_seconds_{what}"));
    let queued = || scraped(stage.proxy(), "portforward_sync_last_queued_timestamp_seconds");
    let before = queued();
    assert_eq!(timed("count").to_bits(), 0, "what existed at the start is not measured");
    let begun = Instant::now();
    stage.edit(&Manifest::seed().for_second_server());
    wait("one change is measured", || timed("count") >= 1.0);
    let most = begun.elapsed().as_secs_f64();
    // The agent waits until the folder has been unchanged for a tenth of a second. Then programs run several times.
    assert!(timed("count") < 1.5 && (0.1..most).contains(&timed("sum")), "{} in {}", timed("count"), timed("sum"));
    assert!(before > 1.7e9 && queued() > before, "{before} {}", queued());
}

#[test]
fn a_squatter_on_the_metrics_port_is_named_once_and_stops_neither_forwards_nor_health() {
    let bed = Bed::new();
    let squatter = bed.proxy().netns.run(|| TcpListener::bind(METRICS)).expect("free");
    let stage = Stage::of(Variant::Nft, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let says = |line: &str| line.contains("another program uses port 10450") && line.contains("--metrics-address");
    let said = || stage.agent.log().lines().filter(|line| says(line)).count();
    wait("the log names port and flag", || said() == 1);
    stage.edit(&Manifest::seed().for_second_server());
    assert_eq!((page(stage.proxy(), "/livez").status, page(stage.proxy(), "/readyz").status), (200, 200));
    drop(squatter);
    assert!(eventually(2 * SOON, || ask(stage.proxy(), "/metrics").is_ok()), "metrics are served when the port is free");
    assert_eq!(said(), 1);
}

#[test]
fn an_address_that_no_interface_has_is_not_called_a_port_in_use() {
    let bed = Bed::new();
    // As in a new namespace: the kernel adds the address when the interface is set up for the first time.
    bed.proxy().netns.ip("link set lo down");
    bed.proxy().netns.ip("address del 127.0.0.1/8 dev lo");
    let stage = Stage::of(Variant::Nft, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let says = |words: &str| stage.agent.log().lines().filter(|line| line.contains(words)).count();
    wait("the log names the loopback", || {
        says("cannot serve metrics on 127.0.0.1:10450: the loopback interface is down or lacks this address; run `ip link") == 1
    });
    assert_eq!(says("another program"), 0);
    // The advice in the message works.
    stage.proxy().netns.ip("link set lo up");
    assert!(eventually(2 * SOON, || ask(stage.proxy(), "/metrics").is_ok()), "metrics are served when the loopback is up");
}

#[test]
fn metrics_may_listen_where_others_reach_them_and_nothing_else_does() {
    let options = AgentOptions { extra: vec![format!("--metrics-address={INTERNAL}:9100")], ..AgentOptions::new(Variant::Nft) };
    let stage = Stage::with(options, Bed::new(), &[(FILE, Manifest::seed())]);
    let from_outside = |path: &str| stage.bed.neighbour.run(|| get((INTERNAL, 9100).into(), path));
    wait("the metrics can be read from outside", || from_outside("/metrics").is_ok_and(|page| page.status == 200));
    assert_eq!(from_outside("/livez").unwrap().status, 404, "health is not served there");
    assert_eq!(page(stage.proxy(), "/livez").status, 200);
    assert!(ask(stage.proxy(), "/metrics").is_err());
    let listening = must(stage.proxy().command("ss").args(["-H", "-l", "-n", "-t", "-u"]));
    assert_eq!(listening.lines().count(), 1, "{listening}");
}

#[test]
fn an_empty_address_serves_nothing() {
    let extra = vec!["--metrics-address=".to_owned()];
    let stage = Stage::with(AgentOptions { extra, ..AgentOptions::new(Variant::Nft) }, Bed::new(), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    assert!(ask(stage.proxy(), "/metrics").is_err() && !stage.agent.log().contains("served"), "{}", stage.agent.log());
}

/// A kubeconfig for an API server that does not exist.
const NOWHERE: &str = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "x",
"contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}], "users": [{"name": "x", "user": {"token": "x"}}],
"clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}]}"#;

/// A process that is killed at the end of its test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_api_server_that_cannot_be_reached_leaves_the_agent_alive_and_not_ready() {
    let bed = Bed::new();
    let proxy = bed.proxy();
    let kubeconfig = proxy.files().join("kubeconfig");
    fs::write(&kubeconfig, NOWHERE).unwrap();
    let mut agent = proxy.command(PROGRAM);
    agent.args(["agent", "--node-name", "proxy", "--iptables", "nft", "--kubeconfig"]).arg(&kubeconfig);
    agent.arg("--state-dir").arg(state_folder(proxy)).stdout(Stdio::null()).stderr(Stdio::null());
    let _agent = Ends(agent.spawn().unwrap());
    assert_eq!(page(proxy, "/livez").status, 200);
    assert_eq!(page(proxy, "/readyz").status, 503);
    let text = page(proxy, "/metrics").text;
    for series in ["portforward_api_server_up", "portforward_live_agents"] {
        assert_eq!(value(&text, series).to_bits(), 0, "{text}");
    }
}
