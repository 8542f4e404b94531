//! `restore`: puts back what this node last applied, from its record; once, or for as long as no agent does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::Exit;
use super::exit::print;
use super::logging::LogOptions;
use super::options::{KernelOptions, PolicyOptions, StateOptions, believed};
use super::stop::Stop;
use super::turn::{self, Turn};
use crate::agent::{self, Memory};
use crate::dataplane::{Applied, Kernel};
use crate::node::{FactsError, NextHops, Observer, Patience, watch};
use crate::plan::Policy;
use crate::publish::table;
use crate::record::{self, Purpose, RecordError};
use crate::supervise::Tasks;

/// How long one look at the kernel waits for the next where nothing is heard, as on legacy.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a change waits for others: a link that comes up is many of them.
const COALESCE: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
#[command(
    after_help = "Run it at boot, before anything needs the forwards. The agent takes over when it starts. If an agent runs already, or if there is no record, restore does nothing and exits with 0."
)]
pub(super) struct RestoreOptions {
    /// Keep restoring until an agent takes over, for links and addresses that appear late; then wait to be stopped
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    state: StateOptions,
    #[command(flatten)]
    kernel: KernelOptions,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    pub(super) log: LogOptions,
}

pub(super) async fn run(options: RestoreOptions) -> anyhow::Result<Exit> {
    let node = options.state.node_name()?;
    let mut stop = Stop::listen()?;
    let restorer = Restorer {
        node,
        state_dir: options.state.state_dir,
        options: options.kernel,
        policy: Policy { reserved_ports: options.policy.reserved_ports },
        wake: Arc::default(),
        tasks: Tasks::default(),
        bound: None,
    };
    if options.stay { restorer.stay(&mut stop).await } else { restorer.once(&mut stop).await }
}

/// What puts the record back.
struct Restorer {
    node: String,
    state_dir: PathBuf,
    options: KernelOptions,
    policy: Policy,
    /// Says "look again".
    wake: Arc<Notify>,
    /// Who says so.
    tasks: Tasks,
    /// What looks at the node and writes to it, from the first record on.
    bound: Option<(Observer, Kernel)>,
}

/// What one round came to.
enum Round {
    /// Nothing was ever applied here.
    NoRecord,
    /// The node cannot be looked at.
    Blind(FactsError),
    /// The kernel was written: what that came to for each forward, and whether all of it was done.
    Synced { table: String, outcome: anyhow::Result<()> },
}

impl Restorer {
    async fn once(mut self, stop: &mut Stop) -> anyhow::Result<Exit> {
        let _lock = match turn::wait(&self.state_dir, Purpose::Restore, stop).await? {
            Turn::Ours(lock) => lock,
            Turn::Kept(holder) => {
                info!(%holder, "an agent keeps this node already: nothing is to put back");
                return Ok(Exit::Done);
            }
            Turn::Stopped => return Ok(Exit::Done),
        };
        match self.round().await? {
            Round::NoRecord => {
                info!(state = %self.state_dir.display(), "no record: nothing was applied here yet, so nothing is put back");
            }
            Round::Blind(error) => return Err(error.into()),
            Round::Synced { table, outcome } => {
                print(&table)?;
                outcome?;
            }
        }
        Ok(Exit::Done)
    }

    /// Holds the lock for one round at a time, so that an agent that starts takes over between two.
    async fn stay(mut self, stop: &mut Stop) -> anyhow::Result<Exit> {
        let wake = Arc::clone(&self.wake);
        watch(&wake, &mut self.tasks);
        let mut told = None;
        loop {
            match record::lock(&self.state_dir, Purpose::Restore) {
                Ok(_lock) => {
                    let round = self.round().await?;
                    tell(&round, &mut told)?;
                }
                Err(RecordError::Locked { holder, .. }) if turn::is_kept(Purpose::Restore, &holder) => {
                    info!(%holder, "an agent keeps this node from here on; resting until stopped");
                    stop.requested().await;
                    return Ok(Exit::Done);
                }
                // Another one restores, or cleans up, which takes the record away.
                Err(RecordError::Locked { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = stop.requested() => {
                    info!("restore stops; what is in the kernel stays");
                    return Ok(Exit::Done);
                }
                ended = self.tasks.ended() => return Err(ended.into()),
                () = async { let _ = timeout(PAUSE, wake.notified()).await; sleep(COALESCE).await } => {}
            }
        }
    }

    /// Reads the record anew each time: `cleanup` may have removed it, and then nothing may come back.
    async fn round(&mut self) -> anyhow::Result<Round> {
        let Some(loaded) = record::load(&self.state_dir, &self.node)? else { return Ok(Round::NoRecord) };
        let record = match &self.bound {
            Some(_) => loaded.record,
            None => believed(loaded),
        };
        let (observer, kernel) = if let Some(bound) = &mut self.bound {
            bound
        } else {
            let variant = self.options.variant().await?;
            let asked = NextHops::ask(Patience::Brief, &self.wake, &mut self.tasks);
            self.bound.insert((Observer::default().beside(variant).asking(asked), self.options.kernel(variant)))
        };
        let memory = Memory::new(&self.node, Some(record));
        let snapshot = memory.snapshot().unwrap_or_default();
        Ok(match agent::sync(observer, kernel, &self.policy, &memory, &snapshot).await {
            Ok(synced) => Round::Synced {
                table: table(&agent::objects(&self.node, &snapshot, &synced.leaving, &synced.judgements, &BTreeMap::new())),
                outcome: done(synced.applied),
            },
            Err(error) => Round::Blind(error),
        })
    }
}

/// Whether everything was done, or what was not.
fn done(applied: Applied) -> anyhow::Result<()> {
    let rules = applied.rules;
    if let Some(error) = rules.failure() {
        return Err(error.clone().into());
    }
    if let Some(refused) = rules.refused.first() {
        return Err(refused.error.clone().into());
    }
    applied.routes?;
    applied.conntrack?;
    applied.forwarding?;
    anyhow::ensure!(rules.is_exact(), "the rules, read back, are not as they were written: another program changes them");
    Ok(())
}

/// Tells what a round came to if it is another thing than `told`.
fn tell(round: &Round, told: &mut Option<String>) -> anyhow::Result<()> {
    let text = match round {
        Round::NoRecord => String::new(),
        Round::Blind(error) => error.to_string(),
        Round::Synced { table, .. } => table.clone(),
    };
    if told.as_ref() == Some(&text) {
        return Ok(());
    }
    match round {
        Round::NoRecord => info!("no record: nothing is to put back until an agent has applied something here"),
        Round::Blind(error) => {
            let error = error as &(dyn std::error::Error + Send + Sync);
            warn!(error, "the node cannot be looked at; trying again");
        }
        Round::Synced { .. } => print(&format!("{text}\n"))?,
    }
    *told = Some(text);
    Ok(())
}
