//! Properties of the layout for every set of translations, checked by sending simulated packets through the chains.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use super::*;
use crate::dataplane::iptables::chain::ChainName;
use crate::dataplane::iptables::rule::{MarkMatch, Matches, Target};
use crate::model::{
    Connmark, Destination, FlowMatch, InterfaceName, PortRange, Protocol, Shift, SourceNat, TargetPorts, Translation,
};

/// A first packet, as the three stages see it.
#[derive(Clone, Debug)]
pub(in crate::dataplane) struct Packet {
    pub(in crate::dataplane) protocol: Protocol,
    pub(in crate::dataplane) source: IpAddr,
    /// The original destination.
    pub(in crate::dataplane) original: (IpAddr, u16),
    /// The destination at this stage.
    pub(in crate::dataplane) destination: IpAddr,
    pub(in crate::dataplane) interface: InterfaceName,
    /// The connection mark at this stage.
    pub(in crate::dataplane) mark: u32,
}

/// The mark of a flow that another program has marked. Its bits stay as they are.
const FOREIGN: u32 = 0x4001;
/// The same, with the operator's bit.
const OURS: u32 = FOREIGN | 0x1000;

fn matched(stage: Stage, matches: &Matches, packet: &Packet) -> bool {
    let within = |network: Option<IpNet>, address: &IpAddr| network.is_none_or(|network| network.contains(address));
    let (address, port) = packet.original;
    within(matches.source, &packet.source)
        && within(matches.destination, &packet.destination)
        && matches.interface.as_ref().is_none_or(|interface| stage == Stage::Prerouting && *interface == packet.interface)
        && matches.protocol.is_none_or(|protocol| protocol == packet.protocol)
        && matches.ports.is_none_or(|ports| ports.contains(port))
        && matches.mark.is_none_or(|mark| match mark {
            MarkMatch::Set(bit) => bit.is_set_in(packet.mark),
            MarkMatch::Unset(bit) => !bit.is_set_in(packet.mark),
        })
        && matches.original.as_ref().is_none_or(|original| {
            original.protocol == packet.protocol
                && within(original.destination, &address)
                && original.ports.is_none_or(|ports| ports.contains(port))
        })
}

/// What happens to a packet at one stage.
#[derive(Debug)]
struct Walk {
    /// Every verdict that the packet matches. The first one is the one that counts.
    met: Vec<Target>,
    /// The connection mark at the first verdict; without a verdict, at the end.
    mark: u32,
    /// The number of rules that the packet is compared with.
    steps: usize,
}

impl Walk {
    fn go(&mut self, stage: Stage, chains: &Chains, chain: &ChainName, packet: &mut Packet) {
        for rule in &chains[chain] {
            self.steps += 1;
            if !matched(stage, &rule.matches, packet) {
                continue;
            }
            match &rule.target {
                Target::Jump(next) => self.go(stage, chains, next, packet),
                Target::Return => return,
                Target::Mark(bit) => packet.mark |= bit.bit(),
                Target::Unmark(bit) => packet.mark &= !bit.bit(),
                verdict => self.met.push(verdict.clone()),
            }
            if self.met.is_empty() {
                self.mark = packet.mark;
            }
        }
    }
}

fn walk(stage: Stage, chains: &Chains, packet: &Packet) -> Walk {
    let mut walk = Walk { met: Vec::new(), mark: packet.mark, steps: 0 };
    if chains.contains_key(&stage.root()) {
        walk.go(stage, chains, &stage.root(), &mut packet.clone());
    }
    walk
}

pub(in crate::dataplane) fn matches_packet(translation: &Translation, packet: &Packet) -> bool {
    let flows = &translation.flows;
    flows.protocol == packet.protocol
        && flows.destination == packet.original.0
        && flows.ports.contains(packet.original.1)
        && flows.source.contains(&packet.source)
        && flows.interface.as_ref().is_none_or(|interface| *interface == packet.interface)
}

fn conflict(a: &Translation, b: &Translation) -> bool {
    let (left, right) = (&a.flows, &b.flows);
    let alike = left.protocol == right.protocol
        && left.destination == right.destination
        && left.ports.overlaps(right.ports)
        && (left.source.contains(&right.source) || right.source.contains(&left.source));
    let same_entry = left.interface.is_none() || right.interface.is_none() || left.interface == right.interface;
    alike && (same_entry || (a.destination.address == b.destination.address && a.source != b.source))
}

/// The translations of `set`, in order, that no earlier one conflicts with.
pub(in crate::dataplane) fn settled(set: Vec<Translation>) -> Translations {
    let mut kept: Vec<Translation> = Vec::new();
    for translation in set {
        if !kept.iter().any(|other| conflict(other, &translation)) {
            kept.push(translation);
        }
    }
    kept.into_iter().collect()
}

pub(in crate::dataplane) fn packets_of(translation: &Translation) -> Vec<Packet> {
    let flows = &translation.flows;
    let interface = flows.interface.unwrap_or_else(|| "eth9".parse().unwrap());
    let mut packets = Vec::new();
    for source in [flows.source.network(), flows.source.broadcast()] {
        for port in [flows.ports.first(), flows.ports.last(), flows.ports.last().wrapping_add(1).max(1)] {
            let original = (flows.destination, port);
            packets.push(Packet {
                protocol: flows.protocol,
                source,
                original,
                destination: flows.destination,
                interface,
                mark: FOREIGN,
            });
        }
    }
    packets
}

fn check_shape(table: &Chains, roots: &[ChainName]) {
    let mut referenced: BTreeSet<&ChainName> = roots.iter().collect();
    for (name, rules) in table {
        let jumps = rules.iter().filter(|rule| matches!(rule.target, Target::Jump(_))).count();
        let verdicts = rules.iter().filter(|rule| rule.is_verdict()).count();
        assert!(jumps <= FANOUT && verdicts <= FANOUT, "{name}: {verdicts} verdicts, {jumps} jumps");
        assert!(rules.len() - verdicts - jumps <= 2, "{name}: {rules:?}");
        for rule in rules {
            if let Target::Jump(child) = &rule.target {
                assert!(table.contains_key(child), "{name} jumps to {child}, which is not there");
                assert!(name < child, "{name} sorts behind its child {child}");
                assert!(referenced.insert(child), "{child} is jumped to twice");
            }
        }
    }
    for name in table.keys() {
        assert!(referenced.contains(name), "nothing jumps to {name}");
    }
}

fn check(translations: &Translations) {
    let ruleset = Ruleset::of(translations, Connmark::default());
    check_shape(ruleset.chains(Table::Nat), &[Stage::Prerouting.root(), Stage::Postrouting.root()]);
    check_shape(ruleset.chains(Table::Filter), &[Stage::Forward.root(), Stage::Input.root()]);
    for packet in translations.iter().flat_map(packets_of) {
        let fitting: Vec<&Translation> = translations.iter().filter(|translation| matches_packet(translation, &packet)).collect();
        let pre = walk(Stage::Prerouting, ruleset.chains(Table::Nat), &packet);
        let wanted: Vec<Target> = fitting.iter().map(|t| Target::Dnat(t.destination)).collect();
        assert_eq!(pre.met, wanted, "PREROUTING of {packet:?}");
        assert_eq!(pre.mark, if fitting.is_empty() { FOREIGN } else { OURS }, "PREROUTING of {packet:?}");
        if let [translation] = fitting.as_slice() {
            let packet = Packet { destination: translation.destination.address, mark: pre.mark, ..packet.clone() };
            let post = walk(Stage::Postrouting, ruleset.chains(Table::Nat), &packet);
            let wanted = match translation.source {
                SourceNat::Address(address) => Target::Snat(address),
                SourceNat::Masquerade => Target::Masquerade,
            };
            assert!(
                !post.met.is_empty() && post.met.iter().all(|target| *target == wanted),
                "POSTROUTING of {packet:?}: {post:?}, not {wanted:?}"
            );
            assert_eq!(
                walk(Stage::Forward, ruleset.chains(Table::Filter), &packet).met,
                [Target::Accept],
                "FORWARD of {packet:?}"
            );
        }
        // A flow that another program translates, at whatever address, port and client.
        for stage in [Stage::Postrouting, Stage::Forward] {
            let foreign = Packet { mark: FOREIGN, ..packet.clone() };
            assert_eq!(walk(stage, ruleset.chains(stage.table()), &foreign).met, [], "{stage:?} of {foreign:?}");
        }
    }
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(number))
}

pub(in crate::dataplane) fn translation(
    protocol: Protocol,
    listen: u32,
    ports: (u16, u16),
    client: (u32, u8),
    interface: Option<u8>,
    external: Option<u32>,
    upstream: u32,
) -> Translation {
    let port = |number| NonZeroU16::new(number).unwrap();
    let (low, high) = (ports.0.min(ports.1), ports.0.max(ports.1));
    let flows = FlowMatch {
        protocol,
        destination: address(listen),
        ports: PortRange::new(port(low), port(high)).unwrap(),
        source: IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(client.0), client.1).unwrap().trunc()),
        interface: interface.map(|number| format!("eth{number}").parse().unwrap()),
    };
    let source = external.map_or(SourceNat::Masquerade, |external| SourceNat::Address(address(external)));
    // Ranges in the lower half move to the upper one, the others keep each port.
    let range = |first, last| PortRange::new(port(first), port(last)).unwrap();
    let target = match high {
        _ if low == high => TargetPorts::One(low),
        0..0x8000 => TargetPorts::Shifted(Shift::new(range(low, high), range(low + 0x7fff, high + 0x7fff)).unwrap()),
        0x8000.. => TargetPorts::Same,
    };
    Translation { flows, destination: Destination { address: address(upstream), ports: target }, source }
}

prop_compose! {
    pub(in crate::dataplane) fn any_translation()(
        protocol in prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)],
        listen in prop_oneof![4 => 0xc0a8_0002u32..0xc0a8_0006, 1 => any::<u32>()],
        first in prop_oneof![3 => 1u16..40, 2 => 4080u16..4110, 1 => 1u16..=65535],
        width in prop_oneof![6 => Just(0u16), 2 => 1u16..40, 1 => any::<u16>()],
        client in prop_oneof![6 => (0x0a00_0000u32..0x0a00_0100, Just(32u8)), 2 => (any::<u32>(), 8u8..=32), 1 => (0x0a00_0000u32..0x0aff_ffff, 8u8..=32)],
        interface in prop_oneof![6 => Just(None), 1 => (0u8..40).prop_map(Some)],
        external in prop_oneof![1 => Just(None), 6 => (0x0202_0202u32..0x0202_0205).prop_map(Some)],
        upstream in 0x0303_0303u32..0x0303_0306,
    ) -> Translation {
        translation(protocol, listen, (first, first.saturating_add(width)), client, interface, external, upstream)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_packet_meets_the_rule_that_is_meant_for_it(set in prop::collection::vec(any_translation(), 0..200)) {
        check(&settled(set));
    }
}

/// The translations of which some lead to another upstream now, or also to another port or with another source.
pub(in crate::dataplane) fn redirected(set: &Translations, others: &[(usize, u32, u8)]) -> Translations {
    let mut all: Vec<Translation> = set.iter().cloned().collect();
    let count = all.len().max(1);
    for (place, upstream, more) in others {
        let Some(translation) = all.get_mut(place % count) else { continue };
        translation.destination.address = address(*upstream);
        match more {
            0 => translation.destination.ports = TargetPorts::One(9),
            1 => translation.source = SourceNat::Address(address(0x0202_0209)),
            _ => {}
        }
    }
    all.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_amended_layout_is_the_layout_of_the_whole_set(
        set in prop::collection::vec(any_translation(), 0..120),
        upstreams in 1u32..60,
        others in prop::collection::vec((any::<usize>(), 0x0303_0303u32..0x0303_0330, 0u8..9), 0..4),
        more in prop::option::weighted(0.2, any_translation()),
    ) {
        let spread = |(number, mut translation): (u32, Translation)| {
            translation.destination.address = address(0x0303_0303 + number % upstreams);
            translation
        };
        let before = settled((0..).zip(set.iter().cloned()).map(spread).collect());
        let now = settled(redirected(&before, &others).into_iter().chain(more).collect());
        let ruleset = Ruleset::of(&before, Connmark::default()).amended(&before, &now);
        prop_assert_eq!(&ruleset, &Ruleset::of(&now, Connmark::default()));
        prop_assert_eq!(ruleset.amended(&now, &before), Ruleset::of(&before, Connmark::default()));
    }
}

#[test]
fn no_forward_needs_no_chain() {
    assert!(Ruleset::of(&Translations::new(), Connmark::default()).is_empty());
}

#[test]
fn a_thousand_clients_on_one_port_with_alternating_externals_stay_exact() {
    let set = (0..1000).map(|n| {
        translation(Protocol::Tcp, 0xc0a8_0002, (80, 80), (0x0a00_0000 + n, 32), None, Some(0x0202_0202 + n % 2), 0x0303_0303)
    });
    check(&set.collect());
}

#[test]
fn clients_that_no_child_covers_and_many_interfaces_stay_within_the_fanout() {
    let clients = |n: u32| (n << 23, 9u8);
    let mut set: Vec<Translation> =
        (0..200).map(|n| translation(Protocol::Tcp, 1, (10, 30), clients(n), None, Some(7), 9)).collect();
    set.extend(
        (0..40)
            .map(|n| translation(Protocol::Udp, 1, (10, 30), (0x0a00_0001, 32), Some(n), Some(u32::from(n)), 100 + u32::from(n))),
    );
    check(&settled(set));
}

#[test]
fn flows_with_one_external_are_one_rule_by_protocol_address_ports_or_client() {
    let post = |set: Translations| {
        let ruleset = Ruleset::of(&set, Connmark::default());
        ruleset.chains(Table::Nat)[&Stage::Postrouting.root()]
            .iter()
            .map(|rule| rule.text(crate::dataplane::iptables::Variant::Nft))
            .collect::<Vec<_>>()
    };
    let by_port = (80..96).map(|port| {
        translation(Protocol::Tcp, 0xc0a8_0002, (port, port), (0x0a00_0000 + u32::from(port), 32), None, Some(0x0202_0202), 9)
    });
    let skip = "-m connmark ! --mark 0x1000/0x1000 -j RETURN";
    let by_port: Translations = by_port.collect();
    assert_eq!(post(by_port.clone()), [skip, "-m conntrack --ctstate DNAT --ctproto 6 -j SNAT --to-source 2.2.2.2"]);
    let on = |listen, port, external| translation(Protocol::Tcp, listen, (port, port), (1, 32), None, Some(external), 9);
    // Another external for two other listen addresses, and for two ports of this one.
    let more = [
        on(0xc0a8_0102, 80, 0x0202_0203),
        on(0xc0a8_01f2, 443, 0x0202_0203),
        on(0xc0a9_0002, 80, 0x0202_0202),
        on(0xc0a8_0002, 200, 0x0202_0204),
        on(0xc0a8_0002, 300, 0x0202_0204),
    ];
    let to = "-m conntrack --ctstate DNAT --ctproto 6 --ctorigdst";
    assert_eq!(
        post(by_port.into_iter().chain(more).collect()),
        [
            skip.to_owned(),
            format!("{to} 192.168.0.2/32 --ctorigdstport 80:95 -j SNAT --to-source 2.2.2.2"),
            format!("{to} 192.168.0.2/32 --ctorigdstport 200:300 -j SNAT --to-source 2.2.2.4"),
            format!("{to} 192.168.1.0/24 -j SNAT --to-source 2.2.2.3"),
            format!("{to} 192.169.0.2/32 -j SNAT --to-source 2.2.2.2"),
        ]
    );
    let by_client = (0..200).map(|n| {
        translation(
            Protocol::Tcp,
            0xc0a8_0002,
            (80, 80),
            (0x0a00_0000 + ((n % 2) << 16) + n, 32),
            None,
            Some(0x0202_0202 + n % 2),
            9,
        )
    });
    assert_eq!(
        post(by_client.collect()),
        [
            skip,
            "-s 10.0.0.0/24 -m conntrack --ctstate DNAT --ctproto 6 --ctorigdst 192.168.0.2/32 --ctorigdstport 80 -j SNAT --to-source 2.2.2.2",
            "-s 10.1.0.0/24 -m conntrack --ctstate DNAT --ctproto 6 --ctorigdst 192.168.0.2/32 --ctorigdstport 80 -j SNAT --to-source 2.2.2.3",
        ]
    );
}

#[test]
fn a_packet_meets_a_bounded_number_of_rules_however_many_forwards_there_are() {
    let scattered = |n: u32| {
        translation(
            Protocol::Tcp,
            0xc0a8_0000 + n % 1000,
            (u16::try_from(1 + n.wrapping_mul(7919) % 60000).unwrap(), 1),
            (0x0a00_0000 + n, 32),
            None,
            Some(2),
            9,
        )
    };
    let one_port =
        |n: u32| translation(Protocol::Udp, 0xc0a8_0002, (80, 80), (0x0a00_0000 + n, 32), None, Some(0x0202_0202 + n % 2), 9);
    let narrow = |t: Translation| {
        let p = NonZeroU16::new(t.flows.ports.last()).unwrap();
        Translation { flows: FlowMatch { ports: PortRange::single(p), ..t.flows }, ..t }
    };
    for set in [(0..10_000).map(one_port).collect::<Translations>(), settled((0..2_000).map(|n| narrow(scattered(n))).collect())]
    {
        let ruleset = Ruleset::of(&set, Connmark::default());
        for translation in &set {
            for stage in Stage::ALL {
                let mark = if stage == Stage::Prerouting { FOREIGN } else { OURS };
                let packet = Packet { mark, ..packets_of(translation)[0].clone() };
                let Walk { steps, .. } = walk(stage, ruleset.chains(stage.table()), &packet);
                let most = if stage == Stage::Forward { 1 } else { 6 * FANOUT };
                assert!(steps <= most, "{stage:?}: {steps} rules for {packet:?}");
            }
        }
    }
}
