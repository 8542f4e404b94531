//! Properties of the table for every set of translations, checked by looking simulated packets up in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::class::{Class, Field, Hooked, Purpose, Values};
use super::compare::{Form, Held, HeldChain, HeldElement, HeldSet, Step, Steps, base, changes, differences, surplus};
use super::expression::{are_held, listed};
use super::layout::{ANSWERS, ANSWERS_ANYWHERE, Definition, LISTEN, Layout, TRANSLATED, Touched, Value, base_name};
use super::ownership::{Owner, Ownership};
use super::reading::{read, translated};
use super::rule::Rule;
use crate::dataplane::iptables::samples::{
    Packet, any_translation, matches_packet, packets_of, redirected, settled, translation,
};
use crate::model::{Connmark, Protocol, SourceNat, TargetPorts, Translation, Translations};

/// What the table does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Met {
    /// A new destination.
    Destination(IpAddr, Option<u16>),
    Source(IpAddr),
    Masquerade,
}

/// A shifted range has an element for each port, so a large one keeps its ports here.
fn affordable(translation: Translation) -> Translation {
    let Translation { mut destination, flows, source } = translation;
    if flows.ports.count() > 40 && matches!(destination.ports, TargetPorts::Shifted(_)) {
        destination.ports = TargetPorts::Same;
    }
    Translation { flows, destination, source }
}

fn sets(most: usize) -> impl Strategy<Value = Vec<Translation>> {
    prop::collection::vec(any_translation().prop_map(affordable), 0..most)
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("{address}"),
    }
}

/// All rules that match a packet in the chain that its listen address leads to.
fn walk(held: &Held, hooked: Hooked, packet: &Packet) -> Vec<Met> {
    let dispatcher = if hooked == Hooked::Prerouting { LISTEN } else { TRANSLATED };
    if held.chains.get(base_name(hooked)).is_none_or(|base| base.rules.is_empty()) {
        return Vec::new();
    }
    let listen = [v4(packet.original.0).octets(), [packet.protocol.number(), 0, 0, 0]].concat();
    let Some(HeldElement { value: Value::Goto(chain), .. }) = held.sets.get(dispatcher).and_then(|set| set.elements.get(&listen))
    else {
        return Vec::new();
    };
    let values = Values {
        client: v4(packet.source),
        port: packet.original.1,
        listen: v4(packet.original.0),
        protocol: packet.protocol,
        interface: Some(&packet.interface),
        upstream: v4(packet.destination),
    };
    let classes = held.sets.keys().filter_map(|name| Class::parse(name)).filter(|class| class.purpose.chain() == hooked);
    let asked = classes.filter(|class| {
        let rule = listed(&Rule::LookUp(*class).expressions());
        held.chains[chain].rules.iter().any(|held| held == rule.as_bytes())
    });
    asked
        .filter_map(|class| {
            let found = &held.sets[&class.name()].elements.get(&class.key(values))?.value;
            Some(match (class.purpose, found) {
                (Purpose::Dnat, Value::Data(data)) => {
                    let port = u16::from_be_bytes([data[4], data[5]]);
                    Met::Destination(IpAddr::from([data[0], data[1], data[2], data[3]]), Some(port))
                }
                (Purpose::DnatSamePort, Value::Data(data)) => {
                    Met::Destination(IpAddr::from([data[0], data[1], data[2], data[3]]), None)
                }
                (Purpose::Snat, Value::Data(data)) => Met::Source(IpAddr::from([data[0], data[1], data[2], data[3]])),
                (Purpose::Masquerade, Value::None) => Met::Masquerade,
                (purpose, value) => panic!("{purpose:?} {value:?}"),
            })
        })
        .collect()
}

/// What the kernel holds after `steps`, as it checks them.
fn performed(held: Held, steps: &Steps) -> Held {
    made(made(held, &steps.now), &steps.later)
}

fn made(mut held: Held, steps: &[Step]) -> Held {
    for step in steps {
        match step.clone() {
            Step::MakeTable(ownership) => {
                assert!(!held.exists);
                let owner = match ownership {
                    Ownership::Owned => Owner::Some,
                    Ownership::Unowned => Owner::Left,
                    Ownership::Open => Owner::None,
                };
                held = Held { exists: true, owner, ..Held::default() };
            }
            Step::OwnTable => {
                assert_eq!((held.exists, held.owner), (true, Owner::Left));
                held.owner = Owner::Some;
            }
            Step::RemoveTable => {
                assert!(held.exists);
                held = Held::default();
            }
            Step::MakeSet(name, definition) => {
                let old = held.sets.insert(name, HeldSet { definition, elements: BTreeMap::new() });
                assert!(old.is_none());
            }
            Step::RemoveSet(name) => {
                assert!(held.sets.remove(&name).is_some());
                let rule = match name.as_str() {
                    ANSWERS => Rule::DropAnswers,
                    ANSWERS_ANYWHERE => Rule::DropAnswersAnywhere,
                    name => Rule::LookUp(Class::parse(name).expect("the set of a class")),
                };
                let rule = listed(&rule.expressions());
                let used = held.chains.values().any(|chain| chain.rules.iter().any(|held| held == rule.as_bytes()));
                assert!(!used, "{name} is in use");
            }
            Step::Flush(name) => held.chains.get_mut(&name).expect("the chain").rules.clear(),
            Step::MakeChain(name, hooked) => {
                let base = hooked.map(base).map(|(hook, priority, kind, policy)| (hook, priority, kind.to_owned(), policy));
                assert!(held.chains.insert(name, HeldChain { base, rules: Vec::new() }).is_none());
            }
            Step::Fill(name, chain) => {
                let rules = chain.rules.iter().map(|rule| listed(&rule.expressions()).as_bytes().to_vec()).collect();
                held.chains.get_mut(&name).expect("the chain").rules = rules;
                for rule in &chain.rules {
                    if let Rule::LookUp(class) = rule {
                        assert!(held.sets.contains_key(&class.name()), "{rule:?}");
                    }
                }
            }
            Step::RemoveChain(name) => {
                let used = held.sets.values().flat_map(|set| set.elements.values());
                let used = used.filter(|element| element.value == Value::Goto(name.clone())).count();
                assert_eq!(used, 0, "{name} is in use");
                assert!(held.chains.remove(&name).is_some());
            }
            Step::Put(name, key, value) => {
                if let Value::Goto(chain) = &value {
                    assert!(held.chains.contains_key(chain), "{chain}");
                }
                let set = held.sets.get_mut(&name).expect("the set");
                assert!(set.elements.insert(key, HeldElement { value, packets: 0 }).is_none(), "{name}");
            }
            Step::Take(name, key) => assert!(held.sets.get_mut(&name).expect("the set").elements.remove(&key).is_some()),
        }
    }
    held
}

fn laid_out(translations: &Translations) -> Layout {
    Layout::of(translations, Connmark::default())
}

fn held(translations: &Translations) -> Held {
    performed(Held::default(), &differences(&Held::default(), &laid_out(translations)))
}

fn amended(layout: &mut Layout, before: &Translations, now: &Translations) -> Touched {
    let mut touched = Touched::new();
    before.iter().filter(|it| !now.contains(*it)).for_each(|it| layout.remove(it, &mut touched));
    now.iter().filter(|it| !before.contains(*it)).for_each(|it| layout.add(it, &mut touched));
    touched
}

fn check(translations: &Translations) {
    let held = held(translations);
    for packet in translations.iter().flat_map(packets_of) {
        let fitting: Vec<&Translation> = translations.iter().filter(|it| matches_packet(it, &packet)).collect();
        let wanted: Vec<Met> = fitting
            .iter()
            .map(|it| Met::Destination(it.destination.address, Some(it.destination.ports.of(packet.original.1))))
            .collect();
        let met: Vec<Met> = walk(&held, Hooked::Prerouting, &packet)
            .into_iter()
            .map(|met| match met {
                Met::Destination(address, port) => Met::Destination(address, port.or(Some(packet.original.1))),
                other => other,
            })
            .collect();
        assert_eq!(met, wanted, "PREROUTING of {packet:?}");
        if let [translation] = fitting.as_slice() {
            let packet = Packet { destination: translation.destination.address, ..packet.clone() };
            let wanted = match translation.source {
                SourceNat::Address(address) => Met::Source(address),
                SourceNat::Masquerade => Met::Masquerade,
            };
            let met = walk(&held, Hooked::Postrouting, &packet);
            assert!(
                !met.is_empty() && met.iter().all(|met| *met == wanted),
                "POSTROUTING of {packet:?}: {met:?}, not {wanted:?}"
            );
        }
    }
    // What is read back says what is there.
    let covers = |read: &Translation, asked: &Translation| {
        asked.flows.source.contains(&read.flows.source)
            && asked.flows.destination == read.flows.destination
            && asked.flows.protocol == read.flows.protocol
            && asked.flows.interface == read.flows.interface
            && asked.flows.ports.contains(read.flows.ports.first())
            && asked.flows.ports.contains(read.flows.ports.last())
            && asked.part(read.flows.ports).destination.address == read.destination.address
    };
    for read in translated(&held) {
        assert_eq!(translations.iter().filter(|asked| covers(&read, asked)).count(), 1, "{read:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_packet_meets_the_element_that_is_meant_for_it(set in sets(60)) {
        check(&settled(set));
    }

    #[test]
    fn a_change_touches_what_differs_and_the_kernel_can_make_each_step(
        set in sets(40),
        others in prop::collection::vec((any::<usize>(), 0x0303_0303u32..0x0303_0330, 0u8..9), 0..4),
        more in sets(4),
        fewer in 0..4_usize,
    ) {
        let before = settled(set);
        let now = settled(redirected(&before, &others).into_iter().skip(fewer).chain(more).collect());
        let mut layout = laid_out(&before);
        let form = Form::of(&layout);
        let touched = amended(&mut layout, &before, &now);
        prop_assert_eq!(&layout, &laid_out(&now));
        let after = performed(held(&before), &changes(&form, &layout, &touched));
        prop_assert_eq!(&after, &held(&now));
        prop_assert_eq!(differences(&after, &layout), Steps::default());
        // The same from what the kernel holds.
        prop_assert_eq!(performed(held(&before), &differences(&held(&before), &layout)), held(&now));
    }
}

#[test]
fn packets_on_their_way_find_their_source_while_their_forward_goes() {
    let one = |port: u16, external: Option<u32>| translation(Protocol::Tcp, 1, (port, port), (2, 32), None, external, 3);
    let wide = translation(Protocol::Tcp, 1, (0x8000, 0x8fff), (2, 32), None, Some(7), 3);
    let all: Translations = [one(80, Some(7)), one(81, Some(7)), one(82, None), wide].into_iter().collect();
    for now in [vec![one(80, Some(7))], vec![one(82, None)], vec![]] {
        let now: Translations = now.into_iter().collect();
        let mut layout = laid_out(&all);
        let form = Form::of(&layout);
        let touched = amended(&mut layout, &all, &now);
        for steps in [changes(&form, &layout, &touched), differences(&held(&all), &layout)] {
            let meanwhile = made(held(&all), &steps.now);
            for gone in all.iter().filter(|it| !now.contains(*it)) {
                let packet = packets_of(gone)[0].clone();
                assert_eq!(walk(&meanwhile, Hooked::Prerouting, &packet), [], "{gone:?}");
                let translated = Packet { destination: gone.destination.address, ..packet };
                assert_eq!(walk(&meanwhile, Hooked::Postrouting, &translated).len(), 1, "{gone:?}");
            }
            assert_eq!(made(meanwhile, &steps.later), held(&now));
        }
    }
}

#[test]
fn a_rule_that_asks_another_map_or_compares_with_another_value_is_another_rule() {
    let class = |client, port| Class { purpose: Purpose::Dnat, client, port, apart: false, opening: true };
    let rules = [
        Rule::LookUp(class(28, 16)),
        Rule::LookUp(class(24, 16)),
        Rule::LookUp(class(32, 12)),
        Rule::Mark(Connmark::DEFAULT),
        Rule::Unmark(Connmark::DEFAULT),
        Rule::Mark("0x2000".parse().unwrap()),
        Rule::DropAnswers,
        Rule::DropAnswersAnywhere,
        Rule::ToListen,
        Rule::ToTranslated(Connmark::DEFAULT),
    ];
    for wanted in rules {
        for held in rules {
            let held_as = listed(&held.expressions());
            assert_eq!(are_held(&wanted.expressions(), held_as.as_bytes()), wanted == held, "{wanted:?} {held:?}");
        }
    }
}

#[test]
fn what_another_program_adds_to_the_table_goes_in_an_order_that_the_kernel_takes() {
    let all: Translations = [translation(Protocol::Tcp, 1, (80, 80), (2, 32), None, Some(7), 3)].into_iter().collect();
    let mut found = held(&all);
    for name in ["a", "b"] {
        found.chains.insert(name.to_owned(), HeldChain { rules: vec![vec![1]], ..HeldChain::default() });
    }
    found.sets.insert("c".to_owned(), HeldSet { definition: Definition::default(), elements: BTreeMap::new() });
    let Steps { now, later } = differences(&found, &laid_out(&all));
    assert_eq!(now, []);
    let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(
        later,
        [Step::Flush(a.clone()), Step::Flush(b.clone()), Step::RemoveSet(c), Step::RemoveChain(a), Step::RemoveChain(b)]
    );
    // What still translates is told, also if the whole table goes.
    let open = surplus(&held(&all), &laid_out(&Translations::new()));
    assert_eq!(open.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["new_destination"]);
}

#[test]
fn what_needs_very_many_elements_has_limited_room() {
    let shifted = |listen: u32| translation(Protocol::Udp, listen, (1, 30_000), (0, 30), None, Some(7), 3);
    let all: Translations = (0..4).map(shifted).collect();
    let mut layout = laid_out(&all);
    assert_eq!(layout.without_room().len(), 2, "120,000 elements each");
    layout.remove(&shifted(0), &mut Touched::new());
    layout.add(&shifted(9), &mut Touched::new());
    assert!(!layout.without_room().contains(&shifted(9)));
    layout.remove(&shifted(9), &mut Touched::new());
    layout.make_room(&mut Touched::new());
    assert_eq!(layout.without_room().len(), 1, "one that waited has the room now");
}

#[test]
fn a_change_of_one_upstream_is_four_elements_among_ten_thousand() {
    let one = |number: u32, upstream: u32| {
        let port = u16::try_from(1000 + number).unwrap();
        translation(Protocol::Tcp, 0xc0a8_0002, (port, port), (0x0a00_0001, 32), None, Some(0x0202_0202), upstream)
    };
    let before: Translations = (0..10_000).map(|number| one(number, 0x0303_0303)).collect();
    let now: Translations = (0..10_000).map(|number| one(number, if number == 77 { 0x0303_0304 } else { 0x0303_0303 })).collect();
    let mut layout = laid_out(&before);
    let form = Form::of(&layout);
    let touched = amended(&mut layout, &before, &now);
    let Steps { now, later } = changes(&form, &layout, &touched);
    let count = |name: &str| {
        now.iter().chain(&later).filter(|step| matches!(step, Step::Put(set, ..) | Step::Take(set, _) if set == name)).count()
    };
    assert_eq!((count("new_destination"), count("answers"), now.len() + later.len()), (2, 1, 3), "{now:?} {later:?}");
}

#[test]
fn a_name_says_which_class_it_is() {
    let purposes = [Purpose::Dnat, Purpose::DnatSamePort, Purpose::Snat, Purpose::Masquerade, Purpose::Invalid];
    let mut names = BTreeSet::new();
    for purpose in purposes {
        for (client, port) in [(32, 16), (0, 16), (24, 12), (28, 0), (32, 4)] {
            for (apart, opening) in [(false, false), (true, false), (false, true)] {
                let class = Class { purpose, client, port, apart, opening };
                assert_eq!(Class::parse(&class.name()), Some(class));
                assert!(names.insert(class.name()));
                assert_eq!(class.fields().into_iter().map(Field::len).sum::<u32>(), class.key_len());
            }
        }
    }
    for foreign in [
        "",
        "listen",
        "translated",
        "answers",
        "new_destination_x",
        "new_destination_client",
        "new_destination_port16",
        "new_destination_client24_client24",
    ] {
        assert_eq!(Class::parse(foreign), None, "{foreign}");
    }
    assert_eq!(read("new_destination", &[1, 2, 3], &Value::None), None);
}
