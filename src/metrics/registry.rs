//! The metrics: their names, their help texts, and which result of a sync is recorded in which metric.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::cluster::{ClusterMetrics, ClusterView};
use super::conntrack::ConntrackTable;
use super::forwards::{Detail, Forwards, PerForward};
use super::owners::{Lane, Owners};
use super::{Part, RecordAge, Repair, SyncOutcome, Written};
use crate::api::Role;
use crate::dataplane::conntrack::flows::{Accounting, Volumes};
use crate::dataplane::routes::RouteState;
use crate::dataplane::rules::Step;
use crate::dataplane::{Applied, Backend};
use crate::forward::ForwardKey;
use crate::model::FlowMatch;
use crate::plan::Verdicts;
use crate::status::{Judgements, Standing, State, Type};
use crate::version;

/// The prefix of every metric name, followed by `_`.
pub const PREFIX: &str = "portforward";

/// One label and its value. Both come from closed sets.
type Label = [(&'static str, &'static str); 1];
type Labels = [(&'static str, &'static str); 2];
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The metrics of one agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    durations: Family<Label, Histogram, fn() -> Histogram>,
    last: Seconds,
    queued: Seconds,
    programming: Histogram,
    failures: Family<Label, Counter>,
    repairs: Family<Label, Counter>,
    refused: Counter,
    purged: Counter,
    forwards: Family<Labels, Gauge>,
    wanted: Gauge,
    carried: Family<Label, Gauge>,
    rules: Family<Label, Gauge>,
    chains: Family<Label, Gauge>,
    routes: Family<Label, Gauge>,
    unwritten: Family<Label, Counter>,
    record_outdated: Gauge,
    unheard: Option<Counter>,
    per_forward: Arc<Forwards>,
    cluster: Option<ClusterMetrics>,
}

impl Metrics {
    /// The metrics of an agent whose rules `backend` holds. With `cluster`, also the metrics of the cluster.
    #[must_use]
    pub fn new(backend: Backend, cluster: Option<Box<dyn ClusterView>>, per_forward: PerForward) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        build_info(&mut registry, backend);
        let durations = Family::new_with_constructor(sync_durations as fn() -> Histogram);
        registry.register_with_unit("sync_duration", SYNC_DURATION, Unit::Seconds, durations.clone());
        let (last, queued) = (Seconds::default(), Seconds::default());
        registry.register_with_unit("sync_last_timestamp", SYNC_LAST, Unit::Seconds, last.clone());
        registry.register_with_unit("sync_last_queued_timestamp", SYNC_QUEUED, Unit::Seconds, queued.clone());
        let programming = Histogram::new(exponential_buckets(0.01, 2.0, 15));
        registry.register_with_unit("network_programming_duration", PROGRAMMING, Unit::Seconds, programming.clone());
        let mut add = |name, help| registered(&mut registry, name, help, Family::<Label, Counter>::default());
        let failures = add("sync_failures", SYNC_FAILURES);
        let repairs = add("repairs", REPAIRS);
        let unwritten = add("write_failures", WRITE_FAILURES);
        let refused = registered(&mut registry, "rules_write_failures", RULES_WRITE_FAILURES, Counter::default());
        let purged = registered(&mut registry, "conntrack_deleted_entries", CONNTRACK_DELETED, Counter::default());
        let forwards = registered(&mut registry, "forwards", FORWARDS, Family::<Labels, Gauge>::default());
        let record_outdated = registered(&mut registry, "record_outdated", RECORD_OUTDATED, Gauge::default());
        let wanted = registered(&mut registry, "forwards_wanted", FORWARDS_WANTED, Gauge::default());
        let mut add = |name, help| registered(&mut registry, name, help, Family::<Label, Gauge>::default());
        let carried = add("forwards_carried", FORWARDS_CARRIED);
        let rules = add("rules", RULES);
        let chains = add("chains", CHAINS);
        let routes = add("routes", ROUTES);
        let cluster = cluster.map(|view| ClusterMetrics::new(&mut registry, view));
        registry.register_collector(Box::new(ConntrackTable));
        let unheard = (per_forward.detail == Detail::Traffic)
            .then(|| registered(&mut registry, "conntrack_events_lost", EVENTS_LOST, Counter::default()));
        let per_forward = Arc::new(Forwards::new(per_forward));
        registry.register_collector(Box::new(Arc::clone(&per_forward)));
        let metrics = Self {
            registry,
            durations,
            last,
            queued,
            programming,
            failures,
            repairs,
            refused,
            purged,
            forwards,
            wanted,
            carried,
            rules,
            chains,
            routes,
            unwritten,
            record_outdated,
            unheard,
            per_forward,
            cluster,
        };
        metrics.begin(backend);
        metrics
    }

    /// Creates every series with 0, so that a rate over the first event is correct.
    fn begin(&self, backend: Backend) {
        for outcome in SyncOutcome::ALL {
            drop(self.durations.get_or_create(&[("outcome", outcome.as_str())]));
        }
        for part in Part::ALL {
            self.failures.get_or_create(&[("part", part.as_str())]).inc_by(0);
        }
        for what in Repair::ALL {
            self.repairs.get_or_create(&[("what", what.as_str())]).inc_by(0);
        }
        for what in Written::ALL {
            self.unwritten.get_or_create(&[("what", what.as_str())]).inc_by(0);
        }
        for table in backend.tables() {
            self.rules.get_or_create(&[("table", table)]).set(0);
            self.chains.get_or_create(&[("table", table)]).set(0);
        }
        self.set_routes(std::iter::empty());
    }

    /// Records that a sync is due from now on.
    pub fn queued(&self) {
        self.queued.set(now());
    }

    /// Records the end of a sync and its duration.
    pub fn ended(&self, outcome: SyncOutcome, took: Duration) {
        self.durations.get_or_create(&[("outcome", outcome.as_str())]).observe(took.as_secs_f64());
        match outcome {
            SyncOutcome::Unchanged | SyncOutcome::Written => {
                self.last.set(now());
            }
            SyncOutcome::Failed => {}
        }
    }

    /// Records that the kernel has a change in force, and how long ago the agent received that change.
    pub fn programmed(&self, since: Duration) {
        self.programming.observe(since.as_secs_f64());
    }

    /// Records that a part of a sync failed.
    pub fn part_failed(&self, part: Part) {
        self.failures.get_or_create(&[("part", part.as_str())]).inc();
    }

    /// Counts repairs of rules, jumps or routes of the operator.
    pub fn repaired(&self, what: Repair, count: usize) {
        self.repairs.get_or_create(&[("what", what.as_str())]).inc_by(counted(count));
    }

    /// Records whether the record on the disk is as new as the state of the kernel.
    pub fn record_is(&self, age: RecordAge) {
        self.record_outdated.set(match age {
            RecordAge::Current => 0,
            RecordAge::Outdated => 1,
        });
    }

    /// Counts a failed write.
    pub fn unwritten(&self, what: Written) {
        self.unwritten.get_or_create(&[("what", what.as_str())]).inc();
    }

    /// Counts that another client has overwritten a status that this agent wrote.
    pub fn overwritten(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.overwritten();
        }
    }

    /// Shows the number of forwards whose status is contested.
    pub fn contested(&self, count: usize) {
        if let Some(cluster) = &self.cluster {
            cluster.contested(count);
        }
    }

    /// Records the result of one apply: counts the failures and shows the state that was read back.
    pub fn applied(&self, applied: &Applied) {
        let rules = &applied.rules;
        if !rules.is_written() {
            self.part_failed(Part::Rules);
        }
        let errors = rules.failed.values().chain(rules.refused.iter().map(|refused| &refused.error));
        if errors.into_iter().any(|error| error.step == Step::Write) {
            self.refused.inc();
        }
        for (table, held) in &rules.held {
            self.rules.get_or_create(&[("table", table)]).set(shown(held.rules));
            self.chains.get_or_create(&[("table", table)]).set(shown(held.chains));
        }
        match &applied.routes {
            Ok(routes) => self.set_routes(routes.states.values()),
            Err(_) => self.part_failed(Part::Routes),
        }
        match &applied.conntrack {
            Ok(purged) => {
                self.purged.inc_by(counted(purged.count));
            }
            Err(_) => self.part_failed(Part::Conntrack),
        }
    }

    /// Records the result of this node for each forward. In a cluster, forwards that concern only other nodes are left out.
    pub fn judged(&self, judgements: &Judgements) {
        self.per_forward.judged(judgements);
    }

    /// Which series exist for single forwards.
    #[must_use]
    pub fn per_forward(&self) -> PerForward {
        self.per_forward.options()
    }

    /// Shows the traffic of these forwards from now on. Removes the series of those that have no verdict any more.
    pub fn own<'a>(&self, changed: impl IntoIterator<Item = &'a ForwardKey>, verdicts: &Verdicts) {
        self.per_forward.own(changed, verdicts);
    }

    /// Counts the connections that matched the rules. `owners` attributes their translations to forwards.
    pub fn connected(&self, owners: &Owners, met: &[(FlowMatch, u64)]) {
        self.per_forward.connected(owners, met);
    }

    /// Adds traffic, counted by the kernel. If accounting is off, the counters stay at their last value.
    pub fn carried<'a>(&self, accounting: Accounting, more: impl IntoIterator<Item = (&'a Lane, Volumes)>) {
        self.per_forward.carried(accounting, more);
    }

    /// Counts that the kernel dropped notifications about ended connections, because its buffer for this agent was full.
    pub fn unheard(&self) {
        if let Some(unheard) = &self.unheard {
            unheard.inc();
        }
    }

    /// The exposition: the text that a scrape receives.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
        if let Some(cluster) = &self.cluster {
            cluster.refresh();
        }
        self.set_forwards(&self.per_forward.judgements());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn set_forwards(&self, judgements: &Judgements) {
        let (mut states, mut wanted) = (BTreeMap::<(&str, &str), usize>::new(), 0);
        let (mut active, mut standby) = (0, 0);
        for judgement in judgements.values() {
            // With a folder as source there are no other nodes: a forward that this node does not carry is carried by none.
            if self.cluster.is_none() || judgement.standing != Standing::Elsewhere {
                for condition in &judgement.conditions {
                    *states.entry((condition.kind.as_str(), condition.state.as_str())).or_default() += 1;
                }
            }
            wanted += usize::from(judgement.is_wanted());
            match judgement.role.filter(|_| judgement.standing == Standing::Carried) {
                Some(Role::Active) => active += 1,
                Some(Role::Standby) => standby += 1,
                None => {}
            }
        }
        for kind in Type::ALL {
            for state in State::ALL {
                let (kind, state) = (kind.as_str(), state.as_str());
                let count = states.get(&(kind, state)).copied().unwrap_or_default();
                self.forwards.get_or_create(&[("condition", kind), ("status", state)]).set(shown(count));
            }
        }
        self.wanted.set(shown(wanted));
        for (label, count) in [("Active", active), ("Standby", standby)] {
            self.carried.get_or_create(&[("role", label)]).set(shown(count));
        }
    }

    fn set_routes<'a>(&self, states: impl Iterator<Item = &'a RouteState>) {
        let mut counts = BTreeMap::from(["installed", "satisfied", "contested", "missing", "refused"].map(|state| (state, 0)));
        for state in states {
            *counts.entry(route_state(state)).or_default() += 1;
        }
        for (state, count) in counts {
            self.routes.get_or_create(&[("state", state)]).set(count);
        }
    }
}

fn build_info(registry: &mut Registry, backend: Backend) {
    let commit = version::COMMIT.unwrap_or("unknown");
    let labels = [("version", version::VERSION), ("commit", commit), ("backend", &backend.to_string())];
    registry.register("build", BUILD, Info::new(labels.map(|(name, value)| (name, value.to_owned())).to_vec()));
}

fn sync_durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// In seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

pub(super) fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

const fn route_state(state: &RouteState) -> &'static str {
    match state {
        RouteState::Installed => "installed",
        RouteState::Satisfied => "satisfied",
        RouteState::Contested { .. } => "contested",
        RouteState::Missing => "missing",
        RouteState::Refused { .. } => "refused",
    }
}

pub(super) fn shown(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn counted(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

// The library appends a full stop to each help text.
const BUILD: &str = "The version of this program, the commit that it was built from, and what holds its rules";
const SYNC_DURATION: &str = "Duration of a sync of the node, from reading its facts to reading its kernel back, by outcome";
const SYNC_LAST: &str =
    "Time of the last sync that ended with everything as planned, in seconds since 1970; 0 before the first one";
const SYNC_QUEUED: &str =
    "Time when a sync was last requested, in seconds since 1970; it begins at once, or when the running sync ends";
const PROGRAMMING: &str = "Time from the moment when the agent received a change of the forwards until the kernel, read back, had it in force; forwards that exist when the agent starts are not counted";
const RULES_WRITE_FAILURES: &str = "How often rules of the operator could not be written: the kernel or a program refused them or did not end; the agent retries";
const SYNC_FAILURES: &str = "How often a part of a sync failed; the agent retries";
const REPAIRS: &str =
    "Chains (rules), jumps and routes of the operator that were repaired after another program had changed them";
const CONNTRACK_DELETED: &str = "Connections that were cut because they belong to no rule in force any more";
const FORWARDS: &str =
    "Forwards by their conditions on this node; with an API server, forwards that only other nodes can carry are not counted";
const FORWARDS_WANTED: &str =
    "Forwards that are valid and not disabled, whichever node carries them; the same value on every node";
const FORWARDS_CARRIED: &str = "Forwards that this node carries, by its role for them";
const RULES: &str =
    "Rules in the chains of the operator, as last read back from the kernel; jumps in built-in chains are not counted";
const CHAINS: &str = "Chains of the operator, as last read back from the kernel";
const ROUTES: &str = "Host routes that forwards ask for, by state: installed; satisfied by a route of another program with the same next hop; contested by a route with another next hop; refused by the kernel; missing without a known reason";
const RECORD_OUTDATED: &str = "1 while the record on the disk is older than the state of the kernel, otherwise 0";
const WRITE_FAILURES: &str = "How often the record or the status of the forwards could not be written; the agent retries";
const EVENTS_LOST: &str = "How often the kernel lost notifications because too many connections ended at once; the traffic of these connections since the last reading is not counted";
