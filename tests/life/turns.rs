//! Only one process at a time may change a node: agents that follow each other, and `restore` and `cleanup` together with an
//! agent.

use std::process::Output;

use crate::bed::agent::{Agent, AgentOptions, operator, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::wait::{PATIENCE, eventually};
use crate::bed::{Bed, EXTERNAL, Proxy, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, by, servers, tcp};

fn run(proxy: &Proxy, command: &[&str]) -> Output {
    let state = state_folder(proxy);
    let ends = ["--node-name", "proxy", "--log-format", "text", "--state-dir", state.to_str().unwrap()];
    operator(proxy, command.iter().copied().chain(ends))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A pod is replaced, and the old one ends slowly.
#[test]
fn a_new_agent_waits_for_the_old_one_and_goes_on_where_that_ended() {
    let Stage { agent: old, manifests, options, bed } = Stage::seed(Variant::Nft);
    let _servers = servers(&bed);
    let new = Agent::start(bed.proxy(), &manifests, &options);
    let waits = format!("waiting for its end, at most for this time holder=an agent (process {})", old.id());
    new.wait_log(&waits);
    assert_eq!(new.log().matches("agent starts").count(), 1, "the old agent keeps the lock");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
    assert!(old.stop().success());
    // Both agents write to one log. The status file is that of the old agent until the new one has judged the forward.
    let judged = eventually(PATIENCE, || new.log().matches("forward ready").count() == 2);
    assert!(judged, "the new agent did not go on: {}", new.log());
    assert_eq!(new.log().matches("agent starts").count(), 2);
    assert_eq!(new.log().matches("waiting for its end").count(), 1, "logged once");
    assert_eq!(new.log().matches("kernel state updated").count(), 1, "only the old agent wrote");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
}

#[test]
fn an_agent_that_waits_ends_when_it_is_stopped() {
    let stage = Stage::seed(Variant::Nft);
    let new = Agent::start(stage.proxy(), &stage.manifests, &stage.options);
    new.wait_log("waiting for its end");
    assert!(new.stop().success());
}

/// The process ids of a pod are valid only in this pod: the agent is process 1.
#[test]
fn a_holder_in_another_container_is_not_taken_for_a_process_of_this_one() {
    let mounts = Some("exec unshare --pid --fork --kill-child --mount-proc \"$@\"".to_owned());
    let options = AgentOptions { mounts, ..AgentOptions::new(Variant::Nft) };
    let stage = Stage::with(options, Bed::new(), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let refused = run(stage.proxy(), &["cleanup"]);
    assert_eq!(refused.status.code(), Some(1));
    let words = "an agent (process 1 in another container or on the host) holds the lock of this node; stop it first";
    assert!(said(&refused).contains(words), "{refused:?}");
}

/// For example, a static pod next to the pod of the agent.
#[test]
fn restore_beside_an_agent_has_nothing_to_do_and_is_no_failure() {
    let stage = Stage::seed(Variant::Nft);
    let before = stage.proxy().nft_ruleset();
    let restored = run(stage.proxy(), &["restore", "--iptables", "nft"]);
    assert!(restored.status.success(), "{restored:?}");
    assert!(said(&restored).contains("nothing to restore") && restored.stdout.is_empty(), "{restored:?}");
    let mut resting = crate::reboot::start(stage.proxy(), Variant::Nft);
    resting.wait("waiting until stopped");
    // It does nothing when the agent ends, because the kernel state stays without an agent.
    let Stage { agent, bed, .. } = stage;
    assert!(agent.stop().success());
    bed.proxy().iptables(Variant::Nft, "-t nat -F PF-PRE");
    assert!(resting.runs());
    assert!(resting.stop().success());
    assert_ne!(bed.proxy().nft_ruleset(), before);
}
