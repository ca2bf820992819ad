"""The label of an output, from its grades."""

import pytest

from reviewapp.models import Retraction
from reviewapp.rewards.labels import GradeFact, label_of, majority, read_facts
from tests.make import make_human_grade, make_judge_grade, make_output, make_user

SIX = {"viability": 6, "upside": 6, "success": 6, "novelty": 6}
EIGHT = {"viability": 8, "upside": 8, "success": 8, "novelty": 8}


def label(output, policy="human-then-calibrated"):
    return label_of(read_facts([output.pk]).get(output.pk, []), "judge", policy)


@pytest.fixture
def output(db):
    return make_output()


def test_without_grades_there_is_no_label(output):
    assert label(output).source == ""


def test_the_judge_labels_what_nobody_reviewed_and_says_so(output):
    make_judge_grade(output, EIGHT)
    assert (label(output).source, label(output).score, label(output).passed) == ("judge", 8, True)
    assert label(output, "human-only").source == ""


def test_a_person_beats_the_judge(output, reviewer):
    make_judge_grade(output, EIGHT)
    make_human_grade(output, reviewer, SIX)
    assert (label(output).source, label(output).score, label(output).passed) == ("human", 6, False)
    assert label(output, "judge-raw").score == 8


def test_of_one_persons_grades_the_newest_counts(output, reviewer):
    first = make_human_grade(output, reviewer, SIX)
    make_human_grade(output, reviewer, EIGHT, mode="assisted", supersedes=first)
    assert (label(output).score, label(output).n_raters) == (8, 1)


def test_two_people_are_averaged_and_a_tie_is_a_conflict(output, reviewer):
    make_human_grade(output, reviewer, SIX)
    make_human_grade(output, make_user("bob"), EIGHT)
    assert (label(output).score, label(output).passed) == (7, None)
    output.refresh_from_db()
    assert output.label_state == "conflict"


def test_an_adjudication_settles_it(output, reviewer):
    make_human_grade(output, reviewer, SIX)
    make_human_grade(output, make_user("bob"), EIGHT)
    make_human_grade(output, make_user("judy"), EIGHT, mode="adjudication")
    assert (label(output).source, label(output).score) == ("adjudicated", 8)
    output.refresh_from_db()
    assert output.label_state == "adjudicated"


def test_a_retracted_grade_counts_no_more(output, reviewer):
    grade = make_human_grade(output, reviewer, SIX)
    Retraction.objects.create(grade=grade, by=reviewer)
    assert label(output).source == ""


def test_the_outputs_row_carries_the_summary(output, reviewer):
    make_judge_grade(output, EIGHT)
    make_human_grade(output, reviewer, {"viability": 6, "upside": 8, "success": 4, "novelty": 7})
    output.refresh_from_db()
    assert (output.judge_score, output.human_score, output.human_count) == (8, 6.05, 1)
    assert output.disagreement == pytest.approx(1.95)
    assert (output.label_source, output.label_state) == ("human", "labelled")


def test_every_new_grade_raises_the_tasks_revision(output, reviewer):
    before = output.task.revision
    make_human_grade(output, reviewer, SIX)
    output.task.refresh_from_db()
    assert output.task.revision == before + 1


def test_an_undecided_code_grade_is_no_verdict():
    fact = GradeFact(1, 1, "neural_memory", "code", "automatic", "", None, None)
    assert label_of([fact], "neural_memory").source == "code"
    assert label_of([fact], "neural_memory").passed is None


@pytest.mark.parametrize(
    ("votes", "verdict"), [([], None), ([None], None), ([True, False], None), ([True, None], True), ([True, False, False], False)]
)
def test_majority(votes, verdict):
    assert majority(votes) is verdict


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="allowed: human-only"):
        label_of([], "judge", "best")
