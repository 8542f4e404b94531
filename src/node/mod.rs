//! The facts of this node's network namespace: [`Observer`] reads them, [`watch()`] reports when they may have changed,
//! [`NextHops`] makes the kernel check whether the next hops answer.
//!
//! Writes nothing, except the requests for next hops. Decides nothing about forwards.

mod addresses;
mod firewall;
mod links;
mod listeners;
mod next_hops;
mod routes;
mod rules;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use crate::dataplane::Backend;
use crate::model::{Answers, Facts, Firewall, NextHop, Sight};
use crate::netlink::route::main_table;
use crate::netlink::{NetlinkError, Socket};

pub use next_hops::{NextHops, Patience};
pub use watch::watch;

/// Why the facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The communication with the kernel failed.
    #[error("the {what} of this node cannot be listed")]
    Netlink {
        /// What was requested.
        what: &'static str,
        /// Why.
        source: NetlinkError,
    },
    /// A file below `/proc` cannot be read.
    #[error("{} cannot be read; is /proc mounted?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FactsError {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Netlink { source, .. } => source.is_transient(),
            Self::Read { .. } => false,
        }
    }
}

/// Reads the facts of this node.
#[derive(Debug, Default)]
pub struct Observer {
    api_servers: BTreeSet<IpAddr>,
    /// The checks of the next hops; `None` if their answers are not needed.
    next_hops: Option<NextHops>,
    /// What holds the operator's rules. Without it, the rules of other programs are not read.
    beside: Option<Backend>,
    firewall: Mutex<firewall::Reader>,
    reached: Mutex<addresses::Reached>,
}

impl Observer {
    /// An observer with these `api_servers`, which cannot be read from the kernel. The labels of the node are not known
    /// either, and stay empty.
    #[must_use]
    pub fn new(api_servers: BTreeSet<IpAddr>) -> Self {
        Self { api_servers, ..Self::default() }
    }

    /// Adds the answers of `next_hops`.
    #[must_use]
    pub fn asking(self, next_hops: NextHops) -> Self {
        Self { next_hops: Some(next_hops), ..self }
    }

    /// The answers of the next hops, as far as they are known.
    #[must_use]
    pub fn answers(&self) -> Answers {
        self.next_hops.as_ref().map_or(Answers::Assumed, NextHops::answers)
    }

    /// Makes the kernel check `next_hops` from now on. Returns whether some were new, so that more is known now.
    pub async fn want(&self, next_hops: &BTreeSet<NextHop>) -> bool {
        match &self.next_hops {
            Some(asked) => asked.want(next_hops).await,
            None => false,
        }
    }

    /// Adds the rules of other programs, as they affect flows that the operator's rules in `backend` translate.
    #[must_use]
    pub fn beside(self, backend: Backend) -> Self {
        Self { beside: Some(backend), ..self }
    }

    /// The current facts of the network namespace of the calling thread.
    ///
    /// Data in a form that this version cannot decode is left out and logged; IPv6 is left out.
    ///
    /// # Errors
    /// When a part cannot be read at all: a plan from incomplete facts would remove forwards that work.
    pub async fn facts(&self) -> Result<Facts, FactsError> {
        let mut socket = Socket::open_route().map_err(listing("network interfaces"))?;
        let links = links::read(&mut socket).await?;
        let main = main_table(&mut socket).await.map_err(listing("routes"))?;
        let addresses = addresses::read(&mut socket, &links).await?;
        let node_addresses = self.reached.lock().await.by(&addresses::sources(&main, &addresses), Instant::now());
        let every = addresses.iter().map(|address| address.local.address).filter(|_| node_addresses.is_empty()).collect();
        Ok(Facts {
            labels: BTreeMap::new(),
            addresses: addresses.iter().map(|address| address.local.clone()).collect(),
            local: Some(routes::local(&mut socket, &links).await?),
            routes: routes::routes(&main, &links),
            answers: self.answers(),
            ip_forward: proc_file(Path::new("/proc/sys/net/ipv4/ip_forward"))?.trim() != "0",
            routing: rules::read(&mut socket, &links).await?,
            firewall: self.firewall().await,
            node_addresses,
            maybe_node_addresses: every,
            listeners: listeners::read(&links).await?,
            // What the cluster is, others say.
            services: BTreeSet::new(),
            nodes: Arc::default(),
            api_servers: self.api_servers.clone(),
            sight: Sight::Whole,
            virtuals: links.virtuals(),
            links: links.into_named(),
        })
    }
}

impl Observer {
    async fn firewall(&self) -> Arc<Firewall> {
        match self.beside {
            Some(backend) => self.firewall.lock().await.read(backend).await,
            None => Arc::default(),
        }
    }
}

fn listing(what: &'static str) -> impl Fn(NetlinkError) -> FactsError {
    move |source| FactsError::Netlink { what, source }
}

fn proc_file(path: &Path) -> Result<String, FactsError> {
    std::fs::read_to_string(path).map_err(|source| FactsError::Read { path: path.to_owned(), source })
}
