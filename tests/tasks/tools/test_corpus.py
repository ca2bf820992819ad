"""The local corpus: search by words, papers known under several identifiers, nothing lost by adding again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.tools.corpus import Corpus
from tasks.tools.papers import Paper, canonical, paper_of, same_title


@pytest.fixture
def corpus(tmp_path):
    corpus = Corpus(tmp_path / "deep" / "corpus.sqlite3")
    corpus.add_all(
        [
            Paper(
                "arXiv:2309.12307",
                "LongLoRA: Efficient Fine-tuning of Long-Context LLMs",
                ("Yukang Chen", "Shengju Qian"),
                2023,
                "Shifted sparse.",
            ),
            Paper("arXiv:2310.08560", "MemGPT: Towards LLMs as Operating Systems", ("Charles Packer",), 2023, facts=("92.5% with GPT-4",)),
            Paper("arXiv:1706.03762", "Attention Is All You Need", ("Ashish Vaswani",), 2017, full_text="Long context is not the topic."),
        ]
    )
    return corpus


def test_the_best_fit_comes_first_and_a_title_weighs_most(corpus):
    assert corpus.search("long context fine tuning")[0].id == "arXiv:2309.12307"


def test_search_takes_any_text_as_words(corpus):
    assert corpus.search('"operating" AND (systems* NEAR: -x') != []
    assert corpus.search("of the and") == []
    assert corpus.search("' OR 1=1 --") == []


def test_a_corpus_that_is_not_there_is_empty_and_is_not_made_by_reading(tmp_path):
    corpus = Corpus(tmp_path / "none.sqlite3")
    assert (corpus.search("attention"), corpus.get("arXiv:1706.03762"), corpus.count()) == ([], None, 0)
    assert not corpus.exists


def test_adding_the_same_again_changes_nothing(corpus):
    paper = corpus.get("arXiv:2310.08560")
    assert corpus.add(paper) is False
    assert corpus.count() == 3


def test_adding_more_of_a_paper_keeps_what_was_there(corpus):
    assert corpus.add(Paper("arXiv:2310.08560", "MemGPT", abstract="An operating system.", aliases=("doi:10.1/memgpt",)))
    paper = corpus.get("doi:10.1/memgpt")
    assert (paper.id, paper.facts, paper.abstract) == ("arXiv:2310.08560", ("92.5% with GPT-4",), "An operating system.")
    assert [p.id for p in corpus.search("operating system")] == ["arXiv:2310.08560"]
    assert paper.title.startswith("MemGPT: Towards")


def test_the_index_forgets_words_that_are_gone(corpus):
    corpus.add(Paper("arXiv:1706.03762", full_text="A longer text about recurrence, which replaces the shorter one."))
    assert corpus.search("topic") == []


def test_papers_are_found_by_title_and_by_author_and_year(corpus):
    assert corpus.by_title("Attention is all you need!", 2018).id == "arXiv:1706.03762"
    assert corpus.by_title("Attention is all you need", 2023) is None
    assert [p.id for p in corpus.by_author(["Vaswani"], 2017)] == ["arXiv:1706.03762"]
    assert corpus.by_author(["Qian"], 2023) == []  # not the first author
    assert corpus.by_author(["Chen", "Qian"], 2023) != []


def test_many_writers_at_once_lose_nothing(corpus):
    papers = [Paper(f"arXiv:2001.{n:05d}", f"Paper number {n}", year=2020) for n in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(corpus.add, papers)) == 60
    assert corpus.count() == 63


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2309.12307v2", "arXiv:2309.12307"),
        ("arXiv: 2309.12307", "arXiv:2309.12307"),
        ("https://arxiv.org/pdf/2309.12307v1.pdf", "arXiv:2309.12307"),
        ("http://arxiv.org/abs/cs/0112017", "arXiv:cs/0112017"),
        ("https://doi.org/10.1162/neco.1997.9.8.1735", "doi:10.1162/neco.1997.9.8.1735"),
        ("10.48550/arXiv.1706.03762", "arXiv:1706.03762"),
        ("s2:204E3073870FAE3D05BCBC2F6A8E263D9B72E776", "s2:204e3073870fae3d05bcbc2f6a8e263d9b72e776"),
        ("not an identifier", None),
        ("2309.123", None),
    ],
)
def test_an_identifier_has_one_form(text, expected):
    assert canonical(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Attention Is All You Need", "Attention is all you need.", True),
        ("LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", "LongRoPE", False),
        ("Lost in the Middle: How Language Models Use Long Contexts", "Lost in the Middle", True),
        ("Deep Learning", "Deep Reinforcement Learning", False),
        ("", "", False),
    ],
)
def test_titles_are_compared_by_their_words(one, other, same):
    assert same_title(one, other) is same


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"id": "x"}, "id is 'x'"),
        ({"id": "2309.12307", "year": "2023"}, "year is '2023'"),
        ({"id": "2309.12307", "doi": 1}, "unknown field 'doi'"),
    ],
)
def test_a_wrong_record_says_what_is_wrong(data, why):
    with pytest.raises(ValueError, match=why):
        paper_of(data)
