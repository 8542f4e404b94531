//! Tests an installation by Kustomize, and reboots of the proxy node while the API server is down.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::client::{ANSWER, tcp_ask};
use crate::bed::observe::answered;
use crate::bed::wait::eventually;
use crate::bed::{CLIENT, EXTERNAL, INTERNAL, SERVER};
use crate::cluster::{Cluster, PATIENCE, SEED, reach_services};

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Cluster {
    /// Simulates a power failure of the proxy node: its kernel no longer contains anything of ours. It returns with its
    /// addresses and without running programs.
    fn reboot(&mut self) {
        self.nodes[0].power_off(&self.bed);
        self.bed.reboot(0);
        self.plane.reconnect(&self.bed, 0);
        reach_services(&self.bed, &self.nodes[0]);
        self.nodes[0].power_on(&self.bed);
        assert!(!self.serves());
        assert!(!self.nodes[0].run(&self.bed, "iptables-nft-save").contains("PF-"));
    }

    /// The same while the API server is down. The kubelet starts at boot, and then traffic flows again.
    fn reboot_without_api_server(&mut self, claim: &str) {
        self.plane.kill();
        self.reboot();
        self.nodes[0].start_again(&self.bed, &self.plane);
        self.wait_serves(claim);
    }

    fn serves(&self) -> bool {
        let answer: crate::bed::observe::Observation = tcp_ask(&self.bed.client, CLIENT, (INTERNAL, 80), ANSWER).into();
        answer == answered((SERVER, 80), EXTERNAL)
    }

    fn wait_serves(&self, claim: &str) {
        assert!(eventually(PATIENCE, || self.serves()), "{claim}\n{}", self.nodes[0].container_logs());
        self.traffic_flows();
    }
}

#[test]
fn traffic_flows_again_after_a_reboot_without_the_api_server() {
    let mut cluster = Cluster::new();
    cluster.must_kubectl(&format!("apply -k {}/deploy/base", env!("CARGO_MANIFEST_DIR")));
    cluster.wait_rollout();
    cluster.serve_seed();

    // With the static pod. Beside a running agent it does nothing and waits.
    cluster.nodes[0].put_static_pod("portforward-restore.yaml", &repository("deploy/static-pod/portforward-restore.yaml"));
    let rests = || cluster.nodes[0].container_logs().contains("an agent has taken over this node");
    assert!(eventually(PATIENCE, rests), "{}", cluster.nodes[0].container_logs());
    let flows = cluster.open_flows();
    flows.go_on("the static pod beside the agent");
    flows.finish();
    cluster.reboot_without_api_server("the static pod put nothing back");

    // The API server returns, an agent takes over, and no connection is affected.
    let flows = cluster.open_flows();
    cluster.plane.start();
    cluster.plane.wait_served();
    cluster.wait_rollout();
    cluster.plane.wait_ready(SEED);
    flows.go_on("the take-over");
    flows.finish();

    // Also at the next reboot. The kubelet would not restart a container that had ended successfully before.
    cluster.reboot_without_api_server("the static pod put nothing back after a second reboot");

    // With the systemd unit of the host, while nothing else runs on it. Stopping it leaves the kernel unchanged.
    cluster.reboot();
    let unit = repository("deploy/systemd/portforward-restore.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("the unit starts something");
    let mut restore = cluster.nodes[0].command(&cluster.bed, env!("CARGO_BIN_EXE_portforward-operator"));
    // The host of the test has another name than its node.
    let mut restore =
        restore.args(start.split_whitespace().skip(1)).env("NODE_NAME", "px0").spawn().expect("nsenter is installed");
    cluster.wait_serves("the unit put nothing back");
    kill_process(Pid::from_child(&restore), Signal::TERM).expect("it stays");
    assert!(restore.wait().expect("a child can be waited for").success());
    cluster.traffic_flows();
}
