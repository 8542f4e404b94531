//! Tests one reading of a folder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::source::folder::{document, reading};
use crate::source::{FileReport, Sourced};

/// A folder that is read when the test asks for it.
pub(super) struct Folder {
    dir: TempDir,
    pub(super) contents: Contents,
    last: Reading,
    now: Instant,
}

impl Folder {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), contents: Contents::default(), last: Reading::default(), now: Instant::now() }
    }

    pub(super) fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(file), text).unwrap();
    }

    pub(super) fn remove(&self, file: &str) {
        fs::remove_file(self.dir.path().join(file)).unwrap();
    }

    pub(super) fn read(&mut self) -> Snapshot {
        self.look();
        // No program writes, so the content counts a moment later.
        self.now += Duration::from_secs(10);
        self.look().snapshot
    }

    /// One reading of the folder.
    fn look(&mut self) -> Update {
        self.last = reading::read(self.dir.path(), &self.last, &BTreeSet::new(), CHECK).unwrap();
        self.contents.update(&self.last, self.now)
    }

    /// The error that is reported for a file with this text.
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
    assert_eq!(nth(&snapshot, 1).object.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(nth(&snapshot, 1).origin.as_deref(), Some(Path::new("z.json")));
}

#[test]
fn fields_that_only_an_api_server_sets_are_dropped_and_the_others_are_kept() {
    let mut folder = Folder::new();
    let meta = "{name: a, uid: x, creationTimestamp: '2020-01-01T00:00:00Z', deletionTimestamp: '2020-01-01T00:00:00Z', \
                generation: 7, finalizers: [f], labels: {l: 'on'}, annotations: {n: 'yes'}}";
    folder.write("a.yaml", manifest("a", "3.3.3.3").replace("{name: a}", meta) + "status: {anything: [1]}\n");
    let snapshot = folder.read();
    assert_eq!(error(&snapshot, "a.yaml"), "");
    let object = &nth(&snapshot, 0).object;
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
fn the_error_of_a_file_names_the_place() {
    let mut folder = Folder::new();
    let good = manifest("a", "3.3.3.3");
    let cases = [
        (good.replace("port: 80", "port: 80, prot: 1"), vec!["document 1 (a)", "spec.ports", "prot"]),
        (good.replace("port: 80", "port: '80'"), vec!["document 1 (a)", "spec.ports[0].port", "a whole number without quotes"]),
        (good.replace("port: 80", "port: 080"), vec!["spec.ports[0].port"]),
        (good.replace("kind: PortForward", "kind: Service"), vec!["document 1 (a)", "Service"]),
        (good.clone() + "spec: {}\n", vec!["twice", "spec"]),
        (good.replace("[1.1.1.1]", "[1.1.1.1"), vec!["line"]),
        (manifest("b", "3.3.3.3") + "---\n" + &manifest("a", "0.0.0.0"), vec!["document 2 (a)", "spec.upstream: is nowhere"]),
        (good.clone() + "---\n" + &good, vec!["document 2 (a)", "twice"]),
        (good.replace("{name: a}", "{name: on, labels: {l: yes, m: off}}").replace("80", "1_0"), vec!["spec.ports[0].port"]),
        (good.replace("{name: a}", "{}"), vec!["document 1", "metadata.name"]),
        ("apiVersion: v1\nkind: List\nitems: {}\n".into(), vec!["document 1", "items"]),
        ("just text".into(), vec!["document 1"]),
        (String::new(), vec!["empty"]),
        (format!("a: 1\n? {}\n: 1\na: 1\n", "x".repeat(100_000)), vec!["line"]),
        ("[".repeat(100_000), vec!["line"]),
        (format!("{good}bomb:\n{}", bomb()), vec!["line"]),
    ];
    for (text, wanted) in cases {
        let refusal = folder.refusal(&text);
        for part in wanted {
            assert!(refusal.contains(part), "{part} is not in {refusal:?} of\n{text}");
        }
        assert!(!refusal.contains('\n') && refusal.len() < 1024, "{refusal}");
    }
    assert!(folder.refusal(b"kind: \xff\xfe").contains("UTF-8"));
    assert!(folder.refusal(vec![b'#'; 8 * 1024 * 1024 + 1]).contains("larger than 8388608"));
}

#[test]
fn all_mistakes_of_a_file_are_said_one_a_line() {
    let mut folder = Folder::new();
    let good = manifest("a", "3.3.3.3");
    let first = good.replace("port: 80", "prot: 80, protocol: tcp");
    let third = good.replace("3.3.3.3", "0.0.0.0").replace("{name: a}", "{name: c}");
    let refusal = folder.refusal([first.as_str(), &manifest("b", "3.3.3.3"), &third, &manifest("b", "3.3.3.3")].join("---\n"));
    let expected = [
        "document 1 (a): spec.ports[0].prot: there is no such field; did you mean port?",
        "document 1 (a): spec.ports[0].protocol: \"tcp\" is not accepted here; write TCP or UDP",
        "document 3 (c): spec.upstream: is nowhere",
        "document 4 (b): is in this file twice; remove one of them",
    ];
    assert_eq!(refusal, expected.join("\n"));
    let many = (0..60).map(|_| first.clone()).collect::<Vec<_>>().join("---\n");
    let refusal = folder.refusal(many);
    assert!(refusal.ends_with("\n70 more mistakes are not shown; correct those above first"), "{refusal}");
}

#[test]
fn what_is_not_yaml_is_said_in_plain_words() {
    let mut folder = Folder::new();
    let cases = [
        ("a: 1\na: 2\n".to_owned(), "line 2, column 1: the field a is there twice; remove one of the two"),
        ("a: *b\n".to_owned(), "line 1, column 4: the alias refers to an anchor that is not defined above it"),
        ("a: [1\n".to_owned(), "line 1, column 4: not valid YAML: unclosed bracket '['"),
        (
            "a: b: c".to_owned(),
            "line 1, column 5: not valid YAML: a second \": \" in one line, or a wrong indentation; quote the text, or indent it like its neighbours",
        ),
        (":".to_owned(), "line 1, column 1: not valid YAML: a field without a name; write name: value"),
        (
            r#""\x""#.to_owned(),
            "line 1, column 1: not valid YAML: an unknown escape in double quotes; use single quotes, or write \\\\ for a backslash",
        ),
        (
            "- a\nb: c".to_owned(),
            "line 2, column 1: not valid YAML: an entry of a list or a field is expected; indent the line like its neighbours",
        ),
        ("a:\n\t- b".to_owned(), "line 2, column 2: not valid YAML: a tab; indent with spaces"),
        (
            "a: &x *x".to_owned(),
            "line 1, column 7: not valid YAML: a field is expected; write name: value, indented like its neighbours",
        ),
        (
            "  a: b\nc: d".to_owned(),
            "line 2, column 1: not valid YAML: less indentation than the line above; indent it like its neighbours",
        ),
        ("!x a".to_owned(), "line 1, column 4: not valid YAML: a word that begins with \"!\"; remove it, or quote the text"),
        ("[".repeat(300), "line 1, column 256: not valid YAML: too deeply nested for a manifest; is a bracket missing?"),
        ("&a [*a]".to_owned(), "line 1, column 5: not valid YAML: an alias inside what it refers to; write the value itself"),
        (
            bomb(),
            "line 6, column 36: too large or too deeply nested for a manifest; write several smaller files, without aliases",
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(folder.refusal(&text), wanted);
    }
}

/// A few bytes that would expand to a billion strings.
fn bomb() -> String {
    let level = |level: usize| format!("- &l{} [{}]\n", level + 1, vec![format!("*l{level}"); 10].join(","));
    "- &l0 x\n".to_owned() + &(0..9).map(level).collect::<String>()
}

#[test]
fn a_file_that_makes_the_check_panic_affects_no_other() {
    let mut folder = Folder::new();
    folder.write("a.yaml", manifest("a", "255.255.255.255"));
    folder.write("b.yaml", manifest("b", "3.3.3.3"));
    let snapshot = folder.read();
    assert!(error(&snapshot, "a.yaml").contains("the agent crashed while it read this object (assertion"));
    assert_eq!(in_force(&snapshot), [forward("b", "3.3.3.3", 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_text_makes_the_reader_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6usize, "[\\PC\n\t:&*!%|>{}\\[\\]\"'#-]{0,4}"), 1..6)
    ) {
        let mut text: Vec<char> = (manifest("a", "3.3.3.3") + "---\n" + &manifest("b", "3.3.3.3")).chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len());
            text.splice(at..(at + removed).min(text.len()), inserted.chars());
        }
        let text: String = text.into_iter().collect();
        // Both results are correct; a panic is not.
        let _ = document::objects(&text, CHECK);
    }
}

#[test]
fn a_number_is_no_string_and_yes_is_no_boolean() {
    let mut folder = Folder::new();
    folder.write("a.yaml", manifest("on", "3.3.3.3").replace("{name: on}", "{name: on, labels: {l: yes}}"));
    let snapshot = folder.read();
    assert_eq!(nth(&snapshot, 0).object.metadata.labels.clone().unwrap()["l"], "yes");
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
    assert_eq!(folder.read(), Snapshot { grants: Some(Arc::default()), ..Snapshot::default() });
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
    assert_eq!(nth(&snapshot, 0).origin.as_deref(), Some(Path::new("a.yaml")));
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
fn a_path_that_is_not_a_regular_file_is_reported_and_blocks_nothing() {
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
        let mut object = PortForward::clone(&document::objects(&manifest(name, "3.3.3.3"), CHECK).unwrap().forwards[0]);
        object.metadata.generation = Some(generation);
        Sourced::of(Arc::new(object), origin.map(Into::into))
    };
    let before = [
        remembered("broken", Some("broken.yaml"), 3),
        remembered("changed", Some("changed.yaml"), 4),
        remembered("moved", Some("gone.yaml"), 5),
        remembered("same", Some("same.yaml"), 6),
        remembered("gone", Some("gone.yaml"), 7),
        remembered("from-the-api-server", None, 8),
    ];
    folder.contents = Contents::remembering(&before.into_iter().collect());
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
fn a_folder_that_cannot_be_read_is_an_error_and_not_an_empty_set() {
    let dir = tempfile::tempdir().unwrap();
    let missing = format!("{:#}", anyhow::Error::from(read(&dir.path().join("no"), CHECK).unwrap_err()));
    assert!(missing.contains("/no: cannot be read") && missing.contains("No such file"), "{missing}");
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(read(&dir.path().join("file"), CHECK).is_err());
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
