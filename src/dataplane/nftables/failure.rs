//! Why the table could not be read or written.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::TABLE;
use crate::dataplane::rules::{Function, RulesError, Step as Access};
use crate::netlink::{NetlinkError, Refusal};
use crate::words::explained;

/// Why the table could not be read or written.
#[derive(Debug)]
pub(super) enum Failure {
    /// The communication with the kernel failed.
    Netlink(NetlinkError),
    /// The kernel refused a transaction.
    Refused(Refusal),
    /// The kernel has no `nf_tables`.
    Missing,
}

impl Failure {
    /// The table accepts and translates, so both failed.
    pub(super) fn of_all(&self) -> BTreeMap<Function, RulesError> {
        let error = self.told();
        Function::ALL.map(|function| (function, error.clone())).into()
    }

    pub(super) fn told(&self) -> RulesError {
        match self {
            Self::Netlink(error) => RulesError {
                text: format!("table {TABLE}: {}", explained(error)),
                step: Access::Read,
                // The table went while it was read.
                transient: error.is_transient() || matches!(error, NetlinkError::Refused(refusal) if is_race(refusal)),
            },
            Self::Refused(refusal) => RulesError {
                text: format!("table {TABLE}: the kernel refuses the change: {refusal}{}", advice(refusal)),
                step: Access::Write,
                transient: refusal.is_transient() || is_race(refusal),
            },
            Self::Missing => RulesError {
                text: "the kernel has no nf_tables; load the module nf_tables, or use --backend iptables".to_owned(),
                step: Access::Write,
                transient: false,
            },
        }
    }
}

/// What a person can do about a refusal.
fn advice(refusal: &Refusal) -> &'static str {
    match refusal.errno {
        Errno::PERM | Errno::ACCESS => "; another program owns the table",
        Errno::OPNOTSUPP | Errno::NOENT => {
            "; another program keeps changing the table, or a module such as nft_nat, nft_ct, nft_fib_ipv4 or nft_masq is missing: then use --backend iptables"
        }
        _ => "",
    }
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error)
    }
}

/// Whether a refusal says that another program has changed the table since it was read.
pub(super) fn is_race(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::NOENT | Errno::EXIST | Errno::BUSY)
}
