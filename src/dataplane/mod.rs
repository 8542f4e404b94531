pub mod conntrack;
pub mod routes;
