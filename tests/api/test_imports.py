"""POST import: the importer of the command, with errors as JSON; all or nothing."""

import json
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test.client import encode_multipart

from reviewapp.api import imports
from reviewapp.models import Grade, Output, Run, Task
from tests.api.calling import caller_for
from tests.make import make_task

RUBRIC = b'[task]\nslug = "poems"\ntitle = "Poems"\n[rubric]\nscale = [1, 5]\n[[criterion]]\nkey = "rhyme"\ntitle = "Rhyme"\n'


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def line(n, **more):
    grade = {"grader": "geval", "version": "1", "kind": "llm_judge", "criteria": {"novelty": {"score": 4}}}
    return {"external_id": f"o{n}", "task": "ideas", "content": f"Idea {n}.", "grades": [grade], **more}


@pytest.fixture
def api(admin):
    make_task()
    return caller_for(admin, "import")


def left_over():
    return [path for path in Path(settings.MEDIA_ROOT).glob("*")]


def test_outputs_and_grades_come_in_and_a_second_time_nothing_changes(api, admin):
    told = api.send("import", lines(line(1), line(2)))
    assert (api.status, told["outputs_new"], told["grades_new"], told["dry_run"]) == (200, 2, 2, False)
    assert (Output.objects.count(), Grade.objects.count(), Run.objects.get().created_by) == (2, 2, admin)
    again = api.send("import", lines(line(1), line(2)))
    assert (again["outputs_new"], again["outputs_unchanged"], Output.objects.count()) == (0, 2, 2)
    assert not left_over()


def test_a_dry_run_counts_and_writes_nothing(api):
    told = api.send("import?dry_run=1", lines(line(1)))
    assert (told["outputs_new"], told["dry_run"], Output.objects.count(), left_over()) == (1, True, 0, [])


def test_one_bad_line_refuses_all_and_every_problem_is_named(api):
    told = api.send("import", lines(line(1), line(2, colour="red"), line(3, task="nope")) + "{oops\n")
    assert (api.status, Output.objects.count(), left_over()) == (422, 0, [])
    assert [(p["line"], p["field"]) for p in told["problems"]][:2] == [(2, "colour"), (3, "task")]
    assert (told["n_problems"], told["n_bad_lines"]) == (3, 3)
    assert "Nothing was imported: 3 problems in 3 bad lines" in told["error"]


def test_a_form_brings_the_rubric_of_a_new_task_along(api):
    poem = json.dumps({"external_id": "p", "task": "poems", "content": "Roses."}) + "\n"
    files = {"file": SimpleUploadedFile("p.jsonl", poem.encode()), "rubric": SimpleUploadedFile("r.toml", RUBRIC)}
    told = api.send("import", encode_multipart("xyz", files), "multipart/form-data; boundary=xyz")
    assert (told["tasks_new"], Task.objects.filter(slug="poems").count()) == (["poems"], 1)


def test_a_form_without_a_file_says_so(api):
    told = api.send("import", encode_multipart("xyz", {"a": "b"}), "multipart/form-data; boundary=xyz")
    assert (api.status, told["problems"][0]["where"]) == (422, "body.file")


@pytest.mark.parametrize(
    ("body", "kind", "status", "told"),
    [
        (b"\n", "application/x-ndjson", 422, "is empty"),
        (b"{}", "text/html", 415, "application/x-ndjson"),
        (b"PK\x03\x04zip", "application/x-ndjson", 422, "zip archive"),
        (b"[1, 2]", "application/json", 422, "one JSON object a line"),
    ],
)
def test_a_body_that_is_no_jsonl_is_refused_with_what_it_is(api, body, kind, status, told):
    answer = api.send("import", body, kind)
    assert (api.status, told in json.dumps(answer)) == (status, True), answer


def test_a_body_over_the_limit_is_refused_before_it_is_read(api, monkeypatch):
    monkeypatch.setattr(imports, "MAX_UPLOAD_BYTES", 10)
    told = api.send("import", lines(line(1)))
    assert (api.status, told["problems"][0]["where"]) == (413, "header.Content-Length")


def test_a_body_without_a_length_is_refused(api):
    assert "no Content-Length" in api.send("import", b"{}", CONTENT_LENGTH="")["error"]
    assert api.status == 411


def test_a_body_larger_than_a_form_may_be_is_streamed(api):
    told = api.send("import", lines(line(1, content="x" * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1))))
    assert (api.status, told["outputs_new"]) == (200, 1)


def test_a_reviewer_can_not_import(reviewer):
    api = caller_for(reviewer, "import")
    assert "role of admin" in api.send("import", lines(line(1)))["error"]
    assert (api.status, Output.objects.count()) == (403, 0)
