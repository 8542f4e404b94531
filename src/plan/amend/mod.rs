//! Plans again after a few objects changed, without looking closely at the others.
//!
//! The verdict on a forward depends on the facts, on the policy, on what is in force, and on the forwards that meet it: those
//! with which it may conflict, and those whose routes may cover its parties, or whose parties its own routes may cover. So the
//! forwards that changed, with all that meet them directly or through others, are planned alone, and every other verdict stays.
//! Where forwards depend on each other in another way (circles, limits), the caller has to plan all of them.

mod meeting;
mod neighbourhood;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Candidate, Former, Inputs, Plan, RoutePlan, Verdict};
use crate::forward::ForwardKey;
use crate::model::{Facts, HostRoute, InterfaceName, NextHop};
use neighbourhood::Neighbourhood;

/// The forwards to plan anew.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a> {
    /// The names of the objects that came, went or changed.
    pub keys: &'a BTreeSet<ForwardKey>,
    /// The names of those on which the verdict may change because something else of them is in force than for the last plan.
    pub unsettled: &'a BTreeSet<ForwardKey>,
    /// The former content of those that went or changed.
    pub former: &'a [Candidate],
    /// The same for the change before: what was in force then is not any more.
    pub earlier: &'a [Candidate],
}

impl Plan {
    /// Makes this plan the one for `inputs`, which differ from those that it was made from by `changed` only. What was in force
    /// then must have been what the plan before this one asked for. `changed.unsettled` names each forward for which it was not.
    ///
    /// Returns the former verdicts of the forwards whose verdict changed, `None` for a new forward.
    ///
    /// # Errors
    /// When all forwards must be planned. The plan is as before then.
    pub fn amend(&mut self, inputs: Inputs<'_>, changed: Changed<'_>) -> Result<Former, TooMuch> {
        let planned = Neighbourhood::of(inputs, changed, &self.verdicts)?.plan()?;
        let mut former = BTreeMap::new();
        for (key, now) in planned {
            if self.verdicts.get(&key) == now.as_ref() {
                continue;
            }
            let before = match now {
                Some(now) => self.verdicts.insert(key.clone(), now),
                None => self.verdicts.remove(&key),
            };
            former.insert(key, before);
        }
        self.follow(inputs.facts, &former);
        Ok(former)
    }

    /// Makes the desired state follow the verdicts. `former` are those that changed, as they were before.
    fn follow(&mut self, facts: &Facts, former: &Former) {
        let before = || former.values().flatten();
        let desired = &mut self.desired;
        for translation in before().flat_map(|verdict| &verdict.translations) {
            desired.translations.remove(translation);
        }
        let now: Vec<&Box<Verdict>> = former.keys().filter_map(|key| self.verdicts.get(key)).collect();
        for translation in now.iter().flat_map(|verdict| &verdict.translations) {
            desired.translations.insert(translation.clone());
        }
        // Several forwards may share these.
        let (was, is) = (Joint::of(facts, before()), Joint::of(facts, now.iter().copied()));
        if was != is {
            let Joint { routes, held, legs, next_hops } = Joint::of(facts, self.verdicts.values());
            (desired.routes, desired.held, desired.legs) =
                (routes.into_iter().cloned().collect(), held, legs.into_iter().copied().collect());
            self.next_hops = next_hops.into_iter().cloned().collect();
        }
    }
}

/// All forwards must be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

/// What several forwards may ask for together.
#[derive(PartialEq, Eq)]
struct Joint<'a> {
    routes: BTreeSet<&'a HostRoute>,
    held: BTreeSet<IpAddr>,
    legs: BTreeSet<&'a InterfaceName>,
    next_hops: BTreeSet<&'a NextHop>,
}

impl<'a> Joint<'a> {
    fn of(facts: &Facts, verdicts: impl Iterator<Item = &'a Box<Verdict>> + Clone) -> Self {
        let routes = verdicts.clone().flat_map(|verdict| &verdict.routes).filter_map(RoutePlan::installed).collect();
        let listening: BTreeSet<IpAddr> =
            verdicts.clone().flat_map(|verdict| &verdict.translations).map(|it| it.flows.destination).collect();
        let held = listening.into_iter().filter(|address| facts.holds(*address)).collect();
        let legs = verdicts.clone().flat_map(|verdict| &verdict.legs).collect();
        Self { routes, held, legs, next_hops: verdicts.flat_map(|verdict| &verdict.next_hops).collect() }
    }
}
