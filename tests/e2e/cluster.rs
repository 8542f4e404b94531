//! A real cluster: etcd, API server, controller manager and scheduler in a separate network namespace, and two proxy nodes with
//! kubelet and containerd between the client and the upstream of the seed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::bed::client::{ANSWER, Connection, Download, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::netns::output;
use crate::bed::observe::answered;
use crate::bed::server::Server;
use crate::bed::wait::eventually;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, SERVER, Topology};
use crate::node::{Node, Services, said};
use crate::plane::{ADDRESS, Plane, Process, access, programs};

/// The time limit for a step in a cluster whose nodes share two cores with other programs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(10);
/// The address of the Service `kubernetes`.
const SERVICE: &str = "10.96.0.1";
/// The namespace of the agents.
pub(crate) const SYSTEM: &str = access::SYSTEM;
/// The seed's forward.
pub(crate) const SEED: &str = "leased-lines/bank-a-web";

/// A running cluster. The fields are dropped in this order: the programs on the nodes, the control plane, the hosts.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    _control: Vec<Process>,
    pub(crate) plane: Plane,
    _servers: [Server; 2],
    pub(crate) bed: Bed,
}

impl Cluster {
    /// Two nodes: `px0` holds the addresses, uses nft and runs kube-proxy; `px1` is a standby, uses legacy and runs no
    /// kube-proxy.
    pub(crate) fn new() -> Self {
        let bed = Bed::with(&Topology { proxies: 2, ..Topology::default() });
        let plane = Plane::with(Some(&bed), &["--endpoint-reconciler-type=lease", "--runtime-config=api/all=true"]);
        serve_services(&plane);
        let control = ["kube-controller-manager", "kube-scheduler"].map(|program| start(&plane, program)).into();
        let servers = [Server::tcp(&bed.server, SERVER, [80]), Server::tcp(&bed.client, CLIENT, [80])];
        let nodes =
            vec![Node::new(&bed, 0, Variant::Nft, Services::KubeProxy), Node::new(&bed, 1, Variant::Legacy, Services::Network)];
        let mut cluster = Self { nodes, _control: control, plane, _servers: servers, bed };
        for node in &mut cluster.nodes {
            reach_services(&cluster.bed, node);
            node.start(&cluster.bed, &cluster.plane);
        }
        let known = |node: &Node| cluster.kubectl(&format!("get node {}", node.name)).status.success();
        assert!(eventually(PATIENCE, || cluster.nodes.iter().all(known)), "no kubelet made its node known");
        cluster.must_kubectl("wait --for=condition=Ready --timeout=600s node/px0 node/px1");
        cluster.wait_settled();
        cluster
    }

    /// Waits until kubelet and kube-proxy have written all their rules, for both families. The rules that a test finds then
    /// must be the same at its end.
    fn wait_settled(&self) {
        for node in &self.nodes {
            let mut missing = Vec::new();
            let settled = eventually(PATIENCE, || {
                missing = node.unsettled(&self.bed);
                missing.is_empty()
            });
            assert!(settled, "on {} these never came: {missing:#?}\n{}", node.name, node.log("kube-proxy"));
        }
    }

    /// Runs `kubectl` with these words. The caller checks the result.
    pub(crate) fn kubectl(&self, words: &str) -> Output {
        self.plane.kubectl(words.split_whitespace())
    }

    /// Runs `kubectl` with these words; must succeed. Returns the output.
    #[track_caller]
    pub(crate) fn must_kubectl(&self, words: &str) -> String {
        self.succeeded(&format!("kubectl {words}"), &self.kubectl(words))
    }

    /// Applies a text as `kubectl apply -f -` does.
    #[track_caller]
    pub(crate) fn apply(&self, text: &str) {
        self.succeeded("kubectl apply", &self.plane.kubectl_with(["apply", "-f", "-"], text));
    }

    /// Runs `helm` with these words. The caller checks the result.
    pub(crate) fn helm<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        let mut helm = self.plane.netns().command(programs::cluster_folder().join("helm"));
        let home = self.plane.file("helm");
        helm.args(words).env("KUBECONFIG", self.plane.file("admin.kubeconfig")).env("HOME", &home);
        helm.env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
        output(&mut helm)
    }

    /// Runs `helm` with these words; must succeed. Returns the output.
    #[track_caller]
    pub(crate) fn must_helm<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        self.succeeded("helm", &self.helm(words))
    }

    #[track_caller]
    fn succeeded(&self, what: &str, output: &Output) -> String {
        assert!(output.status.success(), "{what}: {}\n{}\n{}", output.status, said(output), self.pods());
        said(output)
    }

    /// The state of the agents' pods, for the message of a failure.
    fn pods(&self) -> String {
        let look = |words: &str| said(&self.kubectl(words));
        format!(
            "{}\n{}",
            look(&format!("get pods --namespace {SYSTEM} --output wide")),
            look(&format!("get events --namespace {SYSTEM} --sort-by=.lastTimestamp"))
        )
    }

    /// Applies the seed's forward as a user does, waits until it is ready, and sends requests in both directions. Each side
    /// must see the addresses of the design.
    #[track_caller]
    pub(crate) fn serve_seed(&self) {
        self.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: leased-lines}\n");
        let seed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bank-a-web.yaml"));
        self.apply(&seed.expect("the examples can be read"));
        self.must_kubectl("wait --for=condition=Ready --timeout=600s --namespace leased-lines pf/bank-a-web");
        assert_eq!(self.plane.forward(SEED).expect("it was applied")["status"]["activeNode"], "px0");
        self.traffic_flows();
    }

    /// Sends a request in each direction.
    #[track_caller]
    pub(crate) fn traffic_flows(&self) {
        let there = || tcp_ask(&self.bed.client, CLIENT, (INTERNAL, 80), ANSWER).into();
        assert_eq!(Some(there()), Some(answered((SERVER, 80), EXTERNAL)));
        let back = || tcp_ask(&self.bed.server, SERVER, (EXTERNAL, 8443), ANSWER).into();
        assert_eq!(Some(back()), Some(answered((CLIENT, 80), INTERNAL)));
    }

    /// Opens connections in both directions that stream data until [`Flows::finish`].
    #[track_caller]
    pub(crate) fn open_flows(&self) -> Flows {
        let open = |netns, from, to| {
            let connection = Connection::open(netns, (from, 0), to, ANSWER).expect("the forward serves");
            connection.stream().expect("the server streams")
        };
        let there = (0..5).map(|_| open(&self.bed.client, CLIENT, (INTERNAL, 80)));
        let back = (0..5).map(|_| open(&self.bed.server, SERVER, (EXTERNAL, 8443)));
        Flows(there.chain(back).collect())
    }

    /// Waits until the rollout of the `DaemonSet` is complete.
    #[track_caller]
    pub(crate) fn wait_rollout(&self) {
        self.must_kubectl(&format!("rollout status --namespace {SYSTEM} --timeout=600s daemonset/portforward-operator"));
    }

    /// The agents' pods by node: the uid, whether the pod is ready, and the image.
    pub(crate) fn agents(&self) -> BTreeMap<String, Value> {
        let words = format!("get pods --namespace {SYSTEM} --selector app.kubernetes.io/component=agent --output json");
        let list: Value = serde_json::from_str(&self.must_kubectl(&words)).expect("kubectl prints JSON");
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        pods.into_iter().map(|pod| (pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(), pod)).collect()
    }
}

/// Connections that stay open, in both directions.
pub(crate) struct Flows(Vec<Download>);

impl Flows {
    /// Asserts that data flows on each connection.
    #[track_caller]
    pub(crate) fn go_on(&self, after: &str) {
        let stand_still = self.0.iter().filter(|flow| !flow.goes_on(ANSWER)).count();
        assert_eq!(stand_still, 0, "connections of {} that stand still after {after}", self.0.len());
    }

    /// Ends the connections. None was lost, and every byte was correct.
    #[track_caller]
    pub(crate) fn finish(self) {
        let count = self.0.len();
        let lost: Vec<_> = self.0.into_iter().filter_map(|flow| flow.finish().err()).collect();
        assert!(lost.is_empty(), "{} of {count} connections were lost: {lost:?}", lost.len());
        println!("{count} connections, 0 lost");
    }
}

/// Starts a program of the control plane with the rights of the administrator.
fn start(plane: &Plane, program: &str) -> Process {
    let mut command = plane.netns().command(programs::cluster_folder().join(program));
    command.arg(format!("--kubeconfig={}", plane.file("admin.kubeconfig").display()));
    command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
    if program == "kube-controller-manager" {
        command.arg(format!("--root-ca-file={}", plane.authority().display()));
        command.arg(format!("--service-account-private-key-file={}", plane.file("sa.key").display()));
        command.arg("--allocate-node-cidrs=false");
    }
    Process::start(command, plane.folder(), program)
}

/// Delivers packets for the Service `kubernetes` to the API server, on the side of the API server, as the network of a cluster
/// without kube-proxy does.
fn serve_services(plane: &Plane) {
    plane.netns().ip(&format!("addr add {SERVICE}/32 dev lo"));
    let rule = format!("-t nat -A PREROUTING -d {SERVICE} -p tcp --dport 443 -j REDIRECT --to-ports 6443");
    crate::bed::netns::must(plane.netns().command("iptables-nft").args(rule.split_whitespace()));
}

/// The route of a node to Services. If kube-proxy runs, its rules translate such packets before.
pub(crate) fn reach_services(bed: &Bed, node: &Node) {
    let index = usize::from(node.name != "px0");
    let netns = &bed.proxies[index].netns;
    netns.ip(&format!("route add 10.96.0.0/16 via {ADDRESS} dev mgmt"));
}
