//! How long no new flow passes after another program has flushed the `nat` table.

use std::time::{Duration, Instant};

use crate::bed::kernel::Variant;
use crate::field::{AGENT_NODE, Field};
use crate::prober::probing_one;
use crate::shared::progress;
use crate::subject::Subject;

/// The time between two flushes, and what is added in turn, so that flushes meet every moment of an interval of one second.
const PAUSE: Duration = Duration::from_millis(500);
/// A repair that takes longer ends the run.
const LONGEST: Duration = Duration::from_mins(1);
/// The number of connections that must arrive after a flush. They are more than can be on the way.
const ENOUGH: usize = 30;

/// Flushes the table this number of times. Returns the longest time without an arrival after each.
pub(crate) fn flushes(field: &Field, variant: Variant, ours: &Subject, count: u32) -> Vec<Duration> {
    progress(&format!("flushing the nat table {count} times, {variant}"));
    (0..count)
        .map(|index| {
            std::thread::sleep(PAUSE + Duration::from_millis(u64::from(index * 137 % 1_000)));
            flush(field, variant, ours)
        })
        .collect()
}

fn flush(field: &Field, variant: Variant, ours: &Subject) -> Duration {
    let upstream = ours.upstream();
    probing_one(&field.bed.client, ours.path(), || {
        field.sink.forget();
        let first = field.sink.wait(upstream, LONGEST).expect("the forward works before");
        field.bed.proxies[AGENT_NODE].lose_rules(variant);
        let flushed = Instant::now();
        let (mut before, mut longest, mut after) = (first, Duration::ZERO, 0);
        while after < ENOUGH {
            let at = field.sink.wait(upstream, LONGEST).unwrap_or_else(|| panic!("the rules never came back, {variant}"));
            longest = longest.max(at.saturating_duration_since(before));
            before = at;
            after += usize::from(at > flushed);
        }
        longest
    })
}
