//! Invalid manifests while the agent runs: the last good content stays in force, and the report shows what is wrong and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;

use portforward_operator::api;
use portforward_operator::forward::{Forward, Refusals};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::wait::until;
use crate::bed::{CLIENT, EXTERNAL, INTERNAL, SECOND_SERVER, SERVER};
use crate::stage::{FILE, Manifest, SEED, SOON, Stage, by, on_all_backends, servers, tcp, wait};

on_all_backends! {
    what_does_not_parse_leaves_the_last_good_content_in_force,
    one_refused_object_holds_back_its_whole_file_and_no_other,
    a_manifest_that_is_written_with_a_pause_cuts_no_connection,
}

/// Waits until the report on the file of the example contains these texts. Returns the report.
fn refused(stage: &Stage, says: &[&str]) -> String {
    let found = until(SOON, || stage.agent.file_error(FILE).filter(|error| says.iter().all(|part| error.contains(part))));
    found.unwrap_or_else(|| panic!("expected {says:?}, but the report contains {:?}", stage.agent.file_error(FILE)))
}

fn good(stage: &Stage) {
    wait("the file is valid", || stage.agent.report().is_some() && stage.agent.file_error(FILE).is_none());
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
}

fn what_does_not_parse_leaves_the_last_good_content_in_force(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let download = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap().stream().unwrap();
    let before = stage.proxy().iptables_save(variant);
    let text = Manifest::seed().text();
    for (content, says) in [
        ("spec: [", &["line 1"][..]),
        ("", &["is empty", "remove the file"]),
        (&Manifest::seed().with("/spec/prots", json!([])).text(), &["prots"]),
        (&text.replace("\"port\": 80", "\"port\": 80, \"port\": 81"), &["the field port is there twice"]),
        (&text[..text.len() / 2], &["line"]),
    ] {
        stage.manifests.put(FILE, content);
        refused(&stage, says);
        assert_eq!(stage.agent.condition(SEED, "Ready"), Some(("True".into(), "Ready".into())));
    }
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    assert_eq!(stage.proxy().iptables_save(variant), before);

    stage.manifests.put(FILE, &Manifest::seed().for_second_server().text());
    good(&stage);
    wait("the new content is in force", || tcp(&stage.bed) == by(SECOND_SERVER, EXTERNAL));
    assert!(download.goes_on(ANSWER));
}

fn one_refused_object_holds_back_its_whole_file_and_no_other(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let wrong = Manifest::seed().named("wrong").with("/spec/upstream/targets/0/address", "010.0.0.1");
    let both = format!("{}---\n{}", Manifest::seed().for_second_server().text(), wrong.text());
    stage.manifests.put(FILE, &both);
    stage.manifests.put(
        "other.yaml",
        &Manifest::seed().named("other").with("/spec/ports", json!([{"name": "web", "port": 81, "targetPort": 80}])).text(),
    );
    refused(&stage, &["document 2", "wrong", "spec.upstream.targets[0].address", "octal; write it without"]);
    stage.agent.wait_condition("lines/other", "Ready", "True", "Ready");
    assert!(stage.agent.forward("lines/wrong").is_none());
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "the first object of the file is not applied while the second is invalid");

    let right = wrong
        .with("/spec/upstream/targets/0/address", SERVER.to_string())
        .with("/spec/ports/0/port", 82)
        .with("/spec/ports/1/port", 515);
    stage.manifests.put(FILE, &format!("{}---\n{}", Manifest::seed().for_second_server().text(), right.text()));
    good(&stage);
    stage.agent.wait_condition("lines/wrong", "Ready", "True", "Ready");
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
}

/// The file contains the first object but not yet the second. The last good content stays in force until the writer has closed
/// the file.
fn a_manifest_that_is_written_with_a_pause_cuts_no_connection(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let other = |name: &str, port| {
        Manifest::seed().named(name).with("/spec/ports", json!([{"name": "web", "port": port, "targetPort": 80}])).text()
    };
    let first = |target: Manifest| format!("{}---\n", target.text());
    stage.manifests.put(FILE, &(first(Manifest::seed()) + &other("second", 81)));
    stage.agent.wait_ready("lines/second");
    let open = |port| Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, port), ANSWER).unwrap().stream().unwrap();
    let mut connections = [open(80), open(81)];

    let mut writer = File::create(stage.manifests.folder().join(FILE)).unwrap();
    writer.write_all(first(Manifest::seed().for_second_server()).as_bytes()).unwrap();
    // When this file is in force, the folder has been read with half of the first file in it.
    stage.manifests.put("third.yaml", &other("third", 82));
    stage.agent.wait_ready("lines/third");
    assert!(connections.iter_mut().all(|connection| connection.goes_on(ANSWER)));
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL), "half of a file changes nothing");

    writer.write_all(other("second", 81).as_bytes()).unwrap();
    drop(writer);
    wait("the new content is in force", || tcp(&stage.bed) == by(SECOND_SERVER, EXTERNAL));
    assert!(connections.iter_mut().all(|connection| connection.goes_on(ANSWER)));
}

/// A row of the table of refusals. The other columns of the table are used by other tests.
#[derive(Deserialize)]
struct Row {
    claim: String,
    #[serde(default)]
    set: BTreeMap<String, Value>,
    reason: Option<String>,
}

/// The base object of the table with the changes of the row.
fn object(row: &Row) -> Value {
    let mut object: Value = serde_saphyr::from_str(include_str!("../refusals/base.yaml")).unwrap();
    for (pointer, value) in &row.set {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        match object.pointer_mut(parent).unwrap() {
            Value::Object(fields) if value.is_null() => drop(fields.remove(last)),
            Value::Array(items) if last == "-" => items.push(value.clone()),
            Value::Array(items) => items[last.parse::<usize>().unwrap()] = value.clone(),
            parent => parent[last] = value.clone(),
        }
    }
    object
}

#[test]
fn one_object_of_every_kind_of_refusal_is_refused_in_the_types_own_words() {
    let stage = Stage::seed(Variant::Nft);
    let _servers = servers(&stage.bed);
    let before = stage.proxy().iptables_save(Variant::Nft);
    let rows: Vec<Row> = serde_saphyr::from_str(include_str!("../refusals/table.yaml")).unwrap();
    let mut seen = BTreeSet::new();
    for row in rows.iter().filter(|row| row.reason.as_ref().is_some_and(|reason| seen.insert(reason.clone()))) {
        let object = object(row);
        let refusal =
            api::decode(object.clone()).map_err(Refusals::from).and_then(|object| Forward::parse(&object)).expect_err(&row.claim);
        stage.manifests.put(FILE, &object.to_string());
        let messages: Vec<&str> = refusal.as_slice().iter().map(|refusal| refusal.message.as_str()).collect();
        let error = refused(&stage, &messages);
        assert!(error.starts_with("document 1"), "{}: {error}", row.claim);
    }
    assert!(seen.len() >= 25, "{seen:?}");
    assert_eq!(stage.proxy().iptables_save(Variant::Nft), before);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}
