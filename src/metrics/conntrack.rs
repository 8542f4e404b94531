//! The fill level of the node's conntrack table. When the table is full, the kernel drops every new connection, of all
//! forwards.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Read at each scrape. If conntrack is not loaded, both the number of connections and the limit are 0.
#[derive(Debug)]
pub(super) struct ConntrackTable;

const READINGS: [(&str, &str, &str); 2] = [
    ("conntrack_entries", "nf_conntrack_count", "Entries in the conntrack table of this node, of all programs."),
    (
        "conntrack_entries_limit",
        "nf_conntrack_max",
        "Maximum number of entries in the conntrack table; when it is full, the kernel drops new connections.",
    ),
];

impl Collector for ConntrackTable {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, file, help) in READINGS {
            let text = fs::read_to_string(format!("/proc/sys/net/netfilter/{file}")).unwrap_or_default();
            let count = text.trim().parse::<i64>().unwrap_or(0);
            ConstGauge::new(count).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}
