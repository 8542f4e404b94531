//! The agent against a real API server, with real traffic: what users apply is so in the kernel, and the objects say
//! what is true, whatever dies, hangs or is taken away in between.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../plane/mod.rs"]
mod plane;

mod beside;
mod check;
mod fleet;
mod lifecycle;
mod limits;
mod newer;
mod nodes;
mod outages;
mod rest;
mod scrape;
mod servers;
mod starts;
