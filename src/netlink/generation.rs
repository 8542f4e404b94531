//! The generation of the ruleset of `nf_tables`, which changes with every write of any program
//! (`include/uapi/linux/netfilter/nf_tables.h`).

use netlink_packet_netfilter::nftables::{GenAttribute, GenMessage, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::io::Errno;

use super::{NetlinkError, Socket};

/// Asks for the generation in the network namespace of `socket`, a socket of netfilter; `None` if the kernel has no `nf_tables`.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) async fn generation(socket: &mut Socket) -> Result<Option<u32>, NetlinkError> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NetfilterMessage::new(header, NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() }));
    let id = |message: NetfilterMessage| match message.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(found)) => {
            found.attributes.into_iter().find_map(|attribute| if let GenAttribute::Id(id) = attribute { Some(id) } else { None })
        }
        _ => None,
    };
    match socket.ask(request, id).await {
        Err(NetlinkError::Refused(refusal)) if matches!(refusal.errno, Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
        asked => Ok(asked?.pop()),
    }
}
