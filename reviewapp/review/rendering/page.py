"""An output made into what the left pane shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from django.utils.safestring import SafeString, mark_safe
from pygments.lexers import PythonLexer

from reviewapp.review.rendering.code import colour_lines, diffed, numbered
from reviewapp.review.rendering.guards import HIGHLIGHT_CHARS, LINE_CHARS, cut, cut_line, visible, why_not_formatted
from reviewapp.review.rendering.markdown import Heading, render_markdown
from reviewapp.review.rendering.quotes import Mark, find_lines, mark_quotes


@dataclass(frozen=True)
class Rendered:
    """Safe HTML. `found` holds the ids of the marks that have a place in it, `notices` what is not shown and why."""

    html: SafeString
    kind: str
    outline: tuple[Heading, ...] = ()
    notices: tuple[str, ...] = ()
    found: frozenset[str] = field(default_factory=frozenset)


def render_output(kind: str, content: str, marks: Sequence[Mark] = (), *, starter: str = "") -> Rendered:
    """`kind` is markdown, python or text. With a `starter` the code is shown as its difference to it."""
    if kind == "python":
        return _render_python(content, marks, starter)
    if kind == "markdown":
        return _render_markdown(content, marks)
    return _render_plain(content, marks)


def _render_markdown(content: str, marks: Sequence[Mark]) -> Rendered:
    if reason := why_not_formatted(content):
        plain = _render_plain(content, marks)
        return replace(plain, notices=(f"Shown as it was typed. {reason}", *plain.notices))
    html, outline = render_markdown(content)
    html, found = mark_quotes(html, marks)
    return Rendered(mark_safe(html), "markdown", outline, found=frozenset(found))  # noqa: S308 - nh3 has cleaned it


def _render_python(content: str, marks: Sequence[Mark], starter: str) -> Rendered:
    content = content.replace("\r\n", "\n").removesuffix("\n")
    placed = [_with_lines(mark, content) for mark in marks]
    lines, notice = cut(content)
    shown = "\n".join(lines)
    notices = [notice] if notice else []
    if len(shown) > HIGHLIGHT_CHARS:
        notices.insert(0, f"Shown without colours: more than {HIGHLIGHT_CHARS:,} characters.")
    elif any(len(line) > LINE_CHARS for line in lines):
        notices.insert(0, f"Shown without colours, and the ends of lines over {LINE_CHARS:,} characters folded.")
    coloured = _python_lines(shown) if not notices else colour_lines(shown, None)
    if starter:
        starter = starter.replace("\r\n", "\n").removesuffix("\n")
        html = diffed(lines, coloured, starter.split("\n"), _python_lines(starter), placed)
    else:
        html = numbered(coloured, placed)
    found = frozenset(mark.id for mark in placed if mark.line_start and mark.line_start <= len(lines))
    return Rendered(mark_safe(html), "python", notices=tuple(notices), found=found)  # noqa: S308 - each piece was escaped


@lru_cache(maxsize=32)
def _python_lines(text: str) -> tuple[str, ...]:
    """Coloured lines; the last few are kept, since a reviewer opens the same output again at each tab and submit."""
    return tuple(colour_lines(text, PythonLexer(stripnl=False)))


def _render_plain(content: str, marks: Sequence[Mark]) -> Rendered:
    lines, notice = cut(content)
    notices = [notice] if notice else []
    folded = [cut_line(line) for line in lines]
    if any(left_out for _, left_out in folded):
        notices.append(f"The ends of lines over {LINE_CHARS:,} characters are folded.")
    html = "\n".join(
        visible(shown) + (f'<span class="folded">… {left_out:,} more characters</span>' if left_out else "") for shown, left_out in folded
    )
    html, found = mark_quotes(f'<pre class="plain">{html}</pre>', marks)
    return Rendered(mark_safe(html), "text", notices=tuple(notices), found=frozenset(found))  # noqa: S308 - each piece was escaped


def _with_lines(mark: Mark, content: str) -> Mark:
    """A quote of code is shown by the lines that it stands in."""
    if mark.line_start is not None or not (lines := find_lines(content, mark.text)):
        return mark
    return replace(mark, line_start=lines[0], line_end=lines[1])
