//! Tests that the metadata of the chart and the schema for editors describe the project correctly.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use portforward_operator::api::Kind;
use serde_json::{Value, json};

use crate::helm::{CHART, VERSIONS, objects, read, render};
use crate::python;

fn chart() -> Value {
    serde_saphyr::from_str(&read(&format!("{CHART}/Chart.yaml"))).expect("Chart.yaml is YAML")
}

/// An annotation of Artifact Hub that holds YAML.
fn annotation(chart: &Value, name: &str) -> Value {
    let text = chart["annotations"][format!("artifacthub.io/{name}")].as_str().unwrap_or_else(|| panic!("no {name}"));
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_versions_are_those_of_the_program_and_of_what_is_checked() {
    let chart = chart();
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(chart["kubeVersion"], format!(">={}.0-0", VERSIONS[0]));
    assert_eq!(chart["description"], env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(chart["annotations"]["artifacthub.io/license"], env!("CARGO_PKG_LICENSE"));
}

#[test]
fn what_artifact_hub_shows_is_what_the_chart_has() {
    let chart = chart();
    assert_eq!(chart["annotations"]["artifacthub.io/operator"], "true");
    let crds = annotation(&chart, "crds");
    assert_eq!(crds.as_array().unwrap().len(), Kind::ALL.len());
    for (crd, kind) in crds.as_array().unwrap().iter().zip(Kind::ALL) {
        let definition = serde_json::to_value(kind.crd()).unwrap();
        assert_eq!(crd["name"], definition["metadata"]["name"]);
        assert_eq!(crd["kind"], definition["spec"]["names"]["kind"]);
        assert_eq!(crd["version"], definition["spec"]["versions"][0]["name"]);
        assert!(["displayName", "description"].iter().all(|field| crd[field].is_string()));
    }
    let example = objects(&read("examples/bank-a-web.yaml"));
    assert_eq!(annotation(&chart, "crdsExamples"), json!(example));
    let images = annotation(&chart, "images");
    assert_eq!(images.as_array().unwrap().len(), 1);
    let rendered = objects(&render(&json!({})));
    for object in rendered.iter().filter(|object| ["DaemonSet", "Pod"].contains(&object["kind"].as_str().unwrap())) {
        assert!(object.to_string().contains(&format!("\"image\":{}", images[0]["image"])), "{object:#}");
    }
    let changes = annotation(&chart, "changes");
    let kinds = ["added", "changed", "deprecated", "removed", "fixed", "security"];
    assert!(!changes.as_array().unwrap().is_empty());
    for change in changes.as_array().unwrap() {
        assert!(kinds.contains(&change["kind"].as_str().unwrap()) && change["description"].is_string(), "{change}");
    }
}

const VALIDATE: &str = "
import json, sys
import jsonschema
asked = json.load(sys.stdin)
validator = jsonschema.Draft7Validator(asked['schema'])
jsonschema.Draft7Validator.check_schema(asked['schema'])
found = [[error.message for error in validator.iter_errors(thing)] for thing in asked['objects']]
json.dump(found, sys.stdout)
";

/// The errors that editors show for objects, with the schema `name`.
fn said(name: &str, objects: &[Value]) -> Vec<Vec<String>> {
    let schema: Value = serde_json::from_str(&read(&format!("docs/schema/{name}.json"))).unwrap();
    serde_json::from_value(python::ask(VALIDATE, &json!({"schema": schema, "objects": objects}))).unwrap()
}

#[test]
fn every_example_names_the_schema_for_editors_and_passes_it() {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "yaml") {
            let text = fs::read_to_string(&path).unwrap();
            let named =
                text.strip_prefix("# yaml-language-server: $schema=../docs/schema/").and_then(|rest| rest.split_once(".json\n"));
            let (name, rest) = named.unwrap_or_else(|| panic!("{}: the first line names no schema", path.display()));
            all.entry(name.to_owned()).or_default().extend(objects(rest));
        }
    }
    assert_eq!(all.keys().collect::<Vec<_>>(), ["portforward", "portforwardgrant"]);
    for (name, objects) in all {
        assert!(said(&name, &objects).iter().all(Vec::is_empty), "{:?}", said(&name, &objects));
    }
}

#[test]
fn editors_are_told_of_a_slip_of_the_pen() {
    let good = objects(&read("examples/bank-a-web.yaml")).remove(0);
    let changed = |pointer: &str, value: Value| {
        let mut object = good.clone();
        *object.pointer_mut(pointer).unwrap() = value;
        object
    };
    let mut misspelt = good.clone();
    misspelt["spec"]["clients"] = json!({});
    let wrong = [
        misspelt,
        changed("/spec/ports/0/port", json!(65536)),
        changed("/spec/ports/0/protocol", json!("SCTP")),
        changed("/apiVersion", json!("portforward.dev/v1")),
        changed("/spec", json!(null)),
    ];
    let said = said("portforward", &wrong);
    assert!(said.iter().all(|said| said.len() == 1), "{said:?}");
    assert!(said[0][0].contains("'clients' was unexpected"), "{said:?}");
}
