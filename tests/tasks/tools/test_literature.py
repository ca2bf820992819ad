"""The literature tools against servers that answer in the real formats, and that fail in the real ways."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from itertools import pairwise

import pytest

from tasks.tools.config import read_sources
from tasks.tools.errors import ServiceError, ToolError
from tasks.tools.literature import Literature
from tasks.tools.papers import Paper
from tests.literature_api import Answer, LiteratureApi, pdf_of, tar_of
from tests.tasks.tools.test_extract import FILES

TITLE = "MemGPT: Towards LLMs as Operating Systems"


@pytest.fixture
def api():
    with LiteratureApi() as api:
        api.add("2310.08560", TITLE, "Charles Packer, Sarah Wooders", 2023, "We introduce virtual context management & <more>.")
        api.add("2309.12307", "LongLoRA: Efficient Fine-tuning", "Yukang Chen", 2023, "Long context with shifted sparse attention.")
        api.add("10.1162/neco.1997.9.8.1735", "Long Short-Term Memory", "Sepp Hochreiter", 1997)
        yield api


@pytest.fixture
def literature(api, tmp_path):
    return Literature(api.sources(tmp_path))


def search(literature: Literature, query: str) -> str:
    return literature.tools()[0].call({"query": query})


def read(literature: Literature, part: str, paper_id: str) -> str:
    tool = next(tool for tool in literature.tools() if tool.name == f"get_paper_{part}")
    return tool.call({"paper_id": paper_id})


# --- search ---


def test_a_search_shows_papers_of_both_services_once_each(literature):
    found = search(literature, "memgpt operating systems")
    assert found.count("arXiv:2310.08560") == 1
    assert "Charles Packer, Sarah Wooders. MemGPT: Towards LLMs as Operating Systems. 2023." in found
    assert "virtual context management & <more>" in found
    assert "[doi:10.1162/neco.1997.9.8.1735]" in search(literature, "long memory")


def test_a_query_without_a_paper_for_all_words_is_tried_with_any_of_them(api, literature):
    assert "arXiv:2309.12307" in search(literature, "sparse zebra")
    assert [("AND" in path, "OR" in path) for path in api.paths("api")] == [(True, False), (False, True)]


def test_what_a_search_has_found_is_found_again_without_network(api, literature, tmp_path):
    search(literature, "memgpt")
    offline = Literature(api.sources(tmp_path, has_network=False))
    found = search(offline, "virtual context")
    assert "arXiv:2310.08560" in found
    assert "arXiv was not asked: LITERATURE_NETWORK is off" in found


def test_a_service_that_is_down_costs_only_its_own_results(api, literature):
    api.instead["graph"] = Answer(503, times=99)
    found = search(literature, "memgpt")
    assert "arXiv:2310.08560" in found
    assert "Semantic Scholar gave no answer after 3 tries: status 503" in found


def test_with_nobody_to_ask_and_an_empty_corpus_the_tool_fails_with_the_reasons(tmp_path):
    sources = LiteratureApi().sources(tmp_path, arxiv_api="http://127.0.0.1:9/api", semantic_scholar="http://127.0.0.1:9")
    literature = Literature(sources)
    with pytest.raises(ToolError, match=r"0 papers.*arXiv gave no answer after 3 tries: connection refused.*Semantic Scholar"):
        search(literature, "memory")


def test_a_machine_without_network_says_so_at_once_the_second_time(tmp_path):
    literature = Literature(LiteratureApi().sources(tmp_path, arxiv_api="http://127.0.0.1:9/api"))
    with pytest.raises(ServiceError):
        literature.arxiv.search("memory")
    with pytest.raises(ServiceError, match="could not be reached a moment ago"):
        literature.arxiv.search("memory")


# --- the services' ways to fail ---


def test_a_busy_service_is_asked_again_when_it_said(api, literature):
    api.instead["api"] = Answer(503, headers={"retry-after": "1"})
    began = time.monotonic()
    assert literature.arxiv.search("memgpt")[0].title == TITLE
    assert time.monotonic() - began >= 1


def test_a_retry_date_is_understood_and_a_far_one_is_not_waited_for(api, literature):
    api.instead["graph"] = Answer(429, headers={"retry-after": formatdate(time.time() + 3600, usegmt=True)}, times=9)
    with pytest.raises(ServiceError, match="after 1 try: status 429"):
        literature.semantic_scholar.search("memgpt")


def test_a_service_that_does_not_answer_in_time_is_given_up(api, tmp_path):
    api.instead["api"] = Answer(wait_s=1.0, times=9)
    literature = Literature(api.sources(tmp_path, timeout_s=0.2, attempts=2))
    with pytest.raises(ServiceError, match=r"after 2 tries: no answer within 0.2 s"):
        literature.arxiv.search("memgpt")


@pytest.mark.parametrize("body", [b"<html><body>Rate exceeded.</body></html>", b"", b"\x00\xff"])
def test_an_error_page_of_arxiv_is_no_empty_answer(api, literature, body):
    api.instead["api"] = Answer(200, body)
    with pytest.raises(ServiceError, match="no Atom feed"):
        literature.arxiv.look_up(["arXiv:2310.08560"])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(200, b"<html>Sorry</html>"), "no JSON"),
        (Answer(403, b'{"message": "Forbidden"}'), "status 403: Forbidden"),
        (Answer(400, b'{"error": "Unrecognized fields: [x]"}'), "status 400: Unrecognized"),
    ],
)
def test_an_error_of_semantic_scholar_is_no_empty_answer(api, literature, answer, why):
    api.instead["graph"] = answer
    with pytest.raises(ServiceError, match=why):
        literature.semantic_scholar.look_up("doi:10.1/x")


def test_arxivs_own_error_entry_is_not_taken_for_a_paper(api, literature):
    entry = (
        "<entry><id>http://arxiv.org/api/errors#bad</id><title>Error</title><summary>{}</summary><updated>2026-01-01T00:00:00Z</updated>"
    )
    feed = '<feed xmlns="http://www.w3.org/2005/Atom">' + entry + "<published>2026-01-01T00:00:00Z</published></entry></feed>"
    api.instead["api"] = Answer(200, feed.format("incorrect id format for 2310.99999x").encode())
    assert literature.arxiv.look_up(["arXiv:2310.99999"]) == {}
    api.instead["api"] = Answer(200, feed.format("malformed query").encode())
    with pytest.raises(ServiceError, match="refused the query: malformed query"):
        literature.arxiv.search("ti:(")


def test_a_doi_that_only_the_registry_knows_exists(api, literature):
    api.dois.add("10.1000/book")
    assert literature.look_up("doi:10.1000/book").where == "doi.org"
    assert literature.look_up("doi:10.1000/invented").is_missing
    api.instead["api"] = Answer(200, b"<html>")
    asked = literature.look_up("doi:10.1000/another")
    assert (asked.paper, asked.is_missing, "no handle" in asked.where) == (None, False, True)


def test_requests_to_arxiv_keep_their_pause_whoever_makes_them(api, tmp_path):
    clients = [Literature(api.sources(tmp_path, arxiv_pause_s=0.3)).arxiv for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda client: client.search("memgpt"), clients))
    times = [at for at, _ in api.asked]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.29


# --- a paper's parts ---


def test_introduction_and_results_come_from_the_latex_source_and_are_fetched_once(api, literature):
    api.files["src/2310.08560"] = tar_of(FILES)
    assert "stops at 4,096 tokens" in read(literature, "introduction", "arXiv:2310.08560v2")
    results = read(literature, "results", "https://arxiv.org/abs/2310.08560")
    assert "92.5%" in results
    assert "from LaTeX source from arXiv" in results
    assert len(api.paths("src")) == 1


def test_without_source_the_html_is_read_and_else_the_pdf(api, literature):
    api.files["src/2310.08560"] = b"%PDF-1.4 only"
    api.files["html/2310.08560"] = b"<h2>1 Introduction</h2><p>From HTML.</p><h2>2 Results</h2><p>9.5 points.</p>"
    api.files["pdf/2309.12307"] = pdf_of("1 Introduction\nFrom a PDF.\n2 Results\n42.0 points.")
    assert "From HTML." in read(literature, "introduction", "2310.08560")
    assert "42.0 points" in read(literature, "results", "2309.12307")


def test_a_paper_that_can_not_be_read_says_which_forms_were_tried(api, literature):
    api.files["src/2310.08560"] = b"\x1f\x8bbroken"
    with pytest.raises(ToolError, match=r"LaTeX source: the source is damaged.*no HTML; no PDF"):
        read(literature, "results", "arXiv:2310.08560")


def test_a_paper_that_does_not_exist_is_not_asked_for_twice(api, literature):
    for _ in range(2):
        with pytest.raises(ToolError, match=r"arXiv has no paper arXiv:2310\.99999"):
            read(literature, "results", "arXiv:2310.99999")
    assert len(api.asked) == 1


def test_a_paper_that_is_not_on_arxiv_says_that_texts_come_from_there_only(literature):
    with pytest.raises(ToolError, match="not on arXiv"):
        read(literature, "results", "doi:10.1162/neco.1997.9.8.1735")


def test_offline_a_paper_without_text_says_what_is_missing(tmp_path, api):
    literature = Literature(api.sources(tmp_path, has_network=False))
    literature.corpus.add(Paper("arXiv:2310.08560", TITLE))
    with pytest.raises(ToolError, match="not in the local corpus, and LITERATURE_NETWORK is off"):
        read(literature, "results", "arXiv:2310.08560")
    assert api.asked == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "takes paper_id"),
        ({"paper_id": 7}, "must be a text"),
        ({"paper_id": "LongLoRA"}, "web_search gives them"),
        ({"id": "x"}, "got id"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(literature, given, why):
    with pytest.raises(ToolError, match=why):
        literature.tools()[2].call(given)


def test_the_environment_says_where_papers_are_looked_up(tmp_path):
    sources = read_sources({"DATA_DIR": str(tmp_path), "LITERATURE_NETWORK": "off", "ARXIV_URL": "http://mirror/"})
    assert (sources.corpus, sources.has_network, sources.arxiv_files) == (tmp_path / "corpus.sqlite3", False, "http://mirror")
    with pytest.raises(ValueError, match="LITERATURE_NETWORK is 'maybe', allowed: on, off"):
        read_sources({"LITERATURE_NETWORK": "maybe"})
    with pytest.raises(ValueError, match="ARXIV_PAUSE_S is 'no', must be seconds"):
        read_sources({"ARXIV_PAUSE_S": "no"})
