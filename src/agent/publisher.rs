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
use crate::api::{PortForward, PortForwardStatus};
use crate::forward::ForwardKey;
use crate::metrics::{Metrics, Written};
use crate::publish::{StatusFile, table};
use crate::source::{Snapshot, Sourced};
use crate::status::{Judgements, merge};

/// The status of each forward, by its name.
pub type Statuses = BTreeMap<ForwardKey, PortForwardStatus>;

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

    async fn write(&mut self, report: &Report) {
        let objects = objects(&self.node, &report.snapshot, &report.leaving, &report.judgements, &self.statuses);
        self.statuses =
            objects.iter().map(|object| (ForwardKey::of(object), object.status.clone().unwrap_or_default())).collect();
        self.print(&objects, report);
        let written = self.file.write(&objects, &report.snapshot.files).await;
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

    /// Prints the table if it differs from the last one.
    fn print(&mut self, objects: &[PortForward], report: &Report) {
        let mut text = table(objects);
        for file in &report.snapshot.files {
            let Some(error) = &file.error else { continue };
            let path = file.path.display();
            text = error.lines().fold(text, |text, line| format!("{text}\n{path}: {line}"));
            if file.is_folder() {
                continue;
            }
            text = format!("{text}\n{path}: not applied; the last good content of the file, if there is one, stays in force");
        }
        if text != self.printed {
            // A closed standard output is not an error; the status file still contains the status.
            let _ = writeln!(std::io::stdout().lock(), "{text}\n");
            self.printed = text;
        }
    }
}

/// Publishes each new report. A report that is replaced before it is published is skipped. Ends when the sender of reports is
/// dropped.
pub async fn publish(mut publisher: Publisher, mut reports: watch::Receiver<Option<Arc<Report>>>) {
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
pub fn objects(
    node: &str,
    snapshot: &Snapshot,
    leaving: &[Sourced],
    judgements: &Judgements,
    previous: &Statuses,
) -> Vec<PortForward> {
    let now = Timestamp::now();
    let with_status = |object: &PortForward| {
        let key = ForwardKey::of(object);
        let status = judgements.get(&key).map(|judgement| merge(node, judgement, previous.get(&key), now));
        PortForward { status, ..PortForward::clone(object) }
    };
    snapshot.forwards.iter().chain(leaving).map(|sourced| with_status(&sourced.object)).collect()
}
