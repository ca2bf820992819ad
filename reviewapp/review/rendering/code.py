"""Code as numbered lines: colours, the lines that evidence names, and the difference to the starter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from html import escape
from itertools import groupby

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType
from pygments.util import ClassNotFound

from reviewapp.review.rendering.guards import HIGHLIGHT_CHARS, LINE_CHARS, SHOWN_LINES, cut_line, visible
from reviewapp.review.rendering.quotes import Mark

# Four colours: keyword, string and number, comment, the name that is defined.
COLOURS: tuple[tuple[_TokenType, str], ...] = (
    (Comment, "hl-c"),
    (String, "hl-s"),
    (Number, "hl-s"),
    (Keyword, "hl-k"),
    (Operator.Word, "hl-k"),
    (Name.Function, "hl-d"),
    (Name.Class, "hl-d"),
    (Name.Decorator, "hl-d"),
)
# Languages of fenced code: known to be quick on any input.
LANGUAGES = frozenset(
    "python py python3 bash sh console json yaml toml ini sql diff c cpp c++ cuda rust go java javascript js "
    "typescript ts latex tex html css xml r julia".split()
)
# With fewer lines every line is compared; with more the common ones are set aside, which is quick on any input.
DIFF_ALL_LINES = 250


def colour_lines(text: str, lexer: Lexer | None) -> list[str]:
    """The HTML of each line. Without a lexer, or when the text is long, plain."""
    if lexer is None or len(text) > HIGHLIGHT_CHARS or any(len(line) > LINE_CHARS for line in text.split("\n")):
        return [_folded(line) for line in text.split("\n")]
    lines: list[list[str]] = [[]]
    runs = groupby(lexer.get_tokens(text), key=lambda token: _colour(token[0]))
    for css, run in runs:
        for number, part in enumerate("".join(value for _, value in run).split("\n")):
            if number:
                lines.append([])
            if part:
                lines[-1].append(f'<span class="{css}">{visible(part)}</span>' if css else visible(part))
    return ["".join(parts) for parts in lines[: text.count("\n") + 1]]


def lexer_of(language: str) -> Lexer | None:
    """The lexer of a fence's language, if it is one of ours."""
    if language.lower() not in LANGUAGES:
        return None
    try:
        return get_lexer_by_name(language.lower(), stripnl=False)
    except ClassNotFound:
        return None


def numbered(lines: Sequence[str], marks: Sequence[Mark] = ()) -> str:
    """Lines with an anchor each (#L12); those that a mark names are banded."""
    bands = band_lines(marks, len(lines))
    rows = (_row(number, html, bands.get(number, ())) for number, html in enumerate(lines, 1))
    return f'<pre class="code" translate="no"><code>{"".join(rows)}</code></pre>'


def diffed(new: Sequence[str], new_html: Sequence[str], old: Sequence[str], old_html: Sequence[str], marks: Sequence[Mark] = ()) -> str:
    """The output's lines with what was added to the starter (`old`) and what was taken from it."""
    bands = band_lines(marks, len(new))
    rows: list[str] = []
    matcher = SequenceMatcher(None, old[:SHOWN_LINES], new, autojunk=len(new) > DIFF_ALL_LINES)
    for kind, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if kind != "equal":
            rows.extend(_row(None, html, (), "removed") for html in old_html[old_from:old_to])
        change = "" if kind == "equal" else "added"
        rows.extend(_row(n, new_html[n - 1], bands.get(n, ()), change) for n in range(new_from + 1, new_to + 1))
    return f'<pre class="code diff" translate="no"><code>{"".join(rows)}</code></pre>'


def band_lines(marks: Iterable[Mark], count: int) -> Mapping[int, Sequence[Mark]]:
    """Line number -> the marks that name it."""
    bands: dict[int, list[Mark]] = {}
    for mark in marks:
        if mark.line_start is not None:
            for number in range(max(1, mark.line_start), min(count, mark.line_end or mark.line_start) + 1):
                bands.setdefault(number, []).append(mark)
    return bands


def _row(number: int | None, html: str, marks: Sequence[Mark] = (), change: str = "") -> str:
    css = " ".join(filter(None, ("line", change, *sorted({f"cited-{mark.who}" for mark in marks}))))
    if number is None:
        return f'<span class="{css}"><span class="no"></span><span class="src">{html or " "}</span></span>'
    anchors = "".join(f'<span id="{mark.id}"></span>{_margin(mark)}' for mark in marks if mark.line_start == number)
    title = f' title="{escape(", ".join(dict.fromkeys(mark.label for mark in marks)))}"' if marks else ""
    return (
        f'<span class="{css}" id="L{number}"{title}>{anchors}'
        f'<a class="no" href="#L{number}" data-n="{number}" aria-label="Line {number}"></a>'
        f'<span class="src">{html or " "}</span></span>'
    )


def _margin(mark: Mark) -> str:
    """The number of the mark's criterion beside the line; drawn by the style sheet, so that a selection does not take it along."""
    return f'<span class="cite {mark.who}" data-n="{mark.number}"></span>' if mark.number else ""


@cache
def _colour(kind: _TokenType) -> str:
    return next((css for parent, css in COLOURS if kind in parent), "")


def _folded(line: str) -> str:
    shown, left_out = cut_line(line)
    more = f'<span class="folded">… {left_out:,} more characters</span>' if left_out else ""
    return visible(shown) + more
