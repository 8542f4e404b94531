//! What the benchmarks share: the figures that they write, the processes that they observe, and how they are started.
#![allow(dead_code, reason = "every benchmark compiles the whole module and uses only a part of it")]

pub(crate) mod figures;
pub(crate) mod linear;
pub(crate) mod manifest;
pub(crate) mod process;
pub(crate) mod shapes;
pub(crate) mod supervise;

/// Prints the current step.
pub(crate) fn progress(text: &str) {
    eprintln!("... {text}");
}

/// Whether only the gross goals are measured: `QUICK=1`.
pub(crate) fn is_quick() -> bool {
    std::env::var("QUICK").is_ok_and(|value| !value.is_empty() && value != "0")
}

/// A number in an environment variable.
pub(crate) fn number(name: &str, otherwise: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is {text}; write a number")),
        Err(_) => otherwise,
    }
}
