//! Tests that the files of `deploy/gitops` are consistent with each other and with the rest of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use portforward_operator::api;
use portforward_operator::forward::Forward;
use portforward_operator::grant::Grant;
use portforward_operator::plan::{
    Acceptance, Candidate, Grants, InForce, NodeRefusalReason, Policy, RequireGrants, Verdict, assumed_facts, plan,
};
use serde_json::{Value, json};

use crate::argo::{self, Health};
use crate::rules::{self, Kstatus};
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
        "deploy/gitops/argocd/grants.yaml",
        "deploy/gitops/flux/operator.yaml",
        "deploy/gitops/flux/operator-by-helm/release.yaml",
        "deploy/gitops/flux/forwards.yaml",
        "deploy/gitops/flux/grants.yaml",
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
    let grants = document(&all, "Kustomization", "grants");
    for one in [operator, forwards, grants] {
        assert_eq!(one["spec"]["wait"], true, "{one:#}");
        assert_eq!(one["spec"]["prune"], true, "{one:#}");
        let source = &one["spec"]["sourceRef"];
        document(&all, source["kind"].as_str().unwrap(), source["name"].as_str().unwrap());
        let folder = one["spec"]["path"].as_str().unwrap();
        assert!(path(folder).is_dir(), "{folder}");
    }
    assert_eq!(forwards["spec"]["dependsOn"], json!([{"name": "portforward-operator"}]));
    assert_eq!(grants["spec"]["dependsOn"], json!([{"name": "portforward-operator"}]));
    // The deletion of the operator must delete no forward and no grant. `tests/gitops` applies the patch.
    let definition = operator["spec"]["patches"][0]["target"]["name"].as_str().unwrap();
    let pattern = regex::Regex::new(&format!("^(?:{definition})$")).unwrap();
    assert!(api::Kind::ALL.iter().all(|kind| pattern.is_match(&kind.crd().metadata.name.unwrap())), "{definition}");

    let release = document(&all, "HelmRelease", "portforward-operator");
    let source = &release["spec"]["chart"]["spec"]["sourceRef"];
    document(&all, source["kind"].as_str().unwrap(), source["name"].as_str().unwrap());

    let mut spelled_out = yaml(crate::flux::EXPRESSIONS).remove(0);
    assert!(spelled_out["spec"].as_object_mut().unwrap().remove("healthCheckExprs").is_some());
    assert_eq!(&spelled_out, forwards, "the two differ in the expressions alone");
}

#[test]
fn the_example_grants_are_usable_and_come_from_a_folder_of_their_own() {
    let list = yaml("deploy/gitops/grants/kustomization.yaml").remove(0);
    let files = list["resources"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned());
    let grants: Vec<Value> = files.flat_map(|file| yaml(&format!("deploy/gitops/grants/{file}"))).collect();
    assert!(!grants.is_empty());
    for object in grants {
        drop(Grant::parse(&api::decode_grant(object).unwrap()).unwrap());
    }
    let all = documents();
    let application = document(&all, "Application", "portforward-grants");
    assert_eq!(application["spec"]["sources"][0]["path"], "deploy/gitops/grants");
    assert_eq!(document(&all, "Kustomization", "grants")["spec"]["path"], "./deploy/gitops/grants");
}

/// Forwards of examples and their grants, from these folders.
fn examples(folders: &[&str]) -> (Vec<Candidate>, Vec<Grant>) {
    let files = folders.iter().flat_map(|folder| {
        let files = fs::read_dir(path(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
    });
    let (mut forwards, mut grants) = (Vec::new(), Vec::new());
    for object in files.flat_map(|file| yaml(file.to_str().unwrap())) {
        match object["kind"].as_str() {
            Some("PortForward") => forwards.push(Candidate::of(&api::decode(object).unwrap())),
            Some("PortForwardGrant") => grants.push(Grant::parse(&api::decode_grant(object).unwrap()).unwrap()),
            _ => {}
        }
    }
    (forwards, grants)
}

/// The forwards that a node with these grants refuses because of a grant.
fn refused(forwards: &[Candidate], grants: &[Grant]) -> Vec<String> {
    let policy = Policy { require_grants: RequireGrants::Yes, grants: Grants::Read(grants.into()), ..Policy::default() };
    let verdicts = plan(&assumed_facts(BTreeMap::new(), forwards), forwards, &policy, &InForce::default()).verdicts;
    let reason = |verdict: &Verdict| match &verdict.acceptance {
        Acceptance::RefusedHere(refusal) => Some(refusal.reason),
        _ => None,
    };
    let grant = |reason| matches!(reason, NodeRefusalReason::NotGranted | NodeRefusalReason::TooMany);
    assert!(verdicts.values().all(|verdict| verdict.role.is_some()), "the node is a candidate for each of them");
    verdicts.iter().filter(|(_, verdict)| reason(verdict).is_some_and(grant)).map(|(key, _)| key.to_string()).collect()
}

#[test]
fn the_forwards_of_the_examples_lie_inside_the_grants_of_the_examples() {
    for folders in [&["examples"][..], &["deploy/gitops/forwards", "deploy/gitops/grants"]] {
        let (forwards, grants) = examples(folders);
        assert!(!forwards.is_empty() && !grants.is_empty(), "{folders:?}");
        assert_eq!(refused(&forwards, &grants), Vec::<String>::new(), "{folders:?}");
        assert_eq!(refused(&forwards, &[]).len(), forwards.len(), "without a grant, each of them is refused");
    }
}

/// A wait for a grant must end, also if no agent runs or if the agents do not read grants.
#[test]
fn no_tool_waits_for_ever_for_a_grant() {
    let mut object = yaml("examples/grants.yaml").remove(0);
    object["metadata"]["generation"] = json!(2);
    assert_eq!(rules::kstatus(&object).0, Kstatus::Current, "without a status");
    let status = |generation: i64, accepted: &str| {
        json!({"observedGeneration": generation, "forwards": 1, "refused": 0, "conditions": [{
            "type": "Accepted", "status": accepted, "reason": "Accepted", "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        }]})
    };
    object["status"] = status(1, "True");
    assert_eq!(rules::kstatus(&object).0, Kstatus::InProgress, "an agent has not seen the change");
    object["status"] = status(2, "True");
    assert_eq!(rules::kstatus(&object).0, Kstatus::Current);
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
