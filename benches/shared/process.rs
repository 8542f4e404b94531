//! What a process costs, by `/proc` (proc(5)).

use std::fs;
use std::time::Duration;

/// The CPU time that the process and the ended programs that it has run have used. The kernel counts it exactly and shows it
/// in steps of 10 ms.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // utime, stime, cutime and cstime.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(4);
    Duration::from_millis(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// The resident memory in MiB: now, and at most.
pub(crate) fn memory(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        f64::from(kibibytes.unwrap_or_default()) / 1024.0
    };
    (value("VmRSS:"), value("VmHWM:"))
}
