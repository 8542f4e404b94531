#!/usr/bin/env python3
"""Draws docs/demo.svg, the picture in README.md, from the output of demo/demo.sh on standard input.

Shows complete sections of the output. Lines that are too long for the picture are cut.
"""

import sys
from html import escape

# The sections that are shown, by the beginning of their headings.
SHOWN = ["Before", "bank-a-web: the client", "bank-a-web: the server", "Nothing else", "The status"]
COLUMNS = 104
LINE, CHARACTER, MARGIN = 19, 8.0, 18
COLOURS = {"heading": "#e5c07b", "good": "#98c379", "bad": "#e06c75", "plain": "#d7dae0"}


def sections(text):
    """The headings (==> ...), each with the non-empty lines below it."""
    found = []
    for line in text.splitlines():
        if line.startswith("==> "):
            found.append((line[4:], []))
        elif found and line.strip():
            found[-1][1].append(line)
    return found


def colour(line):
    if "answers and saw" in line or "  True  " in line:
        return "good"
    return "bad" if "no answer" in line else "plain"


def lines(text):
    drawn = [("heading", "$ sudo make demo")]
    for heading, below in sections(text):
        if any(heading.startswith(shown) for shown in SHOWN):
            drawn += [("plain", ""), ("heading", heading)] + [(colour(line), line) for line in below]
    return drawn


def picture(drawn):
    width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), len(drawn) * LINE + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        "<title>What make demo prints: requests of the client and of the server, and the addresses that each side saw</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#21252b"/>',
        '<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="13" xml:space="preserve">',
    ]
    for number, (kind, line) in enumerate(drawn):
        text = line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"
        weight = ' font-weight="bold"' if kind == "heading" else ""
        parts.append(f'<text x="{MARGIN}" y="{MARGIN + 13 + number * LINE}" fill="{COLOURS[kind]}"{weight}>{escape(text)}</text>')
    return "\n".join(parts + ["</g>", "</svg>", ""])


def main():
    text = sys.stdin.read()
    missing = [shown for shown in SHOWN if not any(heading.startswith(shown) for heading, _ in sections(text))]
    if missing:
        sys.exit(f"picture: the demo did not print these sections: {', '.join(missing)}")
    with open("docs/demo.svg", "w", encoding="utf-8") as file:
        file.write(picture(lines(text)))


main()
