//! The network interfaces: index, state, source validation, forwarding, master (rtnetlink(7), ip-sysctl).

use std::collections::BTreeMap;
use std::path::Path;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use tracing::debug;

use super::{FactsError, listing, proc_file};
use crate::model::{InterfaceName, Link, RpFilter};
use crate::netlink::Socket;

/// Asks the kernel to leave the counters out (`RTEXT_FILTER_SKIP_STATS`, include/uapi/linux/rtnetlink.h).
pub(super) const WITHOUT_STATS: netlink_packet_route::link::LinkExtentMask =
    netlink_packet_route::link::LinkExtentMask::SkipStats;

/// The interfaces whose names an object can write, by index.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<u32, (InterfaceName, Link)>);

impl Links {
    /// The name of the interface `index`, where it is one that an object can write.
    pub(super) fn name(&self, index: u32) -> Option<&InterfaceName> {
        self.0.get(&index).map(|(name, _)| name)
    }

    pub(super) fn into_named(self) -> BTreeMap<InterfaceName, Link> {
        self.0.into_values().collect()
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
    for (name, index, up, master) in links {
        match source_validation(name.as_str()).and_then(|own| Ok((own, forwarding(name.as_str())?))) {
            Ok((own, forwarding)) => {
                let rp_filter = rp_filter(everywhere.max(own));
                found.0.insert(index, (name, Link { index, up, rp_filter, forwarding, master }));
            }
            // It went away, or IPv4 is not set up on it: no flow of ours can use it.
            Err(error) => debug!(%name, %error, "left out an interface"),
        }
    }
    Ok(found)
}

fn named(message: &LinkMessage) -> Option<(InterfaceName, u32, bool, Option<u32>)> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    let Ok(parsed) = name.parse() else {
        debug!(name, "left out an interface that no object can name");
        return None;
    };
    let master = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    Some((parsed, message.header.index, up, master.filter(|&index| index != 0)))
}

fn source_validation(folder: &str) -> Result<u8, FactsError> {
    let text = proc_file(&Path::new("/proc/sys/net/ipv4/conf").join(folder).join("rp_filter"))?;
    Ok(text.trim().parse().unwrap_or(0))
}

fn forwarding(folder: &str) -> Result<bool, FactsError> {
    Ok(proc_file(&Path::new("/proc/sys/net/ipv4/conf").join(folder).join("forwarding"))?.trim() != "0")
}

/// What the kernel makes of a value: everything above 1 is loose (`__fib_validate_source`, `net/ipv4/fib_frontend.c`).
fn rp_filter(value: u8) -> RpFilter {
    match value {
        0 => RpFilter::Off,
        1 => RpFilter::Strict,
        2.. => RpFilter::Loose,
    }
}
