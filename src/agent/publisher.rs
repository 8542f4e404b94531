//! Publishes the newest report of a node whose objects come from a folder: as a table on standard output, and in the status
//! file.
//!
//! Runs as a separate task, so that slow output never delays the kernel.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Report, SourceText};
use crate::api::PortForwardStatus;
use crate::forward::ForwardKey;
use crate::metrics::{Metrics, Written};
use crate::publish::{Shown, StatusFile, table};
use crate::source::{Snapshot, Sourced};
use crate::status::{Judgement, Judgements, merge};
use crate::words::counted;

/// The maximum number of forwards that are printed. Of more, those that changed are printed.
const MOST_PRINTED: usize = 100;

/// The status of each forward, with the judgement that it was made from.
pub type Statuses = BTreeMap<ForwardKey, (Option<Arc<Judgement>>, Arc<PortForwardStatus>)>;

/// Publishes the status for people and scripts on this node.
#[derive(Debug)]
pub struct Publisher {
    node: String,
    file: StatusFile,
    metrics: Arc<Metrics>,
    statuses: Statuses,
    printed: String,
    writable: bool,
}

impl Publisher {
    /// A publisher for the node `node` that writes to `file`. Failed writes are counted in `metrics`.
    #[must_use]
    pub fn new(node: String, file: StatusFile, metrics: Arc<Metrics>) -> Self {
        Self { node, file, metrics, statuses: Statuses::new(), printed: String::new(), writable: true }
    }

    /// Takes over the times of the transitions before this start.
    async fn remember(&mut self) {
        let statuses = self.file.read().await.into_iter();
        self.statuses = statuses.map(|(key, status)| (key, (None, Arc::new(status)))).collect();
    }

    async fn write(&mut self, report: &Report) {
        let objects = objects(&self.node, &report.snapshot, &report.leaving, &report.judgements, &self.statuses);
        self.print(&objects, report);
        self.keep(&objects, &report.judgements);
        let written = self.file.write(objects, report.snapshot.files.clone()).await;
        match (&written, self.writable) {
            (Ok(_), false) => info!("the status file can be written again"),
            (Err(error), true) => warn!(%error, cause = error.source_text(), "the status file cannot be written"),
            (Ok(_), true) | (Err(_), false) => {}
        }
        if written.is_err() {
            self.metrics.unwritten(Written::Status);
        }
        self.writable = written.is_ok();
    }

    fn keep(&mut self, objects: &[Shown], judgements: &Judgements) {
        let status = |shown: &Shown| {
            let key = ForwardKey::of(&shown.object);
            let judgement = judgements.get(&key).cloned();
            Some((key, (judgement, Arc::clone(shown.status.as_ref()?))))
        };
        self.statuses = objects.iter().filter_map(status).collect();
    }

    /// Prints the table if it differs from the last one.
    fn print(&mut self, objects: &[Shown], report: &Report) {
        let mut text = if objects.len() > MOST_PRINTED { self.changed(objects) } else { table(objects) };
        for file in &report.snapshot.files {
            let Some(error) = &file.error else { continue };
            let path = file.path.display();
            text = error.lines().fold(text, |text, line| format!("{text}\n{path}: {line}"));
            if file.is_folder() {
                continue;
            }
            text = format!("{text}\n{path}: not applied; the last good content of the file, if there is one, stays in force");
        }
        if !text.is_empty() && text != self.printed {
            // A closed standard output is not an error; the status file still contains the status.
            let _ = writeln!(std::io::stdout().lock(), "{text}\n");
            self.printed = text;
        }
    }

    /// The table of the forwards whose status changed, and how many others there are; nothing if none changed.
    fn changed(&self, objects: &[Shown]) -> String {
        let is_new = |shown: &&Shown| {
            let before = self.statuses.get(&ForwardKey::of(&shown.object)).map(|(_, status)| status);
            !before.zip(shown.status.as_ref()).is_some_and(|(before, now)| Arc::ptr_eq(before, now))
        };
        let changed: Vec<Shown> = objects.iter().filter(is_new).take(MOST_PRINTED).cloned().collect();
        if changed.is_empty() {
            return String::new();
        }
        let others = counted(objects.len() - changed.len(), "more forward", "more forwards");
        format!("{}{others}; portforward-operator status lists all\n", table(&changed))
    }
}

/// Publishes each new report. A report that is replaced before it is published is skipped. Ends when the sender of reports is
/// dropped.
pub async fn publish(mut publisher: Publisher, mut reports: watch::Receiver<Option<Arc<Report>>>) {
    publisher.remember().await;
    while reports.changed().await.is_ok() {
        let newest = reports.borrow_and_update().clone();
        if let Some(report) = newest {
            publisher.write(&report).await;
        }
    }
}

/// The objects of `snapshot` and those that are `leaving`, with their status on `node`. Transition times are kept from
/// `previous`.
#[must_use]
pub fn objects(node: &str, snapshot: &Snapshot, leaving: &[Sourced], judgements: &Judgements, previous: &Statuses) -> Vec<Shown> {
    let now = Timestamp::now();
    let status = |key: &ForwardKey, judgement: &Arc<Judgement>| match previous.get(key) {
        Some((Some(known), status)) if Arc::ptr_eq(known, judgement) => Arc::clone(status),
        previous => {
            let before = previous.map(|(_, status)| status);
            let merged = merge(node, judgement, before.map(AsRef::as_ref), now);
            before.filter(|before| ***before == merged).map_or_else(|| Arc::new(merged), Arc::clone)
        }
    };
    let shown = |Sourced { object, .. }: &Sourced| {
        let key = ForwardKey::of(object);
        let status = judgements.get(&key).map(|judgement| status(&key, judgement));
        Shown { object: Arc::clone(object), status }
    };
    snapshot.forwards.iter().chain(leaving).map(shown).collect()
}
