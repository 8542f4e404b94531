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
mod packet;
mod probe;
mod report;
mod shapes;

use std::collections::BTreeMap;
use std::process::ExitCode;

use portforward_operator::dataplane::iptables::Variant;
use tokio::signal::unix::{SignalKind, signal};

use load::Times;
use network::Network;
use probe::Probe;
use report::{Rounds, micros, millis, print_table, ratio};
use shapes::{Forward, MANY, Shape};

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

/// The argument with which this program starts itself for the measurement.
const MEASURE: &str = "measure";

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
    variant: Variant,
    rules: Rules,
    forwards: Vec<Forward>,
}

/// The cost of a packet by variant, rules, number of forwards and flow.
type Costs = BTreeMap<(Variant, Rules, usize, Flow), Rounds>;

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("the benchmark makes network namespaces and needs root, for example: sudo make bench");
        return ExitCode::from(2);
    }
    if std::env::args().any(|argument| argument == MEASURE) { measure() } else { supervise() }
}

/// Runs the measurement as a separate process with its own lock of legacy iptables. If it is stopped, removes its namespaces.
fn supervise() -> ExitCode {
    let files = tempfile::tempdir().expect("a temporary folder can be made");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let status = runtime.block_on(async {
        let mut measuring = tokio::process::Command::new(std::env::current_exe()?)
            .arg(MEASURE)
            .env("XTABLES_LOCKFILE", files.path().join("xtables.lock"))
            .spawn()?;
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            status = measuring.wait() => status,
            _ = interrupt.recv() => { measuring.start_kill()?; measuring.wait().await }
            _ = terminate.recv() => { measuring.start_kill()?; measuring.wait().await }
        }
    });
    netns::remove_leftovers();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the measurement cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> ExitCode {
    let system = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{}, kernel {}, {cpus} CPUs", jiff::Zoned::now().date(), system.release().to_string_lossy());
    let costs = measure_packets();
    let mut verdict = report_packets(&costs);
    for variant in Variant::ALL {
        report_loads(variant, &measure_loads(variant));
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

fn cases(variant: Variant) -> Vec<Case> {
    let case = |rules, forwards| Case { variant, rules, forwards };
    let floor = |count| Shape::OwnPort.forwards(count).into_iter().map(Forward::untranslated).collect();
    let mut cases = vec![case(Rules::Floor, floor(1)), case(Rules::Floor, floor(MANY))];
    for shape in Shape::ALL {
        cases.extend([1, MANY].map(|count| case(Rules::Ours(shape), shape.forwards(count))));
    }
    cases.extend([1, MANY].map(|count| case(Rules::ByHand, Shape::OwnPort.forwards(count))));
    cases
}

fn measure_packets() -> Costs {
    let cases: Vec<Case> = Variant::ALL.into_iter().flat_map(cases).collect();
    progress(&format!("making a network with {} proxies", cases.len()));
    let network = Network::new(cases.len());
    let probe = Probe::new(&network);
    for (proxy, case) in cases.iter().enumerate() {
        progress(&format!("loading and trying {} forwards: {}, {}", case.forwards.len(), case.variant, case.rules));
        let netns = &network.proxies[proxy];
        match case.rules {
            Rules::Floor => load::write_by_hand(case.variant, netns, &[]),
            Rules::Ours(_) => load::apply(case.variant, netns, &case.forwards),
            Rules::ByHand => load::write_by_hand(case.variant, netns, &case.forwards),
        }
        probe.verify(proxy, &case.forwards);
    }
    let mut costs = Costs::new();
    for round in 1..=ROUNDS {
        progress(&format!("packets, round {round} of {ROUNDS}"));
        for (proxy, case) in cases.iter().enumerate() {
            let batches = if case.rules == Rules::ByHand { BATCHES_BY_HAND } else { BATCHES };
            let mut note = |flow, cost| {
                costs.entry((case.variant, case.rules, case.forwards.len(), flow)).or_default().0.push(cost);
            };
            note(Flow::New, probe.new_flows(proxy, &case.forwards, batches));
            note(Flow::Established, probe.established(proxy, &case.forwards, BATCHES));
        }
    }
    costs
}

/// Prints the costs. Returns the ratios that miss their goal by far.
fn report_packets(costs: &Costs) -> Vec<String> {
    let (mut rows, mut far_off) = (Vec::new(), Vec::new());
    for ((variant, rules, count, flow), one) in costs {
        let Some(many) = (*count == 1).then(|| costs.get(&(*variant, *rules, MANY as usize, *flow))).flatten() else { continue };
        let judged = matches!(rules, Rules::Ours(_));
        let row = [variant.to_string(), rules.to_string(), flow.to_string(), micros(one.minimum()), micros(many.minimum())];
        let medians = [micros(one.median()), micros(many.median())];
        let missed = if many.times(one) > flow.goal() { ", missed" } else { "" };
        let goal = if judged { format!("<= {}{missed}", ratio(flow.goal())) } else { String::new() };
        let ratios = [ratio(many.times(one)), ratio(many.median_times(one)), goal];
        if judged && many.times(one) > MARGIN * flow.goal() {
            far_off.push(format!("{variant}, {rules}, {flow}: {}", ratio(many.times(one))));
        }
        rows.push([&row[..], &medians[..], &ratios[..]].concat());
    }
    let head = [
        "iptables",
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

fn measure_loads(variant: Variant) -> BTreeMap<Shape, Times> {
    let [ours, hand] = ["ours", "hand"].map(|name| network::host(&format!("{variant}-{name}")));
    let mut loads = BTreeMap::<Shape, Times>::new();
    for round in 1..=LOAD_ROUNDS {
        progress(&format!("loading by {variant}, round {round} of {LOAD_ROUNDS}"));
        for shape in Shape::ALL {
            load::round(variant, &ours, &hand, &shape.forwards(MANY), loads.entry(shape).or_default());
        }
    }
    loads
}

fn report_loads(variant: Variant, loads: &BTreeMap<Shape, Times>) {
    let mut rows = Vec::new();
    for (shape, times) in loads {
        let (rules, chains) = load::size(&shape.forwards(MANY));
        for (step, taken) in times {
            let taken = Rounds(taken.clone());
            let by_hand = step.by_hand().and_then(|step| times.get(&step)).map(|by_hand| Rounds(by_hand.clone()));
            let against = by_hand
                .map_or([String::new(), String::new()], |by_hand| [millis(by_hand.minimum()), ratio(taken.times(&by_hand))]);
            let size = format!("{rules} rules, {chains} chains");
            let row = [shape.to_string(), size, step.to_string(), millis(taken.minimum()), millis(taken.median())];
            rows.push([&row[..], &against[..]].concat());
        }
    }
    let head = ["forwards", "ours", "step", "min ms", "median ms", "by hand, min ms", "ratio of min"];
    print_table(&format!("Loading 10,000 forwards by iptables-{variant}"), &head, &rows);
}

/// Prints the current step.
fn progress(text: &str) {
    eprintln!("... {text}");
}

impl Flow {
    /// The highest allowed ratio between the costs of a packet with ten thousand forwards and with one.
    const fn goal(self) -> f64 {
        match self {
            Self::New => 1.3,
            Self::Established => 1.1,
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
