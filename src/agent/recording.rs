//! Keeps the record on the disk: a task of its own, which takes the newest, so that a slow disk delays no kernel.
//!
//! Decides when to try again and what is said of the disk. Must not decide what the record says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use super::SourceText;
use crate::metrics::{Metrics, Written};
use crate::record::{self, Lock, Record, RecordError, Stored};

/// How long a sync waits for the disk at most. In that time a disk that works has taken the record, so that the next change
/// begins with a record of this one.
const MOMENT: Duration = Duration::from_millis(500);
/// How long a write may take before that is said.
const SLOW: Duration = Duration::from_secs(30);

/// A record with its number.
type Numbered = (u64, Option<Arc<Record>>);

/// From whom records come to whom keeps them.
#[must_use]
pub fn recording() -> (Records, Due) {
    let (newest, next) = watch::channel((0, None));
    let (done, dealt_with) = watch::channel(0);
    (Records { newest, dealt_with, late: 0 }, Due { next, done })
}

/// Hands on records to be kept; only the newest counts.
#[derive(Debug)]
pub struct Records {
    newest: watch::Sender<Numbered>,
    /// The number of the newest that was written, or could not be.
    dealt_with: watch::Receiver<u64>,
    /// The number of the one that was waited for in vain; 0 for none.
    late: u64,
}

/// The newest record that is to be kept.
#[derive(Debug)]
pub struct Due {
    next: watch::Receiver<Numbered>,
    done: watch::Sender<u64>,
}

impl Records {
    /// Takes the place of a record that nobody has begun to write.
    pub(super) fn send(&mut self, record: Arc<Record>) {
        self.newest.send_modify(|(number, newest)| {
            *number += 1;
            *newest = Some(record);
        });
    }

    /// Waits until the disk has taken all that was sent, for half a second at most; not at all before it has taken what it
    /// was waited for in vain.
    pub(super) async fn settle(&mut self) {
        let number = self.newest.borrow().0;
        if *self.dealt_with.borrow() < self.late {
            return;
        }
        let taken = timeout(MOMENT, self.dealt_with.wait_for(|done| *done >= number)).await.is_ok();
        self.late = if taken { 0 } else { number };
    }
}

impl Due {
    /// The newest record, if there is one that was not asked for before.
    #[cfg(test)]
    pub(super) fn newest(&mut self) -> Option<Arc<Record>> {
        if self.next.has_changed().unwrap_or_default() { self.next.borrow_and_update().1.clone() } else { None }
    }
}

/// Where the record is kept.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The right to act on the node. A write that hangs keeps it, so that it cannot end after another agent has written.
    pub lock: Arc<Lock>,
    /// Count what fails.
    pub metrics: Arc<Metrics>,
}

/// Keeps the newest of `due` for as long as somebody may send another, and then the last one; `kept` is dropped after that.
pub async fn keep_record<T: Send>(recorder: Recorder, due: Due, kept: T) {
    let Recorder { state_dir, lock, metrics } = recorder;
    let store = move |record: &Record| {
        let _held = Arc::clone(&lock);
        record::store(&state_dir, record)
    };
    keep(store, &metrics, due).await;
    drop(kept);
}

async fn keep<S>(store: S, metrics: &Metrics, mut due: Due)
where
    S: Fn(&Record) -> Result<Stored, RecordError> + Clone + Send + 'static,
{
    let mut pauses = retries();
    let mut failing = false;
    while due.next.changed().await.is_ok() {
        loop {
            let (number, Some(newest)) = due.next.borrow_and_update().clone() else { break };
            let written = write(store.clone(), newest).await;
            due.done.send_replace(number);
            let Err(error) = written else {
                if std::mem::take(&mut failing) {
                    info!("the record can be written again");
                }
                pauses = retries();
                break;
            };
            metrics.unwritten(Written::Record);
            if !std::mem::replace(&mut failing, true) {
                warn!(%error, cause = error.source_text(), "the record cannot be written: a reboot would bring back an older state; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next().unwrap_or_default()) => {}
                newer = due.next.changed() => if newer.is_err() { return },
            }
        }
    }
}

fn retries() -> ExponentialBackoff {
    let (first, most) = (Duration::from_secs(1), Duration::from_mins(1));
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).without_max_times().build()
}

/// Writes one record, however long the disk takes.
async fn write<S>(store: S, record: Arc<Record>) -> Result<Stored, RecordError>
where
    S: Fn(&Record) -> Result<Stored, RecordError> + Send + 'static,
{
    let mut writing = spawn_blocking(move || store(&record));
    let written = tokio::select! {
        written = &mut writing => written,
        () = tokio::time::sleep(SLOW) => {
            let seconds = SLOW.as_secs();
            warn!(seconds, "the disk does not answer: the record is not written yet, and a reboot would bring back an older state; forwards are kept all the same");
            let written = writing.await;
            info!("the disk answers again");
            written
        }
    };
    written.unwrap_or_else(|stopped| Err(RecordError::Stopped(stopped)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::agent::Memory;
    use crate::dataplane::iptables::Variant;
    use crate::metrics::{Detail, PerForward};
    use crate::model::Desired;
    use crate::source::Snapshot;

    const PATIENCE: Duration = Duration::from_mins(2);

    fn metrics() -> Metrics {
        Metrics::new(Variant::Nft, None, PerForward { detail: Detail::Off, limit: 0 })
    }

    fn set(label: &str) -> Arc<Snapshot> {
        Arc::new(Snapshot { labels: [("set".to_owned(), label.to_owned())].into(), ..Snapshot::default() })
    }

    /// A disk on which each write waits until it is let through, and then ends as told.
    struct Disk {
        begun: Receiver<String>,
        ends: Sender<Result<Stored, RecordError>>,
    }

    impl Disk {
        /// The disk, and how to write to it.
        fn new() -> (Self, impl Fn(&Record) -> Result<Stored, RecordError> + Clone + Send + 'static) {
            let (starts, begun) = channel();
            let (ends, end) = channel();
            let end = Arc::new(Mutex::new(end));
            let store = move |record: &Record| {
                starts.send(record.labels["set"].clone()).unwrap();
                end.lock().unwrap().recv().unwrap()
            };
            (Self { begun, ends }, store)
        }

        fn begun(&self) -> String {
            self.begun.recv_timeout(PATIENCE).unwrap()
        }
    }

    /// Runs the writer of what `memory` records beside a test that may block.
    async fn beside(test: impl FnOnce(&mut Memory, &Disk) + Send + 'static) -> Vec<String> {
        let (disk, store) = Disk::new();
        let (records, due) = recording();
        let mut memory = Memory::new("a", None).recorded_by(records);
        let test = spawn_blocking(move || {
            test(&mut memory, &disk);
            drop(memory);
            disk.begun.try_iter().collect()
        });
        let metrics = metrics();
        let ((), rest) = timeout(PATIENCE, async { tokio::join!(keep(store, &metrics, due), test) }).await.unwrap();
        rest.unwrap()
    }

    #[tokio::test]
    async fn a_disk_that_hangs_delays_no_sync_and_gets_the_newest_afterwards() {
        let rest = beside(|memory, disk| {
            memory.advance(&set("first"), &Desired::default());
            assert_eq!(disk.begun(), "first");
            for later in ["second", "third", "fourth"] {
                memory.advance(&set(later), &Desired::default());
            }
            disk.ends.send(Ok(Stored::Written)).unwrap();
            assert_eq!(disk.begun(), "fourth");
            disk.ends.send(Ok(Stored::Written)).unwrap();
        });
        assert_eq!(rest.await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_sync_waits_for_a_disk_that_answers_and_once_for_one_that_hangs() {
        let (mut records, due) = recording();
        records.send(Arc::new(Record::default()));
        let begun = tokio::time::Instant::now();
        records.settle().await;
        assert!(records.late == 1 && begun.elapsed() >= MOMENT);
        for _ in 0..1000 {
            records.send(Arc::new(Record::default()));
            records.settle().await;
        }
        assert!(begun.elapsed() < MOMENT * 1000, "it is behind, and not waited for");
        due.done.send_replace(1001);
        records.send(Arc::new(Record::default()));
        let answers = async {
            tokio::task::yield_now().await;
            due.done.send_replace(1002);
        };
        tokio::join!(records.settle(), answers);
        assert_eq!(records.late, 0);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_tried_again_also_where_nothing_is_new() {
        let refused = || Err(RecordError::TooLarge { path: "record.json".into(), most: 1 });
        let rest = beside(move |memory, disk| {
            memory.advance(&set("first"), &Desired::default());
            assert_eq!(disk.begun(), "first");
            disk.ends.send(refused()).unwrap();
            assert_eq!(disk.begun(), "first");
            disk.ends.send(refused()).unwrap();
            memory.advance(&set("second"), &Desired::default());
            let begun = disk.begun();
            disk.ends.send(Ok(Stored::Written)).unwrap();
            if begun == "first" {
                assert_eq!(disk.begun(), "second");
                disk.ends.send(Ok(Stored::Written)).unwrap();
            }
        });
        rest.await;
    }

    #[tokio::test]
    async fn the_last_record_is_written_before_the_writer_ends() {
        let rest = beside(|memory, disk| {
            disk.ends.send(Ok(Stored::Written)).unwrap();
            memory.advance(&set("last"), &Desired::default());
            // The loop ends here, maybe before the writer has seen anything.
            *memory = Memory::new("a", None);
            assert_eq!(disk.begun(), "last");
        });
        rest.await;
    }
}
