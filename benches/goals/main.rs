//! Compares the figures that the other benchmarks left in `target/bench` with the goals, and draws the plots: the last step of
//! `make bench`.
//!
//! Prints the table of goals, and writes it and the plots to `target/bench`. With the argument `publish`, it also renews the
//! generated part of `docs/performance.md` and the plots beside it. Fails only if a goal is missed by far.

mod book;
mod goal;
mod page;
mod plot;
#[allow(dead_code, reason = "the benchmark uses only a part of the module")]
#[path = "../layout/report.rs"]
mod report;
#[path = "../shared/mod.rs"]
mod shared;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use book::{Book, Key};
use goal::{Bound, Line, number};
use plot::Series;
use report::print_table;
use shared::figures::{Figures, folder};

/// The run fails if a goal is missed by more than this factor. A smaller excess can be noise.
const MARGIN: f64 = 2.0;
/// The page with the figures.
const PAGE: &str = "docs/performance.md";

fn main() -> ExitCode {
    let book = Book { parts: Figures::read_all() };
    let lines = goal::lines(&book);
    if lines.is_empty() {
        eprintln!("there are no figures in {}; run make bench", folder().display());
        return ExitCode::FAILURE;
    }
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    print_table("Goals", &HEAD, &rows);
    let plots = plots(&book);
    let publish = std::env::args().any(|argument| argument == "publish");
    let written = write(&plots, &folder()).and_then(|()| fs::write(folder().join("goals.md"), page::table(&HEAD, &rows)));
    let written = written.and_then(|()| if publish { publish_all(&book, &rows, &plots) } else { Ok(()) });
    if let Err(error) = written {
        eprintln!("the results cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    let far_off: Vec<&Line> = lines.iter().filter(|line| line.is_far_off(MARGIN)).collect();
    let missed = lines.iter().filter(|line| !line.passes()).count();
    println!("\n{} of {} goals are reached. The plots are in {}.", lines.len() - missed, lines.len(), folder().display());
    if far_off.is_empty() {
        return ExitCode::SUCCESS;
    }
    for line in far_off {
        eprintln!("missed by more than {MARGIN} times: goal {}, {}: {}", line.goal, line.claim, number(line.value));
    }
    ExitCode::FAILURE
}

const HEAD: [&str; 6] = ["#", "goal", "measured", "limit", "result", "figures: median (spread)"];

fn row(line: &Line) -> Vec<String> {
    let sign = match line.bound {
        Bound::AtMost => "at most",
        Bound::AtLeast => "at least",
    };
    let result = if line.passes() { "pass" } else { "**fail**" };
    let limit = format!("{sign} {}", number(line.limit));
    vec![line.goal.to_string(), line.claim.clone(), number(line.value), limit, result.to_owned(), line.detail.clone()]
}

/// The plots, by the names of their files.
fn plots(book: &Book) -> Vec<(String, String)> {
    let kinds = [
        ("change-packet", "change: packet", "From a change at the API server to the first packet", "ms"),
        ("change-cpu", "change: CPU", "CPU time of one change", "ms"),
        ("memory", "memory: peak", "Memory, at most", "MiB"),
        ("start", "start: all forwards work", "From the start until all forwards work", "s"),
    ];
    let mut plots = Vec::new();
    for (file, what, title, unit) in kinds {
        let whose = [
            ("ours, iptables-nft", "nft", "ours"),
            ("ours, iptables-legacy", "legacy", "ours"),
            ("ours, nftables", "nftables", "ours"),
            ("kube-proxy, nftables", "nft", "kube-proxy nftables"),
            ("kube-proxy, iptables", "nft", "kube-proxy iptables"),
        ];
        let series = whose.map(|(name, run, of)| {
            let cost = |count: u32| {
                let figure = book.find(Key::ours(what, run, count).of(of))?;
                Some((f64::from(count), figure.median()))
            };
            Series { name: name.to_owned(), points: [10, 200, 1_000, 10_000].into_iter().filter_map(cost).collect() }
        });
        let series: Vec<Series> = series.into_iter().filter(|one| !one.points.is_empty()).collect();
        if !series.is_empty() {
            plots.push((format!("{file}.svg"), plot::draw(title, unit, &series)));
        }
    }
    plots
}

fn write(plots: &[(String, String)], folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    plots.iter().try_for_each(|(name, svg)| fs::write(folder.join(name), svg))
}

fn publish_all(book: &Book, rows: &[Vec<String>], plots: &[(String, String)]) -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    write(plots, &root.join("docs/performance"))?;
    let path = root.join(PAGE);
    let text = fs::read_to_string(&path)?;
    fs::write(path, page::renew(&text, &page::generated(book, &HEAD, rows, plots)))
}
