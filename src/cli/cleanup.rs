//! `cleanup`: removes everything of ours from this node's kernel.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tracing::{info, warn};

use super::Exit;
use super::exit::print;
use super::logging::LogOptions;
use super::options::{StateOptions, remembered};
use super::stop::Stop;
use crate::dataplane::conntrack::Purged;
use crate::dataplane::iptables::scaffold::{self, Removed};
use crate::dataplane::iptables::{Iptables, RulesReport, Ruleset, Stuck, Variant};
use crate::dataplane::{conntrack, routes};
use crate::model::{Desired, Translation};
use crate::record::{self, Purpose};

/// How long the way to clients stays whose connections were cut.
const ANSWERS: Duration = Duration::from_secs(1);

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
    // What cannot be removed holds up nothing else; the first of it is told when all is tried.
    let mut left: Vec<anyhow::Error> = Vec::new();
    let (mut found, mut cut) = (before, BTreeSet::new());
    for variant in Variant::ALL {
        if variant.is_in_use().await {
            let rules = Iptables::new(variant).apply(&Ruleset::default()).await;
            found.extend(rules.before.iter().cloned());
            left.extend(troubles(variant, &rules));
            let connections = conntrack::purge(&found, &Desired::default()).await.context("the connections are not all cut");
            let connections = connections.unwrap_or_else(|error| {
                left.push(error);
                Purged::default()
            });
            cut.extend(connections.ends);
            let connections = connections.count;
            print(&format!(
                "iptables {variant}: {} chains and {} jumps removed, {connections} connections cut\n",
                rules.deleted.len(),
                rules.jumps.len(),
            ))?;
        }
    }
    left.extend(remove_scaffold().await.err());
    if !cut.is_empty() {
        // The answers of the clients, and the resets to them, take the routes that go now.
        tokio::time::sleep(ANSWERS).await;
    }
    // Routes are there without any iptables too.
    match routes::remove_all().await {
        Ok(routes) => {
            print(&format!("{} routes removed\n", routes.removed))?;
            let stuck = || anyhow::anyhow!("routes of ours are left: {}", routes.stuck.join("; "));
            left.extend((!routes.stuck.is_empty()).then(stuck));
        }
        Err(error) => left.push(anyhow::Error::from(error).context("the routes are not all removed")),
    }
    // The record says what connections were ours, for another try; chains that hold nothing need none.
    if left.iter().all(anyhow::Error::is::<Stuck>) {
        record::remove(state_dir)?;
    }
    for error in left.iter().skip(1) {
        let error: &(dyn std::error::Error + Send + Sync) = error.as_ref();
        warn!(error, "not everything of ours is gone");
    }
    left.into_iter().next().map_or(Ok(Exit::Done), Err)
}

/// What of the rules of `variant` is still there, and why.
fn troubles(variant: Variant, rules: &RulesReport) -> Vec<anyhow::Error> {
    let failed = rules
        .failed
        .values()
        .map(|error| anyhow::Error::from(error.clone()).context(format!("the rules of iptables {variant} are not all removed")));
    failed.chain(rules.stuck().map(anyhow::Error::from)).collect()
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
