//! The bit of the connection mark that shows which flows are the operator's.

use std::fmt;
use std::str::FromStr;

/// One bit of the mark that conntrack keeps for each flow (ctmark; `CONNMARK` and `connmark` in iptables-extensions(8)). It is set
/// for exactly the flows that a rule of the operator translates. Other bits belong to other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connmark(u32);

/// A text that does not name one bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidConnmark(String);

impl fmt::Display for InvalidConnmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not one bit of a 32-bit mark; write a power of two, such as 0x1000 or 4096", self.0)
    }
}

impl std::error::Error for InvalidConnmark {}

impl Connmark {
    /// 0x1000. kube-proxy, Calico, Cilium, Tailscale, Antrea and the CNI plugins use other bits by default.
    pub const DEFAULT: Self = Self(0x1000);

    /// The bit, as a number.
    #[must_use]
    pub const fn bit(self) -> u32 {
        self.0
    }

    /// Whether `mark` has the bit.
    #[must_use]
    pub const fn is_set_in(self, mark: u32) -> bool {
        mark & self.0 != 0
    }
}

impl Default for Connmark {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for Connmark {
    type Err = InvalidConnmark;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The standard library accepts a plus sign.
        let number = match text.strip_prefix("0x") {
            _ if text.contains('+') => None,
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        number.filter(|bit| bit.is_power_of_two()).map(Self).ok_or_else(|| InvalidConnmark(text.to_owned()))
    }
}

impl fmt::Display for Connmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_is_a_power_of_two_in_hexadecimal_or_decimal() {
        for (text, bit) in [("0x1000", 0x1000), ("4096", 0x1000), ("1", 1), ("0x80000000", 1 << 31)] {
            assert_eq!(text.parse(), Ok(Connmark(bit)));
        }
        for text in ["", "0", "3", "0x", "0x3000", "0x100000000", "-1", "+8", "0X10", "0x+8", "bit 4", " 8"] {
            assert_eq!(text.parse::<Connmark>(), Err(InvalidConnmark(text.to_owned())));
        }
        assert_eq!(Connmark::default().to_string(), "0x1000");
        assert!(Connmark::default().is_set_in(0x1001) && !Connmark::default().is_set_in(0xfff));
    }
}
