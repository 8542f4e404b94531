//! `restore`: restores what this node last applied, from its record; once, or until an agent takes over.

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
use super::options::{KernelOptions, PolicyOptions, StateOptions, believed, keeper};
use super::stop::Stop;
use super::turn::{self, Turn};
use crate::agent::{self, Fallback, Memory};
use crate::dataplane::rules::{Counting, RulesError};
use crate::dataplane::{Applied, Kernel, Look, Ownership};
use crate::node::{FactsError, NextHops, Observer, Patience, watch};
use crate::plan::Policy;
use crate::publish::table;
use crate::record::{self, Outdated, Purpose, RecordError};
use crate::supervise::Tasks;

/// The pause between two rounds without an event, as with the legacy variant.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a change waits for further changes: a link that comes up causes many.
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
        policy: options.policy.policy(),
        wake: Arc::default(),
        tasks: Tasks::default(),
        bound: None,
        outdated: None,
        fallback: None,
    };
    if options.stay { restorer.stay(&mut stop).await } else { restorer.once(&mut stop).await }
}

/// Restores the record.
struct Restorer {
    node: String,
    state_dir: PathBuf,
    options: KernelOptions,
    policy: Policy,
    /// Wakes the next round.
    wake: Arc<Notify>,
    /// The tasks that notify `wake`.
    tasks: Tasks,
    /// Reads the node and writes to it. Set once there is a record.
    bound: Option<(Observer, Kernel)>,
    /// Why nothing of the record may be restored, although no note on the disk says so.
    outdated: Option<Outdated>,
    /// Whether the record may be applied. Decided in the first round: what the kernel holds later comes from earlier rounds.
    fallback: Option<Fallback>,
}

/// The result of one round.
enum Round {
    /// Nothing was applied on this node yet.
    NoRecord,
    /// The kernel is newer than the record, so nothing is written.
    Withheld,
    /// The rules in the kernel cannot be read.
    Unread(RulesError),
    /// The facts of the node cannot be read.
    Blind(FactsError),
    /// The kernel was written: the result for each forward, and whether everything succeeded.
    Synced { table: String, outcome: anyhow::Result<()> },
}

impl Restorer {
    async fn once(mut self, stop: &mut Stop) -> anyhow::Result<Exit> {
        let _lock = match turn::wait(&self.state_dir, Purpose::Restore, stop).await? {
            Turn::Ours(lock) => lock,
            Turn::Kept(holder) => {
                info!(%holder, "an agent runs on this node already; nothing to restore");
                return Ok(Exit::Done);
            }
            Turn::Stopped => return Ok(Exit::Done),
        };
        match self.round().await? {
            Round::NoRecord => {
                info!(state = %self.state_dir.display(), "no record: nothing was applied on this node yet, so nothing is restored");
            }
            Round::Withheld => info!("the kernel keeps its rules and routes; nothing is restored"),
            Round::Unread(error) => return Err(error.into()),
            Round::Blind(error) => return Err(error.into()),
            Round::Synced { table, outcome } => {
                print(&table)?;
                outcome?;
            }
        }
        Ok(Exit::Done)
    }

    /// Holds the lock for one round at a time, so that a starting agent can take over between two rounds.
    async fn stay(mut self, stop: &mut Stop) -> anyhow::Result<Exit> {
        let wake = Arc::clone(&self.wake);
        watch(&wake, &wake, &mut self.tasks);
        let mut told = None;
        loop {
            match record::lock(&self.state_dir, Purpose::Restore) {
                Ok(_lock) => {
                    let round = self.round().await?;
                    tell(&round, &mut told)?;
                }
                Err(RecordError::Locked { holder, .. }) if turn::is_kept(Purpose::Restore, &holder) => {
                    info!(%holder, "an agent has taken over this node; waiting until stopped");
                    stop.requested().await;
                    return Ok(Exit::Done);
                }
                // Another process restores or cleans up. A cleanup also removes the record.
                Err(RecordError::Locked { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = stop.requested() => {
                    info!("restore stops; rules, routes and connections in the kernel stay");
                    return Ok(Exit::Done);
                }
                ended = self.tasks.ended() => return Err(ended.into()),
                () = async { let _ = timeout(PAUSE, wake.notified()).await; sleep(COALESCE).await } => {}
            }
        }
    }

    /// Reads the record again each time. `cleanup` may have removed it, and then nothing must be restored.
    async fn round(&mut self) -> anyhow::Result<Round> {
        let Some(mut loaded) = record::load(&self.state_dir, &self.node)? else { return Ok(Round::NoRecord) };
        let record = if self.bound.is_some() {
            loaded.outdated = self.outdated.clone().or(loaded.outdated);
            loaded.restorable()
        } else {
            let noted = loaded.outdated.clone();
            keeper(&self.state_dir, Some(&mut loaded));
            self.outdated = loaded.outdated.clone().filter(|_| loaded.outdated != noted);
            believed(&loaded)
        };
        let fallback = self.fallback.get_or_insert(Fallback::of(loaded.boot));
        let (observer, kernel) = if let Some(bound) = &mut self.bound {
            bound
        } else {
            let backend = self.options.backend().await?;
            let asked = NextHops::ask(Patience::Brief, &self.wake, &mut self.tasks);
            // So that the agent that takes over finds the counters that it may want.
            // The agent that starts later makes the table its own.
            let kernel = self.options.kernel(backend, self.policy.connmark).owned(self.options.ownership(Ownership::Unowned));
            let kernel = kernel.counting(Counting::On);
            self.bound.insert((Observer::default().beside(backend).asking(asked), kernel))
        };
        let memory = Memory::new(&self.node, Some(record)).holding(loaded.withheld());
        match fallback.allows(&memory, kernel).await {
            Ok(true) => {}
            Ok(false) => return Ok(Round::Withheld),
            Err(error) => return Ok(Round::Unread(error)),
        }
        let snapshot = memory.snapshot().unwrap_or_default();
        // Without its flag, this command does not carry what the agent refused.
        let policy = self.policy.requiring_at_least(memory.required_grants());
        Ok(match agent::sync(observer, kernel, &policy, &memory, &snapshot, Look::Everything).await {
            Ok(synced) => Round::Synced {
                table: table(&agent::objects(&self.node, &snapshot, &synced.leaving, &synced.judgements, &BTreeMap::new())),
                outcome: done(synced.applied),
            },
            Err(error) => Round::Blind(error),
        })
    }
}

/// Returns the first error if not everything was done.
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
    anyhow::ensure!(rules.is_exact(), "the rules that were read back differ from the written ones: another program changes them");
    Ok(())
}

/// Prints the result of a round if it differs from `told`.
fn tell(round: &Round, told: &mut Option<String>) -> anyhow::Result<()> {
    let text = match round {
        Round::NoRecord => String::new(),
        Round::Withheld => "withheld".to_owned(),
        Round::Unread(error) => error.to_string(),
        Round::Blind(error) => error.to_string(),
        Round::Synced { table, .. } => table.clone(),
    };
    if told.as_ref() == Some(&text) {
        return Ok(());
    }
    match round {
        Round::NoRecord => info!("no record: nothing to restore until an agent has applied something on this node"),
        // A warning says so already.
        Round::Withheld => {}
        Round::Unread(error) => {
            let error = error as &(dyn std::error::Error + Send + Sync);
            warn!(error, "the rules of this node cannot be read; trying again");
        }
        Round::Blind(error) => {
            let error = error as &(dyn std::error::Error + Send + Sync);
            warn!(error, "the facts of this node cannot be read; trying again");
        }
        Round::Synced { .. } => print(&format!("{text}\n"))?,
    }
    *told = Some(text);
    Ok(())
}
