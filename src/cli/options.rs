//! The options that several commands share.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing::warn;

use crate::dataplane::iptables::{Variant, choose};
use crate::dataplane::{Forwarding, Kernel};
use crate::plan::ReservedPorts;
use crate::record::{self, Loaded, Record};

/// The ports by which a node must stay reachable: SSH, the API server, the kubelet.
const RESERVED_PORTS: &str = "22/TCP,6443/TCP,10250/TCP";

#[derive(Args, Debug)]
pub(super) struct StateOptions {
    /// Name of this node [default: its host name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub(super) node_name: Option<String>,
    /// Directory of the record of what this node last applied; readable by root only
    #[arg(long, default_value = "/var/lib/portforward-operator", value_name = "DIR", env = "PORTFORWARD_STATE_DIR")]
    pub(super) state_dir: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct VariantOptions {
    /// Variant of the iptables programs; auto uses the variant that the kubelet marks, else the variant with more rules, else nft
    #[arg(long, value_enum, default_value_t = VariantChoice::Auto, value_name = "VARIANT", env = "PORTFORWARD_IPTABLES")]
    iptables: VariantChoice,
}

#[derive(Args, Debug)]
pub(super) struct KernelOptions {
    #[command(flatten)]
    variant: VariantOptions,
    /// Enable IP forwarding whenever it is off (net.ipv4.ip_forward, and forwarding of the legs' interfaces); otherwise it is only reported
    #[arg(long)]
    set_ip_forward: bool,
}

#[derive(Args, Debug)]
pub(super) struct PolicyOptions {
    /// Ports that no new forward gets on an address by which the node itself is reached, such as 22/TCP,53,30000-32767/UDP;
    /// empty for none. A port without a protocol is reserved for all protocols
    #[arg(long, default_value = RESERVED_PORTS, value_name = "PORTS")]
    pub(super) reserved_ports: ReservedPorts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VariantChoice {
    Auto,
    Nft,
    Legacy,
}

impl StateOptions {
    /// The name of this node.
    pub(super) fn node_name(&self) -> anyhow::Result<String> {
        match &self.node_name {
            Some(name) => Ok(name.clone()),
            None => node_name(&rustix::system::uname().nodename().to_string_lossy().to_lowercase())
                .map_err(anyhow::Error::msg)
                .context("the host name of this node is not a valid node name; give --node-name"),
        }
    }
}

/// What this node last applied. If the record cannot be trusted, it is not used, and a warning says so. The agent then relies
/// on the kernel only.
pub(super) fn remembered(state_dir: &Path, node: &str) -> Option<Record> {
    match record::load(state_dir, node) {
        Ok(loaded) => loaded.map(believed),
        Err(error) => {
            warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the record is not used; the state of the kernel is used instead"
            );
            None
        }
    }
}

/// The valid part of a record. Logs the invalid entries.
pub(super) fn believed(loaded: Loaded) -> Record {
    for lost in loaded.lost {
        warn!(entry = lost, "an entry of the record is not used");
    }
    loaded.record
}

impl VariantOptions {
    /// The variant from the option, or the variant that this node uses.
    pub(super) async fn variant(&self) -> anyhow::Result<Variant> {
        match self.iptables {
            VariantChoice::Auto => Ok(choose().await?),
            VariantChoice::Nft => Ok(Variant::Nft),
            VariantChoice::Legacy => Ok(Variant::Legacy),
        }
    }
}

impl KernelOptions {
    /// The variant from the option, or the variant that this node uses.
    pub(super) async fn variant(&self) -> anyhow::Result<Variant> {
        self.variant.variant().await
    }

    /// The access to the kernel; the rules are written by the programs of `variant`.
    pub(super) fn kernel(&self, variant: Variant) -> Kernel {
        Kernel::new(variant, if self.set_ip_forward { Forwarding::Enable } else { Forwarding::Leave })
    }
}

fn node_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let well_formed = text.starts_with(ends) && text.ends_with(ends) && text.chars().all(plain) && text.len() <= 253;
    if well_formed {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a node name; write lower-case letters, digits, '-' and '.', 253 characters at most (RFC 1123)"
        ))
    }
}

/// Parses a label, KEY=VALUE.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write the label as KEY=VALUE")?;
    if key.is_empty() {
        Err("the key is empty; write the label as KEY=VALUE".into())
    } else {
        Ok((key.to_owned(), value.to_owned()))
    }
}
