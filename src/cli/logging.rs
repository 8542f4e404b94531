//! Logs to standard error: text in a terminal, JSON in a pod or on request.
//!
//! Every event is one line. Names of files and messages of other programs may contain any character, so control characters
//! are written escaped.

use std::fmt;
use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

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
        LogFormat::Auto | LogFormat::Text => builder.with_target(false).fmt_fields(Escaped).init(),
    }
    if let Some(error) = trouble {
        tracing::warn!(%error, filter = options.log, "the log level is invalid; the default level info is used");
    }
}

/// Writes the message and the fields of an event as text without control characters.
struct Escaped;

impl<'writer> FormatFields<'writer> for Escaped {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        for c in text.chars() {
            if is_hostile(c) { write!(writer, "{}", c.escape_default())? } else { writer.write_char(c)? }
        }
        Ok(())
    }
}

/// Whether a character controls a terminal, ends a line or changes the direction of the text after it (Unicode, UAX 9).
fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_its_texts_contain() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).fmt_fields(Escaped).with_writer(move || writer.clone()).finish();
        let hostile = "a\u{1b}[2J\nb\r\u{9b}c\u{202e}d ä";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(file = %hostile, text = hostile, "says {hostile}");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 1 && !text.trim_end().contains(is_hostile), "{text:?}");
        // The library escapes some of the characters in its own way.
        for part in [r"[2J\nb\r\", r"c\u{202e}d ä"] {
            assert_eq!(text.matches(part).count(), 3, "{text}");
        }
    }
}
