//! Status for people where no API server shows it: a table, and a file for programs.
//!
//! Decides how status looks. Must not decide what is true.

mod file;
mod table;

pub use crate::durable::Stored;
pub use file::{PublishError, StatusFile, list};
pub use table::{table, table_within, wide_table};
