//! The translations that a forward asks the kernel for: one for each port entry and client, in both directions.

use ipnet::IpNet;

use super::Forward;
use crate::model::{Destination, FlowMatch, SourceNat, Translation};

/// Which side opens the flows of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The client.
    Forward,
    /// The upstream, by `reverse`.
    Reverse,
}

impl Forward {
    /// The translations of the forward, those of `reverse` last. Does not consider mode, lifecycle or other forwards.
    #[must_use]
    pub fn translations(&self) -> Vec<Translation> {
        self.towards_upstream().chain(self.towards_client()).collect()
    }

    /// The number of [`translations`](Self::translations) of `reverse`; they are the last ones.
    #[must_use]
    pub fn reversed(&self) -> usize {
        self.towards_client().count()
    }

    fn towards_upstream(&self) -> impl Iterator<Item = Translation> {
        let source = self.external.map_or(SourceNat::Masquerade, SourceNat::Address);
        self.ports.iter().flat_map(move |entry| {
            self.clients.iter().map(move |client| Translation {
                flows: FlowMatch {
                    protocol: entry.protocol,
                    destination: self.internal.address,
                    ports: entry.ports,
                    source: *client,
                    interface: self.internal.interface.clone(),
                },
                destination: Destination { address: self.upstream, ports: entry.target },
                source,
            })
        })
    }

    fn towards_client(&self) -> impl Iterator<Item = Translation> {
        let parties = self.external.zip(self.clients.first());
        parties.into_iter().flat_map(move |(external, client)| {
            self.reverse.iter().map(move |entry| Translation {
                flows: FlowMatch {
                    protocol: entry.protocol,
                    destination: external,
                    ports: entry.ports,
                    source: IpNet::from(self.upstream),
                    interface: self.external_interface.clone(),
                },
                destination: Destination { address: client.addr(), ports: entry.target },
                source: SourceNat::Address(self.internal.address),
            })
        })
    }
}
