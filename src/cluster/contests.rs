//! Keeps the history of each status that this agent writes. Logs and counts when another client overwrites one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::PortForwardStatus;
use crate::forward::ForwardKey;
use crate::metrics::Metrics;
use crate::status::{Contest, Ruling, Write};

/// How soon a contested object is looked at again although nothing changes: a pause may be over, or the contest.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The histories, by object.
pub(super) struct Contests {
    of: BTreeMap<ForwardKey, Kept>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Kept {
    contest: Contest,
    looks_at: Option<Instant>,
}

impl Contests {
    /// No history yet.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { of: BTreeMap::new(), metrics }
    }

    /// Records that a write was made.
    pub(super) fn wrote(&mut self, key: &ForwardKey, write: &Write) {
        self.of.entry(key.clone()).or_default().contest.wrote(write);
    }

    /// Forgets an object that is gone.
    pub(super) fn forget(&mut self, key: &ForwardKey) {
        if self.of.remove(key).is_some_and(|kept| kept.contest.is_contested()) {
            self.show();
        }
    }

    /// The write to make instead of the one that is `due`, and when the object must be looked at again although nothing changes.
    pub(super) fn rule(
        &mut self,
        key: &ForwardKey,
        stored: &PortForwardStatus,
        due: Option<Write>,
        now: Instant,
    ) -> (Option<Write>, Option<Instant>) {
        let Some(kept) = self.of.get_mut(key) else { return (due, None) };
        let (before, time) = (kept.contest.is_contested(), Timestamp::now());
        if kept.contest.look(stored, due.as_ref(), time) {
            self.metrics.overwritten();
        }
        let contested = kept.contest.is_contested();
        let write = match kept.contest.rule(stored, due, time) {
            Ruling::Write(write) => Some(write),
            Ruling::Rest | Ruling::Later => None,
        };
        // At most one look waits, however often the object changes.
        let waits = kept.looks_at.filter(|at| *at > now);
        kept.looks_at = contested.then(|| waits.unwrap_or(now + LOOK_AGAIN));
        let again = if waits.is_none() { kept.looks_at } else { None };
        match (before, contested) {
            (false, true) => warn!(
                forward = %key,
                "another client keeps overwriting the status of this forward; the agent pauses between its writes. Find the client in the audit log of the API server; it may have the token of an agent"
            ),
            (true, false) => info!(forward = %key, "nobody overwrites the status of this forward any more"),
            (true, true) | (false, false) => {}
        }
        if before != contested {
            self.show();
        }
        (write, again)
    }

    fn show(&self) {
        self.metrics.contested(self.of.values().filter(|kept| kept.contest.is_contested()).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{NodeStatus, Role};
    use crate::cluster::Contact;
    use crate::dataplane::Backend;
    use crate::metrics::{Detail, PerForward};

    const TIMES: usize = 6;

    fn key(name: &str) -> ForwardKey {
        ForwardKey::new("a", name)
    }

    fn entry() -> Write {
        let node_name = "px0".to_owned();
        Write::Entry(NodeStatus { node_name, role: Role::Active, observed_generation: None, conditions: Vec::new() })
    }

    fn contests() -> Contests {
        let per_forward = PerForward { detail: Detail::Off, limit: 0 };
        Contests::new(Arc::new(Metrics::new(Backend::default(), Some(Box::new(Contact::none())), per_forward)))
    }

    /// The numbers of overwritings and of contested forwards in the metrics.
    fn shown(contests: &Contests) -> [String; 2] {
        let text = contests.metrics.exposition().unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        [value("portforward_status_overwritten_total "), value("portforward_status_contested ")]
    }

    /// Lets another client remove the entry of this agent, and returns what the agent does about it.
    fn overwritten(contests: &mut Contests, key: &ForwardKey, now: Instant) -> (Option<Write>, Option<Instant>) {
        contests.wrote(key, &entry());
        contests.rule(key, &PortForwardStatus::default(), Some(entry()), now)
    }

    #[test]
    fn a_contested_object_is_counted_and_looked_at_again_once_and_its_write_waits() {
        let (mut contests, now, stored) = (contests(), Instant::now(), PortForwardStatus::default());
        let (contested, calm) = (key("contested"), key("calm"));
        for _ in 1..TIMES {
            assert_eq!(overwritten(&mut contests, &contested, now), (Some(entry()), None));
        }
        assert_eq!(shown(&contests), ["5", "0"]);
        let soon = now + LOOK_AGAIN;
        assert_eq!(overwritten(&mut contests, &contested, now), (None, Some(soon)), "it pauses");
        assert_eq!(shown(&contests), ["6", "1"]);
        assert_eq!(contests.rule(&contested, &stored, None, now), (None, None), "one look waits already");
        assert_eq!(contests.rule(&contested, &stored, None, soon), (None, Some(soon + LOOK_AGAIN)), "that look is over");
        assert_eq!(contests.rule(&calm, &stored, Some(entry()), now), (Some(entry()), None), "nothing is known of another one");
        contests.wrote(&calm, &entry());
        assert_eq!(contests.rule(&calm, &stored, None, now), (None, None));
        contests.forget(&calm);
        assert_eq!(shown(&contests), ["6", "1"]);
        contests.forget(&contested);
        assert_eq!(shown(&contests), ["6", "0"], "a deleted object is not contested");
    }
}
