//! How much is measured.

use crate::shared::{is_quick, number};

/// The numbers of rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// How often each program has its turn.
    pub(crate) blocks: u32,
    /// The number of changes in a turn.
    pub(crate) changes: u32,
    /// The number of changes under load.
    pub(crate) under_load: u32,
    /// How often the rules are flushed.
    pub(crate) flushes: u32,
    /// The number of foreign Services.
    pub(crate) services: u32,
    quick: bool,
}

impl Rounds {
    /// What the environment asks for.
    pub(crate) fn chosen() -> Self {
        let quick = is_quick();
        let count = |name, long: usize, short: usize| {
            u32::try_from(number(name, if quick { short } else { long })).expect("a number of rounds is small")
        };
        Self {
            blocks: count("BENCH_BLOCKS", 3, 1),
            changes: count("BENCH_CHANGES", 10, 5),
            under_load: count("BENCH_UNDER_LOAD", 200, 40),
            flushes: count("BENCH_FLUSHES", 100, 20),
            services: count("BENCH_SERVICES", 10_000, 1_000),
            quick,
        }
    }

    /// Whether also the slow peers are measured.
    pub(crate) const fn is_long(&self) -> bool {
        !self.quick
    }

    /// The numbers of forwards.
    pub(crate) fn counts(&self) -> Vec<u32> {
        let all: &[u32] = if self.quick { &[10, 1_000] } else { &[10, 200, 1_000, 10_000] };
        let only = number("BENCH_FORWARDS", 0);
        all.iter().copied().filter(|count| only == 0 || usize::try_from(*count) == Ok(only)).collect()
    }
}
