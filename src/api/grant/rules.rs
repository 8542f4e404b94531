//! The CEL rules by which the API server refuses a grant at `kubectl apply`, as far as the object alone shows the mistake.
//!
//! `crate::grant` checks the same again; a test compares both. The rules for networks are shared with `PortForward`, in
//! `api::rules`.

use kube::core::Rule;
use serde_json::{Value, json};

use super::super::rules::{BELOW, NOT_UNICAST, network, rule};

/// The rules for an entry of a list of networks.
///
/// A network of a grant is a bound and not a list of hosts. So it may contain addresses that no forward can name, and
/// 0.0.0.0/0 means every address.
pub(super) fn bound() -> Vec<Rule> {
    let mut rules = network();
    rules.push(rule(
        format!(
            "(!isIP(self) || ip(self).family() != 4 || {NOT_UNICAST}.all(n, !cidr(n).containsIP(self))) && \
             (!isCIDR(self) || {NOT_UNICAST}.all(n, !cidr(n).containsCIDR(self)))"
        ),
        "write addresses that a host can have, or networks that contain such addresses: none lies in 0.0.0.0/8, 127.0.0.0/8 (loopback), 169.254.0.0/16 (link-local, metadata), 224.0.0.0/4 (multicast) or 240.0.0.0/4 (reserved, broadcast)",
    ));
    rules
}

/// The rule for the name of a namespace.
pub(super) fn namespace() -> Vec<Rule> {
    vec![rule(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "write the name of one namespace, such as leased-lines: lower-case letters, digits and '-', and no pattern",
    )]
}

/// The rules for an optional port or range of ports.
pub(super) fn ports() -> Value {
    json!([
        {
            "rule": "!has(self.endPort) || has(self.port)",
            "message": "endPort ends a range of ports that begins with port; write port too, or remove endPort for every port",
            "fieldPath": ".endPort",
        },
        {"rule": "!has(self.endPort) || !has(self.port) || self.endPort >= self.port", "message": BELOW, "fieldPath": ".endPort"},
    ])
}

pub(super) fn reverse_needs_external() -> Rule {
    rule(
        "!has(self.reverse) || size(self.reverse) == 0 || (has(self.external) && size(self.external) > 0)",
        "a forward with reverse listens on its external address, and this grant permits none; write the permitted addresses in external, or leave reverse out",
    )
    .field_path(".reverse")
}
