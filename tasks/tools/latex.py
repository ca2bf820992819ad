"""A paper's LaTeX to sections of plain text, by pylatexenc (a parser, not TeX: nothing in the source is ever run).

Files are put together where they \\input each other, and macros without arguments that the paper defines are put in: authors
name their method, and now and then a number, by one. Macros with arguments are not expanded.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from pylatexenc.latex2text import LatexNodes2Text

from tasks.tools.errors import ExtractError
from tasks.tools.sections import Parts, Section, parts_of

logging.getLogger("pylatexenc").setLevel(logging.ERROR)  # each unknown macro would be a line

LONGEST_SOURCE = 3_000_000
DEEPEST_INPUT = 8
MACROS_AT_MOST = 300
LEVELS = {"chapter": 1, "section": 1, "subsection": 2, "subsubsection": 3}
COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*?$\n?", re.MULTILINE)
INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}\n]{1,200})\}|\\input\s+([\w./-]{1,200})")
HEADING = re.compile(r"\\(chapter|section|subsection|subsubsection)\*?\s*(?:\[[^\]\n]*\])?\s*\{")
MACRO = re.compile(
    r"\\(?:(?:re)?newcommand|providecommand|DeclareRobustCommand)\*?\s*\{?\s*\\([A-Za-z]+)\s*\}?\s*\{|\\def\s*\\([A-Za-z]+)\s*\{"
)
DROPPED = re.compile(r"\\begin\{(tikzpicture|thebibliography|comment|filecontents\*?)\}.*?\\end\{\1\}", re.DOTALL)
REFERENCES = re.compile(r"\\(?:bibliography|printbibliography)\b.*?$", re.MULTILINE)
ABSTRACT = re.compile(r"\\begin\{abstract\}(.*?)\\end\{abstract\}|\\abstract\s*\{", re.DOTALL)
TITLE = re.compile(r"\\title\s*(?:\[[^\]]*\])?\s*\{")
THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;]|\{,\})(?=\d{3}(?!\d))")
PLAIN = re.compile(r"\\[A-Za-z@]+\*?|[{}$]")


def parts_of_latex(files: Mapping[str, str]) -> Parts:
    """Raises ExtractError if there is no text in it."""
    source = _together(files)
    macros = _macros(source)
    _, _, body = source.partition(r"\begin{document}")
    body = (body or source).partition(r"\end{document}")[0]
    body = REFERENCES.sub("", DROPPED.sub(" ", body))
    title = _argument(source, TITLE.search(source))
    abstract, body = _take_abstract(body, source)
    sections = [Section(_plain(name, macros), _plain(text, macros), level) for name, text, level in _split(body)]
    if not any(section.text.strip() for section in sections):
        raise ExtractError("the LaTeX source has no text in it")
    return parts_of(sections, title=" ".join(_plain(title, macros).split()), abstract=_plain(abstract, macros))


def _together(files: Mapping[str, str]) -> str:
    clean = {name: COMMENT.sub(r"\1", text) for name, text in files.items()}
    mains = [name for name, text in clean.items() if r"\begin{document}" in text]
    # Supplements and templates also have a document: the paper is the longest once its parts are in.
    whole = [_with_inputs(clean[name], clean, PurePosixPath(name).parent, (name,)) for name in mains or sorted(clean)]
    source = max(whole, key=len) if mains else "\n\n".join(whole)
    if len(source) > LONGEST_SOURCE:
        raise ExtractError(f"the LaTeX source is longer than {LONGEST_SOURCE:,} characters")
    return source


def _with_inputs(text: str, files: Mapping[str, str], folder: PurePosixPath, above: tuple[str, ...]) -> str:
    size = 0

    def put_in(match: re.Match[str]) -> str:
        nonlocal size
        asked = (match[1] or match[2]).strip()
        for path in (asked, f"{asked}.tex", folder / asked, folder / f"{asked}.tex"):
            name = str(PurePosixPath(path))
            if name in files and name not in above and len(above) < DEEPEST_INPUT and size < LONGEST_SOURCE:
                inside = _with_inputs(files[name], files, folder, (*above, name))
                size += len(inside)
                return inside
        return ""

    return INPUT.sub(put_in, text)


def _macros(source: str) -> dict[str, str]:
    """Macros without arguments that stand for a little text."""
    macros: dict[str, str] = {}
    for match in MACRO.finditer(source):
        value = _argument(source, match)
        if len(value) <= 200 and "#" not in value and len(macros) < MACROS_AT_MOST:
            macros[match[1] or match[2]] = value
    return macros


def _argument(source: str, match: re.Match[str] | None) -> str:
    """What stands in the braces that the match ends with."""
    if match is None:
        return ""
    depth, start = 1, match.end()
    for at in range(start, min(len(source), start + 10_000)):
        if source[at] == "\\":
            continue
        if source[at] in "{}" and source[at - 1] != "\\":
            depth += 1 if source[at] == "{" else -1
            if depth == 0:
                return source[start:at]
    return ""


def _take_abstract(body: str, source: str) -> tuple[str, str]:
    match = ABSTRACT.search(body) or ABSTRACT.search(source)
    if match is None:
        return "", body
    return (match[1] or _argument(match.string, match)), body.replace(match[0], " ", 1)


def _split(body: str) -> list[tuple[str, str, int]]:
    """(title, text, level) of each section."""
    parts = []
    name, level, at = "", 1, 0
    for match in HEADING.finditer(body):
        if match.start() < at:
            continue
        parts.append((name, body[at : match.start()], level))
        name, level = _argument(body, match), LEVELS[match[1]]
        at = match.end() + len(name) + 1
    return [*parts, (name, body[at:], level)]


def _plain(text: str, macros: Mapping[str, str]) -> str:
    text = THOUSANDS.sub(",", _expanded(text, macros))
    try:
        return str(LatexNodes2Text(math_mode="text", keep_comments=False, strict_latex_spaces=False).latex_to_text(text))
    except Exception:  # whatever the parser can't take (it also nests too deep): crude, and the numbers are still there
        return PLAIN.sub(" ", text)


def _expanded(text: str, macros: Mapping[str, str]) -> str:
    """Twice, for macros inside macros; a definition that blows up is left as it is."""
    for _ in range(2):
        longer = re.sub(r"\\([A-Za-z]+)(?:\{\}|(?![A-Za-z]))", lambda match: macros.get(match[1], match[0]), text)
        if len(longer) > 2 * len(text) + 10_000:
            break
        text = longer
    return text
