//! The measured values of one benchmark, as a file in `target/bench`.
//!
//! The file is written again after each figure, so that an interrupted run leaves what it has measured.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::is_quick;

/// One value for each round of one measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What was measured, for example `change latency`.
    pub(crate) what: String,
    /// The variant of iptables of the run: the figures of peers belong to a run too, so that ratios are those of one run.
    pub(crate) run: String,
    /// Whose it is, for example `ours` or `kube-proxy nftables`.
    pub(crate) of: String,
    /// How the forwards differ from each other.
    pub(crate) shape: String,
    /// The number of forwards or of their counterparts.
    pub(crate) forwards: u32,
    /// The unit of the values.
    pub(crate) unit: String,
    /// The values, in the order of the rounds.
    pub(crate) values: Vec<f64>,
}

/// All figures of one benchmark, with the machine on which they were measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// The name of the benchmark.
    pub(crate) benchmark: String,
    /// The day.
    pub(crate) date: String,
    /// The release of the kernel.
    pub(crate) kernel: String,
    /// The number of CPUs.
    pub(crate) cpus: usize,
    /// The load average over one minute before the first measurement.
    pub(crate) load: f64,
    /// Whether it is a run with `QUICK=1`.
    pub(crate) quick: bool,
    /// The figures.
    #[expect(clippy::struct_field_names, reason = "the name in the JSON file")]
    pub(crate) figures: Vec<Figure>,
}

impl Figure {
    /// The median of the values; with an even number of values, the mean of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        median(&self.values)
    }

    /// The smallest value.
    pub(crate) fn minimum(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value.
    pub(crate) fn maximum(&self) -> f64 {
        self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

impl Figures {
    /// No figures yet, on this machine.
    pub(crate) fn new(benchmark: &str) -> Self {
        let load = fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse().ok());
        Self {
            benchmark: benchmark.to_owned(),
            date: jiff::Zoned::now().date().to_string(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load: load.unwrap_or_default(),
            quick: is_quick(),
            figures: Vec::new(),
        }
    }

    /// Adds a figure, prints it, and writes the file.
    pub(crate) fn note(&mut self, figure: Figure) {
        let Figure { what, run, of, shape, forwards, unit, values } = &figure;
        let spread = format!("{:.2} to {:.2}, {} rounds", figure.minimum(), figure.maximum(), values.len());
        println!("{what}: {of} (run {run}), {forwards} x {shape}: {:.2} {unit} ({spread})", figure.median());
        self.figures.push(figure);
        self.write();
    }

    /// Every file of figures.
    pub(crate) fn read_all() -> Vec<Self> {
        let files = fs::read_dir(folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
        files.sort();
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}; remove this file", path.display()))
        };
        files.iter().map(read).collect()
    }

    fn write(&self) {
        let folder = folder();
        let text = serde_json::to_string_pretty(self).expect("figures are finite numbers and text");
        let written =
            fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(format!("{}.json", self.benchmark)), text + "\n"));
        written.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    }
}

/// The folder of the results.
pub(crate) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target").into()).join("bench")
}

/// The median of some values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length => f64::midpoint(sorted[(length - 1) / 2], sorted[length / 2]),
    }
}
