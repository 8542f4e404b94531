//! `completions`: prints the completion script of a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::print;
use super::{Cli, Exit};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  portforward-operator completions bash > /etc/bash_completion.d/portforward-operator\n  portforward-operator completions zsh > \"${fpath[1]}/_portforward-operator\"\n  portforward-operator completions fish > ~/.config/fish/completions/portforward-operator.fish"
)]
pub(super) struct CompletionsOptions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(options: &CompletionsOptions) -> anyhow::Result<Exit> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, &name, &mut script);
    let script = String::from_utf8(script)?;
    print(&if options.shell == Shell::Bash { consistent(&script, &name) } else { script })?;
    Ok(Exit::Done)
}

/// clap_complete writes a hyphen in the name of the program differently in two places of the bash script, so that bash
/// completes no option of a command (clap issue 6421, in `clap_complete` 4.6.11). Makes both places the same.
fn consistent(script: &str, name: &str) -> String {
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}
