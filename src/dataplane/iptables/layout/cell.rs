//! The part of all flows that one chain answers for, and the name that follows from it.

use sha2::{Digest, Sha256};

use super::prefix::Prefix;
use super::stage::{Apart, Stage};
use crate::dataplane::iptables::chain::ChainName;
use crate::model::Protocol;

/// The part of all flows that one chain answers for. Two chains of a table have two cells.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    name: ChainName,
    /// How many jumps lead here from the root.
    depth: usize,
    place: Place,
}

/// Where a cell lies, as far as it is known: the jump that leads to it and what all its entries share.
#[derive(Clone, Debug)]
struct Place {
    stage: Stage,
    protocol: Option<Protocol>,
    address: Option<Prefix>,
    ports: Option<(Prefix, Covering)>,
    client: Option<(Prefix, Covering)>,
    apart: Option<Apart>,
    /// Which part of a chain that holds too much, outermost first.
    parts: Vec<usize>,
}

/// Which entries of a run of ports, or of clients, a cell is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covering {
    /// All of them.
    Every,
    /// Those that no smaller run covers.
    Wide,
}

impl Cell {
    pub(super) fn root(stage: Stage) -> Self {
        let place = Place { stage, protocol: None, address: None, ports: None, client: None, apart: None, parts: Vec::new() };
        Self { name: stage.root(), depth: 0, place }
    }

    /// The chain's name. It sorts behind its parent's: it begins with it, or is a hash, and those sort last and by depth.
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

    /// The same cell, now that every entry in it is known to have this protocol.
    pub(super) fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.place.protocol = Some(protocol);
        self
    }

    /// The same cell, now that every entry in it is known to have this listen address.
    pub(super) fn with_address(mut self, address: Prefix) -> Self {
        self.place.address = Some(address);
        self
    }

    /// The same cell, now that this run of ports is known to be the smallest that covers each entry in it.
    pub(super) fn with_ports(mut self, ports: Prefix) -> Self {
        let covering = if ports.is_full() { Covering::Every } else { Covering::Wide };
        self.place.ports = Some((ports, covering));
        self
    }

    /// Whether only entries are left here that no smaller run of ports covers.
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
            format!("{}z{depth:02}{hash}", ChainName::PREFIX).parse().expect("PF-z, two digits and twenty hexadecimal digits")
        })
    }

    /// The place as text: of a place inside another it begins with the other's.
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
