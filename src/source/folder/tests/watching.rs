//! Tests the task that watches a folder, with the real watcher.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::source::FileReport;

const PATIENCE: Duration = Duration::from_mins(2);

/// A folder with its watcher. The periodic reading is off unless a test is about it.
struct Watched {
    dir: TempDir,
    source: Source,
    wake: Arc<Notify>,
    _tasks: Tasks,
}

impl Watched {
    fn new(again: Duration, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let wake = Arc::new(Notify::new());
        let pace = Pace { quiet: Duration::from_millis(20), again, retry: Duration::from_millis(50), ..Pace::USUAL };
        let mut tasks = Tasks::default();
        let source = watch_at(pace, dir.path().join("manifests"), Contents::default(), wake.clone(), CHECK, &mut tasks);
        Self { dir, source, wake, _tasks: tasks }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("manifests").join(file)
    }

    /// Waits until the snapshot is as wanted. Every snapshot on the way must contain an object.
    async fn until(&mut self, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found = self.source.current.wait_for(|now| {
            assert!(now.as_ref().is_none_or(|now| !now.forwards.is_empty()), "an empty set in between");
            now.as_deref().is_some_and(&wanted)
        });
        timeout(PATIENCE, found).await.expect("the folder should have been read by now").unwrap().clone().unwrap()
    }
}

fn with_one(dir: &Path) {
    fs::create_dir(dir.join("manifests")).unwrap();
    fs::write(dir.join("manifests/a.yaml"), manifest("a", "3.3.3.3")).unwrap();
}

const NEVER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn changes_are_seen_by_events_and_wake_the_sync_loop() {
    let mut watched = Watched::new(NEVER, with_one);
    watched.until(|now| in_force(now) == [forward("a", "3.3.3.3", 1)]).await;
    timeout(PATIENCE, watched.wake.notified()).await.unwrap();

    fs::write(watched.path("b.yaml"), manifest("b", "3.3.3.3")).unwrap();
    watched.until(|now| now.forwards.len() == 2).await;
    timeout(PATIENCE, watched.wake.notified()).await.unwrap();

    fs::write(watched.path("new"), manifest("a", "4.4.4.4")).unwrap();
    fs::rename(watched.path("new"), watched.path("a.yaml")).unwrap();
    watched.until(|now| in_force(now)[0] == forward("a", "4.4.4.4", 2)).await;

    fs::write(watched.path("b.yaml"), "{").unwrap();
    let snapshot = watched.until(|now| !error(now, "b.yaml").is_empty()).await;
    assert_eq!(snapshot.forwards.len(), 2);

    fs::remove_file(watched.path("b.yaml")).unwrap();
    watched.until(|now| now.forwards.len() == 1 && now.files.len() == 1).await;
    assert_eq!(watched.source.complete().unwrap().forwards.len(), 1);
}

#[tokio::test]
async fn nothing_is_known_before_the_folder_exists() {
    let mut watched = Watched::new(NEVER, |_| ());
    assert_eq!(watched.source.complete(), None);
    let prepared = watched.dir.path().join("prepared");
    fs::create_dir(&prepared).unwrap();
    fs::write(prepared.join("a.yaml"), manifest("a", "3.3.3.3")).unwrap();
    fs::rename(&prepared, watched.path("")).unwrap();
    let first = watched.until(|_| true).await;
    assert_eq!(in_force(&first), [forward("a", "3.3.3.3", 1)]);
}

#[tokio::test]
async fn a_deleted_folder_changes_nothing_and_its_successor_is_watched() {
    let mut watched = Watched::new(NEVER, with_one);
    watched.until(|now| now.forwards.len() == 1).await;
    fs::remove_dir_all(watched.path("")).unwrap();
    let prepared = watched.dir.path().join("prepared");
    fs::create_dir(&prepared).unwrap();
    fs::write(prepared.join("a.yaml"), manifest("a", "3.3.3.3")).unwrap();
    fs::write(prepared.join("b.yaml"), manifest("b", "3.3.3.3")).unwrap();
    fs::rename(&prepared, watched.path("")).unwrap();
    watched.until(|now| now.forwards.len() == 2).await;
    fs::write(watched.path("c.yaml"), manifest("c", "3.3.3.3")).unwrap();
    let snapshot = watched.until(|now| now.forwards.len() == 3).await;
    assert_eq!(in_force(&snapshot)[0], forward("a", "3.3.3.3", 1));
}

#[tokio::test]
async fn an_empty_directory_in_the_place_of_the_folder_changes_nothing_and_a_removal_from_the_folder_counts() {
    let mut watched = Watched::new(Duration::from_millis(50), with_one);
    watched.until(|now| now.forwards.len() == 1).await;
    let aside = watched.dir.path().join("aside");
    fs::rename(watched.path(""), &aside).unwrap();
    fs::create_dir(watched.path("")).unwrap();
    let said = |now: &Snapshot| now.files.iter().any(FileReport::is_folder);
    let snapshot = watched.until(said).await;
    assert_eq!(in_force(&snapshot), [forward("a", "3.3.3.3", 1)]);
    fs::remove_dir(watched.path("")).unwrap();
    fs::rename(&aside, watched.path("")).unwrap();
    watched.until(|now| !said(now)).await;
    fs::write(watched.path("b.yaml"), manifest("b", "3.3.3.3")).unwrap();
    watched.until(|now| now.forwards.len() == 2).await;
    fs::remove_file(watched.path("a.yaml")).unwrap();
    let snapshot = watched.until(|now| now.forwards.len() == 1).await;
    assert_eq!(in_force(&snapshot), [forward("b", "3.3.3.3", 1)]);
}

#[tokio::test]
async fn a_mounted_config_map_is_replaced_as_a_whole() {
    let mut watched = Watched::new(NEVER, |dir| {
        let folder = dir.join("manifests");
        fs::create_dir_all(folder.join("..1")).unwrap();
        fs::write(folder.join("..1/a.yaml"), manifest("a", "3.3.3.3")).unwrap();
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/a.yaml", folder.join("a.yaml")).unwrap();
    });
    watched.until(|now| in_force(now) == [forward("a", "3.3.3.3", 1)]).await;
    fs::create_dir(watched.path("..2")).unwrap();
    fs::write(watched.path("..2/a.yaml"), manifest("a", "4.4.4.4")).unwrap();
    symlink("..2", watched.path("..data_tmp")).unwrap();
    fs::rename(watched.path("..data_tmp"), watched.path("..data")).unwrap();
    let snapshot = watched.until(|now| in_force(now) == [forward("a", "4.4.4.4", 2)]).await;
    assert_eq!(snapshot.files.len(), 1);
}

#[tokio::test]
async fn a_change_without_an_event_is_found_by_reading_again() {
    let mut watched = Watched::new(Duration::from_millis(50), |dir| {
        fs::create_dir(dir.join("manifests")).unwrap();
        fs::write(dir.join("outside"), manifest("a", "3.3.3.3")).unwrap();
        symlink("../outside", dir.join("manifests/a.yaml")).unwrap();
    });
    watched.until(|now| in_force(now) == [forward("a", "3.3.3.3", 1)]).await;
    fs::write(watched.dir.path().join("outside"), manifest("a", "4.4.4.4")).unwrap();
    watched.until(|now| in_force(now) == [forward("a", "4.4.4.4", 2)]).await;
}

/// A program writes the first object, pauses, and writes the rest. The second object is never withdrawn, and the new content
/// counts after the close.
#[tokio::test]
async fn a_manifest_that_is_written_with_a_pause_withdraws_nothing() {
    let both = |a: &str, b: &str| manifest("a", a) + "---\n" + &manifest("b", b);
    let mut watched = Watched::new(NEVER, |dir| {
        fs::create_dir(dir.join("manifests")).unwrap();
        fs::write(dir.join("manifests/a.yaml"), both("3.3.3.3", "3.3.3.3")).unwrap();
    });
    watched.until(|now| now.forwards.len() == 2).await;
    let mut file = fs::File::create(watched.path("a.yaml")).unwrap();
    file.write_all(manifest("a", "4.4.4.4").as_bytes()).unwrap();
    // Another file shows that the folder, with this file, has been read.
    fs::write(watched.path("other.yaml"), manifest("c", "3.3.3.3")).unwrap();
    let half = watched.until(|now| now.forwards.len() != 2).await;
    let kept = [forward("a", "3.3.3.3", 1), forward("b", "3.3.3.3", 1), forward("c", "3.3.3.3", 1)];
    assert_eq!(in_force(&half), kept);
    file.write_all(("---\n".to_owned() + &manifest("b", "4.4.4.4")).as_bytes()).unwrap();
    drop(file);
    let done = watched.until(|now| in_force(now) != kept).await;
    assert_eq!(in_force(&done), [forward("a", "4.4.4.4", 2), forward("b", "4.4.4.4", 2), forward("c", "3.3.3.3", 1)]);
}
