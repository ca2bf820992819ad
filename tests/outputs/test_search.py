"""Full-text search: words, phrases, beginnings; in contents and external ids; and no input is an error."""

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reviewapp.models import Output, OutputBody
from reviewapp.outputs import search
from tests.make import make_output, make_task
from tests.outputs.listing import names, page

pytestmark = pytest.mark.django_db
TEXTS = {
    "memory": "The Neural Memory writes when surprise is high.",
    "code": "class SurpriseGate(nn.Module):\n    surprise_gate = sigmoid(retrieved - x)",
    "review": "LongLoRA extends context to 100k tokens; Infini-attention to 1M. Naïve café.",
    "empty": "",
}


@pytest.fixture(params=["indexed", "not indexed yet"])
def texts(request):
    task = make_task()
    for name, content in TEXTS.items():
        make_output(task, content, external_id=f"{name}/dm-123")
    if request.param == "indexed":
        search.index_new()


def found(text):
    return {name.split("/")[0] for name in search.matching(Output.objects.all(), text).values_list("external_id", flat=True)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("surprise", {"memory", "code"}),
        ("SURPRISE", {"memory", "code"}),
        ("surpris", set()),
        ("surpris*", {"memory", "code"}),
        ("neural surprise", {"memory"}),
        ("neural sigmoid", set()),
        ('"neural memory"', {"memory"}),
        ('"memory neural"', set()),
        ('"neural mem*"', {"memory"}),
        ("nn.Module", {"code"}),
        ("Module", {"code"}),
        ("surprise_gate", {"code"}),
        ("gate", {"code"}),
        ("100k", {"review"}),
        ("infini-attention", {"review"}),
        ("naïve CAFÉ", {"review"}),
        ("NEAR", set()),
        ("surprise NOT sigmoid", set()),
        ("content:surprise", set()),
        ("dm-123", {"memory", "code", "review", "empty"}),
        ("empty", {"empty"}),
        ("empty/dm", {"empty"}),
    ],
)
def test_a_search_finds_words_phrases_and_beginnings(texts, text, expected):
    assert found(text) == expected


@pytest.mark.parametrize("text", ["", " ", '"', '""', "*", "-", "( )", "' OR 1=1 --", '"*"', "^ +", "\\", "%"])
def test_text_without_a_word_keeps_everything_or_is_only_words(texts, text):
    kept = found(text)
    assert kept == set(TEXTS) if not search.terms_of(text) else kept == set()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40) | st.text(alphabet="\"*(){}^:-+ aNEARORT\\'%_.", max_size=30))
def test_no_text_is_an_error(texts, text):
    found(text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from("task model variant run grader passed score_of score_min label reviewer ids q sort after flagged".split()),
            st.text(max_size=20)
            | st.sampled_from(["0", "-1", "1e309", "9" * 25, "-judge", "-date", "1~2", "~1", "me", "inf~1", "9999-12-31T00:00:00+00:00~1"]),
        ),
        max_size=4,
    )
)
def test_no_query_string_breaks_the_page(texts, as_admin, pairs):
    assert as_admin.get("/outputs/", pairs and {name: value for name, value in pairs}).status_code in (200, 422)


def test_a_row_shows_where_the_search_is_found_and_escapes_the_rest(as_admin):
    make_output(content="x" * 100 + " before <script>alert(1)</script> needle & after")
    text = page(as_admin, "q=needle")
    assert "<mark>needle</mark> &amp; after" in text
    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text


def test_a_text_without_words_is_answered_with_a_hint_and_the_whole_list(as_admin):
    make_output(external_id="one")
    response = as_admin.get("/outputs/?q=%22")
    assert response.status_code == 200
    assert "There is no word to search for" in response.content.decode()
    assert names(as_admin, "q=%22") == ["one"]


def test_search_can_be_sorted_and_filtered(texts, as_admin):
    Output.objects.filter(external_id__startswith="code").update(judge_score=3.0)
    Output.objects.filter(external_id__startswith="memory").update(judge_score=5.0)
    assert names(as_admin, "q=surprise&sort=-judge") == ["memory/dm-123", "code/dm-123"]
    assert names(as_admin, "q=surprise&sort=-judge&score_of=judge&score_max=4") == ["code/dm-123"]


def test_what_is_too_long_to_index_is_searched_in_its_beginning(as_admin):
    make_output(content="begin " + "filler " * 40_000 + "ending", external_id="long")
    search.index_new()
    assert names(as_admin, "q=begin") == ["long"]
    assert names(as_admin, "q=ending") == []


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL indexes with the insert")
class TestSQLiteIndex:
    def test_it_takes_in_what_is_new_once(self, texts):
        search.index_new()
        assert search.index_new() == 0
        assert found("surprise") == {"memory", "code"}

    def test_the_page_says_when_many_outputs_cannot_be_found_yet(self, as_admin, monkeypatch):
        monkeypatch.setattr(search, "TAIL", 1)
        for _ in range(3):
            make_output(content="needle")
        text = page(as_admin, "q=needle")
        assert "3 new outputs are still being prepared for search" in text
        assert "Nothing matches" in text
        search.index_new()
        assert len(names(as_admin, "q=needle")) == 3

    def test_raw_inserts_are_indexed_too(self):
        output = make_output(content="first")
        search.index_new()
        other = make_output(content="x", external_id="raw")
        OutputBody.objects.filter(pk=other.pk).delete()
        with connection.cursor() as cursor:
            row = [other.pk, "needle", "", "[]"]
            cursor.execute("INSERT INTO reviewapp_outputbody (output_id, content, reference, transcript) VALUES (%s, %s, %s, %s)", row)
        assert search.index_new() == 1
        assert found("needle") == {"raw"}
        assert found("first") == {output.external_id}
