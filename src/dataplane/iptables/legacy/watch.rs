//! Notices that another program changed a table of legacy xtables. The kernel reports no such change, so it is asked often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::content::Content;
use super::sockopt::{Info, info};
use super::{content, legacy_tables};
use crate::dataplane::iptables::Table;

/// The time between two questions for the number of entries, which shows a flush or a rule more or less.
const OFTEN: Duration = Duration::from_millis(100);
/// The same while there is no table.
const SELDOM: Duration = Duration::from_secs(1);
/// The shortest time between two looks at the content, which shows any change.
const CONTENT: Duration = Duration::from_secs(1);
/// The time between them as a multiple of the time that one takes.
const SHARE: u32 = 500;

/// What is known of a table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    info: Option<Info>,
    content: Option<Content>,
}

/// Notifies `ours` when a table changed that may hold rules of the operator, and `others` at a change of another one. Runs until the
/// agent ends. It does not know who changed a table.
pub(in crate::dataplane) async fn watch(ours: Arc<Notify>, others: Arc<Notify>) {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut looked = Instant::now();
    let mut pause = CONTENT;
    loop {
        let names = legacy_tables();
        tokio::time::sleep(if names.is_empty() { SELDOM } else { OFTEN }).await;
        let is_due = looked.elapsed() >= pause;
        let begun = Instant::now();
        for name in renew(&mut seen, is_due) {
            let is_ours = Table::ALL.into_iter().any(|table| table.name() == name);
            if is_ours { &ours } else { &others }.notify_one();
        }
        if is_due {
            looked = Instant::now();
            pause = CONTENT.max(begun.elapsed() * SHARE);
        }
    }
}

/// Looks at every table. Returns which of them changed since the last look.
fn renew(seen: &mut BTreeMap<String, Seen>, with_content: bool) -> Vec<String> {
    let names = legacy_tables();
    let mut changed: Vec<String> = seen.extract_if(.., |name, _| !names.contains(name)).map(|(name, _)| name).collect();
    for name in names {
        let info = info(&name).ok();
        let before = seen.get(&name);
        let content = match before {
            Some(before) if before.info == info && !with_content => continue,
            Some(_) | None => content(&name),
        };
        let now = Seen { info, content };
        if before != Some(&now) {
            changed.push(name.clone());
        }
        seen.insert(name, now);
    }
    changed
}
