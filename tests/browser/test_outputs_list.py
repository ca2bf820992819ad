"""The outputs list in a real Chromium: scrolling, filtering in place, going back, and all of it without JavaScript."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import keep_screenshot, sign_in, sign_in_by_form
from tests.make import make_output, make_task, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def make_admin():
    make_user("root", role="admin").show_judges(True)


@pytest.fixture
def as_admin(page):
    make_admin()
    sign_in(page, "root")
    return page


def make_many(n=120):
    ideas, code = make_task("ideas"), make_task("neural_memory")
    for i in range(n):
        make_output(code if i % 10 == 0 else ideas, external_id=f"o{i}", judge_score=i / 12, label_source="judge", label_passed=i > 84)


def rows(page):
    return page.locator("td.name")


def test_scrolling_brings_the_next_rows_until_the_end(as_admin):
    make_many()
    as_admin.goto("/outputs/?sort=-judge")
    expect(rows(as_admin)).to_have_count(50)
    for count in (100, 120):
        as_admin.mouse.wheel(0, 20_000)
        expect(rows(as_admin)).to_have_count(count)
    assert rows(as_admin).all_inner_texts() == [f"o{i}" for i in range(119, -1, -1)]


def test_filters_change_the_list_and_the_address_in_place(as_admin):
    make_many()
    as_admin.goto("/outputs/")
    as_admin.get_by_label("Verdict of the label").select_option("pass")
    as_admin.wait_for_url("**/outputs/?passed=pass")
    expect(as_admin.get_by_text("35 matching")).to_be_visible()
    as_admin.get_by_text("All tasks").click()
    as_admin.get_by_label("Neural memory", exact=True).check()
    as_admin.wait_for_url("**/outputs/?task=neural_memory&passed=pass")
    expect(rows(as_admin)).to_have_count(3)
    expect(as_admin.get_by_label("Neural memory", exact=True)).to_be_visible()  # the menu stays open for the next task
    keep_screenshot(as_admin, "outputs-filtered")
    as_admin.get_by_role("link", name="Take off: Verdict: pass").click()
    as_admin.wait_for_url("**/outputs/?task=neural_memory")
    expect(rows(as_admin)).to_have_count(12)
    as_admin.go_back()
    as_admin.wait_for_url("**/outputs/?task=neural_memory&passed=pass")
    expect(rows(as_admin)).to_have_count(3)
    expect(as_admin.get_by_role("link", name="Touchstone")).to_be_visible()


def test_searching_marks_the_place_and_leaves_the_word_in_the_field(as_admin):
    make_output(make_task(), "A needle in here.", external_id="with")
    make_output(content="Nothing.", external_id="without")
    as_admin.goto("/outputs/")
    as_admin.get_by_role("searchbox").fill("needle")
    as_admin.get_by_role("searchbox").press("Enter")
    as_admin.wait_for_url("**/outputs/?q=needle")
    expect(as_admin.locator("mark")).to_have_text("needle")
    expect(as_admin.get_by_role("searchbox")).to_have_value("needle")
    assert rows(as_admin).all_inner_texts() == ["with"]


def test_it_all_works_without_javascript(browser, live_server):
    make_admin()
    make_many()
    context = browser.new_context(base_url=live_server.url, java_script_enabled=False)
    page = context.new_page()
    sign_in_by_form(page, "root")
    page.goto("/outputs/")
    page.get_by_role("link", name="More outputs").click()
    expect(rows(page).first).to_have_text("o69")
    page.get_by_role("link", name="Back to the beginning of the list").click()
    page.get_by_label("Verdict of the label").select_option("pass")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_text("35 matching")).to_be_visible()
    page.get_by_label("Name of the view").fill("passes")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("link", name="passes", exact=True)).to_be_visible()
    page.get_by_label("Tick o119").check()
    page.get_by_role("button", name="Export…").click()
    page.wait_for_url("**/datasets/?filter=ids*")
    context.close()
