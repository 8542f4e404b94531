//! Measures what a tenant at its limits costs another tenant: `make bench-tenants`, described in `docs/benchmarks.md`.
//!
//! A real etcd and API server and a real agent run in network namespaces. Tenant B changes its only forward again and again.
//! The time from the change until the kernel forwards accordingly, and until the status says so, is measured without tenant A,
//! while tenant A fills its namespace, while it holds all its objects, and while it changes them all the time. Needs root.
//!
//! Arguments choose loads by name. `TENANTS_PERCENT` makes the loads smaller, `TENANTS_ROUNDS` sets the number of changes.

#[path = "../../tests/bed/mod.rs"]
mod bed;
mod change;
#[allow(dead_code, unfulfilled_lint_expectations, reason = "the benchmark uses only a part of the module")]
#[path = "../../tests/cluster/fleet.rs"]
mod fleet;
mod load;
#[path = "../../tests/plane/mod.rs"]
mod plane;
#[allow(dead_code, reason = "the benchmark uses only a part of the module")]
#[path = "../layout/report.rs"]
mod report;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use change::{Observer, Taken};
use fleet::Fleet;
use load::Load;
use report::{Rounds, print_table};
use shared::{number, process, progress, supervise};

/// The limit of the time from a change to the kernel.
const KERNEL: Duration = Duration::from_secs(1);
/// The limit of the time from a change to the status.
const STATUS: Duration = Duration::from_secs(5);

/// What tenant A does during a measurement.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It has no object.
    Absent,
    /// It creates its objects.
    Fills,
    /// It has all its objects.
    Holds,
    /// It changes its objects all the time.
    Changes,
}

fn main() -> ExitCode {
    supervise::run(measure, bed::netns::remove_leftovers)
}

fn measure(names: &[String]) -> ExitCode {
    let unknown = names.iter().find(|name| Load::ALL.iter().all(|load| load.name() != **name));
    if let Some(unknown) = unknown {
        eprintln!("there is no load {unknown}; there are {}", Load::ALL.map(Load::name).join(", "));
        return ExitCode::from(2);
    }
    let chosen = Load::ALL.into_iter().filter(|load| names.is_empty() || names.iter().any(|name| name == load.name()));
    let (percent, rounds) = (number("TENANTS_PERCENT", 100), number("TENANTS_ROUNDS", 9));
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    println!("{}, kernel {kernel}, {cpus} CPUs, loads of {percent} %, {rounds} changes", jiff::Zoned::now().date());
    let rows: Vec<Vec<String>> = chosen.flat_map(|load| measure_load(load, percent, rounds)).collect();
    let head = [
        "tenant A",
        "meanwhile it",
        "API server, median ms",
        "API server, worst ms",
        "kernel, median ms",
        "kernel, worst ms",
        "status, median ms",
        "status, worst ms",
        "agent, MB",
        "agent, most MB",
        "agent, CPUs",
    ];
    let title = format!(
        "Tenant B changes its forward: the kernel follows within {} ms, and the status within {} ms",
        KERNEL.as_millis(),
        STATUS.as_millis()
    );
    print_table(&title, &head, &rows);
    ExitCode::SUCCESS
}

/// Measures one load on its own cluster. Returns a row for each phase.
fn measure_load(load: Load, percent: usize, rounds: usize) -> Vec<Vec<String>> {
    progress(&format!("{load}: starting a cluster"));
    let fleet = Fleet::new(1);
    let objects = load.objects(percent);
    let count = objects.len();
    fleet.plane.add_namespace(load::TENANT);
    let mut observer = Observer::new(&fleet);
    let mut rows = Vec::new();
    let mut note = |phase: Phase, taken: &[Taken], cpus: f64| {
        let (now, most) = memory(&fleet);
        let answered = Rounds(taken.iter().map(|taken| taken.answered).collect());
        let kernel = Rounds(taken.iter().map(|taken| taken.kernel).collect());
        let status = Rounds(taken.iter().map(|taken| taken.status).collect());
        let name = format!("{count} x {load}");
        let mut row = vec![name, phase.to_string()];
        row.extend(times(&answered, Duration::MAX));
        row.extend(times(&kernel, KERNEL));
        row.extend(times(&status, STATUS));
        row.extend([now, most, format!("{cpus:.2}")]);
        rows.push(row);
    };
    let mut phase = |phase: Phase, observer: &mut Observer<'_>, goes_on: &dyn Fn(usize) -> bool| {
        progress(&format!("{load}: tenant A {phase}"));
        let (before, begun) = (process::cpu(fleet.agent(0).id()), Instant::now());
        let mut taken = Vec::new();
        while goes_on(taken.len()) {
            taken.push(observer.change());
        }
        note(phase, &taken, process::cpu(fleet.agent(0).id()).saturating_sub(before).div_duration_f64(begun.elapsed()));
    };
    phase(Phase::Absent, &mut observer, &|done| done < rounds);
    thread::scope(|scope| {
        let filled = scope.spawn(|| load::fill(&fleet, &objects));
        phase(Phase::Fills, &mut observer, &|done| !filled.is_finished() || done == 0);
    });
    load.wait_in_force(&fleet, count);
    phase(Phase::Holds, &mut observer, &|done| done < rounds);
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| load.change(&fleet, count, &ends));
        phase(Phase::Changes, &mut observer, &|done| done < rounds);
        ends.store(true, Ordering::Relaxed);
    });
    rows
}

/// The median and the worst time. Bold: more than the limit.
fn times(rounds: &Rounds, limit: Duration) -> [String; 2] {
    let worst = rounds.0.iter().max().copied().unwrap_or_default();
    [rounds.median(), worst].map(|time| {
        let text = time.as_millis().to_string();
        if time > limit { format!("**{text}**") } else { text }
    })
}

/// The resident memory of the agent now and at most, in MB.
fn memory(fleet: &Fleet) -> (String, String) {
    let (now, most) = process::memory(fleet.agent(0).id());
    let text = |mebibytes: f64| format!("{:.0}", mebibytes * 1.048_576);
    (text(now), text(most))
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "is absent",
            Self::Fills => "creates them",
            Self::Holds => "holds them",
            Self::Changes => "changes them",
        })
    }
}
