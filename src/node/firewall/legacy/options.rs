//! The options of matches that concern the header or the rate of a packet, and those of the target `CT`
//! (iptables-extensions(8)).

use crate::model::{Action, Condition, Field, Polarity};
use crate::node::firewall::xtables;

/// The condition of a match that needs no option.
pub(super) fn of_match(name: &str, rule: &str) -> Option<Condition> {
    match name {
        "rpfilter" => {
            let has = |option| rule.split(' ').any(|word| word == option);
            let polarity = if has("--invert") { Polarity::IsNot } else { Polarity::Is };
            Some(xtables::source_route(has("--loose"), polarity))
        }
        "socket" => Some(Condition::Uncertain),
        _ => None,
    }
}

/// The condition of an option; `Uncertain` if it is not known here.
pub(super) fn condition(option: &str, values: &[&str], polarity: Polarity) -> Condition {
    read(option, values, polarity).unwrap_or(Condition::Uncertain)
}

fn read(option: &str, values: &[&str], polarity: Polarity) -> Option<Condition> {
    let within = |field, range| Condition::Within { field, ranges: vec![range], polarity };
    match (option, values) {
        ("--length", [value]) => Some(within(Field::Length, super::port_range(value)?)),
        ("--mss", [value]) => Some(within(Field::SegmentSize, super::port_range(value)?)),
        ("--ttl-eq", [value]) => xtables::ttl(u8::from(polarity == Polarity::IsNot), value.parse().ok()?),
        ("--ttl-lt", [value]) => xtables::ttl(2, value.parse().ok()?),
        ("--ttl-gt", [value]) => xtables::ttl(3, value.parse().ok()?),
        ("--dscp", [value]) => Some(xtables::dscp(u64::from_str_radix(value.strip_prefix("0x")?, 16).ok()?, polarity)),
        ("--pkt-type", [value]) => {
            let kind = match *value {
                "unicast" => 0,
                "broadcast" => 1,
                "multicast" => 2,
                _ => return None,
            };
            Some(within(Field::PacketType, kind..=kind))
        }
        ("--mac-source", [value]) => {
            let address = u64::from_str_radix(&value.replace(':', ""), 16).ok()?;
            Some(within(Field::SourceHardware, address..=address))
        }
        ("--ctdir", ["ORIGINAL"]) => Some(within(Field::Direction, 0..=0)),
        ("--ctdir", ["REPLY"]) => Some(within(Field::Direction, 1..=1)),
        ("--src-type", [value]) => Some(of_type(Field::SourceType, value, polarity)?),
        ("--dst-type", [value]) => Some(of_type(Field::DestinationType, value, polarity)?),
        ("--hashlimit-above" | "--connlimit-above", [_]) => Some(Condition::Excess),
        _ => None,
    }
}

/// The condition that an address has one of these types, with the numbers of rtnetlink(7).
fn of_type(field: Field, list: &str, polarity: Polarity) -> Option<Condition> {
    let number = |name| match name {
        "UNSPEC" => Some(0),
        "UNICAST" => Some(1),
        "LOCAL" => Some(2),
        "BROADCAST" => Some(3),
        "ANYCAST" => Some(4),
        "MULTICAST" => Some(5),
        "BLACKHOLE" => Some(6),
        "UNREACHABLE" => Some(7),
        "PROHIBIT" => Some(8),
        _ => None,
    };
    let ranges = list.split(',').map(|name| number(name).map(|kind| kind..=kind)).collect::<Option<_>>()?;
    Some(Condition::Within { field, ranges, polarity })
}

/// Whether an option only says in more detail what another one of the same match means.
pub(super) fn is_detail(option: &str) -> bool {
    option.strip_prefix("--hashlimit-").is_some_and(|rest| !matches!(rest, "above" | "upto"))
        || matches!(option, "--connlimit-mask" | "--connlimit-saddr" | "--connlimit-daddr")
        || matches!(option, "--loose" | "--invert" | "--validmark" | "--accept-local")
}

/// What the target `CT` does with these options.
pub(super) fn tracking(options: &[&str]) -> Action {
    let zone = |option: &str| {
        let place = options.iter().position(|found| *found == option)?;
        Some(options.get(place + 1).and_then(|value| value.parse::<u16>().ok()))
    };
    if options.contains(&"--notrack") {
        return Action::Untrack;
    }
    // A zone for the original direction alone leaves the replies in zone 0.
    match zone("--zone").or_else(|| zone("--zone-reply")) {
        Some(zone) => Action::Zone(zone),
        None => Action::Continue,
    }
}

/// What the options of `CONNMARK` do, as iptables-save(8) prints them; `None` if they are not known here.
pub(super) fn connmark(options: &[&str]) -> Option<Action> {
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    match options {
        ["--set-xmark", pair] => {
            let (value, mask) = pair.split_once('/')?;
            Some(Action::Connmark(number(value)? | number(mask)?))
        }
        ["--save-mark", "--nfmask", of_packet, "--ctmask", mask] => Some(Action::Connmark(number(of_packet)? | number(mask)?)),
        // With shifted marks.
        ["--save-mark", ..] => Some(Action::Connmark(u32::MAX)),
        ["--restore-mark", ..] => Some(Action::Mark),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::firewall::legacy::rule;

    #[test]
    fn a_connection_mark_is_changed_in_the_bits_of_value_and_masks() {
        let does = |options: &str| rule(&format!("-i eth1 -j CONNMARK {options}")).action;
        assert_eq!(does("--set-xmark 0x7/0xffffffff"), Action::Connmark(u32::MAX));
        assert_eq!(does("--set-xmark 0x20/0x60"), Action::Connmark(0x60));
        assert_eq!(does("--set-xmark 0x80/0x0"), Action::Connmark(0x80), "the bits of the value are inverted");
        assert_eq!(does("--save-mark --nfmask 0xff --ctmask 0xf00"), Action::Connmark(0xfff));
        assert_eq!(does("--save-mark --nfmask 0xff --ctmask 0xff --left-shift-mark 8"), Action::Connmark(u32::MAX));
        assert_eq!(does("--restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"), Action::Mark);
        assert_eq!(does("--newer-option 1"), Action::Uncertain);
    }

    #[test]
    fn limits_of_the_header_are_ranges() {
        let of = |text: &str| rule(text).conditions;
        let within = |field, range, polarity| Condition::Within { field, ranges: vec![range], polarity };
        assert_eq!(of("-m length --length 0:40 -j DROP"), [within(Field::Length, 0..=40, Polarity::Is)]);
        assert_eq!(of("-m length ! --length 0:1500 -j DROP"), [within(Field::Length, 0..=1500, Polarity::IsNot)]);
        assert_eq!(of("-m ttl --ttl-lt 5 -j DROP"), [within(Field::TimeToLive, 5..=u64::MAX, Polarity::IsNot)]);
        assert_eq!(of("-m dscp --dscp 0x2e -j DROP"), [within(Field::Tos, 0xb8..=0xbb, Polarity::Is)]);
        assert_eq!(of("-m pkttype --pkt-type multicast -j DROP"), [within(Field::PacketType, 2..=2, Polarity::Is)]);
        assert_eq!(of("-m addrtype ! --dst-type LOCAL -j DROP"), [within(Field::DestinationType, 2..=2, Polarity::IsNot)]);
        assert_eq!(of("-m rpfilter --validmark --invert -j DROP"), [within(Field::StrictSourceRoute, 1..=1, Polarity::IsNot)]);
        assert_eq!(of("-m conntrack --ctdir REPLY -j DROP"), [within(Field::Direction, 1..=1, Polarity::Is)]);
        assert_eq!(of("-m mac ! --mac-source 00:11:22:33:44:55 -j DROP").len(), 1);
        let hash = "-m hashlimit --hashlimit-above 9/sec --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name x -j DROP";
        assert_eq!(of(hash), [Condition::Excess]);
        assert_eq!(of("-m hashlimit --hashlimit-upto 9/sec --hashlimit-name x -j ACCEPT"), [Condition::Uncertain]);
    }

    #[test]
    fn a_zone_is_that_of_the_replies() {
        let does = |text: &str| rule(text).action;
        assert_eq!(does("-i eth1 -j CT --zone 5"), Action::Zone(Some(5)));
        assert_eq!(does("-i eth1 -j CT --zone-reply 5"), Action::Zone(Some(5)));
        assert_eq!(does("-i eth1 -j CT --zone mark"), Action::Zone(None));
        assert_eq!(does("-i eth1 -j CT --zone-orig 5"), Action::Continue);
    }
}
