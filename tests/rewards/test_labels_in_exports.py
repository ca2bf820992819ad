"""Which label an exported row has, where it came from, and what it rests on."""

import json

import pytest

from reviewapp.models import Retraction
from tests.make import (
    code_rubric,
    make_grader,
    make_human_grade,
    make_judge_grade,
    make_output,
    make_task,
    make_user,
)  # fmt: skip
from tests.rewards.reading import export, manifest_of, only_row, rows_of

pytestmark = pytest.mark.django_db
SIX_EIGHT_FOUR_SEVEN = {"viability": 6, "upside": 8, "success": 4, "novelty": 7}
JUDGE = {"viability": 9, "upside": 8, "success": 8, "novelty": 7}


@pytest.fixture
def output(reviewer):
    return make_output(make_task())


@pytest.mark.parametrize("file_format", ["scalar-jsonl", "csv", "parquet"])
def test_the_weighted_overall_of_6_8_4_7_is_6_05_in_every_format(tmp_path, output, reviewer, file_format):
    make_human_grade(output, reviewer, SIX_EIGHT_FOUR_SEVEN)
    row = only_row(tmp_path / "out", file_format=file_format)
    # .30 * 6 + .25 * 8 + .30 * 4 + .15 * 7 = 1.8 + 2 + 1.2 + 1.05
    assert str(row["label_score"]) == "6.05"
    assert str(row["label_score_01"]) == "0.605"


def test_an_override_is_in_the_file_with_all_that_it_says(tmp_path, output, reviewer):
    judged = make_judge_grade(output, JUDGE, make_grader("judge", "3"))
    grade = make_human_grade(output, reviewer, {**JUDGE, "viability": 6}, mode="override", supersedes=judged, rationale="No evidence.")
    row = only_row(tmp_path / "out")
    [override] = row["overrides"]
    assert override["criterion"] == "viability" and (override["from"], override["to"]) == (9.0, 6.0)
    assert override["reason"] == "No evidence."
    assert (override["grader"], override["grader_version"], override["mode"]) == ("judge", "3", "override")
    assert (override["supersedes"], override["grade"]) == (judged.pk, grade.pk)
    assert override["by"] == row["raters"][0] and override["by"].startswith("r-")
    assert override["at"] == grade.created_at.isoformat().replace("+00:00", "Z")
    assert row["grade_ids"] == [grade.pk] and row["modes"] == ["override"]
    assert row["criteria"]["viability"] == {"label": 6.0, "judge": 9.0, "human": 6.0, "weight": 0.3}


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_tables_hold_the_override_as_json_and_the_criteria_as_columns(tmp_path, output, reviewer, file_format):
    judged = make_judge_grade(output, JUDGE)
    make_human_grade(output, reviewer, {**JUDGE, "viability": 6}, mode="override", supersedes=judged, rationale="No.")
    row = only_row(tmp_path / "out", file_format=file_format)
    assert json.loads(row["overrides"])[0]["to"] == 6.0
    assert (float(row["criteria.viability.judge"]), float(row["criteria.viability.label"])) == (9.0, 6.0)


def test_an_override_of_an_own_grade_is_traced_to_the_judge(tmp_path, output, reviewer):
    judged = make_judge_grade(output, JUDGE)
    first = make_human_grade(output, reviewer, {**JUDGE, "viability": 6}, mode="override", supersedes=judged)
    make_human_grade(output, reviewer, {**JUDGE, "viability": 5}, mode="override", supersedes=first, rationale="Lower still.")
    [override] = only_row(tmp_path / "out")["overrides"]
    assert (override["from"], override["to"], override["supersedes"]) == (9.0, 5.0, first.pk)


def test_a_revision_after_the_reveal_is_the_label_and_says_so(tmp_path, output, reviewer):
    make_judge_grade(output, JUDGE)
    blind = make_human_grade(output, reviewer, SIX_EIGHT_FOUR_SEVEN)
    revised = make_human_grade(output, reviewer, {**SIX_EIGHT_FOUR_SEVEN, "success": 8}, mode="assisted", supersedes=blind)
    row = only_row(tmp_path / "out")
    assert row["label_score"] == 7.25 and row["modes"] == ["assisted"] and row["grade_ids"] == [revised.pk]
    assert row["overrides"] == []


def test_a_retracted_grade_does_not_count(tmp_path, output, reviewer):
    make_judge_grade(output, JUDGE)
    grade = make_human_grade(output, reviewer, SIX_EIGHT_FOUR_SEVEN)
    Retraction.objects.create(grade=grade, by=reviewer)
    row = only_row(tmp_path / "out")
    assert (row["label_source"], row["label_score"], row["human_score"]) == ("judge", 8.15, None)


def test_two_raters_give_their_mean_and_its_spread(tmp_path, output, reviewer):
    make_human_grade(output, reviewer, dict.fromkeys(JUDGE, 6))
    make_human_grade(output, make_user("ben"), dict.fromkeys(JUDGE, 8))
    row = only_row(tmp_path / "out")
    assert (row["label_score"], row["n_raters"], len(set(row["raters"]))) == (7.0, 2, 2)
    assert row["label_sd"] == pytest.approx(2**0.5)  # sqrt(((6-7)^2 + (8-7)^2) / 1)
    assert row["criteria"]["novelty"]["human"] == 7.0


def test_an_adjudication_beats_the_raters(tmp_path, output, reviewer):
    make_human_grade(output, reviewer, dict.fromkeys(JUDGE, 2))
    make_human_grade(output, make_user("ben", role="adjudicator"), dict.fromkeys(JUDGE, 9), mode="adjudication")
    row = only_row(tmp_path / "out")
    assert (row["label_source"], row["label_score"], row["label_passed"]) == ("adjudicated", 9.0, True)


@pytest.mark.parametrize(
    ("policy", "sources"),
    [("human-only", ["human"]), ("human-then-calibrated", ["human", "judge"]), ("judge-raw", ["judge", "judge"])],
)
def test_a_policy_decides_whose_label_wins_and_which_rows_there_are(tmp_path, output, reviewer, policy, sources):
    make_judge_grade(output, JUDGE)
    make_human_grade(output, reviewer, SIX_EIGHT_FOUR_SEVEN)
    make_judge_grade(make_output(), JUDGE)
    make_output()  # nobody graded it
    folder = export(tmp_path / "out", "--policy", policy)
    assert [row["label_source"] for row in rows_of(folder)] == sources
    assert manifest_of(folder)["left_out"] == {"no label by this policy": 3 - len(sources)}


def test_a_judge_as_label_has_no_raters_and_no_overrides(tmp_path, output, reviewer):
    judged = make_judge_grade(output, JUDGE)
    make_human_grade(output, reviewer, {**JUDGE, "viability": 1}, mode="override", supersedes=judged)
    row = only_row(tmp_path / "out", "--policy", "judge-raw")
    assert (row["raters"], row["overrides"], row["modes"], row["grade_ids"]) == ([], [], ["automatic"], [judged.pk])
    assert row["criteria"]["viability"] == {"label": 9.0, "judge": 9.0, "human": 1.0, "weight": 0.3}


def test_an_undecided_grade_is_left_out_and_counted_never_written_as_zero(tmp_path, output):
    task = make_task("code", code_rubric(), primary_grader="probe")
    keys = ("memory_class", "surprise_gate", "learnable_decay")
    make_judge_grade(make_output(task), dict.fromkeys(keys), make_grader("probe", kind="code"), runs=True)
    make_judge_grade(make_output(task), dict.fromkeys(keys, 10), make_grader("probe", kind="code"), runs=True)
    folder = export(tmp_path / "out")
    assert [row["label_source"] for row in rows_of(folder)] == ["code"]
    assert manifest_of(folder)["left_out"]["undecided: no score and no verdict"] == 1


def test_raters_are_pseudonyms_that_stay_the_same(tmp_path, output, reviewer):
    make_human_grade(output, reviewer, SIX_EIGHT_FOUR_SEVEN)
    first = export(tmp_path / "a")
    second = export(tmp_path / "b", "--policy", "human-only")
    assert rows_of(first)[0]["raters"] == rows_of(second)[0]["raters"]
    assert not [path for path in first.rglob("*") if path.is_file() and b'"ana"' in path.read_bytes()]


def test_only_the_latest_version_of_an_output_is_a_row(tmp_path, reviewer):
    task = make_task()
    old = make_output(task, external_id="x", is_latest=False)
    new = make_output(task, external_id="x", version=2)
    make_human_grade(old, reviewer, JUDGE)
    make_human_grade(new, reviewer, SIX_EIGHT_FOUR_SEVEN)
    row = only_row(tmp_path / "out")
    assert (row["id"], row["version"], row["label_score"]) == (new.pk, 2, 6.05)


def test_a_label_by_an_older_rubric_says_which(tmp_path, output, reviewer):
    old = output.task.rubric
    make_human_grade(output, reviewer, SIX_EIGHT_FOUR_SEVEN)
    make_task("ideas", code_rubric())
    row = only_row(tmp_path / "out")
    assert (row["rubric_version"], row["rubric_sha256"]) == (old.version, old.sha256)
    assert set(row["criteria"]) == set(JUDGE)
