"""POST outputs/{id}/grades: a grade in the member's name, as the review page makes it; the mode is the truth or is refused."""

import pytest

from reviewapp.models import Draft, Grade
from tests.api.calling import caller_for
from tests.make import code_rubric, make_judge_grade, make_output, make_task, make_user

SCORES = {"viability": 2, "upside": 3, "success": 4, "novelty": 5}


def answers(**scores):
    return {key: {"score": score} for key, score in (scores or SCORES).items()}


@pytest.fixture
def judged(db):
    output = make_output(content="# An idea\n\nSome text.")
    make_judge_grade(output, dict.fromkeys(SCORES, 8.0))
    return output


@pytest.fixture
def api(reviewer):
    return caller_for(reviewer, "grade")


def test_a_blind_grade_is_added_and_reveals_the_label(api, judged, reviewer):
    given = answers()
    given["novelty"] |= {"note": "Known since 2019.", "quotes": ["Some text."]}
    told = api.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": given, "note": "Weak.", "duration_s": 30})
    assert (api.status, told["mode"], told["rater"], told["overall"], told["rationale"]) == (201, "blind", "ana", 3.3, "Weak.")
    assert told["criteria"]["novelty"]["evidence"][0]["text"] == "Some text."
    row = Grade.objects.get(pk=told["id"])
    assert (row.rater, row.duration_s, row.grader.kind) == (reviewer, 30.0, "human")
    judged.refresh_from_db()
    assert (judged.label_source, judged.human_score, judged.human_count) == ("human", 3.3, 1)


def test_the_same_grade_sent_again_is_refused_and_names_the_first(api, judged):
    body = {"mode": "blind", "answers": answers()}
    first = api.post(f"outputs/{judged.pk}/grades", body)
    again = api.post(f"outputs/{judged.pk}/grades", body)
    assert (api.status, Grade.objects.filter(mode="blind").count()) == (409, 1)
    assert str(first["id"]) in again["problems"][0]["allowed"]


def test_a_changed_mind_is_a_new_grade_that_supersedes_the_old_one(api, judged):
    first = api.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": answers()})
    body = {"mode": "assisted", "answers": answers(**{**SCORES, "novelty": 9}), "supersedes": first["id"]}
    told = api.post(f"outputs/{judged.pk}/grades", body)
    assert (api.status, told["supersedes"], told["mode"], Grade.objects.count()) == (201, first["id"], "assisted", 3)
    api.post(f"outputs/{judged.pk}/grades", {**body, "mode": "blind", "supersedes": told["id"]})
    assert api.status == 409, "who has graded has seen the judge"


def test_an_override_changes_what_it_names_with_a_reason_and_keeps_the_rest(api, judged):
    judge = judged.grades.get()
    api.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": answers()})
    body = {"mode": "override", "supersedes": judge.pk, "answers": {"novelty": {"score": 1, "note": "It is in every textbook."}}}
    told = api.post(f"outputs/{judged.pk}/grades", body)
    assert (api.status, told["mode"], told["supersedes"]) == (201, "override", judge.pk)
    assert {key: row["score"] for key, row in told["criteria"].items()} == {"viability": 8, "upside": 8, "success": 8, "novelty": 1}


def test_who_is_blind_can_not_override_a_judge_that_is_hidden(api, judged):
    body = {"mode": "override", "supersedes": judged.grades.get().pk, "answers": {"novelty": {"score": 1, "note": "No."}}}
    assert "hidden until you have graded" in api.post(f"outputs/{judged.pk}/grades", body)["error"]
    assert (api.status, Draft.objects.count(), Grade.objects.count()) == (409, 0, 1)


def test_who_has_seen_the_judge_can_not_grade_blind(admin, judged):
    api = caller_for(admin, "grade")
    assert "could see what was said" in api.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": answers()})["error"]
    assert api.status == 409
    assert api.post(f"outputs/{judged.pk}/grades", {"mode": "assisted", "answers": answers()})["mode"] == "assisted"


def test_an_override_without_a_reason_or_a_difference_is_refused(api, judged):
    judge = judged.grades.get()
    api.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": answers()})
    for given, told in (({"score": 1}, "Say why"), ({"score": 8, "note": "Right."}, "Nothing differs")):
        body = {"mode": "override", "supersedes": judge.pk, "answers": {"novelty": given}}
        assert told in api.post(f"outputs/{judged.pk}/grades", body)["error"]
        assert api.status == 422


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"mode": "blind", "answers": {"novelty": {"score": 5}}}, "Not answered: Viability, Upside, Success"),
        ({"mode": "blind", "answers": {**answers(), "novelty": {"score": 11}}}, "allowed: 0 to 10"),
        ({"mode": "blind", "answers": {**answers(), "beauty": {"score": 1}}}, "viability, upside, success, novelty"),
        ({"mode": "blind", "answers": {**answers(), "novelty": {}}}, "exactly one of score, passed, value, unsure"),
        ({"mode": "blind", "answers": {**answers(), "novelty": {"passed": True}}}, "score, 0 to 10"),
        ({"mode": "blind", "answers": {**answers(), "novelty": {"score": 5, "quotes": ["not there"]}}}, "is not in the output"),
        ({"mode": "asleep", "answers": answers()}, "body.mode is 'asleep', allowed: blind, assisted or override"),
        ({"mode": "blind", "answers": answers(), "colour": 1}, "body.colour is 1, allowed: no such field"),
        ({"mode": "blind", "answers": answers(), "duration_s": -1}, "body.duration_s is -1, allowed: greater than or equal to 0"),
        ({"mode": "blind", "answers": answers(), "duration_s": float("nan")}, "body.duration_s is 'nan', allowed: a finite number"),
        ({"mode": "blind"}, "body.answers is None, allowed: it is required"),
    ],
)
def test_a_grade_that_can_not_be_taken_leaves_nothing_and_says_what_is_allowed(api, judged, body, told):
    answer = api.post(f"outputs/{judged.pk}/grades", body)
    assert (api.status, told in answer["error"]) == (422, True), answer
    assert b"NaN" not in api.response.content
    assert (Grade.objects.count(), Draft.objects.count()) == (1, 0)


def test_criteria_that_pass_or_fail_take_a_verdict_or_unsure(api):
    output = make_output(make_task("code", code_rubric(), output_format="python"), "class NeuralMemory: pass\n")
    given = {"memory_class": {"passed": True}, "surprise_gate": {"passed": False}, "learnable_decay": {"unsure": True}}
    told = api.post(f"outputs/{output.pk}/grades", {"mode": "blind", "answers": given})
    assert (told["passed"], [row["passed"] for row in told["criteria"].values()]) == (False, [True, False, None])


def test_broken_json_is_named_and_nothing_is_written(api, judged):
    told = api.send(f"outputs/{judged.pk}/grades", b'{"mode": ', "application/json")
    assert api.status in (400, 422)
    assert told["error"]


@pytest.mark.parametrize("note", ["a\ud800b", "a\x00b"])
def test_text_that_no_database_stores_is_refused_or_kept_but_never_a_crash(api, judged, note):
    api.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": answers(), "note": note})
    assert api.status in (201, 422)


def test_a_viewer_never_writes_whatever_the_token_says(viewer, judged):
    api = caller_for(viewer)
    assert "role of reviewer" in api.post(f"outputs/{judged.pk}/grades", {"mode": "assisted", "answers": answers()})["error"]
    assert (api.status, Grade.objects.count()) == (403, 1)


def test_another_reviewer_stays_blind_to_it(api, judged):
    api.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": answers()})
    other = caller_for(make_user("bo"))
    assert other.get(f"outputs/{judged.pk}")["is_hidden"] is True
    assert other.post(f"outputs/{judged.pk}/grades", {"mode": "blind", "answers": answers()})["mode"] == "blind"
    judged.refresh_from_db()
    assert judged.human_count == 2
