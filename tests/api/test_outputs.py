"""Reading outputs: the filters of the page, pages by cursor, and nothing that the member could not see on the pages."""

import json

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from reviewapp.models import Task
from tests.api.calling import caller_for
from tests.make import make_human_grade, make_judge_grade, make_output, make_task, make_user

JUDGED = {"viability": 8, "upside": 6, "success": 7, "novelty": 5}
MINE = {"viability": 2, "upside": 3, "success": 4, "novelty": 5}


@pytest.fixture
def judged(db):
    output = make_output(
        content="A plan.", model="model-x", metadata={"judge_said": 8}, transcript=[{"role": "assistant", "content": "Hm."}]
    )
    return make_judge_grade(output, JUDGED).output


def test_an_admin_reads_a_list_with_what_judges_and_people_said(admin, judged):
    (row,) = caller_for(admin, "read").get("outputs")["outputs"]
    assert (row["task"], row["model"], row["variant"], row["is_hidden"]) == ("ideas", "model-x", "default", False)
    assert row["judge"] == {"score": 6.75, "passed": False}
    assert row["label"] == {"score": 6.75, "passed": False, "source": "judge", "state": "none"}
    assert "content" not in row


def test_pages_follow_one_another_by_cursor_and_hold_each_output_once(admin):
    task = make_task()
    ids = [make_output(task, content="x" * (i % 3)).pk for i in range(7)]
    api, seen, after = caller_for(admin, "read"), [], ""
    while after is not None:
        told = api.get("outputs", sort="-length", limit=3, **({"after": after} if after else {}))
        seen += [row["id"] for row in told["outputs"]]
        after = told["next"]
    assert (sorted(seen), len(seen), told["total"]) == (ids, 7, 7)


def test_filters_are_those_of_the_page(admin):
    make_output(make_task("ideas"), model="one")
    output = make_output(make_task("plans"), model="two", content="a zebra crossing")
    api = caller_for(admin, "read")
    for asked in ({"task": "plans"}, {"model": "two"}, {"q": "zebra"}, {"ids": str(output.pk)}):
        assert [row["id"] for row in api.get("outputs", **asked)["outputs"]] == [output.pk], asked


@pytest.mark.parametrize(
    ("asked", "where", "allowed"),
    [
        ({"task": "nope"}, "query.task", "ideas"),
        ({"sort": "colour"}, "query.sort", "-id, id"),
        ({"limit": "0"}, "query.limit", "1 to 200"),
        ({"score_min": "high"}, "query.score_min", "a number"),
        ({"colour": "red"}, "query", "There are: task, model"),
        ({"after": "x~y"}, "query", "no place in a list"),
    ],
)
def test_a_filter_that_can_not_be_read_ends_the_call_and_is_named(admin, judged, asked, where, allowed):
    api = caller_for(admin, "read")
    told = api.get("outputs", **asked)
    assert (api.status, told["problems"][0]["where"]) == (422, where)
    assert allowed in told["problems"][0]["allowed"]


def test_a_list_of_many_takes_as_many_queries_as_a_list_of_one(admin):
    task = make_task()
    make_judge_grade(make_output(task), JUDGED)
    api = caller_for(admin, "read")

    def queries():
        make_output(task)  # what is counted is counted anew
        with CaptureQueriesContext(
            connection,
        ) as found:
            api.get("outputs", task="ideas", sort="-judge")
        return len(found)

    few = queries()
    for _ in range(20):
        make_judge_grade(make_output(task), JUDGED)
    assert queries() <= few <= 12


def test_a_reviewer_who_has_yet_to_grade_gets_nothing_that_the_pages_hide(reviewer, judged):
    make_human_grade(judged, make_user("bo"), MINE)
    api = caller_for(reviewer, "read")
    (row,) = api.get("outputs")["outputs"]
    whole = api.get(f"outputs/{judged.pk}")
    for told in (row, whole):
        assert told["is_hidden"] is True
        assert {told[name] for name in ("judge", "human", "label", "model", "variant", "disagreement", "failure_category")} == {None}
    assert (whole["content"], whole["grades"], whole["mode"], whole["metadata"]) == ("A plan.", [], "blind", None)
    text = json.dumps([row, whole])
    assert "6.75" not in text
    assert "model-x" not in text
    assert "judge_said" not in text


def test_filters_and_orders_that_would_tell_are_refused_to_who_works_blind(reviewer, judged):
    api = caller_for(reviewer, "read")
    for asked in ({"judge": "pass"}, {"score_min": "5"}, {"sort": "-judge"}):
        assert "while the judge is hidden" in api.get("outputs", **asked)["error"]
        assert api.status == 403


def test_their_own_grade_opens_what_was_said(reviewer, judged):
    make_human_grade(judged, reviewer, MINE)
    api = caller_for(reviewer, "read")
    told = api.get(f"outputs/{judged.pk}")
    assert (told["mode"], told["is_hidden"], told["judge"]["score"]) == ("reveal", False, 6.75)
    assert [(g["grader"]["name"], g["mode"]) for g in told["grades"]] == [("human", "blind"), ("judge", "automatic")]
    assert told["own_grade"] == told["grades"][0]["id"]
    assert told["grades"][1]["criteria"]["novelty"]["rationale"] == "The judge on novelty."
    assert api.get("outputs", judge="fail", reviewer="me")["outputs"][0]["judge"]["score"] == 6.75


def test_a_viewer_reads_all(viewer, judged):
    told = caller_for(viewer, "read").get(f"outputs/{judged.pk}")
    assert (told["mode"], told["judge"]["score"], told["transcript"][0]["content"]) == ("read", 6.75, "Hm.")
    assert told["rubric"]["criteria"][0] == {
        **{"key": "viability", "title": "Viability", "kind": "numeric", "weight": 0.3, "scale": [0, 10], "values": []}
    }


@pytest.mark.parametrize("pk", [99, 10**25])
def test_an_output_that_is_not_there_is_a_404_that_names_it(viewer, pk):
    api = caller_for(viewer, "read")
    assert f"There is no output {pk}" in api.get(f"outputs/{pk}")["error"]
    assert api.status == 404


def test_calibration_is_what_the_command_prints(viewer, judged, capsys):
    make_human_grade(judged, make_user("bo"), MINE)
    api = caller_for(viewer, "read")
    told = api.get("calibration/ideas", judge="judge@1", epsilon="0.1")
    call_command("calibrate", "--task", "ideas", "--judge", "judge@1", "--epsilon", "0.1", "--json")
    assert told["judges"] == [json.loads(capsys.readouterr().out)]
    assert told["judges"][0]["n_outputs"] == 1


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("calibration/nope", 404, "There are: ideas"),
        ("calibration/ideas?judge=nope", 422, "judge@1"),
        ("calibration/ideas?mode=asleep", 422, "blind, assisted, any"),
        ("calibration/ideas?epsilon=7", 422, "query.epsilon is 7.0, allowed: a number from 0 to 1, such as 0.2"),
        ("calibration/ideas?epsilon=nan", 422, "query.epsilon is 'nan', allowed: a number from 0 to 1, such as 0.2"),
        ("calibration/ideas?epsilon=-inf", 422, "query.epsilon is '-inf', allowed: a number from 0 to 1"),
        ("calibration/ideas?epsilon=x", 422, "query.epsilon is 'x', allowed: a valid number"),
    ],
)
def test_a_study_that_can_not_be_made_says_what_is_allowed(viewer, judged, path, status, told):
    api = caller_for(viewer, "read")
    answer = api.get(path)
    assert (api.status, told in answer["error"]) == (status, True), answer
    assert b"NaN" not in api.response.content and b"Infinity" not in api.response.content
    if "epsilon" in path:
        assert str(answer["problems"][0]["seen"]) in told


def test_a_task_without_a_rubric_is_told_apart_from_a_wrong_parameter(viewer, judged):
    Task.objects.update(rubric=None)
    api = caller_for(viewer, "read")
    answer = api.get("calibration/ideas")
    assert (api.status, answer["problems"][0]["where"]) == (422, "path.task")
    assert answer["error"] == "task ideas has no rubric: its grades have no criteria."
