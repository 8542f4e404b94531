//! Tests that kustomize builds the same objects from `deploy/` as the chart renders: the base with default values, an overlay
//! with its values.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::bed::netns::must;
use crate::helm::{named, objects, one, read, render};
use crate::plane::programs;

/// The output of `kubectl kustomize` for a folder.
fn kustomize(folder: impl AsRef<OsStr>) -> String {
    let mut kubectl = Command::new(programs::folder().join("kubectl"));
    must(kubectl.current_dir(env!("CARGO_MANIFEST_DIR")).arg("kustomize").arg(folder))
}

/// Its objects without the namespace, which a chart does not create.
fn built(folder: &str) -> Vec<Value> {
    let mut objects = objects(&kustomize(folder));
    let before = objects.len();
    objects.retain(|object| object["kind"] != "Namespace");
    assert_eq!(objects.len() + 1, before, "{folder} makes one namespace");
    sorted(objects)
}

/// The render of the chart, without the parts that only Helm uses.
fn rendered(values: &Value) -> Vec<Value> {
    let mut objects = objects(&render(values));
    objects.retain(|object| object["metadata"]["annotations"].get("helm.sh/hook").is_none());
    objects.iter_mut().for_each(without_helm);
    sorted(objects)
}

fn without_helm(object: &mut Value) {
    let metadata = object["metadata"].as_object_mut().expect("an object has metadata");
    for map in ["labels", "annotations"] {
        if let Some(fields) = metadata.get_mut(map).and_then(Value::as_object_mut) {
            fields.retain(|key, _| !key.starts_with("helm.sh/") && key != "app.kubernetes.io/managed-by");
        }
    }
    if metadata.get("annotations").is_some_and(|fields| *fields == json!({})) {
        metadata.remove("annotations");
    }
}

fn sorted(mut objects: Vec<Value>) -> Vec<Value> {
    objects.sort_by_key(|object| named(std::slice::from_ref(object)));
    objects
}

/// A patch may move an environment variable to the front, so the variables are compared by name. Only a variable that refers to
/// another one must come after it.
fn by_name(mut object: Value) -> Value {
    let containers = object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
    for variables in containers.into_iter().flatten().filter_map(|container| container["env"].as_array_mut()) {
        let place = |name: &str| variables.iter().position(|variable| variable["name"] == name).expect("it is there");
        assert!(place("HOST_IP") < place("PORTFORWARD_METRICS_ADDRESS"));
        variables.sort_by_key(|variable| variable["name"].to_string());
    }
    object
}

#[track_caller]
fn assert_same(folder: &str, built: &[Value], rendered: &[Value]) {
    assert_eq!(named(built), named(rendered), "{folder}");
    for (built, rendered) in built.iter().zip(rendered) {
        assert_eq!(by_name(built.clone()), by_name(rendered.clone()), "{folder}");
    }
}

#[test]
fn the_base_is_what_the_chart_renders_as_it_comes() {
    assert_same("deploy/base", &built("deploy/base"), &rendered(&json!({})));
}

#[test]
fn each_overlay_is_what_the_chart_renders_with_its_values() {
    let overlays = [
        ("deploy/overlays/nft", json!({"agent": {"iptables": "nft"}})),
        ("deploy/overlays/legacy", json!({"agent": {"iptables": "legacy"}})),
        ("deploy/overlays/node-pool", json!({"nodeSelector": {"portforward.dev/proxy": "true"}})),
    ];
    let folders = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/overlays")).unwrap();
    let mut there: Vec<String> =
        folders.map(|entry| format!("deploy/overlays/{}", entry.unwrap().file_name().display())).collect();
    there.sort();
    let mut known: Vec<&str> = overlays.iter().map(|(folder, _)| *folder).collect();
    known.sort_unstable();
    assert_eq!(there, known);
    for (folder, values) in overlays {
        let built = built(folder);
        assert_same(folder, &built, &rendered(&values));
        assert_ne!(built, self::built("deploy/base"), "{folder} changes nothing");
    }
}

#[test]
fn the_flat_file_is_the_base() {
    let mut flat = objects(&read("deploy/install.yaml"));
    flat.retain(|object| object["kind"] != "Namespace");
    assert_same("deploy/install.yaml", &sorted(flat), &built("deploy/base"));
}

#[test]
fn what_others_need_comes_before_them() {
    for text in [read("deploy/install.yaml"), kustomize("deploy/overlays/nft")] {
        let kinds: Vec<String> = objects(&text).iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect();
        let place = |kind: &str| kinds.iter().position(|one| one == kind).unwrap();
        assert_eq!(place("Namespace"), 0);
        for (first, then) in
            [("CustomResourceDefinition", "DaemonSet"), ("ServiceAccount", "DaemonSet"), ("ServiceAccount", "ClusterRoleBinding")]
        {
            assert!(place(first) < place(then), "{kinds:?}");
        }
    }
}

#[test]
fn the_folder_of_the_definitions_holds_nothing_else() {
    // `kubectl apply -f crds` applies every file of the folder.
    let mut names: Vec<_> =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/crds")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["portforward.dev_portforwardgrants.yaml", "portforward.dev_portforwards.yaml"]);
}

#[test]
fn the_overlay_on_the_page_names_another_registry() {
    let page = read("docs/install.md");
    let (_, overlay) = page.split_once("```yaml\napiVersion: kustomize").unwrap();
    let (overlay, _) = overlay.split_once("```").unwrap();
    // In a copy, beside the other overlays.
    let folder = tempfile::tempdir().unwrap();
    must(Command::new("cp").args(["-r", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy")]).arg(folder.path()));
    let own = folder.path().join("deploy/own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("kustomization.yaml"), format!("apiVersion: kustomize{overlay}")).unwrap();
    let objects = objects(&kustomize(&own));
    let pod = &one(&objects, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], concat!("registry.example.com/portforward-operator:", env!("CARGO_PKG_VERSION")));
    assert_eq!(pod["nodeSelector"]["portforward.dev/proxy"], "true");
}
