"""manage.py build_corpus: from a JSONL file, a folder and an arXiv query; again and again."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command

from tasks.tools.corpus import Corpus
from tests.literature_api import Answer, LiteratureApi, gzip_of, pdf_of, tar_of
from tests.tasks.tools.test_extract import FILES, MAIN


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    """Runs the command; gives (exit code, its JSON)."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))

    def build(*arguments: str):
        code = 0
        try:
            call_command("build_corpus", "--json", *map(str, arguments))
        except SystemExit as error:
            code = error.code
        return code, json.loads(capsys.readouterr().out)

    build.corpus = Corpus(tmp_path / "data" / "corpus.sqlite3")
    return build


@pytest.fixture
def api(tmp_path, monkeypatch):
    with LiteratureApi() as api:
        for name, value in api.env(tmp_path / "data").items():
            monkeypatch.setenv(name, value)
        api.add("2310.08560", "MemGPT: Towards LLMs as Operating Systems")
        api.add("2310.00001", "Another paper on operating systems")
        api.files["src/2310.08560"] = tar_of(FILES)
        yield api


def test_a_file_of_papers_is_read_once(build, tmp_path):
    file = tmp_path / "papers.jsonl"
    file.write_text(
        '{"id": "2310.08560", "title": "MemGPT", "year": 2023, "facts": ["92.5%"]}\n\n{"id": "arXiv:2309.18321", "missing": "me"}\n'
    )
    first, second = build("--jsonl", file), build("--jsonl", file)
    assert [(code, told["changed"], told["papers"]) for code, told in (first, second)] == [(0, 1, 1), (0, 0, 1)]
    assert build.corpus.get("arXiv:2310.08560").facts == ("92.5%",)
    assert build.corpus.why_missing("arXiv:2309.18321") == "me"


def test_a_wrong_line_aborts_the_file_and_is_named(build, tmp_path):
    file = tmp_path / "papers.jsonl"
    file.write_text('{"id": "2310.08560"}\n{"id": "nonsense"}\n[1]\n')
    with pytest.raises(CommandError, match=r"line 2: id is 'nonsense'.*line 3: must be a JSON object") as error:
        build("--jsonl", file)
    assert error.value.returncode == 2
    assert build.corpus.count() == 0


def test_a_folder_of_papers_is_read_and_what_fails_is_listed(build, tmp_path):
    folder = tmp_path / "papers"
    (folder / "deep").mkdir(parents=True)
    (folder / "2310.08560v2.tar.gz").write_bytes(tar_of(FILES))
    (folder / "deep" / "Some Paper.pdf").write_bytes(pdf_of("1 Introduction\nHello there.\n2 Results\n42.0 points."))
    (folder / "notes.txt").write_text("not a paper")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4")
    (folder / "one.gz").write_bytes(gzip_of(MAIN))
    code, told = build("--folder", folder)
    assert (code, told["seen"], told["changed"]) == (3, 4, 3)
    assert [row["what"] for row in told["failed"]] == ["broken.pdf"]
    assert "92.5%" in build.corpus.get("arXiv:2310.08560").results
    assert build.corpus.get("file:deep/Some Paper.pdf").title == "Some Paper"
    assert build("--folder", folder)[1]["changed"] == 0


def test_papers_that_arxiv_finds_come_with_their_texts(build, api):
    code, told = build("--arxiv", "operating systems")
    assert (code, told["seen"], told["changed"], len(told["failed"])) == (3, 2, 2, 1)
    assert "stops at 4,096" in build.corpus.get("arXiv:2310.08560").introduction
    assert build("--arxiv", "operating systems", "--no-text")[0] == 0
    assert len(api.paths("src")) == 2


def test_an_arxiv_that_can_not_be_asked_is_exit_3(build, api):
    api.instead["api"] = Answer(500, times=99)
    with pytest.raises(CommandError, match="arXiv gave no answer after 3 tries: status 500") as error:
        build("--arxiv", "operating systems")
    assert error.value.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["--folder", "/nowhere"], "no such folder"), (["--jsonl", "/nowhere"], "No such file"), (["--arxiv", "x", "--max", "0"], "max is 0")],
)
def test_bad_usage_is_exit_2(build, arguments, why):
    with pytest.raises(CommandError, match=why) as error:
        build(*arguments)
    assert error.value.returncode == 2
