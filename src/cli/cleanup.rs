//! `cleanup`: removes everything of ours from this node's kernel.

use std::collections::BTreeSet;

use anyhow::Context;
use clap::Args;

use super::Exit;
use super::exit::print;
use super::options::{StateOptions, remembered};
use crate::dataplane::iptables::Variant;
use crate::dataplane::{Dataplane, Forwarding, Kernel};
use crate::model::{Desired, Translation};
use crate::record;

#[derive(Args, Debug)]
#[command(
    after_help = "Needs no manifests and no API server. Stop the agent first: it would put everything back.\nOther programs' rules and routes, and net.ipv4.ip_forward, stay as they are."
)]
pub(super) struct CleanupOptions {
    #[command(flatten)]
    state: StateOptions,
}

pub(super) async fn run(options: CleanupOptions) -> anyhow::Result<Exit> {
    let name = options.state.node_name()?;
    let state_dir = options.state.state_dir;
    let _lock = record::lock(&state_dir)?;
    let record = remembered(&state_dir, &name);
    let before: BTreeSet<Translation> = record.into_iter().flat_map(|record| record.in_force).collect();
    for variant in Variant::ALL {
        if !variant.is_in_use().await {
            continue;
        }
        let applied = Kernel::new(variant, Forwarding::Leave).apply(&Desired::default(), &before).await;
        let rules = applied.rules.with_context(|| format!("the rules of iptables {variant} are not all removed"))?;
        let routes = applied.routes.context("the routes are not all removed")?;
        let connections = applied.conntrack.context("the connections are not all cut")?;
        print(&format!(
            "iptables {variant}: {} chains and {} jumps removed; {} routes removed; {} connections cut\n",
            rules.deleted.len(),
            rules.jumps.len(),
            routes.removed,
            connections.count
        ))?;
        rules.stuck().map_or(Ok(()), Err).with_context(|| format!("the chains of iptables {variant} are not all removed"))?;
    }
    record::remove(&state_dir)?;
    Ok(Exit::Done)
}
