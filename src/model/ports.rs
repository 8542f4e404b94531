//! A range of transport ports, 1 to 65535.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A range of ports, both ends included, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// A range of ports that ends before it begins, or a text that is not `first` or `first:last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPortRange;

impl PortRange {
    /// All ports, 1 to 65535.
    pub const ALL: Self = Self { first: NonZeroU16::MIN, last: NonZeroU16::MAX };

    /// The ports `first` to `last`.
    ///
    /// # Errors
    /// When `last` is below `first`.
    pub fn new(first: NonZeroU16, last: NonZeroU16) -> Result<Self, InvalidPortRange> {
        if last < first { Err(InvalidPortRange) } else { Ok(Self { first, last }) }
    }

    /// The one port `port`.
    #[must_use]
    pub const fn single(port: NonZeroU16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first.get()
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last.get()
    }

    /// The number of ports.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.last() as u32 - self.first() as u32 + 1
    }

    /// Whether the range is a single port.
    #[must_use]
    pub const fn is_single(self) -> bool {
        self.first() == self.last()
    }

    /// Whether both ranges have a port in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }

    /// The ports that are in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last)).ok()
    }

    /// The ports that are in none of `others`, as ranges in ascending order.
    #[must_use]
    pub fn minus(self, others: &[Self]) -> Vec<Self> {
        let mut left = vec![self];
        for other in others {
            left = left.into_iter().flat_map(|run| run.without(*other)).flatten().collect();
        }
        left
    }

    /// The part below `other`, and the part above it.
    fn without(self, other: Self) -> [Option<Self>; 2] {
        if !self.overlaps(other) {
            return [Some(self), None];
        }
        let run = |first: Option<NonZeroU16>, last: Option<NonZeroU16>| Self::new(first?, last?).ok();
        let before = NonZeroU16::new(other.first() - 1);
        [run(Some(self.first), before), run(other.last.checked_add(1), Some(self.last))]
    }

    /// Whether `port` is in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first() <= port && port <= self.last()
    }
}

/// As iptables writes it: `80` or `80:90`.
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { write!(f, "{}", self.first) } else { write!(f, "{}:{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        let parse = |port: &str| port.parse().map_err(|_| InvalidPortRange);
        Self::new(parse(first)?, parse(last)?)
    }
}

impl fmt::Display for InvalidPortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port range must be FIRST or FIRST:LAST, with ports from 1 to 65535 and LAST not below FIRST")
    }
}

impl std::error::Error for InvalidPortRange {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_range_is_what_lies_between() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        let left = |of: &str, others: &[&str]| {
            let others: Vec<_> = others.iter().map(|text| range(text)).collect();
            range(of).minus(&others).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(left("1:65535", &["22", "6443", "1", "65535"]), ["2:21", "23:6442", "6444:65534"]);
        assert_eq!(left("80", &["22"]), ["80"]);
        assert_eq!(left("80", &["70:90"]), [""; 0]);
        assert_eq!(left("80:90", &["85:99", "1:80"]), ["81:84"]);
        assert_eq!(range("80:90").intersection(range("85:99")), Some(range("85:90")));
        assert_eq!(range("80:84").intersection(range("85:99")), None);
    }

    #[test]
    fn a_range_reads_as_it_prints() {
        for text in ["1", "80", "80:90", "1:65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for text in ["", "0", "90:80", "65536", "80:", "http", "1:2:3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }
}
