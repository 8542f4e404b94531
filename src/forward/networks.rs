//! A list of addresses and networks: each entry once, and what belongs together merged.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Found, Refusal, RefusalReason};

/// Reads each of `texts` by `read`, which gets the path and the text of the entry. Returns the networks, merged and sorted; `None`
/// after mistakes, which are added to `found`. An entry that is there twice is a mistake with the reason `twice`.
pub(crate) fn networks(
    found: &mut Found,
    path: &str,
    texts: &[String],
    read: fn(&str, &str) -> Result<IpNet, Refusal>,
    twice: RefusalReason,
) -> Option<Vec<IpNet>> {
    let mut seen = BTreeSet::new();
    let mut valid = true;
    for (index, text) in texts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match found.take(read(&path, text)) {
            Some(network) if !seen.insert(network) => {
                found.push(Refusal::of(twice, &path, text, "is there already; remove one of the two"));
                valid = false;
            }
            Some(_) => {}
            None => valid = false,
        }
    }
    let mut merged = IpNet::aggregate(&seen.into_iter().collect());
    merged.sort();
    valid.then_some(merged)
}
