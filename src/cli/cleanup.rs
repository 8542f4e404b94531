//! `cleanup`: removes everything of ours from the kernel of this node.

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
use crate::dataplane::rules::{RulesReport, Stuck};
use crate::dataplane::{Backend, EmptyTables, conntrack, remove_empty_tables, routes};
use crate::metrics::remove_health_socket;
use crate::model::{Desired, Translations};
use crate::record::{self, Purpose};
use crate::words::counted;

/// How long the routes to clients stay after their connections were cut.
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
        info!("this node is clean; waiting until stopped");
        stop.requested().await;
    }
    Ok(done)
}

async fn clean(options: &StateOptions) -> anyhow::Result<Exit> {
    let name = options.node_name()?;
    let state_dir = &options.state_dir;
    let _lock = record::lock(state_dir, Purpose::Cleanup)?;
    let record = remembered(state_dir, &name).map(|loaded| loaded.record);
    let before: Translations = record.into_iter().flat_map(|record| record.in_force).collect();
    // If something cannot be removed, the rest is still removed. The first error is returned at the end.
    let mut left: Vec<anyhow::Error> = Vec::new();
    let (mut found, mut cut) = (before, BTreeSet::new());
    for backend in Backend::ALL {
        if backend.is_in_use().await {
            let rules = backend.remove().await;
            found.extend(rules.before.iter().cloned());
            left.extend(troubles(backend, &rules));
            let connections = conntrack::purge(&found, &Desired::default()).await.context("not all connections are cut");
            let connections = connections.unwrap_or_else(|error| {
                left.push(error);
                Purged::default()
            });
            cut.extend(connections.ends);
            let connections = connections.count;
            print(&rules_removed(backend, rules.deleted, rules.jumps, connections))?;
        }
    }
    left.extend(remove_empty().await.err());
    if !cut.is_empty() {
        // The answers of the clients, and the resets to them, use the routes that are removed next.
        tokio::time::sleep(ANSWERS).await;
    }
    // Routes also exist without any iptables.
    match routes::remove_all().await {
        Ok(routes) => {
            print(&routes_removed(routes.removed))?;
            let stuck = || anyhow::anyhow!("routes of ours could not be removed: {}", routes.stuck.join("; "));
            left.extend((!routes.stuck.is_empty()).then(stuck));
        }
        Err(error) => left.push(anyhow::Error::from(error).context("not all routes are removed")),
    }
    // Another try needs the record, which says which connections were ours. Chains that are empty do not need it.
    if left.iter().all(anyhow::Error::is::<Stuck>) {
        record::remove(state_dir)?;
        remove_health_socket(state_dir).context("the socket of the agent's health cannot be removed from the state directory")?;
    }
    for error in left.iter().skip(1) {
        let error: &(dyn std::error::Error + Send + Sync) = error.as_ref();
        warn!(error, "not everything of ours is removed");
    }
    left.into_iter().next().map_or(Ok(Exit::Done), Err)
}

/// The rules of `backend` that are still there, each with the reason.
fn troubles(backend: Backend, rules: &RulesReport) -> Vec<anyhow::Error> {
    let failed = rules
        .failed
        .values()
        .map(|error| anyhow::Error::from(error.clone()).context(format!("not all rules of {backend} are removed")));
    failed.chain(rules.stuck().map(anyhow::Error::from)).collect()
}

/// Removes the tables and chains that were created for our chains and are empty now. Prints nothing if there are none.
async fn remove_empty() -> anyhow::Result<()> {
    let removed =
        remove_empty_tables().await.context("empty tables and chains that the operator created may be left in nf_tables")?;
    if removed == EmptyTables::default() {
        return Ok(());
    }
    print(&tables_removed(removed))
}

fn rules_removed(backend: Backend, chains: usize, jumps: usize, connections: usize) -> String {
    let (chains, jumps) = (counted(chains, "chain", "chains"), counted(jumps, "jump", "jumps"));
    let connections = counted(connections, "connection", "connections");
    format!("{backend}: {chains} and {jumps} removed, {connections} cut\n")
}

fn routes_removed(routes: usize) -> String {
    format!("{} removed\n", counted(routes, "route", "routes"))
}

fn tables_removed(EmptyTables { chains, tables }: EmptyTables) -> String {
    let (chains, tables) = (counted(chains, "built-in chain", "built-in chains"), counted(tables, "table", "tables"));
    format!("nf_tables: {chains} and {tables} removed, created by the operator and empty\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_removed_thing_is_singular_and_several_are_plural() {
        assert_eq!(rules_removed(Backend::ALL[0], 1, 1, 1), "iptables-nft: 1 chain and 1 jump removed, 1 connection cut\n");
        assert_eq!(rules_removed(Backend::ALL[1], 7, 4, 0), "iptables-legacy: 7 chains and 4 jumps removed, 0 connections cut\n");
        assert_eq!((routes_removed(1), routes_removed(2)), ("1 route removed\n".to_owned(), "2 routes removed\n".to_owned()));
        let one = tables_removed(EmptyTables { chains: 1, tables: 1 });
        assert_eq!(one, "nf_tables: 1 built-in chain and 1 table removed, created by the operator and empty\n");
        let several = tables_removed(EmptyTables { chains: 3, tables: 0 });
        assert_eq!(several, "nf_tables: 3 built-in chains and 0 tables removed, created by the operator and empty\n");
    }
}
