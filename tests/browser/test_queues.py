"""From what raters differ on to its settlement, with the mouse and the keys."""

import pytest
from playwright.sync_api import Page, expect

from reviewapp.models import Grade, Output
from reviewapp.queues.draw import Wish, draw_queue
from tests.browser.conftest import keep_screenshot, sign_in
from tests.make import make_human_grade, make_judge_grade, make_output, make_task, make_user

pytestmark = pytest.mark.browser
KEYS = ("viability", "upside", "success", "novelty")


def test_an_adjudicator_settles_what_two_raters_differ_on(page: Page):
    task = make_task()
    output, agreed = make_output(task), make_output(task)
    ana, ben, zelda = make_user("ana"), make_user("ben"), make_user("zelda", role="adjudicator")
    for who, scores in ((ana, (9, 6)), (ben, (3, 6))):
        for one, score in zip((output, agreed), scores, strict=True):
            make_human_grade(one, who, dict.fromkeys(KEYS, score))
    make_judge_grade(output, dict.fromkeys(KEYS, 1))
    queue = draw_queue(Wish(task, size=2, overlap=3), zelda)
    sign_in(page, "zelda")
    page.goto(queue.get_absolute_url())
    page.get_by_role("link", name="1 item differs: adjudicate").click()
    page.get_by_label("Raters differ by more than").fill("2")
    page.get_by_role("button", name="Make the queue").click()
    page.get_by_role("link", name="Adjudicate next").click()
    table = page.get_by_role("table", name="The raters' grades")
    expect(table.get_by_role("row", name="Viability")).to_contain_text("3")
    expect(table.get_by_role("columnheader")).to_have_text(["Criterion", "Rater A", "Rater B"])
    keep_screenshot(page, "adjudication")
    for key in KEYS:
        page.keyboard.press("7")
        expect(page.locator(f'#c-{key} input[value="7"]')).to_be_checked()
        page.keyboard.press("j")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Your grade")).to_be_visible()
    grade = Grade.objects.get(mode="adjudication")
    assert (grade.output, grade.overall) == (output, 7)
    page.get_by_role("link", name="Next output").click()
    expect(page.get_by_text("Nothing waits for you in this queue.")).to_be_visible()
    expect(page.get_by_label("Progress")).to_contain_text("1 of 1")
    expect(page.get_by_text("nothing differs")).to_be_visible()
    assert Output.objects.get(pk=output.pk).label_state == "adjudicated"
