//! Real files, a real watcher; every wait is bounded and ends with the event it waits for.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::timeout;

use crate::source::FileReport;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn manifest(name: &str, upstream: &str) -> String {
    format!(
        "apiVersion: portforward.dev/v1alpha1
kind: PortForward
metadata: {{name: {name}}}
spec:
  client: {{addresses: [1.1.1.1]}}
  internal: {{addresses: [192.168.0.2]}}
  upstream: {{targets: [{{address: {upstream}}}]}}
  ports: [{{name: http, port: 80}}]
"
    )
}

/// Refuses one upstream, so that a refusal can be told from a mistake in the text.
fn check(object: &PortForward) -> Result<(), String> {
    if object.spec.upstream.targets[0].address == "0.0.0.0" { Err("spec.upstream: is nowhere".into()) } else { Ok(()) }
}

/// What is in force: name, upstream, generation.
fn in_force(snapshot: &Snapshot) -> Vec<(String, String, i64)> {
    let show = |sourced: &Sourced| {
        let (meta, spec) = (&sourced.object.metadata, &sourced.object.spec);
        (meta.name.clone().unwrap(), spec.upstream.targets[0].address.clone(), meta.generation.unwrap())
    };
    snapshot.forwards.iter().map(show).collect()
}

fn forward(name: &str, upstream: &str, generation: i64) -> (String, String, i64) {
    (name.into(), upstream.into(), generation)
}

fn error(snapshot: &Snapshot, file: &str) -> String {
    let report = snapshot.files.iter().find(|report| report.path == Path::new(file)).unwrap();
    report.error.clone().unwrap_or_default()
}

/// A folder that is read when the test says so.
struct Folder {
    dir: TempDir,
    contents: Contents,
    last: Reading,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), contents: Contents::default(), last: Reading::default() }
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.path().join(file)).unwrap();
    }

    fn read(&mut self) -> Snapshot {
        self.last = reading::read(self.dir.path(), &self.last, check).unwrap();
        self.contents.update(&self.last)
    }

    /// What a file of this text is reported as.
    fn refusal(&mut self, text: impl AsRef<[u8]>) -> String {
        self.write("a.yaml", text);
        let snapshot = self.read();
        assert_eq!(in_force(&snapshot), []);
        error(&snapshot, "a.yaml")
    }
}

#[test]
fn every_shape_of_manifest_is_read_in_order_of_namespace_and_name() {
    let mut folder = Folder::new();
    let json = serde_json::to_string_pretty(&serde_saphyr::from_str::<serde_json::Value>(&manifest("json", "3.3.3.3")).unwrap());
    folder.write("z.json", json.unwrap().replace("  ", "\t"));
    folder.write("docs.yml", format!("---\n# nothing\n---\n{}---\n{}", manifest("two", "3.3.3.3"), manifest("one", "3.3.3.3")));
    let item = manifest("listed", "3.3.3.3").replace('\n', "\n  ");
    folder.write("list.yaml", format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n"));
    folder.write("other-ns.yaml", manifest("zz", "3.3.3.3").replace("{name: zz}", "{name: zz, namespace: a}"));
    folder.write("only-a-comment.yaml", "# withdrawn for now\n");
    folder.write(".hidden.yaml", "no: manifest");
    folder.write("README.md", "no manifest");
    let snapshot = folder.read();
    assert_eq!(snapshot.files.iter().filter(|file| file.error.is_some()).collect::<Vec<_>>(), [] as [&FileReport; 0]);
    let names: Vec<_> = in_force(&snapshot).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["zz", "json", "listed", "one", "two"]);
    assert_eq!(snapshot.forwards[1].object.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(snapshot.forwards[1].origin.as_deref(), Some(Path::new("z.json")));
}

#[test]
fn what_only_an_api_server_says_is_not_taken_over_and_the_rest_is_kept() {
    let mut folder = Folder::new();
    let meta = "{name: a, uid: x, creationTimestamp: '2020-01-01T00:00:00Z', deletionTimestamp: '2020-01-01T00:00:00Z', \
                generation: 7, finalizers: [f], labels: {l: 'on'}, annotations: {n: 'yes'}}";
    folder.write("a.yaml", manifest("a", "3.3.3.3").replace("{name: a}", meta) + "status: {anything: [1]}\n");
    let snapshot = folder.read();
    assert_eq!(error(&snapshot, "a.yaml"), "");
    let object = &snapshot.forwards[0].object;
    let kept = kube::core::ObjectMeta {
        name: Some("a".into()),
        namespace: Some("default".into()),
        generation: Some(1),
        labels: Some([("l".into(), "on".into())].into()),
        annotations: Some([("n".into(), "yes".into())].into()),
        ..Default::default()
    };
    assert_eq!(object.metadata, kept);
    assert_eq!(object.status, None);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let mut folder = Folder::new();
    let good = manifest("a", "3.3.3.3");
    let cases = [
        (good.replace("port: 80", "port: 80, prot: 1"), vec!["document 1 (a)", "spec.ports", "prot"]),
        (good.replace("port: 80", "port: '80'"), vec!["document 1 (a)", "spec.ports[0].port", "string"]),
        (good.replace("port: 80", "port: 080"), vec!["spec.ports[0].port"]),
        (good.replace("kind: PortForward", "kind: Service"), vec!["document 1 (a)", "Service"]),
        (good.clone() + "spec: {}\n", vec!["duplicate", "spec"]),
        (good.replace("[1.1.1.1]", "[1.1.1.1"), vec!["line"]),
        (manifest("b", "3.3.3.3") + "---\n" + &manifest("a", "0.0.0.0"), vec!["document 2 (a)", "spec.upstream: is nowhere"]),
        (good.clone() + "---\n" + &good, vec!["document 2 (a)", "twice"]),
        (good.replace("{name: a}", "{name: on, labels: {l: yes, m: off}}").replace("80", "1_0"), vec!["spec.ports[0].port"]),
        (good.replace("{name: a}", "{}"), vec!["document 1", "metadata.name"]),
        ("apiVersion: v1\nkind: List\nitems: {}\n".into(), vec!["document 1", "items"]),
        ("just text".into(), vec!["document 1"]),
        (String::new(), vec!["empty"]),
        ("a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n".to_owned() + &"c: [*b,*b]\n".repeat(2), vec!["duplicate"]),
    ];
    for (text, wanted) in cases {
        let refusal = folder.refusal(&text);
        for part in wanted {
            assert!(refusal.contains(part), "{part} is not in {refusal:?} of\n{text}");
        }
    }
    assert!(folder.refusal(b"kind: \xff\xfe").contains("UTF-8"));
    assert!(folder.refusal(vec![b'#'; 8 * 1024 * 1024 + 1]).contains("larger than 8388608"));
}

#[test]
fn a_number_is_no_string_and_yes_is_no_boolean() {
    let mut folder = Folder::new();
    folder.write("a.yaml", manifest("on", "3.3.3.3").replace("{name: on}", "{name: on, labels: {l: yes}}"));
    let snapshot = folder.read();
    assert_eq!(snapshot.forwards[0].object.metadata.labels.clone().unwrap()["l"], "yes");
    folder.remove("a.yaml");
    folder.read();
    assert!(folder.refusal(manifest("8", "3.3.3.3")).contains("metadata.name"));
}

#[test]
fn a_broken_or_refused_file_keeps_its_last_good_content_as_a_whole() {
    let mut folder = Folder::new();
    let both = |a: &str, b: &str| manifest("a", a) + "---\n" + &manifest("b", b);
    folder.write("x.yaml", both("3.3.3.3", "3.3.3.3"));
    folder.read();
    let kept = [forward("a", "3.3.3.3", 1), forward("b", "3.3.3.3", 1)];
    for bad in [both("4.4.4.4", "0.0.0.0"), "{".into(), String::new(), both("4.4.4.4", "3.3.3.3") + "more: 1\n"] {
        folder.write("x.yaml", &bad);
        let snapshot = folder.read();
        assert_ne!(error(&snapshot, "x.yaml"), "");
        assert_eq!(in_force(&snapshot), kept, "{bad}");
    }
    folder.write("x.yaml", both("4.4.4.4", "3.3.3.3"));
    let snapshot = folder.read();
    assert_eq!(error(&snapshot, "x.yaml"), "");
    assert_eq!(in_force(&snapshot), [forward("a", "4.4.4.4", 2), forward("b", "3.3.3.3", 1)]);
    folder.remove("x.yaml");
    assert_eq!(folder.read(), Snapshot::default());
}

#[test]
fn an_object_in_two_files_stays_with_the_first_by_path() {
    let mut folder = Folder::new();
    folder.write("b.yaml", manifest("a", "3.3.3.3") + "---\n" + &manifest("b", "3.3.3.3"));
    folder.read();
    folder.write("a.yaml", manifest("a", "4.4.4.4"));
    let snapshot = folder.read();
    assert_eq!(error(&snapshot, "b.yaml"), "default/a is in force from a.yaml already; remove one of them");
    assert_eq!(in_force(&snapshot), [forward("a", "4.4.4.4", 2), forward("b", "3.3.3.3", 1)]);
    assert_eq!(snapshot.forwards[0].origin.as_deref(), Some(Path::new("a.yaml")));
    folder.remove("a.yaml");
    let snapshot = folder.read();
    assert_eq!(error(&snapshot, "b.yaml"), "");
    assert_eq!(in_force(&snapshot), [forward("a", "3.3.3.3", 3), forward("b", "3.3.3.3", 1)]);
}

#[test]
fn two_files_may_swap_their_objects() {
    let mut folder = Folder::new();
    for (first, second) in [("x", "y"), ("y", "x")] {
        folder.write("a.yaml", manifest(first, "3.3.3.3"));
        folder.write("b.yaml", manifest(second, "3.3.3.3"));
        let snapshot = folder.read();
        assert_eq!(error(&snapshot, "a.yaml") + &error(&snapshot, "b.yaml"), "");
        assert_eq!(in_force(&snapshot), [forward("x", "3.3.3.3", 1), forward("y", "3.3.3.3", 1)]);
    }
}

#[test]
fn what_is_no_file_is_reported_and_holds_nobody_up() {
    let mut folder = Folder::new();
    let path = |name: &str| folder.dir.path().join(name);
    fs::create_dir(path("dir.yaml")).unwrap();
    symlink("/nowhere", path("link.yaml")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo.yaml"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let foreign: &OsStr = OsStr::from_bytes(b"\xff.yaml");
    fs::write(folder.dir.path().join(foreign), manifest("b", "3.3.3.3")).unwrap();
    folder.write("good.yaml", manifest("a", "3.3.3.3"));
    let snapshot = folder.read();
    assert_eq!(in_force(&snapshot), [forward("a", "3.3.3.3", 1)]);
    assert!(snapshot.files.iter().any(|file| file.path == foreign && file.error.as_ref().unwrap().contains("rename it")));
    for (file, wanted) in [("dir.yaml", "regular file"), ("fifo.yaml", "regular file"), ("link.yaml", "No such file")] {
        assert!(error(&snapshot, file).contains(wanted), "{file}");
    }
}

#[test]
fn the_record_gives_a_broken_file_its_last_good_content_and_every_object_its_generation() {
    let mut folder = Folder::new();
    let remembered = |name: &str, origin: Option<&str>, generation: i64| {
        let mut object = document::objects(&manifest(name, "3.3.3.3"), check).unwrap().remove(0);
        object.metadata.generation = Some(generation);
        Sourced { object, origin: origin.map(Into::into) }
    };
    folder.contents = Contents::remembering(vec![
        remembered("broken", Some("broken.yaml"), 3),
        remembered("changed", Some("changed.yaml"), 4),
        remembered("moved", Some("gone.yaml"), 5),
        remembered("same", Some("same.yaml"), 6),
        remembered("gone", Some("gone.yaml"), 7),
        remembered("from-the-api-server", None, 8),
    ]);
    folder.write("broken.yaml", "{");
    folder.write("changed.yaml", manifest("changed", "4.4.4.4"));
    folder.write("elsewhere.yaml", manifest("moved", "3.3.3.3"));
    folder.write("same.yaml", manifest("same", "3.3.3.3"));
    let wanted = [
        forward("broken", "3.3.3.3", 3),
        forward("changed", "4.4.4.4", 5),
        forward("moved", "3.3.3.3", 5),
        forward("same", "3.3.3.3", 6),
    ];
    assert_eq!(in_force(&folder.read()), wanted);
}

#[test]
fn a_folder_that_cannot_be_read_is_an_error_and_no_empty_set() {
    let dir = tempfile::tempdir().unwrap();
    let missing = read(&dir.path().join("no"), check).unwrap_err().to_string();
    assert!(missing.contains("/no: ") && missing.contains("No such file"), "{missing}");
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(read(&dir.path().join("file"), check).is_err());
}

#[test]
fn ten_thousand_objects_fit_into_a_file() {
    let mut folder = Folder::new();
    let text: Vec<_> = (0..10_000).map(|number| manifest(&format!("pf-{number}"), "3.3.3.3")).collect();
    folder.write("a.yaml", text.join("---\n"));
    let snapshot = folder.read();
    assert_eq!(error(&snapshot, "a.yaml"), "");
    assert_eq!(snapshot.forwards.len(), 10_000);
}

/// A folder with its watcher; the slow reading is off unless a test is about it.
struct Watched {
    dir: TempDir,
    source: Source,
    wake: Arc<Notify>,
}

impl Watched {
    fn new(again: Duration, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let wake = Arc::new(Notify::new());
        let pace = Pace { quiet: Duration::from_millis(20), again, retry: Duration::from_millis(50), ..Pace::USUAL };
        let source = watch_at(pace, dir.path().join("manifests"), Vec::new(), wake.clone(), check);
        Self { dir, source, wake }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("manifests").join(file)
    }

    /// Waits until the snapshot is as wanted; every one on the way must hold some object.
    async fn until(&mut self, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found = self.source.current.wait_for(|now| now.as_deref().is_some_and(&wanted));
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
async fn nothing_is_known_before_the_folder_was_there() {
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
async fn a_folder_that_is_gone_changes_nothing_and_its_successor_is_watched() {
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
async fn a_mounted_config_map_is_swapped_whole() {
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

#[tokio::test]
async fn the_task_ends_with_its_last_source() {
    let watched = Watched::new(NEVER, with_one);
    let weak = Arc::downgrade(&watched.wake);
    let Watched { dir: _dir, source, wake } = watched;
    drop((source, wake));
    let ended = async {
        while weak.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
}
