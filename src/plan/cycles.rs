//! Forwards that lead to each other in a circle. One packet would pass them again and again until its time to live ends, and
//! leave a conntrack entry on each round.
//!
//! A forward leads to another one if the packets that leave it have the listen address, the protocol and a listen port of the
//! other as destination, and a source that the other admits. Looks at all forwards, also at those that other nodes carry: each
//! node then comes to the same result. Which node carries a forward, or refuses it, is not known for other nodes, so every
//! enabled forward counts. A chain of forwards without a circle is fine.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::Candidate;
use super::index::PortIndex;
use super::node_rules::refusal;
use super::notes::MOST;
use super::verdict::{NodeRefusal, NodeRefusalReason};
use crate::forward::{Forward, ForwardKey, Rewrite};
use crate::model::{PortRange, Protocol, SourceNat, TargetPorts};

/// How many port entries are looked at, in one plan, to follow the packets of the forwards of one namespace. Ordinary forwards
/// need none: nothing listens on their upstreams.
const MOST_STEPS: usize = 200_000;

/// The forwards of `candidates` that are refused because they would close a circle: of each circle the one with the lowest
/// priority, and of several the youngest. They claim nothing here either.
///
/// `priority` is `None` for forwards that no node carries.
pub(super) fn find<'a>(
    candidates: &'a [Candidate],
    priority: impl Fn(&Forward) -> Option<i32>,
) -> BTreeMap<&'a ForwardKey, NodeRefusal> {
    let enabled = |candidate: &&'a Candidate| candidate.forward.as_ref().is_ok_and(Forward::is_in_force);
    let mut enabled: Vec<&Candidate> = candidates.iter().filter(enabled).collect();
    enabled.sort_by_key(|candidate| (candidate.created, &candidate.key));
    let forwards = || enabled.iter().filter_map(|candidate| candidate.forward.as_ref().ok());
    let destinations: BTreeSet<IpAddr> = forwards().flat_map(leads_to).collect();
    let mut circles = Circles { destinations, listening: PortIndex::default(), steps: BTreeMap::new() };
    let concerned: Vec<&Forward> = forwards().filter(|forward| circles.concern(forward)).collect();
    let mut concerned: Vec<_> = concerned.into_iter().filter_map(|forward| Some((priority(forward)?, forward))).collect();
    // Those with one priority keep their order by age.
    concerned.sort_by_key(|(priority, _)| Reverse(*priority));
    concerned.into_iter().filter_map(|(_, forward)| Some((&forward.key, circles.add(forward).err()?))).collect()
}

/// The addresses that `forward` sends packets on to.
fn leads_to(forward: &Forward) -> impl Iterator<Item = IpAddr> {
    let client = forward.clients.first().filter(|_| !forward.reverse.is_empty()).map(ipnet::IpNet::addr);
    [Some(forward.upstream), client].into_iter().flatten()
}

/// The forwards so far, which form no circle.
struct Circles<'a> {
    /// Where forwards lead. A forward that listens elsewhere takes no packet of another one.
    destinations: BTreeSet<IpAddr>,
    /// What forwards do with packets to these destinations.
    listening: PortIndex<(&'a ForwardKey, Rewrite<'a>)>,
    /// What was looked at so far, by namespace.
    steps: BTreeMap<&'a str, usize>,
}

/// Packets that left a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packets {
    protocol: Protocol,
    /// `None`: the address of whatever interface they leave by.
    source: Option<IpAddr>,
    destination: IpAddr,
    ports: PortRange,
}

impl Packets {
    /// What `rewrite` makes of packets to `ports`, which are a part of its ports.
    fn of(rewrite: &Rewrite<'_>, ports: PortRange) -> Self {
        let source = match rewrite.source {
            SourceNat::Address(address) => Some(address),
            SourceNat::Masquerade => None,
        };
        let ports = leaving(rewrite.destination.ports, ports);
        Self { protocol: rewrite.protocol, source, destination: rewrite.destination.address, ports }
    }

    /// The ports of these packets that `rewrite` takes.
    fn taken_by(&self, rewrite: &Rewrite<'_>) -> Option<PortRange> {
        let concerned = (self.protocol, self.destination) == (rewrite.protocol, rewrite.address)
            && self.source.is_none_or(|source| rewrite.admits(IpNet::from(source)));
        self.ports.intersection(rewrite.ports).filter(|_| concerned)
    }
}

/// The target ports of packets to `ports`.
fn leaving(target: TargetPorts, ports: PortRange) -> PortRange {
    match target.part(ports) {
        TargetPorts::Same => ports,
        TargetPorts::One(port) => NonZeroU16::new(port).map_or(ports, PortRange::single),
        TargetPorts::Shifted(shift) => shift.to(),
    }
}

/// Packets, the forward that they left, and the place of the packets from which it made them.
type Trail<'a> = (Packets, &'a ForwardKey, Option<usize>);

impl<'a> Circles<'a> {
    /// Whether `forward` may be a part of a circle: forwards lead to one of its listen addresses.
    fn concern(&self, forward: &Forward) -> bool {
        let own = [Some(forward.internal.address), forward.external];
        own.into_iter().flatten().any(|address| self.destinations.contains(&address))
    }

    /// Adds `forward`, unless its packets come back to it through the forwards so far.
    ///
    /// # Errors
    /// When they do, or when that is too costly to find out.
    fn add(&mut self, forward: &'a Forward) -> Result<(), NodeRefusal> {
        let own: Vec<Rewrite<'_>> = forward.rewrites().collect();
        self.follow(forward, &own)?;
        for rewrite in own.into_iter().filter(|rewrite| self.destinations.contains(&rewrite.address)) {
            self.listening.insert(rewrite.protocol, rewrite.address, rewrite.ports, (&forward.key, rewrite));
        }
        Ok(())
    }

    fn follow(&mut self, forward: &'a Forward, own: &[Rewrite<'a>]) -> Result<(), NodeRefusal> {
        let mut trails: Vec<Trail<'a>> =
            own.iter().map(|rewrite| (Packets::of(rewrite, rewrite.ports), &forward.key, None)).collect();
        let mut seen: BTreeSet<Packets> = trails.iter().map(|(packets, _, _)| *packets).collect();
        let steps = self.steps.entry(&forward.key.namespace).or_default();
        *steps += own.len();
        let mut place = 0;
        while let Some((packets, _, _)) = trails.get(place).copied() {
            if let Some(ports) = own.iter().find_map(|rewrite| packets.taken_by(rewrite)) {
                return Err(circle(forward, &Packets { ports, ..packets }, &passed(&trails, place)));
            }
            for (next, rewrite) in self.listening.overlapping(packets.protocol, packets.destination, packets.ports) {
                *steps += 1;
                if *steps > MOST_STEPS {
                    return Err(unknown(forward));
                }
                let Some(ports) = packets.taken_by(rewrite) else { continue };
                let left = Packets::of(rewrite, ports);
                if seen.insert(left) {
                    trails.push((left, *next, Some(place)));
                }
            }
            place += 1;
        }
        if *steps > MOST_STEPS { Err(unknown(forward)) } else { Ok(()) }
    }
}

/// The forwards that the packets at this place passed, after the one that they come from.
fn passed<'a>(trails: &[Trail<'a>], place: usize) -> Vec<&'a ForwardKey> {
    let before = |(_, _, before): &&Trail<'a>| before.and_then(|before| trails.get(before));
    let way = std::iter::successors(trails.get(place), before);
    let mut keys: Vec<&ForwardKey> = way.filter(|(_, _, before)| before.is_some()).map(|(_, key, _)| *key).collect();
    keys.reverse();
    keys
}

fn circle(forward: &Forward, packets: &Packets, passed: &[&ForwardKey]) -> NodeRefusal {
    let own = |key: &&&ForwardKey| key.namespace == forward.key.namespace;
    let mut names: Vec<String> = passed.iter().filter(own).take(MOST).map(ToString::to_string).collect();
    match passed.len() - names.len() {
        0 => {}
        1 => names.push("one more forward".to_owned()),
        more => names.push(format!("{more} more forwards")),
    }
    let through = if names.is_empty() { String::new() } else { format!(" through {}", names.join(", ")) };
    let (protocol, destination) = (packets.protocol, packets.destination);
    let message = format!(
        "packets of this forward would come back to it{through}, to {protocol} {} on {destination}, and circulate; all enabled forwards count, also those of other nodes; change the upstream, the clients or the ports, or delete one of the forwards",
        packets.ports
    );
    refusal(NodeRefusalReason::ForwardLoop, message)
}

fn unknown(forward: &Forward) -> NodeRefusal {
    let namespace = &forward.key.namespace;
    let message = format!(
        "whether packets of this forward would come back to it is not known: so many forwards listen on the addresses that the forwards of namespace {namespace} lead to that no more of them are looked at; let the forward lead to the server itself, or delete forwards that are not needed"
    );
    refusal(NodeRefusalReason::ForwardLoop, message)
}
