//! `man`: prints the manual page of the program: one page with every command, from the texts of `--help`.

use std::collections::BTreeMap;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::exit::print;
use super::{Cli, Exit};

/// The section for administration commands (man-pages(7)).
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
    text.extend(exit_status(program).into_bytes());
    text.extend(environment(program).into_bytes());
    text.extend(files().into_bytes());
    Ok(without_repeated_preamble(&String::from_utf8(text)?))
}

/// The files that the program uses, with their defaults.
const FILES: [(&str, &str); 5] = [
    (
        "/var/lib/portforward-operator/record.json",
        "The record: the state that this node last applied. --state-dir names another directory.",
    ),
    ("/var/lib/portforward-operator/lock", "Held by the process that changes this node."),
    ("/var/lib/portforward-operator/health.sock", "The socket at which the agent serves its health, for root only."),
    (
        "/var/lib/portforward-operator/status.json",
        "With agent --manifests: the status of all forwards. --status-file names another file.",
    ),
    ("/run/xtables.lock", "The lock that all programs of iptables-legacy share."),
];

/// The exit status of all commands, and an example, from the text below the commands in `--help`.
fn exit_status(program: &Command) -> String {
    let said = program.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (status, example) = said.split_once("\n\n").unwrap_or((&said, ""));
    let below = |text: &str| text.lines().skip(1).map(|line| line.trim_start().to_owned() + "\n").collect::<String>();
    heading("SH", "EXIT STATUS") + &lines(&below(status)) + &heading("SH", "EXAMPLES") + &lines(&below(example))
}

/// The environment variables that set options, each once, in alphabetical order.
fn environment(program: &Command) -> String {
    let arguments = program.get_subcommands().flat_map(Command::get_arguments);
    let named: BTreeMap<String, String> = arguments
        .filter_map(|argument| {
            let variable = argument.get_env()?.to_string_lossy().into_owned();
            Some((variable, format!("Stands for --{}.", argument.get_long()?)))
        })
        .collect();
    let own = [("NO_COLOR".to_owned(), "If set, no colours are used in a terminal.".to_owned())];
    heading("SH", "ENVIRONMENT") + &named.into_iter().chain(own).map(|(name, what)| term(&name, &what)).collect::<String>()
}

fn files() -> String {
    heading("SH", "FILES") + &FILES.iter().map(|(name, what)| term(name, what)).collect::<String>()
}

/// A term, with its meaning below it.
fn term(name: &str, what: &str) -> String {
    let mut roff = Roff::new();
    roff.control("TP", []).text([bold(name)]).text([roman(what)]);
    roff.render()
}

/// One command, below the others. Its own headings become paragraphs.
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
    let paragraphs =
        text.lines().map(|line| if line.starts_with(".SH") { ".PP\n".to_owned() } else { format!("{}\n", breakable(line)) });
    Ok(heading("SS", command.get_name()) + &paragraphs.collect::<String>() + &notes(command))
}

/// A line of an option. A list as its default may be broken after each comma (groff(7), `\:`).
fn breakable(line: &str) -> String {
    if line.contains(" [default: ") { line.replace(',', ",\\:") } else { line.to_owned() }
}

fn heading(control: &str, name: &str) -> String {
    Roff::new().control(control, [name]).render()
}

/// The text below the options, with its lines unchanged.
fn notes(command: &Command) -> String {
    let Some(notes) = command.get_after_help() else { return String::new() };
    let mut roff = Roff::new();
    for paragraph in notes.to_string().split("\n\n") {
        roff.control("PP", []);
        // A list keeps its lines. The lines of a sentence are joined.
        let listed = paragraph.contains('\n');
        if listed {
            roff.control("nf", []);
        }
        for line in paragraph.lines() {
            roff.text([roman(line)]);
        }
        if listed {
            roff.control("fi", []);
        }
    }
    roff.render()
}

/// Text with its lines unchanged.
fn lines(text: &str) -> String {
    let mut roff = Roff::new();
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []).render()
}

/// Each part begins with the same definitions. The page needs them only once.
fn without_repeated_preamble(text: &str) -> String {
    let is_preamble = |line: &str| line.starts_with(".ie ") || line.starts_with(".el ");
    let (first, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| is_preamble(line));
    first.iter().take(2).chain(&rest).map(|line| format!("{line}\n")).collect()
}
