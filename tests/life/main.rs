//! The agent on a real kernel: edits, restarts, repairs, cleanup, conditions on a node with obstacles, invalid manifests,
//! metrics, and the command line.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../exposition/mod.rs"]
mod exposition;

mod beside;
mod carried;
mod cleanup;
mod cli;
mod closing;
mod conditions;
mod disk;
mod edits;
mod ends;
mod folder;
mod grants;
mod in_force;
mod invalid;
mod logs;
mod marks;
mod metrics;
mod nftables;
mod others;
mod outdated;
mod own;
mod pages;
mod pod;
mod reboot;
mod repair;
mod restarts;
mod stage;
mod status;
mod traces;
mod turns;
mod users;
mod ways;
