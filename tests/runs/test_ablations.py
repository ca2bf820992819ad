"""The ablation page: rates counted by hand, by variant and by model."""

import json

import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext

import tasks.task as spec
from reviewapp.catalog.sync import save_variant
from reviewapp.home.queries import summarise_task
from tests.make import at_once, code_rubric, idea_rubric, make_grader, make_human_grade, make_judge_grade, make_output, make_task

PASSES = {"memory_class": 10, "surprise_gate": 10, "learnable_decay": 10}
NO_GATE = {"memory_class": 10, "surprise_gate": 0, "learnable_decay": 10}
URL = "/runs/ablations/"


@at_once
def graded(task, variant, model, *passed, grader=None):
    """One output for each verdict: the failures lack the gate."""
    outputs = []
    for is_pass in passed:
        output = make_output(task, variant=variant, model=model)
        make_judge_grade(output, PASSES if is_pass else NO_GATE, grader, runs=True, failure_category="" if is_pass else "generic_gate")
        outputs.append(output)
    return outputs


@pytest.fixture
def study(db):
    """Hints: 2 of 4 pass. Bare: 1 of 8, and one that nobody could decide."""
    task = make_task("memory", code_rubric(), output_format="python")
    bare = task.variants.get()
    hints = save_variant(task, spec.Variant("hints", "With hints.", title="With hints", description="Names all three."), position=1)
    graded(task, hints, "model-a", True, True, False, False)
    graded(task, bare, "model-a", True, False, False, False)
    graded(task, bare, "model-b", False, False, False, False)
    make_judge_grade(make_output(task, variant=bare, model="model-b"), {**PASSES, "surprise_gate": None}, runs=True)
    return task


def figures(client, query=""):
    return json.loads(client.get(f"/runs/ablations.json{query}").content)


def test_pass_rates_by_variant_are_those_counted_by_hand(as_viewer, study):
    groups = figures(as_viewer)["groups"]
    assert [(g["variant"], g["passes"], g["rate"]["n"], g["undecided"]) for g in groups] == [("hints", 2, 4, 0), ("default", 1, 8, 1)]
    # Wilson's interval of 1 of 8, by hand: (1/8 + 3.8415/16 -+ 1.96 sqrt(7/64/8 + 3.8415/256)) / (1 + 3.8415/8)
    assert groups[1]["rate"]["ci"] == pytest.approx([0.0224, 0.4709], abs=1e-4)


def test_pass_at_k_is_unbiased(as_viewer, study):
    """Hints: of the 6 pairs of 4 outputs one has no pass. Bare: of the 28 pairs of 8, 21 have none."""
    hints, bare = figures(as_viewer)["groups"]
    assert hints["pass_at_k"]["2"]["value"] == pytest.approx(5 / 6)
    assert bare["pass_at_k"]["2"]["value"] == pytest.approx(7 / 28)
    assert (hints["pass_at_k"]["2"]["ci"], hints["pass_at_k"]["2"]["why_missing"]) == (
        None,
        "no interval: all outputs belong to one prompt",
    )
    assert hints["pass_at_k"]["5"] == {
        "value": None,
        "ci": None,
        "n": 0,
        "why_missing": "not defined, because no prompt has 5 scored outputs",
        "method": None,
    }


def test_pass_at_k_has_its_interval_or_why_there_is_none(as_viewer, study):
    """Over both prompts; one prompt of which all pass tells as much as one output that passes (Wilson: 21 to 100 %)."""
    hints = study.variants.get(name="hints")
    graded(study, hints, "model-c", True, True)
    both, all_pass = figures(as_viewer)["all"]["pass_at_k"], figures(as_viewer, "?by=model")["groups"][0]["pass_at_k"]
    low, high = both["2"]["ci"]
    assert 0 <= low < both["2"]["value"] < high <= 1
    assert (all_pass["2"]["value"], all_pass["2"]["n"]) == (1.0, 1)
    assert all_pass["2"]["ci"] == pytest.approx([0.2065, 1.0], abs=1e-4)
    page = as_viewer.get(f"{URL}?by=model").content.decode()
    assert '21\u00a0% to 100\u00a0%</span><br><span class="muted tiny">1 prompt' in page
    assert "no interval: all outputs belong to one prompt" in as_viewer.get(URL).content.decode()


def test_criteria_and_failures_are_counted_in_each_group(as_viewer, study):
    found = figures(as_viewer)
    hints, bare = found["groups"]
    assert hints["criteria"]["surprise_gate"]["value"] == pytest.approx(2 / 4)
    assert (bare["criteria"]["surprise_gate"]["n"], bare["criteria"]["memory_class"]["n"]) == (8, 9)
    # Wilson's interval of 2 of 4
    assert (
        '50\u00a0%<br><span class="muted tiny">15\u00a0% to 85\u00a0%</span><br><span class="muted tiny">4 outputs'
        in as_viewer.get(URL).content.decode()
    )
    assert found["failures"] == [{"category": "generic_gate", "n": 9, "share": 1.0, "by_group": {"With hints": 2, "default": 7}}]


def test_models_and_pairs_are_groups_too(as_viewer, study):
    by_model = figures(as_viewer, "?by=model")["groups"]
    assert [(g["model"], g["passes"], g["rate"]["n"]) for g in by_model] == [("model-a", 3, 8), ("model-b", 0, 4)]
    by_both = figures(as_viewer, "?by=both")["groups"]
    assert [(g["name"], g["passes"]) for g in by_both] == [("With hints · model-a", 2), ("default · model-a", 1), ("default · model-b", 0)]


def test_rate_is_corrected_by_what_people_say_of_the_same_outputs(as_viewer, study, reviewer):
    """The judge passes 2 of 4; people fail one of these and agree on the others: 1 of 4."""
    outputs = list(study.outputs.filter(variant__name="hints").order_by("id"))
    for output, scores in zip(outputs, (PASSES, NO_GATE, NO_GATE, NO_GATE), strict=True):
        make_human_grade(output, reviewer, scores, runs=True)
    hints, bare = figures(as_viewer)["groups"]
    assert (hints["rate"]["value"], hints["corrected"]["value"]) == (0.5, pytest.approx(0.25))
    assert bare["corrected"]["value"] is None
    # People alone passed 1 of these 4: Wilson's interval.
    assert (hints["people"]["value"], hints["people"]["n"]) == (0.25, 4)
    assert hints["people"]["ci"] == pytest.approx([0.0456, 0.6994], abs=1e-4)
    page = as_viewer.get(URL).content.decode()
    assert (
        "People alone" in page
        and '25\u00a0%<br><span class="muted tiny">5\u00a0% to 70\u00a0%</span><br><span class="muted tiny">4 outputs' in page
    )
    assert "4 without a queue. How those without a queue were chosen is not known: they are taken as a random sample." in page
    people = figures(as_viewer, "?grader=people")["groups"]
    assert [(g["variant"], g["passes"], g["rate"]["n"]) for g in people] == [("hints", 1, 4), ("default", 0, 0)]


def test_the_target_is_judged_by_the_corrected_rate_here_and_on_home(as_viewer, reviewer):
    """The judge passes 4 of 40, people 39 of the same 40."""
    task = make_task("memory", code_rubric(), output_format="python")
    outputs = graded(task, task.variants.get(), "model-a", *[True] * 4, *[False] * 36)
    alone = figures(as_viewer)["all"]
    assert (alone["rate"]["value"], alone["band"], alone["band_by"]) == (0.1, "undecided", "judge")
    assert "by the judge alone" in as_viewer.get("/").content.decode()
    for output in outputs:
        make_human_grade(output, reviewer, PASSES if output != outputs[-1] else NO_GATE, runs=True)
    found = figures(as_viewer)["all"]
    assert (found["rate"]["value"], found["band"], found["band_by"]) == (0.1, "too easy", "corrected")
    assert "by the corrected rate: default is too easy." in as_viewer.get(URL).content.decode()
    home = summarise_task(task).target
    assert (home.word, home.by) == ("too easy", "corrected")


def test_the_newest_grade_of_an_output_counts(as_viewer, study):
    output = study.outputs.filter(variant__name="hints").order_by("id").first()
    make_judge_grade(output, NO_GATE, runs=True, failure_category="residual_fusion")
    found = figures(as_viewer)
    assert found["groups"][0]["passes"] == 1
    assert [(f["category"], f["n"]) for f in found["failures"]] == [("generic_gate", 9), ("residual_fusion", 1)]


def test_the_page_says_who_is_in_the_band_and_where_most_fail(as_viewer, study):
    page = as_viewer.get(URL).content.decode()
    band = "Against the target band of 5\u00a0% to 30\u00a0%, by the judge alone"
    assert f"{band}: With hints and default are undecided (the interval does not settle it)." in page
    assert "Most fail at Surprise gate: 75\u00a0%" in page
    assert "Names all three." in page


def test_names_with_commas_are_quoted_in_sentences(as_viewer, study):
    study.variants.filter(name="hints").update(title="Short, with hints")
    page = as_viewer.get(URL).content.decode()
    assert ": “Short, with hints” and default are undecided" in page
    assert "By the judge alone, “Short, with hints” passes most, " in page


def test_scored_criteria_have_means(as_viewer):
    task = make_task("ideas", idea_rubric())
    for score in (4, 8):
        make_judge_grade(make_output(task), dict.fromkeys(("viability", "upside", "success", "novelty"), score))
    cell = figures(as_viewer)["groups"][0]["criteria"]["viability"]
    assert (cell["kind"], cell["value"], cell["n"]) == ("mean", pytest.approx(6), 2)
    low, high = cell["ci"]
    assert 0 <= low < 4 and 8 < high <= 10
    assert f'6.00<br><span class="muted tiny">{low:.2f} to {high:.2f}</span>' in as_viewer.get(URL).content.decode()


def test_examples_of_failures_are_hidden_from_who_works_blind(as_reviewer, as_admin, study):
    failed = study.outputs.filter(failure_category="generic_gate").order_by("-id").first()
    assert failed.external_id in as_admin.get(URL).content.decode()
    page = as_reviewer.get(URL).content.decode()
    assert failed.external_id not in page
    assert "shown once you have graded them" in page


def test_another_grader_is_asked_for_by_name_and_version(as_viewer, study):
    graded(study, study.variants.get(name="hints"), "model-a", True, grader=make_grader("other", "2"))
    assert figures(as_viewer, "?grader=other@2")["grader"]["name"] == "other"
    assert figures(as_viewer)["grader"]["name"] == "judge"


def test_failures_lead_to_the_outputs_page_where_that_knows_them(as_admin, study):
    """There a failure is the primary grader's."""
    other = make_grader("other", "2")
    graded(study, study.variants.get(name="hints"), "model-a", False, grader=other)
    link = "/outputs/?task=memory&amp;failure=generic_gate"
    assert link in as_admin.get(URL).content.decode()
    assert link not in as_admin.get(f"{URL}?grader=other@2").content.decode()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("task=nope", "task is &#x27;nope&#x27;, allowed: memory"),
        ("grader=nope", "grader is &#x27;nope&#x27;, allowed: judge, judge@1, people"),
        ("by=colour", "by is &#x27;colour&#x27;, allowed: variant, model, both"),
        ("colour=red", "&#x27;colour&#x27; is no part of this page&#x27;s address"),
    ],
)
def test_what_can_not_be_read_is_named_with_what_is_allowed(as_viewer, study, query, said):
    response = as_viewer.get(f"{URL}?{query}")
    assert response.status_code == 422
    assert said in response.content.decode()
    assert as_viewer.get(f"/runs/ablations.json?{query}").status_code == 422


def test_without_outputs_the_page_offers_a_run_to_who_may_start_one(as_viewer, as_admin):
    assert "Start a run" in as_admin.get(URL).content.decode()
    page = as_viewer.get(URL).content.decode()
    assert "No outputs yet" in page and "Start a run" not in page


def test_strangers_sign_in_and_nothing_is_posted(client, as_viewer, study):
    assert client.get(URL).status_code == 302
    assert client.get("/runs/ablations.json").status_code == 302
    assert as_viewer.post(URL).status_code == 405


def test_htmx_gets_the_part_alone(as_viewer, study):
    page = as_viewer.get(URL, headers={"HX-Request": "true"}).content.decode()
    assert page.lstrip().startswith('<div id="ablations"')


def test_queries_do_not_grow_with_outputs(as_viewer, study):
    def count(by):
        cache.clear()  # else the second time the grades of the first are known, and what is new is asked for
        with CaptureQueriesContext(
            connection,
        ) as queries:
            as_viewer.get(f"{URL}?by={by}")
        return len(queries)

    few = count("variant")
    graded(study, study.variants.get(name="hints"), "model-c", *[False] * 20)
    assert count("variant") == few <= 25
