"""The calibration page: what a person sees of a judge, and where it leads."""

import json
import re
from html import unescape

import pytest
from django.urls import reverse

import tasks.task as spec
from reviewapp.calibration.study import study
from reviewapp.models import Output, Task
from tests.conftest import signed_in
from tests.make import at_once, code_rubric, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user

pytestmark = pytest.mark.django_db
KEYS = ("viability", "upside", "success", "novelty")
PAGE = "/calibration/ideas/"


def scores(value: float) -> dict[str, float]:
    return dict.fromkeys(KEYS, value)


@at_once
def grade_outputs(n: int = 24, *, extra: float = 2.0, mode: str = "blind", unlabelled: int = 0, wobble: float = 0.0):
    """The judge gives `extra` points more than pat, give or take `wobble`, and ben gives one more than pat."""
    task = make_task()
    judge, people = make_grader(), [make_user("pat"), make_user("ben")]
    for i in range(n + unlabelled):
        output = make_output(task, model=f"model-{i % 3}", prompt=None)
        quality = i % 6 + 1
        make_judge_grade(output, scores(min(quality + extra + (wobble if i // 6 % 2 else -wobble), 10)), judge)
        for person, more in zip(people, (0, 1), strict=True):
            if i < n:
                make_human_grade(output, person, scores(quality + more), mode)
    return task


def text_of(response) -> str:
    """What is read on the page, without tags."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", response.content.decode())))


def test_it_says_in_a_sentence_how_generous_the_judge_is(as_viewer):
    grade_outputs(wobble=0.25)
    said = text_of(as_viewer.get(PAGE, {"criterion": "viability"}))
    assert re.search(r"judge v1 is 1\.50 points \(1\.[34]\d to 1\.[56]\d\) too generous on viability\.", said)


@at_once
def grade_one_criterion(judge: list[float | None], people: list[float | None], *, threshold: float | None = 3.5):
    """Output i has these scores from 1 to 5; None is not graded."""
    criteria = (spec.Criterion(key="quality", title="Quality", scale=(1, 5)),)
    task = make_task(rubric=spec.Rubric(criteria=criteria, scale=(1, 5), pass_threshold=threshold))
    grader, pat = make_grader(), make_user("pat")
    for said, score in zip(judge, people, strict=True):
        output = make_output(task, prompt=None)
        if said is not None:
            make_judge_grade(output, {"quality": said}, grader)
        if score is not None:
            make_human_grade(output, pat, {"quality": score})
    return task


def marks_of(response) -> dict[str, str]:
    """The colour of each sentence's topic: pass, fail, unsure, or "" for a plain fact."""
    return {
        topic: kind.strip()
        for kind, topic in re.findall(r'<span class="mark ([a-z ]*)">([A-Z][^<]*)<span class="sr-only">', body_of(response))
    }


def body_of(response) -> str:
    return response.content.decode()


@pytest.mark.parametrize(
    "judge, people, said",
    [
        ([1, 5], [5, 1], "can't be told yet: it differs from people by 0.00 (−4.00 to 4.00)."),  # no two scores are further apart
        ([3] * 30, [1, 2, 3, 4, 5] * 6, "can't be told yet: it differs from people by 0.00 (−0.5"),
        ([3], [4], "can't be told yet: it differs from people by −1.00; no interval: all outputs belong to one prompt."),
    ],
)
def test_no_bias_is_green_only_where_its_interval_is_small(as_viewer, judge, people, said):
    grade_one_criterion(judge, people)
    response = as_viewer.get(PAGE)
    assert f"Whether judge v1 is generous or harsh {said}" in text_of(response)
    assert marks_of(response)["Bias"] == "unsure"


def test_no_bias_holds_where_the_whole_interval_lies_within_a_fortieth_of_the_scale(as_viewer):
    people = [2 + i % 3 for i in range(60)]
    grade_one_criterion([score + (0.2 if i % 2 else -0.2) for i, score in enumerate(people)], people)
    response = as_viewer.get(PAGE)
    assert "No bias shows, to within 0.10 points: judge v1 differs from people by 0.00 (−0.0" in text_of(response)
    assert marks_of(response)["Bias"] == "pass"


def test_criteria_whose_bias_has_no_interval_are_not_said_to_be_level(as_viewer):
    grade_outputs(12, extra=0.5)
    response = as_viewer.get(PAGE)
    assert "Whether judge v1 is generous or harsh on viability, upside, success and novelty can't be told yet (no interval: " in text_of(
        response
    )
    assert marks_of(response)["Bias"] == "unsure"


def test_where_judge_and_people_share_no_output_it_says_what_to_do(as_reviewer):
    grade_one_criterion([3, None] * 4, [None, 4] * 4)
    response = as_reviewer.get(PAGE)
    assert "judge v1 and people share no graded output: it scored none of the 4 outputs that people graded" in text_of(response)
    assert "/queues/new?task=ideas&amp;policy=random&amp;judge=judge%401&amp;filter=grader%3Djudge" in body_of(response)
    assert reverse("judge", args=["judge", "1"]) in body_of(response)


@pytest.mark.parametrize("criterion", ["", "upside"])
def test_every_link_within_the_page_has_a_place_to_go(as_viewer, criterion):
    """Longer outputs and the judge's own family get more, reviewers differ, labels are few: a sentence of each kind."""
    task, judge = make_task(), make_grader("gpt-judge")
    people = [make_user("pat"), make_user("ben")]
    for i in range(24):
        long, own = i % 2, i % 3 == 0
        output = make_output(task, "word " * (300 if long else 20 + i), model="gpt-5" if own else "claude-9", prompt=None)
        make_judge_grade(output, scores(i % 5 + 1 + 2 * long + 2 * own + 0.1 * (i % 4)), judge)
        for person, more in zip(people, (0, 1), strict=True):
            make_human_grade(output, person, scores(i % 5 + 1 + more * (1 + 0.1 * (i % 3))))
    page = body_of(as_viewer.get(PAGE, {"criterion": criterion, "judge": "gpt-judge@1"}))
    targets, ids = set(re.findall(r'href="#([^"]+)"', page)), set(re.findall(r'\bid="([^"]+)"', page))
    assert {"influences", "labels", "reviewers", "error", "people"} <= targets
    assert targets <= ids


def test_it_says_whether_the_judge_ranks_as_well_as_a_second_reviewer(as_viewer):
    grade_outputs(22, wobble=0.25)  # not one as many of each kind: that no output tips it would show no spread
    assert "judge v1 ranks outputs within each criterion as well as a second reviewer would" in text_of(as_viewer.get(PAGE))


def test_it_says_how_far_reviewers_agree_and_how_many_reviews_it_would_take(as_viewer):
    task = make_task()
    judge, people = make_grader(), [make_user("pat"), make_user("ben")]
    for i in range(30):
        output = make_output(task, prompt=None)
        make_judge_grade(output, scores(5), judge)
        for person, score in zip(people, (i % 5 + 2, (i * 7 + i // 5) % 5 + 2), strict=True):
            make_human_grade(output, person, scores(score))
    said = text_of(as_viewer.get(PAGE, {"criterion": "upside"}))
    assert "too low to validate any judge" in said or "no number of such reviews could validate a judge" in said


def test_three_pass_rates_stand_together_with_intervals(as_viewer):
    grade_outputs(unlabelled=20)
    said = text_of(as_viewer.get(PAGE))
    for name in ("Judge alone", "People alone, on what they labelled", "Judge corrected by people"):
        assert re.search(name + r" \d+ % \d+ % to \d+ %", said), name


@pytest.mark.parametrize(
    "unlabelled, said",
    [
        (0, "made of human labels only (Wilson): every judged output has a human label."),
        (20, "made of judge and human labels (PPI++), judge weight 0."),
    ],
)
def test_it_says_whether_the_judge_is_in_the_corrected_rate_and_why_not(as_viewer, unlabelled, said):
    labels = [1, 2, 4, 5, 5] * 6
    task = grade_one_criterion(labels + labels[: unlabelled // 2] * 2, labels + [None] * unlabelled)
    assert said in text_of(as_viewer.get(PAGE))
    assert said in text_of(as_viewer.get(f"{PAGE}rates/", headers={"HX-Request": "true"}))
    assert study(task, make_grader())["pooled"]["pass_rate"]["ppi"]["method"].startswith(said[8:-2])


def test_names_are_drawn_as_they_are_and_never_read_as_tags(as_viewer):
    task, judge = make_task(), make_grader()
    people = [make_user("<b>bob</b>"), make_user("pat")]
    for i in range(12):
        output = make_output(task, model="<i>m</i>" if i % 2 else "a&lt;b", prompt=None)
        make_judge_grade(output, scores(i % 5 + 2), judge)
        for person in people:
            make_human_grade(output, person, scores(i % 4 + 1))
    page = body_of(as_viewer.get(PAGE))
    figures = {
        name: json.loads(data) for name, data in re.findall(r'<script id="chart-(\w+)" type="application/json">(.*?)</script>', page)
    }
    assert set(figures["bias_reviewer"]["traces"][0]["at"]) == {"&lt;b&gt;bob&lt;/b&gt;", "pat"}
    assert set(figures["bias_model"]["traces"][0]["at"]) == {"&lt;i&gt;m&lt;/i&gt;", "a&amp;lt;b"}
    assert "model=%3Ci%3Em%3C%2Fi%3E" in figures["bias_model"]["traces"][0]["links"]
    assert re.search(r"<td><a [^>]+>&lt;b&gt;bob&lt;/b&gt;</a></td>", page), "in its table it is escaped once"


def test_too_few_labels_are_told(as_viewer):
    grade_outputs(4)
    assert "4 outputs of 4 prompts have both scores: too few to lean on any figure here." in text_of(as_viewer.get(PAGE))


def test_how_many_labels_more_a_calibrator_takes_is_told_in_outputs(as_viewer):
    grade_outputs(11)
    said = text_of(as_viewer.get(PAGE))
    assert "Label 9 more before the judge's scores can be recalibrated." in said
    assert "not fitted, because 11 outputs have both scores, and it takes 20: label 9 more" in said


def test_a_task_without_labels_says_what_to_do(as_viewer):
    make_judge_grade(make_output(make_task()), scores(5))
    response = as_viewer.get(PAGE)
    assert "No blind grades by people yet" in text_of(response)
    assert f"{reverse('review_next')}?task=ideas" in response.content.decode()


def test_a_task_without_outputs_is_no_crash(as_viewer):
    make_task()
    assert as_viewer.get(PAGE).status_code == 200


def test_a_figure_that_is_not_defined_says_why(as_viewer):
    grade_outputs()
    assert "not defined, because nothing is compared in pairs" in text_of(as_viewer.get(PAGE))


def test_a_new_label_changes_the_page(as_viewer):
    task = grade_outputs()
    before = text_of(as_viewer.get(PAGE))
    make_human_grade(task.outputs.first(), make_user("cleo"), scores(9))
    after = text_of(as_viewer.get(PAGE))
    assert "blind grades of 2 people" in before and "blind grades of 3 people" in after


def test_an_unchanged_task_is_not_computed_again(as_viewer, django_assert_max_num_queries):
    grade_outputs()
    as_viewer.get(PAGE)
    with django_assert_max_num_queries(12):
        as_viewer.get(PAGE)


def test_the_number_of_queries_does_not_grow_with_outputs(as_viewer, django_assert_max_num_queries):
    grade_outputs(40)
    with django_assert_max_num_queries(32):
        as_viewer.get(PAGE)


def test_assisted_grades_are_apart_and_their_number_is_told(as_viewer):
    task = grade_outputs(12)
    for output in task.outputs.all()[:5]:
        make_human_grade(output, make_user(f"eve{output.pk}"), scores(5), "assisted")
    said = text_of(as_viewer.get(PAGE, {"mode": "assisted"}))
    assert "blind 12" in said and "assisted 5" in said and "any 12" in said
    assert "5 of 12 outputs with assisted grades of 5 people" in said


def test_an_older_version_of_the_judge_can_be_picked(as_viewer):
    task = grade_outputs(wobble=0.25)
    for output in task.outputs.all():
        make_judge_grade(output, scores(1), make_grader("judge", "2"))
    assert "judge v2" in text_of(as_viewer.get(PAGE))
    assert "judge v1 is 1.50 points" in text_of(as_viewer.get(PAGE, {"judge": "judge@1", "criterion": "upside"}))


def test_pass_or_fail_criteria_are_told_in_shares_of_outputs(as_viewer):
    task = make_task("memory", code_rubric())
    judge, ana = make_grader("code", kind="code"), make_user("pat")
    for i in range(30):
        output = make_output(task, prompt=None)
        passed = dict.fromkeys(("memory_class", "surprise_gate", "learnable_decay"), 10)
        make_judge_grade(output, passed, judge, runs=True)
        make_human_grade(output, ana, passed | {"surprise_gate": 10 if i % 2 else 0})
    said = text_of(as_viewer.get("/calibration/memory/", {"criterion": "surprise_gate"})).replace("\xa0", " ")
    assert "code v1 is 50 % (" in said and "too generous on surprise gate" in said
    assert "Of what people fail, code v1 passes 100 %" in said


@pytest.mark.parametrize(
    "query, said",
    [
        ({"judge": "nobody@3"}, "judge is 'nobody@3', allowed: judge@1. The default is shown."),
        ({"mode": "open"}, "mode is 'open', allowed: blind, assisted, any."),
        ({"criterion": "style"}, "criterion is 'style', allowed: viability, upside, success, novelty."),
        ({"epsilon": "2"}, "epsilon is '2', allowed: a number from 0 to 1, such as 0.2."),
        ({"epsilon": "nan"}, "epsilon is 'nan', allowed: a number from 0 to 1, such as 0.2."),
        ({"colour": "red"}, "colour is no part of this page's address. There are: judge, mode, criterion, epsilon."),
    ],
)
def test_a_wrong_address_is_named_with_what_is_allowed(as_viewer, query, said):
    grade_outputs(6)
    response = as_viewer.get(PAGE, query)
    assert response.status_code == 422
    assert said in text_of(response)


@pytest.mark.parametrize("path", [PAGE, "/calibration/", f"{PAGE}labels/", f"{PAGE}outputs/", f"{PAGE}rates/", "/help/calibration/"])
def test_a_stranger_is_asked_to_sign_in_and_nothing_is_posted(client, as_viewer, path):
    grade_outputs(2)
    assert client.get(path).headers["Location"].startswith("/login/")
    assert as_viewer.post(path).status_code == 405


@pytest.mark.parametrize(
    "path", ["/calibration/nothing/", "/calibration/nothing/labels/", "/calibration/nothing/outputs/", "/help/nothing/"]
)
def test_what_is_not_there_is_not_found(as_viewer, path):
    assert as_viewer.get(path).status_code == 404


def test_htmx_gets_the_part_alone(as_viewer):
    grade_outputs(6)
    part = as_viewer.get(PAGE, headers={"HX-Request": "true", "HX-Target": "report"}).content.decode()
    assert part.lstrip().startswith('<div id="report"') and "<html" not in part


def test_the_index_lists_tasks_with_their_judges_and_pass_rates(as_viewer):
    grade_outputs(24, unlabelled=6)
    said = text_of(as_viewer.get("/calibration/"))
    assert "Ideas judge v1 24 of 30" in said and "corrected" in said


def test_an_empty_workspace_says_what_to_do(as_viewer):
    assert "Nothing to calibrate yet" in text_of(as_viewer.get("/calibration/"))


class TestOutputsBehindAMark:
    def behind(self, client, **query):
        return client.get(f"{PAGE}outputs/", query)

    def test_a_bubble_leads_to_the_outputs_with_these_scores(self, as_viewer):
        task = grade_outputs(12)
        ids = [pk for i, pk in enumerate(task.outputs.order_by("pk").values_list("pk", flat=True)) if i % 6 == 0]
        location = self.behind(as_viewer, criterion="upside", said="3", human="1.5").headers["Location"]
        assert location == f"{reverse('outputs')}?task=ideas&ids={ids[0]}.{ids[1]}"

    def test_a_cell_of_the_confusion_table_leads_to_its_outputs(self, as_viewer):
        grade_outputs(12)
        location = self.behind(as_viewer, criterion="upside", judge_passes="1", human_passes="0").headers["Location"]
        found = Output.objects.filter(pk__in=location.partition("ids=")[2].split("."))
        assert {output.judge_score for output in found} == {7.0}

    def test_a_single_output_opens_at_once(self, as_viewer):
        task = grade_outputs(6)
        response = self.behind(as_viewer, criterion="upside", said="3", human="1.5")
        assert response.headers["Location"] == reverse("review", args=[task.outputs.order_by("pk").first().pk])

    def test_a_place_without_outputs_leads_back_and_says_so(self, as_viewer):
        grade_outputs(6)
        response = as_viewer.get(f"{PAGE}outputs/", {"said": "9.25"}, follow=True)
        assert "No output lies there." in text_of(response)

    @pytest.mark.parametrize(("name", "value"), [("judge", "zzz"), ("mode", "open"), ("criterion", "style")])
    def test_outputs_of_what_there_is_not_are_none_of_something_else(self, as_viewer, name, value):
        grade_outputs(12)
        response = self.behind(as_viewer, said=5, **{name: value})
        assert response.status_code == 422
        assert f"{name} is '{value}', allowed: " in text_of(response)

    def test_a_task_without_a_rubric_says_so(self, as_viewer):
        Task.objects.filter(pk=make_output().task_id).update(rubric=None)
        for response in (self.behind(as_viewer, said=5), as_viewer.get(f"{PAGE}labels/")):
            assert "This task has no rubric" in text_of(response)

    def test_who_works_blind_is_led_only_to_what_they_graded(self, reviewer):
        task = grade_outputs(12)
        first = task.outputs.order_by("pk").first()
        make_human_grade(first, reviewer, scores(2))
        location = self.behind(signed_in(reviewer), criterion="upside", model="model-0").headers["Location"]
        assert location == reverse("review", args=[first.pk])

    @pytest.mark.parametrize(
        "query, said",
        [({"said": "high"}, "said is 'high'"), ({"human_passes": "yes"}, "allowed: 0 and 1"), ({"colour": "red"}, "'colour' says nothing")],
    )
    def test_a_mark_that_is_none_is_refused(self, as_viewer, query, said):
        grade_outputs(6)
        response = self.behind(as_viewer, **query)
        assert response.status_code == 422
        assert said in text_of(response)


def test_who_works_blind_sees_no_judge_of_outputs_that_they_have_not_graded(reviewer):
    task = grade_outputs(12)
    graded = task.outputs.order_by("pk").first()
    make_human_grade(graded, reviewer, scores(2))
    page = signed_in(reviewer).get(PAGE).content.decode()
    differ = page.partition("Where they differ most")[2].partition("</section>")[0]
    assert graded.external_id in differ
    assert not any(f">{output.external_id}<" in differ for output in task.outputs.exclude(pk=graded.pk))
