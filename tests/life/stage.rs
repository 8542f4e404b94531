//! The seed's bed with an agent that works on a folder, and the manifests it is given.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::agent::{Agent, AgentOptions, Manifests};
use crate::bed::client::{ANSWER, Silence, UdpFlow, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::server::{Seen, Server};
use crate::bed::wait::{PATIENCE, eventually};
use crate::bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, Proxy, SECOND_SERVER, SERVER};

/// The forward of [`Manifest::seed`].
pub(crate) const SEED: &str = "lines/seed";
/// The file that the seed's forward is in.
pub(crate) const FILE: &str = "seed.yaml";
/// The UDP port of the seed's forward.
pub(crate) const LOG: u16 = 514;
/// How long something may take that the agent does by itself.
pub(crate) const SOON: Duration = PATIENCE;

/// Makes a test by each variant of iptables from a function that takes the variant.
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

/// One manifest, as the JSON that is YAML too.
#[derive(Clone, Debug)]
pub(crate) struct Manifest(Value);

impl Manifest {
    /// The seed's forward on TCP 80 and UDP 514, without `reverse`.
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

    /// With another value at a JSON pointer (RFC 6901) whose parent is there.
    pub(crate) fn with(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        let parent = self.0.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
        match field.parse::<usize>() {
            Ok(index) if parent.is_array() => parent[index] = value.into(),
            Ok(_) | Err(_) => parent[field] = value.into(),
        }
        self
    }

    /// Without the field at a JSON pointer.
    pub(crate) fn without(mut self, pointer: &str) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
        let parent = self.0.pointer_mut(parent).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("no {parent}"));
        parent.remove(field).unwrap_or_else(|| panic!("no {pointer}"));
        self
    }

    /// By another name.
    pub(crate) fn named(self, name: &str) -> Self {
        self.with("/metadata/name", name)
    }

    /// To the second server.
    pub(crate) fn for_second_server(self) -> Self {
        self.with("/spec/upstream/targets/0/address", SECOND_SERVER.to_string())
    }

    /// As the text of a file.
    pub(crate) fn text(&self) -> String {
        format!("{:#}\n", self.0)
    }
}

/// The agent beside its bed; dropped before it.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The agent.
    pub(crate) agent: Agent,
    /// Its folder.
    pub(crate) manifests: Manifests,
    /// How it was started.
    pub(crate) options: AgentOptions,
    /// The network.
    pub(crate) bed: Bed,
}

impl Stage {
    /// The seed's forward alone, ready.
    pub(crate) fn seed(variant: Variant) -> Self {
        let stage = Self::of(variant, Bed::new(), &[(FILE, Manifest::seed())]);
        stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
        stage
    }

    /// These manifests on this bed; waits for nothing.
    pub(crate) fn of(variant: Variant, bed: Bed, files: &[(&str, Manifest)]) -> Self {
        Self::with(AgentOptions::new(variant), bed, files)
    }

    /// An agent with these options.
    pub(crate) fn with(options: AgentOptions, bed: Bed, files: &[(&str, Manifest)]) -> Self {
        let manifests = Manifests::new(bed.proxy());
        for (file, manifest) in files {
            manifests.put(file, &manifest.text());
        }
        let agent = Agent::start(bed.proxy(), &manifests, &options);
        Self { agent, manifests, options, bed }
    }

    /// Replaces the seed's file and waits until the agent has taken it in and it is ready.
    pub(crate) fn edit(&self, manifest: &Manifest) {
        self.edit_unready(manifest);
        self.agent.wait_ready(SEED);
    }

    /// Replaces the seed's file and waits until the agent has taken it in.
    pub(crate) fn edit_unready(&self, manifest: &Manifest) {
        let generation = self.generation();
        self.manifests.put(FILE, &manifest.text());
        wait("the edit is taken in", || self.generation() > generation);
    }

    /// The proxy.
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

/// Waits for something outside of the agent's report.
pub(crate) fn wait(claim: &str, holds: impl FnMut() -> bool) {
    assert!(eventually(SOON, holds), "{claim}");
}

/// Both servers, each by TCP and UDP on the ports of the seed's forward.
pub(crate) fn servers(bed: &Bed) -> [Server; 4] {
    let (tcp, udp) = (|address| Server::tcp(&bed.server, address, [80]), |address| Server::udp(&bed.server, address, [LOG]));
    [tcp(SERVER), tcp(SECOND_SERVER), udp(SERVER), udp(SECOND_SERVER)]
}

/// A UDP flow of the client to the seed's forward, answered once.
pub(crate) fn flow(bed: &Bed) -> UdpFlow {
    let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), (INTERNAL, LOG)).expect("a socket can be made");
    flow.ask(ANSWER).expect("the forward carries UDP");
    flow
}

/// What became of a request: the server that it reached and the client that this one saw.
pub(crate) type Way = Result<(IpAddr, IpAddr), Silence>;

/// The way of a datagram or connection.
pub(crate) fn way(seen: Result<Seen, Silence>) -> Way {
    seen.map(|seen| (seen.local.ip(), seen.peer.ip()))
}

/// A way, to be compared.
#[expect(clippy::unnecessary_wraps, reason = "compared with what may have failed")]
pub(crate) fn by(server: Ipv4Addr, external: Ipv4Addr) -> Way {
    Ok((server.into(), external.into()))
}

/// The way of a new connection of the client to the seed's forward.
pub(crate) fn tcp(bed: &Bed) -> Way {
    way(tcp_ask(&bed.client, CLIENT, (INTERNAL, 80), ANSWER))
}
