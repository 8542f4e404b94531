//! A run of leading bits: the common representation of addresses, ports and clients in the trie.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::PortRange;

/// The number of bits in one level of the trie: a hexadecimal digit.
pub(super) const LEVEL: u8 = 4;

/// The first `len` bits of a number with `width` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    /// The bits, left-aligned, zero after `len`.
    bits: u128,
    len: u8,
    width: u8,
}

impl Prefix {
    fn new(bits: u128, len: u8, width: u8) -> Self {
        let kept = if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len)) };
        Self { bits: bits & kept, len, width }
    }

    /// The network's bits.
    pub(super) fn of_network(network: IpNet) -> Self {
        match network.network() {
            IpAddr::V4(address) => Self::new(u128::from(address.to_bits()) << 96, network.prefix_len(), 32),
            IpAddr::V6(address) => Self::new(address.to_bits(), network.prefix_len(), 128),
        }
    }

    /// The smallest whole-level prefix that covers every port of the range.
    pub(super) fn covering(ports: PortRange) -> Self {
        let of = |port: u16| Self::new(u128::from(port) << 112, 16, 16);
        of(ports.first()).common(of(ports.last())).whole_levels()
    }

    /// The number of bits.
    pub(super) const fn len(self) -> u8 {
        self.len
    }

    /// Whether it stands for a single number.
    pub(super) const fn is_full(self) -> bool {
        self.len == self.width
    }

    /// The first `len` bits.
    pub(super) fn truncated(self, len: u8) -> Self {
        Self::new(self.bits, len, self.width)
    }

    /// The prefix without the bits after the last whole level.
    pub(super) fn whole_levels(self) -> Self {
        self.truncated(self.len - self.len % LEVEL)
    }

    /// The common leading bits of both.
    pub(super) fn common(self, other: Self) -> Self {
        let alike = u8::try_from((self.bits ^ other.bits).leading_zeros()).unwrap_or(u8::MAX);
        self.truncated(alike.min(self.len).min(other.len))
    }

    /// The network with these bits.
    pub(super) fn network(self) -> IpNet {
        let address = if self.width == 32 {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(self.bits >> 96).unwrap_or_default()))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(self.bits))
        };
        IpNet::new_assert(address, self.len)
    }

    /// The ports with these bits, without port 0, which no packet of a forward has.
    pub(super) fn ports(self) -> PortRange {
        let first = u16::try_from(self.bits >> 112).unwrap_or_default();
        let rest = u16::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
        let port = |number: u16| std::num::NonZeroU16::new(number).unwrap_or(std::num::NonZeroU16::MIN);
        PortRange::new(port(first), port(first | rest)).unwrap_or(PortRange::ALL)
    }

    /// Its whole levels as hexadecimal digits. Remaining bits are one letter from `h` on, different for different bits.
    pub(super) fn digits(self) -> String {
        let digits = self.len / LEVEL;
        let digit = |level: u8| (self.bits >> (128 - u32::from(LEVEL) * (u32::from(level) + 1))) & 0xf;
        let mut text: String = (0..digits).map(|level| format!("{:x}", digit(level))).collect();
        let rest = self.len % LEVEL;
        if rest > 0 {
            // 1, 2 or 3 bits, preceded by a one: 2..=3, 4..=7, 8..=15.
            let code = (1 << rest) | (digit(digits) >> (LEVEL - rest));
            text.extend(u8::try_from(code).ok().map(|code| char::from(b'f' + code)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Prefix {
        Prefix::of_network(text.parse().unwrap())
    }

    #[test]
    fn a_network_is_its_bits() {
        for text in ["0.0.0.0/0", "192.168.0.0/20", "10.1.2.3/32", "fd00::/8"] {
            assert_eq!(network(text).network().to_string(), text);
        }
        assert_eq!(network("192.168.0.2/32").digits(), "c0a80002");
        assert_eq!(network("10.0.0.0/9").digits(), "0ah");
        assert_eq!(network("10.224.0.0/11").digits(), "0au");
        assert_eq!(network("10.1.0.0/16").common(network("10.2.0.0/16")).whole_levels().network().to_string(), "10.0.0.0/12");
    }

    #[test]
    fn ports_are_covered_by_whole_levels() {
        for (ports, covered) in
            [("80", "80"), ("80:90", "80:95"), ("80:96", "1:255"), ("1:65535", "1:65535"), ("4096:8191", "4096:8191")]
        {
            assert_eq!(Prefix::covering(ports.parse().unwrap()).ports().to_string(), covered);
        }
    }
}
