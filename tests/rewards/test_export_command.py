"""`manage.py export`: what it writes, what it refuses, and that it writes whole or nothing."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

import reviewapp
from reviewapp.rewards.columns import COLUMNS
from tests.jobs.workers import database_url
from tests.make import make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.rewards.reading import export, make_prompt, manifest_of, only_row, rows_of

FORMATS = ("scalar-jsonl", "csv", "parquet")
HOSTILE = [
    'a "quoted" text, with; commas\r\nand\nlines\rand lone returns',
    "=HYPERLINK(\"http://example.org\")",
    "+1", "-1", "@SUM(A1)", "\t=1", "- a list\n- of two",
    "\u2028\u2029\u0085\ufeff \u202e right to left", "emoji \U0001f9ea and \x01 control \x1f", "\\n is no new line", "null", "", " ",
    '""', "'", ",", "NaN", "[1, 2]",
]  # fmt: skip


def refused(*arguments, code=2):
    with pytest.raises(CommandError) as error:
        call_command("export", *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    assert error.value.returncode == code
    return str(error.value)


@pytest.fixture
def graded(db, reviewer):
    """Three outputs of one task: reviewed, judged only, not graded."""
    task = make_task()
    first = make_output(task, external_id="a/1", metadata={"temperature": 0.7}, reference="The article.")
    make_judge_grade(first, {"viability": 7, "upside": 7, "success": 7, "novelty": 7})
    make_human_grade(first, reviewer, {"viability": 6, "upside": 8, "success": 4, "novelty": 7})
    make_judge_grade(make_output(task, external_id="a/2"), {"viability": 3, "upside": 3, "success": 3, "novelty": 3})
    make_output(task, external_id="a/3")
    return task


def test_every_column_is_there_in_its_order(tmp_path, graded):
    row = rows_of(export(tmp_path / "out"))[0]
    assert list(row) == [column.name for column in COLUMNS]
    assert (row["output_id"], row["prompt"], row["reference"], row["meta"]) == (
        "a/1",
        "The prompt of ideas.",
        "The article.",
        {"temperature": 0.7},
    )


def test_the_guide_tells_every_column():
    guide = (settings.BASE_DIR / "docs" / "exports.md").read_text(encoding="utf-8")
    assert not [column.name for column in COLUMNS if f"`{column.name}`" not in guide]


def test_the_manifest_has_spec_counts_and_the_hash_of_every_file(tmp_path, graded):
    folder = export(tmp_path / "out", "--split", "0.5,0.5")
    manifest = manifest_of(folder)
    assert manifest["counts"]["source"] == {"human": 1, "judge": 1} and manifest["rows"] == 2
    assert manifest["software"] == {"name": "touchstone", "version": reviewapp.__version__}
    assert (manifest["spec"]["split"], manifest["calibrator"]) == ("0.5,0.5", None)
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert {f["path"] for f in manifest["files"]} == written
    assert all(f["sha256"] == hashlib.sha256((folder / f["path"]).read_bytes()).hexdigest() for f in manifest["files"])


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_spec_on_the_same_data_gives_the_same_bytes(tmp_path, graded, file_format):
    first, second = (export(tmp_path / name, "--split", "0.6,0.4", file_format=file_format) for name in ("a", "b"))
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert len(files) >= 3
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)


def test_rows_stand_in_the_order_of_task_and_id(tmp_path, db, reviewer):
    for slug, name in (("b", "2"), ("b", "10"), ("a", "z")):
        task = make_task(slug)
        make_human_grade(make_output(task, external_id=name), reviewer, {"viability": 5})
    assert [(r["task"], r["output_id"]) for r in rows_of(export(tmp_path / "out"))] == [("a", "z"), ("b", "10"), ("b", "2")]


@pytest.mark.parametrize("file_format", FORMATS)
def test_hostile_texts_come_back_as_they_were(tmp_path, db, reviewer, file_format):
    task = make_task()
    for number, text in enumerate(HOSTILE):
        output = make_output(task, text, external_id=f"{number:03d}", prompt=make_prompt(task, text), model=text[:50])
        make_human_grade(output, reviewer, {"viability": 5})
    rows = rows_of(export(tmp_path / "out", file_format=file_format))
    assert [row["content"] for row in rows] == HOSTILE
    assert [row["prompt"] for row in rows] == HOSTILE


def test_numbers_in_csv_are_numbers_and_null_is_not_an_empty_text(tmp_path, graded):
    text = (export(tmp_path / "out", file_format="csv") / "data" / "train.csv").read_bytes().decode()
    first = text.split("\r\n")[1]
    assert ',6.05,0.605,false,"human",,1,' in first
    assert '"","The article."' not in first and ',,"The article.",' in first  # content_missing is null


def test_parquet_columns_have_types(tmp_path, graded):
    row = rows_of(export(tmp_path / "out", file_format="parquet"))[0]
    kinds = {type(row[name]) for name in ("label_score", "criteria.viability.weight")}, type(row["label_passed"]), type(row["grade_ids"])
    assert kinds == ({float}, bool, list)
    assert json.loads(row["criteria_json"])["viability"]["human"] == 6.0 and json.loads(row["meta"]) == {"temperature": 0.7}


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (["--format", "trl-preference"], "can't be written yet, there are: scalar-jsonl, csv, parquet"),
        (["--format", "xml"], "format is 'xml', allowed"),
        (["--format", "csv", "--policy", "best"], "policy is 'best', allowed: human-only"),
        (["--format", "csv", "--split", "0.9,0.2"], "sum to 1.1"),
        (["--format", "csv", "--task", "nope"], "task 'nope' is unknown, there are: ideas"),
        (["--format", "csv", "--filter", "modle=x"], "'modle' is no filter"),
        (["--format", "csv", "--seed", "-1"], "seed is -1"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_and_writes_nothing(tmp_path, graded, arguments, because):
    assert because in refused(*arguments, "--out", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_touched(tmp_path, graded):
    (tmp_path / "mine.txt").write_text("mine")
    assert "not empty" in refused("--format", "csv", "--out", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_any_label_nothing_is_written_and_the_exit_code_is_3(tmp_path, db):
    make_output(make_task())
    assert "no output has a label" in refused("--format", "csv", "--out", str(tmp_path / "out"), code=3)
    assert list(tmp_path.iterdir()) == []


def test_filters_are_those_of_the_outputs_page(tmp_path, graded):
    assert only_row(tmp_path / "out", "--filter", "label=labelled")["output_id"] == "a/1"


def test_the_manifest_tells_a_reviewer_of_the_filter_by_pseudonym_only(tmp_path, graded):
    folder = export(tmp_path / "out", "--filter", "reviewer=ana&label=labelled")
    assert manifest_of(folder)["spec"]["filter"] == f"label=labelled&reviewer={rows_of(folder)[0]['raters'][0]}"


def test_a_place_that_cannot_be_written_is_told(tmp_path, graded):
    (tmp_path / "file").write_text("")
    assert "can't be written" in refused("--format", "csv", "--out", str(tmp_path / "file" / "out"))


def test_samples_are_in_and_marked_unless_left_out(tmp_path, graded, reviewer):
    make_human_grade(make_output(graded, is_sample=True), reviewer, {"viability": 5})
    folder = export(tmp_path / "with")
    assert [row["is_sample"] for row in rows_of(folder)].count(True) == 1
    assert "1 of 3 rows are samples" in manifest_of(folder)["warnings"][0]
    assert not any(row["is_sample"] for row in rows_of(export(tmp_path / "without", "--no-samples")))


def test_the_card_has_the_header_that_the_hub_reads(tmp_path, graded):
    card = (export(tmp_path / "out", "--license", "cc-by-4.0") / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert 'license: "cc-by-4.0"\n' in header and "size_categories:\n- n<1K\n" in header
    assert "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.jsonl\n" in header
    assert "| human | 1 | people |" in body


def test_no_text_of_a_user_stands_bare_in_the_header(tmp_path, graded):
    """What stands behind a colon is a JSON string, which is YAML, or one plain word."""
    header = (export(tmp_path / "out") / "README.md").read_text().split("---\n")[1]
    values = [line.split(": ", 1)[1] for line in header.splitlines() if ": " in line]
    assert all((value.startswith('"') and json.loads(value)) or value.replace("/", "").replace(".", "").isalnum() for value in values)


def test_the_number_of_queries_does_not_grow_with_the_outputs(tmp_path, db, reviewer):
    def queries(name):
        with CaptureQueriesContext(connection) as found:
            export(tmp_path / name)
        return len(found)

    task = make_task()
    judged = make_judge_grade(make_output(task), {"viability": 5})
    make_human_grade(judged.output, reviewer, {"viability": 6}, mode="override", supersedes=judged)
    few = queries("few")
    for _ in range(20):
        judged = make_judge_grade(make_output(task), {"viability": 5})
        make_human_grade(judged.output, reviewer, {"viability": 6}, mode="override", supersedes=judged)
    assert queries("many") == few <= 18


def test_very_long_outputs_are_read_in_parts(tmp_path, db, reviewer, monkeypatch):
    monkeypatch.setattr("reviewapp.rewards.rows.CHUNK_CHARS", 1000)
    task, texts = make_task(), [str(n) * 600 for n in range(5)]
    for number, text in enumerate(texts):
        make_human_grade(make_output(task, text, external_id=str(number)), reviewer, {"viability": 5})
    assert [row["content"] for row in rows_of(export(tmp_path / "out"))] == texts


def test_batches_join_without_a_gap_or_a_repeat(tmp_path, db, reviewer, monkeypatch):
    monkeypatch.setattr("reviewapp.rewards.rows.BATCH", 3)
    task, names = make_task(), [f"{n:03d}" for n in range(10)]
    for name in random.Random(1).sample(names, len(names)):
        make_human_grade(make_output(task, external_id=name), reviewer, {"viability": 5})
    assert [row["output_id"] for row in rows_of(export(tmp_path / "out"))] == names


@pytest.mark.django_db(transaction=True)
def test_a_kill_in_the_middle_leaves_no_folder_and_the_next_try_cleans_up(tmp_path):
    task, user = make_task(), make_user()
    for _ in range(30):
        make_human_grade(make_output(task), user, {"viability": 5})
    script = (
        "import django, sys, time; django.setup()\n"
        "from reviewapp.rewards import rows; rows.BATCH = 5\n"
        "from pathlib import Path; from reviewapp.rewards.export import write_export; from reviewapp.rewards.spec import Spec\n"
        "def stop(stage, done, total):\n    print('at', done, flush=True); time.sleep(60)\n"
        "write_export(Spec(), Path(sys.argv[1]), stop)\n"
    )
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database_url(), "PYTHONPATH": str(settings.BASE_DIR)}
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("at 5")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1
    assert len(rows_of(export(tmp_path / "out"))) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
