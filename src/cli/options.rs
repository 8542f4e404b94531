//! The options that several commands share.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing::warn;

use crate::cluster::OtherNodes;
use crate::dataplane::iptables::{Variant, choose};
use crate::dataplane::{Backend, Forwarding, Kernel, Ownership};
use crate::model::Connmark;
use crate::plan::{ForbiddenNetworks, Policy, RequireGrants, ReservedPorts, TranslationLimit};
use crate::record::{self, Keeper, Loaded, Outdated, Record};

/// The default state directory.
pub(super) const STATE_DIR: &str = "/var/lib/portforward-operator";

#[derive(Args, Debug)]
pub(super) struct StateOptions {
    /// Name of this node [default: its host name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub(super) node_name: Option<String>,
    /// Directory of the record of what this node last applied; readable by root only
    #[arg(long, default_value = STATE_DIR, value_name = "DIR", env = "PORTFORWARD_STATE_DIR")]
    pub(super) state_dir: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct BackendOptions {
    /// What holds the rules: chains of iptables, or a table of nftables, in which a change and a packet cost the
    /// same with any number of forwards
    #[arg(long, value_enum, default_value_t = BackendChoice::Iptables, value_name = "BACKEND", env = "PORTFORWARD_BACKEND")]
    backend: BackendChoice,
    /// With --backend iptables: variant of the programs; auto uses the variant that the kubelet marks, else the variant with more rules, else nft
    #[arg(long, value_enum, default_value_t = VariantChoice::Auto, value_name = "VARIANT", env = "PORTFORWARD_IPTABLES")]
    iptables: VariantChoice,
}

#[derive(Args, Debug)]
pub(super) struct KernelOptions {
    #[command(flatten)]
    backend: BackendOptions,
    /// With --backend nftables: owned keeps every other program from changing the table while the agent runs, also by nft flush
    /// ruleset (Linux 6.9 and later); open lets programs and people change it, and the agent repairs it
    #[arg(long, value_enum, default_value_t = TableChoice::Owned, value_name = "WHOSE", env = "PORTFORWARD_NFTABLES_TABLE")]
    nftables_table: TableChoice,
    /// Enable IP forwarding whenever it is off (net.ipv4.ip_forward, and forwarding of the legs' interfaces); otherwise it is only reported
    #[arg(long)]
    set_ip_forward: bool,
}

#[derive(Args, Debug)]
pub(super) struct PolicyOptions {
    /// Ports that no new forward gets on an address by which the node itself is reached, such as 22/TCP,53,30000-32767/UDP;
    /// empty for none. A port without a protocol is reserved for all protocols
    #[arg(long, default_value = ReservedPorts::DEFAULT, value_name = "PORTS")]
    reserved_ports: ReservedPorts,
    /// Networks that no forward may have as upstream, client or route: addresses, CIDRs, and the words nodes, pods, services and
    /// metadata for the addresses of the cluster and of cloud metadata services. API servers are always forbidden. What is in
    /// force is withdrawn too
    #[arg(long, default_value = ForbiddenNetworks::DEFAULT, value_name = "NETWORKS")]
    forbidden_networks: ForbiddenNetworks,
    /// The most translations that the forwards of one namespace may have on this node: port entries times client entries, and
    /// entries of reverse. A lower number withdraws the youngest forwards
    #[arg(long, default_value_t, value_name = "NUMBER")]
    max_translations: TranslationLimit,
    /// Bit of the connection mark (connmark) by which the rules know the flows of forwards: a power of two that no other program of
    /// the node changes
    #[arg(long, default_value_t, value_name = "BIT", env = "PORTFORWARD_CONNMARK")]
    pub(super) connmark: Connmark,
    /// Whether a forward needs a PortForwardGrant: with true, a forward that lies inside no grant is refused and withdrawn; with
    /// report, it is carried with a note; with false, grants are ignored
    #[arg(
        long,
        value_enum,
        default_value_t = GrantChoice::False,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_name = "WHEN"
    )]
    require_grants: GrantChoice,
}

/// Whether a forward needs a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GrantChoice {
    True,
    False,
    Report,
}

impl PolicyOptions {
    /// Whether these settings need the Node objects of the whole cluster.
    pub(super) fn other_nodes(&self) -> OtherNodes {
        if self.forbidden_networks.needs_nodes() { OtherNodes::Watched } else { OtherNodes::Unwatched }
    }

    /// The policy of the administrator.
    pub(super) fn policy(&self) -> Policy {
        let require_grants = match self.require_grants {
            GrantChoice::True => RequireGrants::Yes,
            GrantChoice::False => RequireGrants::No,
            GrantChoice::Report => RequireGrants::Report,
        };
        Policy {
            reserved_ports: self.reserved_ports.clone(),
            forbidden_networks: self.forbidden_networks.clone(),
            translations: self.max_translations,
            connmark: self.connmark,
            require_grants,
            ..Policy::default()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BackendChoice {
    Iptables,
    Nftables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TableChoice {
    Owned,
    Open,
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
pub(super) fn remembered(state_dir: &Path, node: &str) -> Option<Loaded> {
    match record::load(state_dir, node) {
        Ok(loaded) => loaded,
        Err(error) => {
            warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the record is not used; the state of the kernel is used instead"
            );
            None
        }
    }
}

/// The part of a record that is valid and may be restored. Logs the invalid entries, and whether the record is outdated.
pub(super) fn believed(loaded: &Loaded) -> Record {
    for lost in &loaded.lost {
        warn!(entry = lost, "an entry of the record is not used");
    }
    let record = loaded.restorable();
    if let Some(Outdated { since, cause, .. }) = &loaded.outdated {
        warn!(
            since = since.map_or_else(|| "unknown".to_owned(), |since| since.to_string()),
            cause,
            left_out = loaded.record.forwards.len() - record.forwards.len(),
            forwards = record.forwards.len(),
            "the record is older than the last state of the kernel; forwards that were changed or deleted since are left out"
        );
    }
    record
}

/// Prepares the state directory for writing, and returns what writes to it. If nothing can be written to it, `loaded` counts as
/// outdated as a whole, because this could not have been noted either.
pub(super) fn keeper(state_dir: &Path, loaded: Option<&mut Loaded>) -> Keeper {
    let mut keeper = Keeper::new(state_dir, loaded.as_deref());
    if let Err(error) = keeper.prepare() {
        let cause = error.cause();
        warn!(error = cause, "the state directory cannot be written, so the record on it may be older than the kernel");
        if let Some(loaded) = loaded {
            loaded.outdated = Some(Outdated::wholly(&cause));
        }
    }
    keeper
}

impl BackendOptions {
    /// The backend from the options, or the one that this node uses.
    pub(super) async fn backend(&self) -> anyhow::Result<Backend> {
        Ok(match (self.backend, self.iptables) {
            (BackendChoice::Nftables, _) => Backend::Nftables,
            (BackendChoice::Iptables, VariantChoice::Auto) => Backend::Iptables(choose().await?),
            (BackendChoice::Iptables, VariantChoice::Nft) => Backend::Iptables(Variant::Nft),
            (BackendChoice::Iptables, VariantChoice::Legacy) => Backend::Iptables(Variant::Legacy),
        })
    }
}

impl KernelOptions {
    /// The backend from the options, or the one that this node uses. It is an error if the kernel cannot hold the rules in it.
    pub(super) async fn backend(&self) -> anyhow::Result<Backend> {
        let backend = self.backend.backend().await?;
        backend.probe().await?;
        Ok(backend)
    }

    /// The access to the kernel; `backend` holds the rules, and the flows have the mark `connmark`.
    pub(super) fn kernel(&self, backend: Backend, connmark: Connmark) -> Kernel {
        let forwarding = if self.set_ip_forward { Forwarding::Enable } else { Forwarding::Leave };
        Kernel::new(backend, forwarding).marking(connmark)
    }

    /// Whom the table of nftables belongs to if not everybody may change it.
    pub(super) fn ownership(&self, otherwise: Ownership) -> Ownership {
        match self.nftables_table {
            TableChoice::Owned => otherwise,
            TableChoice::Open => Ownership::Open,
        }
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
