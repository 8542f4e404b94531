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
/// The time between them as a multiple of the time that one takes, and the longest time.
const SHARE: u32 = 500;
const LONGEST: Duration = Duration::from_secs(10);
/// When `again` is notified after the last change: the facts of the node are not read at each of many changes, and 30 seconds
/// later at the latest.
const REMINDERS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(31)];

/// What is known of a table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    info: Option<Info>,
    content: Option<Content>,
}

/// Notifies `ours` when a table changed that may hold rules of the operator, `others` at a change of another one, and `others` again
/// some time after any change. Runs until the agent ends. It does not know who changed a table.
pub(in crate::dataplane) async fn watch(ours: Arc<Notify>, others: Arc<Notify>, again: Arc<Notify>) {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut looked = Instant::now();
    let mut pause = CONTENT;
    let mut reminders = [None; 2];
    loop {
        let names = legacy_tables();
        tokio::time::sleep(if names.is_empty() { SELDOM } else { OFTEN }).await;
        let is_due = looked.elapsed() >= pause;
        let begun = Instant::now();
        for name in renew(&mut seen, is_due) {
            let is_ours = Table::ALL.into_iter().any(|table| table.name() == name);
            if is_ours { &ours } else { &others }.notify_one();
            reminders = REMINDERS.map(|after| Some(begun + after));
        }
        for reminder in &mut reminders {
            if reminder.take_if(|at| *at <= begun).is_some() {
                again.notify_one();
            }
        }
        if is_due {
            looked = Instant::now();
            pause = (begun.elapsed() * SHARE).clamp(CONTENT, LONGEST);
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
