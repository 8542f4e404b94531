//! What was read back of the table, in the words of every backend.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::TABLE;
use super::class::{Class, Hooked, PORT_BITS, Purpose};
use super::compare::{Held, Steps, differences, places, surplus};
use super::counters::counted;
use super::layout::{Layout, Value, base_name};
use crate::dataplane::rules::{Held as Counted, Place, RulesReport};
use crate::model::{Destination, FlowMatch, PortRange, SourceNat, TargetPorts, Translation};

/// Reports how the table, read back, differs from `layout`. The translations `gone` were asked for until now.
pub(super) fn conclude(held: &Held, layout: &Layout, gone: &[Translation], report: &mut RulesReport) {
    let Steps { now, later } = differences(held, layout);
    let mut differing: BTreeSet<String> = places(&now).into_iter().chain(places(&later)).collect();
    if differing.is_empty() && !(now.is_empty() && later.is_empty()) {
        differing.insert(base_name(Hooked::Prerouting).to_owned());
    }
    report.differing = differing.into_iter().map(|chain| Place { table: TABLE, chain }).collect();
    let mut surplus = surplus(held, layout);
    for translation in gone {
        let open: Vec<_> = counted(translation).filter(|element| surplus.contains(element)).collect();
        if !open.is_empty() {
            report.left.push(translation.clone());
            surplus.retain(|element| !open.contains(element));
        }
    }
    let unknown = surplus.iter().filter_map(|(name, key)| read(name, key, &held.sets.get(name)?.elements.get(key)?.value));
    report.left.extend(unknown);
    let rules = held.chains.values().map(|chain| chain.rules.len()).sum();
    report.held.insert(TABLE, Counted { chains: held.chains.len(), rules });
}

/// The translations in the table. Their new source is not known here and is given as `Masquerade`.
pub(super) fn translated(held: &Held) -> Vec<Translation> {
    let all = held.sets.iter().flat_map(|(name, set)| set.elements.iter().map(move |(key, it)| (name, key, &it.value)));
    all.filter_map(|(name, key, value)| read(name, key, value)).collect()
}

/// The translation of an element of a map for new destinations.
pub(super) fn read(name: &str, key: &[u8], value: &Value) -> Option<Translation> {
    let class = Class::parse(name)?;
    let found = class.read(key)?;
    let Value::Data(data) = value else { return None };
    let address = IpAddr::from(*data.first_chunk::<4>()?);
    let ports = match class.purpose {
        Purpose::Dnat => TargetPorts::One(u16::from_be_bytes(*data.get(4..)?.first_chunk()?)),
        Purpose::DnatSamePort => TargetPorts::Same,
        Purpose::Snat | Purpose::Masquerade | Purpose::Invalid => return None,
    };
    let last = u32::from(found.port) + (1 << (PORT_BITS - class.port)) - 1;
    let listened = if class.port == 0 {
        PortRange::ALL
    } else {
        PortRange::new(found.port.try_into().ok()?, u16::try_from(last).ok()?.try_into().ok()?).ok()?
    };
    Some(Translation {
        flows: FlowMatch {
            protocol: found.protocol,
            destination: found.listen.into(),
            ports: listened,
            source: IpNet::V4(Ipv4Net::new(found.client, class.client).ok()?),
            interface: found.interface,
        },
        destination: Destination { address, ports },
        source: SourceNat::Masquerade,
    })
}

impl Layout {
    /// How many chains and rules there are.
    pub(super) fn held(&self) -> Counted {
        let chains = self.chains();
        Counted { chains: chains.len(), rules: chains.values().map(|chain| chain.rules.len()).sum() }
    }
}
