//! The netlink messages that read, create and remove tables and built-in chains
//! (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Decides nothing: the caller gives the changes.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_NONREC};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, InetHookNumber, NfTablesMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::io::Errno;

use super::{HeldChain, HeldTable, Step};
use crate::dataplane::iptables::layout::{Stage, Table};
use crate::netlink::{Change, NetlinkError, Refusal, Socket, generation};

/// The mark of the operator, in the user data of a table or chain: a type, a length and a name. The types that nft uses are
/// small numbers (libnftnl, `include/libnftnl/udata.h`). nft ignores other types, does not show them and does not save them
/// in a ruleset. So a table that is restored from a file does not have the mark.
const MARK: &[u8] = b"\x9a\x0fportforward.dev";
/// The netfilter subsystem id of `nf_tables` (`NFNL_SUBSYS_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`).
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// The messages around a transaction, and the attribute with the generation of the rules that it was planned for.
const NFNL_MSG_BATCH_BEGIN: u8 = 16;
const NFNL_MSG_BATCH_END: u8 = 17;
const NFNL_BATCH_GENID: u16 = 1;
/// The accept policy (`NF_ACCEPT`, `include/uapi/linux/netfilter.h`).
const NF_ACCEPT: u32 = 1;

/// A connection to the `nf_tables` of this thread's network namespace.
pub(super) struct Wire(Socket);

impl Wire {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?))
    }

    /// The generation of the ruleset; `None` if the kernel has no `nf_tables`.
    pub(super) async fn generation(&mut self) -> Result<Option<u32>, NetlinkError> {
        generation(&mut self.0).await
    }

    /// The table, if it exists.
    pub(super) async fn table(&mut self, table: Table) -> Result<Option<HeldTable>, NetlinkError> {
        let request = NfTablesMessage::GetTable(TableMessage { attributes: vec![name_of(table)] });
        let read = |message| match message {
            NfTablesMessage::NewTable(found) => Some(held_table(&found.attributes)),
            _ => None,
        };
        self.find(request, read).await
    }

    /// The built-in chain, if it exists.
    pub(super) async fn chain(&mut self, stage: Stage) -> Result<Option<HeldChain>, NetlinkError> {
        let request = NfTablesMessage::GetChain(ChainMessage { attributes: place_of(stage) });
        let read = |message| match message {
            NfTablesMessage::NewChain(found) => Some(held_chain(&found.attributes)),
            _ => None,
        };
        self.find(request, read).await
    }

    /// Does all of `steps` or nothing. Does nothing if another program has written since `generation`.
    pub(super) async fn transact(&mut self, generation: u32, steps: &[Step]) -> Result<Result<(), Refusal>, NetlinkError> {
        let generation = DefaultNla::new(NFNL_BATCH_GENID, generation.to_be_bytes().to_vec());
        let begin = border(NFNL_MSG_BATCH_BEGIN, vec![generation]);
        let changes = steps.iter().map(|step| change(*step)).collect();
        self.0.transact(begin, changes, border(NFNL_MSG_BATCH_END, Vec::new())).await
    }

    /// Requests an object by name; `None` if it does not exist.
    async fn find<R>(
        &mut self,
        request: NfTablesMessage,
        read: impl Fn(NfTablesMessage) -> Option<R>,
    ) -> Result<Option<R>, NetlinkError> {
        match self.ask(request, read).await {
            Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::NOENT => Ok(None),
            asked => asked,
        }
    }

    async fn ask<R>(
        &mut self,
        request: NfTablesMessage,
        read: impl Fn(NfTablesMessage) -> Option<R>,
    ) -> Result<Option<R>, NetlinkError> {
        let keep = |message: NetfilterMessage| match message.inner {
            NetfilterMessageInner::NfTables(message) => read(message),
            _ => None,
        };
        Ok(self.0.ask(ipv4(request), keep).await?.pop())
    }
}

fn ipv4(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), message)
}

/// The message that begins or ends a transaction.
fn border(message_type: u8, attributes: Vec<DefaultNla>) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
    NetfilterMessage::new(header, ControlMessage::Other { message_type, attributes })
}

fn change(step: Step) -> Change<NetfilterMessage> {
    let (message, flags) = match step {
        Step::MakeTable(table) => {
            let attributes = vec![name_of(table), TableAttribute::UserData(MARK.to_vec())];
            (NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE | NLM_F_EXCL)
        }
        Step::MakeChain(stage) => {
            (NfTablesMessage::NewChain(ChainMessage { attributes: built_in(stage) }), NLM_F_CREATE | NLM_F_EXCL)
        }
        // The content is not deleted with it: if there is any, the kernel refuses.
        Step::RemoveChain(stage) => (NfTablesMessage::DeleteChain(ChainMessage { attributes: place_of(stage) }), NLM_F_NONREC),
        Step::RemoveTable(table) => {
            (NfTablesMessage::DeleteTable(TableMessage { attributes: vec![name_of(table)] }), NLM_F_NONREC)
        }
    };
    Change { message: ipv4(message), flags }
}

/// A built-in chain as iptables-nft creates it, plus the mark.
fn built_in(stage: Stage) -> Vec<ChainAttribute> {
    // The hooks and priorities that iptables-nft uses (`enum nf_ip_hook_priorities`, include/uapi/linux/netfilter_ipv4.h).
    let (hook, priority) = match stage {
        Stage::Prerouting => (InetHookNumber::PreRouting, -100_i32),
        Stage::Postrouting => (InetHookNumber::PostRouting, 100),
        Stage::Forward => (InetHookNumber::Forward, 0),
        Stage::Input => (InetHookNumber::LocalIn, 0),
    };
    let kind = match stage.table() {
        Table::Nat => "nat",
        Table::Filter => "filter",
    };
    let mut attributes = place_of(stage);
    attributes.extend([
        ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(priority.cast_unsigned())]),
        ChainAttribute::Policy(NF_ACCEPT),
        ChainAttribute::Type(kind.to_owned()),
        ChainAttribute::UserData(MARK.to_vec()),
    ]);
    attributes
}

fn name_of(table: Table) -> TableAttribute {
    TableAttribute::Name(table.name().to_owned())
}

fn place_of(stage: Stage) -> Vec<ChainAttribute> {
    vec![ChainAttribute::Table(stage.table().name().to_owned()), ChainAttribute::Name(stage.builtin().to_owned())]
}

fn held_table(attributes: &[TableAttribute]) -> HeldTable {
    // The default, until the attributes are read, is a table that must stay.
    let mut held = HeldTable { ours: false, uses: u32::MAX, altered: false };
    for attribute in attributes {
        match attribute {
            TableAttribute::UserData(data) => held.ours = data == MARK,
            TableAttribute::Use(uses) => held.uses = *uses,
            TableAttribute::Flags(flags) => held.altered = flags.bits() != 0,
            _ => {}
        }
    }
    held
}

fn held_chain(attributes: &[ChainAttribute]) -> HeldChain {
    let mut held = HeldChain { ours: false, uses: u32::MAX, accepts: false };
    for attribute in attributes {
        match attribute {
            ChainAttribute::UserData(data) => held.ours = data == MARK,
            ChainAttribute::Use(uses) => held.uses = *uses,
            ChainAttribute::Policy(policy) => held.accepts = *policy == NF_ACCEPT,
            _ => {}
        }
    }
    held
}
