//! Shows the status where there is no API server: as a table, and as a file for programs.
//!
//! Decides only how the status is shown, not what it is.

mod file;
mod table;

pub use crate::durable::Stored;
pub use file::{PublishError, StatusFile, list};
pub use table::{table, table_within, wide_table};
