//! Why an object is refused: a reason from a closed list, and a message for the one who wrote it.

use std::fmt;

use crate::api::DecodeError;
use crate::words::words;

/// Why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind of mistake.
    pub reason: RefusalReason,
    /// Where it is, the value there (escaped and cut), and what to write instead.
    pub message: String,
}

words! {
    /// The kinds of mistake that one object can show by itself.
    RefusalReason {
        /// The document is not a `PortForward` of a version that is known here.
        UnknownKind,
        /// A field that the API does not have, most often a slip of the pen.
        UnknownField,
        /// A value of the wrong type, such as a text where a number belongs.
        InvalidType,
        /// A word that is not one of those a field takes.
        UnsupportedValue,
        /// Something that must be there is not.
        Required,
        /// More entries than a list takes.
        TooMany,
        /// A text with more characters than its field takes.
        TooLong,
        /// A name that Kubernetes would not take.
        InvalidName,
        /// Two entries of one list have the same name.
        DuplicateName,
        /// A label selector that means nothing.
        InvalidSelector,
        /// No IP address.
        InvalidAddress,
        /// An IP address in a form that programs read differently.
        NonCanonicalAddress,
        /// An IP address of a family that is not supported yet.
        UnsupportedFamily,
        /// A network where an address belongs, or /32.
        PrefixNotAllowed,
        /// No network in CIDR notation.
        InvalidCIDR,
        /// A network with host bits that are not zero.
        HostBitsSet,
        /// In 0.0.0.0/8.
        UnspecifiedAddress,
        /// In 127.0.0.0/8.
        LoopbackAddress,
        /// In 169.254.0.0/16.
        LinkLocalAddress,
        /// 169.254.169.254, where clouds keep the credentials of a node.
        MetadataAddress,
        /// In 224.0.0.0/4.
        MulticastAddress,
        /// 255.255.255.255.
        BroadcastAddress,
        /// In 240.0.0.0/4.
        ReservedAddress,
        /// A client entry twice.
        DuplicateClient,
        /// A party that is the proxy itself.
        ForwardLoop,
        /// A client entry whose route would swallow an address that the forward needs.
        RouteCapturesNode,
        /// Not a port, 1 to 65535.
        InvalidPort,
        /// A range of ports, or of target ports, that ends before it begins, or target ports that are not as many as the ports.
        InvalidPortRange,
        /// A port, or a range, twice for one protocol.
        DuplicatePort,
        /// Two ranges of one protocol share ports, or both directions match one packet.
        OverlappingPorts,
        /// Not the name of one interface.
        InvalidInterfaceName,
        /// `reverse` without an external address to listen on.
        ReverseNeedsExternalAddress,
        /// `reverse` without the one client address that it leads to.
        ReverseNeedsOneClient,
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Refusal {
    /// Refuses the field at `path`: `what` says what is wrong and what to write instead.
    pub(super) fn new(reason: RefusalReason, path: &str, what: impl fmt::Display) -> Self {
        Self { reason, message: format!("{path}: {what}") }
    }

    /// Refuses `value`, the text of the field at `path`.
    pub(super) fn of(reason: RefusalReason, path: &str, value: &str, what: impl fmt::Display) -> Self {
        Self::new(reason, path, format_args!("{} {what}", quote(value)))
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        let reason = match error {
            DecodeError::Kind { .. } => RefusalReason::UnknownKind,
            DecodeError::UnknownField { .. } => RefusalReason::UnknownField,
            DecodeError::Missing { .. } => RefusalReason::Required,
            DecodeError::UnknownWord { .. } => RefusalReason::UnsupportedValue,
            DecodeError::Type { .. } => RefusalReason::InvalidType,
            DecodeError::Name { .. } => RefusalReason::InvalidName,
        };
        Self { reason, message: error.to_string() }
    }
}

/// `value` as a message may carry it: no control character reaches a terminal or a log, and no long text fills it.
pub(super) fn quote(value: &str) -> String {
    const LONGEST: usize = 64;
    let cut = if value.chars().count() > LONGEST { "…" } else { "" };
    format!("\"{}{cut}\"", value.chars().take(LONGEST).collect::<String>().escape_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_value_is_shown_harmless_and_short() {
        assert_eq!(quote("eth0\nCOMMIT\u{1b}[2J"), r#""eth0\nCOMMIT\u{1b}[2J""#);
        assert!(quote(&"x".repeat(1 << 20)).len() < 80);
    }
}
