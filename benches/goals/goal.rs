//! The goals, and what the figures say about each.

use crate::book::{Book, Key, ratio};
use crate::shared::figures::Figure;
use crate::shared::shapes::{MANY, Shape};

/// The variants of iptables.
const RUNS: [&str; 2] = ["nft", "legacy"];
/// kube-proxy in nftables mode.
const NFTABLES: &str = "kube-proxy nftables";
/// kube-proxy in iptables mode.
const IPTABLES: &str = "kube-proxy iptables";

/// Whether the measured value has to be below or above the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It must not be more.
    AtMost,
    /// It must not be less.
    AtLeast,
}

/// One line of the table of goals.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The number of the goal.
    pub(crate) goal: u8,
    /// What is compared.
    pub(crate) claim: String,
    /// The measured value.
    pub(crate) value: f64,
    /// The limit.
    pub(crate) limit: f64,
    /// On which side of the limit the value must be.
    pub(crate) bound: Bound,
    /// The figures behind the value.
    pub(crate) detail: String,
}

impl Line {
    /// Whether the goal is reached.
    pub(crate) fn passes(&self) -> bool {
        match self.bound {
            Bound::AtMost => self.value <= self.limit,
            Bound::AtLeast => self.value >= self.limit,
        }
    }

    /// Whether the goal is missed by so much that noise cannot be the reason: by more than this factor.
    pub(crate) fn is_far_off(&self, margin: f64) -> bool {
        match self.bound {
            Bound::AtMost => self.value > self.limit * margin,
            Bound::AtLeast => self.value * margin < self.limit,
        }
    }
}

/// Collects the lines.
struct Table<'a> {
    book: &'a Book,
    lines: Vec<Line>,
}

/// Every goal for which there are figures.
pub(crate) fn lines(book: &Book) -> Vec<Line> {
    let mut table = Table { book, lines: Vec::new() };
    for run in RUNS {
        table.changes(run);
        table.memory(run);
        table.start(run);
        table.packets(run);
        table.loads(run);
        table.rates(run);
        table.losses(run);
        table.flushes(run);
    }
    table.beside();
    table.lines.sort_by_key(|line| line.goal);
    table.lines
}

impl Table<'_> {
    fn changes(&mut self, run: &str) {
        let limit = if run == "nft" { 0.25 } else { 0.5 };
        for (goal, what) in [(1, "change: packet"), (2, "change: CPU")] {
            let ours = Key::ours(what, run, MANY);
            self.ratio(goal, &format!("{what}, 10,000, of kube-proxy nftables"), ours, ours.of(NFTABLES), limit);
        }
        let few = Key::ours("change: packet", run, 200);
        self.ratio(1, "change: packet, 200, of kube-proxy nftables", few, few.of(NFTABLES), 2.5);
        self.ratio(1, "change: packet, 200, of kube-proxy iptables", few, few.of(IPTABLES), 1.0);
        if run == "nft" {
            let many = Key::ours("change: CPU", run, MANY);
            self.ratio(2, "change: CPU, 10,000, of that with 10", many, many.forwards(10), 2.5);
        }
    }

    fn memory(&mut self, run: &str) {
        for (forwards, limit) in [(1_000, 48.0), (MANY, 96.0)] {
            for (what, source) in [("memory after changes: peak", "API server"), ("folder: memory: peak", "folder")] {
                let claim = format!("peak MiB after changes, {forwards}, from the {source}");
                self.value(3, &claim, Key::ours(what, run, forwards), limit);
            }
        }
        let rest = Key::ours("at rest: CPU", run, MANY);
        self.value(3, "at rest, % of a CPU, 10,000", rest, 0.5);
        self.value(3, "at rest, writes, 10,000", rest.what("at rest: writes"), 0.0);
    }

    fn start(&mut self, run: &str) {
        let packet = Key::ours("start: all forwards work, from the list", run, MANY);
        self.value(4, "start, s from the list to the last forward, 10,000", packet, 2.0);
        self.value(4, "start, s to the last status, 10,000", packet.what("start: all statuses written"), 60.0);
        // The limits are absolute; kube-proxy is the comparison.
        let peer = packet.what("start: all forwards work").of(NFTABLES);
        if let (Some(peer), Some(line)) = (self.book.find(peer), self.lines.iter_mut().rev().find(|line| line.goal == 4)) {
            line.detail = format!("{}; kube-proxy nftables, first sync: {}", line.detail, shown(peer));
        }
    }

    fn packets(&mut self, run: &str) {
        for shape in Shape::ALL {
            for (what, limit) in [("packet: new flow", 1.3), ("packet: established", 1.05)] {
                let many = Key { shape, ..Key::ours(what, run, MANY) };
                self.ratio(5, &format!("{what}, 10,000 of 1, {shape}"), many, many.forwards(1), limit);
            }
        }
    }

    fn loads(&mut self, run: &str) {
        for shape in Shape::ALL {
            let ours = Key { shape, ..Key::ours("load: apply, from empty", run, MANY) };
            let linear = ours.what("load: by hand, from empty").of("linear");
            let limit = if shape == Shape::OwnPort { 0.6 } else { 1.0 };
            self.ratio(6, &format!("load from empty, 10,000, of linear rules, {shape}"), ours, linear, limit);
        }
    }

    fn rates(&mut self, run: &str) {
        let ours = Key::ours("rate: new connections", run, MANY);
        self.more(7, "new connections, 10,000 of 1", ours, ours.forwards(1), 0.9);
        if run == "nft" {
            self.more(7, "new connections, 10,000, of linear rules", ours, ours.of("linear"), 5.0);
        }
        for peer in ["haproxy", "nginx stream"] {
            self.more(7, &format!("new connections, 10,000, of {peer}"), ours, ours.of(peer), 1.12);
            let bulk = ours.what("rate: bulk");
            self.more(7, &format!("bulk, 10,000, of {peer}"), bulk, bulk.of(peer), 1.8);
        }
        self.more(7, "new connections, 10,000, of plain routing", ours, ours.of("plain routing"), 0.72);
    }

    fn losses(&mut self, run: &str) {
        for forwards in [1_000, MANY] {
            let lost = Key::ours("load: flows lost", run, forwards);
            self.value(8, &format!("new flows lost during changes, {forwards}"), lost, 0.0);
            let sent = self.book.find(lost.what("load: flows sent")).map(Figure::median);
            if let (Some(sent), Some(line)) = (sent, self.lines.iter_mut().rev().find(|line| line.goal == 8)) {
                line.detail = format!("of {sent:.0}");
            }
        }
    }

    fn flushes(&mut self, run: &str) {
        let Some(figure) = self.book.find(Key::ours("flush: until the first new flow", run, 1_000)) else { return };
        let mut sorted = figure.values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        // 99 of 100.
        let index = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        let limit = if run == "nft" { 100.0 } else { 300.0 };
        let claim = format!("flush of nat, 1,000, ms, 99 of 100 ({run})");
        self.lines.push(Line { goal: 9, claim, value: sorted[index], limit, bound: Bound::AtMost, detail: shown(figure) });
    }

    fn beside(&mut self) {
        let alone = Key::ours("change alone: CPU", "nft", 10);
        let beside = alone.what("change beside 10000 Services: CPU");
        self.ratio(10, "CPU of a change beside 10,000 Services, of that alone", beside, alone, 2.0);
        let alone = alone.what("change alone: packet");
        let beside = alone.what("change beside 10000 Services: packet");
        self.ratio(10, "change to packet beside 10,000 Services, of that alone", beside, alone, 2.0);
    }

    fn ratio(&mut self, goal: u8, claim: &str, one: Key<'_>, other: Key<'_>, limit: f64) {
        self.compare(goal, claim, one, other, limit, Bound::AtMost);
    }

    fn more(&mut self, goal: u8, claim: &str, one: Key<'_>, other: Key<'_>, limit: f64) {
        self.compare(goal, claim, one, other, limit, Bound::AtLeast);
    }

    fn compare(&mut self, goal: u8, claim: &str, one: Key<'_>, other: Key<'_>, limit: f64, bound: Bound) {
        let (Some(one_figure), Some(other_figure)) = (self.book.find(one), self.book.find(other)) else { return };
        let value = ratio(one_figure, other_figure);
        let (claim, detail) = (format!("{claim} ({})", one.run), format!("{} of {}", shown(one_figure), shown(other_figure)));
        self.lines.push(Line { goal, claim, value, limit, bound, detail });
    }

    fn value(&mut self, goal: u8, claim: &str, key: Key<'_>, limit: f64) {
        let Some(figure) = self.book.find(key) else { return };
        let (claim, detail) = (format!("{claim} ({})", key.run), shown(figure));
        self.lines.push(Line { goal, claim, value: figure.median(), limit, bound: Bound::AtMost, detail });
    }
}

/// The median of a figure with its unit, and the smallest and largest value if there are several.
fn shown(figure: &Figure) -> String {
    let median = format!("{} {}", number(figure.median()), figure.unit);
    if figure.values.len() < 2 {
        return median;
    }
    format!("{median} ({} to {})", number(figure.minimum()), number(figure.maximum()))
}

/// A number with three digits or more.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
