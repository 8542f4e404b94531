//! The one jump to the operator's chains in each built-in chain. It is the first rule there.
//!
//! Uses the `iptables` crate, which runs one program per rule and is sound for that. It reports some failures as success
//! (the list of a missing chain is one empty line), so its results are not trusted: the caller reads the table back. A jump
//! at the wrong position is moved within one COMMIT instead. No packet misses the jump, and no rule number is used that
//! another program may have changed in the meantime.

use iptables::IPTables;

use super::layout::Stage;
use super::program::{self, DEADLINE, LOCK_WAIT_SECS};
use super::saved::SavedTable;
use super::variant::Variant;

/// Why a jump could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the jump to our chains in {table} {chain} could not be changed: {error}")]
pub struct JumpError {
    table: &'static str,
    chain: &'static str,
    error: String,
}

/// Puts the jump of `stage` first and removes every other rule that jumps to the same chain.
///
/// # Errors
/// When the program fails.
pub(super) async fn put_first(variant: Variant, stage: Stage, before: &SavedTable) -> Result<(), JumpError> {
    match (variant, before.jumps(stage).as_slice()) {
        (Variant::Nft, []) => {
            edit(stage, move |iptables| iptables.insert(stage.table().name(), stage.builtin(), stage.jump(), 1)).await
        }
        (Variant::Nft | Variant::Legacy, old) => {
            let first = format!("-I {} 1 {}\n", stage.builtin(), stage.jump());
            load(variant, stage, old, &first).await
        }
    }
}

/// Removes every rule that jumps to the operator's chain of `stage`.
///
/// # Errors
/// When the program fails.
pub(super) async fn take_out(variant: Variant, stage: Stage, before: &SavedTable) -> Result<(), JumpError> {
    match (variant, before.jumps(stage).as_slice()) {
        (_, []) => Ok(()),
        (Variant::Nft, [rule]) if rule == stage.jump() => {
            edit(stage, move |iptables| iptables.delete(stage.table().name(), stage.builtin(), stage.jump())).await
        }
        (Variant::Nft | Variant::Legacy, old) => load(variant, stage, old, "").await,
    }
}

/// Deletes the rules `old`, given as printed, and applies `then`, in one COMMIT.
async fn load(variant: Variant, stage: Stage, old: &[String], then: &str) -> Result<(), JumpError> {
    let delete: String = old.iter().map(|rule| format!("-D {} {rule}\n", stage.builtin())).collect();
    let text = format!("*{}\n{delete}{then}COMMIT\n", stage.table().name());
    let loaded = program::run(variant.restore(), &["--noflush", "-w", LOCK_WAIT_SECS], &text).await;
    loaded.map(drop).map_err(|error| JumpError { table: stage.table().name(), chain: stage.builtin(), error: error.to_string() })
}

type CrateError = Box<dyn std::error::Error>;

/// The crate blocks, and its error is not `Send`. So it runs in its own thread. It writes `nf_tables`, which has no lock.
async fn edit(stage: Stage, edit: impl FnOnce(&IPTables) -> Result<(), CrateError> + Send + 'static) -> Result<(), JumpError> {
    let failed = move |error: String| JumpError { table: stage.table().name(), chain: stage.builtin(), error };
    // Not `iptables::new`: it runs the `iptables` in the PATH, which may be the other variant.
    let iptables = IPTables { cmd: Variant::Nft.command(), has_check: true, has_wait: true, is_numeric: false };
    let task = tokio::task::spawn_blocking(move || edit(&iptables).map_err(|error| error.to_string()));
    let ended = tokio::time::timeout(DEADLINE, task).await.map_err(|late| failed(late.to_string()))?;
    ended.map_err(|error| failed(error.to_string()))?.map_err(failed)
}
