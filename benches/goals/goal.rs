//! The goals, and what the figures say about each.

use crate::book::{Book, Key, ratio};
use crate::shared::figures::Figure;
use crate::shared::shapes::{HUGE, MANY, Shape};

/// The variants of iptables.
const RUNS: [&str; 2] = ["nft", "legacy"];
/// The backend nftables.
const MAPS: &str = "nftables";
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

/// A goal: those of the backend nftables have their own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Goal {
    /// Of the backend iptables in both variants.
    Iptables(u8),
    /// Of the backend nftables.
    Nftables(u8),
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Iptables(number) => write!(f, "{number}"),
            Self::Nftables(number) => write!(f, "n{number}"),
        }
    }
}

/// One line of the table of goals.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The number of the goal.
    pub(crate) goal: Goal,
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
        table.losses(run, Goal::Iptables(8));
        table.flushes(run, Goal::Iptables(9), if run == "nft" { 100.0 } else { 300.0 });
    }
    table.beside();
    table.maps();
    table.lines.sort_by_key(|line| line.goal);
    table.lines
}

impl Table<'_> {
    fn changes(&mut self, run: &str) {
        let limit = if run == "nft" { 0.25 } else { 0.5 };
        for (goal, what) in [(1, "change: packet"), (2, "change: CPU")] {
            let goal = Goal::Iptables(goal);
            let ours = Key::ours(what, run, MANY);
            self.ratio(goal, &format!("{what}, 10,000, of kube-proxy nftables"), ours, ours.of(NFTABLES), limit);
        }
        let few = Key::ours("change: packet", run, 200);
        self.ratio(Goal::Iptables(1), "change: packet, 200, of kube-proxy nftables", few, few.of(NFTABLES), 2.5);
        self.ratio(Goal::Iptables(1), "change: packet, 200, of kube-proxy iptables", few, few.of(IPTABLES), 1.0);
        if run == "nft" {
            let many = Key::ours("change: CPU", run, MANY);
            self.ratio(Goal::Iptables(2), "change: CPU, 10,000, of that with 10", many, many.forwards(10), 2.5);
        }
    }

    fn memory(&mut self, run: &str) {
        for (forwards, limit) in [(1_000, 48.0), (MANY, 96.0)] {
            for (what, source) in [("memory after changes: peak", "API server"), ("folder: memory: peak", "folder")] {
                let claim = format!("peak MiB after changes, {forwards}, from the {source}");
                self.value(Goal::Iptables(3), &claim, Key::ours(what, run, forwards), limit);
            }
        }
        let rest = Key::ours("at rest: CPU", run, MANY);
        self.value(Goal::Iptables(3), "at rest, % of a CPU, 10,000", rest, 0.5);
        self.value(Goal::Iptables(3), "at rest, writes, 10,000", rest.what("at rest: writes"), 0.0);
    }

    fn start(&mut self, run: &str) {
        let packet = Key::ours("start: all forwards work, from the list", run, MANY);
        self.value(Goal::Iptables(4), "start, s from the list to the last forward, 10,000", packet, 2.0);
        self.value(Goal::Iptables(4), "start, s to the last status, 10,000", packet.what("start: all statuses written"), 60.0);
        // The limits are absolute; kube-proxy is the comparison.
        let peer = packet.what("start: all forwards work").of(NFTABLES);
        if let (Some(peer), Some(line)) =
            (self.book.find(peer), self.lines.iter_mut().rev().find(|line| line.goal == Goal::Iptables(4)))
        {
            line.detail = format!("{}; kube-proxy nftables, first sync: {}", line.detail, shown(peer));
        }
    }

    fn packets(&mut self, run: &str) {
        for shape in Shape::ALL {
            for (what, limit) in [("packet: new flow", 1.3), ("packet: established", 1.05)] {
                let many = Key { shape, ..Key::ours(what, run, MANY) };
                self.ratio(Goal::Iptables(5), &format!("{what}, 10,000 of 1, {shape}"), many, many.forwards(1), limit);
            }
        }
    }

    fn loads(&mut self, run: &str) {
        for shape in Shape::ALL {
            let ours = Key { shape, ..Key::ours("load: apply, from empty", run, MANY) };
            let linear = ours.what("load: by hand, from empty").of("linear");
            let limit = if shape == Shape::OwnPort { 0.6 } else { 1.0 };
            self.ratio(Goal::Iptables(6), &format!("load from empty, 10,000, of linear rules, {shape}"), ours, linear, limit);
        }
    }

    fn rates(&mut self, run: &str) {
        let ours = Key::ours("rate: new connections", run, MANY);
        self.more(Goal::Iptables(7), "new connections, 10,000 of 1", ours, ours.forwards(1), 0.9);
        if run == "nft" {
            self.more(Goal::Iptables(7), "new connections, 10,000, of linear rules", ours, ours.of("linear"), 5.0);
        }
        for peer in ["haproxy", "nginx stream"] {
            self.more(Goal::Iptables(7), &format!("new connections, 10,000, of {peer}"), ours, ours.of(peer), 1.12);
            let bulk = ours.what("rate: bulk");
            self.more(Goal::Iptables(7), &format!("bulk, 10,000, of {peer}"), bulk, bulk.of(peer), 1.8);
        }
        self.more(Goal::Iptables(7), "new connections, 10,000, of plain routing", ours, ours.of("plain routing"), 0.72);
    }

    fn losses(&mut self, run: &str, goal: Goal) {
        for forwards in [1_000, MANY] {
            let lost = Key::ours("load: flows lost", run, forwards);
            self.value(goal, &format!("new flows lost during changes, {forwards}"), lost, 0.0);
            let sent = self.book.find(lost.what("load: flows sent")).map(Figure::median);
            if let (Some(sent), Some(line)) = (sent, self.lines.iter_mut().rev().find(|line| line.goal == goal)) {
                line.detail = format!("of {sent:.0}");
            }
        }
    }

    fn flushes(&mut self, run: &str, goal: Goal, limit: f64) {
        let Some(figure) = self.book.find(Key::ours("flush: until the first new flow", run, 1_000)) else { return };
        let mut sorted = figure.values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        // 99 of 100.
        let index = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        let claim = format!("flush of our rules, 1,000, ms, 99 of 100 ({run})");
        self.lines.push(Line { goal, claim, value: sorted[index], limit, bound: Bound::AtMost, detail: shown(figure) });
    }

    /// The goals of the backend nftables.
    fn maps(&mut self) {
        let change = Key::ours("change: packet", MAPS, MANY);
        self.ratio(Goal::Nftables(4), "change: packet, 10,000, of kube-proxy nftables", change, change.of(NFTABLES), 0.1);
        let few = change.forwards(200);
        self.ratio(Goal::Nftables(4), "change: packet, 200, of kube-proxy nftables", few, few.of(NFTABLES), 1.0);
        for shape in Shape::ALL {
            for (goal, what, limits) in [(1, "packet: new flow", [1.1, 1.15]), (2, "packet: established", [1.02, 1.02])] {
                let goal = Goal::Nftables(goal);
                for (forwards, limit) in [MANY, HUGE].into_iter().zip(limits) {
                    let many = Key { shape, ..Key::ours(what, MAPS, forwards) };
                    self.ratio(goal, &format!("{what}, {forwards} of 1, {shape}"), many, many.forwards(1), limit);
                }
            }
            let load = Key { shape, ..Key::ours("load: apply, from empty", MAPS, MANY) };
            self.value(Goal::Nftables(5), &format!("load from empty, 10,000, ms, {shape}"), load, 100.0);
            self.value(Goal::Nftables(5), &format!("load from empty, 100,000, ms, {shape}"), load.forwards(HUGE), 10_000.0);
        }
        let packet = Key::ours("start: all forwards work, from the list", MAPS, MANY);
        self.value(Goal::Nftables(5), "start, s from the list to the last forward, 10,000", packet, 1.0);
        self.flushes(MAPS, Goal::Nftables(6), 20.0);
        self.losses(MAPS, Goal::Nftables(7));
    }

    fn beside(&mut self) {
        let alone = Key::ours("change alone: CPU", "nft", 10);
        let beside = alone.what("change beside 10000 Services: CPU");
        self.ratio(Goal::Iptables(10), "CPU of a change beside 10,000 Services, of that alone", beside, alone, 2.0);
        let alone = alone.what("change alone: packet");
        let beside = alone.what("change beside 10000 Services: packet");
        self.ratio(Goal::Iptables(10), "change to packet beside 10,000 Services, of that alone", beside, alone, 2.0);
    }

    fn ratio(&mut self, goal: Goal, claim: &str, one: Key<'_>, other: Key<'_>, limit: f64) {
        self.compare(goal, claim, one, other, limit, Bound::AtMost);
    }

    fn more(&mut self, goal: Goal, claim: &str, one: Key<'_>, other: Key<'_>, limit: f64) {
        self.compare(goal, claim, one, other, limit, Bound::AtLeast);
    }

    fn compare(&mut self, goal: Goal, claim: &str, one: Key<'_>, other: Key<'_>, limit: f64, bound: Bound) {
        let (Some(one_figure), Some(other_figure)) = (self.book.find(one), self.book.find(other)) else { return };
        let value = ratio(one_figure, other_figure);
        let (claim, detail) = (format!("{claim} ({})", one.run), format!("{} of {}", shown(one_figure), shown(other_figure)));
        self.lines.push(Line { goal, claim, value, limit, bound, detail });
    }

    fn value(&mut self, goal: Goal, claim: &str, key: Key<'_>, limit: f64) {
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
