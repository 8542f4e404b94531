//! Tests that the files of `deploy/gitops` are consistent with each other and with the rest of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use portforward_operator::api;
use portforward_operator::forward::Forward;
use serde_json::{Value, json};

use crate::argo::{self, Health};
use crate::{SCRIPT, condition, path, read, yaml};

const ARGO: &str = "deploy/gitops/argocd/resource_customizations/portforward.dev/PortForward";

/// The test format of Argo CD: each input is a manifest from the API server, recorded by `tests/gitops`.
#[test]
fn the_upstream_form_of_the_test_holds() {
    let script = read(SCRIPT);
    let tests = yaml(&format!("{ARGO}/health_test.yaml")).remove(0);
    let mut inputs = BTreeSet::new();
    let mut seen = Vec::new();
    for test in tests["tests"].as_array().expect("a list of tests") {
        let input = test["inputPath"].as_str().expect("every test has an input");
        let object = yaml(&format!("{ARGO}/{input}")).remove(0);
        let wanted = &test["healthStatus"];
        let wanted = (Health::read(wanted["status"].as_str().unwrap()), wanted["message"].as_str().unwrap().to_owned());
        assert_eq!(argo::run(&script, &object), wanted, "{input}");
        assert_eq!(object["kind"], "PortForward", "{input}");
        assert!(object["metadata"]["uid"].is_string() && condition(&object, "Ready").is_some(), "{input} is whole");
        seen.push(wanted.0);
        inputs.insert(input.to_owned());
    }
    for health in [Health::Healthy, Health::Progressing, Health::Degraded, Health::Suspended] {
        assert!(seen.contains(&health), "no test is {health:?}");
    }
    let names = fs::read_dir(path(ARGO).join("testdata")).unwrap().map(|entry| entry.unwrap().file_name());
    let files: BTreeSet<String> = names.map(|name| format!("testdata/{}", name.to_string_lossy())).collect();
    assert_eq!(files, inputs, "every input has a test");
}

#[test]
fn the_config_map_holds_the_same_script() {
    let map = yaml("deploy/gitops/argocd/argocd-cm.yaml").remove(0);
    let data = map["data"].as_object().expect("a ConfigMap has data");
    let keys: Vec<&str> = data.keys().map(String::as_str).collect();
    assert_eq!(keys, ["resource.customizations.health.portforward.dev_PortForward"]);
    assert_eq!(data[keys[0]].as_str(), Some(read(SCRIPT).as_str()), "copy the script into the ConfigMap again, indented");
}

#[test]
fn the_script_bears_an_object_without_a_status() {
    let object = json!({"metadata": {"generation": 1}, "spec": {}});
    assert_eq!(argo::run(&read(SCRIPT), &object).0, Health::Progressing);
    let object = json!({"metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1}});
    assert_eq!(argo::run(&read(SCRIPT), &object).0, Health::Progressing);
}

/// Every document of the examples, by kind and name.
fn documents() -> BTreeMap<(String, String), Value> {
    let files = [
        "deploy/gitops/argocd/application.yaml",
        "deploy/gitops/flux/operator.yaml",
        "deploy/gitops/flux/operator-by-helm/release.yaml",
        "deploy/gitops/flux/forwards.yaml",
    ];
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned();
    let key = |document: &Value| (text(&document["kind"]), text(&document["metadata"]["name"]));
    files.into_iter().flat_map(yaml).map(|document| (key(&document), document)).collect()
}

fn document<'a>(documents: &'a BTreeMap<(String, String), Value>, kind: &str, name: &str) -> &'a Value {
    documents.get(&(kind.to_owned(), name.to_owned())).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

#[test]
fn the_example_forwards_are_usable() {
    let list = yaml("deploy/gitops/forwards/kustomization.yaml").remove(0);
    let files = list["resources"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned());
    let mut namespaces = BTreeSet::new();
    let mut forwards = BTreeSet::new();
    for object in files.flat_map(|file| yaml(&format!("deploy/gitops/forwards/{file}"))) {
        if object["kind"] == "Namespace" {
            namespaces.insert(object["metadata"]["name"].as_str().unwrap().to_owned());
        } else {
            let decoded = api::decode(object).unwrap();
            Forward::parse(&decoded).unwrap();
            forwards.insert(decoded.metadata.namespace.unwrap());
        }
    }
    assert!(!forwards.is_empty() && forwards == namespaces, "{forwards:?} {namespaces:?}");
}

#[test]
fn what_flux_is_to_apply_is_there_and_in_order() {
    let all = documents();
    let operator = document(&all, "Kustomization", "portforward-operator");
    let forwards = document(&all, "Kustomization", "forwards");
    for one in [operator, forwards] {
        assert_eq!(one["spec"]["wait"], true, "{one:#}");
        assert_eq!(one["spec"]["prune"], true, "{one:#}");
        let source = &one["spec"]["sourceRef"];
        document(&all, source["kind"].as_str().unwrap(), source["name"].as_str().unwrap());
        let folder = one["spec"]["path"].as_str().unwrap();
        assert!(path(folder).is_dir(), "{folder}");
    }
    assert_eq!(forwards["spec"]["dependsOn"], json!([{"name": "portforward-operator"}]));
    let definition = &operator["spec"]["patches"][0]["target"];
    assert_eq!(definition["name"].as_str(), api::crd().metadata.name.as_deref());

    let release = document(&all, "HelmRelease", "portforward-operator");
    let source = &release["spec"]["chart"]["spec"]["sourceRef"];
    document(&all, source["kind"].as_str().unwrap(), source["name"].as_str().unwrap());

    let mut spelled_out = yaml(crate::flux::EXPRESSIONS).remove(0);
    assert!(spelled_out["spec"].as_object_mut().unwrap().remove("healthCheckExprs").is_some());
    assert_eq!(&spelled_out, forwards, "the two differ in the expressions alone");
}

#[test]
fn argo_cd_applies_the_forwards_in_the_last_wave_and_by_the_server() {
    let all = documents();
    let application = document(&all, "Application", "portforward");
    let options: Vec<&str> =
        application["spec"]["syncPolicy"]["syncOptions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(options.contains(&"ServerSideApply=true"), "{options:?}");
    assert!(application["spec"].get("ignoreDifferences").is_none(), "nothing flaps");
    let overlay = application["spec"]["sources"][1]["path"].as_str().unwrap();
    let list = yaml(&format!("{overlay}/kustomization.yaml")).remove(0);
    assert_eq!(list["commonAnnotations"]["argocd.argoproj.io/sync-wave"], "1");
    assert_eq!(list["resources"], json!(["../../forwards"]));
}
