"""Markdown of docs/ to HTML. Our own files only: what agents write goes through review/rendering."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from django.conf import settings
from django.urls import reverse
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.token import Token

FOLDER = settings.BASE_DIR / "docs"
TITLES = {"api": "HTTP API"}
PAGES = {
    path.stem: TITLES.get(path.stem) or path.stem.replace("-", " ").capitalize()
    for path in sorted(FOLDER.glob("*.md"))
    if path.stem != "README"
}
NOT_IN_SLUG = re.compile(r"[^a-z0-9 -]")


@dataclass(frozen=True)
class Page:
    title: str
    html: SafeString
    headings: tuple[tuple[str, str], ...]  # (id, text) of the second level


@cache
def render_page(name: str) -> Page:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse((FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    headings, title = [], PAGES[name]
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            slug = slug_of(inline.content)
            token.attrSet("id", slug)
            if token.tag == "h1":
                title = inline.content
            elif token.tag == "h2":
                headings.append((slug, inline.content))
    for token in tokens:
        for child in token.children or ():
            _within_the_app(child)
    return Page(title, mark_safe(parser.renderer.render(tokens, parser.options, {})), tuple(headings))  # noqa: S308 - our own files


def slug_of(heading: str) -> str:
    """As GitHub makes it, so that links work in both places."""
    return NOT_IN_SLUG.sub("", heading.lower()).strip().replace(" ", "-")


def _within_the_app(token: Token) -> None:
    """A link to another page of the guide leads to it here, an address of the app to there; one to another file leads nowhere."""
    href = str(token.attrGet("href") or "")
    if token.type == "link_open" and not href.startswith(("http", "#", "/")):
        page, _, anchor = href.partition("#")
        name = page.removesuffix(".md")
        token.attrSet("href", f"{reverse('help', args=[name])}#{anchor}".rstrip("#") if name in PAGES else "#")
    if token.type == "image":
        token.type, token.content, token.children = "text", token.content, None
