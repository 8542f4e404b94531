//! Parses the node selector.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::Selector;

use super::refusal::Found;
use super::{Refusal, RefusalReason};
use crate::api::quoted;

/// The maximum number of labels, of requirements, and of values of one requirement.
const MOST: usize = 32;

/// Parses the selector at `path`. Without a selector, every node is selected.
///
/// `None` after mistakes, which are added to `found`: a key, a value or an operator is not valid, or an operator does not fit
/// its values.
pub(crate) fn selector(found: &mut Found, path: &str, raw: Option<&LabelSelector>) -> Option<Selector> {
    let raw = raw.cloned().unwrap_or_default();
    let labels = raw.match_labels.iter().flatten();
    let requirements = raw.match_expressions.as_deref().unwrap_or_default();
    if labels.clone().count() > MOST || requirements.len() > MOST {
        let what = format_args!("has more than {MOST} labels or requirements; use fewer");
        found.push(Refusal::new(RefusalReason::TooMany, path, what));
        return None;
    }
    let mut valid = true;
    let mut check = |checked| valid &= found.take(checked).is_some();
    for (key, value) in labels {
        let path = format!("{path}.matchLabels");
        check(check_key(&path, key));
        check(check_value(&path, value));
    }
    for (index, requirement) in requirements.iter().enumerate() {
        check(check_requirement(&format!("{path}.matchExpressions[{index}]"), requirement));
    }
    if !valid {
        return None;
    }
    let refuse = |_| Refusal::new(RefusalReason::InvalidSelector, path, "is not a label selector; write matchLabels");
    found.take(Selector::try_from(raw).map_err(refuse))
}

fn check_requirement(path: &str, requirement: &LabelSelectorRequirement) -> Result<(), Refusal> {
    let values = requirement.values.as_deref().unwrap_or_default();
    let refuse = |what: &str| Err(Refusal::of(RefusalReason::InvalidSelector, path, &requirement.operator, what));
    match (requirement.operator.as_str(), values) {
        ("In" | "NotIn", []) => refuse("needs values; add at least one"),
        ("Exists" | "DoesNotExist", [_, ..]) => refuse("takes no values; remove them, or write In or NotIn"),
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) if values.len() > MOST => {
            Err(Refusal::new(RefusalReason::TooMany, path, format_args!("has more than {MOST} values; use fewer")))
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {
            check_key(path, &requirement.key)?;
            values.iter().try_for_each(|value| check_value(path, value))
        }
        (_, _) => refuse("is not an operator; write In, NotIn, Exists or DoesNotExist"),
    }
}

/// A name of at most 63 characters, optionally after a DNS subdomain of at most 253 characters and a '/'.
pub(crate) fn is_label_key(key: &str) -> bool {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let domain_ok = domain.is_none_or(|domain| {
        let ends = domain.bytes().next().is_some_and(plain) && domain.bytes().last().is_some_and(plain);
        ends && domain.len() <= 253 && domain.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
    });
    domain_ok && !name.is_empty() && is_label_value(name)
}

fn check_key(path: &str, key: &str) -> Result<(), Refusal> {
    if is_label_key(key) {
        return Ok(());
    }
    let what = format_args!("{} is not the key of a label; write it as kubectl get nodes --show-labels shows it", quoted(key));
    Err(Refusal::new(RefusalReason::InvalidSelector, path, what))
}

fn check_value(path: &str, value: &str) -> Result<(), Refusal> {
    if is_label_value(value) {
        return Ok(());
    }
    let what =
        format_args!("{} is not the value of a label; write it as kubectl get nodes --show-labels shows it", quoted(value));
    Err(Refusal::new(RefusalReason::InvalidSelector, path, what))
}

/// At most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends; or empty.
pub(crate) fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
