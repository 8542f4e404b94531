//! The bed of the example with an agent on a folder, and the manifests in this folder.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::agent::{Agent, AgentOptions, Manifests};
use crate::bed::client::{ANSWER, Silence, UdpFlow, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::server::{Seen, Server};
use crate::bed::wait::{PATIENCE, eventually};
use crate::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, Proxy, SECOND_SERVER, SERVER};

/// The key of the forward of [`Manifest::seed`].
pub(crate) const SEED: &str = "lines/seed";
/// The file with the example forward.
pub(crate) const FILE: &str = "seed.yaml";
/// The UDP port of the example forward.
pub(crate) const LOG: u16 = 514;
/// The time limit for what the agent does by itself.
pub(crate) const SOON: Duration = PATIENCE;

/// Turns a function that takes a variant into one test for each variant of iptables.
macro_rules! on_both_variants {
    ($($name:ident),+ $(,)?) => {
        mod by_nft {
            $(#[test] fn $name() { super::$name(crate::bed::kernel::Variant::Nft); })+
        }
        mod by_legacy {
            $(#[test] fn $name() { super::$name(crate::bed::kernel::Variant::Legacy); })+
        }
    };
}
pub(crate) use on_both_variants;

/// One test more, for the table of nftables.
macro_rules! and_by_nftables {
    ($($name:ident),+ $(,)?) => {
        mod by_nftables {
            $(#[test] fn $name() { super::$name(crate::bed::kernel::Variant::Nftables); })+
        }
    };
}
pub(crate) use and_by_nftables;

/// One test for each backend.
macro_rules! on_all_backends {
    ($($name:ident),+ $(,)?) => {
        crate::stage::on_both_variants![$($name),+];
        crate::stage::and_by_nftables![$($name),+];
    };
}
pub(crate) use on_all_backends;

/// One manifest as JSON, which is also valid YAML.
#[derive(Clone, Debug)]
pub(crate) struct Manifest(Value);

impl Manifest {
    /// The example forward on TCP 80 and UDP 514, without `reverse`.
    pub(crate) fn seed() -> Self {
        Self(json!({
            "apiVersion": "portforward.dev/v1alpha1",
            "kind": "PortForward",
            "metadata": {"namespace": "lines", "name": "seed"},
            "spec": {
                "client": {"addresses": [CLIENT]},
                "internal": {"addresses": [INTERNAL], "interface": "eth1", "gateways": [GATEWAY]},
                "external": {"addresses": [EXTERNAL], "interface": "eth0"},
                "upstream": {"targets": [{"address": SERVER}]},
                "ports": [{"name": "web", "port": 80}, {"name": "log", "protocol": "UDP", "port": LOG}],
            },
        }))
    }

    /// The same with another value at a JSON pointer (RFC 6901). The parent of the value must exist.
    pub(crate) fn with(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        let parent = self.0.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
        match field.parse::<usize>() {
            Ok(index) if parent.is_array() => parent[index] = value.into(),
            Ok(_) | Err(_) => parent[field] = value.into(),
        }
        self
    }

    /// The same without the field at a JSON pointer.
    pub(crate) fn without(mut self, pointer: &str) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        let parent = self.0.pointer_mut(parent).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("no {parent}"));
        parent.remove(field).unwrap_or_else(|| panic!("no {pointer}"));
        self
    }

    /// The same with another name.
    pub(crate) fn named(self, name: &str) -> Self {
        self.with("/metadata/name", name)
    }

    /// The same with the second server as upstream.
    pub(crate) fn for_second_server(self) -> Self {
        self.with("/spec/upstream/targets/0/address", SECOND_SERVER.to_string())
    }

    /// The text of a file.
    pub(crate) fn text(&self) -> String {
        format!("{:#}\n", self.0)
    }
}

/// An agent and its bed. The agent is dropped first.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The agent.
    pub(crate) agent: Agent,
    /// The folder of the agent.
    pub(crate) manifests: Manifests,
    /// The options with which it was started.
    pub(crate) options: AgentOptions,
    /// The network.
    pub(crate) bed: Bed,
}

impl Stage {
    /// The example forward alone, already ready.
    pub(crate) fn seed(variant: Variant) -> Self {
        let stage = Self::of(variant, Bed::new(), &[(FILE, Manifest::seed())]);
        stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
        stage
    }

    /// These manifests on this bed. Does not wait for anything.
    pub(crate) fn of(variant: Variant, bed: Bed, files: &[(&str, Manifest)]) -> Self {
        Self::with(AgentOptions::new(variant), bed, files)
    }

    /// The same with an agent with these options.
    pub(crate) fn with(options: AgentOptions, bed: Bed, files: &[(&str, Manifest)]) -> Self {
        let manifests = Manifests::new(bed.proxy());
        for (file, manifest) in files {
            manifests.put(file, &manifest.text());
        }
        let agent = Agent::start(bed.proxy(), &manifests, &options);
        Self { agent, manifests, options, bed }
    }

    /// Replaces the file of the example, and waits until the agent has applied it and the forward is ready.
    pub(crate) fn edit(&self, manifest: &Manifest) {
        self.edit_unready(manifest);
        self.agent.wait_ready(SEED);
    }

    /// Replaces the file of the example, and waits until the agent has read it.
    pub(crate) fn edit_unready(&self, manifest: &Manifest) {
        let generation = self.generation();
        self.manifests.put(FILE, &manifest.text());
        wait("the agent has read the edit", || self.generation() > generation);
    }

    /// The first proxy.
    pub(crate) fn proxy(&self) -> &Proxy {
        self.bed.proxy()
    }

    /// The message of a condition.
    pub(crate) fn message(&self, key: &str, condition: &str) -> String {
        let forward = self.agent.forward(key).unwrap_or_default();
        let conditions = forward["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|each| each["type"] == condition).unwrap_or_default();
        found["message"].as_str().unwrap_or_default().to_owned()
    }

    fn generation(&self) -> Option<i64> {
        self.agent.forward(SEED)?["metadata"]["generation"].as_i64()
    }
}

/// Waits for a condition that is not in the agent's report.
pub(crate) fn wait(claim: &str, holds: impl FnMut() -> bool) {
    assert!(eventually(SOON, holds), "{claim}");
}

/// Both servers, each by TCP and UDP on the ports of the example forward.
pub(crate) fn servers(bed: &Bed) -> [Server; 4] {
    let (tcp, udp) = (|address| Server::tcp(&bed.server, address, [80]), |address| Server::udp(&bed.server, address, [LOG]));
    [tcp(SERVER), tcp(SECOND_SERVER), udp(SERVER), udp(SECOND_SERVER)]
}

/// A UDP flow of the client to the example forward. The first datagram was answered.
pub(crate) fn flow(bed: &Bed) -> UdpFlow {
    let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), (INTERNAL, LOG)).expect("a socket can be made");
    flow.ask(ANSWER).expect("the forward carries UDP");
    flow
}

/// The result of a request: the server that answered, and the client address that this server saw.
pub(crate) type Way = Result<(IpAddr, IpAddr), Silence>;

/// The result of a request, from what the server saw.
pub(crate) fn way(seen: Result<Seen, Silence>) -> Way {
    seen.map(|seen| (seen.local.ip(), seen.peer.ip()))
}

/// An expected result, for comparison.
#[expect(clippy::unnecessary_wraps, reason = "it is compared with a result that may be an error")]
pub(crate) fn by(server: Ipv4Addr, external: Ipv4Addr) -> Way {
    Ok((server.into(), external.into()))
}

/// The result of a new connection of the client to the example forward.
pub(crate) fn tcp(bed: &Bed) -> Way {
    way(tcp_ask(&bed.client, CLIENT, (INTERNAL, 80), ANSWER))
}
