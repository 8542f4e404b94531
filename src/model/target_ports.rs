//! The target port of a flow.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use super::PortRange;

/// The target port of a flow, as a function of the port that the flow was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetPorts {
    /// The same port.
    Same,
    /// This port, for every listen port; 1 to 65535.
    One(u16),
    /// The port at the same offset from the first target port.
    Shifted(Shift),
}

/// Maps a range of ports to another range of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shift {
    from: PortRange,
    to: PortRange,
}

/// Two ranges of ports that have different sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidShift;

impl TargetPorts {
    /// The target port for a flow to `port`.
    #[must_use]
    pub fn of(self, port: u16) -> u16 {
        match self {
            Self::Same => port,
            Self::One(target) => target,
            Self::Shifted(shift) => shift.of(port),
        }
    }

    /// The same mapping restricted to `ports`, which are a part of the listen ports. A single port always gives
    /// [`Self::One`].
    #[must_use]
    pub fn part(self, ports: PortRange) -> Self {
        if ports.is_single() {
            return Self::One(self.of(ports.first()));
        }
        match self {
            Self::Same | Self::One(_) => self,
            Self::Shifted(shift) => {
                let port = |port| NonZeroU16::new(shift.of(port));
                let to = port(ports.first()).zip(port(ports.last())).and_then(|(first, last)| PortRange::new(first, last).ok());
                to.and_then(|to| Shift::new(ports, to).ok()).map_or(self, Self::Shifted)
            }
        }
    }
}

impl Shift {
    /// Maps `from` to `to`.
    ///
    /// # Errors
    /// When they have different sizes.
    pub fn new(from: PortRange, to: PortRange) -> Result<Self, InvalidShift> {
        if from.count() == to.count() { Ok(Self { from, to }) } else { Err(InvalidShift) }
    }

    /// The listen ports.
    #[must_use]
    pub const fn from(self) -> PortRange {
        self.from
    }

    /// The target ports.
    #[must_use]
    pub const fn to(self) -> PortRange {
        self.to
    }

    /// The target port for a flow to `port`. A port outside of the range wraps around, as in the kernel
    /// (`NF_NAT_RANGE_PROTO_OFFSET`).
    fn of(self, port: u16) -> u16 {
        let offset = u32::from(port.wrapping_sub(self.from.first())) % self.to.count();
        self.to.first() + u16::try_from(offset).unwrap_or_default()
    }
}

/// As iptables writes it: the target ports and the first listen port, `44000-44099/34000`.
impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, base) = (self.to, self.from.first());
        if to.is_single() { write!(f, "{}/{base}", to.first()) } else { write!(f, "{}-{}/{base}", to.first(), to.last()) }
    }
}

impl FromStr for Shift {
    type Err = InvalidShift;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.parse::<NonZeroU16>().map_err(|_| InvalidShift);
        let (to, base) = text.split_once('/').ok_or(InvalidShift)?;
        let (first, last) = to.split_once('-').unwrap_or((to, to));
        let to = PortRange::new(port(first)?, port(last)?).map_err(|_| InvalidShift)?;
        let base = port(base)?;
        let last = base.checked_add(to.last() - to.first()).ok_or(InvalidShift)?;
        Self::new(PortRange::new(base, last).map_err(|_| InvalidShift)?, to)
    }
}

impl fmt::Display for InvalidShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("target ports must be FIRST-LAST/BASE, where BASE is the first listen port; no port may exceed 65535")
    }
}

impl std::error::Error for InvalidShift {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shift(from: &str, to: &str) -> Result<Shift, InvalidShift> {
        Shift::new(from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn a_part_of_a_range_goes_where_it_went() {
        let shifted = TargetPorts::Shifted(shift("34000:34099", "44000:44099").unwrap());
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        for whole in [TargetPorts::Same, TargetPorts::One(80), shifted] {
            for ports in ["34000:34009", "34050", "34098:34099"].map(range) {
                let part = whole.part(ports);
                assert_eq!(
                    [ports.first(), ports.last()].map(|port| part.of(port)),
                    [ports.first(), ports.last()].map(|port| whole.of(port))
                );
                assert!(!ports.is_single() || matches!(part, TargetPorts::One(_)));
            }
        }
        assert_eq!(shifted.part(range("34010:34019")), TargetPorts::Shifted(shift("34010:34019", "44010:44019").unwrap()));
    }

    #[test]
    fn each_port_keeps_its_place_in_the_range() {
        let up = TargetPorts::Shifted(shift("34000:34099", "44000:44099").unwrap());
        assert_eq!([34000, 34001, 34099].map(|port| up.of(port)), [44000, 44001, 44099]);
        let down = TargetPorts::Shifted(shift("65000:65535", "1:536").unwrap());
        assert_eq!([65000, 65535].map(|port| down.of(port)), [1, 536]);
        let overlapping = TargetPorts::Shifted(shift("10:20", "11:21").unwrap());
        assert_eq!([10, 20].map(|port| overlapping.of(port)), [11, 21]);
        let every = TargetPorts::Shifted(shift("1:65535", "1:65535").unwrap());
        assert_eq!([1, 65535].map(|port| every.of(port)), [1, 65535]);
        assert_eq!((TargetPorts::Same.of(7), TargetPorts::One(9).of(7)), (7, 9));
    }

    #[test]
    fn ranges_of_other_width_are_no_shift() {
        assert_eq!(shift("1:10", "1:9"), Err(InvalidShift));
        assert_eq!(shift("1:10", "11:21"), Err(InvalidShift));
    }

    #[test]
    fn a_shift_reads_as_it_prints() {
        for text in ["44000-44099/34000", "1-536/65000", "9/1"] {
            assert_eq!(text.parse::<Shift>().unwrap().to_string(), text);
        }
        for text in ["", "44000", "44000-44099", "44000-44099/", "44000-44099/0", "9-8/1", "1-537/65000", "a-b/c", "0-9/1"] {
            assert_eq!(text.parse::<Shift>(), Err(InvalidShift), "{text}");
        }
    }
}
