"""Files that are something else than JSON lines, and rubric files that are wrong."""

import gzip
import io
import sqlite3
import zipfile

import orjson
import pytest
from django.core.management import CommandError, call_command

from reviewapp.interchange import lines
from reviewapp.interchange.importer import import_file
from reviewapp.interchange.problems import ImportRefused
from reviewapp.interchange.public import load_public
from reviewapp.models import Output
from tests.interchange.files import RUBRIC, check_refused, counts, jsonl, line, rubric_file

pytestmark = pytest.mark.django_db
GOOD = orjson.dumps(line()) + b"\n"


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("outputs.jsonl", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(GOOD), "looks like a zip archive"),
        (gzip.compress(GOOD, mtime=0), "looks like a gzip file"),
        (GOOD.decode().encode("utf-16"), "looks like UTF-16 text"),
        (GOOD.decode().encode("utf-16-le"), "looks like UTF-16 text"),
        (GOOD.decode().encode("utf-16-be"), "looks like UTF-16 text"),
        (b"\xef\xbb\xbf" + GOOD, "looks like UTF-8 text with a byte order mark"),
        (b"PAR1" + b"\0" * 100, "looks like a Parquet file"),
        (b"[" + GOOD + b"]", "looks like one JSON array"),
        (b"", "is empty: it needs at least one line"),
        (b"\n \n\n", "is empty: it needs at least one line"),
        (b"external_id,task\na,b\n", "line 1: is not valid JSON at column 1"),
        (b"\0" * 1000, "line 1: is not valid JSON at column 1"),
    ],
)
def test_what_is_not_json_lines(tmp_path, data, said):
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(data)
    check_refused(path, said)


def test_a_line_of_50_mb_is_named_and_not_kept(tmp_path):
    path = tmp_path / "outputs.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'{"external_id": "')
        for _ in range(50):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + b"{\n")
    check_refused(path, "line 2: is 50.0 MiB long, allowed: at most 20 MiB a line", "line 3: is not valid JSON")


def test_a_line_at_the_limit_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", len(GOOD))
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(GOOD)
    assert import_file(path, rubric_file(tmp_path)).outputs_new == 1


def test_a_last_line_without_its_end_is_read(tmp_path):
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(GOOD + orjson.dumps(line("b")))
    assert import_file(path, rubric_file(tmp_path)).outputs_new == 2


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(ImportRefused, match=r"No such file|Is a directory"):
        import_file(tmp_path / name, rubric_file(tmp_path))


@pytest.mark.parametrize(
    ("rubric", "said"),
    [
        ("[task", "not valid TOML"),
        (RUBRIC.replace("[task]", "[tusk]"), "needs a [task] table"),
        (RUBRIC.replace("scale = [1, 5]", "scale = [5, 1]"), "the first must be below the second"),
        (RUBRIC.replace('slug = "summaries"', 'slug = "Bad Slug"'), "slug is 'Bad Slug'"),
        ("[task]\nslug = 'summaries'\n", "needs at least one [[criterion]]"),
    ],
)
def test_a_wrong_rubric_file(tmp_path, rubric, said):
    check_refused(jsonl(tmp_path, line()), "rubric: ", said, rubric=rubric_file(tmp_path, rubric))


def test_a_file_that_changes_between_the_readings_is_refused(tmp_path):
    path, before = jsonl(tmp_path, line()), counts()

    def change(stage: str, done: int, total: int) -> None:
        path.write_bytes(b'{"not": "checked"}\n')

    with pytest.raises(ImportRefused, match="changed while it was being read"):
        import_file(path, rubric_file(tmp_path), on_progress=change)
    assert counts() == before


def test_a_file_that_grows_between_the_readings_is_refused(tmp_path):
    path, before, told = jsonl(tmp_path, line()), counts(), []

    def grow(*step: object) -> None:
        told.append(step)
        if len(told) == 1:
            path.write_bytes(path.read_bytes() + b"{}\n" * lines.BATCH_LINES)

    with pytest.raises(ImportRefused, match="changed while it was being read"):
        import_file(path, rubric_file(tmp_path), on_progress=grow)
    assert counts() == before


def test_an_sqlite_file_is_no_jsonl(tmp_path):
    path = tmp_path / "outputs.jsonl"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE a (b)")
    check_refused(path, "looks like an SQLite database")


def test_a_folder_without_a_studys_files_is_refused(tmp_path):
    with pytest.raises(CommandError, match=r"no human_annotations\.json here, in summeval/"):
        call_command("load_public", "summeval", "--from", str(tmp_path))


def test_files_that_are_not_the_studys_are_refused(tmp_path):
    for who in ("human", "llm"):
        (tmp_path / f"{who}_annotations.json").write_text('{"a": {"no instance id": 3}}')
    with pytest.raises(ImportRefused, match="not the files of MT-bench"):
        load_public("mtbench", tmp_path)
    assert not Output.objects.exists()
