//! A bed with the agent on every proxy, all of them on the same forwards.

use std::fmt::Write as _;

use super::Bed;
use super::agent::{Agent, AgentOptions, Manifests};
use super::kernel::Variant;

/// The one file of a site's folder.
const FILE: &str = "forwards.yaml";

/// The namespace of a site's forwards.
const NAMESPACE: &str = "lines";

/// Agents at work; stopped before the hosts go.
#[derive(Debug)]
pub(crate) struct Site {
    nodes: Vec<(Agent, Manifests)>,
    /// The hosts.
    pub(crate) bed: Bed,
}

impl Site {
    /// Starts an agent on every proxy, and returns once each calls every forward `Ready`.
    ///
    /// A forward is its name and its spec, as the inside of a YAML mapping in flow style.
    pub(crate) fn serve(variant: Variant, bed: Bed, forwards: &[(&str, &str)]) -> Self {
        let site = Self::start(variant, bed, forwards);
        for (agent, _) in &site.nodes {
            // All of them are in one report: one look at each, and mostly one wait.
            forwards.iter().for_each(|(name, _)| agent.wait_ready(&key(name)));
        }
        site
    }

    /// Starts an agent on every proxy, and returns once each says that the kernel holds every forward, `Ready` or not.
    pub(crate) fn programme(variant: Variant, bed: Bed, forwards: &[(&str, &str)]) -> Self {
        let site = Self::start(variant, bed, forwards);
        site.wait_programmed(forwards);
        site
    }

    /// Puts other forwards in place of the present ones, and waits until the kernel holds them.
    pub(crate) fn replace(&self, forwards: &[(&str, &str)]) {
        for (agent, manifests) in &self.nodes {
            let before = agent.generations();
            manifests.put(FILE, &manifest(forwards));
            agent.wait_report("the forwards were never replaced", |_| agent.generations() != before);
        }
        self.wait_programmed(forwards);
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

    fn wait_programmed(&self, forwards: &[(&str, &str)]) {
        for (agent, _) in &self.nodes {
            forwards.iter().for_each(|(name, _)| agent.wait_condition(&key(name), "Programmed", "True", "Programmed"));
        }
    }
}

/// The key under which the agent reports a forward of a site.
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
