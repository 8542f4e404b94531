//! Tests the chart and the files that are generated from it: what it renders, what it refuses, and that a real API server
//! accepts it.
//!
//! `make generate` renews the files that are generated from the chart and from the API types.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../exposition/mod.rs"]
mod exposition;
#[path = "../plane/mod.rs"]
mod plane;

mod alerts;
mod combinations;
mod conventions;
mod generated;
mod helm;
mod kustomize;
mod metadata;
mod python;
mod relocated;
mod schema;
mod server;
mod subchart;
mod table;
mod values;
mod versions;
