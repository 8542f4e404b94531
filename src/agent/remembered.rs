//! The state that this node last applied. It is kept in memory for the next sync and sent to the writer of the record.
//!
//! The record always contains everything that may be in force. A translation is added as soon as it is attempted. It is
//! removed only when rules, routes and connections are all done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::parsed::Parsed;
use super::planned::{LastPlan, Origin};
use super::recording::Records;
use super::standing;
use crate::forward::{Forward, ForwardKey};
use crate::model::{Desired, Sight, Translation, Translations};
use crate::plan::{Former, Grants, InForce, Plan, RequireGrants};
use crate::record::{Record, Step};
use crate::source::{Difference, Forwards, GrantSet, Snapshot, Sourced};
use kube::core::ObjectMeta;

/// The state that this node last applied.
#[derive(Debug)]
pub struct Memory {
    record: Record,
    in_force: Translations,
    /// What is not in force, but may come back without being a new claim. The record contains it, so it survives a restart.
    suspended: Translations,
    /// Objects that the record does not contain, but of which something may be in force: those of sets that were applied only in
    /// part since, and those that must not be restored.
    attempted: BTreeMap<ForwardKey, Sourced>,
    /// The flows that may be in force, with their forwards, for planning.
    flows: InForce,
    /// Whether a plan was applied completely since the start. Before that, the kernel may hold more than is known here.
    settled: bool,
    /// Whether a set was ever applied completely.
    complete: bool,
    /// Whether this agent requires grants.
    required: RequireGrants,
    /// The set that the record contains.
    set: Option<Arc<Snapshot>>,
    /// The record that was sent to the writer last.
    sent: Arc<Record>,
    /// The set that is being applied and is not in the record yet, also as a record.
    next: Option<(Arc<Snapshot>, Arc<Record>)>,
    /// Whether the writer was told since the start that the kernel is as the record says.
    confirmed: bool,
    recorder: Option<Records>,
    /// The last plan.
    last: Mutex<LastPlan>,
}

impl Memory {
    /// Starts from `record`, or empty.
    #[must_use]
    pub fn new(node: &str, record: Option<Record>) -> Self {
        let complete = record.is_some();
        let record = record.unwrap_or_else(|| Record { node: node.to_owned(), ..Record::default() });
        let in_force = record.in_force.clone();
        let forwards: Vec<Forward> = record.forwards.iter().filter_map(|it| Forward::parse(&it.object).ok()).collect();
        let flows = InForce::recorded(&listed(&record.in_force), &forwards);
        let suspended = Translations::new();
        let sent = Arc::new(record.clone());
        Self {
            record,
            in_force,
            suspended,
            attempted: BTreeMap::new(),
            flows,
            settled: false,
            complete,
            required: RequireGrants::No,
            set: None,
            sent,
            next: None,
            confirmed: false,
            recorder: None,
            last: Mutex::default(),
        }
    }

    /// The same, but some of these objects may be in force too. They are not applied again.
    #[must_use]
    pub fn holding(mut self, objects: Vec<Sourced>) -> Self {
        if objects.is_empty() {
            return self;
        }
        let forwards: Vec<Forward> =
            self.record.forwards.iter().chain(&objects).filter_map(|it| Forward::parse(&it.object).ok()).collect();
        self.flows = InForce::recorded(&listed(&self.record.in_force), &forwards);
        self.attempted.extend(objects.into_iter().map(|sourced| (ForwardKey::of(&sourced.object), sourced)));
        self
    }

    /// The same, but each new record is sent to `recorder`.
    #[must_use]
    pub fn recorded_by(self, recorder: Records) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// The translations that are or may be in force.
    #[must_use]
    pub fn in_force(&self) -> &Translations {
        &self.in_force
    }

    /// The flows that are or may be in force.
    #[must_use]
    pub fn flows(&self) -> &InForce {
        &self.flows
    }

    /// Whether no plan was applied completely since the start. The kernel may then hold translations that are not known here.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        !self.settled
    }

    /// Notes that the kernel holds exactly the flows of `plan`. `former` are the verdicts of the plan before that differ.
    pub(super) fn programmed(&mut self, plan: &Plan, former: &Former, origin: &Origin) {
        if origin.after_programmed {
            self.flows.amend(former, &plan.verdicts);
        } else {
            self.flows = InForce::of(&plan.verdicts);
        }
        self.suspended = plan.suspended().cloned().collect();
        self.settled = true;
    }

    /// Notes that the kernel may hold some flows of `plan`.
    pub fn may_hold(&mut self, plan: &Plan) {
        self.flows.extend(&plan.verdicts);
        self.suspended.extend(plan.suspended().cloned());
    }

    /// The objects that were last applied.
    #[must_use]
    pub const fn forwards(&self) -> &Forwards {
        &self.record.forwards
    }

    /// The labels that the node had then.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.record.labels
    }

    /// The objects that were last applied, as a complete set; `None` if there are none.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let Record { forwards, labels, api_servers, node_addresses, services, nodes, grants, .. } = self.record.clone();
        // Addresses of API servers are recorded only if all of them are known. So they are unknown if the objects come from a
        // cluster and the record contains no address.
        let clustered = forwards.iter().any(|sourced| sourced.origin.is_none());
        let sight = if clustered && api_servers.is_empty() { Sight::Partial } else { Sight::Whole };
        let snapshot =
            Snapshot { forwards, grants, labels, api_servers, sight, node_addresses, services, nodes, ..Snapshot::default() };
        (!snapshot.forwards.is_empty()).then(|| Arc::new(snapshot))
    }

    /// The grants of the last complete apply; `None` if none were needed.
    #[must_use]
    pub fn recorded_grants(&self) -> Option<&Arc<GrantSet>> {
        self.record.grants.as_ref()
    }

    /// Whether the last complete apply needed grants. A program that plans from the record alone must not do without them.
    #[must_use]
    pub const fn required_grants(&self) -> RequireGrants {
        if self.record.grants_required { RequireGrants::Yes } else { RequireGrants::No }
    }

    /// The grants for a plan from `snapshot`, and the objects to plan with. Takes over what `parsed` has of them.
    pub(super) fn grants(&self, required: RequireGrants, snapshot: &Snapshot, parsed: Parsed) -> (Grants, Parsed) {
        standing::grants(required, &self.record, &self.flows, snapshot, parsed)
    }

    /// Takes the last plan out. Without [`Self::keep`], the next plan is made anew.
    pub(super) fn last(&self) -> LastPlan {
        std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps the last plan for the next one.
    pub(super) fn keep(&mut self, last: LastPlan) {
        *self.last.get_mut().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// The part of `snapshot` that may get into the record, and notes that this agent requires grants.
    #[must_use]
    pub fn lasting(&mut self, required: RequireGrants, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        self.required = required;
        standing::lasting(required, &self.record, &self.flows, snapshot)
    }

    /// The objects that `snapshot` no longer contains, but of which something may be in force.
    #[must_use]
    pub fn gone(&self, snapshot: &Snapshot) -> BTreeMap<ForwardKey, Sourced> {
        let recorded = self.record.forwards.differences(&snapshot.forwards).filter(|difference| difference.now.is_none());
        let recorded = recorded.filter_map(|difference| Some((difference.key.clone(), difference.before?.clone())));
        let attempted = self.attempted.iter().filter(|(key, _)| snapshot.forwards.get(key).is_none());
        let attempted = attempted.map(|(key, sourced)| (key.clone(), sourced.clone()));
        let mut gone: BTreeMap<ForwardKey, Sourced> = recorded.chain(attempted).collect();
        gone.retain(|key, _| !snapshot.undecoded.contains_key(key));
        gone
    }

    /// Announces that `snapshot` is about to be applied. If it differs from the record, the writer notes what of the record must
    /// not be restored any more, before the kernel changes. Waits a short time for that.
    pub async fn intend(&mut self, required: RequireGrants, snapshot: &Arc<Snapshot>) {
        if self.next.as_ref().is_some_and(|(set, _)| Arc::ptr_eq(set, snapshot)) {
            return;
        }
        let lasting = self.lasting(required, snapshot);
        if !self.complete || self.has(&lasting) {
            return;
        }
        let mut record = Record { node: self.record.node.clone(), ..Record::default() };
        fill(&mut record, &lasting, required);
        self.next = Some((Arc::clone(snapshot), Arc::new(record)));
        self.send();
        self.settle().await;
    }

    /// Notes that `desired` was applied only in part: some of it may be in force.
    pub fn attempt(&mut self, snapshot: &Snapshot, desired: &Desired) {
        let objects = snapshot.forwards.iter().map(|sourced| (ForwardKey::of(&sourced.object), sourced.clone()));
        self.attempted.extend(objects);
        self.in_force = std::mem::take(&mut self.in_force).union(desired.translations.clone());
        if self.complete && !self.records_flows() {
            self.record_flows();
            self.hand_on();
        }
    }

    /// Notes that `desired` was applied completely: rules, routes and connections.
    pub fn advance(&mut self, snapshot: &Arc<Snapshot>, desired: &Desired) {
        self.attempted.clear();
        self.in_force.clone_from(&desired.translations);
        let same_set = self.has(snapshot);
        self.set = Some(Arc::clone(snapshot));
        let announced = self.next.take().is_some();
        // This compares with the record, because `in_force` may contain translations that were only attempted.
        if same_set && self.records_flows() {
            if announced || !self.confirmed {
                self.send();
            }
            self.confirmed = true;
            return;
        }
        (self.complete, self.confirmed) = (true, true);
        fill(&mut self.record, snapshot, self.required);
        self.record_flows();
        self.hand_on();
    }

    fn record_flows(&mut self) {
        self.record.in_force = self.in_force.clone().union(self.suspended.clone());
    }

    /// Whether the record contains exactly the flows that are in force or suspended.
    fn records_flows(&self) -> bool {
        self.record.in_force == self.in_force.clone().union(self.suspended.clone())
    }

    /// Whether the record has the content of `snapshot`, which may be the very set that it was made from.
    fn has(&self, snapshot: &Arc<Snapshot>) -> bool {
        self.set.as_ref().is_some_and(|set| Arc::ptr_eq(set, snapshot)) || self.complete && self.says(snapshot)
    }

    /// Whether the record has the content of `snapshot`. A change of status alone does not count, so it causes no write.
    fn says(&self, snapshot: &Snapshot) -> bool {
        let Record { forwards, labels, api_servers, node_addresses, services, nodes, grants, grants_required, .. } = &self.record;
        GrantSet::are_the_same(grants.as_ref(), snapshot.grants.as_ref())
            && *grants_required == (self.required == RequireGrants::Yes)
            && (labels, api_servers, node_addresses) == (&snapshot.labels, known(snapshot), &snapshot.node_addresses)
            && (services, nodes) == (&snapshot.services, &snapshot.nodes)
            && forwards.differences(&snapshot.forwards).all(same_but_status)
    }

    fn hand_on(&mut self) {
        self.sent = Arc::new(self.record.clone());
        self.send();
    }

    fn send(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            let next = self.next.as_ref().map(|(_, record)| Arc::clone(record));
            recorder.send(Step { record: Arc::clone(&self.sent), next });
        }
    }

    /// Waits a short time for the disk to write the sent records; see `Records::settle`.
    pub async fn settle(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.settle().await;
        }
    }
}

fn listed(translations: &Translations) -> Vec<Translation> {
    translations.iter().cloned().collect()
}

/// Takes everything but the flows into a record.
fn fill(record: &mut Record, snapshot: &Snapshot, required: RequireGrants) {
    record.forwards.clone_from(&snapshot.forwards);
    record.labels.clone_from(&snapshot.labels);
    record.api_servers.clone_from(known(snapshot));
    record.node_addresses.clone_from(&snapshot.node_addresses);
    record.services.clone_from(&snapshot.services);
    record.nodes = Arc::clone(&snapshot.nodes);
    record.grants.clone_from(&snapshot.grants);
    record.grants_required = required == RequireGrants::Yes;
}

/// The addresses of the API servers if all of them are known, otherwise none.
fn known(snapshot: &Snapshot) -> &BTreeSet<IpAddr> {
    static NONE: BTreeSet<IpAddr> = BTreeSet::new();
    match snapshot.sight {
        Sight::Whole => &snapshot.api_servers,
        Sight::Partial => &NONE,
    }
}

/// Whether the record, which contains no status, has the same of both objects.
fn same_but_status(Difference { before, now, .. }: Difference<'_>) -> bool {
    let (Some(a), Some(b)) = (before, now) else { return false };
    let lasting = |metadata: &ObjectMeta| ObjectMeta { resource_version: None, managed_fields: None, ..metadata.clone() };
    let same_object = Arc::ptr_eq(&a.object, &b.object)
        || (a.object.spec == b.object.spec && lasting(&a.object.metadata) == lasting(&b.object.metadata));
    same_object && a.origin == b.origin
}

#[cfg(test)]
mod tests;
