//! The command line: parses the arguments, runs the command, and returns its exit status.

#![allow(clippy::doc_markdown, reason = "the comments on options are the help text, which is not Markdown")]

mod agent;
mod check;
mod cleanup;
mod completions;
mod crd;
mod exit;
mod files;
mod health;
mod logging;
mod man;
mod options;
mod render;
mod restore;
mod screen;
mod serving;
mod status;
mod stop;
mod turn;
mod wide;

use clap::{Parser, Subcommand};

pub use exit::Exit;

use crate::version;

/// The text below the commands in `--help`. The manual page has a section for the exit status.
const AFTER_HELP: &str = "Exit status:\n  0  success\n  1  failure; the message says what failed and what to do\n  2  wrong usage; nothing was changed\n  3  render: some manifests are refused or in conflict; the others are shown\n  4  status: some forwards are not in the kernel as planned\n\nExample (changes nothing):\n  portforward-operator render examples/bank-a-web.yaml";

/// Turns `PortForward` objects into NAT rules and host routes on a proxy node.
#[derive(Debug, Parser)]
#[command(
    name = "portforward-operator",
    version = version::TEXT.as_str(),
    about = "Turns PortForward objects into NAT rules and host routes on a proxy node",
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply PortForwards from the API server or a folder to this node, until stopped; rules and routes stay when it stops
    Agent(Box<agent::AgentOptions>),
    /// Show the rules and routes that manifests become; changes nothing
    Render(render::RenderOptions),
    /// Restore the rules and routes that this node last had, from its record: for a boot without the API server
    Restore(restore::RestoreOptions),
    /// Remove all rules, routes and connections of the operator from this node; safe to run twice
    Cleanup(cleanup::CleanupOptions),
    /// Show the state of each forward on this node, read from its kernel; changes nothing
    Status(status::StatusOptions),
    /// Check the installation: the API, the live agents, and the admission policy
    Check(check::CheckOptions),
    /// Ask the agent of this node whether it is alive or ready, for probes
    Health(health::HealthOptions),
    /// Print the CustomResourceDefinitions (CRDs)
    Crd,
    /// Print the completion script of a shell
    Completions(completions::CompletionsOptions),
    /// Print the manual page; to read it: portforward-operator man | man -l -
    Man,
}

impl Command {
    /// The log options; `None` for a command that logs nothing.
    fn log(&self) -> Option<&logging::LogOptions> {
        match self {
            Self::Agent(options) => Some(&options.log),
            Self::Render(options) => Some(&options.log),
            Self::Restore(options) => Some(&options.log),
            Self::Cleanup(options) => Some(&options.log),
            Self::Status(options) => Some(&options.log),
            Self::Check(options) => Some(&options.log),
            Self::Health(_) | Self::Crd | Self::Completions(_) | Self::Man => None,
        }
    }
}

/// Parses the command line and runs the command.
#[must_use]
pub fn main() -> Exit {
    let cli = Cli::parse();
    logging::start(&cli.command.log().cloned().unwrap_or_default());
    let result = match cli.command {
        Command::Agent(options) => exit::with_runtime(agent::run(*options)),
        Command::Render(options) => render::run(&options),
        Command::Restore(options) => exit::with_runtime(restore::run(options)),
        Command::Cleanup(options) => exit::with_runtime(cleanup::run(options)),
        Command::Status(options) => exit::with_runtime(status::run(options)),
        Command::Check(options) => exit::with_runtime(check::run(options)),
        Command::Health(options) => health::run(&options),
        Command::Crd => crd::run(),
        Command::Completions(options) => completions::run(&options),
        Command::Man => man::run(),
    };
    result.unwrap_or_else(|error| {
        exit::complain(&format!("error: {error:#}"));
        Exit::Failed
    })
}
