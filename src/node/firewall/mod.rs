//! The rules of other programs that forwarded packets meet: base chains of `nf_tables` by netlink, tables of legacy xtables
//! by `iptables-legacy-save`.
//!
//! This is weak evidence: what cannot be read is left out, and nothing waits for it. `nf_tables` is read again only if its
//! generation has changed. If a reading takes long, the next one is delayed, so that reading takes at most a fiftieth of
//! the time.

mod expression;
mod field;
mod kernel;
mod legacy;
mod sets;
mod xtables;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::dataplane::Backend;
use crate::dataplane::iptables::Variant;
use crate::model::{BaseChain, Firewall, Hook};
use crate::netlink::NetlinkError;
use kernel::Wire;

/// The minimum delay until the next reading, as a multiple of the duration of the last one.
const SHARE: u32 = 50;
/// A reading that is faster than this causes no delay.
const QUICK: Duration = Duration::from_millis(20);
/// The maximum delay of a reading.
const MOST: Duration = Duration::from_secs(30);

/// Reads the rules of other programs, for an agent that uses one variant of iptables.
#[derive(Debug, Default)]
pub(super) struct Reader {
    native: Cache,
    legacy: Cache,
    whole: Arc<Firewall>,
    /// Whether it was logged that something cannot be read.
    told: bool,
}

/// The result of the last reading, and when the next one is allowed.
#[derive(Debug, Default)]
struct Cache {
    generation: Option<u32>,
    chains: Vec<BaseChain>,
    next: Option<Instant>,
}

impl Cache {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|next| next <= Instant::now())
    }

    /// Stores a reading. Returns whether it changed.
    fn take(&mut self, chains: Vec<BaseChain>, begun: Instant) -> bool {
        let took = begun.elapsed();
        self.next = (took > QUICK).then(|| Instant::now() + MOST.min(took * SHARE));
        let changed = self.chains != chains;
        self.chains = chains;
        changed
    }
}

impl Reader {
    /// The rules of other programs, in the network namespace of the calling thread. `ours` is what holds the
    /// operator's rules; no other rule decides about forwarded flows in the chains in which those are first.
    pub(super) async fn read(&mut self, ours: Backend) -> Arc<Firewall> {
        let native = match self.read_native(ours).await {
            Ok(changed) => {
                self.told = false;
                changed
            }
            Err(error) => {
                if !self.told {
                    let error = &error as &(dyn std::error::Error + Send + Sync);
                    warn!(error, "other programs' rules in nf_tables cannot be read; status may miss what they stop");
                    self.told = true;
                }
                false
            }
        };
        let legacy = self.read_legacy(ours).await;
        if native || legacy {
            let all = self.native.chains.iter().chain(&self.legacy.chains);
            let chains = all.filter(|chain| !chain.is_harmless()).cloned().collect();
            self.whole = Arc::new(Firewall { chains, nat_priorities: ours.nat_priorities() });
        }
        Arc::clone(&self.whole)
    }

    async fn read_native(&mut self, ours: Backend) -> Result<bool, NetlinkError> {
        let mut wire = Wire::open()?;
        let Some(generation) = wire.generation().await? else { return Ok(false) };
        if self.native.generation == Some(generation) || !self.native.is_due() {
            return Ok(false);
        }
        let begun = Instant::now();
        let chains = wire.base_chains(ours).await?;
        // If another program wrote in the meantime, it is read again at the next look, which that write triggers.
        self.native.generation = (!wire.is_volatile()).then_some(generation);
        Ok(self.native.take(chains, begun))
    }

    /// There is no generation for it, so it is read whenever a reading is allowed.
    async fn read_legacy(&mut self, ours: Backend) -> bool {
        if !self.legacy.is_due() {
            return false;
        }
        let begun = Instant::now();
        let chains = legacy::base_chains(ours).await;
        self.legacy.take(chains, begun)
    }
}

/// Whether a built-in chain of iptables is one that begins with a jump of the operator.
fn is_ours(ours: Backend, variant: Variant, table: &str, hook: Hook) -> bool {
    match ours {
        Backend::Iptables(used) => {
            used == variant && matches!((table, hook), ("filter", Hook::Forward) | ("nat", Hook::Prerouting | Hook::Postrouting))
        }
        // It accepts there where the chain may drop.
        Backend::Nftables => (table, hook) == ("filter", Hook::Forward),
    }
}
