//! Applies the state to the kernel of this node: first the rules, then the removal of connections that only the old rules
//! explain, then the routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::backend::Rules;
use super::conntrack::{Judged, Purger};
use super::forwarding::{Forwarded, Forwarding, ForwardingError};
use super::nftables::Ownership;
use super::routes::{Keep, Lingering};
use super::rules::{Counting, Function, RulesError, RulesReport};
use super::{Applied, Backend, Dataplane, Look, conntrack, routes};
use crate::model::{Connmark, Desired, Translation, Translations};

/// The kernel of this node's network namespace.
#[derive(Debug)]
pub struct Kernel {
    backend: Backend,
    rules: Rules,
    /// The bit of the connection mark that the translated flows have.
    mark: Connmark,
    forwarding: Forwarding,
    /// How the connections were last checked, if the rules have not changed since. `None` at first: the process that wrote the
    /// existing rules may have stopped before it checked the connections.
    settled: Mutex<Option<Settled>>,
    /// The connections that were cut, and the routes that stay for them.
    history: AsyncMutex<History>,
}

/// A check of the connections.
#[derive(Debug)]
struct Settled {
    /// The listen addresses that this node had.
    held: BTreeSet<IpAddr>,
    /// Whether all desired rules were in force. If not, flows that began since then may be untranslated although no translation
    /// changes any more.
    whole: bool,
}

/// The state about cut connections that is kept from one apply to the next.
#[derive(Debug, Default)]
struct History {
    purger: Purger,
    /// What was in force for the last check of the connections, if it failed. The next one needs it.
    owed: Translations,
    lingering: Lingering,
}

impl Kernel {
    /// The kernel, with rules that `backend` holds.
    #[must_use]
    pub fn new(backend: Backend, forwarding: Forwarding) -> Self {
        Self {
            backend,
            rules: Rules::new(backend),
            mark: Connmark::default(),
            forwarding,
            settled: Mutex::new(None),
            history: AsyncMutex::default(),
        }
    }

    /// Sets the bit of the connection mark that the translated flows have.
    #[must_use]
    pub fn marking(self, mark: Connmark) -> Self {
        let history = History { purger: Purger::new(mark), ..History::default() };
        Self { mark, rules: self.rules.marking(mark), history: AsyncMutex::new(history), ..self }
    }

    /// Sets whose the table of nftables is; by default, every program can change it.
    #[must_use]
    pub fn owned(self, ownership: Ownership) -> Self {
        Self { rules: self.rules.owned(ownership), ..self }
    }

    /// Sets whether the connections that match the rules are counted.
    #[must_use]
    pub fn counting(self, counting: Counting) -> Self {
        Self { rules: self.rules.counting(counting), ..self }
    }

    fn settled(&self) -> MutexGuard<'_, Option<Settled>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enables IP forwarding if that is configured.
    fn enable_forwarding(&self, desired: &Desired) -> Result<Forwarded, ForwardingError> {
        if desired.translations.is_empty() { Ok(Forwarded::AsFound) } else { self.forwarding.apply(&desired.legs) }
    }
}

/// The part of `desired` that the rules have in force: without the translations for which a rule was refused. If it is not
/// known whether a rule is in place, an untranslated flow is not treated as wrong.
fn in_force(desired: &Desired, rules: &RulesReport) -> Desired {
    let mut desired = desired.clone();
    if !rules.refused.is_empty() {
        let is_there = |translation: &Translation| !rules.refused.iter().any(|refused| refused.concerns(translation));
        desired.translations = desired.translations.into_iter().filter(is_there).collect();
    }
    if rules.failed.contains_key(&Function::Nat) {
        desired.held.clear();
    }
    desired
}

impl Dataplane for Kernel {
    async fn apply(&self, desired: &Desired, before: &Translations, look: Look) -> Applied {
        // FORWARD asks for the mark from the next write on.
        let marked = match look {
            Look::Everything => conntrack::mark(&desired.translations, self.mark).await,
            Look::Changes => Ok(0),
        };
        let rules = self.rules.apply(&desired.translations, look).await;
        let forwarding = self.enable_forwarding(desired);
        // A flow that began while the rule or the address was missing is not translated. It would not be checked again
        // otherwise.
        let settled = self.settled().take().filter(|settled| settled.held == desired.held);
        let conntrack = if settled.is_some() && rules.is_closed() && !rules.changed() && *before == desired.translations {
            Ok(conntrack::Purged::default())
        } else if settled.is_some_and(|settled| settled.whole) && rules.is_known_change() {
            self.history.lock().await.purger.purge(before, desired, Judged::Changes).await
        } else {
            // The rules that were read are the best source for what was in force. The caller may know of more.
            let mut history = self.history.lock().await;
            let mut before = before.clone().union(std::mem::take(&mut history.owed));
            before.extend(rules.before.iter().cloned());
            let purged = history.purger.purge(&before, &in_force(desired, &rules), Judged::All).await;
            if purged.is_err() {
                history.owed = before;
            }
            purged
        };
        let conntrack = conntrack.and_then(|purged| marked.map(|_| purged));
        // The route to a client is removed last, after both ends of the cut connections were notified.
        let keep = match &conntrack {
            Ok(purged) if rules.is_closed() => Keep::To(purged.ends.clone()),
            Ok(_) | Err(_) => Keep::All,
        };
        let routes = self.history.lock().await.lingering.apply(&desired.routes, &keep).await;
        let checked = conntrack.is_ok() && rules.is_closed();
        *self.settled() = checked.then(|| Settled { held: desired.held.clone(), whole: rules.is_written() });
        Applied { rules, routes, conntrack, forwarding }
    }

    async fn is_untouched(&self) -> bool {
        self.rules.is_untouched().await
    }

    async fn translated(&self) -> Result<Vec<Translation>, RulesError> {
        let mut held = self.rules.translated().await?;
        // An earlier choice of backend may have left rules.
        for other in Backend::ALL.into_iter().filter(|other| *other != self.backend) {
            if other.is_in_use().await {
                held.extend(Rules::new(other).translated().await?);
            }
        }
        Ok(held)
    }

    async fn inspect(&self, desired: &Desired) -> Applied {
        let rules = self.rules.inspect(&desired.translations).await;
        let routes = routes::inspect(&desired.routes).await;
        Applied { rules, routes, conntrack: Ok(conntrack::Purged::default()), forwarding: Ok(Forwarded::AsFound) }
    }
}
