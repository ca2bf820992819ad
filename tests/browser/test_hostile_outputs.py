"""Agents' outputs are hostile: they neither run, nor call out, nor break the page.

The page fixture fails each test on a dialog, a console error, or a request to another host.
"""

import pytest
from playwright.sync_api import Page, expect

from reviewapp.models import Output
from tests.make import make_judge_grade, make_output, make_task

pytestmark = pytest.mark.browser

MARKDOWN = {
    "script": "<script>alert(1)</script>",
    "onerror": '<img src=x onerror="alert(1)">\n\n![x](https://evil.example/pixel.png)',
    "javascript link": "[click](javascript:alert(1)) [two](JaVaScRiPt:alert(1)) <javascript:alert(1)>",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "svg": '<svg onload="alert(1)"><script>alert(1)</script><use href="https://evil.example/x.svg#a"/></svg>',
    "math": '$\\href{javascript:alert(1)}{x}$ <math><maction actiontype="statusline" xlink:href="javascript:alert(1)">x</maction></math>',
    "css": '<style>body{display:none}</style><div style="position:fixed;inset:0;background:url(https://evil.example)">x</div>',
    "form": '<form action="https://evil.example"><input name=password></form><iframe src="https://evil.example"></iframe>',
    "meta": '<meta http-equiv="refresh" content="0;url=https://evil.example"><base href="https://evil.example/">',
    "templates": "{{ 7*7 }} {% load static %} <a hx-get='/logout/' hx-trigger='load'>x</a> <b data-key='Enter'>x</b>",
    "unclosed fence": "```python\nprint('never closed')\n" + "# more\n" * 50,
    "deep nesting": "> " * 3000 + "deep\n\n" + "- " * 500 + "list",
    "brackets": "[" * 20_000 + "(" * 20_000,
    "huge table": "|" + "a|" * 2000 + "\n|" + "-|" * 2000 + "\n" + ("|" + "b|" * 2000 + "\n") * 20,
    "line of one megabyte": "# Head\n\n" + "x" * 1_000_000,
}  # fmt: skip


def test_hostile_markdown_outputs_are_shown_and_do_nothing(signed_in):
    task = make_task()
    for name, content in MARKDOWN.items():
        open_output(signed_in, make_output(task, content), name)
        signed_in.keyboard.press("6")
        expect(signed_in.locator("#total .overall"), name).to_have_text("6.00")


def open_output(page: Page, output: Output, name: str) -> None:
    """Open its review: the panel is there, and the page is no wider than the window."""
    page.goto(f"/outputs/{output.pk}/")
    expect(page.get_by_role("button", name="Submit"), name).to_be_visible()
    box = page.locator("#rubric").bounding_box()
    assert box["x"] + box["width"] <= 1281, name
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280, name
    watched = page.watched
    assert not (watched.elsewhere or watched.dialogs or watched.errors), name


CODE = {
    "script in a string": 'x = "</code></pre><script>alert(1)</script>"',
    "line of one megabyte": "x = '" + "a" * 1_000_000 + "'",
    "many lines": "x = 1\n" * 20_000,
    "odd characters": "a = 1 # \u202e\u2066 reversed \u200b\u200d\ufeff \x07\x1b[31m red",
    "not python at all": "<html><body onload=alert(1)>" + "{" * 5000,
}


def test_hostile_code_outputs_are_shown_and_do_nothing(signed_in):
    task = make_task(output_format="python")
    for name, content in CODE.items():
        open_output(signed_in, make_output(task, content), name)


def test_hostile_transcripts_judges_and_names_do_nothing_either(signed_in):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    transcript = [{"role": "assistant", "content": evil}, {"role": "tool", "name": evil, "content": evil}]
    output = make_output(make_task(), evil, transcript=transcript, reference=evil, model=evil, external_id=evil)
    scores = dict.fromkeys(("viability", "upside", "success", "novelty"), 5)
    make_judge_grade(output, scores, rationales=dict.fromkeys(scores, evil))
    signed_in.goto(f"/outputs/{output.pk}/")
    for key in ("6", "j", "6", "j", "6", "j", "6", "Enter"):
        signed_in.keyboard.press(key)
    expect(signed_in.get_by_text("Submitted")).to_be_visible()
    for tab in ("output", "transcript", "prompt", "evidence", "history"):
        signed_in.goto(f"/outputs/{output.pk}/?tab={tab}")
        expect(signed_in.locator("main")).to_be_visible()
    for path in ("/", "/outputs/", "/tasks/ideas/", "/datasets/"):
        signed_in.goto(path)
        expect(signed_in.locator("main")).to_be_visible()


def test_a_raw_download_is_never_shown_as_a_page(signed_in):
    output = make_output(make_task(), "<script>alert(1)</script>")
    answer = signed_in.request.get(f"/outputs/{output.pk}/raw")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"
