//! The network interfaces: index, state, source validation, forwarding, master (rtnetlink(7), ip-sysctl).

use std::collections::BTreeMap;
use std::path::Path;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use tracing::debug;

use super::{FactsError, listing, proc_file};
use crate::model::{InterfaceName, Link, RpFilter, Virtual};
use crate::netlink::Socket;

/// Asks the kernel to omit the counters (`RTEXT_FILTER_SKIP_STATS`, include/uapi/linux/rtnetlink.h).
pub(super) const WITHOUT_STATS: netlink_packet_route::link::LinkExtentMask =
    netlink_packet_route::link::LinkExtentMask::SkipStats;

/// The interfaces whose names an object can contain, by index.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<u32, (InterfaceName, Link, Wire)>);

/// The relation of an interface to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// It is a link of its own, as far as is known.
    Own,
    /// It is on the link with this index.
    Of(u32),
    /// It is on no link.
    Nothing,
}

/// The fields of an interface from netlink.
struct Named {
    name: InterfaceName,
    index: u32,
    up: bool,
    master: Option<u32>,
    wire: Wire,
}

impl Links {
    /// The name of the interface `index`, if an object can contain it.
    pub(super) fn name(&self, index: u32) -> Option<&InterfaceName> {
        self.0.get(&index).map(|(name, ..)| name)
    }

    pub(super) fn into_named(self) -> BTreeMap<InterfaceName, Link> {
        self.0.into_values().map(|(name, link, _)| (name, link)).collect()
    }

    /// The virtual interfaces.
    pub(super) fn virtuals(&self) -> BTreeMap<InterfaceName, Virtual> {
        let kind = |wire| match wire {
            Wire::Own => None,
            Wire::Of(index) => self.name(index).copied().map(Virtual::OnWireOf),
            Wire::Nothing => Some(Virtual::Dummy),
        };
        self.0.values().filter_map(|(name, _, wire)| Some((*name, kind(*wire)?))).collect()
    }
}

pub(super) async fn read(socket: &mut Socket) -> Result<Links, FactsError> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![WITHOUT_STATS]));
    let links = socket
        .dump(RouteNetlinkMessage::GetLink(request), |message| match message {
            RouteNetlinkMessage::NewLink(link) => named(&link),
            _ => None,
        })
        .await
        .map_err(listing("network interfaces"))?;
    let everywhere = source_validation("all")?;
    let mut found = Links::default();
    for Named { name, index, up, master, wire } in links {
        match source_validation(name.as_str()).and_then(|own| Ok((own, forwarding(name.as_str())?))) {
            Ok((own, forwarding)) => {
                let rp_filter = rp_filter(everywhere.max(own));
                found.0.insert(index, (name, Link { index, up, rp_filter, forwarding, master }, wire));
            }
            // It was deleted, or IPv4 is not set up on it: no flow of a forward can use it.
            Err(error) => debug!(%name, %error, "left out an interface"),
        }
    }
    Ok(found)
}

fn named(message: &LinkMessage) -> Option<Named> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    let Ok(name) = name.parse::<InterfaceName>().inspect_err(|_| debug!(name, "left out an interface that no object can name"))
    else {
        return None;
    };
    let master = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    let master = master.filter(|&index| index != 0);
    Some(Named { name, index: message.header.index, up, master, wire: wire(&message.attributes) })
}

fn wire(attributes: &[LinkAttribute]) -> Wire {
    let kind = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    });
    let lower = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    // The parent link of a container's macvlan is in another namespace, where the index means another interface.
    let elsewhere = attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)));
    match (kind, lower) {
        (Some(InfoKind::MacVlan | InfoKind::IpVlan), Some(index)) if !elsewhere => Wire::Of(index),
        (Some(InfoKind::Dummy), _) => Wire::Nothing,
        (_, _) => Wire::Own,
    }
}

fn source_validation(folder: &str) -> Result<u8, FactsError> {
    let text = proc_file(&Path::new("/proc/sys/net/ipv4/conf").join(folder).join("rp_filter"))?;
    Ok(text.trim().parse().unwrap_or(0))
}

fn forwarding(folder: &str) -> Result<bool, FactsError> {
    Ok(proc_file(&Path::new("/proc/sys/net/ipv4/conf").join(folder).join("forwarding"))?.trim() != "0")
}

/// The kernel treats every value above 1 as loose (`__fib_validate_source`, `net/ipv4/fib_frontend.c`).
fn rp_filter(value: u8) -> RpFilter {
    match value {
        0 => RpFilter::Off,
        1 => RpFilter::Strict,
        2.. => RpFilter::Loose,
    }
}
