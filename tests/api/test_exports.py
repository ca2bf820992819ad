"""Exports: asked for, followed, and downloaded file by file."""

import hashlib

import pytest

from reviewapp.jobs.work import work_on
from reviewapp.models import Job, Snapshot
from tests.api.calling import caller_for
from tests.make import make_human_grade, make_output, make_task

SCORES = {"viability": 2, "upside": 3, "success": 4, "novelty": 5}


@pytest.fixture
def labelled(reviewer):
    task = make_task()
    for _ in range(3):
        make_human_grade(make_output(task), reviewer, SCORES)
    return task


@pytest.fixture
def api(reviewer):
    return caller_for(reviewer, "export")


def test_an_export_is_asked_for_followed_and_downloaded(api, labelled, reviewer):
    asked = api.post("exports", {"format": "scalar-jsonl", "tasks": ["ideas"], "policy": "human-only", "seed": 7})
    assert (api.status, asked["state"], asked["files"], asked["spec"]["seed"]) == (202, "queued", [], 7)
    assert asked["url"] == f"http://testserver/api/v1/exports/{asked['id']}"
    work_on(Job.objects.get().pk)
    told = api.get(f"exports/{asked['id']}")
    assert (told["state"], told["rows"], told["manifest"]["counts"]["source"]) == ("done", 3, {"human": 3})
    assert Snapshot.objects.get().created_by == reviewer
    for file in told["files"]:
        response = api.client.get(file["url"], headers=api.headers)
        content = b"".join(response.streaming_content)
        assert response.status_code == 200
        known = [f["sha256"] for f in told["manifest"]["files"] if f["path"] == file["path"]] or [told["sha256"]]
        assert hashlib.sha256(content).hexdigest() == known[0]
    assert {file["path"] for file in told["files"]} == {"data/train.jsonl", "README.md", "manifest.json"}


def test_an_export_that_fails_says_why(api):
    make_task()
    asked = api.post("exports", {})
    work_on(Job.objects.get().pk)
    told = api.get(f"exports/{asked['id']}")
    assert (told["state"], "no output has a label" in told["error"]) == ("failed", True)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"format": "nope"}, "body.format"),
        ({"tasks": ["nope"]}, "body.tasks"),
        ({"policy": "nope"}, "body.policy"),
        ({"split": "1,1"}, "body.split"),
        ({"filter": "colour=red"}, "body.filter"),
        ({"seed": -1}, "body.seed"),
        ({"colour": 1}, "body.colour"),
    ],
)
def test_a_spec_that_can_not_be_written_is_refused_by_field(api, labelled, body, where):
    told = api.post("exports", body)
    assert (api.status, told["problems"][0]["where"], Snapshot.objects.count()) == (422, where, 0), told


def test_a_viewer_downloads_and_has_nothing_written(viewer, api, labelled):
    asked = api.post("exports", {})
    reader = caller_for(viewer, "read", "export")
    assert reader.get(f"exports/{asked['id']}")["id"] == asked["id"]
    assert "role of reviewer" in reader.post("exports", {})["error"]
    assert (reader.status, Snapshot.objects.count()) == (403, 1)


def test_what_is_not_there_is_a_404(api, labelled):
    api.get("exports/99")
    assert api.status == 404
    asked = api.post("exports", {})
    for name in ("manifest.json", "../../secret_key", "data/train.jsonl"):
        api.get(f"exports/{asked['id']}/files/{name}")
        assert api.status == 404
