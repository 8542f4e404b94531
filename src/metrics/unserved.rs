//! The message for an address at which metrics cannot be served: the cause, and what to do.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

/// What to do instead, with the flag and the chart values that set the address.
const ELSEWHERE: &str = "give another address with --metrics-address (chart: metrics.listen, metrics.port)";

/// The message for an address that cannot be bound.
pub(super) fn explain(address: SocketAddr, error: &io::Error) -> String {
    let reason = match error.kind() {
        ErrorKind::AddrInUse => {
            format!("another program uses port {}; stop it (ss -lntp shows it), or {ELSEWHERE}", address.port())
        }
        ErrorKind::AddrNotAvailable if address.ip().is_loopback() => {
            format!("the loopback interface is down or lacks this address; run `ip link set lo up`, or {ELSEWHERE}")
        }
        ErrorKind::AddrNotAvailable => format!("no interface of this node has this address; {ELSEWHERE}"),
        ErrorKind::PermissionDenied => {
            format!("ports below 1024 need the capability CAP_NET_BIND_SERVICE; {ELSEWHERE}")
        }
        _ => format!("{error}; {ELSEWHERE}"),
    };
    format!("cannot serve metrics on {address}: {reason}; the agent tries again and forwards are not affected")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(address: &str, kind: ErrorKind) -> String {
        explain(address.parse().unwrap(), &kind.into())
    }

    #[test]
    fn each_cause_has_its_own_advice_and_all_name_the_flag_and_the_value() {
        for (address, kind, wanted) in [
            ("127.0.0.1:10450", ErrorKind::AddrInUse, "on 127.0.0.1:10450: another program uses port 10450; stop it"),
            (
                "127.0.0.1:10450",
                ErrorKind::AddrNotAvailable,
                "the loopback interface is down or lacks this address; run `ip link set lo up`",
            ),
            ("[::1]:10450", ErrorKind::AddrNotAvailable, "on [::1]:10450: the loopback interface is down"),
            ("192.0.2.1:10450", ErrorKind::AddrNotAvailable, "no interface of this node has this address; give another"),
            ("127.0.0.1:80", ErrorKind::PermissionDenied, "need the capability CAP_NET_BIND_SERVICE"),
            ("127.0.0.1:10450", ErrorKind::OutOfMemory, "on 127.0.0.1:10450: out of memory; give another"),
        ] {
            let said = said(address, kind);
            assert!(said.contains(wanted), "{said}");
            assert!(said.contains("--metrics-address (chart: metrics.listen, metrics.port)"), "{said}");
        }
    }

    #[test]
    fn a_port_is_called_taken_only_where_it_is() {
        for kind in [ErrorKind::AddrNotAvailable, ErrorKind::PermissionDenied, ErrorKind::Other] {
            assert!(!said("127.0.0.1:10450", kind).contains("another program"));
        }
    }
}
