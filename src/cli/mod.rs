//! The command line: what a person types, and what each command gives back to the shell.

#![allow(clippy::doc_markdown, reason = "the comments on options are the help text, which is no Markdown")]

mod agent;
mod check;
mod cleanup;
mod completions;
mod crd;
mod exit;
mod logging;
mod man;
mod options;
mod render;
mod restore;
mod serving;
mod status;
mod stop;
mod turn;
mod wide;

use clap::{Parser, Subcommand};

pub use exit::Exit;

use crate::version;

/// Turns `PortForward` objects into NAT rules and host routes on a proxy node.
#[derive(Debug, Parser)]
#[command(
    name = "portforward-operator",
    version = version::TEXT.as_str(),
    about = "Turns PortForward objects into NAT rules and host routes on a proxy node",
    after_help = "Exit status:\n  0  done\n  1  something failed; the message says what, where and what to do\n  2  the command line is wrong; nothing was touched\n  3  render: some manifests are refused or in conflict; the others are shown\n  4  status: the kernel does not hold some forwards as it should\n\nA first look, touching nothing:\n  portforward-operator render examples/bank-a-web.yaml"
)]
struct Cli {
    #[command(flatten)]
    log: logging::LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep this node's kernel as the PortForwards ask for, of the API server or of a folder; when it stops, the kernel stays as it is
    Agent(Box<agent::AgentOptions>),
    /// Show what manifests become, rules and routes, without touching anything
    Render(render::RenderOptions),
    /// Put back what this node last applied, once, from its record; for a boot without manifests or API server
    Restore(restore::RestoreOptions),
    /// Remove everything of ours from this node's kernel: chains, jumps, routes, connections; twice is fine
    Cleanup(cleanup::CleanupOptions),
    /// Show what this node does with each forward, from its kernel as it is now, without touching anything
    Status(status::StatusOptions),
    /// Say whether the installation works: whether forwards are served, which agents live, and whether the one of this node is ready
    Check(check::CheckOptions),
    /// Print the CustomResourceDefinition
    Crd,
    /// Print what a shell needs to complete this command line
    Completions(completions::CompletionsOptions),
    /// Print the manual page; to read it: portforward-operator man | man -l -
    Man,
}

/// Parses the command line and carries it out.
#[must_use]
pub fn main() -> Exit {
    let cli = Cli::parse();
    logging::start(&cli.log);
    let result = match cli.command {
        Command::Agent(options) => exit::with_runtime(agent::run(*options)),
        Command::Render(options) => render::run(&options),
        Command::Restore(options) => exit::with_runtime(restore::run(options)),
        Command::Cleanup(options) => exit::with_runtime(cleanup::run(options)),
        Command::Status(options) => exit::with_runtime(status::run(options)),
        Command::Check(options) => exit::with_runtime(check::run(options)),
        Command::Crd => crd::run(),
        Command::Completions(options) => completions::run(&options),
        Command::Man => man::run(),
    };
    result.unwrap_or_else(|error| {
        exit::complain(&format!("error: {error:#}"));
        Exit::Failed
    })
}
