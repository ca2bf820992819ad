"""The outputs page: what a row shows, what it hides from who works blind, and what it costs."""

import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext

from reviewapp.models import Output
from tests.conftest import signed_in
from tests.make import at_once, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.outputs.listing import names, page

pytestmark = pytest.mark.django_db
SCORES = dict(zip(("viability", "upside", "success", "novelty"), (6.0, 8.0, 4.0, 7.0), strict=True))


@at_once
def make_judged(n=1, prefix="o", **fields):
    task = make_task()
    outputs = [make_output(task, external_id=f"{prefix}{i}", **fields) for i in range(n)]
    for output in outputs:
        make_judge_grade(output, SCORES, failure_category="too_vague")
    return outputs


def test_a_row_shows_scores_verdict_failure_and_links_to_the_review(as_admin):
    [output] = make_judged(model="sonnet", is_sample=True)
    make_human_grade(output, make_user("ben"), {**SCORES, "viability": 10.0})
    text = page(as_admin)
    for shown in (f'href="/outputs/{output.pk}/"', ">6.05<", ">7.25<", ">1.2<", "sonnet", ">pass<", "by people", "too_vague", ">sample<"):
        assert shown in text, shown


def test_a_stranger_is_sent_to_sign_in(client):
    assert client.get("/outputs/").status_code == 302


def test_the_page_is_only_read(as_admin):
    assert as_admin.post("/outputs/").status_code == 405


@pytest.mark.parametrize(("query", "limit"), [("", 13), ("task=ideas&sort=-judge", 13), ("q=text&task=ideas&sort=-judge", 17)])
@pytest.mark.parametrize("role", ["admin", "reviewer"])
def test_the_number_of_queries_is_bounded_and_does_not_grow_with_the_rows(query, limit, role):
    client, counts = signed_in(make_user("zoe", role=role)), []
    for n in (5, 45):
        make_judged(n, prefix=f"{n}-")
        cache.clear()
        with CaptureQueriesContext(connection) as queries:
            page(client, query)
        counts.append(len(queries))
    assert counts[0] == counts[1] <= limit, [query["sql"][:120] for query in queries]


class TestBlindWork:
    def hidden_bytes(self):
        return ("6.05", "sonnet", ">fail<", "too_vague", "raters disagree", 'class="judge"')

    def test_a_reviewer_sees_nothing_of_what_was_said_of_an_output_not_graded_yet(self, as_reviewer):
        make_judged(model="sonnet-5")
        text = page(as_reviewer)
        rows = text[text.index("<tbody>") :]
        assert "hidden until you grade it" in rows
        for told in self.hidden_bytes():
            assert told not in rows, told

    def test_what_the_reviewer_has_graded_is_shown(self, as_reviewer, reviewer):
        mine, _ = make_judged(2, model="sonnet-5")
        make_human_grade(mine, reviewer, SCORES)
        text = page(as_reviewer)
        assert text.count("hidden until you grade it") == 1
        assert text.count(">6.05<") == 2  # the judge's and the reviewer's, of the same row

    @pytest.mark.parametrize(
        "query", ["judge=fail", "passed=fail", "score_max=9", "score_of=judge&score_min=9", "disagreement_min=0", "failure=too_vague"]
    )
    def test_no_filter_tells_it_either(self, as_reviewer, query):
        make_judged(2)
        make_output(external_id="unjudged")
        assert set(names(as_reviewer, query)) == {"o0", "o1", "unjudged"}
        assert "left out while the judge is hidden" in page(as_reviewer, query)

    @pytest.mark.parametrize("sort", ["-judge", "human", "disagreement"])
    def test_no_order_tells_it_either(self, as_reviewer, sort):
        first, _ = make_judged(2)
        Output.objects.filter(pk=first.pk).update(judge_score=9, human_score=1, disagreement=1)
        assert names(as_reviewer, f"sort={sort}") == ["o1", "o0"]
        assert names(as_reviewer, f"sort={sort}&after=6.05~{first.pk}") == ["o1", "o0"]

    def test_facets_do_not_count_verdicts(self, as_reviewer):
        make_judged(2)
        make_output(label_passed=True, label_source="judge", failure_category="other")
        text = page(as_reviewer)
        assert "Verdict:" not in text
        assert "too_vague" not in text

    def test_an_adjudicator_can_turn_it_off_and_it_stays_off(self):
        make_judged()
        client = signed_in(make_user("judy", role="adjudicator"))
        assert ">6.05<" not in page(client)
        assert client.post("/outputs/hide-judge", {"hide": "0", "query": "model=model-a"}).url == "/outputs/?model=model-a"
        assert ">6.05<" in page(client)
        client.post("/outputs/hide-judge", {"hide": "1"})
        assert ">6.05<" not in page(client)

    def test_who_has_seen_the_judges_in_the_list_grades_no_longer_blind(self):
        (seen,) = make_judged()
        client = signed_in(make_user("judy", role="adjudicator"))
        client.post("/outputs/hide-judge", {"hide": "0"})
        client.post("/outputs/hide-judge", {"hide": "1"})
        later = make_output()
        assert "Assisted: judge visible" in client.get(f"/outputs/{seen.pk}/").content.decode()
        assert "Blind: judge hidden" in client.get(f"/outputs/{later.pk}/").content.decode()

    def test_a_reviewer_cannot_turn_it_off(self, as_reviewer):
        assert as_reviewer.post("/outputs/hide-judge", {"hide": "0"}).status_code == 403

    def test_a_viewer_grades_nothing_and_sees_all(self, as_viewer):
        make_judged()
        assert ">6.05<" in page(as_viewer)

    def test_all_that_the_reviewer_graded_can_be_sorted_by_the_judge(self, as_reviewer, reviewer):
        first, second = make_judged(2)
        for output in (first, second):
            make_human_grade(output, reviewer, SCORES)
        Output.objects.filter(pk=first.pk).update(judge_score=9)
        assert names(as_reviewer, "reviewer=me&sort=-judge") == ["o0", "o1"]

    def test_hiding_is_a_post(self, as_admin):
        assert as_admin.get("/outputs/hide-judge").status_code == 405


def test_an_empty_workspace_says_what_to_do(as_admin, as_viewer):
    assert "Nothing imported yet" in page(as_admin)
    assert "Import a file" in page(as_admin)
    assert "Import a file" not in page(as_viewer)


def test_when_nothing_matches_the_filters_can_be_cleared(as_admin):
    make_output()
    text = page(as_admin, "model=nobody")
    assert "Nothing matches" in text
    assert "Clear filters" in text


def test_htmx_gets_the_list_and_the_address_to_show(as_admin):
    make_output()
    response = as_admin.get("/outputs/?model=model-a&q=&label=", headers={"HX-Request": "true", "HX-Target": "browse"})
    text = response.content.decode()
    assert text.lstrip().startswith('<div id="browse"')
    assert response["HX-Push-Url"] == "/outputs/?model=model-a"


def test_going_back_in_the_browser_gets_the_whole_page(as_admin):
    make_output()
    headers = {"HX-Request": "true", "HX-Target": "browse", "HX-History-Restore-Request": "true"}
    assert "<html" in as_admin.get("/outputs/", headers=headers).content.decode()


def test_counts_above_the_limit_are_of_the_newest(as_admin, monkeypatch):
    monkeypatch.setattr("reviewapp.outputs.facets.MANY", 3)
    monkeypatch.setattr("reviewapp.outputs.facets.SAMPLE", 2)
    make_task("other")
    for i in range(5):
        make_output(make_task(), model=f"m{i % 2}")
    assert "Counts of the newest" in page(as_admin)
    assert "more than 3 matching" in page(as_admin, "sample=no")
