//! Prints the measured values as tables, next to the goals.

use std::time::Duration;

/// The measured times, one for each round, in the order of the rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds(pub(crate) Vec<Duration>);

impl Rounds {
    /// The shortest time.
    pub(crate) fn minimum(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }

    /// The median time.
    pub(crate) fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The ratio of the shortest time of this to that of `other`.
    pub(crate) fn times(&self, other: &Self) -> f64 {
        self.minimum().as_secs_f64() / other.minimum().as_secs_f64()
    }

    /// The median of the ratios of this to `other`, round by round.
    pub(crate) fn median_times(&self, other: &Self) -> f64 {
        let mut ratios: Vec<f64> = self.0.iter().zip(&other.0).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Prints a Markdown table with a title.
pub(crate) fn print_table(title: &str, head: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", cells.join(" | "));
    };
    println!("\n{title}\n");
    line(&head);
    line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
    for row in rows {
        line(row);
    }
}

/// The time in microseconds.
pub(crate) fn micros(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e6)
}

/// The time in milliseconds.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// The ratio as text, for example `1.23x`.
pub(crate) fn ratio(ratio: f64) -> String {
    format!("{ratio:.2}x")
}
