//! `man`: the manual page of the program, one page with every command, made from the same words as `--help`.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::exit::print;
use super::{Cli, Exit};

/// Commands for administrators (man-pages(7)).
const SECTION: &str = "8";

pub(super) fn run() -> anyhow::Result<Exit> {
    print(&page(&Cli::command())?)?;
    Ok(Exit::Done)
}

fn page(program: &Command) -> anyhow::Result<String> {
    let own = program.clone().disable_help_subcommand(true);
    let man = Man::new(own).section(SECTION).manual("PortForward operator");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    text.extend(heading("SH", "COMMANDS").into_bytes());
    for command in program.get_subcommands() {
        text.extend(section(program, command)?.into_bytes());
    }
    text.extend(heading("SH", "NOTES").into_bytes());
    text.extend(notes(program).into_bytes());
    Ok(without_repeated_preamble(&String::from_utf8(text)?))
}

/// One command below the others, its own headings turned into paragraphs.
fn section(program: &Command, command: &Command) -> anyhow::Result<String> {
    let name = format!("{} {}", program.get_name(), command.get_name());
    let man = Man::new(command.clone().bin_name(&name).disable_help_flag(true).disable_version_flag(true));
    let mut text = Vec::new();
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut text)?;
    }
    let text = String::from_utf8(text)?;
    let paragraphs = text.lines().map(|line| if line.starts_with(".SH") { ".PP\n".to_owned() } else { format!("{line}\n") });
    Ok(heading("SS", command.get_name()) + &paragraphs.collect::<String>() + &notes(command))
}

fn heading(control: &str, name: &str) -> String {
    Roff::new().control(control, [name]).render()
}

/// What stands below the options, line by line as it is.
fn notes(command: &Command) -> String {
    let Some(notes) = command.get_after_help() else { return String::new() };
    let mut roff = Roff::new();
    roff.control("PP", []).control("nf", []);
    for line in notes.to_string().lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []).render()
}

/// Each part begins with the same definitions; the page needs them once.
fn without_repeated_preamble(text: &str) -> String {
    let is_preamble = |line: &str| line.starts_with(".ie ") || line.starts_with(".el ");
    let (first, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| is_preamble(line));
    first.iter().take(2).chain(&rest).map(|line| format!("{line}\n")).collect()
}
