//! The mistakes in the structure of a document, in the words of the person who wrote it.

use std::fmt;

use super::{Kind, PortForward};
use crate::bounded::Bounded;

/// The mistakes of one document: at most 20 are reported one by one.
pub(crate) type Mistakes<T> = Bounded<T, 20>;

/// One mistake in the structure of a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another kind of object, or none.
    #[error("apiVersion, kind: {found} is not known here; write apiVersion: portforward.dev/v1alpha1 and kind: {wanted}")]
    Kind {
        /// What the document says it is.
        found: String,
        /// The kind that is read here.
        wanted: Kind,
    },
    /// A field that the API does not have.
    #[error("{path}: there is no such field; {advice}")]
    UnknownField {
        /// The path of the field.
        path: String,
        /// The field that was probably meant, or where to look.
        advice: String,
    },
    /// A required field is missing.
    #[error("{path}: is missing; add it")]
    Missing {
        /// The path of the field.
        path: String,
    },
    /// A value that an enum field does not accept.
    #[error("{path}: {found} is not accepted here; write {accepted}")]
    UnknownWord {
        /// The path of the field.
        path: String,
        /// The value, quoted and escaped.
        found: String,
        /// The values that the field accepts.
        accepted: String,
    },
    /// A value of the wrong type.
    #[error("{path}: {found} is not accepted here; write {wanted}")]
    Type {
        /// The path of the field.
        path: String,
        /// The value, or a description of it.
        found: String,
        /// A description of the type that the field accepts.
        wanted: &'static str,
    },
    /// A name that Kubernetes does not accept.
    #[error(
        "{path}: {found} is not a name; write lower-case letters, digits, '-' and, in metadata.name, '.', such as bank-a-web"
    )]
    Name {
        /// The path of the field.
        path: &'static str,
        /// The name, quoted and escaped.
        found: String,
    },
    /// More mistakes than are reported one by one.
    #[error("{count} more mistakes are not shown; correct those above first")]
    More {
        /// How many.
        count: usize,
    },
}

/// All mistakes in the structure of one document, in the order of its fields. There is at least one. `O` is the type of the
/// object.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct DecodeErrors<O = PortForward> {
    mistakes: Vec<DecodeError>,
    rest: Option<Box<Rest<O>>>,
}

/// What could be decoded of a document with mistakes in its structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Rest<O = PortForward> {
    /// The object. Its wrong and missing fields have values without meaning.
    pub object: O,
    /// The paths of these fields, and of the unknown ones.
    pub touched: Vec<String>,
}

impl<O> DecodeErrors<O> {
    /// All `mistakes`, of which there is at least one.
    pub(super) fn of(mistakes: Mistakes<DecodeError>, rest: Option<Rest<O>>) -> Self {
        Self { mistakes: mistakes.into_vec(|count| DecodeError::More { count }), rest: rest.map(Box::new) }
    }

    /// The mistakes, at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[DecodeError] {
        &self.mistakes
    }

    /// What could be decoded nevertheless, so that mistakes in its values can be reported too.
    #[must_use]
    pub fn rest(&self) -> Option<&Rest<O>> {
        self.rest.as_deref()
    }
}

impl<O> From<DecodeError> for DecodeErrors<O> {
    fn from(error: DecodeError) -> Self {
        Self { mistakes: vec![error], rest: None }
    }
}

impl<O> fmt::Display for DecodeErrors<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.mistakes.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
