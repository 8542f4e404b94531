//! `cleanup`: removes everything of ours from this node's kernel.

use std::collections::BTreeSet;

use anyhow::Context;
use clap::Args;
use tracing::info;

use super::Exit;
use super::exit::print;
use super::logging::LogOptions;
use super::options::{StateOptions, remembered};
use super::stop::Stop;
use crate::dataplane::iptables::scaffold::{self, Removed};
use crate::dataplane::iptables::{Iptables, Ruleset, Stuck, Variant};
use crate::dataplane::{conntrack, routes};
use crate::model::{Desired, Translation};
use crate::record::{self, Purpose};

#[derive(Args, Debug)]
#[command(
    after_help = "Needs no manifests and no API server. Stop the agent first, or it puts everything back.\n\nRules and routes of other programs are not changed, and neither is net.ipv4.ip_forward."
)]
pub(super) struct CleanupOptions {
    /// Keep running when the node is clean, so that the rollout of a DaemonSet shows when every node is clean
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    state: StateOptions,
    #[command(flatten)]
    pub(super) log: LogOptions,
}

pub(super) async fn run(options: CleanupOptions) -> anyhow::Result<Exit> {
    let mut stop = Stop::listen()?;
    let done = clean(&options.state).await?;
    if options.stay {
        info!("this node is clean; resting until stopped");
        stop.requested().await;
    }
    Ok(done)
}

async fn clean(options: &StateOptions) -> anyhow::Result<Exit> {
    let name = options.node_name()?;
    let state_dir = &options.state_dir;
    let _lock = record::lock(state_dir, Purpose::Cleanup)?;
    let record = remembered(state_dir, &name);
    let before: BTreeSet<Translation> = record.into_iter().flat_map(|record| record.in_force).collect();
    let mut stuck = None;
    for variant in Variant::ALL {
        if variant.is_in_use().await {
            stuck = stuck.or(remove(variant, &before).await?);
        }
    }
    let scaffold = remove_scaffold().await;
    // Routes are there without any iptables too.
    let routes = routes::remove_all().await.context("the routes are not all removed")?;
    print(&format!("{} routes removed\n", routes.removed))?;
    anyhow::ensure!(routes.stuck.is_empty(), "routes of ours are left: {}", routes.stuck.join("; "));
    record::remove(state_dir)?;
    scaffold?;
    stuck.map_or(Ok(Exit::Done), |stuck| Err(stuck.into()))
}

/// Takes out what was made for our chains to hang in and is empty now. Where nothing was, nothing is said.
async fn remove_scaffold() -> anyhow::Result<()> {
    let removed = scaffold::remove().await.context("empty tables and chains that we made may be left in nf_tables")?;
    if removed == Removed::default() {
        return Ok(());
    }
    let Removed { chains, tables } = removed;
    print(&format!("nf_tables: {chains} built-in chains and {tables} tables removed, made by us and empty\n"))
}

/// Takes everything of ours out of one variant; tells what another program holds on to.
async fn remove(variant: Variant, before: &BTreeSet<Translation>) -> anyhow::Result<Option<Stuck>> {
    let rules = Iptables::new(variant).apply(&Ruleset::default()).await;
    let rules = rules.with_context(|| format!("the rules of iptables {variant} are not all removed"))?;
    let before = before.iter().chain(&rules.before).cloned().collect();
    let connections = conntrack::purge(&before, &Desired::default()).await.context("the connections are not all cut")?;
    print(&format!(
        "iptables {variant}: {} chains and {} jumps removed, {} connections cut\n",
        rules.deleted.len(),
        rules.jumps.len(),
        connections.count
    ))?;
    Ok(rules.stuck())
}
