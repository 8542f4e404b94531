//! What one sync tells the tasks that publish it.

use std::sync::Arc;

use crate::source::{Snapshot, Sourced};
use crate::status::Judgements;

/// The result of one sync, for the publishers.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The objects that the plan was made from.
    pub snapshot: Arc<Snapshot>,
    /// Deleted objects of which something may still be in force.
    pub leaving: Vec<Sourced>,
    /// The judgement of this node on each object, including deleted ones in `leaving`.
    pub judgements: Judgements,
    /// The number of syncs since the start of the agent that repaired what another program had changed.
    pub repairs: u64,
}
