//! Tests installations in another namespace or with another name, by Kustomize and by Helm: the objects refer to each other,
//! and the admission policy still refuses writes for another node.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::netns::must;
use crate::bed::wait::eventually;
use crate::helm::{CHART, Helm, NAME, objects, one};
use crate::plane::http::{Request, Response};
use crate::plane::objects::PATIENCE;
use crate::plane::{Plane, Resource, programs};

const HOUR: Duration = Duration::from_hours(1);

/// The output of Kustomize for an overlay beside the base or beside `deploy/cleanup`.
fn overlaid(folder: &str, overlay: &str) -> Vec<Value> {
    let copy = tempfile::tempdir().unwrap();
    must(Command::new("cp").args(["-r", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy")]).arg(copy.path()));
    let own = copy.path().join("deploy/own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("kustomization.yaml"), format!("resources: [../{folder}]\n{overlay}")).unwrap();
    objects(&must(Command::new(programs::folder().join("kubectl")).arg("kustomize").arg(&own)))
}

/// The output of Helm.
fn rendered(release: &str, namespace: &str, values: &Value) -> Vec<Value> {
    let arguments = ["template", release, CHART, "--namespace", namespace, "--kube-version=1.37", "--values", "-", "--no-hooks"];
    let output = Helm::Four.run(&arguments, values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8_lossy(&output.stdout))
}

/// The overlays that users write, and the resulting namespace and service account of the agents.
const OVERLAYS: [(&str, &str, &str); 6] = [
    ("", "portforward-system", NAME),
    ("namespace: lines", "lines", NAME),
    ("namespace: default", "default", NAME),
    ("namePrefix: corp-", "portforward-system", "corp-portforward-operator"),
    ("namespace: lines\nnamePrefix: corp-\nnameSuffix: -b", "lines", "corp-portforward-operator-b"),
    ("namespace: lines\nlabels: [{includeSelectors: true, pairs: {app.kubernetes.io/instance: prod}}]", "lines", NAME),
];

#[test]
fn every_object_of_a_relocated_base_belongs_to_the_others() {
    for (overlay, namespace, account) in OVERLAYS {
        let objects = overlaid("base", overlay);
        let set = one(&objects, "DaemonSet");
        assert_eq!(set["spec"]["template"]["spec"]["serviceAccountName"], account, "{overlay}");
        assert_eq!(one(&objects, "ServiceAccount")["metadata"]["name"], account, "{overlay}");
        for object in objects.iter().filter(|object| object["metadata"].get("namespace").is_some()) {
            assert_eq!(
                object["metadata"]["namespace"], namespace,
                "{overlay}: {} {}",
                object["kind"], object["metadata"]["name"]
            );
        }
        assert_eq!(one(&objects, "Namespace")["metadata"]["name"], namespace, "{overlay}");
        for binding in ["RoleBinding", "ClusterRoleBinding"] {
            let binding = one(&objects, binding);
            assert_eq!(
                binding["subjects"],
                json!([{"kind": "ServiceAccount", "name": account, "namespace": namespace}]),
                "{overlay}"
            );
            let role = one(&objects, "Role");
            assert!(binding["kind"] != "RoleBinding" || binding["roleRef"]["name"] == role["metadata"]["name"], "{overlay}");
        }
        let policy = one(&objects, "ValidatingAdmissionPolicy");
        assert_eq!(one(&objects, "ValidatingAdmissionPolicyBinding")["spec"]["policyName"], policy["metadata"]["name"]);
        // The manifest for cleanup uses the same overlay.
        let cleanup = overlaid("cleanup", overlay);
        assert_eq!(one(&cleanup, "DaemonSet")["metadata"]["namespace"], namespace, "{overlay}");
    }
}

/// A forged Lease, with the name of another node, as a dry run.
fn lease(namespace: &str, name: &str) -> Request {
    let path = Resource::Leases.path(Some(namespace), Some(name));
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": name}});
    Request::apply(format!("{path}?fieldManager=portforward-agent&force=true&dryRun=All"), lease)
}

/// An entry in the status of a forward, as a dry run.
fn entry(node: &str) -> Request {
    let path = Resource::Forwards.path(Some("forwards"), Some("web"));
    let status = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "web"},
        "status": {"nodes": [{"nodeName": node, "role": "Standby", "observedGeneration": 1}]},
    });
    Request::apply(format!("{path}/status?fieldManager=portforward-node-{node}&force=true&dryRun=All"), status)
}

fn refusal(answer: &Response) -> String {
    answer.body["message"].as_str().unwrap_or_default().to_owned()
}

/// Installs these objects, and checks the answers of the API server to an agent with a service account of a namespace.
#[track_caller]
fn assert_armed(case: &str, objects: &[Value], namespace: &str, account: &str) {
    let plane = Plane::with(None, &[]);
    for name in ["node-a", "node-b"] {
        plane.add_node(name, &json!({}));
    }
    // A chart does not contain the namespace.
    if namespace != "default" {
        plane.add_namespace(namespace);
    }
    plane.add_namespace("forwards");
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
    plane.wait_served();
    let mut forward: Value = serde_saphyr::from_str(include_str!("../refusals/base.yaml")).unwrap();
    forward["metadata"] = json!({"name": "web", "namespace": "forwards"});
    plane.apply(&forward.to_string());
    let token = plane.bound_token((namespace, account), "node-a", HOUR);
    let says = |request: Request| plane.send_as(&token, &[request]).remove(0);
    let refused = |request: Request| {
        let answer = says(request);
        answer.status == 403 && refusal(&answer).contains("ValidatingAdmissionPolicy")
    };
    // The API server reads rights and policy a moment after they were written.
    assert!(eventually(PATIENCE, || says(lease(namespace, "node-a")).done()), "{case}: {:?}", says(lease(namespace, "node-a")));
    assert!(eventually(PATIENCE, || refused(lease(namespace, "node-b"))), "{case}: {:?}", says(lease(namespace, "node-b")));
    assert!(refused(entry("node-b")), "{case}: {:?}", says(entry("node-b")));
    assert!(says(entry("node-a")).done(), "{case}: {:?}", says(entry("node-a")));
    // The policy does not restrict other users.
    let other = plane.send(&[lease(namespace, "node-b")]).remove(0);
    assert!(other.done(), "{case}: {other:?}");
}

#[test]
fn a_relocated_base_still_refuses_what_an_agent_writes_for_another_node() {
    for (overlay, namespace, account) in OVERLAYS {
        assert_armed(overlay, &overlaid("base", overlay), namespace, account);
    }
}

#[test]
fn a_release_of_any_name_refuses_what_an_agent_writes_for_another_node() {
    let elsewhere = json!({"serviceAccount": {"name": "agents"}});
    assert_armed("another account", &rendered("east", "lines", &elsewhere), "lines", "agents");
    // If the rights are bound by someone else, the policy names the account.
    let mut objects = rendered("east", "lines", &json!({"rbac": {"create": false}}));
    objects.extend(rendered("east", "lines", &json!({})).into_iter().filter(|object| {
        let kind = object["kind"].as_str().unwrap();
        kind.starts_with("Role") || kind == "ClusterRole"
    }));
    let mut bindings = rendered("east", "lines", &json!({}));
    bindings.retain(|object| object["kind"] == "ClusterRoleBinding");
    bindings[0]["metadata"] = json!({"name": "by-hand"});
    objects.extend(bindings);
    assert_armed("rights by hand", &objects, "lines", "east-portforward-operator");
}

#[test]
fn no_manifest_of_the_base_is_left_out_of_it() {
    let kustomization = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/kustomization.yaml")).unwrap();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base")).unwrap() {
        let name = entry.unwrap().file_name().display().to_string();
        assert!(name == "kustomization.yaml" || kustomization.contains(&format!("- {name}\n")), "{name}");
    }
}
