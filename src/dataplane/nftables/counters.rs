//! The connections of each translation, by the counters of its elements.
//!
//! A `nat` chain sees only the first packet of a flow, so the packets of an element are connections. An element that is put in again
//! begins at 0. The numbers reported here only increase.

use std::collections::BTreeMap;

use super::class::Hooked;
use super::compare::HeldSet;
use super::element::{Place, elements};
use crate::dataplane::rules::Met;
use crate::model::{FlowMatch, Translation};

/// The last reading of each counter, and what was not reported yet.
#[derive(Debug, Default)]
pub(super) struct Counters {
    last: BTreeMap<(String, Vec<u8>), u64>,
    before: BTreeMap<FlowMatch, u64>,
    after: BTreeMap<FlowMatch, u64>,
}

/// Whether a reading was made before the rules were written, or after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

impl Counters {
    /// Takes over what the elements of `translations` have counted.
    pub(super) fn read<'a>(
        &mut self,
        sets: &BTreeMap<String, HeldSet>,
        translations: impl IntoIterator<Item = &'a Translation>,
        when: When,
    ) {
        for translation in translations {
            let mut more = 0;
            for (name, key) in counted(translation) {
                let Some(element) = sets.get(&name).and_then(|set| set.elements.get(&key)) else { continue };
                let last = self.last.insert((name, key), element.packets);
                // What an element had counted when it was first seen was there before. A lower number began at 0.
                more += last.map_or(0, |last| element.packets.checked_sub(last).unwrap_or(element.packets));
            }
            if more > 0 {
                let due = match when {
                    When::Before => &mut self.before,
                    When::After => &mut self.after,
                };
                *due.entry(translation.flows.clone()).or_default() += more;
            }
        }
    }

    /// An element was put in, so that it counts from 0.
    pub(super) fn begins(&mut self, name: &str, key: &[u8]) {
        self.last.insert((name.to_owned(), key.to_vec()), 0);
    }

    /// An element was taken out.
    pub(super) fn ends(&mut self, name: &str, key: &[u8]) {
        self.last.remove(&(name.to_owned(), key.to_vec()));
    }

    /// All elements were taken out.
    pub(super) fn forget(&mut self) {
        self.last.clear();
    }

    /// What was not reported yet.
    pub(super) fn told(&mut self) -> Met {
        let [before, after] = [&mut self.before, &mut self.after].map(|due| std::mem::take(due).into_iter().collect());
        Met { before, after }
    }
}

/// The elements of a translation that count: those by which it is found.
pub(super) fn counted(translation: &Translation) -> impl Iterator<Item = (String, Vec<u8>)> {
    elements(translation).into_iter().filter_map(|element| match element.place {
        Place::Class(class) if class.purpose.chain() == Hooked::Prerouting => Some((class.name(), element.key)),
        Place::Class(_) | Place::Answers | Place::AnswersAnywhere => None,
    })
}
