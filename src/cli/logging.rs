//! Logs on standard error: for people in a terminal, JSON on request and where nobody watches.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The client and its watchers log every failed try; this program says each outage once.
const DEFAULT_FILTER: &str = "info,kube_client=off,kube_runtime=off";

#[derive(Args, Debug)]
pub(super) struct LogOptions {
    /// How log lines look on standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Auto, env = "PORTFORWARD_LOG_FORMAT")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also by module (tracing filter syntax)
    #[arg(long, global = true, default_value = DEFAULT_FILTER, env = "PORTFORWARD_LOG")]
    log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Text in a terminal or outside a pod, JSON in a pod
    Auto,
    /// One line for people
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging; a filter that cannot be read is replaced by `info`, and said so.
pub(super) fn start(options: &LogOptions) {
    let (filter, trouble) = match options.log.parse::<EnvFilter>() {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    };
    // A kubelet tells every container where the API server is.
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where nobody reads standard error any more, nobody reads that complaint either; it would end the thread.
        .log_internal_errors(false)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none());
    match options.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Auto if in_pod && !terminal => builder.json().flatten_event(true).init(),
        LogFormat::Auto | LogFormat::Text => builder.with_target(false).init(),
    }
    if let Some(error) = trouble {
        tracing::warn!(%error, filter = options.log, "the log filter cannot be read; logging at info");
    }
}
