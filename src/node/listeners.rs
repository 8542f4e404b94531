//! The ports on which programs of this node listen, from /proc/net (`proc_pid_net(5)`).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{FactsError, proc_file};
use crate::model::{Listener, Protocol};

/// The state of a socket that listens: `TCP_LISTEN`, and for UDP `TCP_CLOSE`, which means not connected
/// (`include/net/tcp_states.h`).
const fn listening(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "0A",
        Protocol::Udp => "07",
    }
}

pub(super) fn read() -> Result<BTreeSet<Listener>, FactsError> {
    let mut found = BTreeSet::new();
    for protocol in Protocol::ALL {
        for suffix in ["", "6"] {
            // /proc/net is the view of the process; the thread may be in another network namespace.
            let path = format!("/proc/thread-self/net/{}{suffix}", protocol.keyword());
            match proc_file(Path::new(&path)) {
                Ok(table) => found.extend(parse(protocol, &table)),
                // The kernel runs without IPv6.
                Err(FactsError::Read { source, .. }) if suffix == "6" && source.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

fn parse(protocol: Protocol, table: &str) -> impl Iterator<Item = Listener> {
    table.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok().filter(|&port| port != 0)?;
        let address = ipv4(address).filter(|_| state == listening(protocol))?;
        Some(Listener { protocol, address: IpAddr::V4(address), port })
    })
}

/// The IPv4 address that a socket is bound to. One that is bound to every IPv6 address takes IPv4 as well, unless it says
/// otherwise, which the table does not show (`IPV6_V6ONLY`, ipv6(7)).
fn ipv4(hex: &str) -> Option<Ipv4Addr> {
    // Each word stands as the number that this machine makes of the bytes on the wire.
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?);
            if address.is_unspecified() { Some(Ipv4Addr::UNSPECIFIED) } else { address.to_ipv4_mapped() }
        }
        _ => None,
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";

    fn found(protocol: Protocol, line: &str) -> Vec<String> {
        parse(protocol, &format!("{HEAD}{line}\n")).map(|listener| format!("{}:{}", listener.address, listener.port)).collect()
    }

    #[test]
    fn a_listening_socket_is_found_and_a_connection_is_not() {
        assert_eq!(found(Protocol::Tcp, "   0: 0200A8C0:0050 00000000:0000 0A 00000000:00000000"), ["192.168.0.2:80"]);
        assert_eq!(found(Protocol::Tcp, "   1: 0200A8C0:0050 01010101:A000 01 00000000:00000000"), [""; 0]);
        assert_eq!(found(Protocol::Udp, "   2: 00000000:0035 00000000:0000 07 00000000:00000000"), ["0.0.0.0:53"]);
        assert_eq!(found(Protocol::Udp, "   3: 0200A8C0:0035 01010101:A000 01 00000000:00000000"), [""; 0]);
        assert_eq!(found(Protocol::Udp, "   4: 00000000:0000 00000000:0000 07 00000000:00000000"), [""; 0], "not bound");
    }

    #[test]
    fn an_ipv6_socket_counts_where_it_takes_ipv4() {
        let line = |address: &str| format!("   0: {address}:0050 00000000000000000000000000000000:0000 0A 00000000:00000000");
        assert_eq!(found(Protocol::Tcp, &line("00000000000000000000000000000000")), ["0.0.0.0:80"]);
        assert_eq!(found(Protocol::Tcp, &line("0000000000000000FFFF00000200A8C0")), ["192.168.0.2:80"]);
        assert_eq!(found(Protocol::Tcp, &line("000080FE00000000000000000100A8C0")), [""; 0]);
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out() {
        for line in ["", "x", "0: zz:0050 0:0 0A", "0: 0200A8C0 0:0 0A", "0: 0200A8C:0050 0:0 0A", "0: é200A8C0:0050 0:0 0A"] {
            assert_eq!(found(Protocol::Tcp, line), [""; 0], "{line}");
        }
    }
}
