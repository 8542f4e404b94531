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

use super::SourceText;
use crate::api::PortForwardStatus;
use crate::forward::ForwardKey;
use crate::metrics::{Metrics, Written};
use crate::publish::{Report, Shown, StatusFile, table};
use crate::source::{FileReport, Snapshot, Sourced};
use crate::status::{Judgement, Judgements, merge, says_ready};
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
    /// The table that was printed last.
    printed: String,
    /// The mistakes in files that were printed last.
    mistakes: String,
    writable: bool,
}

impl Publisher {
    /// A publisher for the node `node` that writes to `file`. Failed writes are counted in `metrics`.
    #[must_use]
    pub fn new(node: String, file: StatusFile, metrics: Arc<Metrics>) -> Self {
        let (printed, mistakes) = (String::new(), String::new());
        Self { node, file, metrics, statuses: Statuses::new(), printed, mistakes, writable: true }
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

    /// Prints what differs from the last time.
    fn print(&mut self, objects: &[Shown], report: &Report) {
        let news = self.news(objects, &report.snapshot.files);
        if !news.is_empty() {
            // A closed standard output is not an error; the status file still contains the status.
            let _ = writeln!(std::io::stdout().lock(), "{news}");
        }
    }

    /// The table of all forwards if it differs from the last one, or of many forwards those that changed; with the mistakes in
    /// files, if they are new.
    fn news(&mut self, objects: &[Shown], files: &[FileReport]) -> String {
        let many = objects.len() > MOST_PRINTED;
        let table = if many { self.changed(objects) } else { table(objects) };
        let mistakes = mistakes(files);
        let other_mistakes = mistakes != self.mistakes;
        if !other_mistakes && (table.is_empty() || table == self.printed) {
            return String::new();
        }
        let mended = if many && other_mistakes && mistakes.is_empty() { "no file has a mistake any more\n" } else { "" };
        let told = if many && !other_mistakes { "" } else { mistakes.as_str() };
        // An empty line stands between a table and what follows.
        let between = if table.is_empty() || (told.is_empty() && mended.is_empty()) { "" } else { "\n" };
        let text = format!("{table}{between}{told}{mended}");
        if !table.is_empty() {
            self.printed = table;
        }
        self.mistakes = mistakes;
        text
    }

    /// The forwards whose status changed, and a summary of all; nothing if none changed.
    fn changed(&self, objects: &[Shown]) -> String {
        let (mut changed, mut known) = (Vec::new(), 0);
        for shown in objects {
            let before = self.statuses.get(&ForwardKey::of(&shown.object)).map(|(_, status)| status);
            known += usize::from(before.is_some());
            if !before.zip(shown.status.as_ref()).is_some_and(|(before, now)| Arc::ptr_eq(before, now)) {
                changed.push(shown.clone());
            }
        }
        let removed = self.statuses.len().saturating_sub(known);
        if changed.is_empty() && removed == 0 && !self.printed.is_empty() {
            return String::new();
        }
        let shown = changed.get(..MOST_PRINTED).unwrap_or(&changed);
        let mut text = if shown.is_empty() { String::new() } else { table(shown) };
        let more = [
            (changed.len() - shown.len(), "more forward changed", "more forwards changed"),
            (removed, "forward was removed", "forwards were removed"),
        ];
        for (count, one, many) in more.into_iter().filter(|(count, ..)| *count > 0) {
            text = format!("{text}{}\n", counted(count, one, many));
        }
        let ready = objects.iter().filter_map(|shown| shown.status.as_ref()).filter(|it| says_ready(&it.conditions)).count();
        format!("{text}{} forwards, {ready} ready; portforward-operator status lists them\n", objects.len())
    }
}

/// The mistakes in the files of a folder, a line each.
fn mistakes(files: &[FileReport]) -> String {
    let mut text = String::new();
    for file in files {
        let Some(error) = &file.error else { continue };
        let path = file.path.display();
        text = error.lines().fold(text, |text, line| format!("{text}{path}: {line}\n"));
        if !file.is_folder() {
            text = format!("{text}{path}: not applied; the last good content of the file, if there is one, stays in force\n");
        }
    }
    text
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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::api;
    use crate::dataplane::Backend;
    use crate::metrics::{Detail, PerForward};
    use crate::status::{Standing, unknown_form};

    fn publisher(dir: &std::path::Path) -> Publisher {
        let metrics = Metrics::new(Backend::default(), None, PerForward { detail: Detail::Off, limit: 0 });
        Publisher::new("n".to_owned(), StatusFile::new(dir.join("status.json")), Arc::new(metrics))
    }

    /// A report about the forwards with these numbers, and their statuses.
    fn report(numbers: impl Iterator<Item = usize>) -> Report {
        let sourced = |number: usize| {
            let document = json!({
                "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
                "metadata": {"namespace": "lines", "name": format!("f{number:03}"), "generation": 1},
                "spec": {
                    "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                    "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"port": 80}],
                },
            });
            Sourced::of(Arc::new(api::decode(document).unwrap()), None)
        };
        let snapshot = Snapshot { forwards: numbers.map(sourced).collect(), ..Snapshot::default() };
        let judgement = |key: &ForwardKey| (key.clone(), Arc::new(unknown_form(None, 1, "a")));
        let judgements = snapshot.forwards.keys().map(judgement).collect();
        Report { snapshot: Arc::new(snapshot), judgements, ..Report::default() }
    }

    /// What is printed of a report, which is then kept.
    fn printed(publisher: &mut Publisher, report: &Report) -> Vec<String> {
        let objects = objects("n", &report.snapshot, &[], &report.judgements, &publisher.statuses);
        let text = publisher.news(&objects, &report.snapshot.files);
        publisher.keep(&objects, &report.judgements);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn of_many_forwards_only_those_that_changed_are_printed() {
        let dir = tempfile::tempdir().unwrap();
        let mut publisher = publisher(dir.path());
        let mut all = report(0..150);
        let first = printed(&mut publisher, &all);
        assert_eq!(first.len(), 1 + 100 + 2, "{first:?}");
        assert_eq!(first[101..], ["50 more forwards changed", "150 forwards, 0 ready; portforward-operator status lists them"]);
        assert_eq!(printed(&mut publisher, &all), [""; 0]);
        let key = all.judgements.keys().next().unwrap().clone();
        let other = Judgement { standing: Standing::Refused, ..unknown_form(None, 1, "another mistake") };
        all.judgements.insert(key, Arc::new(other));
        let changed = printed(&mut publisher, &all);
        assert!(changed.len() == 3 && changed[1].contains("f000"), "{changed:?}");
        let with = |error: Option<&str>| {
            let files = vec![FileReport { path: "a.yaml".into(), error: error.map(str::to_owned) }];
            let snapshot = Arc::new(Snapshot { files, ..Snapshot::clone(&all.snapshot) });
            Report { snapshot, judgements: all.judgements.clone(), ..Report::default() }
        };
        for _ in 0..2 {
            let refused = printed(&mut publisher, &with(Some("is empty")));
            assert!(refused.len() == 2 && refused[0] == "a.yaml: is empty", "{refused:?}");
            assert_eq!(printed(&mut publisher, &with(Some("is empty"))), [""; 0]);
            assert_eq!(printed(&mut publisher, &with(None)), ["no file has a mistake any more"]);
            assert_eq!(printed(&mut publisher, &with(None)), [""; 0]);
        }
        let exchanged = printed(&mut publisher, &report(1..151));
        assert!(exchanged.contains(&"1 forward was removed".to_owned()), "although another one came: {exchanged:?}");
    }

    #[test]
    fn of_few_forwards_the_whole_table_is_printed_if_anything_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut publisher = publisher(dir.path());
        assert_eq!(printed(&mut publisher, &report(0..3)).len(), 1 + 3);
        assert_eq!(printed(&mut publisher, &report(0..3)), [""; 0]);
        assert_eq!(printed(&mut publisher, &report(1..3)).len(), 1 + 2);
        let files = vec![FileReport { path: "a.yaml".into(), error: Some("is empty".to_owned()) }];
        let one = report(0..1);
        let refused = Report { snapshot: Arc::new(Snapshot { files, ..Snapshot::clone(&one.snapshot) }), ..one };
        let text = printed(&mut publisher, &refused);
        assert_eq!((text.len(), text[2].as_str(), text[3].as_str()), (5, "", "a.yaml: is empty"), "{text:?}");
        assert_eq!(printed(&mut publisher, &report(0..0)).len(), 1);
    }

    #[tokio::test]
    async fn the_times_of_transitions_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let report = report(0..2);
        publisher(dir.path()).write(&report).await;
        let path = dir.path().join("status.json");
        let old = r#""lastTransitionTime": "2026-01-02T03:04:05Z""#;
        let times = regex::Regex::new(r#""lastTransitionTime": "[^"]*""#).unwrap();
        let text = times.replace_all(&fs::read_to_string(&path).unwrap(), old).into_owned();
        assert!(text.contains(old));
        fs::write(&path, &text).unwrap();
        let (sender, reports) = watch::channel(None);
        sender.send_replace(Some(Arc::new(report)));
        drop(sender);
        publish(publisher(dir.path()), reports).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
