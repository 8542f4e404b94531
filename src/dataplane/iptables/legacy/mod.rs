//! What the kernel tells about tables of legacy xtables without a program, so that an unchanged table is not read again.
//!
//! Legacy xtables count no generation and report no change. But one call tells the number of entries of a table, and another one
//! gives its content, in a small part of the time that `iptables-legacy-save` needs.

mod content;
mod sockopt;
mod watch;

use std::collections::BTreeMap;

pub(super) use content::{BUILT_IN, Content};
pub(in crate::dataplane) use watch::watch;

use super::Table;
use super::choose::{existing_tables, legacy_tables};

/// How often a table is read again that was replaced between two calls.
const ATTEMPTS: usize = 5;

/// The content of both tables that hold rules of the operator; `None` if the kernel does not tell. A table that does not exist has
/// no content.
pub(super) fn contents() -> Option<BTreeMap<Table, Content>> {
    let existing = existing_tables()?;
    let content = |table: Table| {
        let exists = existing.iter().any(|name| name == table.name());
        Some((table, if exists { content(table.name())? } else { Content::default() }))
    };
    Table::ALL.into_iter().map(content).collect()
}

/// The tables of legacy xtables at one moment.
#[derive(Debug)]
pub(in crate::dataplane) struct LegacyTables(Option<BTreeMap<Table, Content>>);

impl LegacyTables {
    pub(in crate::dataplane) fn now() -> Self {
        Self(contents())
    }

    /// Whether they are still the same; `false` if the kernel does not tell.
    pub(in crate::dataplane) fn is_current(&self) -> bool {
        self.0.is_some() && self.0 == contents()
    }
}

/// The content of one table, which must exist.
fn content(table: &str) -> Option<Content> {
    for _ in 0..ATTEMPTS {
        let info = sockopt::info(table).ok()?;
        match sockopt::entries(&info) {
            Ok(entries) => return Content::of(&info, &entries),
            // It has another size by now.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    None
}
