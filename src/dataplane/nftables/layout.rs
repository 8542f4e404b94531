//! What the table holds for a set of translations.
//!
//! Pure. An element or a listen address stays as long as a translation needs it, so a change of one translation touches its own
//! elements only, whatever the number of others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::class::{Class, Hooked, Purpose, TYPE_ADDRESS_AND_PORT, TYPE_IPV4_ADDR, TYPE_LISTEN, word};
use super::element::{Element, Place, count, elements};
use super::ownership::Ownership;
use super::rule::Rule;
use crate::model::{Connmark, Translation, Translations};

/// The table.
pub(super) const TABLE: &str = "portforward";
/// The map from a listen address and protocol to the chain for them, before and after the destination is translated.
pub(super) const LISTEN: &str = "listen";
pub(super) const TRANSLATED: &str = "translated";
/// The sets of what answers the flows of forwards.
pub(super) const ANSWERS: &str = "answers";
pub(super) const ANSWERS_ANYWHERE: &str = "answers_anywhere";
/// The maximum length of the name of a chain, in bytes. The kernel accepts more (`NFT_CHAIN_MAXNAMELEN`,
/// `include/uapi/linux/netfilter/nf_tables.h`).
const NAME_LEN: usize = 240;

/// The content of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing: the element of a set.
    None,
    /// A value that rules use.
    Data(Vec<u8>),
    /// Goes on in this chain.
    Goto(String),
}

/// A map or set, without its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) key_type: u32,
    pub(super) key_len: u32,
    /// The type and the length of the values; `None` for a set.
    pub(super) data: Option<(u32, u32)>,
    /// Whether each element counts its packets.
    pub(super) counted: bool,
}

/// The maps from listen addresses to chains.
pub(super) const TYPE_OF_WAYS: Definition =
    Definition { key_type: TYPE_LISTEN, key_len: 8, data: Some((VERDICT, 0)), counted: false };

impl Definition {
    /// The map or set of a class. `counted`: whether new flows are counted.
    pub(super) fn of(class: Class, counted: bool) -> Self {
        Self {
            key_type: class.key_type(),
            key_len: class.key_len(),
            data: match class.purpose {
                Purpose::Dnat => Some((TYPE_ADDRESS_AND_PORT, 8)),
                Purpose::DnatSamePort | Purpose::Snat => Some((TYPE_IPV4_ADDR, 4)),
                Purpose::Masquerade | Purpose::Invalid => None,
            },
            counted: counted && class.purpose.chain() == Hooked::Prerouting,
        }
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hooked: Option<Hooked>,
    pub(super) rules: Vec<Rule>,
}

/// The type of a verdict as the value of a map (`NFT_DATA_VERDICT`, `include/uapi/linux/netfilter/nf_tables.h`).
pub(super) const VERDICT: u32 = 0xffff_ff00;

/// An element that is held as long as something needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    data: Vec<u8>,
    uses: usize,
}

/// A listen address and protocol, as a key.
type Listen = [u8; 8];

/// What the table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    mark: Connmark,
    counted: bool,
    /// Whom the table belongs to.
    pub(super) ownership: Ownership,
    elements: BTreeMap<Place, BTreeMap<Vec<u8>, Held>>,
    /// The classes of the flows to each listen address, and how many elements each of them has.
    listens: BTreeMap<(Hooked, Listen), BTreeMap<Class, usize>>,
    /// The chains for listen addresses, and how many addresses use each of them.
    chains: BTreeMap<(Hooked, BTreeSet<Class>), usize>,
    /// The elements of translations beyond those that each may have.
    extra: usize,
    /// The translations for which there is no room.
    without_room: BTreeSet<Translation>,
}

/// The elements that each translation may have, and those that all of them together may have beyond that. A range with other target
/// ports has one element for each port, so a few of them could otherwise fill the memory of the kernel.
const EACH: usize = 512;
const EXTRA: usize = 250_000;

/// The elements that a change of translations may have touched, by map or set, and what they were before.
pub(super) type Touched = BTreeMap<String, BTreeMap<Vec<u8>, Option<Value>>>;

impl Layout {
    pub(super) fn new(mark: Connmark, counted: bool) -> Self {
        Self { mark, counted, ..Self::default() }
    }

    /// The layout of `translations`.
    pub(super) fn of(translations: &Translations, mark: Connmark) -> Self {
        let mut layout = Self::new(mark, false);
        for translation in translations {
            layout.add(translation, &mut Touched::new());
        }
        layout
    }

    /// Whether the kernel should have no table.
    pub(super) fn is_empty(&self) -> bool {
        self.listens.is_empty()
    }

    /// The translations that have no place in the table, because they need too many elements.
    pub(super) const fn without_room(&self) -> &BTreeSet<Translation> {
        &self.without_room
    }

    pub(super) fn add(&mut self, translation: &Translation, touched: &mut Touched) {
        let extra = count(translation).saturating_sub(EACH);
        if extra > 0 && self.extra.saturating_add(extra) > EXTRA {
            self.without_room.insert(translation.clone());
            return;
        }
        self.extra += extra;
        let listen = listen(translation);
        for Element { place, key, data } in elements(translation) {
            self.touch(touched, place, &key);
            let held = self.elements.entry(place).or_default().entry(key).or_insert_with(|| Held { data: Vec::new(), uses: 0 });
            (held.data, held.uses) = (data, held.uses + 1);
            if let Some((at, class)) = listen.zip(dispatched(place)) {
                self.dispatch(at, class, 1, touched);
            }
        }
    }

    /// Tries the translations without room again.
    pub(super) fn make_room(&mut self, touched: &mut Touched) {
        for translation in std::mem::take(&mut self.without_room) {
            self.add(&translation, touched);
        }
    }

    pub(super) fn remove(&mut self, translation: &Translation, touched: &mut Touched) {
        if self.without_room.remove(translation) {
            return;
        }
        self.extra = self.extra.saturating_sub(count(translation).saturating_sub(EACH));
        let listen = listen(translation);
        for Element { place, key, .. } in elements(translation) {
            self.touch(touched, place, &key);
            if let Some(all) = self.elements.get_mut(&place)
                && let Some(held) = all.get_mut(&key)
            {
                held.uses = held.uses.saturating_sub(1);
                if held.uses == 0 {
                    all.remove(&key);
                }
                if all.is_empty() {
                    self.elements.remove(&place);
                }
            }
            if let Some((at, class)) = listen.zip(dispatched(place)) {
                self.dispatch(at, class, -1, touched);
            }
        }
    }

    fn touch(&self, touched: &mut Touched, place: Place, key: &[u8]) {
        let held = || self.elements.get(&place)?.get(key).map(|held| value(&held.data));
        touched.entry(place.name()).or_default().entry(key.to_vec()).or_insert_with(held);
    }

    /// Whether the elements count.
    pub(super) const fn counts(&self) -> bool {
        self.counted
    }

    /// Takes over that a listen address has more or fewer elements of a class.
    fn dispatch(&mut self, listen: Listen, class: Class, more: isize, touched: &mut Touched) {
        let hooked = class.purpose.chain();
        if more < 0 && !self.listens.contains_key(&(hooked, listen)) {
            return;
        }
        let classes = self.listens.entry((hooked, listen)).or_default();
        let before: BTreeSet<Class> = classes.keys().copied().collect();
        let uses = classes.entry(class).or_default();
        *uses = uses.saturating_add_signed(more);
        if *uses == 0 {
            classes.remove(&class);
        }
        let after: BTreeSet<Class> = classes.keys().copied().collect();
        if after == before {
            return;
        }
        let way = (!before.is_empty()).then(|| Value::Goto(chain_name(hooked, &before)));
        touched.entry(dispatcher(hooked).to_owned()).or_default().entry(listen.to_vec()).or_insert(way);
        if after.is_empty() {
            self.listens.remove(&(hooked, listen));
        } else {
            *self.chains.entry((hooked, after)).or_default() += 1;
        }
        if let Some(uses) = self.chains.get_mut(&(hooked, before.clone())) {
            *uses -= 1;
            if *uses == 0 {
                self.chains.remove(&(hooked, before));
            }
        }
    }

    /// The maps and sets.
    pub(super) fn definitions(&self) -> BTreeMap<String, Definition> {
        if self.is_empty() {
            return BTreeMap::new();
        }
        let dispatchers = [LISTEN, TRANSLATED].map(|name| (name.to_owned(), TYPE_OF_WAYS));
        dispatchers.into_iter().chain(self.elements.keys().map(|place| (place.name(), self.definition(*place)))).collect()
    }

    fn definition(&self, place: Place) -> Definition {
        let addresses = |count: u32| (0..count).fold(0, |all, _| all << 6 | TYPE_IPV4_ADDR);
        let set = |count| Definition { key_type: addresses(count), key_len: 4 * count, data: None, counted: false };
        match place {
            Place::Answers => set(2),
            Place::AnswersAnywhere => set(1),
            Place::Class(class) => Definition::of(class, self.counted),
        }
    }

    /// The chains.
    pub(super) fn chains(&self) -> BTreeMap<String, Chain> {
        if self.is_empty() {
            return BTreeMap::new();
        }
        let below = self.chains.keys().map(|(hooked, classes)| {
            let look_up = classes.iter().rev().map(|class| Rule::LookUp(*class));
            let rules = match hooked {
                Hooked::Prerouting => {
                    std::iter::once(Rule::Mark(self.mark)).chain(look_up).chain([Rule::Unmark(self.mark)]).collect()
                }
                Hooked::Postrouting | Hooked::Input => look_up.collect(),
            };
            (chain_name(*hooked, classes), Chain { hooked: None, rules })
        });
        let bases = [Hooked::Prerouting, Hooked::Postrouting, Hooked::Input];
        let bases = bases.map(|hooked| (base_name(hooked).to_owned(), Chain { hooked: Some(hooked), rules: self.base(hooked) }));
        below.chain(bases).collect()
    }

    fn base(&self, hooked: Hooked) -> Vec<Rule> {
        match hooked {
            Hooked::Prerouting => vec![Rule::ToListen],
            Hooked::Postrouting => vec![Rule::ToTranslated(self.mark)],
            Hooked::Input => self.elements.keys().filter_map(|place| dropping(*place)).collect(),
        }
    }

    /// The value that an element should have; `None` if it should not exist.
    pub(super) fn value(&self, name: &str, key: &[u8]) -> Option<Value> {
        let hooked = match name {
            LISTEN => Some(Hooked::Prerouting),
            TRANSLATED => Some(Hooked::Postrouting),
            _ => None,
        };
        if let Some(hooked) = hooked {
            let classes = self.listens.get(&(hooked, key.try_into().ok()?))?;
            return Some(Value::Goto(chain_name(hooked, &classes.keys().copied().collect())));
        }
        self.elements.get(&Place::parse(name)?)?.get(key).map(|held| value(&held.data))
    }

    /// All elements, by map or set.
    pub(super) fn elements(&self) -> BTreeMap<String, BTreeMap<&[u8], Value>> {
        let mut all: BTreeMap<String, BTreeMap<&[u8], Value>> = BTreeMap::new();
        for (place, held) in &self.elements {
            all.insert(place.name(), held.iter().map(|(key, held)| (key.as_slice(), value(&held.data))).collect());
        }
        for ((hooked, listen), classes) in &self.listens {
            let to = Value::Goto(chain_name(*hooked, &classes.keys().copied().collect()));
            all.entry(dispatcher(*hooked).to_owned()).or_default().insert(listen, to);
        }
        all
    }

    /// The chains, maps and sets that the flows of `translation` pass.
    pub(super) fn path(&self, translation: &Translation) -> BTreeSet<String> {
        let mut path: BTreeSet<String> = elements(translation).into_iter().map(|element| element.place.name()).collect();
        if let Some(listen) = listen(translation) {
            for hooked in [Hooked::Prerouting, Hooked::Postrouting] {
                let classes = self.listens.get(&(hooked, listen)).map(|classes| classes.keys().copied().collect());
                path.extend(classes.map(|classes| chain_name(hooked, &classes)));
                path.extend([dispatcher(hooked).to_owned(), base_name(hooked).to_owned()]);
            }
        }
        path
    }
}

impl Place {
    /// The place with this name.
    fn parse(name: &str) -> Option<Self> {
        match name {
            ANSWERS => Some(Self::Answers),
            ANSWERS_ANYWHERE => Some(Self::AnswersAnywhere),
            name => Class::parse(name).map(Self::Class),
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Class(class) => class.name(),
            Self::Answers => ANSWERS.to_owned(),
            Self::AnswersAnywhere => ANSWERS_ANYWHERE.to_owned(),
        }
    }
}

fn value(data: &[u8]) -> Value {
    if data.is_empty() { Value::None } else { Value::Data(data.to_vec()) }
}

/// The class that a listen address leads to, for an element of `place`.
fn dispatched(place: Place) -> Option<Class> {
    match place {
        Place::Class(class) => (class.purpose.chain() != Hooked::Input).then_some(class),
        Place::Answers | Place::AnswersAnywhere => None,
    }
}

/// The rule of INPUT for elements of `place`.
const fn dropping(place: Place) -> Option<Rule> {
    match place {
        Place::Answers => Some(Rule::DropAnswers),
        Place::AnswersAnywhere => Some(Rule::DropAnswersAnywhere),
        Place::Class(class) => match class.purpose {
            Purpose::Invalid => Some(Rule::LookUp(class)),
            Purpose::Dnat | Purpose::DnatSamePort | Purpose::Snat | Purpose::Masquerade => None,
        },
    }
}

fn listen(translation: &Translation) -> Option<Listen> {
    let IpAddr::V4(address) = translation.flows.destination else { return None };
    let mut key = [0; 8];
    key[..4].copy_from_slice(&address.octets());
    key[4..].copy_from_slice(&word(&[translation.flows.protocol.number()]));
    Some(key)
}

const fn dispatcher(hooked: Hooked) -> &'static str {
    match hooked {
        Hooked::Prerouting => LISTEN,
        Hooked::Postrouting | Hooked::Input => TRANSLATED,
    }
}

pub(super) const fn base_name(hooked: Hooked) -> &'static str {
    match hooked {
        Hooked::Prerouting => "prerouting",
        Hooked::Postrouting => "postrouting",
        Hooked::Input => "input",
    }
}

/// The name of the chain that asks the maps of these classes.
fn chain_name(hooked: Hooked, classes: &BTreeSet<Class>) -> String {
    let names: Vec<String> = classes.iter().map(|class| class.name()).collect();
    let name = format!("by.{}", names.join("."));
    if name.len() <= NAME_LEN {
        return name;
    }
    let digest = Sha256::digest(name.as_bytes());
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{}.{}_classes.{digits}", base_name(hooked), classes.len())
}
