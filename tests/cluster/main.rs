//! Tests the agent with a real API server and real traffic: the kernel does what users apply, and the objects report the true
//! state, also while programs die, hang or lose their rights.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../plane/mod.rs"]
mod plane;

mod beside;
mod bytes;
mod check;
mod fleet;
mod floor;
mod grants;
mod lifecycle;
mod limits;
mod newer;
mod nodes;
mod outages;
mod pools;
mod rest;
mod scrape;
mod servers;
mod starts;
mod stolen;
mod tenants;
