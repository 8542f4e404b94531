//! The subset of flows that one chain handles, and the chain name derived from it.

use sha2::{Digest, Sha256};

use super::prefix::Prefix;
use super::stage::{Apart, Stage};
use crate::dataplane::iptables::chain::ChainName;
use crate::model::Protocol;

/// The subset of flows that one chain handles. Two chains of a table have different cells.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    name: ChainName,
    /// The number of jumps from the root to this chain.
    depth: usize,
    place: Place,
}

/// The position of a cell: the jump that leads to it, and what all its entries have in common.
#[derive(Clone, Debug)]
struct Place {
    stage: Stage,
    protocol: Option<Protocol>,
    address: Option<Prefix>,
    ports: Option<(Prefix, Covering)>,
    client: Option<(Prefix, Covering)>,
    apart: Option<Apart>,
    /// The part of a chain with too many rules, outermost first.
    parts: Vec<usize>,
}

/// Which entries of a range of ports, or of clients, a cell contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covering {
    /// All of them.
    Every,
    /// Those that no smaller range covers.
    Wide,
}

impl Cell {
    pub(super) fn root(stage: Stage) -> Self {
        let place = Place { stage, protocol: None, address: None, ports: None, client: None, apart: None, parts: Vec::new() };
        Self { name: stage.root(), depth: 0, place }
    }

    /// The name of the chain. It sorts after the name of its parent: it either begins with that name or is a hash, and
    /// hashes sort last and by depth.
    pub(super) const fn name(&self) -> &ChainName {
        &self.name
    }

    pub(super) fn protocol(&self, protocol: Protocol) -> Self {
        self.below(|place| place.protocol = Some(protocol))
    }

    pub(super) fn address(&self, address: Prefix) -> Self {
        self.below(|place| place.address = Some(address))
    }

    pub(super) fn ports(&self, ports: Prefix, covering: Covering) -> Self {
        self.below(|place| place.ports = Some((ports, covering)))
    }

    pub(super) fn client(&self, client: Prefix, covering: Covering) -> Self {
        self.below(|place| place.client = Some((client, covering)))
    }

    pub(super) fn apart(&self, apart: Apart) -> Self {
        self.below(|place| place.apart = Some(apart))
    }

    pub(super) fn part(&self, number: usize) -> Self {
        self.below(|place| place.parts.push(number))
    }

    /// The same cell, if every entry in it has this protocol.
    pub(super) fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.place.protocol = Some(protocol);
        self
    }

    /// The same cell, if every entry in it has this listen address.
    pub(super) fn with_address(mut self, address: Prefix) -> Self {
        self.place.address = Some(address);
        self
    }

    /// The same cell, if this range of ports is the smallest one that covers each entry in it.
    pub(super) fn with_ports(mut self, ports: Prefix) -> Self {
        let covering = if ports.is_full() { Covering::Every } else { Covering::Wide };
        self.place.ports = Some((ports, covering));
        self
    }

    /// Whether it contains only entries that no smaller range of ports covers.
    pub(super) fn is_wide(&self) -> bool {
        matches!(self.place.ports, Some((_, Covering::Wide)))
    }

    fn below(&self, narrow: impl FnOnce(&mut Place)) -> Self {
        let mut place = self.place.clone();
        narrow(&mut place);
        let depth = self.depth + 1;
        Self { name: place.name(depth), depth, place }
    }
}

impl Place {
    fn name(&self, depth: usize) -> ChainName {
        let path = self.path();
        format!("{}{path}", ChainName::PREFIX).parse().unwrap_or_else(|_| {
            let hash: String = Sha256::digest(path).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
            let name = format!("{}{}z{depth:02}{hash}", ChainName::PREFIX, self.stage.letter());
            name.parse().expect("PF-, two letters, two digits and twenty hexadecimal digits")
        })
    }

    /// The position as text. The text of a position inside another one begins with the text of the other one.
    fn path(&self) -> String {
        let mut path = String::from(self.stage.letter());
        path.extend(self.protocol.map(|protocol| match protocol {
            Protocol::Tcp => 't',
            Protocol::Udp => 'u',
        }));
        path.extend(self.address.map(Prefix::digits));
        for (prefix, covering) in self.ports.into_iter().chain(self.client) {
            path.push('-');
            path += &prefix.digits();
            path.extend((covering == Covering::Wide).then_some('w'));
        }
        if let Some(apart) = &self.apart {
            path = format!("{path}.{apart}");
        }
        for part in &self.parts {
            path = format!("{path}+{part:x}");
        }
        path
    }
}
