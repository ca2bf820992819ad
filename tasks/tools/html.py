"""A paper's HTML (arXiv's, made by LaTeXML, or any page with headings) to sections of plain text, by lxml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree
from lxml import html as lxml_html
from pylatexenc.latex2text import LatexNodes2Text

from tasks.tools.errors import ExtractError
from tasks.tools.sections import ABSTRACT, REFERENCES, Parts, Section, parts_of

DROPPED = "script|style|nav|header|footer|aside|button|form|svg|noscript|template|iframe|object".split("|")
DROPPED_CLASSES = ("ltx_bibliography", "ltx_page_footer", "ltx_TOC", "ltx_authors", "ltx_role_footnotemark")
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
BLOCKS = {
    "p",
    "div",
    "section",
    "article",
    "li",
    "ul",
    "ol",
    "tr",
    "table",
    "figure",
    "figcaption",
    "blockquote",
    "pre",
    "br",
    "main",
    "dd",
}
CELLS = {"td", "th"}
DEEPEST = 200
NUMBER = re.compile(r"^\s*(?:[\dA-Z]{1,2}(?:\.\d+)*\.?|[IVX]+\.)\s+(?=\S)")


def parts_of_html(data: bytes) -> Parts:
    """Raises ExtractError if there is no text in it."""
    try:
        parser = lxml_html.HTMLParser(encoding=_encoding(data), huge_tree=False, no_network=True)
        root = lxml_html.document_fromstring(data, parser=parser)
    except (etree.ParserError, etree.LxmlError, ValueError) as error:
        raise ExtractError(f"the HTML can't be read: {error}") from error
    title = _first(root, "//*[contains(@class, 'ltx_title_document')]") or _first(root, "//title")
    _prune(root)
    sections = list(_sections(root))
    if not any(section.text.strip() for section in sections):
        raise ExtractError("the HTML has no text in it")
    return parts_of(sections, title=title)


def _encoding(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _first(root: Any, path: str) -> str:
    found = root.xpath(path)
    return " ".join(found[0].text_content().split()) if found else ""


def _prune(root: Any) -> None:
    for node in list(root.iter()):
        classes = str(node.get("class") or "").split() if isinstance(node.tag, str) else []
        if not isinstance(node.tag, str) or node.tag in DROPPED or any(name in classes for name in DROPPED_CLASSES):
            if node.getparent() is not None:
                node.drop_tree()
        elif node.tag == "math":
            # The formula as its author typed it; the parts of the tree say everything twice.
            tail, text = node.tail, _formula(node)
            for child in list(node):
                node.remove(child)
            node.text, node.tail = text, tail


def _formula(node: Any) -> str:
    source = node.get("alttext") or "".join(node.xpath(".//*[local-name()='annotation']//text()"))
    if not source:
        return str(node.text_content())
    try:
        return str(LatexNodes2Text(math_mode="text").latex_to_text(source[:2_000]))
    except Exception:  # shown as typed
        return str(source)


def _sections(root: Any) -> Iterator[Section]:
    """The text between headings. The first level is that of the highest heading that comes more than once."""
    headings = [node for node in root.iter(*HEADINGS)]
    tags = [node.tag for node in headings if not ABSTRACT.match(node.text_content())]
    top = next((tag for tag in HEADINGS if tags.count(tag) > 1), "h1")
    title, level, parts = "", 1, list[str]()
    for kind, text in _walk(root, 0):
        if kind in HEADINGS:
            yield Section(title, "".join(parts), level)
            title, level, parts = NUMBER.sub("", " ".join(text.split())), max(1, int(kind[1]) - int(top[1]) + 1), []
            if REFERENCES.match(title):
                break
        else:
            parts.append(text)
    yield Section(title, "".join(parts), level)


def _walk(node: Any, depth: int) -> Iterator[tuple[str, str]]:
    """(heading's tag or "", text) in reading order."""
    if node.tag in HEADINGS or depth > DEEPEST:
        yield (node.tag if node.tag in HEADINGS else ""), node.text_content()
        return
    if node.tag in BLOCKS:
        yield "", "\n"
    yield "", node.text or ""
    for child in node:
        yield from _walk(child, depth + 1)
        yield "", child.tail or ""
    if node.tag in CELLS:
        yield "", " | "
    elif node.tag in BLOCKS:
        yield "", "\n"
