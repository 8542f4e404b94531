//! Adds up the traffic of the flows of forwards, from the counters of each flow at successive readings and at its end.
//!
//! Pure: reads no table. A flow is identified by its addresses, ports and id. The traffic that it had before it was first
//! seen, at the start or before a forward became its owner, is not counted for that forward. Later traffic is counted
//! exactly once.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::owners::{Finder, Lane, Owners};
use crate::dataplane::conntrack::flows::{Flow, Volume, Volumes};
use crate::dataplane::conntrack::table::Entry;
use crate::model::FlowMatch;

/// For how many readings a missing flow is remembered. A list may lack a flow while the kernel resizes the table.
const FORGIVEN: u32 = 2;

/// The additional traffic, by lane.
pub(crate) type More = BTreeMap<Arc<Lane>, Volumes>;

/// The traffic of the flows of forwards. Remembers each present flow, in about a hundred bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    hasher: RandomState,
    /// By a hash of the fields that identify a flow.
    flows: HashMap<u64, Known>,
    /// The owners at the last complete reading. A flow of theirs that is not remembered began after it.
    owners: Arc<Owners>,
    look: u32,
    more: More,
}

/// A flow of a forward.
#[derive(Debug)]
struct Known {
    lane: Arc<Lane>,
    volumes: Volumes,
    /// The reading at which it was last present.
    seen: u32,
}

impl Traffic {
    /// Takes over a flow that is present.
    pub fn seen(&mut self, flow: &Flow, finder: &Finder<'_>) {
        let key = self.key(&flow.entry);
        if let Some(known) = self.flows.get_mut(&key) {
            add(&mut self.more, &known.lane, since(known.volumes, flow.volumes));
            (known.volumes, known.seen) = (flow.volumes, self.look);
            if let Some((_, lane)) = finder.lane(&flow.entry).filter(|(_, lane)| **lane != known.lane) {
                known.lane = Arc::clone(lane);
            }
        } else if let Some((flows, lane)) = finder.lane(&flow.entry) {
            self.first(flows, lane, flow.volumes);
            self.flows.insert(key, Known { lane: Arc::clone(lane), volumes: flow.volumes, seen: self.look });
        }
    }

    /// Takes over a flow that ended.
    pub fn ended(&mut self, flow: &Flow, finder: &Finder<'_>) {
        let key = self.key(&flow.entry);
        if let Some(known) = self.flows.remove(&key) {
            add(&mut self.more, &known.lane, since(known.volumes, flow.volumes));
        } else if let Some((flows, lane)) = finder.lane(&flow.entry) {
            self.first(flows, lane, flow.volumes);
        }
    }

    /// Marks the end of a complete reading: all present flows and all flows that ended before were taken over. `owners` had
    /// them all.
    pub fn looked(&mut self, owners: Arc<Owners>) {
        let look = self.look;
        self.flows.retain(|_, known| look - known.seen < FORGIVEN);
        self.owners = owners;
        self.look += 1;
    }

    /// The traffic since the last call.
    #[must_use]
    pub(crate) fn more(&mut self) -> More {
        std::mem::take(&mut self.more)
    }

    /// A flow that was not remembered. All of its traffic counts if it must have begun after its owner was known.
    fn first(&mut self, flows: &FlowMatch, lane: &Arc<Lane>, volumes: Volumes) {
        if self.owners.lane(flows) == Some(lane) {
            add(&mut self.more, lane, volumes);
        }
    }

    fn key(&self, entry: &Entry) -> u64 {
        self.hasher.hash_one((entry.protocol, entry.original, entry.id))
    }
}

fn add(more: &mut More, lane: &Arc<Lane>, volumes: Volumes) {
    if volumes == Volumes::default() {
        return;
    }
    let sum = more.entry(Arc::clone(lane)).or_default();
    *sum = Volumes { original: plus(sum.original, volumes.original), reply: plus(sum.reply, volumes.reply) };
}

fn plus(a: Volume, b: Volume) -> Volume {
    Volume { packets: a.packets.saturating_add(b.packets), bytes: a.bytes.saturating_add(b.bytes) }
}

/// The traffic between two readings. If a counter is lower than before, it was reset to 0 in between, and its whole value
/// is new.
fn since(before: Volumes, now: Volumes) -> Volumes {
    let count = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now);
    let volume = |before: Volume, now: Volume| Volume {
        packets: count(before.packets, now.packets),
        bytes: count(before.bytes, now.bytes),
    };
    Volumes { original: volume(before.original, now.original), reply: volume(before.reply, now.reply) }
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::conntrack::Status;

    use super::*;
    use crate::dataplane::conntrack::table::Tuple;
    use crate::forward::{Direction, ForwardKey};
    use crate::model::{Destination, Protocol, SourceNat, TargetPorts, Translation};
    use crate::plan::{Acceptance, Verdict};

    /// A forward of this name from the client to port 80, if a name is given.
    fn owners(name: Option<&str>) -> Arc<Owners> {
        let translation = Translation {
            flows: FlowMatch {
                protocol: Protocol::Tcp,
                destination: "192.168.0.2".parse().unwrap(),
                ports: "80".parse().unwrap(),
                source: "1.1.1.1/32".parse().unwrap(),
                interface: None,
            },
            destination: Destination { address: "3.3.3.3".parse().unwrap(), ports: TargetPorts::One(80) },
            source: SourceNat::Masquerade,
        };
        let verdict = |name: &str| {
            let key = ForwardKey::new("a", name);
            let verdict = Verdict::new(None, 1, Acceptance::Accepted, None);
            (key, Box::new(Verdict { translations: vec![translation.clone()], ..verdict }))
        };
        Arc::new(Owners::of(&name.into_iter().map(verdict).collect()))
    }

    fn flow(source_port: u16, id: u32, bytes: u64) -> Flow {
        let [client, listen, upstream, external] =
            ["1.1.1.1", "192.168.0.2", "3.3.3.3", "2.2.2.2"].map(|text| text.parse().unwrap());
        Flow {
            entry: Entry {
                protocol: Protocol::Tcp,
                original: Tuple { source: client, destination: listen, source_port, destination_port: 80 },
                reply: Tuple { source: upstream, destination: external, source_port: 80, destination_port: source_port },
                status: Status::DstNat,
                id: Some(id),
                mark: 0,
            },
            volumes: Volumes { original: Volume { packets: bytes / 10, bytes }, reply: Volume { packets: 1, bytes: 1 } },
        }
    }

    /// One reading with these present flows and these ended flows. Returns the additional traffic to the upstream, by
    /// forward.
    fn look(traffic: &mut Traffic, owners: &Arc<Owners>, there: &[Flow], ended: &[Flow]) -> Vec<(String, u64)> {
        let finder = Finder::new(owners);
        for flow in there {
            traffic.seen(flow, &finder);
        }
        for flow in ended {
            traffic.ended(flow, &finder);
        }
        traffic.looked(Arc::clone(owners));
        told(traffic)
    }

    fn told(traffic: &mut Traffic) -> Vec<(String, u64)> {
        traffic.more().into_iter().map(|(lane, volumes)| (lane.forward.name.clone(), volumes.original.bytes)).collect()
    }

    fn of(name: &str, bytes: u64) -> Vec<(String, u64)> {
        vec![(name.to_owned(), bytes)]
    }

    #[test]
    fn what_flows_carried_counts_once_whether_they_live_or_end() {
        let (mut traffic, owners) = (Traffic::default(), owners(Some("x")));
        look(&mut traffic, &owners, &[], &[]);
        assert_eq!(
            look(&mut traffic, &owners, &[flow(1, 1, 100)], &[flow(2, 2, 70)]),
            of("x", 170),
            "one flow was never seen in a reading"
        );
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 1, 130)], &[]), of("x", 30));
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 1, 130)], &[]), []);
        assert_eq!(look(&mut traffic, &owners, &[], &[flow(1, 1, 150)]), of("x", 20));
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 9, 40)], &[]), of("x", 40), "another flow with the same ports");
    }

    #[test]
    fn what_was_carried_before_the_start_is_not_counted() {
        let (mut traffic, owners) = (Traffic::default(), owners(Some("x")));
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 1, 5_000)], &[flow(2, 2, 9_000)]), []);
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 1, 5_010)], &[]), of("x", 10));
    }

    #[test]
    fn what_was_carried_before_a_forward_owned_it_is_not_that_forwards() {
        let mut traffic = Traffic::default();
        look(&mut traffic, &owners(None), &[flow(1, 1, 5_000)], &[]);
        assert_eq!(look(&mut traffic, &owners(Some("x")), &[flow(1, 1, 6_000)], &[]), []);
        assert_eq!(look(&mut traffic, &owners(Some("x")), &[flow(1, 1, 6_100)], &[]), of("x", 100));
        assert_eq!(look(&mut traffic, &owners(Some("y")), &[flow(1, 1, 6_130)], &[]), of("x", 30));
        assert_eq!(look(&mut traffic, &owners(Some("y")), &[flow(1, 1, 6_150)], &[]), of("y", 20));
        assert_eq!(
            look(&mut traffic, &owners(None), &[], &[flow(1, 1, 6_160)]),
            of("y", 10),
            "the flow was cut together with its forward"
        );
    }

    #[test]
    fn a_flow_that_a_list_lacks_is_not_counted_again_and_one_that_is_gone_is_forgotten() {
        let (mut traffic, owners) = (Traffic::default(), owners(Some("x")));
        look(&mut traffic, &owners, &[], &[]);
        look(&mut traffic, &owners, &[flow(1, 1, 100)], &[]);
        look(&mut traffic, &owners, &[], &[]);
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 1, 110)], &[]), of("x", 10));
        look(&mut traffic, &owners, &[], &[]);
        look(&mut traffic, &owners, &[], &[]);
        assert_eq!(traffic.flows.len(), 0);
    }

    #[test]
    fn counts_that_somebody_set_to_nothing_are_added_and_never_taken_away() {
        let (mut traffic, owners) = (Traffic::default(), owners(Some("x")));
        look(&mut traffic, &owners, &[], &[]);
        look(&mut traffic, &owners, &[flow(1, 1, 1_000)], &[]);
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 1, 40)], &[]), of("x", 40));
        assert_eq!(look(&mut traffic, &owners, &[flow(1, 1, 50)], &[]), of("x", 10));
    }

    #[test]
    fn flows_of_nobody_are_not_remembered() {
        let (mut traffic, owners) = (Traffic::default(), owners(Some("x")));
        let mut foreign = flow(1, 1, 100);
        foreign.entry.original.destination_port = 81;
        assert_eq!(look(&mut traffic, &owners, &[foreign], &[]), []);
        assert_eq!(traffic.flows.len(), 0);
        assert_eq!(owners.lanes().map(|lane| lane.direction).collect::<Vec<_>>(), [Direction::Forward]);
    }
}
