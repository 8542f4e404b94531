//! Shows the ports of a spec in one line, as a status field for a column of `kubectl get`.

use std::fmt::Write as _;

use super::{PortEntry, PortForwardSpec, Protocol};

/// The maximum number of entries that are shown. Of the others, only the number is shown.
const MOST: usize = 2;

/// The ports of a spec as short texts; `None` for a direction without ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownPorts {
    /// The entries of `ports`, such as `TCP 21,2222 +1`.
    pub ports: Option<String>,
    /// The entries of `reverse.ports`.
    pub reverse: Option<String>,
}

impl ShownPorts {
    /// The ports of `spec`, which may be unusable.
    #[must_use]
    pub fn of(spec: &PortForwardSpec) -> Self {
        let reverse = spec.reverse.as_ref().map_or(&[][..], |reverse| &reverse.ports);
        Self { ports: line(&spec.ports), reverse: line(reverse) }
    }
}

fn line(entries: &[PortEntry]) -> Option<String> {
    let (shown, more) = entries.split_at(entries.len().min(MOST));
    let mut text = String::new();
    let mut before = None;
    for entry in shown {
        let separator = match before {
            None => "",
            Some(protocol) if protocol == entry.protocol => ",",
            Some(_) => ", ",
        };
        let protocol = if before == Some(entry.protocol) { "" } else { keyword(entry.protocol) };
        let last = entry.end_port.filter(|last| *last != entry.port).map(|last| format!("-{}", last.0));
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{protocol}{}{}", entry.port.0, last.unwrap_or_default());
        before = Some(entry.protocol);
    }
    if !more.is_empty() {
        let _ = write!(text, " +{}", more.len());
    }
    (!text.is_empty()).then_some(text)
}

const fn keyword(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP ",
        Protocol::Udp => "UDP ",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "every caller makes the value for this call")]
    fn shown(ports: Value) -> Option<String> {
        line(&serde_json::from_value::<Vec<PortEntry>>(ports).unwrap())
    }

    #[test]
    fn ports_are_shown_with_protocol_and_range_and_the_others_are_counted() {
        for (ports, text) in [
            (json!([{"port": 80}]), "TCP 80"),
            (json!([{"port": 40000, "endPort": 40099, "protocol": "UDP"}]), "UDP 40000-40099"),
            (json!([{"port": 80, "endPort": 80}]), "TCP 80"),
            (json!([{"name": "a", "port": 21}, {"name": "b", "port": 2222}, {"name": "c", "port": 9}]), "TCP 21,2222 +1"),
            (json!([{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]), "TCP 53, UDP 53"),
        ] {
            assert_eq!(shown(ports).as_deref(), Some(text));
        }
        assert_eq!(shown(json!([])), None);
        let many: Vec<Value> = (1..=64).map(|port| json!({"name": port.to_string(), "port": port, "endPort": 65535})).collect();
        assert_eq!(shown(many.into()).as_deref(), Some("TCP 1-65535,2-65535 +62"));
    }
}
