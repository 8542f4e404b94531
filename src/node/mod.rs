//! What is known of this node's network namespace: [`Observer`] reads it, [`watch()`] tells when it may have changed,
//! [`NextHops`] has the kernel ask whether the next hops answer.
//!
//! Writes nothing, apart from the questions. Decides nothing about forwards.

mod addresses;
mod firewall;
mod links;
mod listeners;
mod next_hops;
mod routes;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::dataplane::iptables::Variant;
use crate::model::{Answers, Facts, Firewall, NextHop, Sight};
use crate::netlink::route::main_table;
use crate::netlink::{NetlinkError, Socket};

pub use next_hops::{NextHops, Patience};
pub use watch::watch;

/// What can go wrong when the facts are read.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The kernel cannot be asked.
    #[error("the {what} of this node cannot be listed")]
    Netlink {
        /// What was asked for.
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
    /// Whether the same may work in a moment.
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
    /// Who asks for the next hops; nobody, where what they answer does not matter.
    next_hops: Option<NextHops>,
    /// The variant of iptables that our rules are written by; without it, other programs' rules are not looked at.
    beside: Option<Variant>,
    firewall: Mutex<firewall::Reader>,
}

impl Observer {
    /// An observer that states `api_servers`, which the kernel does not know. Nor does it know the labels of the node: there are none.
    #[must_use]
    pub fn new(api_servers: BTreeSet<IpAddr>) -> Self {
        Self { api_servers, ..Self::default() }
    }

    /// The same, which knows what `next_hops` answer.
    #[must_use]
    pub fn asking(self, next_hops: NextHops) -> Self {
        Self { next_hops: Some(next_hops), ..self }
    }

    /// What the next hops answer, as far as is known.
    #[must_use]
    pub fn answers(&self) -> Answers {
        self.next_hops.as_ref().map_or(Answers::Assumed, NextHops::answers)
    }

    /// Has the kernel ask for `next_hops` from now on; tells whether some were new, of which more is known now.
    pub async fn want(&self, next_hops: &BTreeSet<NextHop>) -> bool {
        match &self.next_hops {
            Some(asked) => asked.want(next_hops).await,
            None => false,
        }
    }

    /// The same, which also looks at what other programs' rules do to flows that ours, written by `variant`, translate.
    #[must_use]
    pub fn beside(self, variant: Variant) -> Self {
        Self { beside: Some(variant), ..self }
    }

    /// The facts as they are now, of the network namespace of the calling thread.
    ///
    /// What the kernel tells in a form that this version does not know is left out and logged; IPv6 is left out.
    ///
    /// # Errors
    /// When a part cannot be read at all: planning on half of the facts would withdraw what works.
    pub async fn facts(&self) -> Result<Facts, FactsError> {
        let mut socket = Socket::open_route().map_err(listing("network interfaces"))?;
        let links = links::read(&mut socket).await?;
        let main = main_table(&mut socket).await.map_err(listing("routes"))?;
        let addresses = addresses::read(&mut socket, &links).await?;
        Ok(Facts {
            labels: BTreeMap::new(),
            addresses: addresses.iter().map(|address| address.local.clone()).collect(),
            local: routes::local(&mut socket, &links).await?,
            routes: routes::routes(&main, &links),
            answers: self.answers(),
            ip_forward: proc_file(Path::new("/proc/sys/net/ipv4/ip_forward"))?.trim() != "0",
            policy_routing: routes::is_chosen_by_policy(&mut socket).await?,
            firewall: self.firewall().await,
            node_addresses: addresses::sources(&main, &addresses),
            listeners: listeners::read(&links).await?,
            // What the cluster is, others say.
            services: BTreeSet::new(),
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
            Some(variant) => self.firewall.lock().await.read(variant).await,
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
