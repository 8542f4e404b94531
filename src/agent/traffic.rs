//! Follows what the connections of forwards carry, for the metrics. A task of its own, which delays no kernel.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::SourceText;
use crate::dataplane::conntrack::ConntrackError;
use crate::dataplane::conntrack::flows::{Accounting, Flow, Flows, Heard, accounting};
use crate::metrics::{Finder, Metrics, Owners, Traffic};

/// How often all connections are looked at, unless a look takes more than a fiftieth of that.
const LOOK: Duration = Duration::from_secs(10);
/// The same, once a forward came or went.
const SOON: Duration = Duration::from_millis(100);
/// How long connections that ended wait to be counted together, and how many of them at most.
const BATCH: (Duration, usize) = (Duration::from_secs(1), 4096);
/// How soon is tried again what failed.
const RETRY: Duration = Duration::from_secs(10);

/// Counts what the connections of `owners` carry, for as long as it runs.
pub async fn follow_traffic(metrics: Arc<Metrics>, owners: watch::Receiver<Arc<Owners>>) {
    let traffic = Traffic::default();
    let mut follower = Follower { metrics, owners, traffic, accounting: Accounting::Off, ended: Vec::new() };
    let mut told = None;
    loop {
        let Err(error) = follower.follow().await;
        let text = error.to_string();
        if told.as_ref() != Some(&text) {
            warn!(%error, cause = error.source_text(), "packets and bytes of forwards are not counted; trying again");
            told = Some(text);
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Follower {
    metrics: Arc<Metrics>,
    owners: watch::Receiver<Arc<Owners>>,
    traffic: Traffic,
    accounting: Accounting,
    /// What ended and is not counted yet.
    ended: Vec<Flow>,
}

impl Follower {
    /// Counts until something fails.
    async fn follow(&mut self) -> Result<Infallible, ConntrackError> {
        let mut flows = Flows::open()?;
        loop {
            let begun = Instant::now();
            self.accounting = accounting();
            match self.accounting {
                Accounting::On => self.look(&mut flows).await?,
                Accounting::Off => self.tell(),
            }
            self.listen(&mut flows, begun, begun.elapsed()).await?;
        }
    }

    /// Looks at every connection, then takes in those that have ended by then.
    async fn look(&mut self, flows: &mut Flows) -> Result<(), ConntrackError> {
        let owners = Arc::clone(&self.owners.borrow_and_update());
        if owners.is_empty() {
            self.tell();
            return Ok(());
        }
        let finder = Finder::new(&owners);
        flows.look(|flow| self.traffic.seen(&flow, &finder)).await?;
        // The kernel tells of an end before it takes the connection out: what the list lacks, it has told by now.
        while let Some(heard) = flows.ended_by_now()? {
            self.hear(heard);
        }
        self.settle(&owners);
        self.traffic.looked(Arc::clone(&owners));
        Ok(())
    }

    /// Listens to what ends until the next look is due, after one that began at `begun` and took so long. That is sooner where
    /// the owners change: what a connection carried before it was a forward's is known only then.
    async fn listen(&mut self, flows: &mut Flows, begun: Instant, took: Duration) -> Result<(), ConntrackError> {
        let owners = Arc::clone(&self.owners.borrow());
        let (patience, most) = BATCH;
        let mut until = begun + LOOK.max(took * 50);
        let mut due: Option<Instant> = None;
        while Instant::now() < until {
            tokio::select! {
                heard = flows.ended() => {
                    self.hear(heard?);
                    while self.ended.len() < most && let Some(heard) = flows.ended_by_now()? {
                        self.hear(heard);
                    }
                    due.get_or_insert_with(|| Instant::now() + patience);
                }
                () = tokio::time::sleep_until(due.map_or(until, |due| due.min(until))) => {}
                changed = self.owners.changed() => match changed {
                    Ok(()) => until = until.min(begun + SOON.max(took * 20)),
                    Err(_) => std::future::pending().await,
                },
            }
            if self.ended.len() >= most || due.is_some_and(|due| due <= Instant::now()) {
                self.settle(&owners);
                due = None;
            }
        }
        self.settle(&owners);
        Ok(())
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Ended(flows) => self.ended.extend(flows),
            Heard::TooMuch => self.metrics.unheard(),
        }
    }

    /// Counts what has ended.
    fn settle(&mut self, owners: &Owners) {
        if !self.ended.is_empty() {
            let finder = Finder::new(owners);
            self.ended.drain(..).for_each(|flow| self.traffic.ended(&flow, &finder));
        }
        self.tell();
    }

    fn tell(&mut self) {
        let more = self.traffic.more();
        self.metrics.carried(self.accounting, more.iter().map(|(lane, volumes)| (lane.as_ref(), *volumes)));
    }
}
