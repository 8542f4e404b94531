//! The base chains of `nf_tables` and all rules that packets reach from them (nft(8), `nf_tables.h`).

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook as HookAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::io::Errno;

use super::expression::{self, bytes};
use super::is_ours;
use super::sets::{Set, Sets};
use crate::dataplane::iptables::Variant;
use crate::dataplane::{Backend, NFTABLES_TABLE};
use crate::model::{Action, BaseChain, FilterRule, Hook, Policy, Purpose, TableFamily, Tool};
use crate::netlink::{NetlinkError, Socket, generation};

/// The maximum number of rules that are read from one base chain on. Further rules count as not interpreted.
const MOST_RULES: usize = 2000;
/// The maximum number of sets that are read from one table.
const MOST_SETS: usize = 500;
/// Tables with rules for other packets than forwarded ones: kube-proxy marks and translates only packets to Services.
const PASSED_OVER: [&str; 1] = ["kube-proxy"];
/// The tables that iptables-nft creates and shows.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
/// The base chains of these tables that iptables-nft knows. Another one is a chain of nft, whatever its table.
const BUILTIN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// The drop policy (`NF_DROP`, `include/uapi/linux/netfilter.h`).
const NF_DROP: u32 = 0;

/// A connection to the `nf_tables` of this thread's network namespace.
pub(super) struct Wire {
    socket: Socket,
    volatile: bool,
}

/// What is known of the sets of one table.
struct Known {
    /// The names of those whose content changes without a new generation.
    volatile: BTreeSet<String>,
    /// Those that were read.
    sets: Sets,
}

/// A base chain as it was listed.
struct Listed {
    family: TableFamily,
    table: String,
    name: String,
    purpose: Purpose,
    hook: Hook,
    priority: i32,
    devices: BTreeSet<String>,
    policy: Policy,
}

impl Wire {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?, volatile: false })
    }

    /// Whether what was read can change without a new generation.
    pub(super) const fn is_volatile(&self) -> bool {
        self.volatile
    }

    /// The generation of the ruleset; `None` if the kernel has no `nf_tables`.
    pub(super) async fn generation(&mut self) -> Result<Option<u32>, NetlinkError> {
        generation(&mut self.socket).await
    }

    /// The base chains of other programs that IPv4 packets pass, with their rules.
    pub(super) async fn base_chains(&mut self, ours: Backend) -> Result<Vec<BaseChain>, NetlinkError> {
        let dormant = self.dormant().await?;
        let (listed, uses) = self.chains().await?;
        let mut found = Vec::new();
        let mut known = BTreeMap::<(TableFamily, String), Known>::new();
        for chain in listed {
            let table = (chain.family, chain.table.clone());
            let iptables = chain.family == TableFamily::Ip
                && IPTABLES.contains(&chain.table.as_str())
                && BUILTIN.contains(&chain.name.as_str());
            let kept = iptables && is_ours(ours, Variant::Nft, &chain.table, chain.hook)
                || chain.family == TableFamily::Ip && chain.table == NFTABLES_TABLE;
            if kept || dormant.contains(&table) || PASSED_OVER.contains(&chain.table.as_str()) {
                continue;
            }
            if !known.contains_key(&table) {
                let volatile = self.volatile_sets(chain.family, &chain.table).await?;
                known.insert(table.clone(), Known { volatile, sets: Sets::new() });
            }
            let Some(known) = known.get_mut(&table) else { continue };
            let tool = if iptables { Tool::IptablesNft } else { Tool::Nft(chain.family) };
            found.push(self.filled(chain, tool, known, &uses).await?);
        }
        Ok(found)
    }

    /// The dormant tables.
    async fn dormant(&mut self) -> Result<BTreeSet<(TableFamily, String)>, NetlinkError> {
        let request = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
        let read = |family, found| {
            let NfTablesMessage::NewTable(TableMessage { attributes }) = found else { return None };
            let (mut name, mut dormant) = (None, false);
            for attribute in attributes {
                match attribute {
                    TableAttribute::Name(found) => name = Some(found),
                    TableAttribute::Flags(flags) => dormant = flags.contains(TableFlags::Dormant),
                    _ => {}
                }
            }
            Some((family, name.filter(|_| dormant)?))
        };
        Ok(self.dump(NetfilterProtoFamily::Unspec, request, read).await?.into_iter().collect())
    }

    /// The base chains that forwarded IPv4 packets may pass, and the use count of each chain.
    async fn chains(&mut self) -> Result<(Vec<Listed>, Uses), NetlinkError> {
        let request = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        let read = |family, found| {
            let NfTablesMessage::NewChain(ChainMessage { attributes }) = found else { return None };
            Some((family, attributes))
        };
        let (mut listed, mut uses) = (Vec::new(), Uses::new());
        for (family, attributes) in self.dump(NetfilterProtoFamily::Unspec, request, read).await? {
            let (mut table, mut name, mut count) = (String::new(), String::new(), 0);
            for attribute in &attributes {
                match attribute {
                    ChainAttribute::Table(found) => table.clone_from(found),
                    ChainAttribute::Name(found) => name.clone_from(found),
                    ChainAttribute::Use(found) => count = *found,
                    _ => {}
                }
            }
            uses.insert((family, table.clone(), name.clone()), count);
            listed.extend(base(family, table, name, &attributes));
        }
        Ok((listed, uses))
    }

    /// The sets of one table to which packets add elements, or whose elements expire.
    async fn volatile_sets(&mut self, family: TableFamily, table: &str) -> Result<BTreeSet<String>, NetlinkError> {
        let request = NfTablesMessage::GetSet(SetMessage { attributes: vec![SetAttribute::Table(table.to_owned())] });
        let read = |_, found| {
            let NfTablesMessage::NewSet(SetMessage { attributes }) = found else { return None };
            let (mut name, mut volatile) = (None, false);
            for attribute in attributes {
                match attribute {
                    SetAttribute::Name(found) => name = Some(found),
                    SetAttribute::Flags(flags) => volatile = flags.intersects(SetFlags::Eval | SetFlags::Timeout),
                    _ => {}
                }
            }
            name.filter(|_| volatile)
        };
        Ok(self.dump(number(family), request, read).await?.into_iter().collect())
    }

    /// The content of a set.
    async fn set(&mut self, family: TableFamily, table: &str, name: &str) -> Result<Set, NetlinkError> {
        let attributes = vec![SetElementList::Table(table.to_owned()), SetElementList::Set(name.to_owned())];
        let request = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
        let mut set = Set::default();
        // A set may have a million elements, so they are not collected first.
        let read = |_, found| {
            if let NfTablesMessage::NewSetElement(SetElementMessage { attributes }) = found {
                set.extend(&attributes);
            }
            None::<()>
        };
        self.dump(number(family), request, read).await?;
        Ok(set)
    }

    /// The chain with its rules and all chains that it jumps to.
    async fn filled(&mut self, chain: Listed, tool: Tool, known: &mut Known, uses: &Uses) -> Result<BaseChain, NetlinkError> {
        let mut read = BTreeMap::<String, Vec<FilterRule>>::new();
        let (mut next, mut room) = (vec![chain.name.clone()], MOST_RULES);
        while let Some(name) = next.pop() {
            if read.contains_key(&name) || room == 0 {
                continue;
            }
            let (rules, count) = self.rules(chain.family, &chain.table, &name, known).await?;
            room = room.saturating_sub(rules.len());
            next.extend(rules.iter().filter_map(|rule| target(&rule.action)).map(str::to_owned));
            // Each rule counts as one use, and so does each jump to the chain. If fewer rules were read, one could not be
            // decoded; if more, another program wrote in the meantime.
            let expected = uses.get(&(chain.family, chain.table.clone(), name.clone())).map_or(0, |uses| *uses as usize);
            let complete = if name == chain.name { count == expected } else { count < expected };
            read.insert(name, if complete { rules } else { vec![FilterRule::uncertain()] });
        }
        let rules = read.remove(&chain.name).unwrap_or_default();
        let Listed { family: _, table, name, purpose, hook, priority, devices, policy } = chain;
        Ok(BaseChain { tool, table, name, purpose, hook, priority, devices, policy, rules, jumps: read })
    }

    /// The rules of one chain, and their number before maps were expanded.
    async fn rules(
        &mut self,
        family: TableFamily,
        table: &str,
        chain: &str,
        known: &mut Known,
    ) -> Result<(Vec<FilterRule>, usize), NetlinkError> {
        let attributes = vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())];
        let request = NfTablesMessage::GetRule(RuleMessage { attributes });
        let read = |_, found| {
            let NfTablesMessage::NewRule(RuleMessage { attributes }) = found else { return None };
            // A kernel that does not support the filter by chain returns all rules of the table.
            let here = attributes.iter().any(|attribute| matches!(attribute, RuleAttribute::Chain(name) if name == chain));
            let expressions = attributes.into_iter().find_map(|attribute| match attribute {
                RuleAttribute::Expressions(list) => Some(list),
                _ => None,
            });
            here.then(|| expressions.unwrap_or_default())
        };
        let rules = self.dump(number(family), request, read).await?;
        for name in rules.iter().flat_map(|rule| expression::sets_of(rule)) {
            if !known.sets.contains_key(name) && known.sets.len() < MOST_SETS {
                let set = self.set(family, table, name).await?;
                known.sets.insert(name.to_owned(), set);
                self.volatile |= known.volatile.contains(name);
            }
        }
        Ok((rules.iter().flat_map(|rule| expression::rules(rule, &known.sets)).collect(), rules.len()))
    }

    async fn dump<R>(
        &mut self,
        family: NetfilterProtoFamily,
        request: NfTablesMessage,
        mut read: impl FnMut(TableFamily, NfTablesMessage) -> Option<R>,
    ) -> Result<Vec<R>, NetlinkError> {
        let keep = |found: NetfilterMessage| match (passed(found.header.family), found.inner) {
            (Some(family), NetfilterMessageInner::NfTables(message)) => read(family, message),
            (_, _) => None,
        };
        match self.socket.dump(message(family, request), keep).await {
            // It was deleted in the meantime.
            Err(NetlinkError::Refused(refusal)) if refusal.errno == Errno::NOENT => Ok(Vec::new()),
            dumped => dumped,
        }
    }
}

/// The number of rules in a chain plus the number of jumps to it, by chain.
type Uses = BTreeMap<(TableFamily, String, String), u32>;

fn message(family: NetfilterProtoFamily, message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// The family, if IPv4 packets pass its chains.
fn passed(family: NetfilterProtoFamily) -> Option<TableFamily> {
    match family {
        NetfilterProtoFamily::IPv4 => Some(TableFamily::Ip),
        NetfilterProtoFamily::Inet => Some(TableFamily::Inet),
        NetfilterProtoFamily::NetDev => Some(TableFamily::Netdev),
        NetfilterProtoFamily::Bridge => Some(TableFamily::Bridge),
        _ => None,
    }
}

const fn number(family: TableFamily) -> NetfilterProtoFamily {
    match family {
        TableFamily::Ip => NetfilterProtoFamily::IPv4,
        TableFamily::Inet => NetfilterProtoFamily::Inet,
        TableFamily::Netdev => NetfilterProtoFamily::NetDev,
        TableFamily::Bridge => NetfilterProtoFamily::Bridge,
    }
}

fn target(action: &Action) -> Option<&str> {
    match action {
        Action::Jump(chain) | Action::Goto(chain) => Some(chain),
        Action::Continue
        | Action::Accept
        | Action::Drop
        | Action::Return
        | Action::Translate(_)
        | Action::Untrack
        | Action::Zone(_)
        | Action::Mark
        | Action::Connmark(_)
        | Action::Uncertain => None,
    }
}

/// The chain, if the kernel calls it for forwarded packets.
fn base(family: TableFamily, table: String, name: String, attributes: &[ChainAttribute]) -> Option<Listed> {
    let (mut place, mut priority, mut devices, mut policy, mut purpose) = (None, 0, BTreeSet::new(), Policy::Accept, None);
    for attribute in attributes {
        match attribute {
            ChainAttribute::Hook(parts) => {
                for part in parts {
                    match part {
                        HookAttribute::Number(number) => place = Some(u32::from(*number)),
                        HookAttribute::Priority(value) => priority = value.cast_signed(),
                        HookAttribute::NetDeviceName(name) => drop(devices.insert(name.clone())),
                        HookAttribute::NetDevices(names) => devices.extend(names.iter().map(|name| text(&bytes(name)))),
                        _ => {}
                    }
                }
            }
            ChainAttribute::Policy(NF_DROP) => policy = Policy::Drop,
            ChainAttribute::Type(kind) if kind == "filter" => purpose = Some(Purpose::Filter),
            ChainAttribute::Type(kind) if kind == "nat" => purpose = Some(Purpose::Nat),
            _ => {}
        }
    }
    let hook = hook(family, place?)?;
    Some(Listed { family, table, name, purpose: purpose?, hook, priority, devices, policy })
}

/// The hook, if routed packets pass it (`enum nf_inet_hooks`, `enum nf_dev_hooks`, `include/uapi/linux/netfilter.h`).
/// Packets that a bridge passes to the node itself go through its `prerouting` and `input`; packets from the node go
/// through its `output` and `postrouting`.
const fn hook(family: TableFamily, number: u32) -> Option<Hook> {
    match (family, number) {
        (TableFamily::Ip | TableFamily::Inet, 0) => Some(Hook::Prerouting),
        (TableFamily::Ip | TableFamily::Inet, 2) => Some(Hook::Forward),
        (TableFamily::Ip | TableFamily::Inet, 4) => Some(Hook::Postrouting),
        (TableFamily::Inet, 5) | (TableFamily::Netdev, 0) | (TableFamily::Bridge, 0 | 1) => Some(Hook::Ingress),
        (TableFamily::Netdev, 1) | (TableFamily::Bridge, 3 | 4) => Some(Hook::Egress),
        (TableFamily::Ip | TableFamily::Inet | TableFamily::Netdev | TableFamily::Bridge, _) => None,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
