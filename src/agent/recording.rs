//! Writes the record to the disk. This is a separate task that always writes the newest record, so that a slow disk never
//! delays a sync for long.
//!
//! Decides when a write is tried again and what is logged about the disk. Must not decide the content of the record.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::SourceText;
use crate::metrics::{Metrics, RecordAge, Written};
use crate::record::{Haste, Keeper, Kept, Lock, RecordError, Step};

/// The maximum time that a sync waits for the disk. A working disk writes a small record, or the note about a large one, within this
/// time, so that the record or the note is up to date before the next change is applied.
const MOMENT: Duration = Duration::from_millis(500);
/// The duration of a write after which a warning is logged.
const SLOW: Duration = Duration::from_secs(30);
/// A record of at most this number of bytes is written after each change.
const SMALL: u64 = 1024 * 1024;
/// The average speed of writing larger ones: 1 MB in a second. A record of 6 MB, of 10,000 forwards, is then written at most every 6 seconds.
const BYTES_PER_MICROSECOND: u64 = 1;

/// A step with its number.
type Numbered = (u64, Option<Step>);

/// A channel for records: its sender and its receiver.
#[must_use]
pub fn recording() -> (Records, Due) {
    let (newest, next) = watch::channel((0, None));
    let (done, dealt_with) = watch::channel(0);
    (Records { newest, dealt_with, late: 0 }, Due { next, done })
}

/// Sends records to the writer. Only the newest one is written.
#[derive(Debug)]
pub struct Records {
    newest: watch::Sender<Numbered>,
    /// The number of the newest record that was dealt with: it was written, or writing it failed.
    dealt_with: watch::Receiver<u64>,
    /// The number of the record for which the last wait timed out; 0 if it did not time out.
    late: u64,
}

/// Receives the newest record.
#[derive(Debug)]
pub struct Due {
    next: watch::Receiver<Numbered>,
    done: watch::Sender<u64>,
}

impl Records {
    /// Sends a step. It replaces the previous one if the writer has not begun to write that.
    pub(super) fn send(&mut self, step: Step) {
        self.newest.send_modify(|(number, newest)| {
            *number += 1;
            *newest = Some(step);
        });
    }

    /// Waits until the writer has dealt with all records, for at most half a second. After such a wait has timed out, it
    /// returns at once until the writer has dealt with the record of that wait.
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
    /// The newest step, unless it was returned before.
    #[cfg(test)]
    pub(super) fn newest(&mut self) -> Option<Step> {
        if self.next.has_changed().unwrap_or_default() { self.next.borrow_and_update().1.clone() } else { None }
    }
}

/// Where and how the record is written.
#[derive(Debug)]
pub struct Recorder {
    /// Writes the record of the state directory.
    pub keeper: Keeper,
    /// The lock on the node. A write that hangs keeps it, so that no other agent can write before this write ends.
    pub lock: Arc<Lock>,
    /// Counts failed writes.
    pub metrics: Arc<Metrics>,
}

/// Writes the newest record of `due` until the sender is dropped, and then the last one. Drops `kept` at the end.
pub async fn keep_record<T: Send>(recorder: Recorder, due: Due, kept: T) {
    let Recorder { keeper, lock, metrics } = recorder;
    let keeper = Arc::new(Mutex::new(keeper));
    let store = move |step: &Step, haste: Haste| {
        let _held = Arc::clone(&lock);
        keeper.lock().unwrap_or_else(PoisonError::into_inner).keep(step, haste)
    };
    keep(store, &metrics, due).await;
    drop(kept);
}

async fn keep<S>(store: S, metrics: &Metrics, mut due: Due)
where
    S: Fn(&Step, Haste) -> Result<Kept, RecordError> + Clone + Send + 'static,
{
    let mut pauses = retries();
    let mut failing = false;
    // When the next large record may be written.
    let mut rested = Instant::now();
    // A large record is noted before it is written, so that no sync waits for it.
    let (mut large, mut noted) = (false, None);
    while due.next.changed().await.is_ok() {
        loop {
            let (number, Some(newest)) = due.next.borrow_and_update().clone() else { break };
            let begun = Instant::now();
            let haste = if begun < rested || large && noted != Some(number) { Haste::Later } else { Haste::Now };
            let written = write(store.clone(), newest, haste, metrics).await;
            due.done.send_replace(number);
            if matches!(written, Ok(Kept::Noted)) {
                noted = Some(number);
                tokio::select! {
                    () = tokio::time::sleep_until(rested) => {}
                    newer = due.next.changed() => if newer.is_err() { rested = Instant::now() },
                }
                continue;
            }
            if let Ok(Kept::Written(bytes)) = written {
                large = bytes > SMALL;
                if large {
                    rested = begun + Duration::from_micros(bytes / BYTES_PER_MICROSECOND);
                }
            }
            let Err(error) = written else {
                metrics.record_is(RecordAge::Current);
                if std::mem::take(&mut failing) {
                    info!("the record can be written again");
                }
                pauses = retries();
                break;
            };
            metrics.record_is(RecordAge::Outdated);
            metrics.unwritten(Written::Record);
            if !std::mem::replace(&mut failing, true) {
                tell(&error);
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next().unwrap_or_default()) => {}
                newer = due.next.changed() => if newer.is_err() { return },
            }
        }
    }
}

/// Logs why the record is older than the kernel, and what this means for a restart.
fn tell(error: &RecordError) {
    let cause = error.source_text();
    if matches!(error, RecordError::Unnoted(_)) {
        warn!(%error, "neither the record nor a note about it can be written; the agent tries again; a restart without the API server keeps the rules as they are, but a reboot may restore an older state");
    } else {
        warn!(%error, cause, "the record cannot be written; the agent tries again; a restart without the API server keeps the rules as they are, and a reboot restores only the forwards that have not changed since the last record");
    }
}

fn retries() -> ExponentialBackoff {
    let (first, most) = (Duration::from_secs(1), Duration::from_mins(1));
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).without_max_times().build()
}

/// Writes one record. Waits for the disk without a time limit, and logs a warning if it is slow.
async fn write<S>(store: S, step: Step, haste: Haste, metrics: &Metrics) -> Result<Kept, RecordError>
where
    S: Fn(&Step, Haste) -> Result<Kept, RecordError> + Send + 'static,
{
    let mut writing = spawn_blocking(move || store(&step, haste));
    let written = tokio::select! {
        written = &mut writing => written,
        () = tokio::time::sleep(SLOW) => {
            let seconds = SLOW.as_secs();
            metrics.record_is(RecordAge::Outdated);
            warn!(seconds, "the disk does not answer: the record is not written yet; a reboot now would restore an older state; forwards are not affected");
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
    use crate::dataplane::Backend;
    use crate::metrics::{Detail, PerForward};
    use crate::model::Desired;
    use crate::source::Snapshot;

    const PATIENCE: Duration = Duration::from_mins(2);

    fn metrics() -> Metrics {
        Metrics::new(Backend::default(), None, PerForward { detail: Detail::Off, limit: 0 })
    }

    fn set(label: &str) -> Arc<Snapshot> {
        Arc::new(Snapshot { labels: [("set".to_owned(), label.to_owned())].into(), ..Snapshot::default() })
    }

    /// A disk on which each write waits for the test, and then ends with the result that the test gives.
    struct Disk {
        begun: Receiver<String>,
        ends: Sender<Result<Kept, RecordError>>,
    }

    impl Disk {
        /// The disk, and the function that writes to it.
        fn new() -> (Self, impl Fn(&Step, Haste) -> Result<Kept, RecordError> + Clone + Send + 'static) {
            let (starts, begun) = channel();
            let (ends, end) = channel();
            let end = Arc::new(Mutex::new(end));
            let store = move |step: &Step, _: Haste| {
                starts.send(step.record.labels["set"].clone()).unwrap();
                end.lock().unwrap().recv().unwrap()
            };
            (Self { begun, ends }, store)
        }

        fn begun(&self) -> String {
            self.begun.recv_timeout(PATIENCE).unwrap()
        }
    }

    /// Runs the writer for `memory` in parallel to a test that may block. Returns the writes that the test did not wait for.
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
    async fn a_large_record_is_noted_before_it_is_written() {
        let (starts, begun) = channel();
        let store = move |step: &Step, haste: Haste| {
            starts.send((step.record.labels["set"].clone(), haste)).unwrap();
            Ok(if haste == Haste::Now { Kept::Written(SMALL + 1) } else { Kept::Noted })
        };
        let (records, due) = recording();
        let mut memory = Memory::new("a", None).recorded_by(records);
        let next = move || begun.recv_timeout(PATIENCE).unwrap();
        let test = spawn_blocking(move || {
            memory.advance(&set("first"), &Desired::default());
            assert_eq!(next(), ("first".to_owned(), Haste::Now), "its size is not known yet");
            // Longer than the pause after it, which would be a reason for a note too.
            std::thread::sleep(2 * Duration::from_micros(SMALL / BYTES_PER_MICROSECOND));
            memory.advance(&set("second"), &Desired::default());
            assert_eq!(next(), ("second".to_owned(), Haste::Later));
            assert_eq!(next(), ("second".to_owned(), Haste::Now));
        });
        let metrics = metrics();
        let ((), tested) = timeout(PATIENCE, async { tokio::join!(keep(store, &metrics, due), test) }).await.unwrap();
        tested.unwrap();
    }

    #[tokio::test]
    async fn a_disk_that_hangs_delays_no_sync_and_gets_the_newest_afterwards() {
        let rest = beside(|memory, disk| {
            memory.advance(&set("first"), &Desired::default());
            assert_eq!(disk.begun(), "first");
            for later in ["second", "third", "fourth"] {
                memory.advance(&set(later), &Desired::default());
            }
            disk.ends.send(Ok(Kept::Written(1))).unwrap();
            assert_eq!(disk.begun(), "fourth");
            disk.ends.send(Ok(Kept::Written(1))).unwrap();
        });
        assert_eq!(rest.await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_sync_waits_for_a_disk_that_answers_and_once_for_one_that_hangs() {
        let (mut records, due) = recording();
        records.send(Step { record: Arc::default(), next: None });
        let begun = tokio::time::Instant::now();
        records.settle().await;
        assert!(records.late == 1 && begun.elapsed() >= MOMENT);
        for _ in 0..1000 {
            records.send(Step { record: Arc::default(), next: None });
            records.settle().await;
        }
        assert!(begun.elapsed() < MOMENT * 1000, "the writer is late, so the sync does not wait for it");
        due.done.send_replace(1001);
        records.send(Step { record: Arc::default(), next: None });
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
            disk.ends.send(Ok(Kept::Written(1))).unwrap();
            if begun == "first" {
                assert_eq!(disk.begun(), "second");
                disk.ends.send(Ok(Kept::Written(1))).unwrap();
            }
        });
        rest.await;
    }

    #[tokio::test]
    async fn the_last_record_is_written_before_the_writer_ends() {
        let rest = beside(|memory, disk| {
            disk.ends.send(Ok(Kept::Written(1))).unwrap();
            memory.advance(&set("last"), &Desired::default());
            // The loop ends here, possibly before the writer has read anything.
            *memory = Memory::new("a", None);
            assert_eq!(disk.begun(), "last");
        });
        rest.await;
    }
}
