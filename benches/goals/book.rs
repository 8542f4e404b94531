//! All figures of the last run of each benchmark.

use crate::shared::figures::{Figure, Figures, median};
use crate::shared::shapes::Shape;

/// The figures, and where they are from.
pub(crate) struct Book {
    /// One for each benchmark.
    pub(crate) parts: Vec<Figures>,
}

/// Which figure is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    /// What was measured.
    pub(crate) what: &'a str,
    /// The variant of iptables of the run.
    pub(crate) run: &'a str,
    /// Whose it is.
    pub(crate) of: &'a str,
    /// The shape.
    pub(crate) shape: Shape,
    /// The number of forwards.
    pub(crate) forwards: u32,
}

impl<'a> Key<'a> {
    /// A figure of ours with the first shape.
    pub(crate) const fn ours(what: &'a str, run: &'a str, forwards: u32) -> Self {
        Self { what, run, of: "ours", shape: Shape::OwnPort, forwards }
    }

    /// The same of somebody else.
    pub(crate) const fn of(self, of: &'a str) -> Self {
        Self { of, ..self }
    }

    /// The same with another number of forwards.
    pub(crate) const fn forwards(self, forwards: u32) -> Self {
        Self { forwards, ..self }
    }

    /// The same with another measure.
    pub(crate) const fn what(self, what: &'a str) -> Self {
        Self { what, ..self }
    }
}

impl Book {
    /// A figure, if it was measured.
    pub(crate) fn find(&self, key: Key<'_>) -> Option<&Figure> {
        let shape = key.shape.to_string();
        let is_it = |figure: &&Figure| {
            figure.what == key.what
                && figure.run == key.run
                && figure.of == key.of
                && figure.shape == shape
                && figure.forwards == key.forwards
        };
        self.parts.iter().flat_map(|part| &part.figures).find(is_it)
    }
}

/// The median of the ratios of two figures, round by round if both have as many, otherwise the ratio of their medians.
pub(crate) fn ratio(one: &Figure, other: &Figure) -> f64 {
    if one.values.len() == other.values.len() && one.values.len() > 1 {
        let ratios: Vec<f64> = one.values.iter().zip(&other.values).map(|(one, other)| one / other).collect();
        return median(&ratios);
    }
    one.median() / other.median()
}
