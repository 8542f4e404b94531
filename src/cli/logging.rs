//! Logs to standard error: text in a terminal, JSON in a pod or on request.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The Kubernetes client and its watchers log every failed try. This program logs each outage once.
const DEFAULT_FILTER: &str = "info,kube_client=off,kube_runtime=off";

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub(super) struct LogOptions {
    /// Format of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Auto, env = "PORTFORWARD_LOG_FORMAT")]
    log_format: LogFormat,
    /// Log level: error, warn, info, debug or trace; or a filter by module, such as info,portforward_operator::plan=debug
    #[arg(long, value_name = "LEVEL", default_value = DEFAULT_FILTER, env = "PORTFORWARD_LOG")]
    log: String,
}

impl Default for LogOptions {
    /// The options of a command that has no log options.
    fn default() -> Self {
        Self { log_format: LogFormat::Auto, log: DEFAULT_FILTER.to_owned() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// JSON in a pod, text elsewhere
    Auto,
    /// One line of text for each message
    Text,
    /// One JSON object for each message
    Json,
}

/// Starts logging. If the filter is invalid, uses the default and logs a warning.
pub(super) fn start(options: &LogOptions) {
    let (filter, trouble) = match options.log.parse::<EnvFilter>() {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    };
    // The kubelet sets this variable in every container.
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // If nobody reads standard error, tracing would report this on standard error too, and the write would end the thread.
        .log_internal_errors(false)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none());
    match options.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Auto if in_pod && !terminal => builder.json().flatten_event(true).init(),
        LogFormat::Auto | LogFormat::Text => builder.with_target(false).init(),
    }
    if let Some(error) = trouble {
        tracing::warn!(%error, filter = options.log, "the log level is invalid; the default level info is used");
    }
}
