//! Decides whether the record may be applied while the source has no complete set: not over rules that are newer than it.
//!
//! The kernel is the witness. If it holds a translation that no object of the record asks for, the kernel has seen a newer set
//! than the record. Then the kernel stays as it is until the source has a complete set.

use tracing::warn;

use super::Memory;
use crate::dataplane::Dataplane;
use crate::dataplane::rules::RulesError;
use crate::forward::Forward;
use crate::plan::unexplained;
use crate::record::Boot;

/// Whether the record may be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The kernel was not read yet.
    Undecided,
    /// It may be applied.
    Usable,
    /// The kernel is newer.
    Withheld,
}

impl Fallback {
    /// For a record whose agent last changed the kernel in `boot`. Rules that exist although the machine has booted since were
    /// restored by another program, such as iptables-persistent, and prove nothing.
    #[must_use]
    pub const fn of(boot: Boot) -> Self {
        match boot {
            Boot::This => Self::Undecided,
            Boot::Earlier => Self::Usable,
        }
    }

    /// Whether the record in `memory` may be applied. Reads the kernel at first.
    ///
    /// # Errors
    /// When the kernel cannot be read. It is read again the next time.
    pub async fn allows<D: Dataplane>(&mut self, memory: &Memory, dataplane: &D) -> Result<bool, RulesError> {
        if *self == Self::Undecided {
            let held = dataplane.translated().await?;
            let newer = unexplained(&held, &recorded(memory)).len();
            if newer > 0 {
                warn!(
                    translations = newer,
                    "the kernel has rules of the operator that are newer than the record; rules and routes stay as they are until the forwards can be read"
                );
            }
            *self = if newer > 0 { Self::Withheld } else { Self::Usable };
        }
        Ok(*self == Self::Usable)
    }
}

/// The forwards of the record that this node should carry.
fn recorded(memory: &Memory) -> Vec<Forward> {
    let parsed = memory.forwards().iter().filter_map(|sourced| Forward::parse(&sourced.object).ok());
    parsed.filter(|forward| forward.is_in_force() && forward.selects(memory.labels())).collect()
}
