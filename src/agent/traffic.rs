//! Counts the traffic of the connections of forwards, for the metrics. Runs as a separate task, which never delays a sync.

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

/// The time between two readings of all connections, unless a reading takes more than 2 percent of it.
const LOOK: Duration = Duration::from_secs(10);
/// The same, after the set of forwards changed.
const SOON: Duration = Duration::from_millis(100);
/// How long ended connections are collected before they are counted together, and how many of them at most.
const BATCH: (Duration, usize) = (Duration::from_secs(1), 4096);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// Counts the traffic of the connections of `owners`, until the future is dropped.
pub async fn follow_traffic(metrics: Arc<Metrics>, owners: watch::Receiver<Arc<Owners>>) {
    let traffic = Traffic::default();
    let mut follower = Follower { metrics, owners, traffic, accounting: Accounting::Off, ended: Vec::new() };
    let mut told = None;
    loop {
        let Err(error) = follower.follow().await;
        let text = error.to_string();
        if told.as_ref() != Some(&text) {
            warn!(%error, cause = error.source_text(), "packets and bytes of forwards are not counted; the agent tries again");
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
    /// Connections that ended and are not counted yet.
    ended: Vec<Flow>,
}

impl Follower {
    /// Counts until an error occurs.
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

    /// Reads all connections, and then all notifications about connections that ended before the end of the reading.
    async fn look(&mut self, flows: &mut Flows) -> Result<(), ConntrackError> {
        let owners = Arc::clone(&self.owners.borrow_and_update());
        if owners.is_empty() {
            self.tell();
            return Ok(());
        }
        let finder = Finder::new(&owners);
        flows.look(|flow| self.traffic.seen(&flow, &finder)).await?;
        // The kernel sends the notification before it removes the connection. So a notification exists for each connection
        // that is missing in the list.
        while let Some(heard) = flows.ended_by_now()? {
            self.hear(heard);
        }
        self.settle(&owners);
        self.traffic.looked(Arc::clone(&owners));
        Ok(())
    }

    /// Receives ended connections until the next reading is due. `begun` and `took` are the start and the duration of the last
    /// reading. When the owners change, the next reading is due sooner, because the traffic that a connection had before its
    /// forward became the owner is known only after a reading.
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

    /// Counts the ended connections.
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
