//! Measures whether a packet costs the same with ten thousand forwards as with one: `make bench`, described in
//! `docs/benchmarks.md`.
//!
//! Each set of rules has its own proxy in one network. Each round measures all of them, so that other load on the machine
//! affects all alike. Fails only if a ratio misses its goal by far. Needs root.

mod load;
#[allow(dead_code, reason = "the benchmark uses only a part of the module")]
#[path = "../../tests/bed/netns.rs"]
mod netns;
mod network;
#[allow(dead_code, reason = "the benchmark uses only a part of the module")]
mod packet;
mod probe;
mod report;
#[path = "../shared/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use portforward_operator::dataplane::Backend;
use portforward_operator::dataplane::iptables::Variant;

use load::{Step, Times};
use network::Network;
use probe::Probe;
use report::{Rounds, micros, millis, print_table, ratio};
use shared::figures::{Figure, Figures};
use shared::shapes::{Forward, HUGE, MANY, Shape, Transport};
use shared::{is_quick, progress, supervise};

/// The number of rounds in which packets are measured.
const ROUNDS: usize = 7;
/// The number of rounds in which loading is measured.
const LOAD_ROUNDS: usize = 3;
/// The number of batches of packets in each measurement, if a packet costs microseconds.
const BATCHES: u32 = 50;
/// The same, if a packet may cost hundreds of microseconds.
const BATCHES_BY_HAND: u32 = 8;
/// The run fails if a ratio is more than this number of times its goal. A smaller excess can be noise.
const MARGIN: f64 = 2.0;

/// The rules that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rules {
    /// Empty chains and active connection tracking. The packets are sent directly to the upstream.
    Floor,
    /// The rules of the operator for a set of this shape.
    Ours(Shape),
    /// The rules written by hand for the first shape.
    ByHand,
}

/// The kind of packets that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flow {
    New,
    Established,
}

/// One set of rules on one proxy, with its forwards.
#[derive(Debug)]
struct Case {
    backend: Backend,
    rules: Rules,
    forwards: Vec<Forward>,
}

/// The cost of a packet by backend, rules, number of forwards and flow.
type Costs = BTreeMap<(Backend, Rules, u32, Flow), Rounds>;

fn main() -> ExitCode {
    supervise::run(|_| measure(), netns::remove_leftovers)
}

fn measure() -> ExitCode {
    let system = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{}, kernel {}, {cpus} CPUs", jiff::Zoned::now().date(), system.release().to_string_lossy());
    let mut figures = Figures::new("layout");
    let costs = measure_packets(&mut figures);
    note_packets(&mut figures, &costs);
    let mut verdict = report_packets(&costs);
    for backend in Backend::ALL {
        let loads = measure_loads(backend);
        note_loads(&mut figures, backend, &loads);
        report_loads(backend, &loads);
    }
    if verdict.is_empty() {
        println!("\nNo ratio is more than {MARGIN} times its goal.");
        ExitCode::SUCCESS
    } else {
        verdict.insert(0, format!("more than {MARGIN} times the goal:"));
        eprintln!("\n{}", verdict.join("\n  "));
        ExitCode::FAILURE
    }
}

fn cases(backend: Backend) -> Vec<Case> {
    let case = |rules, forwards| Case { backend, rules, forwards };
    let mut cases = Vec::new();
    for shape in Shape::ALL {
        cases.extend([1, MANY].map(|count| case(Rules::Ours(shape), shape.forwards(count, Transport::Udp))));
    }
    if backend == Backend::Nftables {
        let shapes = Shape::ALL.into_iter().filter(|shape| shape.may_be_huge() && !is_quick());
        cases.extend(shapes.map(|shape| case(Rules::Ours(shape), shape.forwards(HUGE, Transport::Udp))));
        // What is not the operator's is the same as with iptables-nft.
        return cases;
    }
    let floor = |count| Shape::OwnPort.forwards(count, Transport::Udp).into_iter().map(Forward::untranslated).collect();
    cases.extend([1, MANY].map(|count| case(Rules::Floor, floor(count))));
    cases.extend([1, MANY].map(|count| case(Rules::ByHand, Shape::OwnPort.forwards(count, Transport::Udp))));
    cases
}

/// The name of a run with this backend in the figures.
fn run(backend: Backend) -> &'static str {
    match backend {
        Backend::Iptables(Variant::Nft) => "nft",
        Backend::Iptables(Variant::Legacy) => "legacy",
        Backend::Nftables => "nftables",
    }
}

fn measure_packets(figures: &mut Figures) -> Costs {
    let cases: Vec<Case> = Backend::ALL.into_iter().flat_map(cases).collect();
    progress(&format!("making a network with {} proxies", cases.len()));
    let network = Network::new(cases.len());
    let probe = Probe::new(&network);
    for (proxy, case) in cases.iter().enumerate() {
        progress(&format!("loading and trying {} forwards: {}, {}", case.forwards.len(), case.backend, case.rules));
        let netns = &network.proxies[proxy];
        match case.rules {
            Rules::Floor => load::write_by_hand(case.backend, netns, &[]),
            Rules::Ours(shape) => {
                let taken = load::apply(case.backend, netns, &case.forwards);
                if case.count() == HUGE {
                    note_load(figures, case, shape, taken);
                }
            }
            Rules::ByHand => load::write_by_hand(case.backend, netns, &case.forwards),
        }
        // The connection tracking of the proxy has no room for more flows.
        let probed = case.probed();
        let sample: Vec<Forward> = probed.iter().step_by(probed.len().div_ceil(MANY as usize)).copied().collect();
        probe.verify(proxy, &sample);
    }
    let mut costs = Costs::new();
    let rounds = if is_quick() { 3 } else { ROUNDS };
    for round in 1..=rounds {
        progress(&format!("packets, round {round} of {rounds}"));
        for (proxy, case) in cases.iter().enumerate() {
            let batches = if case.rules == Rules::ByHand { BATCHES_BY_HAND } else { BATCHES };
            let mut note = |flow, cost| {
                costs.entry((case.backend, case.rules, case.count(), flow)).or_default().0.push(cost);
            };
            let probed = case.probed();
            note(Flow::New, probe.new_flows(proxy, &probed, batches));
            note(Flow::Established, probe.established(proxy, &probed, BATCHES));
        }
    }
    costs
}

/// Prints the costs. Returns the ratios that miss their goal by far.
fn report_packets(costs: &Costs) -> Vec<String> {
    let (mut rows, mut far_off) = (Vec::new(), Vec::new());
    for ((backend, rules, count, flow), one) in costs {
        let Some(many) = (*count == 1).then(|| costs.get(&(*backend, *rules, MANY, *flow))).flatten() else { continue };
        let judged = matches!(rules, Rules::Ours(_));
        let row = [run(*backend).to_owned(), rules.to_string(), flow.to_string(), micros(one.minimum()), micros(many.minimum())];
        let medians = [micros(one.median()), micros(many.median())];
        let missed = if many.times(one) > flow.goal() { ", missed" } else { "" };
        let goal = if judged { format!("<= {}{missed}", ratio(flow.goal())) } else { String::new() };
        let ratios = [ratio(many.times(one)), ratio(many.median_times(one)), goal];
        if judged && many.times(one) > MARGIN * flow.goal() {
            far_off.push(format!("{backend}, {rules}, {flow}: {}", ratio(many.times(one))));
        }
        rows.push([&row[..], &medians[..], &ratios[..]].concat());
    }
    let head = [
        "backend",
        "rules",
        "packet",
        "1, min us",
        "10,000, min us",
        "1, median us",
        "10,000, median us",
        "ratio of min",
        "median ratio",
        "goal",
    ];
    print_table("One packet on its whole way, with 1 and with 10,000 forwards", &head, &rows);
    far_off
}

fn measure_loads(backend: Backend) -> BTreeMap<Shape, Times> {
    let [ours, hand] = ["ours", "hand"].map(|name| network::host(&format!("{}-{name}", run(backend))));
    let mut loads = BTreeMap::<Shape, Times>::new();
    let rounds = if is_quick() { 1 } else { LOAD_ROUNDS };
    for round in 1..=rounds {
        progress(&format!("loading by {backend}, round {round} of {rounds}"));
        for shape in Shape::ALL {
            load::round(backend, &ours, &hand, &shape.forwards(MANY, Transport::Udp), loads.entry(shape).or_default());
        }
    }
    loads
}

fn report_loads(backend: Backend, loads: &BTreeMap<Shape, Times>) {
    let mut rows = Vec::new();
    for (shape, times) in loads {
        let size = match backend {
            Backend::Iptables(_) => load::size(&shape.forwards(MANY, Transport::Udp)),
            Backend::Nftables => "maps".to_owned(),
        };
        for (step, taken) in times {
            let taken = Rounds(taken.clone());
            let by_hand = step.by_hand().and_then(|step| times.get(&step)).map(|by_hand| Rounds(by_hand.clone()));
            let against = by_hand
                .map_or([String::new(), String::new()], |by_hand| [millis(by_hand.minimum()), ratio(taken.times(&by_hand))]);
            let row = [shape.to_string(), size.clone(), step.to_string(), millis(taken.minimum()), millis(taken.median())];
            rows.push([&row[..], &against[..]].concat());
        }
    }
    let head = ["forwards", "ours", "step", "min ms", "median ms", "by hand, min ms", "ratio of min"];
    print_table(&format!("Loading 10,000 forwards by {backend}"), &head, &rows);
}

/// Notes the costs of packets, in microseconds.
fn note_packets(figures: &mut Figures, costs: &Costs) {
    for ((backend, rules, count, flow), rounds) in costs {
        let (of, shape) = match rules {
            Rules::Floor => ("no rules", Shape::OwnPort),
            Rules::Ours(shape) => ("ours", *shape),
            Rules::ByHand => ("linear", Shape::OwnPort),
        };
        let what = format!("packet: {flow}");
        let values = rounds.0.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        let unit = "us".to_owned();
        let (run, of, shape) = (run(*backend).to_owned(), of.to_owned(), shape.to_string());
        figures.note(Figure { what, run, of, shape, forwards: *count, unit, values });
    }
}

/// Notes the time in which the largest set was loaded.
fn note_load(figures: &mut Figures, case: &Case, shape: Shape, taken: Duration) {
    figures.note(Figure {
        what: format!("load: {}", Step::FromEmpty),
        run: run(case.backend).to_owned(),
        of: "ours".to_owned(),
        shape: shape.to_string(),
        forwards: case.count(),
        unit: "ms".to_owned(),
        values: vec![taken.as_secs_f64() * 1e3],
    });
}

/// Notes the times of loads, in milliseconds.
fn note_loads(figures: &mut Figures, backend: Backend, loads: &BTreeMap<Shape, Times>) {
    for (shape, times) in loads {
        for (step, taken) in times {
            let of = if step.is_by_hand() { "linear" } else { "ours" };
            figures.note(Figure {
                what: format!("load: {step}"),
                run: run(backend).to_owned(),
                of: of.to_owned(),
                shape: shape.to_string(),
                forwards: MANY,
                unit: "ms".to_owned(),
                values: taken.iter().map(|time| time.as_secs_f64() * 1e3).collect(),
            });
        }
    }
}

impl Case {
    fn count(&self) -> u32 {
        u32::try_from(self.forwards.len()).expect("a set is small")
    }

    /// The forwards that packets are sent to: those of UDP.
    fn probed(&self) -> Vec<Forward> {
        self.forwards.iter().filter(|forward| forward.transport == Transport::Udp).copied().collect()
    }
}

impl Flow {
    /// The highest allowed ratio between the costs of a packet with ten thousand forwards and with one.
    const fn goal(self) -> f64 {
        match self {
            Self::New => 1.3,
            Self::Established => 1.05,
        }
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "new flow",
            Self::Established => "established",
        })
    }
}

impl std::fmt::Display for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Floor => f.write_str("none (the floor)"),
            Self::Ours(shape) => shape.fmt(f),
            Self::ByHand => write!(f, "by hand: {}", Shape::OwnPort),
        }
    }
}
