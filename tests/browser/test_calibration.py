"""The calibration page in a real browser: charts without a breach of the content policy, and marks that lead to outputs."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from reviewapp.models import Output
from tests.browser.conftest import keep_screenshot, sign_in
from tests.make import at_once, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user

KEYS = ("viability", "upside", "success", "novelty")
PAGE = "/calibration/ideas/"


@at_once
def grade_outputs(n: int = 24) -> None:
    task, judge = make_task(), make_grader()
    people = [make_user("pat"), make_user("ben")]
    for i in range(n):
        output = make_output(task, model=f"model-{i % 3}", prompt=None)
        quality = i % 6 + 1
        make_judge_grade(output, dict.fromkeys(KEYS, quality + 2), judge)
        for person, more in zip(people, (0, 1), strict=True):
            make_human_grade(output, person, dict.fromkeys(KEYS, quality + more))


@pytest.fixture
def viewer(page: Page) -> Iterator[Page]:
    page.set_default_timeout(30_000)  # plotly.js has 5 MB
    page.set_default_navigation_timeout(30_000)
    expect.set_options(timeout=20_000)
    grade_outputs()
    make_user("vera", role="viewer")
    sign_in(page, "vera")
    yield page
    expect.set_options(timeout=5_000)


def chart(page: Page, name: str):
    return page.locator(f"[data-chart=chart-{name}]")


def test_charts_are_drawn_in_both_themes_and_break_no_rule(viewer):
    viewer.goto(PAGE)
    expect(chart(viewer, "scatter").locator(".points path").first).to_be_visible()
    keep_screenshot(viewer, "calibration")
    before = chart(viewer, "scatter").locator(".xtitle").evaluate("e => getComputedStyle(e).fill")
    viewer.get_by_role("button", name="Theme").click()
    expect(chart(viewer, "scatter").locator(".xtitle")).not_to_have_css("fill", before)


def test_a_bubble_leads_to_its_outputs(viewer):
    viewer.goto(f"{PAGE}?criterion=upside")
    bubble = chart(viewer, "scatter").locator(".points path").first
    bubble.hover(force=True)
    expect(chart(viewer, "scatter").locator(".hovertext")).to_contain_text("judge 3, people 1.5: 4")
    bubble.click(force=True)
    viewer.wait_for_url(re.compile(r"/outputs/\?task=ideas&ids="))
    assert viewer.locator("table.outputs tbody tr").count() == 4


def test_a_criterion_is_picked_without_leaving_the_page_and_its_charts_are_drawn(viewer):
    viewer.goto(PAGE)
    viewer.get_by_role("navigation", name="Criteria").get_by_role("link", name="Novelty").click()
    viewer.wait_for_url("**/calibration/ideas/?*criterion=novelty")
    expect(viewer.get_by_text("too generous on novelty")).to_be_visible()
    expect(chart(viewer, "bias_model").locator(".points path").first).to_be_visible()
    expect(viewer.get_by_role("heading", name="The labels, versions and time")).to_be_visible()


def test_a_sentence_opens_the_figures_behind_it(viewer):
    viewer.goto(f"{PAGE}?criterion=upside")
    viewer.get_by_role("link", name="Figures behind: Ranking").click()
    expect(viewer.get_by_text("Kendall's τ-b")).to_be_visible()


def test_the_keys_g_c_open_it(viewer):
    viewer.goto("/")
    viewer.keyboard.press("g")
    viewer.keyboard.press("c")
    viewer.wait_for_url("**/calibration/")
    viewer.get_by_role("link", name="Ideas").click()
    viewer.wait_for_url("**/calibration/ideas/")
    viewer.get_by_role("link", name="What the figures mean").click()
    expect(viewer.get_by_role("heading", name="Calibration", level=1)).to_be_visible()


def test_nothing_is_wider_than_a_telephone(viewer):
    for output in Output.objects.all():
        make_judge_grade(output, dict.fromkeys(KEYS, 5), make_grader("judge", "2"))
    viewer.set_viewport_size({"width": 390, "height": 844})
    for path in (PAGE, f"{PAGE}compare/"):
        viewer.goto(path)
        expect(viewer.get_by_role("link", name="What the figures mean")).to_be_visible()
        viewer.wait_for_load_state("networkidle")
        assert viewer.evaluate("document.documentElement.scrollWidth") <= 390, path
