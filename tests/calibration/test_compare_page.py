"""Two judge versions side by side: which is better, on which outputs, and whether one has drifted."""

import re
from html import unescape

import pytest
from django.urls import reverse
from django.utils import timezone

from reviewapp.grading import Answer, record_human_grade
from reviewapp.models import Claim, CriterionScore, Grade, Queue, QueueItem
from tasks.task import Criterion, Rubric
from tests.make import at_once, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user

pytestmark = pytest.mark.django_db
KEYS = ("viability", "upside", "success", "novelty")


def scores(value: float) -> dict[str, float]:
    return dict.fromkeys(KEYS, value)


@pytest.fixture
@at_once
def two_versions(db):
    """Version 1 says 5 to everything but the odd outputs (6); version 2 is half a point off people."""
    task, ben = make_task(), make_user("ben")
    old, new = make_grader("judge", "1"), make_grader("judge", "2")
    outputs = [make_output(task, external_id=f"idea-{i}") for i in range(30)]
    for i, output in enumerate(outputs):
        make_judge_grade(output, scores(5 + i % 2), old)
        make_judge_grade(output, scores(i % 9 + 0.5), new)
        make_human_grade(output, ben, scores(i % 9))
    return task, old, new, outputs


def text_of(html: str) -> str:
    """What is read on the page, without tags."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", html)))


def page(client, **query):
    response = client.get(reverse("calibration_compare", args=["ideas"]), query)
    return response.status_code, response.content.decode()


def test_the_newest_version_is_compared_with_the_one_before_it(as_admin, two_versions):
    status, html = page(as_admin)
    assert status == 200
    assert "B is better than A in error, agreement and ranking." in html
    assert 'A is <span class="mark judge">judge v1</span>, B is <span class="mark judge">judge v2</span>' in html


def test_the_two_can_be_named_and_turned_round(as_admin, two_versions):
    _, html = page(as_admin, a="judge@2", b="judge@1", criterion="upside")
    assert "A is better than B" in html


@at_once
def prefer(n: int = 30) -> None:
    """Version 1 says that the first answer is better, version 2 what ben says of three outputs in four."""
    winner = Criterion(key="winner", title="Winner", kind="categorical", values=("first", "tie", "second"))
    task, ben, graders = make_task(rubric=Rubric(criteria=(winner,))), make_user("ben"), [make_grader("judge", v) for v in "12"]
    criterion = task.rubric.criteria.get()
    for i in range(n):
        output, said = make_output(task), winner.values[i % 3]
        for grader, value in zip(graders, ("first", said if i % 4 else "tie"), strict=True):
            given = {"unscored_reason": "not_numeric", "mode": Grade.Mode.AUTOMATIC, "key": f"{grader}-{i}"}
            grade = Grade.objects.create(output=output, grader=grader, rubric=task.rubric, **given)
            CriterionScore.objects.create(grade=grade, criterion=criterion, value=value, unscored_reason="not_numeric")
        record_human_grade(output, ben, "blind", {"winner": Answer(value=said)}, key=f"ben-{i}")


def test_of_categories_it_says_how_often_each_judge_gives_that_of_people(as_admin):
    prefer()
    status, html = page(as_admin)
    assert status == 200 and "B gives the category that people give more often than A." in html
    assert "Got better" not in html and "three looks" not in html


def test_it_says_what_its_figures_are_of(as_admin, two_versions):
    said = text_of(page(as_admin)[1])
    assert "Of the 30 outputs that people labelled and both judges graded, each counted alike: 120 scores." in said
    assert "ρ within criteria, each with an interval" in said and "Spearman's ρ within criteria" in said
    said = text_of(page(as_admin, criterion="novelty")[1])
    assert "each counted alike: 30 scores." in said and "within criteria" not in said


@pytest.mark.parametrize("policy, is_said", [("active", True), ("stratified", True), ("random", False)])
def test_it_says_where_labels_are_no_random_sample(as_admin, two_versions, policy, is_said):
    task, _, judge, outputs = two_versions
    queue = Queue.objects.create(task=task, judge=judge, policy=policy, seed=1, size=30, population=30)
    for i, output in enumerate(outputs):
        item = QueueItem.objects.create(queue=queue, output=output, position=i, probability=0.4 if i % 2 else 0.8)
        grade = output.grades.get(rater__username="ben")
        Claim.objects.create(item=item, reviewer=grade.rater, until=timezone.now(), grade=grade)
    said = "Labels of a stratified or active queue are among them, which are no random sample: all figures here are of the labelled"
    assert (said in text_of(page(as_admin)[1])) == is_said


def test_each_figure_says_what_it_is_and_where_that_is_explained(as_admin, two_versions):
    _, html = page(as_admin)
    assert "Pairs in the same order less pairs in opposite order." in html
    guide = as_admin.get(reverse("help", args=["calibration"])).content.decode()
    anchors = set(re.findall(r'href="/help/calibration/#([^"]+)"', html))
    assert anchors == {"comparing-two-judges", "error-and-bias", "agreement-of-judge-and-people", "ranking"}
    assert all(f'id="{anchor}"' in guide for anchor in anchors)


def test_a_judge_is_not_compared_with_itself(as_admin, two_versions):
    status, html = page(as_admin, a="judge@2", b="judge@2")
    assert status == 200 and "A and B are the same judge version, judge v2: choose another for one of them." in html
    assert "more labels" not in html and "Got better" not in html


def test_negative_numbers_have_a_real_minus(as_admin, two_versions):
    _, _, new, outputs = two_versions
    for i, output in enumerate(outputs):
        make_judge_grade(output, scores(max(i % 9 - 2 + i % 2, 0)), new)
    said = text_of(page(as_admin)[1])
    assert re.search(r"shift −\d\.\d\d \(−", said) and not re.search(r"[ (]-\d", said)


def test_outputs_that_got_better_and_worse_are_links(as_admin, two_versions):
    _, html = page(as_admin)
    better = html[html.index("Got better") : html.index("Got worse")]
    assert 'href="/outputs/' in better and "idea-" in better


def test_who_works_blind_sees_no_output_that_they_have_not_graded(as_reviewer, two_versions):
    _, html = page(as_reviewer)
    assert "B is better than A" in html and "idea-" not in html
    assert "None that you have graded." in html


def test_drift_is_told_from_outputs_graded_again(as_admin, two_versions):
    _, _, new, outputs = two_versions
    assert "No output was graded twice by this version" in page(as_admin)[1]
    for i, output in enumerate(outputs):
        make_judge_grade(output, scores(min(i % 9 + 2, 10)), new)
    assert "It drifted: 1.5 points higher than before" in page(as_admin)[1]


def test_one_version_alone_has_nothing_to_be_compared_with(as_admin):
    make_judge_grade(make_output(make_task()), scores(5))
    assert "Only one judge version here" in page(as_admin)[1]


def test_an_unknown_judge_is_refused_with_those_there_are(as_admin, two_versions):
    status, html = page(as_admin, a="nobody@1", color="red")
    assert status == 422
    assert "a is &#x27;nobody@1&#x27;, allowed: judge@1, judge@2." in html and "color is no part" in html


def test_strangers_and_wrong_methods(client, as_viewer, two_versions):
    url = reverse("calibration_compare", args=["ideas"])
    assert client.get(url).status_code == 302
    assert as_viewer.get(url).status_code == 200 and as_viewer.post(url).status_code == 405
    assert as_viewer.get(reverse("calibration_compare", args=["nothing"])).status_code == 404


def test_the_queries_do_not_grow_with_the_outputs(as_admin, two_versions, django_assert_max_num_queries):
    with django_assert_max_num_queries(40):
        page(as_admin)
