//! The table as text that nft(8) takes and that a person reads.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::class::{Class, Field, Hooked, PORT_BITS};
use super::compare::base;
use super::layout::{ANSWERS, ANSWERS_ANYWHERE, Definition, LISTEN, Layout, TABLE, TRANSLATED, VERDICT, Value};
use crate::dataplane::rules::Place;
use crate::model::{Connmark, Protocol, Translation, Translations};

/// The rules of `translations`, for `nft -f`.
pub(in crate::dataplane) fn render(translations: &Translations, mark: Connmark) -> String {
    let layout = Layout::of(translations, mark);
    let mut text = format!("table ip {TABLE} {{\n");
    let elements = layout.elements();
    for (name, definition) in layout.definitions() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\t{} {name} {{\n\t\ttype {}", kind(&definition), type_of(&name, &definition));
        let listed: Vec<String> =
            elements.get(&name).into_iter().flatten().map(|(key, value)| element(&name, key, value)).collect();
        if !listed.is_empty() {
            let _ = writeln!(text, "\t\telements = {{ {} }}", listed.join(",\n\t\t\t     "));
        }
        text += "\t}\n\n";
    }
    let chains = layout.chains();
    // What a chain names must be there before.
    let mut ordered: Vec<_> = chains.iter().collect();
    ordered.sort_by_key(|(_, chain)| chain.hooked.is_some());
    for (name, chain) in ordered {
        let _ = writeln!(text, "\tchain {name} {{");
        if let Some(hooked) = chain.hooked {
            let (_, priority, kind, _) = base(hooked);
            let hook = match hooked {
                Hooked::Prerouting => "prerouting",
                Hooked::Postrouting => "postrouting",
                Hooked::Input => "input",
            };
            let _ = writeln!(text, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;");
        }
        for rule in &chain.rules {
            let _ = writeln!(text, "\t\t{}", rule.text());
        }
        text += "\t}\n\n";
    }
    text.truncate(text.trim_end().len());
    text + "\n}\n"
}

fn kind(definition: &Definition) -> &'static str {
    if definition.data.is_some() { "map" } else { "set" }
}

fn type_of(name: &str, definition: &Definition) -> String {
    let key = match name {
        LISTEN | TRANSLATED => "ipv4_addr . inet_proto".to_owned(),
        ANSWERS => "ipv4_addr . ipv4_addr".to_owned(),
        ANSWERS_ANYWHERE => "ipv4_addr".to_owned(),
        _ => {
            let fields = Class::parse(name).map(Class::fields).unwrap_or_default();
            fields.into_iter().map(field_type).collect::<Vec<_>>().join(" . ")
        }
    };
    match definition.data {
        None => key,
        Some((VERDICT, _)) => format!("{key} : verdict"),
        Some((_, 8)) => format!("{key} : ipv4_addr . inet_service"),
        Some(_) => format!("{key} : ipv4_addr"),
    }
}

const fn field_type(field: Field) -> &'static str {
    match field {
        Field::Client(_) | Field::Listen | Field::Upstream => "ipv4_addr",
        Field::Port(_) => "inet_service",
        Field::Interface => "ifname",
        Field::Protocol => "inet_proto",
    }
}

fn element(name: &str, key: &[u8], value: &Value) -> String {
    let key = key_text(name, key);
    match value {
        Value::None => key,
        Value::Goto(chain) => format!("{key} : goto {chain}"),
        Value::Data(data) => {
            let address = address(data);
            match data.get(4..6) {
                Some(port) => format!("{key} : {address} . {}", u16::from_be_bytes([port[0], port[1]])),
                None => format!("{key} : {address}"),
            }
        }
    }
}

fn key_text(name: &str, key: &[u8]) -> String {
    let fields = match name {
        LISTEN | TRANSLATED => vec![Field::Listen, Field::Protocol],
        ANSWERS => vec![Field::Listen, Field::Upstream],
        ANSWERS_ANYWHERE => vec![Field::Upstream],
        _ => Class::parse(name).map(Class::fields).unwrap_or_default(),
    };
    let mut rest = key;
    let mut parts = Vec::new();
    for field in fields {
        let (bytes, after) = rest.split_at(rest.len().min(field.len() as usize));
        rest = after;
        parts.push(match field {
            Field::Client(_) | Field::Listen | Field::Upstream => address(bytes),
            Field::Port(PORT_BITS) => u16::from_be_bytes([bytes[0], bytes[1]]).to_string(),
            Field::Port(_) => format!("{:#06x}", u16::from_be_bytes([bytes[0], bytes[1]])),
            Field::Interface => format!("{:?}", String::from_utf8_lossy(bytes).trim_end_matches('\0')),
            Field::Protocol => Protocol::from_number(bytes[0]).map_or("unknown", Protocol::keyword).to_owned(),
        });
    }
    parts.join(" . ")
}

fn address(bytes: &[u8]) -> String {
    bytes.first_chunk().map_or_else(String::new, |octets: &[u8; 4]| Ipv4Addr::from_octets(*octets).to_string())
}

/// Where rules are.
#[derive(Debug)]
pub(in crate::dataplane) struct Text(Layout);

impl Text {
    pub(in crate::dataplane) fn of(translations: &Translations, mark: Connmark) -> Self {
        Self(Layout::of(translations, mark))
    }

    /// The maps in which the flows of `translations` are found.
    pub(in crate::dataplane) fn places(&self, translations: &[Translation]) -> Vec<Place> {
        let names: BTreeSet<String> = translations.iter().flat_map(|it| self.0.path(it)).collect();
        names.into_iter().map(|chain| Place { table: super::TABLE, chain }).collect()
    }
}
