"""The main job, end to end, as a reviewer does it in a browser, by keyboard where it says so."""

import json

import pytest
from playwright.sync_api import Page, expect

from reviewapp.catalog.sync import sync_tasks
from reviewapp.models import Grade, Task
from tests.browser.conftest import keep_screenshot
from tests.jobs.workers import Worker
from tests.make import make_grader, make_judge_grade, make_output

pytestmark = [pytest.mark.browser, pytest.mark.worker]

JUDGED = {"viability": 8.0, "upside": 8.0, "success": 7.5, "novelty": 3.0}
IDEA = """# Surprise-gated weights

We observed that agents forget the flag that made the build pass.

The update is $M_t = \\lambda M_{t-1} + v k^T$.
"""


@pytest.fixture
def idea(transactional_db):
    """An idea that a judge was too generous with, among others."""
    sync_tasks()
    task = Task.objects.get(slug="idea_proposal")
    for _ in range(3):
        make_output(Task.objects.get(slug="literature_review"))
    output = make_output(task, IDEA, external_id="idea-1", model="secret-model")
    judge = make_grader("judge", "3")
    make_judge_grade(output, JUDGED, grader=judge, rationales={"novelty": "Nothing here is new to me."})
    return output


@pytest.fixture
def worker(transactional_db):
    started = Worker().wait_ready()
    yield started
    started.stop()


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def saved(page: Page, text: str) -> None:
    expect(page.locator("#total .overall")).to_have_text(text)


def test_a_reviewer_scores_blind_overrides_the_judge_and_exports_it(signed_in, idea, worker, tmp_path):
    page = signed_in
    open_the_idea(page)
    score_blind_by_keyboard(page)
    see_the_judge(page)
    override_novelty(page)
    see_both_in_history(page)
    row = export(page, tmp_path)
    assert row["label_score"] == pytest.approx(8 * 0.3 + 8 * 0.25 + 7.5 * 0.3 + 7 * 0.15)
    override = row["overrides"][0]
    assert (override["criterion"], override["from"], override["to"]) == ("novelty", 3.0, 7.0)
    assert override["reason"] == "The gate on the retrieved value is new."
    assert override["grader"] == "judge"
    assert override["by"] != "ana"
    assert override["supersedes"] == Grade.objects.get(output=idea, mode="automatic").pk


def open_the_idea(page: Page) -> None:
    page.goto("/")
    page.get_by_role("link", name="Outputs").click()
    expect(page.get_by_text("output-", exact=False).first).to_be_visible()
    page.goto("/outputs/?task=idea_proposal")
    expect(page.get_by_text("output-", exact=False)).to_have_count(0)
    page.get_by_role("link", name="idea-1").click()
    expect(page.get_by_role("heading", name="Surprise-gated weights").first).to_be_visible()
    expect(page.locator("math").first).to_be_attached()
    for hidden in ("Nothing here is new to me", "secret-model"):
        assert hidden not in page.content()
    keep_screenshot(page, "review-blind")


def score_blind_by_keyboard(page: Page) -> None:
    """Viability 6, upside 8, success 4, novelty 7: 6.05."""
    press(page, "6")
    saved(page, "6.00")
    press(page, "j 8")
    expect(page.locator("#total")).to_contain_text("2 to answer")
    press(page, "j 4 j 7")
    saved(page, "6.05")
    expect(page.locator("#total")).to_contain_text("Fail")
    press(page, "Enter")
    expect(page.get_by_text("Submitted")).to_be_visible()


def see_the_judge(page: Page) -> None:
    expect(page.locator(".verdict.human .overall")).to_have_text("6.05")
    expect(page.locator(".verdict.judge")).to_contain_text("judge v3")
    expect(page.get_by_text("Nothing here is new to me.")).to_be_visible()
    keep_screenshot(page, "review-revealed")


def override_novelty(page: Page) -> None:
    page.get_by_role("button", name="Override the judge").click()
    expect(page.get_by_role("button", name="Submit override")).to_be_visible()
    press(page, "j j j 7")
    press(page, "n")
    page.keyboard.type("The gate on the retrieved value is new.")
    page.get_by_role("button", name="Submit override").click()
    expect(page.get_by_text("Submitted")).to_be_visible()


def see_both_in_history(page: Page) -> None:
    page.get_by_role("link", name="History").click()
    history = page.locator("main")
    for text in ("blind", "override", "6.05", "The gate on the retrieved value is new."):
        expect(history.get_by_text(text, exact=False).first).to_be_visible()
    keep_screenshot(page, "review-history")


def export(page: Page, tmp_path) -> dict:
    """The idea's row of a snapshot written by the worker and downloaded."""
    page.goto("/datasets/?tasks=idea_proposal&policy=human-then-calibrated")
    expect(page.locator("main")).to_contain_text("1 row")
    page.get_by_role("button", name="Write snapshot").click()
    link = page.get_by_role("link", name=".jsonl").first
    expect(link).to_be_visible(timeout=20_000)
    keep_screenshot(page, "dataset")
    with page.expect_download() as download:
        link.click()
    path = tmp_path / "rows.jsonl"
    download.value.save_as(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return next(row for row in rows if row["output_id"] == "idea-1")
