//! Makes the kernel resolve the next hops that forwards depend on, and records which of them answer.
//!
//! The kernel resolves a neighbour only when it has a packet for it, and soon removes the result. So a task sends requests
//! at regular intervals: one request for each next hop, for any number of forwards. If the task fails it subscribes again,
//! and the known answers are kept. Decides nothing about forwards.

mod kernel;
mod neighbour;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rustix::io::Errno;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;

use crate::model::{Answer, Answers, InterfaceName, NextHop};
use crate::netlink::{NetlinkError, Socket, frames};
use crate::supervise::Tasks;
use kernel::{Event, Place, Port};
use neighbour::{Neighbour, Occasion};

/// The interval between the requests for a next hop. The kernel gives up on an unanswered request after three seconds.
const TURN: Duration = Duration::from_secs(5);
/// The minimum time between two rounds: a link that comes up causes many events.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long an event waits for others.
const COALESCE: Duration = Duration::from_millis(20);
/// The pause after the socket failed.
const BACKOFF: Duration = Duration::from_secs(5);
/// The size of the kernel's buffer for events that were not read yet, in bytes.
const BACKLOG: usize = 1024 * 1024;

/// How long to wait for the first answer of a new next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as a working next hop needs. Callers that look again later get the other answers then.
    Brief,
    /// Until the kernel gives up. For callers that look only once.
    Exhaustive,
}

impl Patience {
    const fn limit(self) -> Duration {
        match self {
            Self::Brief => Duration::from_millis(250),
            Self::Exhaustive => Duration::from_secs(4),
        }
    }
}

/// The monitored next hops, and their answers.
#[derive(Debug)]
pub struct NextHops {
    wanted: watch::Sender<BTreeSet<NextHop>>,
    answers: watch::Receiver<BTreeMap<NextHop, Answer>>,
    patience: Patience,
}

impl NextHops {
    /// Starts to monitor, in the network namespace of the calling thread. Notifies `wake` when an answer changes.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn ask(patience: Patience, wake: &Arc<Notify>, tasks: &mut Tasks) -> Self {
        let (wanted, newest) = watch::channel(BTreeSet::new());
        let (told, answers) = watch::channel(BTreeMap::new());
        let asker = Asker { wanted: newest, told, wake: Arc::clone(wake), neighbours: BTreeMap::new() };
        let first = Sockets::open();
        tasks.spawn("asking for next hops", asker.run(first));
        Self { wanted, answers, patience }
    }

    /// The current answers.
    #[must_use]
    pub fn answers(&self) -> Answers {
        Answers::Asked(self.answers.borrow().clone())
    }

    /// Monitors `next_hops` from now on, and no others. Waits for the first answers of new ones, as long as the patience
    /// allows. Returns whether there were new ones.
    pub async fn want(&self, next_hops: &BTreeSet<NextHop>) -> bool {
        let known = next_hops.iter().all(|next_hop| self.answers.borrow().contains_key(next_hop));
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != *next_hops;
            if differs {
                wanted.clone_from(next_hops);
            }
            differs
        });
        if known {
            return false;
        }
        let mut answers = self.answers.clone();
        let is_known = |answer: Option<&Answer>| answer.is_some_and(|answer| *answer != Answer::Awaited);
        let all = |answers: &BTreeMap<NextHop, Answer>| next_hops.iter().all(|next_hop| is_known(answers.get(next_hop)));
        // A next hop without an answer by then is `Awaited`.
        let _ = timeout(self.patience.limit(), answers.wait_for(all)).await;
        true
    }
}

/// One socket for requests and one for events.
struct Sockets {
    questions: Socket,
    events: Socket,
}

impl Sockets {
    fn open() -> Result<Self, NetlinkError> {
        let events = Socket::open_route()?;
        events.keep(BACKLOG)?;
        events.join(&[MulticastGroup::Neigh as u32, MulticastGroup::Link as u32])?;
        Ok(Self { questions: Socket::open_route()?, events })
    }
}

/// The state of the task.
struct Asker {
    wanted: watch::Receiver<BTreeSet<NextHop>>,
    told: watch::Sender<BTreeMap<NextHop, Answer>>,
    wake: Arc<Notify>,
    /// Each next hop with the last index of its interface.
    neighbours: BTreeMap<NextHop, (u32, Neighbour)>,
}

/// The event that ends the wait between two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Woken {
    /// The wanted set changed, or a neighbour answered or failed.
    Event,
    /// A link changed; its neighbours may be able to answer now.
    Link,
    /// The interval is over.
    Turn,
}

impl Asker {
    async fn run(mut self, first: Result<Sockets, NetlinkError>) {
        let (mut attempt, mut reported) = (first, false);
        loop {
            let begun = Instant::now();
            let error = match attempt {
                Ok(mut sockets) => match self.follow(&mut sockets).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                Err(error) => error,
            };
            reported &= begun.elapsed() < BACKOFF * 2;
            if !reported {
                let error = &error as &(dyn std::error::Error + Send + Sync);
                warn!(error, "cannot ask for the next hops; trying again");
                reported = true;
            }
            sleep(BACKOFF).await;
            attempt = Sockets::open();
        }
    }

    /// Sends requests and listens until a socket fails.
    async fn follow(&mut self, sockets: &mut Sockets) -> Result<Infallible, NetlinkError> {
        let (mut occasion, mut last) = (Occasion::Turn, Instant::now());
        let mut next = last + TURN;
        loop {
            self.look(&mut sockets.questions, occasion).await?;
            if occasion == Occasion::Turn {
                last = Instant::now();
                next = last + TURN;
            }
            occasion = match self.woken(&mut sockets.events, next).await? {
                Woken::Turn => Occasion::Turn,
                Woken::Event => Occasion::Event,
                Woken::Link => {
                    next = next.min(last + SHORTEST).max(Instant::now());
                    Occasion::Event
                }
            };
        }
    }

    async fn woken(&mut self, events: &mut Socket, next: Instant) -> Result<Woken, NetlinkError> {
        loop {
            tokio::select! {
                // An error means that all senders are gone, so nothing can change.
                Ok(()) = self.wanted.changed() => return Ok(Woken::Event),
                () = sleep_until(next) => return Ok(Woken::Turn),
                heard = events.receive() => {
                    let Some(woken) = self.heard(events, heard)? else { continue };
                    sleep(COALESCE).await;
                    return self.drained(events, woken);
                }
            }
        }
    }

    /// Reads the events that came in the meantime.
    fn drained(&mut self, events: &mut Socket, mut woken: Woken) -> Result<Woken, NetlinkError> {
        loop {
            let received = events.receive_now();
            if received.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                return Ok(woken);
            }
            woken = woken.max(self.heard(events, received)?.unwrap_or(woken));
        }
    }

    /// Reads one datagram. Returns whether a round is needed.
    fn heard(&mut self, events: &Socket, received: std::io::Result<()>) -> Result<Option<Woken>, NetlinkError> {
        match received {
            Ok(()) => {}
            // There were more events than fit into the buffer, so everything is checked.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => return Ok(Some(Woken::Link)),
            Err(error) => return Err(error.into()),
        }
        let mut woken = None;
        for event in frames(events.received()).filter_map(|frame| kernel::event(&frame.ok()?)) {
            match event {
                Event::Link => woken = Some(Woken::Link),
                Event::Neighbour(place, state) => {
                    let heeded = self.at(place).filter_map(|neighbour| neighbour.hear(state)).count();
                    woken = woken.or((heeded > 0).then_some(Woken::Event));
                }
            }
        }
        Ok(woken)
    }

    fn at(&mut self, (index, address): Place) -> impl Iterator<Item = &mut Neighbour> {
        let here = move |next_hop: &NextHop, at: u32| at == index && next_hop.address == address;
        self.neighbours.iter_mut().filter(move |(next_hop, (at, _))| here(next_hop, *at)).map(|(_, (_, neighbour))| neighbour)
    }

    /// Checks every next hop, sends the requests that are due, and publishes changes.
    async fn look(&mut self, socket: &mut Socket, occasion: Occasion) -> Result<(), NetlinkError> {
        let wanted = self.wanted.borrow_and_update().clone();
        self.neighbours.retain(|next_hop, _| wanted.contains(next_hop));
        if !wanted.is_empty() {
            self.place(&wanted, &kernel::ports(socket).await?);
            let of = |(next_hop, (index, _)): (&NextHop, &(u32, Neighbour))| (*index, next_hop.address);
            let places: BTreeSet<Place> = self.neighbours.iter().map(of).collect();
            let entries = kernel::entries(socket, |place| places.contains(place)).await?;
            let mut asks = Vec::new();
            for (next_hop, (index, neighbour)) in &mut self.neighbours {
                let place = (*index, next_hop.address);
                asks.extend(neighbour.look(entries.get(&place), occasion).map(|ask| (place, ask)));
            }
            kernel::ask(socket, asks).await?;
        }
        self.tell(&wanted);
        Ok(())
    }

    /// Finds the interfaces of the wanted next hops. An interface that was created again has new neighbours.
    fn place(&mut self, wanted: &BTreeSet<NextHop>, ports: &BTreeMap<InterfaceName, Port>) {
        for next_hop in wanted {
            match ports.get(&next_hop.interface) {
                None => {
                    self.neighbours.remove(next_hop);
                }
                Some(port) => {
                    let (index, neighbour) =
                        self.neighbours.entry(next_hop.clone()).or_insert((port.index, Neighbour::new(port.resolution)));
                    if *index != port.index || neighbour.resolution != port.resolution {
                        (*index, *neighbour) = (port.index, Neighbour::new(port.resolution));
                    }
                }
            }
        }
    }

    fn tell(&self, wanted: &BTreeSet<NextHop>) {
        let answer =
            |next_hop: &NextHop| self.neighbours.get(next_hop).map_or(Answer::Awaited, |(_, neighbour)| neighbour.answer);
        let answers: BTreeMap<NextHop, Answer> = wanted.iter().map(|next_hop| (next_hop.clone(), answer(next_hop))).collect();
        let changed = self.told.send_if_modified(|told| {
            let differs = *told != answers;
            if differs {
                *told = answers;
            }
            differs
        });
        if changed {
            self.wake.notify_one();
        }
    }
}
