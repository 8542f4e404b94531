//! Why an object is refused: a reason from a closed list, and a message for the one who wrote it.

use std::fmt;

use super::parse;
use crate::api::{DecodeError, DecodeErrors, Mistakes, quoted};
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
        /// A number that is not in the range of its field.
        OutOfRange,
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
        /// An address or a network twice in one list of a grant.
        DuplicateNetwork,
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
    pub(crate) fn new(reason: RefusalReason, path: &str, what: impl fmt::Display) -> Self {
        Self { reason, message: format!("{path}: {what}") }
    }

    /// Refuses `value`, the text of the field at `path`.
    pub(crate) fn of(reason: RefusalReason, path: &str, value: &str, what: impl fmt::Display) -> Self {
        Self::new(reason, path, format_args!("{} {what}", quoted(value)))
    }
}

impl From<&DecodeError> for Refusal {
    fn from(error: &DecodeError) -> Self {
        let reason = match error {
            DecodeError::Kind { .. } => RefusalReason::UnknownKind,
            DecodeError::UnknownField { .. } => RefusalReason::UnknownField,
            DecodeError::Missing { .. } => RefusalReason::Required,
            DecodeError::UnknownWord { .. } => RefusalReason::UnsupportedValue,
            DecodeError::Type { .. } => RefusalReason::InvalidType,
            DecodeError::Name { .. } => RefusalReason::InvalidName,
            DecodeError::More { .. } => RefusalReason::TooMany,
        };
        Self { reason, message: error.to_string() }
    }
}

/// All mistakes of one object, in the order of its fields. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary().message)]
pub struct Refusals(Vec<Refusal>);

impl Refusals {
    /// The mistakes, at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Refusal] {
        &self.0
    }

    /// One refusal for all mistakes, as a condition carries it: the reason of the first, and every message.
    #[must_use]
    pub fn summary(&self) -> Refusal {
        let message = self.0.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>().join("; ");
        // There is at least one, so the default is never used.
        let reason = self.0.first().map_or(RefusalReason::InvalidType, |first| first.reason);
        Refusal { reason, message }
    }
}

impl From<DecodeErrors> for Refusals {
    fn from(errors: DecodeErrors) -> Self {
        Self::of_document(&errors, parse::values)
    }
}

impl Refusals {
    /// The mistakes in the structure of a document, and then those that `values` finds in the values of the other fields.
    pub(crate) fn of_document<O>(errors: &DecodeErrors<O>, values: impl FnOnce(&O) -> Vec<Refusal>) -> Self {
        let mut refusals: Vec<Refusal> = errors.as_slice().iter().map(Refusal::from).collect();
        if let Some(rest) = errors.rest() {
            let values = values(&rest.object).into_iter();
            refusals.extend(values.filter(|refusal| !follows(refusal, &rest.touched)));
        }
        Self(refusals)
    }
}

/// Whether a refusal may only follow from a mistake in one of the fields `touched`: it is about such a field, about the same
/// entry of a list, or about two entries of such a list.
fn follows(refusal: &Refusal, touched: &[String]) -> bool {
    let path = refusal.message.split(": ").next().unwrap_or_default();
    let compares = matches!(
        refusal.reason,
        RefusalReason::DuplicateName
            | RefusalReason::DuplicateNetwork
            | RefusalReason::DuplicatePort
            | RefusalReason::OverlappingPorts
    );
    let list = |path: &str| path.split('[').next().unwrap_or_default().to_owned();
    touched.iter().any(|touched| {
        let entry = touched.rfind(']').map_or(touched.as_str(), |end| &touched[..=end]);
        let within = path.strip_prefix(entry).is_some_and(|left| left.is_empty() || left.starts_with(['.', '[']));
        within || compares && list(path) == list(touched)
    })
}

/// Collects the mistakes of one object.
#[derive(Debug, Default)]
pub(crate) struct Found(Mistakes<Refusal>);

impl Found {
    /// Adds a mistake.
    pub(crate) fn push(&mut self, refusal: Refusal) {
        self.0.push(refusal);
    }

    /// Adds the mistake of `checked`, or returns its value.
    pub(crate) fn take<T>(&mut self, checked: Result<T, Refusal>) -> Option<T> {
        checked.map_err(|refusal| self.push(refusal)).ok()
    }

    /// Whether a mistake with this reason was added.
    pub(super) fn has(&self, reason: RefusalReason) -> bool {
        self.0.iter().any(|refusal| refusal.reason == reason)
    }

    /// The mistakes so far.
    pub(crate) fn into_refusals(self) -> Vec<Refusal> {
        self.0.into_vec(|count| Refusal::from(&DecodeError::More { count }))
    }

    /// Ends the collection.
    ///
    /// # Errors
    /// All mistakes, when there is one.
    pub(crate) fn finish(self) -> Result<(), Refusals> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusals(self.into_refusals())) }
    }
}
