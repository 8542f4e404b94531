//! The rules of other programs that packets of ours meet: base chains of `nf_tables` by netlink, tables of the older xtables by
//! `iptables-legacy-save`.
//!
//! Weak evidence: what cannot be read is left out, and nothing waits for it. `nf_tables` is read again only when its generation
//! has changed. Where a reading takes long, the next one waits: looking takes a fiftieth of the time at most.

mod expression;
mod field;
mod kernel;
mod legacy;
mod sets;
mod xtables;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::dataplane::iptables::Variant;
use crate::model::{BaseChain, Firewall, Hook};
use crate::netlink::NetlinkError;
use kernel::Wire;

/// How many times longer than a reading took the next one waits at least.
const SHARE: u32 = 50;
/// What takes less than this is never put off.
const QUICK: Duration = Duration::from_millis(20);
/// The longest that a reading is put off.
const MOST: Duration = Duration::from_secs(30);

/// Reads what other programs do, beside an agent that writes rules by one variant of iptables.
#[derive(Debug, Default)]
pub(super) struct Reader {
    native: Cache,
    legacy: Cache,
    whole: Arc<Firewall>,
    /// Whether it was said that something cannot be read.
    told: bool,
}

/// What was read last, and when it may be read again.
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

    /// Whether it changed.
    fn take(&mut self, chains: Vec<BaseChain>, begun: Instant) -> bool {
        let took = begun.elapsed();
        self.next = (took > QUICK).then(|| Instant::now() + MOST.min(took * SHARE));
        let changed = self.chains != chains;
        self.chains = chains;
        changed
    }
}

impl Reader {
    /// What other programs do, in the network namespace of the calling thread. `ours` is the variant whose built-in chains begin
    /// with jumps of ours; in those, no other rule decides about our flows.
    pub(super) async fn read(&mut self, ours: Variant) -> Arc<Firewall> {
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
            self.whole = Arc::new(Firewall { chains });
        }
        Arc::clone(&self.whole)
    }

    async fn read_native(&mut self, ours: Variant) -> Result<bool, NetlinkError> {
        let mut wire = Wire::open()?;
        let Some(generation) = wire.generation().await? else { return Ok(false) };
        if self.native.generation == Some(generation) || !self.native.is_due() {
            return Ok(false);
        }
        let begun = Instant::now();
        let chains = wire.base_chains(ours).await?;
        // Where somebody wrote meanwhile, it is read again at the next look, which his write asks for.
        self.native.generation = Some(generation);
        Ok(self.native.take(chains, begun))
    }

    /// There is no generation: it is read each time that it is due.
    async fn read_legacy(&mut self, ours: Variant) -> bool {
        if !self.legacy.is_due() {
            return false;
        }
        let begun = Instant::now();
        let chains = legacy::base_chains(ours).await;
        self.legacy.take(chains, begun)
    }
}

/// Whether a built-in chain of iptables is one that begins with a jump of ours.
fn is_ours(table: &str, hook: Hook) -> bool {
    matches!((table, hook), ("filter", Hook::Forward) | ("nat", Hook::Prerouting | Hook::Postrouting))
}
