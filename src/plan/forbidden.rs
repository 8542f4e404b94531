//! The networks that a node forbids to all forwards, in the notation of the administrator.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// The addresses of the metadata services of clouds that the checks of a single object do not refuse. They serve the
/// credentials of a machine, or its configuration. 169.254.0.0/16 is missing because no object can name it.
const METADATA: [(IpAddr, &str); 5] = [
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), "Alibaba Cloud"),
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), "Azure (WireServer)"),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)), "Oracle Cloud Classic"),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), "Amazon EC2"),
    (IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), "Google Cloud"),
];

/// The networks that no forward may have as upstream, as client or as route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForbiddenNetworks {
    words: BTreeSet<Word>,
    networks: BTreeSet<IpNet>,
}

/// A word for networks that the agent knows from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    /// The addresses in the Node objects.
    Nodes,
    /// The networks of the nodes' pods.
    Pods,
    /// The networks of Services.
    Services,
    /// The metadata services of clouds.
    Metadata,
}

impl Word {
    const ALL: [Self; 4] = [Self::Nodes, Self::Pods, Self::Services, Self::Metadata];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Metadata => "metadata",
        }
    }
}

/// A text that is not a list of forbidden networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidForbiddenNetworks {
    part: String,
    /// The network that contains it, if the part is a network with host bits.
    network: Option<IpNet>,
}

impl ForbiddenNetworks {
    /// What forwards must neither reach nor impersonate if the administrator decides nothing else: all that has a word.
    pub const DEFAULT: &str = "nodes,pods,services,metadata";

    /// Whether the list needs the Node objects of the whole cluster.
    #[must_use]
    pub fn needs_nodes(&self) -> bool {
        self.names(Word::Nodes) || self.names(Word::Pods)
    }

    /// Whether the list has this word.
    pub(super) fn names(&self, word: Word) -> bool {
        self.words.contains(&word)
    }

    /// The addresses and networks of the list itself.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.networks.iter().copied()
    }

    /// The addresses of metadata services, if the list has the word.
    pub(super) fn metadata(&self) -> impl Iterator<Item = (IpNet, &'static str)> {
        METADATA.iter().filter(|_| self.names(Word::Metadata)).map(|(address, cloud)| (IpNet::from(*address), *cloud))
    }
}

/// `nodes,pods,10.0.0.100,10.8.0.0/16`: words, addresses and networks. Empty for none.
impl FromStr for ForbiddenNetworks {
    type Err = InvalidForbiddenNetworks;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut list = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if let Some(word) = Word::ALL.into_iter().find(|word| word.as_str() == part) {
                list.words.insert(word);
            } else {
                list.networks.insert(network(part)?);
            }
        }
        Ok(list)
    }
}

fn network(part: &str) -> Result<IpNet, InvalidForbiddenNetworks> {
    let invalid = |network| InvalidForbiddenNetworks { part: part.to_owned(), network };
    if let Ok(address) = part.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet = part.parse().map_err(|_| invalid(None))?;
    if network.trunc() == network { Ok(network) } else { Err(invalid(Some(network.trunc()))) }
}

impl fmt::Display for InvalidForbiddenNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, network } = self;
        if let Some(network) = network {
            return write!(f, "{part:?} has bits set after its prefix; write {network}, or one address");
        }
        let words = Word::ALL.map(Word::as_str).join(", ");
        write!(
            f,
            "{part:?} is not a forbidden network; write an address such as 10.0.0.100, a network such as 10.8.0.0/16, or one of the words {words}"
        )
    }
}

impl std::error::Error for InvalidForbiddenNetworks {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_words_addresses_and_networks() {
        let list: ForbiddenNetworks = "nodes, services,10.0.0.100,10.8.0.0/16,fd00::/8,".parse().unwrap();
        assert!(list.needs_nodes() && list.names(Word::Services) && !list.names(Word::Pods));
        let networks: Vec<String> = list.networks().map(|network| network.to_string()).collect();
        assert_eq!(networks, ["10.0.0.100/32", "10.8.0.0/16", "fd00::/8"]);
        assert_eq!(list.metadata().count(), 0);
        assert_eq!("metadata".parse::<ForbiddenNetworks>().unwrap().metadata().count(), METADATA.len());
        assert_eq!("".parse::<ForbiddenNetworks>().unwrap(), ForbiddenNetworks::default());
        assert!(["nodes", "pods"].into_iter().all(|word| word.parse::<ForbiddenNetworks>().unwrap().needs_nodes()));
        assert!(!"services,metadata,10.0.0.0/8".parse::<ForbiddenNetworks>().unwrap().needs_nodes());
    }

    #[test]
    fn what_is_no_network_is_named_with_the_words_that_exist() {
        for part in ["node", "Nodes", "10.0.0.0/33", "010.0.0.1", "10.0.0", "example.com", "10.0.0.1;10.0.0.2", "0x0a000001"] {
            let error = format!("pods,{part}").parse::<ForbiddenNetworks>().unwrap_err().to_string();
            assert!(error.contains(&format!("{part:?}")) && error.contains("nodes, pods, services, metadata"), "{error}");
        }
        let error = "10.0.0.5/8".parse::<ForbiddenNetworks>().unwrap_err().to_string();
        assert_eq!(error, "\"10.0.0.5/8\" has bits set after its prefix; write 10.0.0.0/8, or one address");
    }
}
