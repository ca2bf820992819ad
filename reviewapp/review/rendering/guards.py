"""What keeps a hostile or huge text from breaking the page: limits, and characters that hide made visible."""

from __future__ import annotations

import re
import unicodedata
from html import escape

# Above it nothing is coloured; Pygments takes about 2 s for a megabyte.
HIGHLIGHT_CHARS = 60_000
# Above it Markdown is shown as it was typed; markdown-it takes about 3 s for a megabyte of prose.
FORMAT_CHARS = 80_000
SHOWN_CHARS = 300_000
SHOWN_LINES = 5_000
LINE_CHARS = 2_000
# Each opening bracket, sign or table cell costs the parser 20 to 50 microseconds.
FORMAT_BRACKETS = 5_000
FORMAT_SIGNS = 10_000
SIGNS = "*_~`&<\\$"
FORMAT_CELLS = 4_000
FORMAT_LINES = 6_000

# Direction overrides and isolates, zero-width and other characters that draw nothing, and control characters.
HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# In prose the joiners are part of words and emoji; what turns the reading direction is not.
TURNING = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u061c\u202a-\u202e\u2066-\u2069]")
TABLE_RULE = re.compile(r"^[ \t]{0,3}[|:\-][ \t|:\-]*$", re.MULTILINE)


def visible(text: str) -> str:
    """The text escaped for HTML, with each hidden character drawn as its code point."""
    return HIDDEN.sub(lambda m: _drawn(m[0]), escape(text, quote=False))


def _drawn(char: str) -> str:
    code = f"U+{ord(char):04X}"
    return f'<span class="hidden-char" title="{unicodedata.name(char, "control character").lower()}">{code}</span>'


def without_turns(text: str) -> str:
    """The text with each character that turns the reading direction named in its place."""
    return TURNING.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", text)


def cut(content: str) -> tuple[list[str], str]:
    """(lines to show, a notice of what is not shown or ""). Ends of long lines are folded by `cut_line`."""
    shown = content[:SHOWN_CHARS]
    lines = shown.split("\n")
    if len(content) <= SHOWN_CHARS and len(lines) <= SHOWN_LINES:
        return lines, ""
    lines = lines[:SHOWN_LINES]
    return lines, f"Only the first {len(lines):,} lines of {len(content):,} characters are shown."


def cut_line(line: str) -> tuple[str, int]:
    """(the part of a line to show, how many characters are left out)."""
    return line[:LINE_CHARS], max(0, len(line) - LINE_CHARS)


def why_not_formatted(markdown: str) -> str:
    """Why this Markdown is shown as it was typed; "" when it is formatted."""
    if len(markdown) > FORMAT_CHARS:
        return f"It is {len(markdown):,} characters long; up to {FORMAT_CHARS:,} are formatted."
    if (lines := markdown.count("\n")) > FORMAT_LINES:
        return f"It has {lines:,} lines; up to {FORMAT_LINES:,} are formatted."
    if (brackets := markdown.count("[")) > FORMAT_BRACKETS:
        return f"It has {brackets:,} opening brackets; up to {FORMAT_BRACKETS:,} are formatted."
    if (signs := sum(map(markdown.count, SIGNS))) > FORMAT_SIGNS:
        return f"It has {signs:,} formatting signs; up to {FORMAT_SIGNS:,} are formatted."
    if (cells := _table_cells(markdown)) > FORMAT_CELLS:
        return f"Its tables have {cells:,} cells or more; up to {FORMAT_CELLS:,} are formatted."
    return ""


def _table_cells(markdown: str) -> int:
    """An upper bound: a short row is filled up to the table's width, so width times height counts."""
    cells = 0
    lines = markdown.split("\n")
    for number, line in enumerate(lines):
        width = line.count("|") + 1
        if width < 2 or not TABLE_RULE.match(line):
            continue
        height = 1
        while number + height < len(lines) and lines[number + height].strip() and cells + width * height <= FORMAT_CELLS:
            height += 1
        cells += width * height
    return cells
