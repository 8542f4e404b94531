//! The series of single forwards: whether each is ready, and its traffic. No counter falls while the agent runs. The series
//! of a deleted forward are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::labels::Towards;
use super::owners::{Lane, Owners};
use super::ready::{self, Ready};
use super::shares;
use crate::dataplane::conntrack::flows::{Accounting, Volume, Volumes};
use crate::forward::{Direction, ForwardKey};
use crate::model::{FlowMatch, Protocol};
use crate::plan::Verdicts;
use crate::status::Judgements;

/// What is counted for each forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing.
    Off,
    /// Connections, by the counters of the operator's rules.
    Connections,
    /// Connections, and also packets and bytes, by conntrack accounting.
    Traffic,
}

/// Which series exist for single forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerForward {
    /// What is counted.
    pub detail: Detail,
    /// The number of forwards that are shown at most. The namespaces share it.
    pub limit: usize,
}

/// The counters of all forwards.
#[derive(Debug)]
pub(super) struct Forwards {
    options: PerForward,
    ready: Ready,
    sums: Mutex<Sums>,
    /// The forwards that had series at the last scrape.
    shown: Mutex<BTreeSet<ForwardKey>>,
}

#[derive(Debug)]
struct Sums {
    accounting: Accounting,
    forwards: BTreeMap<ForwardKey, Lanes>,
}

/// The lanes of one forward, in order: a few.
type Lanes = Vec<((Protocol, Direction), Carried)>;

#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    connections: u64,
    volumes: Volumes,
}

impl Forwards {
    pub(super) fn new(options: PerForward) -> Self {
        Self {
            options,
            ready: Ready::default(),
            sums: Mutex::new(Sums { accounting: Accounting::Off, forwards: BTreeMap::new() }),
            shown: Mutex::default(),
        }
    }

    pub(super) const fn options(&self) -> PerForward {
        self.options
    }

    /// Takes over the result of a sync for each forward.
    pub(super) fn judged(&self, judgements: &Judgements) {
        self.ready.judged(judgements);
    }

    /// The result of the last sync for each forward.
    pub(super) fn judgements(&self) -> Judgements {
        self.ready.judgements()
    }

    /// Adds the lanes of these forwards, starting at 0. Removes the lanes of those that have no verdict any more.
    pub(super) fn own<'a>(&self, changed: impl IntoIterator<Item = &'a ForwardKey>, verdicts: &Verdicts) {
        let mut sums = self.sums();
        for forward in changed {
            let Some(verdict) = verdicts.get(forward) else {
                sums.forwards.remove(forward);
                continue;
            };
            for (direction, translation) in verdict.directed() {
                let lanes = sums.forwards.entry(forward.clone()).or_default();
                let lane = (translation.flows.protocol, direction);
                if let Err(place) = lanes.binary_search_by_key(&lane, |(lane, _)| *lane) {
                    lanes.insert(place, (lane, Carried::default()));
                }
            }
        }
    }

    pub(super) fn connected(&self, owners: &Owners, met: &[(FlowMatch, u64)]) {
        let mut sums = self.sums();
        for (flows, count) in met {
            if let Some(carried) = owners.lane(flows).and_then(|lane| sums.lane(lane)) {
                carried.connections = carried.connections.saturating_add(*count);
            }
        }
    }

    pub(super) fn carried<'a>(&self, accounting: Accounting, more: impl IntoIterator<Item = (&'a Lane, Volumes)>) {
        let mut sums = self.sums();
        sums.accounting = accounting;
        for (lane, volumes) in more {
            if let Some(carried) = sums.lane(lane) {
                add(&mut carried.volumes, volumes);
            }
        }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sums {
    fn lane(&mut self, Lane { forward, protocol, direction }: &Lane) -> Option<&mut Carried> {
        let lanes = self.forwards.get_mut(forward)?;
        lanes.iter_mut().find(|(lane, _)| *lane == (*protocol, *direction)).map(|(_, carried)| carried)
    }

    /// All lanes of the forwards in `shown`.
    fn of<'a>(
        &'a self,
        shown: &'a BTreeSet<ForwardKey>,
    ) -> impl Iterator<Item = (&'a ForwardKey, Protocol, Direction, &'a Carried)> {
        self.forwards.iter().filter(|(forward, _)| shown.contains(*forward)).flat_map(|(forward, lanes)| {
            lanes.iter().map(move |((protocol, direction), carried)| (forward, *protocol, *direction, carried))
        })
    }

    fn connections(&self, shown: &BTreeSet<ForwardKey>, mut metric: MetricEncoder<'_>) -> fmt::Result {
        for (forward, protocol, direction, carried) in self.of(shown) {
            counter(&mut metric, labels(forward, protocol, direction), carried.connections)?;
        }
        Ok(())
    }

    fn traffic(&self, shown: &BTreeSet<ForwardKey>, mut metric: MetricEncoder<'_>, of: impl Fn(Volume) -> u64) -> fmt::Result {
        for (forward, protocol, direction, carried) in self.of(shown) {
            let [namespace, name, protocol, opener] = labels(forward, protocol, direction);
            for towards in Towards::ALL {
                let labels = [namespace, name, protocol, opener, ("towards", towards.as_str())];
                counter(&mut metric, labels, of(went(&carried.volumes, direction, towards)))?;
            }
        }
        Ok(())
    }
}

fn add(sums: &mut Volumes, more: Volumes) {
    for (sum, more) in [(&mut sums.original, more.original), (&mut sums.reply, more.reply)] {
        sum.packets = sum.packets.saturating_add(more.packets);
        sum.bytes = sum.bytes.saturating_add(more.bytes);
    }
}

/// The volume in one direction.
const fn went(volumes: &Volumes, direction: Direction, towards: Towards) -> Volume {
    match (direction, towards) {
        (Direction::Forward, Towards::Upstream) | (Direction::Reverse, Towards::Client) => volumes.original,
        (Direction::Forward, Towards::Client) | (Direction::Reverse, Towards::Upstream) => volumes.reply,
    }
}

fn labels(forward: &ForwardKey, protocol: Protocol, direction: Direction) -> [(&str, &str); 4] {
    let protocol = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let direction = match direction {
        Direction::Forward => "forward",
        Direction::Reverse => "reverse",
    };
    [("namespace", &forward.namespace), ("name", &forward.name), ("protocol", protocol), ("direction", direction)]
}

impl Collector for Forwards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let PerForward { detail, limit } = self.options;
        let (ready, sums) = (self.ready.forwards(), self.sums());
        let present: BTreeSet<&ForwardKey> = ready.keys().chain(sums.forwards.keys()).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = shares::shown(&present, &shown, if detail == Detail::Off { 0 } else { limit });
        let shown = &*shown;
        let omitted = present.len() - shown.len();
        gauge(&mut encoder, "forward_series_omitted", OMITTED, i64::try_from(omitted).unwrap_or(i64::MAX))?;
        if detail == Detail::Off {
            return Ok(());
        }
        if ready.keys().any(|forward| shown.contains(forward)) {
            ready::encode(&ready, shown, &mut encoder.encode_descriptor("forward_ready", READY, None, MetricType::Gauge)?)?;
        }
        let any = sums.of(shown).next().is_some();
        if any {
            sums.connections(shown, encoder.encode_descriptor("forward_connections", CONNECTIONS, None, MetricType::Counter)?)?;
        }
        if detail < Detail::Traffic {
            return Ok(());
        }
        let counts = match sums.accounting {
            Accounting::On => 1,
            Accounting::Off => 0,
        };
        gauge(&mut encoder, "conntrack_accounting", ACCOUNTING, counts)?;
        if any && sums.accounting == Accounting::On {
            let metric = encoder.encode_descriptor("forward_packets", PACKETS, None, MetricType::Counter)?;
            sums.traffic(shown, metric, |volume| volume.packets)?;
            let unit = Unit::Bytes;
            let metric = encoder.encode_descriptor("forward", BYTES, Some(&unit), MetricType::Counter)?;
            sums.traffic(shown, metric, |volume| volume.bytes)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter<const N: usize>(metric: &mut MetricEncoder<'_>, labels: [(&str, &str); N], value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(metric.encode_family(&labels)?)
}

const OMITTED: &str = "Forwards without their own series, because of --forward-metrics-limit or --forward-metrics none.";
const READY: &str = "Whether a forward is ready on this node: 1 or 0. The role is None on a node that is not a candidate for it. A disabled forward has no series.";
const CONNECTIONS: &str =
    "Connections and UDP flows that matched the rules of a forward on this node, including those that did not get through.";
const ACCOUNTING: &str = "Whether the kernel counts packets and bytes of connections (net.netfilter.nf_conntrack_acct): 1 or 0.";
const PACKETS: &str = "Packets of the connections of a forward; absent if the kernel does not count them.";
const BYTES: &str =
    "Bytes of the connections of a forward, including the headers from IP upwards; absent if the kernel does not count them.";
