//! Measures how long rules take to load: by the library, and as rules written by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use portforward_operator::dataplane::iptables::{Ruleset, SavedTable, Table, Variant};
use portforward_operator::dataplane::{Backend, Dataplane, Forwarding, Kernel, Look};
use portforward_operator::model::{
    Connmark, Desired, Destination, FlowMatch, PortRange, Protocol, SourceNat, TargetPorts, Translation, Translations,
};

use crate::netns::{Netns, must};
use crate::shared::linear;
use crate::shared::shapes::{Forward, Transport};

/// The operation that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Laying out the forwards as chains. No program runs.
    LayOut,
    /// The first apply, to an empty kernel.
    FromEmpty,
    /// The same set again.
    NothingToDo,
    /// The set with another upstream for one forward.
    OneChanged,
    /// The same set again, by a newly started agent that must read whole tables.
    AfterRestart,
    /// Only printing and parsing both tables.
    ReadBack,
    /// Removing everything.
    Remove,
    /// By hand: `iptables-restore` of all rules into an empty table.
    ByHandFromEmpty,
    /// By hand: `iptables-restore` of all rules over the previous ones.
    ByHandAgain,
}

/// The duration of each step, one value for each round.
pub(crate) type Times = BTreeMap<Step, Vec<Duration>>;

/// Applies these forwards in this namespace. Returns how long it took.
pub(crate) fn apply(backend: Backend, netns: &Netns, forwards: &[Forward]) -> Duration {
    let translations = translations(forwards);
    within(netns, async || timed_apply(&kernel(backend), &translations).await)
}

/// Writes these forwards by hand in this namespace. Without forwards, it writes empty chains and activates connection
/// tracking.
pub(crate) fn write_by_hand(backend: Backend, netns: &Netns, forwards: &[Forward]) {
    // Connection tracking is active if any rule needs it, even if no packet reaches that rule.
    let aside = ":ASIDE - [0:0]\n-A ASIDE -p udp -j DNAT --to-destination 3.4.0.1\nCOMMIT\n";
    restore(backend, netns, &linear::table(forwards).replace("COMMIT\n", aside));
}

/// Measures one round: the rules of the operator in one namespace, and the rules written by hand in another.
pub(crate) fn round(backend: Backend, ours: &Netns, hand: &Netns, forwards: &[Forward], times: &mut Times) {
    let mut changed = forwards.to_vec();
    let middle = forwards.len() / 2;
    changed[middle].upstream.set_port(81);
    let (all, changed_set) = (translations(forwards), translations(&changed));
    let mut note = |step: Step, time: Duration| times.entry(step).or_default().push(time);

    if let Backend::Iptables(_) = backend {
        let started = Instant::now();
        let laid_out = Ruleset::of(&all, Connmark::default());
        note(Step::LayOut, started.elapsed());
        drop(laid_out);
    }
    let taken = within(ours, async || {
        let agent = kernel(backend);
        let mut taken = Vec::new();
        for (step, set) in [(Step::FromEmpty, &all), (Step::NothingToDo, &all), (Step::OneChanged, &changed_set)] {
            taken.push((step, timed_apply(&agent, set).await));
        }
        taken.push((Step::AfterRestart, timed_apply(&kernel(backend), &changed_set).await));
        if let Backend::Iptables(variant) = backend {
            let started = Instant::now();
            for table in Table::ALL {
                let text = must(Command::new(variant.save()).args(["-t", table.name()]));
                assert!(!SavedTable::parse(&text).chains.is_empty());
            }
            taken.push((Step::ReadBack, started.elapsed()));
        }
        taken.push((Step::Remove, timed_apply(&agent, &Translations::new()).await));
        taken
    });
    for (step, time) in taken {
        note(step, time);
    }
    note(Step::ByHandFromEmpty, restore(backend, hand, &linear::table(forwards)));
    note(Step::ByHandAgain, restore(backend, hand, &linear::table(&changed)));
    restore(backend, hand, &linear::table(&[]));
}

/// The number of rules and chains of iptables that the operator makes of these forwards.
pub(crate) fn size(forwards: &[Forward]) -> String {
    let laid_out = Ruleset::of(&translations(forwards), Connmark::default());
    let chains = Table::ALL.map(|table| laid_out.chains(table));
    let rules: usize = chains.iter().flat_map(|chains| chains.values()).map(Vec::len).sum();
    let chains: usize = chains.iter().map(|chains| chains.len()).sum();
    format!("{rules} rules, {chains} chains")
}

fn kernel(backend: Backend) -> Kernel {
    Kernel::new(backend, Forwarding::Leave)
}

async fn timed_apply(kernel: &Kernel, translations: &Translations) -> Duration {
    let desired = Desired { translations: translations.clone(), ..Desired::default() };
    let started = Instant::now();
    let applied = kernel.apply(&desired, &Translations::new(), Look::Changes).await;
    let taken = started.elapsed();
    assert!(applied.is_complete() && applied.rules.is_exact(), "read back: {applied:?}");
    taken
}

fn translations(forwards: &[Forward]) -> Translations {
    forwards.iter().map(translation).collect()
}

/// Runs `task` in a namespace. The programs that it starts run there too.
fn within<T: Send>(netns: &Netns, task: impl AsyncFnOnce() -> T + Send) -> T {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        runtime.block_on(task())
    })
}

fn restore(backend: Backend, netns: &Netns, text: &str) -> Duration {
    let variant = match backend {
        Backend::Iptables(variant) => variant,
        Backend::Nftables => Variant::Nft,
    };
    linear::restore(&mut netns.command(variant.restore()), text)
}

/// The translation that the plan makes of a forward.
fn translation(forward: &Forward) -> Translation {
    let port = |number| NonZeroU16::new(number).expect("no shape has port 0");
    let (first, last) = (forward.listen.port(), forward.listen.port() + forward.ports - 1);
    Translation {
        flows: FlowMatch {
            protocol: match forward.transport {
                Transport::Tcp => Protocol::Tcp,
                Transport::Udp => Protocol::Udp,
            },
            destination: (*forward.listen.ip()).into(),
            ports: PortRange::new(port(first), port(last)).expect("a range has ports"),
            source: Ipv4Net::new_assert(forward.network(), forward.prefix).into(),
            interface: None,
        },
        destination: Destination { address: (*forward.upstream.ip()).into(), ports: TargetPorts::One(forward.upstream.port()) },
        source: SourceNat::Address(forward.external.into()),
    }
}

impl Step {
    /// The same step with rules written by hand, if there is one.
    pub(crate) const fn by_hand(self) -> Option<Self> {
        match self {
            Self::FromEmpty => Some(Self::ByHandFromEmpty),
            Self::NothingToDo | Self::OneChanged | Self::AfterRestart => Some(Self::ByHandAgain),
            Self::LayOut | Self::ReadBack | Self::Remove | Self::ByHandFromEmpty | Self::ByHandAgain => None,
        }
    }
}

impl Step {
    /// Whether it is a step with rules written by hand.
    pub(crate) const fn is_by_hand(self) -> bool {
        matches!(self, Self::ByHandFromEmpty | Self::ByHandAgain)
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
