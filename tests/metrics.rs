//! Tests that the exposition is well-formed, that its page is up to date, that counters only increase, and that health follows
//! the sync loop.
//!
//! After an intended change: run `UPDATE_GOLDEN=1 cargo test --test metrics`, then read the difference of `docs/metrics.md`.

mod exposition;
#[path = "chart/python.rs"]
mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use exposition::scrape::{Page, get};
use exposition::whole::{ALL, counted, forward, in_cluster, judged, whole};
use exposition::{Family, Sample, parse, value};
use portforward_operator::api::{Role, ShownPorts};
use portforward_operator::dataplane::conntrack::flows::Accounting;
use portforward_operator::dataplane::conntrack::{ConntrackError, Purged};
use portforward_operator::dataplane::routes::{RouteState, RoutesReport};
use portforward_operator::dataplane::rules::{Function, Held, Place, RulesError, RulesReport, Step};
use portforward_operator::dataplane::{Applied, Backend, Forwarded};
use portforward_operator::forward::ForwardKey;
use portforward_operator::metrics::{
    CONTENT_TYPE, Detail, Health, Metrics, Part, PerForward, Phase, Repair, STUCK_AFTER, SyncOutcome, Written, health_pages,
    metrics_pages,
};
use portforward_operator::model::HostRoute;
use portforward_operator::netlink::NetlinkError;
use portforward_operator::status::{Circumstance, Judged, Judgement, Judgements, Standing, State, Type};
use tokio::time::Instant;

const PAGE: &str = "docs/metrics.md";
const BEGIN: &str = "<!-- The table is generated: UPDATE_GOLDEN=1 cargo test --test metrics -->\n";
const END: &str = "<!-- End of the table -->\n";

fn names(metrics: &Metrics) -> BTreeSet<String> {
    parse(&metrics.exposition().unwrap()).iter().map(Family::shown).collect()
}

/// The labels of a family, each with its values if they are a closed set.
fn labels(family: &Family) -> String {
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, value) in family.samples.iter().flat_map(|sample| &sample.labels) {
        labels.entry(name).or_default().insert(value);
    }
    let label = |(name, values): (&&str, &BTreeSet<&str>)| {
        let open = family.kind == "info" || ["le", "namespace", "name"].contains(name);
        // A forward does not need to use all of them.
        let values =
            if *name == "protocol" { "TCP, UDP".to_owned() } else { values.iter().copied().collect::<Vec<_>>().join(", ") };
        if open { format!("`{name}`") } else { format!("`{name}`: {values}") }
    };
    labels.iter().map(label).collect::<Vec<_>>().join("; ")
}

fn table(families: &[Family]) -> String {
    let mut text = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for family in families {
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", family.shown(), family.kind, labels(family), family.help);
    }
    text + "\n"
}

#[test]
fn every_metric_stands_on_the_page_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page says where its table begins");
    let (_, after) = rest.split_once(END).expect("the page says where its table ends");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table(&parse(&whole().exposition().unwrap())));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        assert_eq!(page, wanted, "renew it: UPDATE_GOLDEN=1 cargo test --test metrics");
    }
}

#[test]
fn names_follow_the_conventions_and_a_folder_has_no_metrics_of_a_cluster() {
    let all = names(&whole());
    assert!(all.iter().all(|name| name.starts_with("portforward_")), "{all:?}");
    let none = PerForward { detail: Detail::Off, ..ALL };
    let alone = names(&Metrics::new(Backend::default(), None, none));
    let more: Vec<&str> = all.difference(&alone).map(|name| name.trim_start_matches("portforward_")).collect();
    let of_forwards = ["forward_bytes_total", "forward_connections_total", "forward_packets_total", "forward_ready"];
    let of_the_cluster = ["api_server_up", "conntrack_accounting", "conntrack_events_lost_total"];
    assert_eq!(
        more,
        [&of_the_cluster[..], &of_forwards, &["live_agents", "status_contested", "status_overwritten_total"]].concat()
    );
}

#[test]
fn every_series_of_a_closed_set_is_there_before_anything_happens() {
    let text = in_cluster().exposition().unwrap();
    for part in Part::ALL {
        assert_eq!(value(&text, &format!("portforward_sync_failures_total{{part=\"{}\"}}", part.as_str())).to_bits(), 0);
    }
    for what in Repair::ALL {
        assert_eq!(value(&text, &format!("portforward_repairs_total{{what=\"{}\"}}", what.as_str())).to_bits(), 0);
    }
    for what in Written::ALL {
        assert_eq!(value(&text, &format!("portforward_write_failures_total{{what=\"{}\"}}", what.as_str())).to_bits(), 0);
    }
}

#[test]
fn a_write_that_fails_is_told_from_a_reading_that_fails() {
    let metrics = in_cluster();
    let refused = || value(&metrics.exposition().unwrap(), "portforward_rules_write_failures_total");
    for (step, wanted) in [(Step::Read, 0.0), (Step::Write, 1.0), (Step::Read, 1.0), (Step::Write, 2.0)] {
        metrics.applied(&Applied { rules: failed(step), ..exact(rules(0, 0)) });
        assert!((refused() - wanted).abs() < f64::EPSILON, "{step:?}: {}", refused());
    }
}

#[test]
fn a_forward_has_series_of_what_it_carried_in_each_direction() {
    let metrics = in_cluster();
    counted(&metrics, &BTreeMap::from([forward("a", "b", 80)]), 3, 70);
    counted(&metrics, &BTreeMap::from([forward("a", "b", 80)]), 2, 10);
    let text = metrics.exposition().unwrap();
    let of = |name: &str, direction: &str, more: &str| {
        let labels = format!("namespace=\"a\",name=\"b\",protocol=\"TCP\",direction=\"{direction}\"{more}");
        format!("{:.0}", value(&text, &format!("portforward_forward_{name}_total{{{labels}}}")))
    };
    assert_eq!(["forward", "reverse"].map(|direction| of("connections", direction, "")), ["5", "0"]);
    for (direction, towards, wanted) in
        [("forward", "upstream", "80"), ("forward", "client", "0"), ("reverse", "client", "80"), ("reverse", "upstream", "0")]
    {
        assert_eq!(of("bytes", direction, &format!(",towards=\"{towards}\"")), wanted, "{direction} {towards}");
    }
    assert_eq!(of("packets", "forward", ",towards=\"upstream\""), "8");
}

#[test]
fn packets_and_bytes_are_absent_where_the_kernel_does_not_count_them_and_go_on_when_it_does_again() {
    let metrics = in_cluster();
    let verdicts = BTreeMap::from([forward("a", "b", 80)]);
    counted(&metrics, &verdicts, 1, 70);
    let traffic = || {
        let found = names(&metrics);
        ["bytes", "packets"].map(|what| found.contains(&format!("portforward_forward_{what}_total")))
    };
    let accounting = || value(&metrics.exposition().unwrap(), "portforward_conntrack_accounting").to_bits();
    assert_eq!((traffic(), accounting()), ([true; 2], 1.0_f64.to_bits()));
    metrics.carried(Accounting::Off, []);
    assert_eq!((traffic(), accounting()), ([false; 2], 0));
    counted(&metrics, &verdicts, 0, 5);
    let text = metrics.exposition().unwrap();
    let bytes = text.lines().find(|line| line.starts_with("portforward_forward_bytes_total{") && line.contains("\"upstream\""));
    assert!(bytes.is_some_and(|line| line.ends_with(" 75")), "{text}");
}

#[test]
fn no_more_forwards_are_shown_than_allowed_and_the_others_are_said() {
    let metrics = Metrics::new(Backend::default(), None, PerForward { detail: Detail::Connections, limit: 2 });
    let verdicts = || (0..5).map(|number| forward("a", &format!("n{number}"), 80 + number)).collect::<BTreeMap<_, _>>();
    let shown = || {
        let families = parse(&metrics.exposition().unwrap());
        let family = families.iter().find(|family| family.shown() == "portforward_forward_connections_total");
        let name = |sample: &Sample| format!("{} {}", sample.labels[1].1, sample.value);
        family.map_or(Vec::new(), |family| family.samples.iter().filter(|it| it.labels[3].1 == "forward").map(name).collect())
    };
    let omitted = || value(&metrics.exposition().unwrap(), "portforward_forward_series_omitted");
    assert!((shown(), omitted().to_bits()) == (Vec::new(), 0));
    counted(&metrics, &verdicts(), 7, 0);
    assert_eq!((shown(), omitted()), (vec!["n0 7".to_owned(), "n1 7".to_owned()], 3.0));
    let fewer: BTreeMap<_, _> = verdicts().into_iter().skip(1).collect();
    counted(&metrics, &fewer, 1, 0);
    assert_eq!((shown(), omitted()), (vec!["n1 8".to_owned(), "n2 8".to_owned()], 2.0), "what was not shown was counted");
    counted(&metrics, &verdicts(), 0, 0);
    assert_eq!(shown(), ["n1 8", "n2 8"], "a forward keeps its series");
    let gone: BTreeMap<_, _> = verdicts().into_iter().skip(2).collect();
    counted(&metrics, &gone, 0, 0);
    counted(&metrics, &verdicts().into_iter().take(3).collect(), 0, 0);
    assert_eq!(shown(), ["n1 0", "n2 8"], "a forward that was gone begins again");
}

#[test]
fn a_thousand_forwards_of_another_namespace_leave_a_forward_its_series() {
    let metrics = Metrics::new(Backend::default(), None, PerForward { detail: Detail::Connections, limit: 1000 });
    let many = (1..=1000).map(|number| forward("aaa", &format!("n{number}"), number));
    let verdicts: BTreeMap<_, _> = many.chain([forward("victim", "web", 2000)]).collect();
    counted(&metrics, &verdicts, 7, 0);
    let ready = |key: &ForwardKey| (key.clone(), Arc::new(judged(Standing::Carried, Some(Role::Active), State::True)));
    metrics.judged(&Arc::new(verdicts.keys().map(ready).collect()));
    let text = metrics.exposition().unwrap();
    for series in [
        "portforward_forward_ready{namespace=\"victim\",name=\"web\",role=\"Active\"}",
        "portforward_forward_connections_total{namespace=\"victim\",name=\"web\",protocol=\"TCP\",direction=\"forward\"}",
    ] {
        assert!(value(&text, series) > 0.0, "{series}");
    }
    assert!((value(&text, "portforward_forward_series_omitted") - 1.0).abs() < f64::EPSILON);
}

/// The series of `forward_ready`: name, role and value.
fn readiness(metrics: &Metrics) -> Vec<String> {
    let families = parse(&metrics.exposition().unwrap());
    let family = families.iter().find(|family| family.shown() == "portforward_forward_ready");
    let line = |sample: &Sample| format!("{} {} {}", sample.labels[1].1, sample.labels[2].1, sample.value);
    family.map_or(Vec::new(), |family| family.samples.iter().map(line).collect())
}

fn named(judgements: Vec<(&str, Judgement)>) -> Arc<Judgements> {
    let key = |name: &str| ForwardKey::new("a", name);
    Arc::new(judgements.into_iter().map(|(name, judgement)| (key(name), Arc::new(judgement))).collect())
}

#[test]
fn each_forward_says_whether_it_is_ready_and_a_disabled_one_says_nothing() {
    let metrics = in_cluster();
    assert_eq!(readiness(&metrics), [""; 0]);
    metrics.judged(&named(vec![
        ("active", judged(Standing::Carried, Some(Role::Active), State::True)),
        ("broken", judged(Standing::Carried, Some(Role::Active), State::False)),
        ("disabled", judged(Standing::Withdrawn, None, State::True)),
        ("elsewhere", judged(Standing::Elsewhere, None, State::False)),
        ("refused", judged(Standing::Refused, None, State::False)),
        ("standby", judged(Standing::Carried, Some(Role::Standby), State::True)),
        ("unseen", judged(Standing::Carried, Some(Role::Active), State::Unknown)),
    ]));
    let wanted =
        ["active Active 1", "broken Active 0", "elsewhere None 0", "refused None 0", "standby Standby 1", "unseen Active 0"];
    assert_eq!(readiness(&metrics), wanted);
    metrics.judged(&named(vec![("active", judged(Standing::Carried, Some(Role::Active), State::False))]));
    assert_eq!(readiness(&metrics), ["active Active 0"], "a forward that is deleted loses its series");
}

#[test]
fn the_series_about_readiness_keep_to_the_same_limit_and_are_off_with_the_others() {
    let judgements = ["n0", "n1", "n2"].map(|name| (name, judged(Standing::Elsewhere, None, State::False))).to_vec();
    for (detail, limit, shown, omitted) in
        [(Detail::Connections, 2, 2, 1.0), (Detail::Traffic, 3, 3, 0.0), (Detail::Off, 9, 0, 3.0)]
    {
        let metrics = Metrics::new(Backend::default(), None, PerForward { detail, limit });
        metrics.judged(&named(judgements.clone()));
        assert_eq!(readiness(&metrics).len(), shown, "{detail:?} {limit}");
        let said = value(&metrics.exposition().unwrap(), "portforward_forward_series_omitted");
        assert!((said - omitted).abs() < f64::EPSILON, "{detail:?} {limit}: {said}");
    }
}

#[test]
fn names_are_written_so_that_they_are_read_as_they_are() {
    let metrics = in_cluster();
    let awkward = "quote \" backslash \\ newline \n comma , brace } end";
    counted(&metrics, &BTreeMap::from([forward(awkward, "x", 80)]), 1, 1);
    let text = metrics.exposition().unwrap();
    let read = parse(&text).into_iter().flat_map(|family| family.samples).flat_map(|sample| sample.labels);
    let namespaces: BTreeSet<String> = read.filter(|(name, _)| name == "namespace").map(|(_, value)| unescaped(&value)).collect();
    assert_eq!(namespaces, BTreeSet::from([awkward.to_owned()]), "{text}");
}

/// Every sample of an exposition, as parsed by the Python client library of Prometheus. Numbers are passed as text, because
/// JSON numbers would lose precision here.
const READ: &str = r"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
samples = [
    [sample.name, sample.labels, repr(float(sample.value))]
    for family in text_string_to_metric_families(json.load(sys.stdin))
    for sample in family.samples
]
json.dump(samples, sys.stdout)
";

#[test]
fn another_parser_reads_the_same() {
    let metrics = in_cluster();
    let awkward = "quote \" backslash \\ newline \n letters ä";
    counted(&metrics, &BTreeMap::from([forward(awkward, "x", 80), forward("a", "y", 81)]), 3, 70);
    metrics.applied(&exact(rules(3, 9)));
    metrics.ended(SyncOutcome::Written, Duration::from_millis(7));
    let text = metrics.exposition().unwrap();
    let read = python::ask(READ, &text.clone().into());
    let read: BTreeMap<String, f64> = read
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| {
            let labels: BTreeMap<String, String> = serde_json::from_value(sample[1].clone()).unwrap();
            (format!("{}{labels:?}", sample[0].as_str().unwrap()), sample[2].as_str().unwrap().parse().unwrap())
        })
        .collect();
    let ours: BTreeMap<String, f64> = parse(&text)
        .into_iter()
        .flat_map(|family| family.samples)
        .map(|sample| {
            let labels: BTreeMap<String, String> =
                sample.labels.into_iter().map(|(name, value)| (name, unescaped(&value))).collect();
            (format!("{}{labels:?}", sample.name), sample.value)
        })
        .collect();
    assert!(read.keys().any(|series| series.contains(&format!("{awkward:?}"))), "{read:#?}");
    assert_eq!(read, ours);
}

/// The meaning of an escaped value.
fn unescaped(text: &str) -> String {
    text.replace("\\\\", "\0").replace("\\n", "\n").replace("\\\"", "\"").replace('\0', "\\")
}

fn rules(chains: usize, rules: usize) -> RulesReport {
    RulesReport { held: BTreeMap::from([("nat", Held { chains, rules })]), ..RulesReport::default() }
}

fn failed(step: Step) -> RulesReport {
    let error = RulesError { text: "no answer".to_owned(), step, transient: true };
    RulesReport { failed: [(Function::Nat, error)].into(), ..RulesReport::default() }
}

fn exact(report: RulesReport) -> Applied {
    Applied {
        rules: report,
        routes: Ok(RoutesReport::default()),
        conntrack: Ok(Purged { count: 3, ..Purged::default() }),
        forwarding: Ok(Forwarded::AsFound),
    }
}

fn broken() -> Applied {
    Applied {
        rules: failed(Step::Read),
        routes: Ok(RoutesReport::default()),
        conntrack: Err(ConntrackError::Netlink(NetlinkError::Silent)),
        forwarding: Ok(Forwarded::AsFound),
    }
}

#[test]
fn counters_never_run_backwards_and_gauges_follow_the_kernel() {
    let metrics = in_cluster();
    let differing = RulesReport { differing: vec![Place { table: "nat", chain: "PF-PRE".to_owned() }], ..rules(3, 9) };
    let mut before: BTreeMap<String, f64> = BTreeMap::new();
    for (applied, took, held) in [
        (exact(rules(3, 9)), 2, 9.0),
        (broken(), 70_000, 9.0),
        (exact(differing), 8, 9.0),
        (exact(rules(1, 1)), 1, 1.0),
        (exact(rules(0, 0)), 0, 0.0),
    ] {
        metrics.applied(&applied);
        metrics.repaired(Repair::Jumps, 1);
        let outcome = if applied.is_complete() { SyncOutcome::Written } else { SyncOutcome::Failed };
        metrics.ended(outcome, Duration::from_millis(took));
        let text = metrics.exposition().unwrap();
        assert!((value(&text, "portforward_rules{table=\"nat\"}") - held).abs() < f64::EPSILON, "{text}");
        for sample in parse(&text).into_iter().filter(Family::only_rises).flat_map(|family| family.samples) {
            let was = before.insert(sample.series(), sample.value).unwrap_or_default();
            assert!(was <= sample.value, "{} fell from {was} to {}", sample.series(), sample.value);
        }
    }
    let total = |series: &str| before.iter().filter(|(name, _)| name.starts_with(series)).map(|(_, value)| value).sum::<f64>();
    let counts = ["sync_failures_total", "repairs_total", "conntrack_deleted_entries_total", "sync_duration_seconds_count"]
        .map(|name| format!("{:.0}", total(&format!("portforward_{name}"))));
    assert_eq!(counts, ["3", "5", "12", "5"]);
}

#[test]
fn forwards_of_other_nodes_count_only_where_nobody_else_could_carry_them_and_every_route_does() {
    let metrics = in_cluster();
    let judgement = |standing, state| Judgement {
        uid: None,
        standing,
        generation: 1,
        shown: ShownPorts::default(),
        role: (standing == Standing::Carried).then_some(Role::Active),
        conditions: vec![Judged::new(Type::Ready, state, Circumstance::Ready, "")],
    };
    let forwards = [
        (Standing::Carried, State::True),
        (Standing::Carried, State::True),
        (Standing::Carried, State::False),
        (Standing::Elsewhere, State::False),
    ];
    let keyed = forwards
        .into_iter()
        .enumerate()
        .map(|(number, (standing, state))| (ForwardKey::new("a", number.to_string()), Arc::new(judgement(standing, state))));
    let judgements: Arc<Judgements> = Arc::new(keyed.collect());
    metrics.judged(&judgements);
    let alone = Metrics::new(Backend::default(), None, ALL);
    alone.judged(&judgements);
    let counted = value(&alone.exposition().unwrap(), "portforward_forwards{condition=\"Ready\",status=\"False\"}");
    assert!((counted - 2.0).abs() < f64::EPSILON, "{counted}");
    let route = |last: u8| HostRoute {
        destination: format!("1.1.1.{last}/32").parse().unwrap(),
        gateway: "192.168.0.1".parse().unwrap(),
        interface: "eth1".parse().unwrap(),
    };
    let states = BTreeMap::from([
        (route(1), RouteState::Installed),
        (route(2), RouteState::Installed),
        (route(3), RouteState::Contested { foreign: "1.1.1.3 via \"x\"\n".to_owned() }),
    ]);
    let routes = RoutesReport { states, ..RoutesReport::default() };
    metrics.applied(&Applied { routes: Ok(routes), ..exact(rules(1, 1)) });
    let text = metrics.exposition().unwrap();
    for (series, wanted) in [
        ("portforward_forwards{condition=\"Ready\",status=\"True\"}", 2.0),
        ("portforward_forwards{condition=\"Ready\",status=\"False\"}", 1.0),
        ("portforward_forwards{condition=\"Ready\",status=\"Unknown\"}", 0.0),
        ("portforward_forwards_wanted", 4.0),
        ("portforward_forwards_carried{role=\"Active\"}", 3.0),
        ("portforward_forwards_carried{role=\"Standby\"}", 0.0),
        ("portforward_routes{state=\"installed\"}", 2.0),
        ("portforward_routes{state=\"contested\"}", 1.0),
        ("portforward_routes{state=\"refused\"}", 0.0),
    ] {
        assert!((value(&text, series) - wanted).abs() < f64::EPSILON, "{series}: {text}");
    }
}

/// Serves the pages on a free port of the loopback interface.
async fn serving(pages: axum::Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, pages).await });
    address
}

async fn page(address: SocketAddr, path: &'static str) -> Page {
    tokio::task::spawn_blocking(move || get(address, path)).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_stuck_sync_turns_livez_red_and_readyz_waits_for_the_first_complete_sync() {
    let now = Instant::now();
    // The API server has no influence here: this test has none.
    let health = Arc::new(Health::new(now));
    let address = serving(health_pages(Arc::clone(&health))).await;
    let statuses = async || {
        let mut found = Vec::new();
        for path in ["/livez", "/readyz"] {
            found.push(page(address, path).await.status);
        }
        found
    };
    assert_eq!(statuses().await, [200, 503]);
    health.complete();
    assert_eq!(statuses().await, [200, 200]);
    health.enter(Phase::Queued { since: now - STUCK_AFTER - Duration::from_secs(9) });
    assert_eq!(statuses().await, [503, 200]);
    let text = page(address, "/livez").await.text;
    let idle = text.strip_prefix("the sync loop has made no progress for ").and_then(|text| text.strip_suffix(" s\n"));
    assert!(idle.is_some_and(|secs| secs.parse::<u64>().unwrap() >= STUCK_AFTER.as_secs() + 9), "{text}");
    health.enter(Phase::Waiting { until: now + Duration::from_secs(10) });
    assert_eq!(statuses().await, [200, 200]);
    for path in ["/", "/metrics", "/healthz"] {
        assert_eq!(page(address, path).await.status, 404, "{path} is not about health");
    }
}

#[tokio::test]
async fn a_scrape_gets_openmetrics_and_nothing_else_is_served_there() {
    let address = serving(metrics_pages(Arc::new(in_cluster()))).await;
    let metrics = page(address, "/metrics").await;
    assert_eq!((metrics.status, metrics.media.as_str()), (200, CONTENT_TYPE));
    assert!(parse(&metrics.text).len() > 10);
    for path in ["/", "/livez", "/readyz"] {
        assert_eq!(page(address, path).await.status, 404, "{path} is not a metric");
    }
}
