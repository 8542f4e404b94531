//! The generated part of `docs/performance.md`.

use std::fmt::Write as _;

use crate::book::Book;

/// The lines around the generated part.
const MARKS: [&str; 2] = ["<!-- begin: figures of make bench -->", "<!-- end: figures of make bench -->"];
/// A load average above this is not that of an idle machine.
const BUSY: f64 = 0.5;

/// A Markdown table.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " - |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// The generated part: the machine, the plots, and the table of goals.
pub(crate) fn generated(book: &Book, head: &[&str], rows: &[Vec<String>], plots: &[(String, String)]) -> String {
    let mut text = String::new();
    for part in &book.parts {
        let busy = if part.load > BUSY { ", **a busy machine**" } else { "" };
        let quick = if part.quick { ", `QUICK=1`" } else { "" };
        let _ = writeln!(
            text,
            "- `{}`: {}, kernel {}, {} CPUs, load average before {:.1}{busy}{quick}",
            part.benchmark, part.date, part.kernel, part.cpus, part.load
        );
    }
    text.push('\n');
    for (name, svg) in plots {
        let title = svg.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
        let _ = writeln!(text, "![{title}, against the number of forwards](performance/{name})\n");
    }
    text + &table(head, rows)
}

/// The page with this generated part. Panics if the page has no place for it.
pub(crate) fn renew(page: &str, generated: &str) -> String {
    let places = MARKS.map(|mark| page.find(mark).unwrap_or_else(|| panic!("the page has no line {mark}")));
    let before = &page[..places[0] + MARKS[0].len()];
    format!("{before}\n\n{generated}\n{}", &page[places[1]..])
}
