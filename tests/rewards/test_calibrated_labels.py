"""Where nobody reviewed an output, its label is the judge's score as people would give it."""

import io
import json

import pytest
from django.core.management import call_command

from reviewapp.models import Calibrator
from reviewapp.models.append_only import AppendOnlyError
from tests.make import at_once, make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.rewards.reading import export, manifest_of, rows_of

pytestmark = pytest.mark.django_db
KEYS = ("viability", "upside", "success", "novelty")


def scores(value: float) -> dict[str, float]:
    return dict.fromkeys(KEYS, value)


@pytest.fixture
def labelled(reviewer):
    """The judge says 2 to 9, ana 2 points less, on 24 outputs; on four more, the judge alone says 8."""
    return grade(24, reviewer)


@at_once
def grade(n: int, person, *, others: int = 4, always: float | None = None):
    task = make_task()
    judge = make_grader("judge", "3")
    for i in range(n):
        output = make_output(task)
        make_judge_grade(output, scores(2 + i % 8), judge)
        make_human_grade(output, person, scores(i % 8 + 0.5 * (i % 2) if always is None else always))
    for _ in range(others):
        make_judge_grade(make_output(task), scores(8), judge)
    return task


def by_source(folder, source):
    return [row for row in rows_of(folder) if row["label_source"] == source]


def test_an_output_that_nobody_reviewed_has_the_score_that_people_would_give(tmp_path, labelled):
    out = export(tmp_path / "out")
    rows = by_source(out, "calibrated_judge")
    assert len(rows) == 4 and len(by_source(out, "human")) == 24
    assert rows[0]["label_score"] == pytest.approx(6.2, abs=0.3) and rows[0]["judge_score"] == 8
    assert rows[0]["label_passed"] is False and rows[0]["judge_passed"] is True
    assert 0 < rows[0]["label_sd"] < 1


def test_the_manifest_names_the_calibrator_by_its_hash(tmp_path, labelled):
    [named] = manifest_of(export(tmp_path / "out"))["calibrator"]
    kept = Calibrator.objects.get()
    assert (named["sha256"], named["judge"], named["judge_version"], named["n"]) == (kept.sha256, "judge", "3", 24)
    assert kept.report["bias_before"]["value"] == pytest.approx(1.75) and abs(kept.report["bias_after"]["value"]) < 0.1


def test_the_same_labels_give_the_same_files_and_no_new_calibrator(tmp_path, labelled):
    first, again = (manifest_of(export(tmp_path / name)) for name in ("a", "b"))
    assert first == again and Calibrator.objects.count() == 1


def test_new_labels_give_a_new_calibrator_and_the_old_one_stays(tmp_path, labelled, reviewer):
    export(tmp_path / "a")
    output = make_output(labelled)
    make_judge_grade(output, scores(5), make_grader("judge", "3"))
    make_human_grade(output, reviewer, scores(1))
    [named] = manifest_of(export(tmp_path / "b"))["calibrator"]
    assert Calibrator.objects.count() == 2 and named["sha256"] == Calibrator.objects.last().sha256


@pytest.mark.parametrize("policy, source", [("judge-raw", "judge"), ("human-only", "human")])
def test_other_policies_calibrate_nothing(tmp_path, labelled, policy, source):
    out = export(tmp_path / "out", "--policy", policy)
    assert {row["label_source"] for row in rows_of(out)} == {source}
    assert manifest_of(out)["calibrator"] is None and not Calibrator.objects.exists()


def test_too_few_labels_leave_the_judge_s_own_word_and_say_how_many_more_it_takes(tmp_path, reviewer):
    grade(15, reviewer)
    manifest = manifest_of(export(tmp_path / "out"))
    assert manifest["counts"]["source"] == {"human": 15, "judge": 4} and manifest["calibrator"] is None
    assert "judge v3 on ideas: not fitted, because 15 outputs have both scores, and it takes 20: label 5 more." in manifest["warnings"]


def test_another_version_of_the_judge_is_not_calibrated_by_labels_of_the_first(tmp_path, labelled):
    make_judge_grade(make_output(labelled), scores(8), make_grader("judge", "4"))
    assert len(by_source(export(tmp_path / "out"), "judge")) == 1


def test_grades_made_after_seeing_the_judge_fit_nothing(tmp_path):
    task, judge, ben = make_task(), make_grader("judge", "3"), make_user("ben")
    for i in range(24):
        output = make_output(task)
        make_judge_grade(output, scores(i % 8), judge)
        make_human_grade(output, ben, scores(i % 8), "assisted")
    make_judge_grade(make_output(task), scores(8), judge)
    assert len(by_source(export(tmp_path / "out"), "judge")) == 1


def test_a_calibrator_is_never_changed(tmp_path, labelled):
    export(tmp_path / "out")
    kept = Calibrator.objects.get()
    with pytest.raises(AppendOnlyError, match="is a fact and can't be changed"):
        kept.save()


def test_calibrate_fit_tells_the_calibrator_that_exports_would_use(labelled):
    out = io.StringIO()
    call_command("calibrate", "--task", "ideas", "--fit", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert told["sha256"] == Calibrator.objects.get().sha256
    assert (told["judge"], told["labels_missing"], told["map"]["method"]) == ("judge@3", 0, "linear")


def test_labels_that_all_agree_do_not_tell_how_far_off_a_prediction_is(tmp_path, reviewer):
    grade(24, reviewer, always=9)
    out = export(tmp_path / "out")
    assert {(row["label_score"], row["label_sd"]) for row in by_source(out, "calibrated_judge")} == {(9.0, None)}
    [named] = manifest_of(out)["calibrator"]
    assert (named["n"], named["half_width"], named["level"]) == (24, None, 0.95)


def test_calibrate_fit_gives_no_interval_where_labels_all_agree(reviewer):
    grade(24, reviewer, always=9)
    out = io.StringIO()
    call_command("calibrate", "--task", "ideas", "--fit", stdout=out)
    call_command("calibrate", "--task", "ideas", "--fit", "--json", stdout=out)
    text, told = out.getvalue().splitlines()
    assert "is off by 0 points" in text and "95 of 100" not in text
    assert "no interval: the labels lie exactly where the map puts them" in text
    assert json.loads(told)["map"]["half_width"] is None and json.loads(told)["why_no_interval"] in text


def test_calibrate_fit_says_how_many_labels_are_missing(reviewer):
    grade(3, reviewer)
    out = io.StringIO()
    call_command("calibrate", "--task", "ideas", "--fit", stdout=out)
    assert "not fitted, because 3 outputs have both scores, and it takes 20: label 17 more" in out.getvalue()
