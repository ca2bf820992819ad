"""Reviewing with the mouse and the keys, where a form post alone would not show what goes wrong."""

import re
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from reviewapp.models import Draft, Grade
from tests.browser.conftest import keep_screenshot
from tests.make import make_judge_grade, make_output, make_task

pytestmark = pytest.mark.browser

TEXT = "# An idea\n\nThe reward is wrong in places.\n\nWe saw it in ten systems."
JUDGED = {"viability": 8.0, "upside": 7.5, "success": 6.0, "novelty": 5.5}


def row(page: Page, key: str):
    return page.locator(f"#c-{key}")


def press_on(page: Page, key: str, value: int) -> None:
    """The mouse goes down on a score and up again where it is, as a hand does it."""
    box = page.locator(f'#c-{key} label:has([value="{value}"])').bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.wait_for_timeout(50)
    page.mouse.up()


def enlarge_the_note(page: Page) -> None:
    """The browser keeps the height in a style attribute, which a swap must not copy: the policy forbids it, as an error."""
    box = page.locator("#note").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] - 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] + 20)
    page.mouse.up()
    assert page.locator("#note").get_attribute("style")
    page.keyboard.press("Escape")


def checked(page: Page, key: str, value: str) -> None:
    expect(page.locator(f'#c-{key} input[value="{value}"]').first).to_be_checked()


@pytest.fixture
def refusals(page: Page):
    """Refusals are expected here; Chromium logs each as an error."""
    yield
    page.watched.errors = [error for error in page.watched.errors if "422 (Unprocessable" not in error]


def select(page: Page, text: str) -> None:
    page.evaluate(
        """text => {
          const node = [...document.querySelectorAll("#content p")].map(p => p.firstChild).find(n => n.textContent.includes(text));
          const at = node.textContent.indexOf(text);
          getSelection().setBaseAndExtent(node, at, node, at + text.length);
        }""",
        text,
    )


def test_a_click_on_any_score_counts_and_a_refused_submit_goes_to_what_is_missing(signed_in, refusals):
    page = signed_in
    output = make_output(make_task(), TEXT)
    page.goto(f"/outputs/{output.pk}/")
    for key, value in (("success", 4), ("novelty", 7), ("viability", 6)):
        press_on(page, key, value)
        checked(page, key, str(value))
        expect(row(page, key)).to_have_attribute("aria-current", "true")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(row(page, "novelty")).to_have_attribute("aria-current", "true")
    enlarge_the_note(page)
    page.keyboard.press("Enter")
    expect(page.locator("#total")).to_contain_text("Not answered: Upside.")
    expect(row(page, "upside")).to_have_attribute("aria-current", "true")
    expect(row(page, "upside")).to_be_focused()
    page.keyboard.type("10")
    checked(page, "upside", "10")
    page.keyboard.type("1")
    page.wait_for_timeout(800)
    page.keyboard.type("0")
    checked(page, "upside", "0")


def test_a_quote_is_what_is_selected_now_and_shows_on_a_folded_row(signed_in, refusals):
    page = signed_in
    output = make_output(make_task(), TEXT)
    page.goto(f"/outputs/{output.pk}/")
    select(page, "The reward is wrong")
    row(page, "viability").get_by_role("button", name="Quote").click()
    expect(page.locator("#content mark")).to_have_text("The reward is wrong")
    expect(row(page, "viability").locator(".has-quote")).to_have_text("1 quote")
    page.keyboard.press("x")
    expect(page.locator("#total")).to_contain_text("Select text in the output first")
    select(page, "in ten systems")
    page.evaluate("getSelection().collapseToEnd()")
    page.keyboard.press("x")
    expect(page.locator("#total")).to_contain_text("Select text in the output first")
    assert len(Draft.objects.get().answers["viability"]["evidence"]) == 1
    page.keyboard.press("n")
    note = row(page, "viability").get_by_role("textbox")
    expect(note).to_be_focused()
    page.keyboard.type("Not so sure.")
    expect(note).to_have_value("Not so sure.")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(row(page, "viability").locator(".has-note")).to_be_visible()
    expect(row(page, "viability").locator(".has-quote")).to_have_text("1 quote")
    expect(row(page, "upside").locator(".has-note")).to_be_hidden()
    weight = page.locator("#content mark").evaluate("mark => getComputedStyle(mark).fontWeight")
    assert weight == "400"


def test_undo_asks_when_it_is_about_another_output_and_overrides_have_a_key(signed_in, refusals):
    page = signed_in
    first, second = (make_output(make_task(), TEXT) for _ in range(2))
    make_judge_grade(first, JUDGED)
    page.goto(f"/outputs/{first.pk}/")
    expect(page.get_by_role("dialog", name="See the judge first")).to_be_hidden()
    page.get_by_role("button", name="See the judge first").click()
    expect(page.get_by_role("dialog", name="See the judge first")).to_be_visible()
    page.get_by_role("button", name="Stay blind").click()
    page.keyboard.type("6j8j4j7")
    expect(page.locator("#total")).to_contain_text("all answered")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Submitted")).to_be_visible()
    page.keyboard.press("o")
    expect(page.get_by_role("button", name="Submit override")).to_be_visible()
    page.keyboard.type("jj9")
    page.keyboard.press("Enter")
    expect(page.locator("#total")).to_contain_text("No reason: Success")
    expect(page.get_by_label("Reason on Success")).to_be_focused()
    page.goto(f"/outputs/{second.pk}/")
    page.keyboard.press("u")
    page.keyboard.press("z")
    asked = page.get_by_role("dialog", name="Undo")
    expect(asked).to_contain_text(f"Take back your grade of output {first.pk}, made ")
    page.get_by_role("button", name="Keep it").click()
    assert not Grade.objects.filter(retraction__isnull=False).exists()
    page.keyboard.press("s")
    page.get_by_role("button", name="Broken or empty").click()
    page.wait_for_url("**/review/next?task=ideas")
    page.keyboard.press("z")
    page.wait_for_url(f"**/outputs/{second.pk}/")
    expect(page.get_by_text("is not skipped any more")).to_be_visible()


def test_the_panel_fits_its_column_at_every_width(signed_in):
    page = signed_in
    output = make_output(make_task(), TEXT)
    make_judge_grade(output, JUDGED)
    page.goto(f"/outputs/{output.pk}/")
    page.get_by_role("button", name="See the judge first").click()
    page.get_by_role("button", name="Show me the judge").click()
    for width in (820, 1280, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        expect(page.get_by_role("button", name="Agree with all")).to_be_visible()
        foot = page.locator(".panel-foot")
        assert foot.evaluate("foot => foot.scrollWidth <= foot.clientWidth"), width
        bar = page.get_by_role("link", name=re.compile("Rubric · 4 to answer"))
        expect(bar).to_be_visible(visible=width < 960)
        keep_screenshot(page, f"review-assisted-{width}")


def test_a_note_typed_just_before_the_submit_is_in_the_grade(signed_in):
    """Its own save waits a second and would come after the submit: it is dropped, and the page stays quiet."""
    output = make_output(make_task())
    signed_in.goto(f"/outputs/{output.pk}/")
    for key in ("6", "j", "6", "j", "6", "j", "6", "n"):
        signed_in.keyboard.press(key)
    signed_in.keyboard.type("typed at the last moment")
    signed_in.keyboard.press("Control+Enter")
    expect(signed_in.get_by_text("Submitted", exact=True)).to_be_visible()
    signed_in.wait_for_timeout(1500)
    assert output.grades.get().criterion_scores.get(criterion__key="novelty").rationale == "typed at the last moment"
    assert signed_in.get_by_text("submitted already").count() == 0  # it was sent once


def test_the_key_may_follow_the_selection_in_no_time(signed_in):
    """A busy browser tells of a selection after it has handed out the next key."""
    page = signed_in
    output = make_output(make_task(), TEXT)
    page.goto(f"/outputs/{output.pk}/")
    page.evaluate(
        """() => {
          const node = document.querySelector("#content p").firstChild;
          getSelection().setBaseAndExtent(node, 4, node, 10);
          document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "x", bubbles: true }));
        }"""
    )
    expect(row(page, "viability").locator(".quote")).to_contain_text("reward")


@contextmanager
def slow(page: Page, what: str, seconds: float = 2.0):
    """The server's answers to these posts come that much later."""

    def hold(route):
        answer = route.fetch()
        page.wait_for_timeout(1000 * seconds)
        route.fulfill(response=answer)

    page.route(f"**/{what}", hold)
    yield
    page.unroute_all(behavior="ignoreErrors")


def draft_of(output):
    return Draft.objects.get(output=output)


def test_what_is_typed_and_chosen_while_a_quote_is_on_its_way_is_kept(signed_in, refusals):
    page = signed_in
    output = make_output(make_task(), TEXT)
    page.goto(f"/outputs/{output.pk}/")
    viability, upside = row(page, "viability"), row(page, "upside")
    select(page, "The reward is wrong")
    with slow(page, "evidence"):
        page.keyboard.type("6xn")
        page.keyboard.type("Not at all sure of that", delay=120)  # the answer comes in the middle of it
        expect(viability.locator(".quote")).to_be_visible()
        expect(viability.get_by_role("textbox")).to_be_focused()
        page.keyboard.type(".")
        expect(viability.get_by_role("textbox")).to_have_value("Not at all sure of that.")
        select(page, "in ten systems")
        page.keyboard.press("Escape")
        with page.expect_response("**/evidence"):
            page.keyboard.type("xj7n")
            page.keyboard.type("Big")
        expect(viability.locator(".has-quote")).to_have_text("2 quotes")
    expect(upside).to_have_attribute("aria-current", "true")
    expect(upside.get_by_role("textbox")).to_be_focused()
    checked(page, "upside", "7")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#total")).to_contain_text("Not answered: Success, Novelty.")
    answers = draft_of(output).answers
    assert [item["text"] for item in answers["viability"]["evidence"]] == ["The reward is wrong", "in ten systems"]
    assert (answers["viability"]["note"], answers["viability"]["score"]) == ("Not at all sure of that.", 6)
    assert (answers["upside"]["note"], answers["upside"]["score"]) == ("Big", 7)


def test_a_judge_that_comes_in_takes_nothing_away(signed_in):
    page = signed_in
    output = make_output(make_task("idea_proposal"), TEXT)
    make_judge_grade(output, JUDGED)
    page.goto(f"/outputs/{output.pk}/")
    page.get_by_role("button", name="See the judge first").click()
    page.get_by_role("button", name="Show me the judge").click()
    expect(page.get_by_role("button", name="Agree with all")).to_be_visible()
    page.keyboard.type("6jn")
    with slow(page, "draft", 1):
        page.evaluate("htmx.trigger(document.body, 'graded')")
        with page.expect_response("**/draft"):
            page.keyboard.type("Typed all the while", delay=80)
        page.keyboard.type("!")
        expect(row(page, "upside").get_by_role("textbox")).to_have_value("Typed all the while!")
        expect(row(page, "upside")).to_have_attribute("aria-current", "true")
    page.get_by_role("link", name="Transcript").click()
    expect(row(page, "upside").locator("textarea")).to_have_value("Typed all the while!")


def test_the_form_rests_while_a_submit_is_on_its_way_and_goes_on_where_it_is_refused(signed_in, refusals):
    page = signed_in
    output = make_output(make_task(), TEXT)
    page.goto(f"/outputs/{output.pk}/")
    page.keyboard.type("6jn")
    with slow(page, "submit", 1):
        page.keyboard.type("Why")
        page.keyboard.press("Control+Enter")
        page.keyboard.type("7 lost")
        expect(page.locator("#total")).to_contain_text("Not answered: Upside")
    expect(row(page, "upside")).to_be_focused()
    page.keyboard.press("n")
    page.keyboard.type("!")
    expect(row(page, "upside").get_by_role("textbox")).to_have_value("Why!")
    assert row(page, "upside").locator("input:checked").count() == 0


def test_the_form_rests_also_while_the_submit_waits_for_a_save(signed_in, refusals):
    page = signed_in
    output = make_output(make_task(), TEXT)
    page.goto(f"/outputs/{output.pk}/")
    with slow(page, "draft", 1):
        page.keyboard.type("6jn")  # the score's save is on its way
        page.keyboard.type("Why")
        page.keyboard.press("Control+Enter")
        page.keyboard.type("7 lost")
        expect(page.locator("#total")).to_contain_text("Not answered: Upside")
    expect(row(page, "upside").get_by_role("textbox")).to_have_value("Why")
    page.keyboard.press("n")
    page.keyboard.type("!")
    expect(row(page, "upside").get_by_role("textbox")).to_have_value("Why!")


def test_a_link_and_a_flag_wait_until_the_last_words_are_saved(signed_in):
    page = signed_in
    output = make_output(make_task(), TEXT)
    page.goto(f"/outputs/{output.pk}/")
    with slow(page, "draft", 0.5):
        page.keyboard.type("n")
        page.keyboard.type("First")
        page.get_by_role("link", name="Prompt").click()
        page.wait_for_url("**?tab=prompt")
        note = row(page, "viability").locator("textarea")
        expect(note).to_have_value("First")
        note.press("End")
        page.keyboard.type(", then")
        page.keyboard.press("Escape")
        page.keyboard.press("!")
        page.get_by_role("button", name="Flag", exact=True).click()
        expect(page.get_by_text("is flagged")).to_be_visible()
        expect(row(page, "viability").locator("textarea")).to_have_value("First, then")
