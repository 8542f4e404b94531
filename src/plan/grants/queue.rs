//! The order in which forwards are judged. The first one to claim something keeps it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jiff::Timestamp;

use super::super::Candidate;
use super::super::verdict::NodeRefusal;
use super::{Entitlement, Granting};
use crate::forward::ForwardKey;

/// The forwards that are not judged yet, ordered by the priority of their grant, then by age, then by namespace and name.
#[derive(Debug)]
pub(in crate::plan) struct Queue<'a> {
    candidates: &'a [Candidate],
    waiting: BinaryHeap<Reverse<(Rank<'a>, usize)>>,
    entitlements: Vec<Option<Result<Entitlement<'a>, NodeRefusal>>>,
}

/// The higher priority first, then the older, then by namespace and name.
type Rank<'a> = (Reverse<i32>, Option<Timestamp>, &'a ForwardKey);

/// The next forward.
#[derive(Debug)]
pub(in crate::plan) struct Turn<'a> {
    pub(in crate::plan) candidate: &'a Candidate,
    /// What it may do, or why no grant permits it.
    pub(in crate::plan) entitlement: Result<Entitlement<'a>, NodeRefusal>,
}

impl<'a> Queue<'a> {
    /// All `candidates`.
    pub(in crate::plan) fn new(candidates: &'a [Candidate], granting: &Granting<'a>) -> Self {
        let mut queue = Self { candidates, waiting: BinaryHeap::new(), entitlements: Vec::new() };
        for (place, candidate) in candidates.iter().enumerate() {
            let entitlement = match &candidate.forward {
                Ok(forward) if forward.is_in_force() => granting.entitle(forward),
                Ok(_) | Err(_) => Ok(Entitlement::default()),
            };
            queue.entitlements.push(None);
            queue.put(place, entitlement, granting);
        }
        queue
    }

    /// The next forward. A forward whose grant has no room for it waits again: under the next grant that contains it, and with
    /// the priority of that one.
    pub(in crate::plan) fn next(&mut self, granting: &Granting<'a>) -> Option<Turn<'a>> {
        loop {
            let Reverse((_, place)) = self.waiting.pop()?;
            let (candidate, entitlement) = (self.candidates.get(place)?, self.entitlements.get_mut(place)?.take()?);
            let full = match (&entitlement, &candidate.forward) {
                (Ok(entitlement), Ok(forward)) => granting.refuse_more(entitlement, forward),
                (Err(_), _) | (_, Err(_)) => None,
            };
            match (entitlement, full) {
                (Ok(mut entitlement), Some(_)) if entitlement.grants.len() > 1 => {
                    entitlement.grants.remove(0);
                    self.put(place, Ok(entitlement), granting);
                }
                (entitlement, None) => return Some(Turn { candidate, entitlement }),
                (entitlement, Some(full)) => {
                    let entitlement = entitlement.and_then(|entitlement| granting.over(entitlement, full));
                    return Some(Turn { candidate, entitlement });
                }
            }
        }
    }

    fn put(&mut self, place: usize, entitlement: Result<Entitlement<'a>, NodeRefusal>, granting: &Granting<'a>) {
        let Some(candidate) = self.candidates.get(place) else { return };
        let priority = entitlement.as_ref().map_or(0, |entitlement| granting.priority(entitlement));
        let rank = (Reverse(priority), candidate.created, &candidate.key);
        self.waiting.push(Reverse((rank, place)));
        if let Some(slot) = self.entitlements.get_mut(place) {
            *slot = Some(entitlement);
        }
    }
}
