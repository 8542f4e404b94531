//! Applies the state to the kernel of this node: first the rules, then the removal of connections that only the old rules
//! explain, then the routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use tracing::{info, warn};

use super::conntrack::{Judged, Purger};
use super::forwarding::{Forwarded, Forwarding, ForwardingError};
use super::iptables::{Counting, Iptables, RulesError, RulesReport, Ruleset, Table, Variant, scaffold};
use super::routes::{Keep, Lingering};
use super::{Applied, Dataplane, Look, conntrack, routes};
use crate::model::{Connmark, Desired, Translation, Translations};

/// The kernel of this node's network namespace.
#[derive(Debug)]
pub struct Kernel {
    iptables: Iptables,
    /// The bit of the connection mark that the translated flows have.
    mark: Connmark,
    /// The translations of the last apply, and their layout.
    laid_out: Mutex<(Translations, Ruleset)>,
    forwarding: Forwarding,
    /// How the connections were last checked, if the rules have not changed since. `None` at first: the process that wrote the
    /// existing rules may have stopped before it checked the connections.
    settled: Mutex<Option<Settled>>,
    /// The connections that were cut, and the routes that stay for them.
    history: AsyncMutex<History>,
    /// Whether the other variant was checked. Rules of the operator in the other variant, from an earlier choice, would be
    /// a second set.
    swept: AtomicBool,
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
    /// The kernel, with rules written by the programs of `variant`.
    #[must_use]
    pub fn new(variant: Variant, forwarding: Forwarding) -> Self {
        Self {
            iptables: Iptables::new(variant),
            mark: Connmark::default(),
            laid_out: Mutex::default(),
            forwarding,
            settled: Mutex::new(None),
            history: AsyncMutex::default(),
            swept: AtomicBool::new(false),
        }
    }

    /// Sets the bit of the connection mark that the translated flows have.
    #[must_use]
    pub fn marking(self, mark: Connmark) -> Self {
        let nothing = (Translations::new(), Ruleset::of(&Translations::new(), mark));
        let history = History { purger: Purger::new(mark), ..History::default() };
        Self { mark, laid_out: Mutex::new(nothing), history: AsyncMutex::new(history), ..self }
    }

    /// Sets whether the connections that match the rules are counted.
    #[must_use]
    pub fn counting(self, counting: Counting) -> Self {
        Self { iptables: self.iptables.counting(counting), ..self }
    }

    fn settled(&self) -> MutexGuard<'_, Option<Settled>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layout of `translations`, from the last one.
    fn lay_out(&self, translations: &Translations) -> Ruleset {
        let (before, ruleset) = std::mem::take(&mut *self.laid_out.lock().unwrap_or_else(PoisonError::into_inner));
        ruleset.amended(&before, translations)
    }

    /// Removes, once, the rules that an earlier choice of variant left in the other variant. The rules of this variant are
    /// in place by then, so no flow is lost.
    async fn sweep_other_variant(&self) {
        let other = self.iptables.variant().other();
        if self.swept.load(Ordering::Relaxed) {
            return;
        }
        if other.is_in_use().await {
            let report = Iptables::new(other).apply(&Ruleset::default(), Look::Everything).await;
            if let Some(error) = report.failure() {
                return warn!(variant = %other, %error, "rules of ours may be left in the other iptables; trying again");
            }
            if report.changed() {
                info!(variant = %other, chains = report.deleted.len(), "rules of ours in the other iptables removed");
            }
        }
        if other == Variant::Nft
            && let Err(error) = scaffold::remove().await
        {
            let error = &error as &(dyn std::error::Error + Send + Sync);
            warn!(error, "empty tables of ours may be left in nf_tables until cleanup");
        }
        self.swept.store(true, Ordering::Relaxed);
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
    if rules.failed.contains_key(&Table::Nat) {
        desired.held.clear();
    }
    desired
}

impl Dataplane for Kernel {
    async fn apply(&self, desired: &Desired, before: &Translations, look: Look) -> Applied {
        let ruleset = self.lay_out(&desired.translations);
        // FORWARD asks for the mark from the next write on.
        let marked = match look {
            Look::Everything => conntrack::mark(&desired.translations, self.mark).await,
            Look::Changes => Ok(0),
        };
        let rules = self.iptables.apply(&ruleset, look).await;
        *self.laid_out.lock().unwrap_or_else(PoisonError::into_inner) = (desired.translations.clone(), ruleset);
        if rules.failed.is_empty() {
            self.sweep_other_variant().await;
        }
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
        self.iptables.is_untouched().await
    }

    async fn translated(&self) -> Result<Vec<Translation>, RulesError> {
        self.iptables.translated().await
    }

    async fn inspect(&self, desired: &Desired) -> Applied {
        let rules = self.iptables.inspect(&Ruleset::of(&desired.translations, self.mark)).await;
        let routes = routes::inspect(&desired.routes).await;
        Applied { rules, routes, conntrack: Ok(conntrack::Purged::default()), forwarding: Ok(Forwarded::AsFound) }
    }
}
