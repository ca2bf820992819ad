"""Markdown to HTML: CommonMark, tables, strikethrough and $math$; raw HTML stays text, images stay links.

Two fences: the parser makes only our own tags, and nh3 lets through only those on the lists below.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import nh3
from latex2mathml.converter import convert as latex_to_mathml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

from reviewapp.review.rendering.code import colour_lines, lexer_of
from reviewapp.review.rendering.guards import HIGHLIGHT_CHARS, without_turns

Env = MutableMapping[str, Any]
SAFE_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
PAPER = re.compile(
    r"(?:https?://arxiv\.org/abs/|\barxiv:\s?)(?P<arxiv>\d{4}\.\d{4,5}(?:v\d{1,2})?)\b"
    r"|(?:https?://(?:dx\.)?doi\.org/)?\b(?P<doi>10\.\d{4,9}/[^\s<>\"\]}|]{1,200})",
    re.IGNORECASE,
)
MATHML = "{http://www.w3.org/1998/Math/MathML}"
MATH_CHARS = 2_000
MATH_TOTAL = 20_000

TEXT_TAGS = {
    "a", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
MATH_TAGS = {
    "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom", "mprescripts", "mroot",
    "mrow", "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder",
    "munderover",
}  # fmt: skip
# Nothing that draws outside its place: no class, style, id, colour, size or offset.
MATH_ATTRIBUTES = {
    "accent", "accentunder", "columnalign", "displaystyle", "fence", "form", "linethickness", "mathvariant",
    "movablelimits", "separator", "stretchy", "scriptlevel",
}  # fmt: skip
CLEAN_CONTENT = {"script", "style", "title", "textarea", "iframe", "object", "template", "noscript", "svg", "annotation-xml", "annotation"}
ATTRIBUTES = {
    "a": {"href", "title", "target"},
    "ol": {"start"},
    "span": {"title"},
    **{f"h{n}": {"id"} for n in range(1, 7)},
    **{tag: MATH_ATTRIBUTES for tag in MATH_TAGS},
    "math": {"display"},
}
CLASSES = {
    "span": {"hl-c", "hl-d", "hl-k", "hl-s", "hidden-char", "folded", "math", "dead-link"},
    "div": {"table-scroll", "math-block"},
    "pre": {"fence"},
    "code": {"math-source"},
    "a": {"image-link"},
    "td": {"right", "center"},
    "th": {"right", "center"},
}


@dataclass(frozen=True)
class Heading:
    level: int
    id: str
    text: str


class SafeRenderer(RendererHTML):
    """The default renderer with our own drawing of what could load, run or hide."""

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        text = without_turns(tokens[idx].content)
        return escape(text, quote=False) if env.get("in_link") else _with_papers(text)

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        target = str(tokens[idx].attrGet("href") or "")
        env["is_link_safe"] = bool(SAFE_LINK.match(target))
        env["in_link"] = True
        if env["is_link_safe"]:
            return f'<a href="{escape(target)}">'
        return f'<span class="dead-link" title="{escape(target)}">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        env["in_link"] = False
        return "</a>" if env.get("is_link_safe") else "</span>"

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        token = tokens[idx]
        target = str(token.attrGet("src") or "")
        alt = escape(without_turns(token.content)) or "without a description"
        if SAFE_LINK.match(target):
            return f'<a class="image-link" href="{escape(target)}">image: {alt}</a>'
        return f'<span class="dead-link" title="{escape(target[:200])}">image: {alt}</span>'

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        token = tokens[idx]
        language = token.info.strip().split()[0] if token.info.strip() else ""
        # All fences of a text share one allowance, so that many small ones cost no more than a big one.
        env["coloured"] = env.get("coloured", 0) + len(token.content)
        lexer = lexer_of(language) if env["coloured"] <= HIGHLIGHT_CHARS // 2 else None
        lines = "\n".join(colour_lines(token.content.removesuffix("\n"), lexer))
        return f'<pre class="fence"><code>{lines}</code></pre>\n'

    code_block = fence

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        return '<div class="table-scroll"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        side = str(tokens[idx].attrGet("style") or "").removeprefix("text-align:")
        return f'<{tokens[idx].tag} class="{side}">' if side in ("right", "center") else f"<{tokens[idx].tag}>"

    td_open = th_open

    def math_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        return f'<span class="math" title="{escape(tokens[idx].content[:500])}">{_mathml(tokens[idx].content, "inline", env)}</span>'

    def math_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Env) -> str:
        return f'<div class="math-block">{_mathml(tokens[idx].content.strip(), "block", env)}</div>\n'


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}, renderer_cls=SafeRenderer)
    parser.enable(["table", "strikethrough"])
    # Prices are not formulas: "$5 to $10" has a digit after the closing sign or a space inside.
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    drawn = parser.renderer
    # The plugin has put its own rules in place of ours.
    drawn.rules |= {"math_inline": drawn.math_inline, "math_inline_double": drawn.math_inline, "math_block": drawn.math_block}
    return parser


PARSER = _parser()
CLEANER = nh3.Cleaner(
    tags=TEXT_TAGS | MATH_TAGS,
    clean_content_tags=CLEAN_CONTENT,
    attributes=ATTRIBUTES,
    allowed_classes=CLASSES,
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener nofollow",
)


@lru_cache(maxsize=32)
def render_markdown(text: str) -> tuple[str, tuple[Heading, ...]]:
    """(safe HTML, headings for the outline). The caller has checked guards.why_not_formatted.

    The last few are kept: a reviewer opens the same output again at each tab, submit and reveal.
    """
    env: Env = {}
    tokens = PARSER.parse(text, env)
    headings = tuple(_name_headings(tokens))
    return CLEANER.clean(PARSER.renderer.render(tokens, PARSER.options, env)), headings


def _name_headings(tokens: Sequence[Token]) -> list[Heading]:
    headings = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            heading = Heading(int(token.tag[1]), f"h-{len(headings) + 1}", _plain_text(inline))
            token.attrSet("id", heading.id)
            headings.append(heading)
    return headings


def _plain_text(inline: Token) -> str:
    parts = [child.content for child in inline.children or () if child.type in ("text", "code_inline", "math_inline")]
    return without_turns("".join(parts)).strip()


def _with_papers(text: str) -> str:
    """The text escaped, with each arXiv number and DOI as a link to its page: to look a citation up is the reviewer's job."""
    parts, at = [], 0
    for match in PAPER.finditer(text):
        doi = match["doi"] and match["doi"].rstrip(".,;:!?'\"*_")
        if doi and doi.endswith(")") and doi.count("(") < doi.count(")"):
            doi = doi.rstrip(").,")
        end = match.end("doi") - len(match["doi"]) + len(doi) if doi else match.end()
        target = f"https://doi.org/{quote(doi, safe='/:;().')}" if doi else f"https://arxiv.org/abs/{match['arxiv']}"
        shown = escape(text[match.start() : end], quote=False)
        parts += [escape(text[at : match.start()], quote=False), f'<a href="{escape(target)}" target="_blank">{shown}</a>']
        at = end
    return "".join(parts) + escape(text[at:], quote=False)


def _mathml(source: str, display: str, env: Env) -> str:
    """MathML, or the source as it was typed when it is too long or not understood."""
    env["math"] = env.get("math", 0) + len(source) + 10
    plain = f'<code class="math-source">{escape(source)}</code>'
    if len(source) > MATH_CHARS or env["math"] > MATH_TOTAL or source.count("{") > MATH_CHARS // 10:
        return plain
    try:
        mathml = str(latex_to_mathml(source, display=display))
        # The converter passes angle brackets in \\text through: anything but formula tags is shown as typed.
        is_ours = all(node.tag.removeprefix(MATHML) in MATH_TAGS for node in ElementTree.fromstring(mathml).iter())  # noqa: S314
    except (Exception, RecursionError):  # whatever the converter can't read is shown as typed
        return plain
    return mathml if is_ours else plain
