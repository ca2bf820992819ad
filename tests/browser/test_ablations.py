"""The ablation page in a real browser: figures are drawn and saved, and break no rule of the content policy."""

import pytest
from playwright.sync_api import expect

import tasks.task as spec
from reviewapp.catalog.sync import save_variant
from tests.browser.conftest import keep_screenshot, sign_in
from tests.make import code_rubric, make_judge_grade, make_output, make_task, make_user


@pytest.fixture
def study(page):
    task = make_task("memory", code_rubric(), output_format="python")
    save_variant(task, spec.Variant("hints", "With hints.", title="With hints"), position=1)
    for variant in task.variants.all():
        for gate in (10, 0, 0):
            scores = {"memory_class": 10, "surprise_gate": gate, "learnable_decay": 10}
            make_judge_grade(make_output(task, variant=variant), scores, runs=True, failure_category="" if gate else "generic_gate")
    make_user("vera", role="viewer")
    page.set_default_timeout(30_000)  # plotly.js has 5 MB
    sign_in(page, "vera")
    return page


def test_figures_are_drawn_and_saved_as_svg_and_png(study):
    study.goto("/runs/ablations/?task=memory")
    expect(study.locator("[data-chart=chart-rates] .points path").first).to_be_visible(timeout=30_000)
    expect(study.locator("[data-chart=chart-criteria] .heatmaplayer image")).to_be_attached(timeout=30_000)
    for kind, head in (("svg", b"<svg"), ("png", b"\x89PNG")):
        with study.expect_download() as waiting:
            study.click(f"[data-save={kind}][data-of=chart-rates]")
        assert waiting.value.path().read_bytes().startswith(head)
        assert waiting.value.suggested_filename == f"pass-rates-memory.{kind}"
    keep_screenshot(study, "ablations")
    study.click("text=people, blind")
    expect(study.locator("text=There is no verdict on any of these outputs yet.")).to_be_visible()


def test_on_a_narrow_screen_the_tables_scroll_and_the_page_does_not(study):
    study.set_viewport_size({"width": 390, "height": 800})
    study.goto("/runs/ablations/?task=memory")
    expect(study.locator("[data-chart=chart-criteria] .heatmaplayer image")).to_be_attached(timeout=30_000)
    study.evaluate("document.querySelectorAll('#ablations details').forEach(d => { d.open = true })")
    assert study.evaluate("document.documentElement.scrollWidth") == 390
