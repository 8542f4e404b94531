//! Finds out whether standard output is a terminal, with a width and perhaps colours, or a file or a pipe.

use std::io::{self, IsTerminal};

/// The conditions in the table that get a colour if they are not `True`.
const CONDITIONS: [&str; 3] = ["ACCEPTED", "PROGRAMMED", "READY"];
/// Red, yellow, and the default colour (ECMA-48, SGR).
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// The properties of standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Screen {
    /// The number of characters in a line; `None` without a limit.
    pub(super) width: Option<usize>,
    /// Whether colours are shown.
    pub(super) colours: Colours,
}

/// Whether colours are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Colours {
    /// Colours are shown.
    Shown,
    /// Colours are not shown.
    #[default]
    None,
}

impl Screen {
    /// The properties of the standard output of this process. Colours are off if `NO_COLOR` is set (<https://no-color.org>).
    pub(super) fn of_stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self::default();
        }
        let width = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|&width| width > 0);
        let colours = if std::env::var_os("NO_COLOR").is_some() { Colours::None } else { Colours::Shown };
        Self { width, colours }
    }

    /// The table of forwards. Conditions that are not `True` are coloured if colours are shown.
    pub(super) fn coloured(self, table: &str) -> String {
        match self.colours {
            Colours::None => table.to_owned(),
            Colours::Shown => {
                let header = table.lines().next().unwrap_or_default();
                let places: Vec<usize> = CONDITIONS.iter().filter_map(|name| header.find(name)).collect();
                table.lines().map(|line| coloured(line, &places) + "\n").collect()
            }
        }
    }
}

/// One line, with the words at `places` in colour. Names in Kubernetes are ASCII, so each place is the same in every line.
fn coloured(line: &str, places: &[usize]) -> String {
    let mut text = line.to_owned();
    for place in places.iter().rev() {
        for (word, colour) in [("False", RED), ("Unknown", YELLOW)] {
            if text.get(*place..).is_some_and(|rest| rest.starts_with(word)) {
                text.replace_range(*place..place + word.len(), &format!("{colour}{word}{PLAIN}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "NAMESPACE   ACCEPTED   PROGRAMMED   READY     MESSAGE\ndefault     True       False        Unknown   False alarm\n";

    #[test]
    fn only_conditions_that_are_not_true_have_a_colour() {
        let screen = Screen { width: None, colours: Colours::Shown };
        let wanted = "NAMESPACE   ACCEPTED   PROGRAMMED   READY     MESSAGE\ndefault     True       \x1b[31mFalse\x1b[0m        \x1b[33mUnknown\x1b[0m   False alarm\n";
        assert_eq!(screen.coloured(TABLE), wanted);
        assert_eq!(Screen::default().coloured(TABLE), TABLE);
    }
}
