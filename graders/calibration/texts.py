"""What of a text may sway a judge other than its quality: marks of formatting, a rough count by patterns."""

from __future__ import annotations

import re

MARKS = re.compile(
    r"^\#{1,6}\s"  # headings
    r"|^\s{0,8}(?:[-*+]|\d{1,3}[.)])\s"  # list items
    r"|^\|.*\|\s*$"  # table rows
    r"|^```"  # code fences
    r"|\*\*[^*\n]+\*\*|__[^_\n]+__",  # bold
    re.MULTILINE,
)


def formatting_marks(text: str) -> int:
    """Return how many headings, list items, table rows, code fences and bold words a Markdown text has.

    Examples
    --------
    >>> formatting_marks("# Title\\n\\n- one\\n- **two**\\n\\nPlain text, 3 * 4.")
    4
    """
    return sum(1 for _ in MARKS.finditer(text))


def formatting_density(text: str) -> float:
    """Return the marks of formatting a thousand characters; 0 for an empty text.

    Examples
    --------
    >>> formatting_density("- " + "x" * 998)
    1.0
    """
    return 1000 * formatting_marks(text) / len(text) if text else 0.0
