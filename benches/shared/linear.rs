//! The rules that an administrator would write by hand: a DNAT rule and an SNAT rule for each forward, in two long chains.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::shapes::Forward;

/// The whole `nat` table.
pub(crate) fn table(forwards: &[Forward]) -> String {
    let mut text = ["*nat", ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ""].join("\n");
    // With one port for all, only the client tells the forwards apart.
    let by_client = forwards.get(1).is_some_and(|second| second.listen == forwards[0].listen);
    for forward in forwards {
        let (address, first, protocol) = (forward.listen.ip(), forward.listen.port(), forward.transport.name());
        let source = if by_client { format!("-s {}/{} ", forward.network(), forward.prefix) } else { String::new() };
        let to = forward.upstream;
        let ports = if forward.ports == 1 { first.to_string() } else { format!("{first}:{}", first + forward.ports - 1) };
        let _ = writeln!(
            text,
            "-A PREROUTING -i eth1 {source}-d {address} -p {protocol} --dport {ports} -j DNAT --to-destination {to}"
        );
    }
    for forward in forwards {
        let (client, prefix, external, protocol) =
            (forward.network(), forward.prefix, forward.external, forward.transport.name());
        let _ = writeln!(text, "-A POSTROUTING -s {client}/{prefix} -p {protocol} -j SNAT --to-source {external}");
    }
    text + "COMMIT\n"
}

/// Runs an `iptables-restore` command with this text. Returns how long it took.
pub(crate) fn restore(command: &mut Command, text: &str) -> Duration {
    let started = Instant::now();
    let mut child = command.arg("-w").stdin(Stdio::piped()).spawn().expect("nsenter is installed");
    child.stdin.take().expect("the input is piped").write_all(text.as_bytes()).expect("iptables-restore reads");
    let status = child.wait().expect("iptables-restore can be waited for");
    assert!(status.success(), "{command:?}: {status}");
    started.elapsed()
}
