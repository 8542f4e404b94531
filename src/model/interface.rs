//! The name of a network interface, as an object may contain it.

use std::fmt;
use std::str::FromStr;

use arrayvec::ArrayString;

/// The name of a network interface: a letter, digit or `_`, then letters, digits, `_`, `.` or `-`, at most 15 characters.
///
/// This is stricter than the kernel (`dev_valid_name`, net/core/dev.c), because iptables reads a trailing `+` as a
/// wildcard, a lone `+` as no match at all, `!` as a negation and a newline as the start of the next rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(ArrayString<{ Self::MAX_LEN }>);

/// A text that is not the name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInterfaceName;

impl InterfaceName {
    /// The maximum length of a name: `IFNAMSIZ` minus the closing zero byte (netdevice(7)).
    pub const MAX_LEN: usize = 15;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let well_formed = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text.chars().all(plain)
            && text.len() <= Self::MAX_LEN;
        // `all` and `default` are not interfaces but directories in /proc/sys/net/ipv4/conf.
        if well_formed && !matches!(text, "lo" | "all" | "default") {
            ArrayString::from(text).map(Self).map_err(|_| InvalidInterfaceName)
        } else {
            Err(InvalidInterfaceName)
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InvalidInterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an interface name must begin with a letter, digit or '_' and contain only letters, digits, '_', '.' and '-'; it has at most 15 characters and is not lo, all or default")
    }
}

impl std::error::Error for InvalidInterfaceName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_taken() {
        for name in
            ["eth0", "bond0.100", "wan-1", "enp3s0f1", "a", "abcdefghijklmno", "br-lan", "vrrp.51", "_uplink", "6in4-wan6", "lo0"]
        {
            assert_eq!(name.parse::<InterfaceName>().unwrap().as_str(), name);
        }
        for name in [
            "",
            "+",
            "e+",
            "-j",
            "!",
            "! eth0",
            "a b",
            "a\tb",
            "eth0\nCOMMIT",
            "../../etc",
            "a/b",
            "eth0:1",
            "eth0@if2",
            "ëth0",
            "abcdefghijklmnop",
            "lo",
            "all",
            "default",
            ".",
            "..",
        ] {
            assert!(name.parse::<InterfaceName>().is_err(), "{name:?}");
        }
    }
}
