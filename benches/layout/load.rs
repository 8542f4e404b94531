//! How long rules take to load: ours by the library, and the same forwards written by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portforward_operator::dataplane::iptables::{Iptables, Ruleset, SavedTable, Table, Variant};
use portforward_operator::model::Translation;

use crate::netns::{Netns, must};
use crate::shapes::{Forward, by_hand};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Laying the forwards out as chains; no program runs.
    LayOut,
    /// The first apply, into an empty kernel.
    FromEmpty,
    /// The same set again.
    NothingToDo,
    /// One forward with another upstream.
    OneChanged,
    /// The same set again, by an agent that has just started and reads whole tables.
    AfterRestart,
    /// Only printing and parsing both tables.
    ReadBack,
    /// Removing everything.
    Remove,
    /// By hand: `iptables-restore` of all rules into an empty table.
    ByHandFromEmpty,
    /// By hand: `iptables-restore` of all rules over those of before.
    ByHandAgain,
}

/// How long each step took, once per round.
pub(crate) type Times = BTreeMap<Step, Vec<Duration>>;

/// Applies these forwards in this namespace.
pub(crate) fn apply(variant: Variant, netns: &Netns, forwards: &[Forward]) {
    let translations = translations(forwards);
    within(netns, async || {
        let report = Iptables::new(variant).apply(&Ruleset::of(&translations)).await;
        assert!(report.is_exact(), "read back: {report:?}");
    });
}

/// Writes these forwards by hand in this namespace; none: empty chains, and conntrack at work.
pub(crate) fn write_by_hand(variant: Variant, netns: &Netns, forwards: &[Forward]) {
    // Conntrack runs where some rule needs it, whether or not any packet comes by it.
    let aside = ":ASIDE - [0:0]\n-A ASIDE -p udp -j DNAT --to-destination 3.3.0.1\nCOMMIT\n";
    restore(variant, netns, &by_hand(forwards).replace("COMMIT\n", aside));
}

/// Takes one round of times: ours in one namespace, those by hand in another.
pub(crate) fn round(variant: Variant, ours: &Netns, hand: &Netns, forwards: &[Forward], times: &mut Times) {
    let mut changed = forwards.to_vec();
    let middle = forwards.len() / 2;
    changed[middle].upstream.set_port(81);
    let (all, changed_set) = (translations(forwards), translations(&changed));
    let mut note = |step: Step, time: Duration| times.entry(step).or_default().push(time);

    let started = Instant::now();
    let laid_out = Ruleset::of(&all);
    note(Step::LayOut, started.elapsed());
    drop(laid_out);
    let taken = within(ours, async || {
        let agent = Iptables::new(variant);
        let mut taken = Vec::new();
        for (step, set) in [(Step::FromEmpty, &all), (Step::NothingToDo, &all), (Step::OneChanged, &changed_set)] {
            taken.push((step, timed_apply(&agent, set).await));
        }
        taken.push((Step::AfterRestart, timed_apply(&Iptables::new(variant), &changed_set).await));
        let started = Instant::now();
        for table in Table::ALL {
            let text = must(Command::new(variant.save()).args(["-t", table.name()]));
            assert!(!SavedTable::parse(&text).chains.is_empty());
        }
        taken.push((Step::ReadBack, started.elapsed()));
        taken.push((Step::Remove, timed_apply(&agent, &BTreeSet::new()).await));
        taken
    });
    for (step, time) in taken {
        note(step, time);
    }
    note(Step::ByHandFromEmpty, restore(variant, hand, &by_hand(forwards)));
    note(Step::ByHandAgain, restore(variant, hand, &by_hand(&changed)));
    restore(variant, hand, &by_hand(&[]));
}

/// How many rules and chains of ours these forwards become.
pub(crate) fn size(forwards: &[Forward]) -> (usize, usize) {
    let laid_out = Ruleset::of(&translations(forwards));
    let chains = Table::ALL.map(|table| laid_out.chains(table));
    (chains.iter().flat_map(|chains| chains.values()).map(Vec::len).sum(), chains.iter().map(|chains| chains.len()).sum())
}

async fn timed_apply(agent: &Iptables, translations: &BTreeSet<Translation>) -> Duration {
    let started = Instant::now();
    let report = agent.apply(&Ruleset::of(translations)).await;
    let taken = started.elapsed();
    assert!(report.is_exact(), "read back: {report:?}");
    taken
}

fn translations(forwards: &[Forward]) -> BTreeSet<Translation> {
    forwards.iter().map(Forward::translation).collect()
}

/// Runs `task` inside a namespace; the programs that it starts run there too.
fn within<T: Send>(netns: &Netns, task: impl AsyncFnOnce() -> T + Send) -> T {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        runtime.block_on(task())
    })
}

fn restore(variant: Variant, netns: &Netns, text: &str) -> Duration {
    let started = Instant::now();
    let mut child = netns.command(variant.restore()).arg("-w").stdin(Stdio::piped()).spawn().expect("nsenter is installed");
    child.stdin.take().expect("the input is piped").write_all(text.as_bytes()).expect("iptables-restore reads");
    let status = child.wait().expect("iptables-restore can be waited for");
    assert!(status.success(), "{}: {status}", variant.restore());
    started.elapsed()
}

impl Step {
    /// The same by hand, if there is such a thing.
    pub(crate) const fn by_hand(self) -> Option<Self> {
        match self {
            Self::FromEmpty => Some(Self::ByHandFromEmpty),
            Self::NothingToDo | Self::OneChanged | Self::AfterRestart => Some(Self::ByHandAgain),
            Self::LayOut | Self::ReadBack | Self::Remove | Self::ByHandFromEmpty | Self::ByHandAgain => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LayOut => "lay out, no program run",
            Self::FromEmpty => "apply, from empty",
            Self::NothingToDo => "apply again, nothing to do",
            Self::OneChanged => "apply, one forward changed",
            Self::AfterRestart => "apply after a restart, nothing to do",
            Self::ReadBack => "print and parse both tables",
            Self::Remove => "remove everything",
            Self::ByHandFromEmpty => "by hand, from empty",
            Self::ByHandAgain => "by hand, all again",
        })
    }
}
