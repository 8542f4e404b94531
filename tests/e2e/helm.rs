//! Tests an installation by Helm: long-lived connections survive every operation on an agent, and an uninstalled operator
//! leaves what the pages say.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::netns::must;
use crate::bed::wait::eventually;
use crate::cluster::{Cluster, Flows, PATIENCE, SEED, SYSTEM};
use crate::image;
use crate::kernel::without_counters;

const RELEASE: &str = "portforward-operator";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn chart() -> String {
    repository("charts/portforward-operator").display().to_string()
}

impl Cluster {
    /// Runs `helm VERB RELEASE ...` in the namespace of the agents and waits for the result.
    #[track_caller]
    fn release(&self, verb: &str, words: &[&str]) -> String {
        let common = [verb, RELEASE, "--namespace", SYSTEM, "--timeout", "600s"];
        self.must_helm(common.into_iter().chain(words.iter().copied()))
    }

    /// The state of the kernels of all nodes.
    fn kernels(&self) -> Vec<String> {
        self.nodes.iter().map(|node| without_counters(node, &self.bed)).collect()
    }

    /// Whether a node's kernel contains our chains, for each variant, nft first.
    fn holds_chains(&self, node: usize) -> [bool; 2] {
        ["nft", "legacy"].map(|variant| self.nodes[node].run(&self.bed, &format!("iptables-{variant}-save")).contains("PF-PRE"))
    }

    /// Waits until the agent of a node is another pod than `before` and ready.
    fn wait_replaced(&self, node: &str, before: &str) {
        let replaced = eventually(PATIENCE, || {
            self.agents()
                .get(node)
                .is_some_and(|pod| pod["metadata"]["uid"] != before && pod["status"]["containerStatuses"][0]["ready"] == true)
        });
        assert!(replaced, "no other agent became ready on {node}: {:#?}", self.agents().get(node));
    }

    fn uid(&self, node: &str) -> String {
        self.agents()[node]["metadata"]["uid"].as_str().expect("an object has a uid").to_owned()
    }
}

#[test]
fn connections_outlive_operations_and_an_uninstalled_operator_leaves_what_is_documented() {
    let cluster = Cluster::new();
    let before = cluster.kernels();
    cluster.release("install", &[&chart(), "--create-namespace", "--wait"]);
    cluster.serve_seed();
    each_kubelet_decides_the_variant(&cluster);
    cluster.release("test", &[]);

    let flows = cluster.open_flows();
    rolling_update(&cluster, &flows);
    killed(&cluster, &flows);
    drained(&cluster, &flows);
    downgraded(&cluster, &flows);
    changed_definition(&cluster, &flows);
    uninstalled(&cluster, &flows);
    flows.finish();

    cleaned_up(&cluster);
    // kube-proxy needs some time to remove its rules for the Services of the release.
    eventually(PATIENCE, || cluster.kernels() == before);
    for ((node, before), after) in cluster.nodes.iter().zip(before).zip(cluster.kernels()) {
        assert_eq!(before, after, "the kernel of {} is not as it was", node.name);
    }
}

/// No option selects a variant: the node `px0` uses nft, `px1` legacy.
fn each_kubelet_decides_the_variant(cluster: &Cluster) {
    assert_eq!(cluster.holds_chains(0), [true, false]);
    assert!(eventually(PATIENCE, || cluster.holds_chains(1) == [false, true]), "{:?}", cluster.holds_chains(1));
}

fn rolling_update(cluster: &Cluster, flows: &Flows) {
    let before = ["px0", "px1"].map(|node| cluster.uid(node));
    cluster.must_kubectl(&format!("rollout restart --namespace {SYSTEM} daemonset/{RELEASE}"));
    cluster.wait_rollout();
    assert!(["px0", "px1"].map(|node| cluster.uid(node)).iter().zip(&before).all(|(after, before)| after != before));
    flows.go_on("a rolling update");
}

/// Deletes the pod without a grace period, then kills the process of its successor.
fn killed(cluster: &Cluster, flows: &Flows) {
    let uid = cluster.uid("px0");
    let name = cluster.agents()["px0"]["metadata"]["name"].as_str().expect("an object has a name").to_owned();
    cluster.must_kubectl(&format!("delete pod --namespace {SYSTEM} --force --grace-period=0 {name}"));
    cluster.wait_replaced("px0", &uid);
    flows.go_on("a killed pod");

    let named = |pid: &Pid| {
        fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid())).is_ok_and(|name| name.starts_with("portforward"))
    };
    let agent = cluster.bed.proxies[0].netns.pids().into_iter().find(named).expect("the agent runs on px0");
    kill_process(agent, Signal::KILL).expect("the agent can be killed");
    let restarted = || cluster.agents()["px0"]["status"]["containerStatuses"][0]["restartCount"] == 1;
    assert!(eventually(PATIENCE, restarted), "the kubelet did not restart the agent");
    cluster.wait_rollout();
    flows.go_on("a killed program");
}

fn drained(cluster: &Cluster, flows: &Flows) {
    cluster.must_kubectl("drain px0 --ignore-daemonsets --delete-emptydir-data --timeout=300s");
    flows.go_on("a drain");
    cluster.traffic_flows();
    cluster.must_kubectl("uncordon px0");
}

/// Changes to an image with an older name and back. (There is no older release yet, so the content is the same.)
fn downgraded(cluster: &Cluster, flows: &Flows) {
    for node in &cluster.nodes {
        node.tag(&cluster.bed, image::AGENT, "localhost/portforward-operator:0.0.9");
    }
    cluster.release("upgrade", &[&chart(), "--set", "image.tag=0.0.9", "--wait"]);
    let runs = |tag: &str| {
        cluster
            .agents()
            .values()
            .all(|pod| pod["spec"]["containers"][0]["image"].as_str().is_some_and(|image| image.ends_with(tag)))
    };
    assert!(eventually(PATIENCE, || runs(":0.0.9")));
    flows.go_on("a downgrade");
    cluster.release("rollback", &["1", "--wait"]);
    assert!(eventually(PATIENCE, || runs(concat!(":", env!("CARGO_PKG_VERSION")))));
    flows.go_on("a rollback");
}

/// A chart of a later version whose CRD has an additional short name.
fn changed_definition(cluster: &Cluster, flows: &Flows) {
    let folder = tempfile::Builder::new().prefix("pf-chart-").tempdir().expect("a temporary folder can be made");
    must(std::process::Command::new("cp").arg("-r").arg(chart()).arg(folder.path()));
    let chart = folder.path().join("portforward-operator");
    let edit = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(chart.join(file)).expect("the chart can be read");
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(chart.join(file), text.replacen(from, to, 1)).expect("the copy can be written");
    };
    edit("templates/crd.yaml", "    - pf\n", "    - pf\n    - pfnew\n");
    edit("Chart.yaml", "\nversion: ", "\nversion: 9");
    cluster.release("upgrade", &[&chart.display().to_string(), "--wait"]);
    let known = || cluster.kubectl("get pfnew --all-namespaces").status.success();
    assert!(eventually(PATIENCE, known), "the definition was not changed");
    cluster.traffic_flows();
    flows.go_on("an upgrade with a changed definition");
}

/// The CRD, the forwards and the state of the kernels stay.
fn uninstalled(cluster: &Cluster, flows: &Flows) {
    cluster.release("uninstall", &["--wait"]);
    assert!(eventually(PATIENCE, || cluster.agents().is_empty()), "{:?}", cluster.agents().keys());
    assert!(cluster.plane.forward(SEED).is_some(), "the forward went with the operator");
    cluster.traffic_flows();
    flows.go_on("an uninstall");
}

/// Follows the instructions of the pages for a cleanup. The chart renders this file.
fn cleaned_up(cluster: &Cluster) {
    let manifest = repository("deploy/cleanup.yaml").display().to_string();
    cluster.must_kubectl(&format!("apply -f {manifest}"));
    cluster.must_kubectl(&format!("rollout status --namespace {SYSTEM} --timeout=600s daemonset/{RELEASE}-cleanup"));
    // A container that fails and is restarted would appear complete for a moment.
    let counts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let pods = format!("get pods --namespace {SYSTEM} --selector app.kubernetes.io/component=cleanup --output {counts}");
    let rests = |node: &crate::node::Node| node.container_logs().contains("this node is clean");
    assert!(eventually(PATIENCE, || cluster.nodes.iter().all(rests)), "cleanup does not rest");
    assert_eq!(cluster.must_kubectl(&pods), "0 0");
    cluster.must_kubectl(&format!("delete --wait -f {manifest}"));
}
