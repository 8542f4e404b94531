//! The differences in a pod: `/proc/sys` is read-only, and processes of other pods have other process ids.

use crate::bed::agent::{AgentOptions, in_mounts, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::netns::output;
use crate::bed::{Bed, EXTERNAL, Proxy, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, by, servers, tcp};

/// The mounts that a container runtime leaves.
const READ_ONLY: &str = "mount -o bind,ro /proc/sys /proc/sys; exec \"$@\"";

/// The same, and additionally the host's `/proc/sys/net` at the path where the chart mounts it. The test machine has no
/// `/host`, so the agent gets its own root directory. Everything else in it is as outside.
fn host_mounted(proxy: &Proxy) -> String {
    let root = proxy.files().join("root");
    std::fs::create_dir_all(root.join("host/proc/sys/net")).unwrap();
    let root = root.display();
    format!(
        "for each in /*; do
             if [ -L $each ]; then cp -a $each {root}; elif [ -d $each ]; then mkdir -p {root}$each; mount --rbind $each {root}$each; fi
         done
         mount --rbind /proc/sys/net {root}/host/proc/sys/net
         mount -o bind,ro {root}/proc/sys {root}/proc/sys
         exec chroot {root} \"$@\""
    )
}

/// The bed of the example, with routing off.
fn unrouted() -> Bed {
    let bed = Bed::new();
    bed.proxy().netns.set("ipv4/ip_forward", "0");
    bed
}

fn options(mounts: String) -> AgentOptions {
    let extra = vec!["--set-ip-forward".to_owned()];
    AgentOptions { extra, mounts: Some(mounts), ..AgentOptions::new(Variant::Nft) }
}

#[test]
fn routing_that_cannot_be_switched_on_is_told_with_what_to_do() {
    let bed = unrouted();
    let stage = Stage::with(options(READ_ONLY.to_owned()), bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_condition(SEED, "Ready", "False", "ForwardingDisabled");
    stage.agent.wait_condition(SEED, "Programmed", "True", "Programmed");
    let message = stage.message(SEED, "Ready");
    for word in ["/proc/sys/net/ipv4/ip_forward: Read-only file system", "/host/proc/sys/net", "set it on the host"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(stage.agent.complaints().len(), 1, "logged once: {:?}", stage.agent.complaints());
    stage.proxy().netns.set("ipv4/ip_forward", "1");
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
}

#[test]
fn routing_is_switched_on_by_what_the_host_has_mounted() {
    let bed = unrouted();
    let _servers = servers(&bed);
    let mounts = host_mounted(bed.proxy());
    let stage = Stage::with(options(mounts.clone()), bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(stage.proxy().netns.setting("ipv4/ip_forward"), "1");
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));

    // The pod that restores the state after a reboot does the same.
    let Stage { agent, bed, .. } = stage;
    assert!(agent.stop().success());
    bed.proxy().netns.set("ipv4/ip_forward", "0");
    let kept = state_folder(bed.proxy());
    let arguments = ["restore", "--node-name", "proxy", "--iptables", "nft", "--set-ip-forward", "--state-dir"];
    let refused = output(in_mounts(bed.proxy(), READ_ONLY).args(arguments).arg(&kept));
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only file system"), "{refused:?}");
    let restored = output(in_mounts(bed.proxy(), &mounts).args(arguments).arg(&kept));
    assert!(restored.status.success(), "{restored:?}");
    let table = String::from_utf8_lossy(&restored.stdout).into_owned();
    assert!(!table.contains("ForwardingDisabled"), "{table}");
    assert_eq!(bed.proxy().netns.setting("ipv4/ip_forward"), "1");
}
