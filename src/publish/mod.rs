//! The result of a sync, for the tasks that publish it, and how it is shown where there is no API server: as a table, and as a file
//! for programs.
//!
//! Decides only how the status is shown, not what it is.

mod file;
mod report;
mod shown;
mod table;

pub use crate::durable::Stored;
pub use file::{List, PublishError, StatusFile, list};
pub use report::Report;
pub use shown::Shown;
pub use table::{table, table_within, wide_table};
