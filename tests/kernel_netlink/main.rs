//! What is read from and written to a real kernel by netlink: facts, events, host routes, conntrack.
//!
//! Each test has a network namespace of its own and needs root, `ip`, `nft` and `conntrack`.

mod conntrack;
mod facts;
mod namespace;
mod routes;
mod watch;
