//! `completions`: what a shell needs to complete this command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::print;
use super::{Cli, Exit};

#[derive(Args, Debug)]
#[command(
    after_help = "Touches nothing.\n\nExamples:\n  portforward-operator completions bash > /etc/bash_completion.d/portforward-operator\n  portforward-operator completions zsh > \"${fpath[1]}/_portforward-operator\"\n  portforward-operator completions fish > ~/.config/fish/completions/portforward-operator.fish"
)]
pub(super) struct CompletionsOptions {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(options: &CompletionsOptions) -> anyhow::Result<Exit> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}
