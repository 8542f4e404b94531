//! `restore`: puts back what this node last applied, once, from its record.

use std::collections::BTreeMap;

use clap::Args;
use tracing::info;

use super::Exit;
use super::exit::print;
use super::options::{KernelOptions, PolicyOptions, StateOptions, believed};
use crate::agent::{self, Memory};
use crate::node::Observer;
use crate::plan::Policy;
use crate::publish::table;
use crate::record;

#[derive(Args, Debug)]
#[command(
    after_help = "Run it at boot, before anything else needs the forwards. The agent takes over when it starts.\nWithout a record there is nothing to put back, and that is no failure."
)]
pub(super) struct RestoreOptions {
    #[command(flatten)]
    state: StateOptions,
    #[command(flatten)]
    kernel: KernelOptions,
    #[command(flatten)]
    policy: PolicyOptions,
}

pub(super) async fn run(options: RestoreOptions) -> anyhow::Result<Exit> {
    let name = options.state.node_name()?;
    let state_dir = options.state.state_dir;
    let _lock = record::lock(&state_dir)?;
    let Some(loaded) = record::load(&state_dir, &name)? else {
        info!(state = %state_dir.display(), "no record: nothing was applied here yet, so nothing is put back");
        return Ok(Exit::Done);
    };
    let memory = Memory::new(state_dir, &name, Some(believed(loaded)));
    let observer = Observer::default();
    let kernel = options.kernel.kernel(options.kernel.variant().await?);
    let policy = Policy { reserved_ports: options.policy.reserved_ports.0 };
    let snapshot = memory.snapshot().unwrap_or_default();
    let synced = agent::sync(&observer, &kernel, &policy, &memory, &snapshot).await?;
    print(&table(&agent::objects(&name, &snapshot, &synced.judgements, &BTreeMap::new())))?;
    let rules = synced.applied.rules?;
    synced.applied.routes?;
    synced.applied.conntrack?;
    synced.applied.forwarding?;
    anyhow::ensure!(rules.is_exact(), "the rules, read back, are not as they were written: another program changes them");
    Ok(Exit::Done)
}
