//! The CEL rules by which the API server refuses an object at `kubectl apply`, as far as the object alone shows the mistake.
//!
//! The message of each rule says what to write instead. The rules need the IP library of the API server (Kubernetes 1.31). The
//! API server runs every rule, also after another one has failed, so each rule guards its own calls. `crate::forward` checks
//! the same again; a test compares both.

use kube::core::Rule;
use serde_json::{Value, json};

/// The networks in which no host can have an address, as a CEL list: "this network" (RFC 791), loopback (RFC 1122), link-local
/// (RFC 3927), multicast (RFC 5771), reserved and broadcast (RFC 1112, RFC 919).
pub(super) const NOT_UNICAST: &str = "['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4']";

/// The message of a range of ports that ends before it begins.
pub(super) const BELOW: &str = "endPort is below port; write the lower port in port and the higher one in endPort";

/// Whether the spec asks for routes.
const HAS_GATEWAY: &str = "has(self.internal.gateways) && size(self.internal.gateways) > 0";

/// Whether the spec names an external address.
const HAS_EXTERNAL: &str = "has(self.external) && has(self.external.addresses) && size(self.external.addresses) > 0";

pub(super) fn rule(rule: impl Into<String>, message: &str) -> Rule {
    Rule::new(rule).message(message)
}

/// The rules for an address of one host.
pub(super) fn address() -> Vec<Rule> {
    vec![
        rule(
            "isIP(self)",
            "write one IPv4 address, such as 192.168.0.2: four decimal numbers without leading zeros, and no space, prefix, port, bracket or host name",
        ),
        rule("!isIP(self) || ip(self).family() == 4", "IPv6 is not supported yet; write an IPv4 address, such as 192.168.0.2"),
        rule(
            format!("!isIP(self) || ip(self).family() != 4 || {NOT_UNICAST}.all(n, !cidr(n).containsIP(self))"),
            "write the unicast address of a host, not one in 0.0.0.0/8, 127.0.0.0/8 (loopback), 169.254.0.0/16 (link-local, metadata), 224.0.0.0/4 (multicast) or 240.0.0.0/4 (reserved, broadcast)",
        ),
    ]
}

/// The rules for an IPv4 address or network in canonical form.
pub(super) fn network() -> Vec<Rule> {
    vec![
        rule(
            "isIP(self) || (isCIDR(self) && !self.matches('(^|[./])0[0-9]'))",
            "write an IPv4 address, such as 192.0.2.7, or a network, such as 192.0.2.0/24: decimal numbers without leading zeros, and no space, port, bracket or host name",
        ),
        rule(
            "(!isIP(self) || ip(self).family() == 4) && (!isCIDR(self) || cidr(self).ip().family() == 4)",
            "IPv6 is not supported yet; write an IPv4 address or network, such as 192.0.2.0/24",
        ),
        rule(
            "!isCIDR(self) || cidr(self) == cidr(self).masked()",
            "the host bits of a network must be zero; write 192.0.2.0/24 for the network, or 192.0.2.7 for one address",
        ),
        rule("!self.endsWith('/32')", "write a single address without /32"),
    ]
}

/// The rules for an entry of `client.addresses`.
pub(super) fn client() -> Vec<Rule> {
    let mut rules = network();
    rules.extend([
        rule(
            "!self.endsWith('/0')",
            "a network that contains every address is refused: a forward must name its clients, because only these may use it; write their networks, such as 192.0.2.0/24",
        ),
        rule(
            format!(
                "(!isIP(self) || ip(self).family() != 4 || {NOT_UNICAST}.all(n, !cidr(n).containsIP(self))) && \
                 (!isCIDR(self) || {NOT_UNICAST}.all(n, !cidr(n).containsCIDR(self) && !cidr(self).containsCIDR(n)))"
            ),
            "write unicast addresses of the clients, and no network that overlaps 0.0.0.0/8, 127.0.0.0/8 (loopback), 169.254.0.0/16 (link-local), 224.0.0.0/4 (multicast) or 240.0.0.0/4 (reserved, broadcast)",
        ),
    ]);
    rules
}

/// The rules for the name of an interface. `model::InterfaceName` accepts the same names.
pub(super) fn interface() -> Vec<Rule> {
    vec![rule(
        "self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$') && !(self in ['lo', 'all', 'default'])",
        "write the name of one interface as `ip link` shows it before any ':' or '@', such as eth0: a letter, digit or '_', then letters, digits, '_', '.' or '-', and not lo, all or default",
    )]
}

/// The rule for the keys of labels. A schema cannot limit the length of keys.
pub(super) fn label_keys() -> Vec<Rule> {
    vec![rule(
        "self.all(key, size(key) <= 317)",
        "the key of a label has at most 317 characters; write it as kubectl get nodes --show-labels shows it",
    )]
}

/// The rules for a requirement of a label selector.
pub(super) fn requirement() -> Vec<Rule> {
    vec![rule(
        "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0",
        "In and NotIn need values; Exists and DoesNotExist take none",
    )]
}

/// Whether the entry is a range with a range of target ports.
const SHIFTED: &str = "has(self.endPort) && has(self.targetPort) && has(self.targetEndPort)";

/// The rules for one entry of a port list.
pub(super) fn port_entry() -> Value {
    json!([
        {"rule": "!has(self.endPort) || self.endPort >= self.port", "message": BELOW, "fieldPath": ".endPort"},
        with_forms(
            "!has(self.endPort) || self.endPort == self.port || !has(self.targetPort) || has(self.targetEndPort)",
            "a range with targetPort needs targetEndPort: write the last target port of a range of equal width, or the same number as targetPort",
        ),
        {
            "rule": "!has(self.targetEndPort) || has(self.targetPort)",
            "message": "targetEndPort ends a range of target ports that begins with targetPort; write targetPort too, or remove targetEndPort",
            "fieldPath": ".targetEndPort",
        },
        {
            "rule": "!has(self.targetEndPort) || has(self.endPort)",
            "message": "targetEndPort ends a range of target ports, but this entry is one port; write endPort too, or remove targetEndPort",
            "fieldPath": ".targetEndPort",
        },
        with_forms(
            &format!("!({SHIFTED}) || self.targetEndPort >= self.targetPort"),
            "targetEndPort is below targetPort: write the last target port of a range of equal width, or the same number as targetPort",
        ),
        with_forms(
            &format!(
                "!({SHIFTED}) || self.endPort < self.port || self.targetEndPort <= self.targetPort || \
                 self.targetEndPort - self.targetPort == self.endPort - self.port"
            ),
            "the ranges port to endPort and targetPort to targetEndPort have different widths: write the last target port of a range of equal width, or the same number as targetPort",
        ),
    ])
}

/// A rule about targetEndPort. Its message ends with the possible values, calculated from the entry. (For a text that is joined
/// by `+`, the API server knows no maximum length, and it limits the cost of messages too.)
fn with_forms(rule: &str, message: &str) -> Value {
    let both = format!("{message}; here %d moves each port (%d goes to %d, %d to %d), and %d sends all of them to %d");
    let last = "self.targetPort + self.endPort - self.port";
    let one = format!("{message}; here %d sends all of them to %d");
    let expression = format!(
        "self.endPort < self.port ? '{message}' : {last} > 65535 ? '{one}'.format([self.targetPort, self.targetPort]) : \
         '{both}'.format([{last}, self.port, self.targetPort, self.endPort, {last}, self.targetPort, self.targetPort])"
    );
    json!({"rule": rule, "message": message, "messageExpression": expression, "fieldPath": ".targetEndPort"})
}

/// The rule that at most one entry of a port list has no name. The API server itself refuses two entries with the same name.
pub(super) fn port_names() -> Rule {
    rule(
        "self.filter(a, a.name == 'default').size() <= 1",
        "several entries have no name or the name default; write a name for each entry, only one may have none",
    )
}

/// The rule that there is something to forward.
pub(super) fn something_to_do() -> Rule {
    rule(
        "(has(self.ports) && size(self.ports) > 0) || (has(self.reverse) && size(self.reverse.ports) > 0)",
        "there is no port in ports, and no reverse; write a port that the client may use, or reverse.ports for connections that only the upstream opens",
    )
    .field_path(".ports")
}

/// The rule that no port occurs twice for one protocol in a port list. (With the reason `FieldValueDuplicate`, the API server
/// would drop the message.)
pub(super) fn port_list() -> Rule {
    let apart = apart("a", "b");
    rule(
        format!("self.all(a, self.all(b, a.name == b.name || a.protocol != b.protocol || {apart}))"),
        "two entries of one protocol share a port; write each port once, or end one range before the other one begins",
    )
}

/// The condition that the port entries `a` and `b` have no port in common.
fn apart(a: &str, b: &str) -> String {
    let last = |entry| format!("(has({entry}.endPort) ? {entry}.endPort : {entry}.port)");
    format!("{} < {b}.port || {} < {a}.port", last(a), last(b))
}

/// The rule that no route to a client covers `victim`, a CEL expression for an address that exists if `guard` is true.
fn not_captured(victim: &str, guard: &str, message: &str) -> Rule {
    rule(
        format!(
            "!({HAS_GATEWAY}) || !({guard}) || \
             self.client.addresses.all(c, c != {victim} && (!isCIDR(c) || !isIP({victim}) || !cidr(c).containsIP({victim})))"
        ),
        message,
    )
    .field_path(".client.addresses")
}

pub(super) fn gateway_not_captured() -> Rule {
    not_captured(
        "self.internal.gateways[0]",
        "true",
        "a client entry contains the gateway, so the route to the clients would also cover the gateway; write networks that do not contain it, or leave internal.gateways out if the clients are on a link of the node",
    )
}

pub(super) fn internal_not_captured() -> Rule {
    not_captured(
        "self.internal.addresses[0]",
        "true",
        "a client entry contains the internal address, so the route to the clients would also cover the proxy's own subnet; write networks that do not contain it, or leave internal.gateways out if the clients are on a link of the node",
    )
}

pub(super) fn upstream_not_captured() -> Rule {
    not_captured(
        "self.upstream.targets[0].address",
        "true",
        "a client entry contains the upstream, so the route to the clients would send packets for the upstream back to the gateway; write networks that do not contain it",
    )
}

pub(super) fn external_not_captured() -> Rule {
    not_captured(
        "self.external.addresses[0]",
        HAS_EXTERNAL,
        "a client entry contains the external address, so the route to the clients would also cover the network of the upstream; write networks that do not contain it",
    )
}

/// The rule that none of `addresses`, a CEL list of texts, is an address of the proxy.
fn not_the_proxy(addresses: &str, field: &str, message: &str) -> Rule {
    rule(
        format!(
            "{addresses}.all(a, !(a in self.internal.addresses)) && \
             (!({HAS_EXTERNAL}) || {addresses}.all(a, !(a in self.external.addresses)))"
        ),
        message,
    )
    .field_path(field)
}

pub(super) fn upstream_not_the_proxy() -> Rule {
    not_the_proxy(
        "self.upstream.targets.map(t, t.address)",
        ".upstream.targets",
        "the upstream is an address of the proxy itself, so the forward would loop; write the address of the server",
    )
}

pub(super) fn client_not_the_proxy() -> Rule {
    not_the_proxy(
        "self.client.addresses",
        ".client.addresses",
        "a client is an address of the proxy itself; write the address of the host that connects",
    )
}

pub(super) fn gateway_not_the_proxy() -> Rule {
    let rule = not_the_proxy(
        "self.internal.gateways",
        ".internal.gateways",
        "the gateway is an address of the proxy itself; write the address of the router to the clients, or leave internal.gateways out",
    );
    Rule { rule: format!("!has(self.internal.gateways) || ({})", rule.rule), ..rule }
}

pub(super) fn reverse_needs_external() -> Rule {
    rule(
        format!("!has(self.reverse) || ({HAS_EXTERNAL})"),
        "reverse listens on external.addresses; write the external address, or leave reverse out",
    )
    .field_path(".reverse")
}

pub(super) fn reverse_needs_one_client() -> Rule {
    rule(
        "!has(self.reverse) || (size(self.client.addresses) == 1 && !self.client.addresses[0].contains('/'))",
        "reverse needs exactly one client that is an address; write one address in client.addresses, or leave reverse out",
    )
    .field_path(".reverse")
}

/// If both legs are the same, a packet from a client that is also the upstream must not match both directions.
pub(super) fn directions_apart() -> Rule {
    let apart = apart("a", "b");
    rule(
        format!(
            "!has(self.reverse) || !has(self.ports) || !({HAS_EXTERNAL}) || self.external.addresses[0] != self.internal.addresses[0] || \
             !(self.upstream.targets[0].address in self.client.addresses) || \
             (has(self.internal.interface) && has(self.external.interface) && self.internal.interface != self.external.interface) || \
             self.ports.all(a, self.reverse.ports.all(b, a.protocol != b.protocol || {apart}))"
        ),
        "the client is also the upstream and both legs are the same, and a port is in ports and in reverse.ports; write each port in only one of the two lists",
    )
    .field_path(".reverse.ports")
}
