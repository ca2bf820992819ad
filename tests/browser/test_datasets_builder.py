"""The builder in a real browser: the preview follows the form, and the address follows both."""

import pytest
from playwright.sync_api import expect

from tests.make import make_human_grade, make_judge_grade, make_output, make_task, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_the_preview_follows_the_form(signed_in):
    make_human_grade(make_output(make_task("ideas")), make_user("ben"), {"viability": 5})
    make_judge_grade(make_output(make_task("reviews")), {"viability": 5})
    here = signed_in
    here.goto("/datasets/")
    expect(here.locator("#preview")).to_contain_text("2 rows from 2 outputs")
    here.get_by_label("Reviews").check()
    expect(here.locator("#preview")).to_contain_text("1 row from 1 output")
    here.get_by_label("human-only").check()
    expect(here.locator("#preview")).to_contain_text("No row to write")
    assert "task=reviews" in here.url and "policy=human-only" in here.url
    here.get_by_label("human-then-calibrated").check()
    here.get_by_label("Format").select_option("csv")
    expect(here.locator("#preview pre").first).to_contain_text('"output_id","id","version"')
    assert here.locator('#preview input[name="format"]').input_value() == "csv"


def test_a_wrong_split_is_told_while_one_types(signed_in):
    make_human_grade(make_output(make_task("ideas")), make_user("ben"), {"viability": 5})
    here = signed_in
    here.goto("/datasets/")
    here.get_by_label("Split", exact=True).fill("0.9,0.2")
    here.keyboard.press("Tab")
    expect(here.get_by_role("alert")).to_contain_text("the shares sum to 1.1")
    here.watched.errors.clear()  # the browser logs the 422 by itself
