"""`python -m graders`: output, order and exit codes as other programs rely on them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from graders.__main__ import main
from graders.judge.grader import local_secret
from tests.graders.checks import program
from tests.graders.judging import answer, shipped
from tests.messages_api import MessagesApi, Says
from tests.programs import require_program

FIELDS = ["task", "file", "runs", "passed", "score", "criteria", "failure_category", "error", "duration_s"]


def run(capsys, *argv):
    """(exit code, lines of stdout, stderr)."""
    code = main(argv)
    out = capsys.readouterr()
    return code, out.out.splitlines(), out.err


@pytest.fixture
def files(tmp_path):
    for name, text in {"a.py": program(), "b.py": "x = 1\n", "c.py": "raise ValueError\n"}.items():
        (tmp_path / name).write_text(text)
    return [str(tmp_path / name) for name in ("a.py", "b.py", "c.py")]


def test_list_names_graders_versions_and_criteria(capsys):
    code, lines, _ = run(capsys, "list")
    assert code == 0 and any(line.startswith("neural_memory  version 1") for line in lines)
    assert any("surprise_gate" in line for line in lines)


def test_json_is_one_object_a_line_in_the_order_given(capsys, files):
    require_program("bwrap")
    code, lines, err = run(capsys, "grade", "neural_memory", *files, "--json", "--jobs", "2", "--backend", "bwrap")
    rows = [json.loads(line) for line in lines]
    assert (code, err) == (0, "") and [row["file"] for row in rows] == files
    assert [row["runs"] for row in rows] == [True, False, False] and rows[0]["passed"] is True


def test_the_fields_of_a_grade_are_those_promised(capsys, files):
    _, lines, _ = run(capsys, "grade", "neural_memory", files[0], "--json", "--grader", "text_match")
    row = json.loads(lines[0])
    assert list(row)[: len(FIELDS)] == FIELDS
    assert set(row["criteria"][0]) == {"key", "passed", "score", "weight", "rationale", "evidence"}
    assert set(row["criteria"][0]["evidence"][0]) == {"line_start", "line_end", "kind", "text"}
    assert set(row["grader"]) == {"name", "version", "sha256"}


def test_another_grader_than_the_tasks_own_may_be_named(capsys, files):
    code, lines, _ = run(capsys, "grade", "memory_optimization", files[0], "--json", "--grader", "text_match")
    assert code == 0 and json.loads(lines[0])["grader"]["name"] == "text_match"


def test_the_table_shows_each_criterion(capsys, files):
    code, lines, _ = run(capsys, "grade", "memory_optimization", files[0], "--grader", "text_match")
    assert code == 0 and "not run" in lines[0] and len(lines) == 19


def test_without_a_model_tasks_of_judges_can_not_be_graded_and_it_says_what_to_set(capsys, files, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    code, lines, err = run(capsys, "grade", "idea_proposal", *files)
    assert (code, lines, err.count("set ANTHROPIC_API_KEY")) == (3, [], 3)
    assert "not ready: no model is set up" in "\n".join(run(capsys, "list")[1])


@pytest.fixture
def judge_server(monkeypatch, tmp_path):
    with MessagesApi() as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("DATA_DIR", str(tmp_path))
        yield api


def test_a_judge_grades_files_in_order_and_is_asked_once_for_each(capsys, tmp_path, judge_server):
    judge_server.otherwise = lambda body: answer(shipped(), 8 if "good" in str(body["messages"]) else 3, quotes=["a bad idea"])
    names = [str(tmp_path / name) for name in ("bad.md", "good.md")]
    for name, text in zip(names, ("a bad idea", "a good idea"), strict=True):
        Path(name).write_text(text)
    for _ in range(2):
        code, lines, _ = run(capsys, "grade", "idea_proposal", *names, "--json", "--jobs", "2")
    rows = [json.loads(line) for line in lines]
    assert (code, [row["score"] for row in rows], [row["passed"] for row in rows]) == (0, [3.0, 8.0], [False, True])
    assert [row["criteria"][0]["evidence"][0].get("found", True) for row in rows] == [True, False]
    assert len(judge_server.asked) == 2 * 3  # three votes a file; the second time all were known


def test_the_key_of_the_boundaries_is_one_however_many_begin_at_once(tmp_path):
    """Another key is another prompt, and a call that was paid for would not be found again."""
    for n in range(20):
        folder, start = tmp_path / str(n), Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            used = set(pool.map(lambda _, folder=folder, start=start: (start.wait(), local_secret(folder))[1], range(8)))
        assert used == {(folder / "boundary_key").read_bytes()} and len(used.pop()) == 64
        assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("boundary_key", 0o600)]


def test_an_answer_of_the_judge_that_can_not_be_used_is_a_grade_without_score(capsys, files, judge_server):
    judge_server.otherwise = lambda body: Says("no", stop_reason="refusal")
    code, lines, _ = run(capsys, "grade", "idea_proposal", files[0], "--json")
    row = json.loads(lines[0])
    assert (code, row["score"], row["passed"]) == (0, None, None)
    assert row["criteria"][0]["unscored_reason"] == "refused"


def test_a_missing_sandbox_is_exit_3_with_what_to_install(capsys, files, monkeypatch):
    from graders.sandbox.run import forget_trials

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ALLOW_UNSAFE_SANDBOX", raising=False)
    forget_trials()
    code, lines, err = run(capsys, "grade", "neural_memory", files[0], "--json")
    forget_trials()
    assert (code, lines) == (3, []) and "apt-get install bubblewrap" in err


def test_the_unsafe_backend_needs_its_variable(capsys, files, monkeypatch):
    monkeypatch.delenv("ALLOW_UNSAFE_SANDBOX", raising=False)
    code, _, err = run(capsys, "grade", "neural_memory", files[1], "--backend", "process")
    assert code == 3 and "ALLOW_UNSAFE_SANDBOX" in err


BAD = {
    "no command": [],
    "unknown command": ["judge"],
    "unknown task": ["grade", "chess", "a.py"],
    "no file": ["grade", "neural_memory"],
    "file not there": ["grade", "neural_memory", "/no/such/file.py"],
    "folder": ["grade", "neural_memory", "/"],
    "unknown backend": ["grade", "neural_memory", __file__, "--backend", "vm"],
    "timeout not a number": ["grade", "neural_memory", __file__, "--timeout", "soon"],
    "timeout not above zero": ["grade", "neural_memory", __file__, "--timeout", "0"],
    "no jobs": ["grade", "neural_memory", __file__, "--jobs", "0"],
    "unknown grader": ["grade", "neural_memory", __file__, "--grader", "oracle"],
    "grader of another task": ["grade", "fsdp_training", __file__, "--grader", "neural_memory"],
}


@pytest.mark.parametrize("argv", BAD.values(), ids=BAD)
def test_bad_usage_is_exit_2_with_one_line(capsys, argv):
    code, lines, err = run(capsys, *argv)
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert err.startswith("graders: ")


def test_a_file_that_is_not_text_is_exit_2(capsys, tmp_path):
    (tmp_path / "x.py").write_bytes(b"\xff\xfe\x00")
    code, _, err = run(capsys, "grade", "neural_memory", str(tmp_path / "x.py"))
    assert code == 2 and "not UTF-8" in err
