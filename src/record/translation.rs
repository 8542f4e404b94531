//! A translation on disk: addresses and ranges are text, and the types of the model parse them when they are read.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use crate::model::{
    Destination, Family, FlowMatch, InterfaceName, PortRange, Protocol, Shift, SourceNat, TargetPorts, Translation,
};

/// A [`Translation`] as it is written to the record. The fields are in the order of their names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    address: IpAddr,
    /// If absent: masquerade.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_address: Option<IpAddr>,
    client: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    ports: AsText<PortRange>,
    protocol: AsText<Protocol>,
    to_address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_port: Option<u16>,
    /// The target ports of a shifted range; `toPort` is absent then.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_ports: Option<AsText<PortRange>>,
}

/// The same as it is read from the record: nothing of it is checked yet.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Written {
    address: String,
    as_address: Option<String>,
    client: String,
    interface: Option<String>,
    ports: String,
    protocol: String,
    to_address: String,
    to_port: Option<u16>,
    to_ports: Option<String>,
}

impl<'a> From<&'a Translation> for Line<'a> {
    fn from(translation: &'a Translation) -> Self {
        let Translation { flows, destination, source } = translation;
        let (to_port, to_ports) = match destination.ports {
            TargetPorts::Same => (None, None),
            TargetPorts::One(port) => (Some(port), None),
            TargetPorts::Shifted(shift) => (None, Some(AsText(shift.to()))),
        };
        Self {
            protocol: AsText(flows.protocol),
            address: flows.destination,
            ports: AsText(flows.ports),
            client: flows.source,
            interface: flows.interface.as_ref().map(InterfaceName::as_str),
            to_address: destination.address,
            to_port,
            to_ports,
            as_address: match source {
                SourceNat::Address(address) => Some(*address),
                SourceNat::Masquerade => None,
            },
        }
    }
}

/// A value that is written as its text.
#[derive(Debug)]
struct AsText<T>(T);

impl<T: Display> Serialize for AsText<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Written {
    /// The translation, if every part of it is valid and this program could have written it.
    pub(super) fn parse(&self) -> Result<Translation, String> {
        let ports: PortRange = self.ports.parse().map_err(|_| wrong("ports", &self.ports))?;
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == self.protocol);
        Ok(Translation {
            flows: FlowMatch {
                protocol: protocol.ok_or_else(|| wrong("protocol", &self.protocol))?,
                destination: address("address", &self.address)?,
                ports,
                source: network("client", &self.client)?,
                interface: self.interface.as_ref().map(|name| name.parse().map_err(|_| wrong("interface", name))).transpose()?,
            },
            destination: Destination { address: address("toAddress", &self.to_address)?, ports: self.target(ports)? },
            source: match &self.as_address {
                Some(text) => SourceNat::Address(address("asAddress", text)?),
                None => SourceNat::Masquerade,
            },
        })
    }
}

impl Written {
    fn target(&self, ports: PortRange) -> Result<TargetPorts, String> {
        match (self.to_port, &self.to_ports) {
            (None, None) => Ok(TargetPorts::Same),
            (Some(0), _) => Err(wrong("toPort", "0")),
            (Some(port), None) => Ok(TargetPorts::One(port)),
            (None, Some(text)) => {
                let shift = text.parse().ok().and_then(|to| Shift::new(ports, to).ok());
                shift.map(TargetPorts::Shifted).ok_or_else(|| wrong("toPorts", text))
            }
            (Some(_), Some(text)) => Err(wrong("toPorts", text)),
        }
    }
}

/// A unicast address of a family that forwards support.
fn address(field: &str, text: &str) -> Result<IpAddr, String> {
    let parsed: IpAddr = text.parse().map_err(|_| wrong(field, text))?;
    let broadcast = matches!(parsed, IpAddr::V4(address) if address.is_broadcast());
    if Family::of(parsed).is_none() || parsed.is_unspecified() || parsed.is_multicast() || broadcast {
        return Err(wrong(field, text));
    }
    Ok(parsed)
}

/// A network without host bits.
fn network(field: &str, text: &str) -> Result<IpNet, String> {
    let parsed: IpNet = text.parse().map_err(|_| wrong(field, text))?;
    if Family::of(parsed.addr()).is_none() || parsed != parsed.trunc() {
        return Err(wrong(field, text));
    }
    Ok(parsed)
}

fn wrong(field: &str, text: &str) -> String {
    format!("{field}: \"{}\" is not valid", text.chars().take(64).collect::<String>().escape_debug())
}
