"""The examples of docs/api.md, run as they stand against a live server."""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from django.conf import settings

from reviewapp.api.tokens import make_token
from reviewapp.catalog.sync import save_task
from reviewapp.models import Grade, Output, Snapshot
from tasks.task import SHIPPED_TASKS, load_task
from tests.api.calling import working
from tests.jobs.judged import make_ideas
from tests.make import make_human_grade, make_user
from tests.programs import require_program

GUIDE = (Path(settings.BASE_DIR) / "docs" / "api.md").read_text(encoding="utf-8")
SCORES = {"viability": 2, "upside": 3, "success": 4, "novelty": 5}
LINE = {"external_id": "from-the-guide", "task": "idea_proposal", "content": "# An idea"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, flags=re.M | re.S)


@pytest.fixture
def workspace(transactional_db, live_server, tmp_path, monkeypatch):
    """Two ideas of which one is labelled, a code task, an admin's token in the environment; what is queued is worked on."""
    ideas = make_ideas(2)
    make_human_grade(ideas[1], make_user("bo"), SCORES)
    save_task(load_task(SHIPPED_TASKS / "neural_memory"))
    _, token = make_token(make_user("root", role="admin"), "guide", ["read", "import", "grade", "export", "reward"])
    (tmp_path / "outputs.jsonl").write_text(json.dumps(LINE) + "\n")
    monkeypatch.chdir(tmp_path)
    for name, value in {"TOUCHSTONE": live_server.url, "TOKEN": token, "NO_PROXY": "*"}.items():
        monkeypatch.setenv(name, value)
    with working():
        yield ideas


@pytest.mark.django_db(transaction=True, reset_sequences=True)
def test_the_curl_examples_of_the_guide_work_as_they_stand(workspace):
    require_program("curl")
    answers = []
    for block in blocks("sh"):
        if not block.startswith("export"):
            done = subprocess.run(["bash", "-euc", block], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            answers += [json.loads(answer) for answer in re.split(r"(?<=\})(?=\{)", done.stdout)]
    listed, one, dry, imported, grade, calibration, reward = answers
    assert [row["id"] for row in listed["outputs"]] == [workspace[1].pk]
    assert one["content"] == workspace[0].body.content
    assert (dry["outputs_new"], dry["dry_run"], imported["outputs_new"]) == (1, True, 1)
    assert Output.objects.filter(external_id="from-the-guide").exists()
    assert Grade.objects.get(pk=grade["id"]).rater.username == "root"
    assert calibration["task"] == "idea_proposal"
    assert reward["rewards"] == [pytest.approx(1 / 6, abs=0.001)]


@pytest.mark.django_db(transaction=True, reset_sequences=True)
def test_the_python_examples_of_the_guide_work_as_they_stand(workspace, capsys):
    program = "\n".join(blocks("python"))
    exec(compile(program, "docs/api.md", "exec"), {"__name__": "guide"})
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{workspace[1].pk} ") or told[0].startswith(f"{workspace[0].pk} ")
    assert any(line.startswith("data/train.jsonl ") for line in told)
    assert told[-1] == "[0.0]"
    assert Snapshot.objects.get().rows == 1


@pytest.mark.django_db(transaction=True)
def test_a_body_that_breaks_off_imports_nothing(workspace, live_server):
    """Over a real connection: the trainer's machine goes away in the middle."""
    host = live_server.url.removeprefix("http://")
    head = f"POST /api/v1/import HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {os.environ['TOKEN']}\r\n"
    head += "Content-Type: application/x-ndjson\r\nContent-Length: 500\r\n\r\n"
    with socket.create_connection(host.split(":"), timeout=20) as connection:
        connection.sendall(head.encode() + json.dumps(LINE).encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096).decode()
    assert " 400 " in answer.splitlines()[0]
    assert not Output.objects.filter(external_id="from-the-guide").exists()
    assert not [path for path in Path(settings.MEDIA_ROOT).glob("*") if len(path.name) == 32]


def test_the_guide_is_shown_in_the_app_and_leads_to_the_openapi_description(as_viewer):
    page = as_viewer.get("/help/api/").content.decode()
    assert 'href="/api/v1/openapi.json"' in page
    assert 'href="/settings/tokens/"' in page
    assert as_viewer.get("/api/v1/openapi.json").json()["info"]["title"] == "Touchstone"
