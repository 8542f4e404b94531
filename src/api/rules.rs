//! The rules in CEL by which `kubectl apply` refuses what one object can show to be wrong.

use kube::core::Rule;

pub(super) fn address() -> Vec<Rule> {
    Vec::new()
}

pub(super) fn client() -> Vec<Rule> {
    Vec::new()
}

pub(super) fn interface() -> Vec<Rule> {
    Vec::new()
}

pub(super) fn requirement() -> Vec<Rule> {
    Vec::new()
}
