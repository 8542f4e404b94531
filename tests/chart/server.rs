//! Tests the chart with a real API server: its answer to every render, and what happens to the CRD and the forwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::bed::netns::output;
use crate::bed::wait::eventually;
use crate::helm::{CHART, Helm, NAME, NAMESPACE, objects, read, render};
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;
use crate::plane::{Plane, Resource};
use crate::versions::cases;

/// The name of the CRD.
const DEFINITION: &str = "portforwards.portforward.dev";
/// The name of the CRD of grants.
const GRANTS: &str = "portforwardgrants.portforward.dev";
/// The grant of the examples.
const GRANT: &str = "leased-lines";
/// A forward of a user.
const FORWARD: &str = "leased-lines/bank-a-web";

/// For tests that leave no objects in it.
static PLANE: LazyLock<Plane> = LazyLock::new(|| {
    let plane = Plane::alone();
    for name in ["agents", "forwards"] {
        plane.apply(&format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {NAMESPACE}}}}}"));
    }
    plane
});

/// The answer to `kubectl apply --server-side --dry-run=server`, with warnings.
fn tried(plane: &Plane, yaml: &str) -> Output {
    let options = [
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "--force-conflicts",
        "--field-manager=test",
        "-f",
        "-",
    ];
    plane.kubectl_with(options, yaml)
}

#[test]
fn every_render_is_taken_without_a_warning() {
    for (case, values) in cases() {
        // Kinds of other projects, which this API server does not have.
        let foreign = |object: &Value| object["apiVersion"] == "monitoring.coreos.com/v1";
        let ours: Vec<String> =
            objects(&render(&values)).iter().filter(|object| !foreign(object)).map(Value::to_string).collect();
        let output = tried(&PLANE, &ours.join("\n---\n"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{case}: {said}");
    }
}

#[test]
fn what_kustomize_makes_is_taken_without_a_warning() {
    for folder in ["deploy/base", "deploy/overlays/nft", "deploy/overlays/legacy", "deploy/overlays/node-pool"] {
        let folder = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
        let output = PLANE.kubectl([
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "--force-conflicts",
            "-k",
            &folder,
        ]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{folder}: {said}");
    }
    let output = tried(&PLANE, &read("deploy/install.yaml"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_field_that_is_none_is_refused_so_that_the_tests_above_mean_something() {
    let slip = render(&json!({})).replacen("hostNetwork: true", "hostNetwrk: true", 1);
    let output = tried(&PLANE, &slip);
    assert!(!output.status.success());
}

/// A cluster in which Helm installs.
struct Cluster {
    plane: Plane,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        Self { plane: Plane::with(None, &[]), folder: tempfile::tempdir().unwrap() }
    }

    /// Runs Helm as the administrator; must succeed.
    #[track_caller]
    fn helm(&self, helm: Helm, arguments: &[&str]) -> String {
        self.helm_in(NAMESPACE, helm, arguments)
    }

    /// The same in another namespace.
    #[track_caller]
    fn helm_in(&self, namespace: &str, helm: Helm, arguments: &[&str]) -> String {
        let mut command = self.plane.netns().command(helm.program());
        command.args(arguments).args(["--namespace", namespace]).current_dir(env!("CARGO_MANIFEST_DIR"));
        command
            .env("KUBECONFIG", self.plane.kubeconfig("helm", crate::plane::access::ADMIN).path)
            .env("HOME", self.folder.path());
        let output = output(&mut command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("arning"), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn definition(&self) -> Option<Value> {
        self.plane.get(Resource::Definitions, DEFINITION)
    }

    /// Whether the CRD has a short name.
    fn knows(&self, short: &str) -> bool {
        let names = self.definition().unwrap_or_default()["spec"]["names"]["shortNames"].clone();
        names.as_array().is_some_and(|names| names.contains(&json!(short)))
    }

    /// Creates a forward of a user, in its own namespace, and a grant.
    fn make_forward(&self) {
        self.plane.wait_served();
        if self.plane.get(Resource::Namespaces, "leased-lines").is_none() {
            self.plane.add_namespace("leased-lines");
        }
        self.plane.apply(&read("examples/bank-a-web.yaml"));
        self.plane.apply(&read("examples/grants.yaml"));
    }

    /// Every object of a release that still exists.
    fn left(&self) -> Vec<String> {
        let kinds = "daemonsets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,\
                     validatingadmissionpolicies,validatingadmissionpolicybindings";
        let selector = format!("app.kubernetes.io/instance={NAME}");
        let output = self.plane.kubectl(["get", kinds, "--all-namespaces", "--output=name", "--selector", &selector]);
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

/// A copy of the chart whose CRD has an additional short name.
fn newer(folder: &Path) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to.join(entry.file_name()));
            } else {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    let chart = folder.join("newer");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(CHART), &chart);
    let file = chart.join("templates/crd.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replacen("    - pf\n", "    - pf\n    - pfw\n", 1);
    assert_ne!(changed, text);
    fs::write(file, changed).unwrap();
    chart
}

#[test]
fn an_upgrade_renews_the_definition_and_forwards_outlive_the_release_unless_told_otherwise() {
    let cluster = Cluster::new();
    let newer = newer(cluster.folder.path());
    let newer = newer.to_str().unwrap();
    let rendered = objects(&render(&json!({}))).len();
    for helm in Helm::BOTH {
        cluster.helm(helm, &["install", NAME, CHART, "--create-namespace"]);
        // All except the CRDs and the hook.
        assert_eq!(cluster.left().len(), rendered - 3, "{:?}", cluster.left());
        cluster.make_forward();
        // The CRD is the one that was installed. An upgrade renews it.
        assert!(!cluster.knows("pfw"));
        cluster.helm(helm, &["upgrade", NAME, newer]);
        assert!(cluster.knows("pfw"), "{helm:?}: the definition is the old one");
        // Nothing of the release stays except the CRDs.
        cluster.helm(helm, &["uninstall", NAME]);
        assert_eq!(cluster.left(), Vec::<String>::new());
        assert!(cluster.definition().is_some() && cluster.plane.forward(FORWARD).is_some(), "{helm:?}: the forward is gone");
        assert!(cluster.plane.get(Resource::Grants, GRANT).is_some(), "{helm:?}: the grant is gone");
        // The next release with this name takes over the CRD that was kept.
        cluster.helm(helm, &["install", NAME, CHART, "--set", "crds.keep=false"]);
        assert!(!cluster.knows("pfw") && cluster.plane.forward(FORWARD).is_some());
        cluster.helm(helm, &["uninstall", NAME]);
        assert!(eventually(PATIENCE, || cluster.definition().is_none()), "{helm:?}: the definition stayed");
        assert!(cluster.plane.forward(FORWARD).is_none());
        assert!(eventually(PATIENCE, || cluster.plane.get(Resource::Definitions, GRANTS).is_none()), "{helm:?}: it stayed");
    }
}

#[test]
fn the_values_of_a_release_may_change_and_the_agents_follow() {
    let cluster = Cluster::new();
    cluster.helm(Helm::Four, &["install", NAME, CHART, "--create-namespace"]);
    let set = || {
        let output = cluster.plane.kubectl(["get", "daemonset", NAME, "--namespace", NAMESPACE, "--output=json"]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(set()["metadata"]["generation"], 1);
    // The same upgrade again changes nothing.
    cluster.helm(Helm::Four, &["upgrade", NAME, CHART]);
    assert_eq!(set()["metadata"]["generation"], 1);
    cluster.helm(Helm::Four, &["upgrade", NAME, CHART, "--set", "agent.iptables=nft"]);
    assert_eq!(set()["metadata"]["generation"], 2);
    let container = set()["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN"]));
    let revisions = cluster.helm(Helm::Four, &["history", NAME, "--output=json"]);
    assert_eq!(serde_json::from_str::<Value>(&revisions).unwrap().as_array().unwrap().len(), 3);
    cluster.helm(Helm::Four, &["rollback", NAME, "1"]);
    let container = set()["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
}

/// A release for each pool: both policies apply to the agents of both.
#[test]
fn releases_side_by_side_hold_their_agents_to_their_nodes_and_let_them_name_their_pools() {
    let cluster = Cluster::new();
    let (edge, core) = (("proxies-edge", "pool-edge"), ("proxies-core", "pool-core"));
    let names = |(namespace, release): (&str, &str)| (namespace.to_owned(), format!("{release}-{NAME}"));
    for ((namespace, release), crds) in [(edge, "true"), (core, "false")] {
        let selector = format!("agent.forwardSelector=pool={namespace}");
        let crds = format!("crds.enabled={crds}");
        let options = ["install", release, CHART, "--create-namespace", "--set", &selector, "--set", &crds];
        cluster.helm_in(namespace, Helm::Four, &options);
    }
    // A further release in the same namespace.
    cluster.helm_in(
        core.0,
        Helm::Four,
        &["install", "pool-spare", CHART, "--set", "crds.enabled=false,agent.forwardSelector=pool=spare"],
    );
    cluster.make_forward();
    let plane = &cluster.plane;
    let agents: Vec<_> = [edge, core, (core.0, "pool-spare")]
        .map(names)
        .into_iter()
        .enumerate()
        .map(|(index, (namespace, account))| {
            let node = format!("node-{index}");
            plane.add_node(&node, &json!({}));
            let token = plane.bound_token((&namespace, &account), &node, std::time::Duration::from_hours(1));
            (namespace, node, token)
        })
        .collect();
    let send = |token: &str, request: &Request| plane.send_as(token, std::slice::from_ref(request)).remove(0);
    let lease = |namespace: &str, node: &str, pool: &str| {
        let labels = json!({"portforward.dev/agent": "true", "portforward.dev/pool": pool});
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node, "labels": labels},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": 40},
        });
        let path = Resource::Leases.path(Some(namespace), Some(node));
        Request::apply(format!("{path}?fieldManager=portforward-agent&force=true"), body)
    };
    let entry = |node: &str, nodes: &Value| {
        let (namespace, name) = FORWARD.split_once('/').unwrap();
        let mut body = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": name, "namespace": namespace}});
        if !nodes.is_null() {
            body["status"] = json!({"nodes": nodes});
        }
        let path = Resource::Forwards.path(Some(namespace), Some(name));
        Request::apply(format!("{path}/status?fieldManager=portforward-node-{node}&force=true"), body)
    };
    let standby = |node: &str| json!([{"nodeName": node, "role": "Standby"}]);
    let refused = |token: &str, request: &Request| {
        let answer = send(token, request);
        answer.status == 403 && answer.body["message"].as_str().is_some_and(|said| said.contains("ValidatingAdmissionPolicy"))
    };
    let pool = "0123456789abcdef";
    // The API server reads a new policy a moment later.
    let enforced = |(namespace, _, token): &(String, String, String)| refused(token, &lease(namespace, "another", pool));
    assert!(eventually(PATIENCE, || agents.iter().all(enforced)), "the policies never came into force");
    for (index, (namespace, node, token)) in agents.iter().enumerate() {
        let other = &agents[(index + 1) % agents.len()].1;
        let answer = send(token, &lease(namespace, node, pool));
        assert!(answer.done(), "{answer:?}");
        assert!(refused(token, &lease(namespace, node, "free-text")), "the pool is a hash");
        assert!(refused(token, &lease(namespace, other, pool)), "the Lease of another node");
        let answer = send(token, &entry(node, &standby(node)));
        assert!(answer.done(), "{answer:?}");
        assert!(
            refused(token, &entry(node, &standby(other))) && refused(token, &entry(other, &standby(other))),
            "an entry of another node"
        );
    }
    // An agent of another pool removes the entry of a node that does not follow the forward any more.
    let answer = send(&agents[1].2, &entry(&agents[0].1, &Value::Null));
    assert!(answer.done(), "{answer:?}");
    let nodes = plane.forward(FORWARD).unwrap()["status"]["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 2, "{nodes}");
}
