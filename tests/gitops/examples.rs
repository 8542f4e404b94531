//! Tests the examples of `deploy/gitops` with the tools that read them: kustomize, Helm and a real API server.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::apply::{apply, text};
use crate::bed::netns::output;
use crate::plane::{Plane, Resource, programs};

fn root(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// The document of a kind in a file.
fn document(file: &str, kind: &str) -> Value {
    let text = fs::read_to_string(root(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let all: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    all.into_iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("{file} has no {kind}"))
}

fn kustomize(folder: &Path) -> String {
    let built = output(Command::new(programs::folder().join("kubectl")).arg("kustomize").arg(folder));
    assert!(built.status.success(), "{}: {}", folder.display(), text(&built));
    String::from_utf8(built.stdout).expect("YAML is text")
}

#[test]
fn the_example_forwards_are_taken_by_a_real_api_server() {
    let plane = Plane::alone();
    plane.add_namespace("leased-lines");
    for folder in ["deploy/gitops/forwards", "deploy/gitops/argocd/forwards"] {
        let manifests = kustomize(&root(folder));
        assert!(manifests.contains("kind: PortForward"), "{manifests}");
        apply(&plane, &manifests, &["--server-side", "--validate=strict", "--dry-run=server", "--force-conflicts"]);
    }
    let waves = kustomize(&root("deploy/gitops/argocd/forwards")).matches("argocd.argoproj.io/sync-wave").count();
    assert_eq!(waves, 2, "the namespace and the forward");
}

/// The relative path from one folder to another, in the form that kustomize needs.
fn relative(from: &Path, to: &Path) -> String {
    let up = from.components().skip(1).fold(String::new(), |mut up, _| {
        let _ = write!(up, "../");
        up
    });
    up + to.to_string_lossy().trim_start_matches('/')
}

#[test]
fn what_flux_changes_of_the_operator_is_what_its_example_says() {
    let spec = document("deploy/gitops/flux/operator.yaml", "Kustomization")["spec"].clone();
    let folder = tempfile::Builder::new().prefix("pf-flux-").tempdir().expect("a temporary folder can be made");
    let place = folder.path().canonicalize().expect("the folder is there");
    let base = root(spec["path"].as_str().expect("a path")).canonicalize().expect("the base is there");
    let list = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [relative(&place, &base)], "images": spec["images"], "patches": spec["patches"],
    });
    fs::write(place.join("kustomization.yaml"), list.to_string()).expect("the folder can be written");
    let changed = kustomize(&place);
    let image = spec["images"][0]["newName"].as_str().expect("a name");
    assert!(changed.contains(&format!("image: {image}:")), "{changed}");
    assert!(changed.contains("kustomize.toolkit.fluxcd.io/prune: disabled"), "{changed}");
    let lines = |text: &str| text.lines().count();
    assert_eq!(lines(&changed), lines(&kustomize(&base)) + 4, "an annotation more on each CRD, and nothing less");
}

#[test]
fn the_example_grants_are_taken_by_a_real_api_server() {
    let plane = Plane::alone();
    let made = kustomize(&root("deploy/gitops/grants"));
    plane.apply(&made);
    assert!(plane.get(Resource::Grants, "leased-lines").is_some(), "{made}");
}

#[test]
fn the_chart_takes_the_values_of_the_examples() {
    let application = document("deploy/gitops/argocd/application.yaml", "Application");
    let source = &application["spec"]["sources"][0];
    let release = document("deploy/gitops/flux/operator-by-helm/release.yaml", "HelmRelease");
    let chart = &release["spec"]["chart"]["spec"]["chart"];
    for (chart, values) in [(&source["path"], &source["helm"]["valuesObject"]), (chart, &release["spec"]["values"])] {
        let registry = values["image"]["registry"].as_str().expect("a registry");
        let file = tempfile::Builder::new().prefix("pf-values-").tempfile().expect("a temporary file can be made");
        fs::write(file.path(), values.to_string()).expect("the file can be written");
        let mut helm = Command::new(programs::helm_folder().join("helm"));
        helm.arg("template")
            .arg("portforward-operator")
            .arg(root(chart.as_str().expect("a chart")))
            .arg("--values")
            .arg(file.path());
        let rendered = output(&mut helm);
        assert!(rendered.status.success(), "{}", text(&rendered));
        assert!(text(&rendered).contains(&format!("image: {registry}/portforward-operator")), "{}", text(&rendered));
    }
}

#[test]
fn the_examples_make_the_namespace_of_the_agents_with_the_labels_that_pod_security_asks_for() {
    let base = document("deploy/base/namespace.yaml", "Namespace")["metadata"].clone();
    let wanted = |labels: &Value| {
        let security = base["labels"].as_object().unwrap().iter().filter(|(label, _)| label.starts_with("pod-security."));
        assert_eq!(security.clone().count(), 3);
        security.into_iter().for_each(|(label, value)| assert_eq!(labels[label], *value, "{label}"));
    };
    let application = document("deploy/gitops/argocd/application.yaml", "Application")["spec"].clone();
    assert_eq!(application["destination"]["namespace"], base["name"]);
    assert!(application["syncPolicy"]["syncOptions"].as_array().unwrap().contains(&json!("CreateNamespace=true")));
    wanted(&application["syncPolicy"]["managedNamespaceMetadata"]["labels"]);

    let release = "deploy/gitops/flux/operator-by-helm/release.yaml";
    let namespace = document(release, "Namespace");
    let spec = document(release, "HelmRelease")["spec"].clone();
    assert_eq!((&namespace["metadata"]["name"], &spec["targetNamespace"]), (&base["name"], &base["name"]));
    // Helm would create the namespace without labels.
    assert!(spec.pointer("/install/createNamespace").is_none());
    wanted(&namespace["metadata"]["labels"]);
    // The other Flux example applies the base, which contains the namespace.
    let operator = document("deploy/gitops/flux/operator.yaml", "Kustomization")["spec"].clone();
    assert_eq!(operator["path"], "./deploy/base");
}
