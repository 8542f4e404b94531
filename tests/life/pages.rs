//! What the program prints about itself: shell completions, and its manual page.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::bed::netns::output;

const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");
const COMMANDS: [&str; 10] = ["agent", "render", "restore", "cleanup", "status", "check", "health", "crd", "completions", "man"];

/// Runs the program without other tools, a home directory or an input.
fn run(arguments: &[&str]) -> Output {
    output(Command::new(PROGRAM).args(arguments).env_clear().current_dir("/").stdin(Stdio::null()))
}

fn printed(arguments: &[&str]) -> String {
    let ended = run(arguments);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap()
}

#[test]
fn completions_know_every_command_in_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(script.contains("state-dir") && script.contains("portforward-operator"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn bash_takes_its_completions_and_completes_by_them() {
    let script = printed(&["completions", "bash"]);
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let checked = bash.wait_with_output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");

    let asked = "registered=($(complete -p portforward-operator)); COMP_WORDS=(portforward-operator status --out); COMP_CWORD=2
        for word in \"${registered[@]}\"; do if [[ $last == -F ]]; then function=$word; fi; last=$word; done
        $function portforward-operator --out status; echo \"${COMPREPLY[@]}\"";
    let completed = output(Command::new("bash").arg("-c").arg(format!("{script}\n{asked}")));
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "--output", "{completed:?}");
}

#[test]
fn the_manual_page_is_one_page_with_every_command_and_its_options() {
    let page = printed(&["man"]);
    let lines: Vec<&str> = page.lines().collect();
    let title: Vec<&&str> = lines.iter().filter(|line| line.starts_with(".TH ")).collect();
    assert_eq!(title.len(), 1, "{title:?}");
    assert!(title[0].starts_with(".TH portforward-operator 8 ") && title[0].contains(env!("CARGO_PKG_VERSION")), "{title:?}");
    let sections: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix(".SH ")).collect();
    assert_eq!(
        sections,
        ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "\"EXIT STATUS\"", "EXAMPLES", "ENVIRONMENT", "FILES"]
    );
    let commands: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix(".SS ")).collect();
    assert_eq!(commands, COMMANDS);
    assert_eq!(page.matches(".ie ").count(), 1, "common parts appear once");
    for words in [r"\-\-reserved\-ports", r"\-\-this\-node", "PORTFORWARD_STATE_DIR", "record.json", "Stop the agent first"] {
        assert!(page.contains(words), "{words}");
    }
    for line in lines {
        assert!(line.len() < 4096 && !line.contains('\u{1b}'), "{line}");
    }
}

#[test]
fn groff_takes_the_manual_page_without_a_warning_where_it_is_installed() {
    let Ok(mut groff) =
        Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()
    else {
        return;
    };
    groff.stdin.take().unwrap().write_all(printed(&["man"]).as_bytes()).unwrap();
    let read = groff.wait_with_output().unwrap();
    assert!(read.status.success() && read.stderr.is_empty(), "{}", String::from_utf8_lossy(&read.stderr));
}
