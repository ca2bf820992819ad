"""A study reads each grade once: what it knows of the grades that count is the same as by reading all of them anew."""

from collections.abc import Callable

import numpy as np
import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import tasks.task as spec
from reviewapp.calibration import rows
from reviewapp.calibration.grades import Grades, read_grades
from reviewapp.catalog.sync import save_task
from reviewapp.grading import retract
from reviewapp.models import Claim, CriterionScore, Grade, Output, Queue, QueueItem, Task
from tests.make import at_once, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user

pytestmark = pytest.mark.django_db
KEYS = ("viability", "upside", "success", "novelty")


def scores(value: float) -> dict[str, float]:
    return dict.fromkeys(KEYS, value)


@at_once
def grade_outputs(n: int = 6) -> Task:
    """The judge says i, ana i + 1 and ben i + 2 on output i."""
    task, judge, people = make_task(), make_grader(), [make_user("ana"), make_user("ben")]
    for i in range(n):
        output = make_output(task)
        make_judge_grade(output, scores(i), judge)
        for person, extra in zip(people, (1, 2), strict=True):
            make_human_grade(output, person, scores(i + extra))
    return task


def read(task: Task, mode: str = "blind") -> Grades:
    task.refresh_from_db()
    return read_grades(task, make_grader(), mode)


def is_as_if_read_anew(task: Task, mode: str = "blind") -> bool:
    found = read(task, mode)
    cache.clear()
    anew = read(task, mode)
    names = ("clusters", "labelled", "human", "human_passed", "judge", "judge_passed")
    if (found.people, found.labelled_by_mode) != (anew.people, anew.labelled_by_mode):
        return False
    return all(np.array_equal(getattr(found, n), getattr(anew, n), equal_nan=True) for n in names)


def add_a_label(task: Task) -> None:
    make_human_grade(task.outputs.order_by("pk")[2], make_user("cleo"), scores(9))


def change_ones_mind(task: Task) -> None:
    output = task.outputs.order_by("pk")[1]
    make_human_grade(output, output.grades.get(rater_name="ana").rater, scores(0))


def take_a_grade_back(task: Task) -> None:
    grade = task.outputs.order_by("pk")[3].grades.get(rater_name="ben")
    retract(grade, grade.rater, "slip")


def take_all_of_someone_back(task: Task) -> None:
    for output in task.outputs.all():
        grade = output.grades.get(rater_name="ben")
        retract(grade, grade.rater, "slip")


def grade_again_by_the_judge(task: Task) -> None:
    make_judge_grade(task.outputs.order_by("pk")[0], scores(10), make_grader())


def hand_in_a_new_version(task: Task) -> None:
    output = task.outputs.order_by("pk")[4]
    Output.objects.filter(pk=output.pk).update(is_latest=False)
    make_output(task, external_id=output.external_id, version=2)


def turn_a_label_into_gold(task: Task) -> None:
    output = task.outputs.order_by("pk")[5]
    queue = Queue.objects.create(task=task, title="Gold", policy=Queue.Policy.RANDOM, seed=0, size=1, population=6)
    item = QueueItem.objects.create(queue=queue, output=output, position=1, is_gold=True)
    grade = output.grades.get(rater_name="ana")
    Claim.objects.create(item=item, reviewer=grade.rater, grade=grade, until=timezone.now())


CHANGES = [
    *(add_a_label, change_ones_mind, take_a_grade_back, take_all_of_someone_back),
    *(grade_again_by_the_judge, hand_in_a_new_version, turn_a_label_into_gold),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.replace("_", " "))
def test_after_a_change_the_study_is_as_if_all_were_read_anew(change: Callable[[Task], None]):
    task = grade_outputs()
    before = read(task)
    change(task)
    after = read(task)
    assert before.human.tobytes() != after.human.tobytes() or before.judge.tobytes() != after.judge.tobytes()
    assert is_as_if_read_anew(task)


def test_an_override_is_seen_where_seen_grades_count_and_not_among_blind_ones():
    task = grade_outputs()
    counts = {mode: len(read(task, mode).labelled) for mode in ("blind", "assisted")}
    output = task.outputs.order_by("pk")[0]
    of_judge = output.grades.get(mode="automatic")
    make_human_grade(output, output.grades.get(rater_name="ana").rater, scores(8), "override", supersedes=of_judge)
    assert (len(read(task).labelled), len(read(task, "assisted").labelled)) == (counts["blind"], counts["assisted"] + 1)
    assert is_as_if_read_anew(task) and is_as_if_read_anew(task, "assisted")


def test_a_grade_is_read_once():
    task = grade_outputs()
    read(task)
    add_a_label(task)
    with CaptureQueriesContext(
        connection,
    ) as made:
        read(task)
    scored = [q["sql"] for q in made if "criterionscore" in q["sql"]]
    newest = task.outputs.order_by("pk")[2].grades.get(rater_name="cleo")
    assert len(scored) == 1 and f"IN ({newest.pk})" in scored[0]


def test_a_grade_that_another_process_began_earlier_and_saved_later_is_read():
    """Numbers are given when a grade is begun, so a lower one may come after a higher one was read."""
    task = grade_outputs()
    output = task.outputs.order_by("pk")[0]
    first, cleo = output.grades.get(rater_name="ana"), make_user("cleo")
    fields = {"output": output, "grader": first.grader, "rubric": first.rubric, "mode": "blind", "rater": cleo, "rater_name": "cleo"}
    newest = Grade.objects.order_by("-pk").first().pk
    for number, score in ((newest + 9, 4.0), (newest + 5, 7.0)):
        grade = Grade.objects.create(pk=number, key=f"late-{number}", overall=score, **fields)
        CriterionScore.objects.create(grade=grade, criterion=first.rubric.criteria.get(key="novelty"), score=score)
        found = read(task)
        assert found.human[0, found.people.index("cleo"), 3] == 4.0
        assert np.isnan(found.human[0, found.people.index("cleo"), 0])
    retract(Grade.objects.get(pk=newest + 9), cleo, "slip")
    assert read(task).human[0, 2, 3] == 7.0


def test_many_new_grades_are_read_with_all_others(monkeypatch):
    monkeypatch.setattr(rows, "MOST_NEW", 1)
    task = grade_outputs()
    read(task)
    add_a_label(task)
    change_ones_mind(task)
    assert is_as_if_read_anew(task)


def test_more_rows_than_may_be_kept_are_read_each_time(monkeypatch):
    monkeypatch.setattr(rows, "MOST_KEPT_BYTES", 100)
    task = grade_outputs()
    read(task)
    add_a_label(task)
    assert is_as_if_read_anew(task)


def test_a_rubric_of_more_criteria_than_one_query_takes_is_read_whole(monkeypatch):
    monkeypatch.setattr(rows, "JOINED", 3)
    task = grade_outputs()
    found = read(task)
    assert np.array_equal(found.judge, np.repeat(np.arange(6.0)[:, None], 4, axis=1))
    add_a_label(task)
    assert is_as_if_read_anew(task)


def test_scores_of_an_older_rubric_version_count_by_the_criterions_key():
    task = grade_outputs()
    read(task)
    criteria = tuple(spec.Criterion(key=key, title=key.title(), weight=0.5) for key in ("novelty", "viability"))
    rubric = spec.Rubric(criteria=criteria, pass_threshold=6.0)
    variants = (spec.Variant(name="default", prompt="The prompt of ideas."),)
    save_task(spec.Task(slug="ideas", title="Ideas", description="", rubric=rubric, variants=variants, primary_grader="judge"))
    task = Task.objects.get(slug="ideas")
    assert [c.key for c in read(task).criteria] == ["novelty", "viability"]
    assert read(task).judge[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    make_human_grade(task.outputs.order_by("pk")[2], make_user("cleo"), {"novelty": 3, "viability": 4})
    assert read(task).human[2, 2].tolist() == [3, 4]
    assert is_as_if_read_anew(task)
