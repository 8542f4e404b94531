//! Tests that the generated files are up to date: the CRD in the chart, the tables of values, `deploy/`, and the schema for
//! editors.
//!
//! `make generate` runs this with `UPDATE_GOLDEN=1`, which writes the files instead of comparing them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use portforward_operator::api::Kind;
use serde_json::{Value, json};

use crate::bed::netns::must;
use crate::helm::{CHART, read, render};
use crate::plane::programs;
use crate::table;

/// The text that the chart adds to a CRD behind its name.
const ADDED: &str = r#"  labels:
    {{- include "portforward-operator.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    # Helm keeps the CRD when the release is uninstalled, and with it every object.
    helm.sh/resource-policy: keep
  {{- end }}
"#;
/// The header of every generated file in `deploy/`.
const MADE: &str = "# Made from the chart by `make generate`.\n";

/// The files that differ from the generated content; none if they were written.
struct Drift {
    update: bool,
    found: Vec<String>,
}

impl Drift {
    fn check(&mut self, path: &str, wanted: &str) {
        let there = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default();
        if there == wanted {
            return;
        }
        if self.update {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            fs::create_dir_all(path.parent().expect("a file is in a folder")).unwrap();
            fs::write(path, wanted).unwrap();
        } else {
            let line = there.lines().zip(wanted.lines()).position(|(there, wanted)| there != wanted);
            let line = line.unwrap_or_else(|| there.lines().count().min(wanted.lines().count()));
            let at = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
            self.found.push(format!("{path}:{}: {:?}, wanted {:?}", line + 1, at(&there), at(wanted)));
        }
    }
}

/// The CRDs as a template. Helm must not interpret double braces in a rule or a description.
fn definitions() -> String {
    let text = Kind::ALL.map(definition).join("---\n");
    format!("{{{{- if .Values.crds.enabled }}}}\n# Made from the types of the API by `make generate`.\n{text}{{{{- end }}}}\n")
}

fn definition(kind: Kind) -> String {
    let name = format!("metadata:\n  name: {}\n", kind.crd().metadata.name.expect("a CRD has a name"));
    let text = kind.crd_yaml().replace("{{", "{{ \"{{\" }}");
    assert!(text.contains(&name), "the definition's metadata looks otherwise now");
    text.replacen(&name, &format!("{name}{ADDED}"), 1)
}

/// The default render, by template file, without the objects that only Helm uses.
fn base() -> BTreeMap<String, String> {
    // Hooks and the policy that keeps the CRD have a meaning only for Helm.
    by_file(&render(&json!({"crds": {"keep": false}})))
}

fn by_file(rendered: &str) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for document in rendered.split("\n---\n").map(|document| document.trim_start_matches("---\n")) {
        let (source, text) = document.split_once('\n').expect("Helm names the source first");
        let file = source.strip_prefix("# Source: portforward-operator/templates/").expect("Helm names the source first");
        if file.starts_with("tests/") {
            continue;
        }
        let foreign = ["helm.sh/chart: ", "app.kubernetes.io/managed-by: "];
        let kept = text.lines().filter(|line| !foreign.iter().any(|label| line.trim_start().starts_with(label)));
        let kept = kept.fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        });
        match files.get_mut(file) {
            Some(before) => {
                let _ = write!(before, "---\n{}\n", kept.trim_end());
            }
            None => drop(files.insert(file.to_owned(), format!("{MADE}{}\n", kept.trim_end()))),
        }
    }
    files
}

/// The manifest that removes everything from the nodes, as the chart renders it with default values.
fn cleanup() -> String {
    by_file(&render(&json!({"cleanup": {"enabled": true}}))).remove("cleanup.yaml").expect("the chart has it")
}

fn kustomization(files: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "{MADE}# The agents and everything that they need, as the chart renders it with its default values. namespace.yaml is written by hand.\n\
         apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- namespace.yaml\n"
    );
    for file in files.keys() {
        let _ = writeln!(text, "- {file}");
    }
    text
}

/// The schema of a kind for editors: without the parts that only an API server understands, and strict about names.
fn for_editors(kind: Kind) -> String {
    let definition = serde_json::to_value(kind.crd()).expect("a definition can be written");
    let version = &definition["spec"]["versions"][0];
    let mut schema = version["schema"]["openAPIV3Schema"].clone();
    tidy(&mut schema);
    let api_version = format!("{}/{}", definition["spec"]["group"].as_str().unwrap(), version["name"].as_str().unwrap());
    let fields = schema["properties"].as_object_mut().expect("an object has fields");
    // Users do not write it.
    fields.remove("status");
    fields.insert("apiVersion".into(), json!({"const": api_version}));
    fields.insert("kind".into(), json!({"const": definition["spec"]["names"]["kind"]}));
    fields.insert("metadata".into(), json!({"type": "object", "description": "Name, namespace, labels and annotations."}));
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    serde_json::to_string_pretty(&schema).expect("a schema can be written") + "\n"
}

fn tidy(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("x-kubernetes-"));
        if fields.get("properties").is_some_and(Value::is_object) {
            fields.insert("additionalProperties".into(), false.into());
        }
        fields.values_mut().for_each(tidy);
    } else if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(tidy);
    }
}

#[test]
fn everything_that_is_generated_is_what_is_made_now() {
    let mut drift = Drift { update: std::env::var_os("UPDATE_GOLDEN").is_some(), found: Vec::new() };
    drift.check(&format!("{CHART}/templates/crd.yaml"), &definitions());
    let schema = format!("{CHART}/values.schema.json");
    drift.check(&schema, &table::described(&read(&schema)));
    for page in ["docs/values.md", &format!("{CHART}/README.md")] {
        drift.check(page, &table::page(&read(page)));
    }
    for kind in Kind::ALL {
        drift.check(&format!("docs/schema/{}.json", kind.name().to_lowercase()), &for_editors(kind));
    }
    let base = base();
    for (file, text) in &base {
        drift.check(&format!("deploy/base/{file}"), text);
    }
    drift.check("deploy/base/kustomization.yaml", &kustomization(&base));
    let cleanup = cleanup();
    drift.check("deploy/cleanup.yaml", &cleanup);
    drift.check("deploy/cleanup/cleanup.yaml", &cleanup);
    let mut kubectl = Command::new(programs::folder().join("kubectl"));
    kubectl.current_dir(env!("CARGO_MANIFEST_DIR")).args(["kustomize", "deploy/base"]);
    drift.check("deploy/install.yaml", &format!("{MADE}{}", must(&mut kubectl)));
    assert!(drift.found.is_empty(), "these are not what is made now; to renew them: make generate\n{}", drift.found.join("\n"));
}

#[test]
fn double_braces_of_the_definition_are_no_actions_of_helm() {
    // Helm must render the escaped text of `definition` as the original text.
    let text = "rule: self == '{{x}}'".replace("{{", "{{ \"{{\" }}");
    let folder = tempfile::tempdir().unwrap();
    let chart = folder.path().join("chart");
    fs::create_dir_all(chart.join("templates")).unwrap();
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: braces\nversion: 0.1.0\n").unwrap();
    fs::write(chart.join("templates/a.yaml"), format!("kind: A\n{text}\n")).unwrap();
    let rendered = crate::helm::Helm::Four.template(chart.to_str().unwrap(), "1.33", &json!({})).unwrap();
    assert_eq!(crate::helm::objects(&rendered)[0]["rule"], "self == '{{x}}'");
}
