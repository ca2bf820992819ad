"""The citations grader: does each cited work exist, and does its text bear the numbers cited from it?"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from graders.__main__ import main
from graders.citations.find import find_citations
from graders.citations.grader import CitationsGrader
from graders.citations.quantities import Bearing, read_quantities
from tasks.task import load_tasks
from tasks.tools.config import Sources
from tasks.tools.fill import fill_from_jsonl
from tasks.tools.literature import Literature
from tasks.tools.papers import Paper
from tests.graders.judging import answer, shipped
from tests.literature_api import Answer, LiteratureApi, tar_of
from tests.messages_api import MessagesApi

SAMPLES = Path("reviewapp/samples/literature_review")
TASK = next(task for task in load_tasks() if task.slug == "literature_review")
MEMGPT = Paper(
    "arXiv:2310.08560",
    "MemGPT: Towards LLMs as Operating Systems",
    ("Charles Packer", "Sarah Wooders"),
    2023,
    abstract="We introduce MemGPT.",
    full_text="Accuracy rises from 32.1% to 92.46 percent on 1,024 tokens; latency is 2.23x lower. We use seven tasks and 131,072 tokens.",
)
ABSTRACT_ONLY = Paper("arXiv:2309.00071", "YaRN: Efficient Context Window Extension", ("Bowen Peng",), 2023, "It needs 10x less tokens.")


@pytest.fixture
def literature(tmp_path):
    literature = Literature(Sources(corpus=tmp_path / "corpus.sqlite3", has_network=False))
    literature.corpus.add_all([MEMGPT, ABSTRACT_ONLY])
    return literature


def grade(text: str, literature: Literature):
    criterion = next(c for c in CitationsGrader(lambda: literature).grade(TASK, text).criteria if c.key == "citations")
    return criterion, [(e.about["status"], e.about.get("number", "")) for e in criterion.evidence]


# --- numbers ---


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ("92.5%", "an accuracy of 92.46 percent"),
        ("92.5%", "92.5 per cent of all"),
        ("92.5 percent", "we reach 92.5% here"),
        ("92.5%", "0.925 accuracy"),
        ("92.5%", "Model | Acc\nours | 92.5 | 18.3"),
        ("94%", "baseline 8 6 98\nours 96 94 100"),
        ("1,024 tokens", "1024 tokens"),
        ("10,000 steps", "10\u202f000 steps"),
        ("128K tokens", "131,072 tokens"),
        ("128K tokens", "128k tokens"),
        ("4K tokens", "windows of 4,096 tokens"),
        ("4K tokens", "4,000 tokens"),
        ("2 million tokens", "over two million tokens"),
        ("2M tokens", "2,000,000 tokens"),
        ("22.2x faster", "22.2\u00d7 speed-up"),
        ("8x faster", "eight times faster"),
        ("25x more", "a factor of 25"),
        ("3x", "a threefold gain"),
        ("10-20% of the context", "10\u201320 % of the context"),
        ("10-20% of the context", "between 10% and 20%"),
        ("from 7B to 65B", "models of 7B, 13B and 65B"),
        ("about 4000 times", "4,123 times"),
        ("1,800+ times faster", "up to 1,800+ times faster"),
        ("18.3 perplexity", "a perplexity of 18.3"),
        ("13 tasks", "thirteen tasks"),
    ],
)
def test_a_text_bears_a_number_in_another_form(claim, text):
    numbers = read_quantities(claim)
    assert numbers
    assert [Bearing(text).find(number).verdict for number in numbers] == ["borne"] * len(numbers)


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        ("92.5%", "92.4%"),
        ("92%", "90 percent"),
        ("92.46%", "92.5%"),
        ("25%", "a list of 25 items"),
        ("5x faster", "2.5x faster"),
        ("25x", "25% faster"),
        ("128K tokens", "12.8K tokens"),
        ("13 tasks", "13 layers"),
        ("18.3", "18.36 and 1.83"),
        ("4%", "GPT-4 and A100 and Llama-2-7B"),
        ("17%", "as shown in [17]"),
    ],
)
def test_a_text_does_not_bear_a_number_that_is_another_one(claim, text):
    assert Bearing(text).find(read_quantities(claim)[0]).verdict != "borne"


def test_another_number_for_the_same_thing_is_told_from_none():
    text = Bearing("It needs 10x less tokens and 2.5x less training steps.")
    assert text.find(read_quantities("25x less tokens")[0]).verdict == "other"
    assert text.find(read_quantities("25x larger batches")[0]).verdict == "absent"


# --- citations in a text ---


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("It is so [arXiv:2310.08560].", "arXiv:2310.08560"),
        ("It is so (Packer et al., 2023, arXiv:2310.08560v2).", "arXiv:2310.08560"),
        ("It is so [2310.08560].", "arXiv:2310.08560"),
        ("See https://arxiv.org/pdf/2310.08560.pdf for it.", "arXiv:2310.08560"),
        ("As [MemGPT shows](https://arxiv.org/abs/2310.08560) it is.", "arXiv:2310.08560"),
        ("It is so [doi:10.1162/neco.1997.9.8.1735].", "doi:10.1162/neco.1997.9.8.1735"),
        ("It is so (https://doi.org/10.1000/a(b)c).", "doi:10.1000/a(b)c"),
        ("It is so [s2:204e3073870fae3d05bcbc2f6a8e263d9b72e776].", "s2:204e3073870fae3d05bcbc2f6a8e263d9b72e776"),
        ("Packer et al. (2023) say so.", "author:packer 2023"),
        ("It is so (Mohtashami and Jaggi, 2023).", "author:mohtashami 2023"),
        ("It is so (Packer, 2023).", "author:packer 2023"),
        ('"Attention Is All You Need" (2017) says so.', "title:attention is all you need"),
        ("*Attention Is All You Need* (Vaswani et al., 2017) says so.", "title:attention is all you need"),
        ("See [Attention Is All You Need](https://papers.nips.cc/paper/7181) for it.", "title:attention is all you need"),
    ],
)
def test_a_citation_is_found_in_its_usual_forms(text, key):
    assert [citation.key for sentence in find_citations(text).sentences for citation in sentence.citations] == [key]


@pytest.mark.parametrize(
    "text", ["In March 2023 it began.", "Version 2.10.0 of 2023.", "```\narXiv:2310.08560\n```", "# On arXiv:2310.08560", "[1]"]
)
def test_what_is_no_citation_is_not_taken_for_one(text):
    assert find_citations(text).sentences == []


def test_the_numbers_of_a_sentence_are_what_it_states():
    text = "In section 3 of 2023, Llama 2 with 70B reaches 92.5% ($22.2\\times$, $n^2$) on 8 A100 by GPT-4 [arXiv:2310.08560]."
    assert [number.text for number in find_citations(text).sentences[0].numbers] == ["70B", "92.5%", "22.2x", "8"]


def test_the_list_of_references_names_works_and_makes_no_claims():
    found = find_citations(
        "Text [arXiv:2310.08560].\n\n## References\n- [arXiv:2310.08560] Packer, C. MemGPT: Towards LLMs. 2023.\n\n## After\n9% here."
    )
    assert len(found.sentences) == 1
    assert [(entry.citation.id, entry.citation.title) for entry in found.references] == [("arXiv:2310.08560", "MemGPT: Towards LLMs")]


# --- verdicts ---


def test_a_real_paper_with_right_numbers_gets_the_full_score(literature):
    criterion, checks = grade("MemGPT rises to 92.5% from 32.1% with 128K tokens [arXiv:2310.08560].", literature)
    assert criterion.score == 10
    assert checks == [("found", ""), ("number_supported", "92.5%"), ("number_supported", "32.1%"), ("number_supported", "128K")]


def test_a_number_that_the_paper_does_not_have_is_not_supported(literature):
    criterion, checks = grade("MemGPT rises to 95.0% [arXiv:2310.08560].", literature)
    assert checks[1] == ("number_not_supported", "95.0%")
    assert criterion.score == 5


def test_a_wrong_identifier_is_told_by_the_paper_that_it_is(literature):
    criterion, checks = grade("Ding et al. (2024, arXiv:2310.08560) search for factors.", literature)
    assert checks == [("not_found", "")]
    assert "is another paper: Charles Packer, Sarah Wooders. MemGPT" in criterion.rationale
    assert criterion.score == 0


def test_a_wrong_title_in_the_references_is_another_paper(literature):
    text = (
        "It works [arXiv:2310.08560].\n\n## References\n- [arXiv:2310.08560] Jane Doe. Phase-locked rotary embeddings for paragraphs. 2023."
    )
    assert grade(text, literature)[1][0][0] == "not_found"


def test_with_an_abstract_alone_a_number_that_is_not_there_is_not_checkable(literature):
    criterion, checks = grade("YaRN needs 10x less tokens and works at 128K [arXiv:2309.00071].", literature)
    assert checks == [("found", ""), ("number_supported", "10x"), ("not_checkable", "128K")]
    assert criterion.score == 10


def test_with_an_abstract_alone_another_number_for_the_same_thing_is_not_supported(literature):
    assert grade("YaRN needs 25x less tokens [arXiv:2309.00071].", literature)[1][1] == ("number_not_supported", "25x")


def test_a_sentence_goes_on_about_the_work_cited_before_it(literature):
    _, checks = grade("MemGPT [arXiv:2310.08560] pages memory. It rises to 92.5%. Some say 99.9%.", literature)
    assert checks == [("found", ""), ("number_supported", "92.5%"), ("not_checkable", "99.9%")]


def test_of_several_works_in_a_sentence_one_must_bear_the_number(literature):
    _, checks = grade("They need 10x less tokens [arXiv:2309.00071] and reach 92.5% [arXiv:2310.08560].", literature)
    assert [status for status, _ in checks] == ["found", "found", "number_supported", "number_supported"]


def test_author_and_year_are_resolved_by_the_references_or_the_corpus(literature):
    assert grade("Packer et al. (2023) reach 92.5%.", literature)[1] == [("found", ""), ("number_supported", "92.5%")]
    entry = "[arXiv:2310.08560] Sarah Wooders, Charles Packer. MemGPT: Towards LLMs as Operating Systems. 2023."
    text = f"Wooders et al. (2023) reach 92.5%.\n\n## References\n- {entry}"
    assert ("number_supported", "92.5%") in grade(text, literature)[1]


def test_a_title_with_a_year_is_looked_up_by_the_title(literature):
    assert grade('"MemGPT: Towards LLMs as Operating Systems" (2023) reaches 92.5%.', literature)[1][0] == ("found", "")


def test_what_nobody_can_decide_counts_neither_way(literature):
    criterion, checks = grade("Good [arXiv:2310.08560], and unknown [arXiv:2401.00001], and Nobody et al. (1999).", literature)
    assert Counter(status for status, _ in checks) == {"found": 1, "not_checkable": 2}
    assert criterion.score == 10


def test_a_review_of_which_nothing_can_be_checked_is_unscored_with_the_reason(tmp_path):
    empty = Literature(Sources(corpus=tmp_path / "none.sqlite3", has_network=False))
    criterion, _ = grade("It is so [arXiv:2310.08560].", empty)
    assert (criterion.score, criterion.unscored_reason) == (None, "not_checkable")
    assert "could not be looked up: LITERATURE_NETWORK is off" in criterion.rationale
    assert CitationsGrader(lambda: empty).grade(TASK, "It is so [arXiv:2310.08560].").score is None


def test_a_review_without_a_citation_gets_the_lowest_score(literature):
    assert grade("Everything is fine.", literature)[0].score == 0


def test_the_same_text_gets_the_same_grade_again(literature):
    text = (SAMPLES / "05-context-extension.md").read_text()
    assert grade(text, literature) == grade(text, literature)


HOSTILE = {
    "names": "Van " * 5000,
    "joined names": "Aa and Bb, " * 2000,
    "particles": "van " * 5000,
    "heading": "# " + "a #" * 7000,
    "fences": "```x\n" * 4000,
    "brackets": "[a](http" * 2500,
    "title": '"' + "A b" * 7000,
    "digits": "1" * 20_000,
    "carried": "So it is [arXiv:2310.08560]. " + "It has 7.5%. " * 1500,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_text_made_to_be_slow_is_read_quickly(name, literature):
    began = time.process_time()
    grade(HOSTILE[name], literature)
    assert time.process_time() - began < 3


# --- with a network ---


@pytest.fixture
def api():
    with LiteratureApi() as api:
        api.add("2310.08560", MEMGPT.title, "Charles Packer", 2023, "We introduce MemGPT.")
        api.files["src/2310.08560"] = tar_of(
            {"a.tex": r"\begin{document}\section{Introduction} Hi. \section{Results} We reach 92.5\%.\end{document}"}
        )
        yield api


def test_an_invented_paper_is_caught(api, tmp_path):
    text = "MemGPT reaches 92.5% [arXiv:2310.08560]. Marchetti and Osei (2023, arXiv:2309.18321) report 91.4% at 128K."
    criterion, checks = grade(text, Literature(api.sources(tmp_path)))
    assert checks[:3] == [("found", ""), ("number_supported", "92.5%"), ("not_found", "")] or ("not_found", "") in checks
    assert Counter(checks)["number_not_supported", "91.4%"] == 1
    assert "arXiv:2309.18321 does not exist (arXiv)" in criterion.rationale


def test_an_invented_title_is_caught_when_both_services_do_not_know_it(api, tmp_path):
    literature = Literature(api.sources(tmp_path))
    assert grade('"Phase-Locked Rotary Embeddings Revisited" (2023) says so.', literature)[1] == [("not_found", "")]
    api.instead["api"] = Answer(500, times=9)
    assert grade('"Quite Another Invented Title of Ours" (2023) says so.', literature)[1] == [("not_checkable", "")]


def test_a_service_that_fails_makes_nothing_missing(api, tmp_path):
    api.instead["api"] = Answer(200, b"<html>Rate exceeded.</html>", times=9)
    criterion, checks = grade("MemGPT reaches 92.5% [arXiv:2310.08560].", Literature(api.sources(tmp_path)))
    assert {status for status, _ in checks} == {"not_checkable"}
    assert criterion.score is None


def test_many_works_are_looked_up_by_one_request_and_texts_fetched_only_for_numbers(api, tmp_path):
    for n in range(10):
        api.add(f"2401.{n:05d}", f"A paper of number {n}")
    text = "So it is " + " ".join(f"[arXiv:2401.{n:05d}]" for n in range(10)) + ".\n\nMemGPT reaches 92.5% [arXiv:2310.08560]."
    assert grade(text, Literature(api.sources(tmp_path)))[0].score == 10
    assert (len(api.paths("api")), len(api.asked)) == (1, 2)


# --- the demo's samples, and the command line ---


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    literature = Literature(Sources(corpus=tmp_path_factory.mktemp("samples") / "corpus.sqlite3", has_network=False))
    fill_from_jsonl(literature.corpus, SAMPLES / "papers.jsonl")
    return literature


@pytest.mark.parametrize(
    "name", ["01-long-context-and-memory", "02-where-the-past-is-kept", "03-efficient-attention-list", "04-long-context-narrow"]
)
def test_the_samples_without_planted_errors_have_no_problem(name, samples):
    criterion, checks = grade((SAMPLES / f"{name}.md").read_text(), samples)
    assert criterion.score == 10
    assert Counter(status for status, _ in checks)["not_checkable"] <= 1


def test_the_three_planted_errors_are_found_and_nothing_else(samples):
    criterion, checks = grade((SAMPLES / "05-context-extension.md").read_text(), samples)
    bad = {(e.about["status"], e.line_start) for e in criterion.evidence if e.about["status"] in ("not_found", "number_not_supported")}
    assert bad == {
        ("not_found", 17),
        ("number_not_supported", 17),
        ("number_not_supported", 23),
        ("not_found", 25),
        ("number_not_supported", 25),
    }
    assert ("number_not_supported", "25x") in checks


def test_each_piece_of_evidence_quotes_the_text_and_tells_the_paper(samples):
    text = (SAMPLES / "05-context-extension.md").read_text()
    for evidence in grade(text, samples)[0].evidence:
        assert evidence.text in text
        assert text.splitlines()[evidence.line_start - 1].find(evidence.text.splitlines()[0][:20]) >= 0
    about = grade(text, samples)[0].evidence[0].about
    assert (about["title"], about["url"]) == ("Attention Is All You Need", "https://arxiv.org/abs/1706.03762")


FIFTH = str(SAMPLES / "05-context-extension.md")


@pytest.fixture
def command(monkeypatch, capsys, samples):
    """Grades the sample with planted errors by the command line, offline: (exit code, the object, stderr)."""
    monkeypatch.setenv("DATA_DIR", str(samples.corpus.path.parent))
    monkeypatch.setenv("LITERATURE_NETWORK", "off")
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def command(*more):
        code = main(["grade", "literature_review", FIFTH, "--json", *more])
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err

    return command


def test_the_command_line_grades_the_citations_of_a_review(command):
    code, told, err = command("--grader", "citations")
    assert (code, err, [row["key"] for row in told["criteria"]]) == (0, "", ["citations"])
    assert 0 < told["criteria"][0]["score"] < 10
    assert (told["passed"], told["failure_category"], told["grader"]["name"]) == (None, "wrong_citations", "citations")


def test_without_a_model_the_citations_are_graded_and_the_rest_is_told(command):
    code, told, err = command()
    assert (code, told["grader"]["name"]) == (3, "citations")
    assert "set ANTHROPIC_API_KEY" in err
    assert "graded by citations alone" in err


def test_with_a_model_the_judge_and_the_citations_make_one_grade(command, monkeypatch):
    with MessagesApi(otherwise=lambda body: answer(shipped("literature_review"), 6.0)) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        code, told, _ = command()
    scores = {row["key"]: row["score"] for row in told["criteria"]}
    assert (code, list(scores)) == (0, ["coverage", "seminal_works", "synthesis", "citations"])
    assert scores["synthesis"] == 6.0
    assert told["score"] == pytest.approx(0.8 * 6.0 + 0.2 * scores["citations"], abs=0.001)
    assert (told["passed"], told["grader"]["name"]) == (False, "judge")
