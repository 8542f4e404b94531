//! Ranges of ports: merges overlapping and adjacent ranges.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use crate::model::PortRange;

/// The smallest set of ranges with the same ports: overlapping and adjacent ranges are merged.
pub(super) fn merged(ranges: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
    let ranges: BTreeSet<PortRange> = ranges.into_iter().collect();
    let mut runs: Vec<PortRange> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(run) if range.first() <= run.last().saturating_add(1) => *run = joined(*run, range),
            _ => runs.push(range),
        }
    }
    runs
}

/// The smallest range that contains both.
pub(super) fn joined(a: PortRange, b: PortRange) -> PortRange {
    let port = |number: u16| NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN);
    PortRange::new(port(a.first().min(b.first())), port(a.last().max(b.last()))).unwrap_or(a)
}

/// The groups of overlapping ranges (with a common port; adjacent ranges stay separate), in order.
pub(super) fn overlapping(ranges: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
    let ranges: BTreeSet<PortRange> = ranges.into_iter().collect();
    let mut runs: Vec<PortRange> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(run) if range.overlaps(*run) => *run = joined(*run, range),
            _ => runs.push(range),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(runs: &[PortRange]) -> String {
        runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn ranges(text: &str) -> Vec<PortRange> {
        text.split(' ').map(|range| range.parse().unwrap()).collect()
    }

    #[test]
    fn neighbours_merge_and_gaps_stay() {
        assert_eq!(text(&merged(ranges("80 82 81 90:99 95:120 443 65535"))), "80:82 90:120 443 65535");
        assert_eq!(text(&overlapping(ranges("80 81 90:99 95:120 120"))), "80 81 90:120");
    }
}
