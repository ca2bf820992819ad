"""An agent's text is shown, never run: what a hostile or huge one does to the page is nothing."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest

from reviewapp.review.rendering.guards import FORMAT_CHARS, SHOWN_LINES
from reviewapp.review.rendering.markdown import ATTRIBUTES, CLASSES, MATH_TAGS, TEXT_TAGS
from reviewapp.review.rendering.page import render_output
from reviewapp.review.rendering.quotes import Mark

OUR_TAGS = TEXT_TAGS | MATH_TAGS | {"mark"}
OUR_ATTRIBUTES = {"aria-label", "class", "data-n", "href", "id", "rel", "start", "title", "translate"}.union(*ATTRIBUTES.values())
OUR_CLASSES = {"added", "code", "line", "no", "plain", "removed", "src"}.union(*CLASSES.values())

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "onerror": '<img src=x onerror="alert(1)">',
    "svg": '<svg onload="alert(1)"><script>alert(1)</script></svg>',
    "style element": "<style>body{display:none}</style>",
    "style attribute": '<p style="position:fixed;inset:0">over all</p>',
    "our own class": '<div class="desk-top" id="rubric">fake</div>',
    "iframe": '<iframe src="https://evil.example"></iframe>',
    "form": '<form action="https://evil.example"><input name=password></form>',
    "meta refresh": '<meta http-equiv="refresh" content="0;url=https://evil.example">',
    "base": '<base href="https://evil.example">',
    "javascript link": "[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) [z](java&#115;cript:alert(1)) <javascript:alert(1)>",
    "data link": "[x](data:text/html;base64,PHNjcmlwdD4=) [r]\n\n[r]: data:text/html,x",
    "vbscript and file": "[x](vbscript:x) [y](file:///etc/passwd) [z](//evil.example/x) [w](/admin/)",
    "quoted attribute": '[x](https://a.example/"onmouseover="alert(1)) ![" onerror="alert(1)](https://a.example/i.png "t\\" onload=\\"x")',
    "autolink": '<https://a.example/?q=<script>> <https://a.example/" onclick="x>',
    "math text": r"$\text{</math><script>alert(1)</script>}$ and $\text{<img src=x onerror=alert(1)>}$",
    "math link and class": r"$\href{javascript:alert(1)}{x} \class{desk-top}{y} \style{position:fixed}{z} \cssId{rubric}{w}$",
    "math colour and space": r"$$\color{red}{x} \hspace{-100em} \rule{100em}{100em} \bbox[border:9em solid]{x}$$",
    "fence language": '```python"><script>alert(1)</script>\nx = 1\n```',
    "fence content": "```html\n<script>alert(1)</script>\n```",
    "entities": "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;",
    "table": "| a | <script>alert(1)</script> |\n|---|:-:|\n| `<b>` | [x](javascript:alert(1)) |",
    "heading": "# <a id=rubric name=main>x</a> {#main}\n## [y](javascript:alert(1))",
    "comment": "<!-- <script>alert(1)</script> --> <![CDATA[ <script> ]]>",
}


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML, as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["markdown", "python", "text"])
def test_only_our_tags_and_attributes_come_out(name, kind):
    for tag, attributes in Tags(render_output(kind, HOSTILE[name]).html).found:
        assert tag in OUR_TAGS
        assert set(attributes) <= OUR_ATTRIBUTES
        assert attributes.get("href", "#").startswith(("https://", "http://", "mailto:", "#"))
        assert set(attributes.get("class", "").split()) <= OUR_CLASSES
        assert attributes.get("id", "h-1").startswith(("h-", "L"))


def test_raw_html_is_shown_as_the_text_that_it_is():
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in render_output("markdown", HOSTILE["script"]).html


def test_an_image_becomes_a_link_and_is_not_loaded():
    html = render_output("markdown", "![a plot](https://a.example/p.png) ![local](p.png)").html
    assert "<img" not in html
    assert ">image: a plot</a>" in html
    assert "image: local" in html


def test_links_say_that_we_do_not_vouch_for_them():
    html = render_output("markdown", "[x](https://a.example)").html
    assert html == '<p><a href="https://a.example" rel="noopener nofollow">x</a></p>\n'


def test_math_becomes_mathml_and_prices_stay_prices():
    html = render_output("markdown", r"$\frac{a}{b}$ costs $5 to $10.").html
    assert "<mfrac>" in html
    assert "costs $5 to $10." in html


def test_math_that_is_not_understood_is_shown_as_typed():
    html = render_output("markdown", r"$\frac{a}{$ and $\text{<b>x</b>}$").html
    assert r'<code class="math-source">\text{&lt;b&gt;x&lt;/b&gt;}</code>' in html


def test_headings_make_an_outline_with_ids_of_ours():
    rendered = render_output("markdown", "# One\n\n## Two `x`\n")
    assert [(h.level, h.id, h.text) for h in rendered.outline] == [(1, "h-1", "One"), (2, "h-2", "Two x")]
    assert '<h2 id="h-2">' in rendered.html


def test_code_has_an_anchor_a_line_and_four_colours():
    html = render_output("python", 'def f():  # c\n    return "s"\n').html
    assert 'id="L2"' in html
    assert html.count('<a class="no"') == 2
    assert set(re.findall(r'"(hl-\w)"', html)) == {"hl-k", "hl-d", "hl-c", "hl-s"}


def test_reversed_and_invisible_characters_are_drawn_in_code():
    html = render_output("python", "access = '\u202e resu'  # a\u200bb\ufeff").html
    assert "\u202e" not in html
    assert all(code in html for code in ("U+202E", "U+200B", "U+FEFF", "right-to-left override"))


def test_prose_cannot_turn_the_reading_direction():
    html = render_output("markdown", "safe \u202egnp.exe").html
    assert "⟨U+202E⟩" in html
    assert "\u202e" not in html


def test_the_difference_to_the_starter_keeps_the_outputs_line_numbers():
    html = render_output("python", "a = 1\nb = 3\nc = 4\n", starter="a = 1\nb = 2\n").html
    assert html.count('class="line removed"') == 1
    assert '<span class="line added" id="L3">' in html


@pytest.mark.parametrize("kind", ["markdown", "python", "text"])
def test_a_line_of_a_megabyte_is_folded(kind):
    rendered = render_output(kind, "x" * 1_000_000)
    assert len(rendered.html) < 10_000
    assert rendered.notices
    assert "more characters" in rendered.html


def test_long_markdown_is_shown_as_typed_with_the_reason():
    rendered = render_output("markdown", "word *emph*\n\n" * (FORMAT_CHARS // 10))
    assert "<em>" not in rendered.html
    assert rendered.notices[0].startswith("Shown as it was typed. It is 104,000 characters long")


SLOW = {
    "brackets": "[" * 79_000,
    "bracket pairs": "[]" * 39_000,
    "links": "[a](" * 19_000,
    "images": "![" * 39_000,
    "quotes 10k deep": ">" * 10_000 + " x",
    "quotes deeper by the line": "\n".join(">" * n for n in range(350)),
    "lists": "\n".join("  " * n + "- x" for n in range(280)),
    "stars": "*a_ " * 19_000,
    "nested emphasis": "*_" * 19_000 + "a" + "_*" * 19_000,
    "backticks": "".join("`" * n + "a" for n in range(390)),
    "unclosed fence": "```python\n" + "x = 1\n" * 13_000,
    "many fences": "```python\nx = 1\n```\n" * 3_900,
    "table of 10k columns": "|" + "a|" * 10_000 + "\n|" + "-|" * 10_000 + "\n|" + "b|" * 10_000,
    "table filled up": "|" + "a|" * 2_000 + "\n|" + "-|" * 2_000 + "\n" + "|b\n" * 1_000,
    "dollars": "$" * 79_000,
    "formulas": r"$\frac{a}{b}$ and " * 4_000,
    "nested formula": "$" + "x^{" * 600 + "x" + "}" * 600 + "$",
    "matrix": "$$" + r"\begin{matrix}" * 140 + "a" + r"\end{matrix}" * 140 + "$$",
    "entities": "&amp;" * 15_900,
    "backslashes": "\\" * 79_000,
    "headings": "# a\n" * 19_900,
    "references": "[a]: http://x\n" * 2_000 + "[a]" * 10_000,
    "a megabyte of prose": "word and more words\n\n" * 50_000,
    "a megabyte of lines": "x\n" * 500_000,
    "quotes in lists": ("> - " * 50 + "a\n") * 390,
    "angle brackets": "<a " * 26_000,
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("kind", ["markdown", "python", "text"])
def test_pathological_text_is_drawn_in_less_than_half_a_second(name, kind):
    started = time.process_time()
    render_output(kind, SLOW[name], [Mark("e-1", "judge", "a quote that is not there", "x")])
    assert time.process_time() - started < 0.5


def test_more_lines_than_the_limit_are_left_out_and_said():
    rendered = render_output("python", "x = 1\n" * (SHOWN_LINES + 10))
    assert f'id="L{SHOWN_LINES}"' in rendered.html
    assert f'id="L{SHOWN_LINES + 1}"' not in rendered.html
    assert rendered.notices == (f"Only the first {SHOWN_LINES:,} lines of 30,059 characters are shown.",)


# --- evidence ---------------------------------------------------------------------------------------------


def quote(text: str, **lines: int) -> Mark:
    return Mark("e-1", "judge", text, "Novelty", **lines)


@pytest.mark.parametrize(
    "said",
    [
        "the reward is wrong",
        "The **reward** is\nwrong",
        "“The reward is wrong.”",
        "1. the reward is wrong",
        "the [reward](https://a.example) is wrong",
    ],
)
def test_a_quote_is_found_whatever_the_formatting(said):
    rendered = render_output("markdown", "Here *the reward* is wrong, always.", [quote(said)])
    assert rendered.found == {"e-1"}
    assert '<mark class="judge" id="e-1">the reward</mark></em><mark class="judge"> is wrong</mark>' in rendered.html


def test_a_quote_across_a_formula_is_found():
    rendered = render_output("markdown", "We keep tasks with $m \\ge 0.9$ and drop the rest.", [quote("tasks with $m \\ge 0.9$ and drop")])
    assert rendered.found == {"e-1"}


def test_a_quote_that_is_not_there_is_not_marked():
    rendered = render_output("markdown", "Here the reward is right.", [quote("the reward is wrong")])
    assert rendered.found == frozenset()
    assert "<mark" not in rendered.html


def test_two_quotes_may_overlap():
    marks = [Mark("e-1", "judge", "one two three", "a"), Mark("e-2", "human", "two three four", "b")]
    html = render_output("markdown", "one two three four", marks).html
    first, second = '<mark class="judge" id="e-1">one </mark>', '<mark class="judge" id="e-2">two three</mark>'
    assert html == f'<p>{first}{second}<mark class="human"> four</mark></p>\n'


def test_evidence_by_line_bands_the_lines():
    rendered = render_output("python", "a = 1\nb = 2\nc = 3\n", [quote("", line_start=2, line_end=3)])
    assert rendered.html.count("cited-judge") == 2
    assert rendered.found == {"e-1"}


def test_a_quote_of_code_bands_the_lines_that_it_stands_in():
    rendered = render_output("python", "a = 1\nbeta = gamma(2)\n", [quote("beta = gamma(2)")])
    assert '<span class="line cited-judge" id="L2" title="Novelty">' in rendered.html


def test_evidence_on_lines_that_are_not_there_has_no_place():
    assert render_output("python", "a = 1\n", [quote("", line_start=40, line_end=41)]).found == frozenset()


@pytest.mark.parametrize(
    ("text", "shown", "target"),
    [
        ("See arXiv:2501.00663v2.", "arXiv:2501.00663v2", "https://arxiv.org/abs/2501.00663v2"),
        ("At https://arxiv.org/abs/1706.03762, too", "https://arxiv.org/abs/1706.03762", "https://arxiv.org/abs/1706.03762"),
        ("(doi:10.1038/s41586-021-03819-2).", "10.1038/s41586-021-03819-2", "https://doi.org/10.1038/s41586-021-03819-2"),
        ("10.1016/S0140(05)1 and", "10.1016/S0140(05)1", "https://doi.org/10.1016/S0140(05)1"),
    ],
)
def test_arxiv_numbers_and_dois_are_links(text, shown, target):
    html = str(render_output("markdown", text).html)
    assert re.sub("<a [^>]*>", "", html).replace("</a>", "") == f"<p>{text}</p>\n"
    link = re.search(r"<a ([^>]*)>(.*?)</a>", html)
    assert link[2] == shown
    assert f'href="{target}"' in link[1]
    assert 'target="_blank"' in link[1]
    assert "noopener" in link[1]


@pytest.mark.parametrize("text", ["`arXiv:2501.00663`", "costs 10.5/year"])
def test_what_is_code_or_no_citation_is_no_link(text):
    assert "<a " not in render_output("markdown", text).html


def test_a_citation_inside_a_link_keeps_the_links_own_target():
    html = render_output("markdown", "[arXiv:2501.00663](https://example.org)").html
    assert html.count("<a ") == 1
    assert 'href="https://example.org"' in html


@pytest.mark.parametrize("text", ["a drop of 95%.", "we call it “the surprise gate.”", "it holds (in ten systems)"])
def test_a_mark_ends_where_its_quote_ends(text):
    html = render_output("markdown", f"So {text} And more.", [quote(text)]).html
    assert f">{text}</mark>" in html
