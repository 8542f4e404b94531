//! The forwards that the translations of a record belong to.
//!
//! A record holds every object, also those that were refused. They may ask for many more translations than there are, so their
//! port entries are looked up among the translations, and not the other way round.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::index::PortIndex;
use crate::forward::{Forward, ForwardKey, Rewrite};
use crate::model::Translation;

/// How many forwards one translation may belong to. Forwards that differ only by the interface ask for the same flows.
const MOST: usize = 16;

/// How well a forward must match a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    /// It asks for the flows, the new destination and the new source.
    Exact,
    /// It asks for the flows.
    Flows,
}

/// The forwards that each of `translations` belongs to, the older first; none if there is no such forward.
pub(super) fn of<'a>(translations: &[Translation], forwards: &'a [Forward]) -> Vec<Vec<&'a ForwardKey>> {
    let mut ordered: Vec<&Forward> = forwards.iter().collect();
    ordered.sort_by_key(|forward| (forward.created, &forward.key));
    let sources = Sources::of(translations);
    let mut owners: Vec<Vec<&ForwardKey>> = vec![Vec::new(); translations.len()];
    for how in [Match::Exact, Match::Flows] {
        let mut index = PortIndex::default();
        for (place, (Translation { flows, .. }, owners)) in translations.iter().zip(&owners).enumerate() {
            if owners.is_empty() {
                index.insert(flows.protocol, flows.destination, flows.ports, place);
            }
        }
        for forward in &ordered {
            for rewrite in forward.rewrites().filter(|rewrite| sources.meet(rewrite)) {
                for places in index.overlapping_mut(rewrite.protocol, rewrite.address, rewrite.ports) {
                    // What has enough owners is not looked at again.
                    places.retain(|place| {
                        let Some((translation, owners)) = translations.get(*place).zip(owners.get_mut(*place)) else {
                            return false;
                        };
                        if matches(how, translation, &rewrite) && owners.last() != Some(&&forward.key) {
                            owners.push(&forward.key);
                        }
                        owners.len() < MOST
                    });
                }
            }
        }
    }
    owners
}

/// Whether `rewrite`, whose ports overlap those of `translation`, may have made it.
fn matches(how: Match, translation: &Translation, rewrite: &Rewrite<'_>) -> bool {
    let same = (translation.destination.address, translation.source) == (rewrite.destination.address, rewrite.source);
    (same || how == Match::Flows) && rewrite.admits(translation.flows.source)
}

/// The sources of the translations.
struct Sources {
    networks: BTreeSet<IpNet>,
    /// Their prefix lengths, which are few.
    lengths: BTreeSet<u8>,
}

impl Sources {
    fn of(translations: &[Translation]) -> Self {
        let networks: BTreeSet<IpNet> = translations.iter().map(|translation| translation.flows.source).collect();
        let lengths = networks.iter().map(IpNet::prefix_len).collect();
        Self { networks, lengths }
    }

    /// Whether a sender of `rewrite` is among them.
    fn meet(&self, rewrite: &Rewrite<'_>) -> bool {
        rewrite.senders().iter().any(|sender| {
            let inside = self.networks.range(*sender..).next().is_some_and(|source| sender.contains(source));
            let around =
                |length: &u8| IpNet::new(sender.network(), *length).is_ok_and(|network| self.networks.contains(&network.trunc()));
            inside || self.lengths.iter().filter(|length| **length < sender.prefix_len()).any(around)
        })
    }
}
