//! A bed with an agent on every proxy. All agents have the same forwards.

use std::fmt::Write as _;

use super::Bed;
use super::agent::{Agent, AgentOptions, Manifests};
use super::kernel::Variant;

/// The only file in the folder of a site.
const FILE: &str = "forwards.yaml";

/// The namespace of the forwards of a site.
const NAMESPACE: &str = "lines";

/// Running agents. They are stopped before the hosts are removed.
#[derive(Debug)]
pub(crate) struct Site {
    nodes: Vec<(Agent, Manifests)>,
    /// The hosts.
    pub(crate) bed: Bed,
}

impl Site {
    /// Starts an agent on every proxy, and returns when each reports that every forward is ready there.
    ///
    /// A forward is given as its name and its spec. The spec is the content of a YAML mapping in flow style.
    pub(crate) fn serve(variant: Variant, bed: Bed, forwards: &[(&str, &str)]) -> Self {
        let site = Self::start(variant, bed, forwards);
        site.nodes.iter().for_each(|(agent, _)| agent.wait_nodes("Ready", forwards.len()));
        site
    }

    /// Starts an agent on every proxy, and returns when each reports that its kernel holds every forward, `Ready` or not.
    pub(crate) fn programme(variant: Variant, bed: Bed, forwards: &[(&str, &str)]) -> Self {
        let site = Self::start(variant, bed, forwards);
        site.nodes.iter().for_each(|(agent, _)| agent.wait_nodes("Programmed", forwards.len()));
        site
    }

    /// Replaces the forwards by others, and waits until the kernel holds them.
    pub(crate) fn replace(&self, forwards: &[(&str, &str)]) {
        for (agent, manifests) in &self.nodes {
            let before = agent.generations();
            manifests.put(FILE, &manifest(forwards));
            agent.wait_report("the forwards were never replaced", |_| agent.generations() != before);
        }
        self.nodes.iter().for_each(|(agent, _)| agent.wait_nodes("Programmed", forwards.len()));
    }

    /// The agent of a proxy.
    pub(crate) fn agent(&self, proxy: usize) -> &Agent {
        &self.nodes[proxy].0
    }

    fn start(variant: Variant, bed: Bed, forwards: &[(&str, &str)]) -> Self {
        let text = manifest(forwards);
        let start = |(index, proxy)| {
            let manifests = Manifests::new(proxy);
            manifests.put(FILE, &text);
            let options = AgentOptions { node_name: format!("proxy{index}"), ..AgentOptions::new(variant) };
            (Agent::start(proxy, &manifests, &options), manifests)
        };
        Self { nodes: bed.proxies.iter().enumerate().map(start).collect(), bed }
    }
}

/// The key of a forward of a site in the reports of the agent.
pub(crate) fn key(name: &str) -> String {
    format!("{NAMESPACE}/{name}")
}

fn manifest(forwards: &[(&str, &str)]) -> String {
    forwards.iter().fold(String::new(), |mut text, (name, spec)| {
        let _ = write!(
            text,
            "---\napiVersion: portforward.dev/v1alpha1\nkind: PortForward\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec: {{{spec}}}\n"
        );
        text
    })
}
