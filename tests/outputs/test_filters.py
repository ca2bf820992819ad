"""Each filter of the outputs page keeps what it says, and a value that can't be read is named and left out."""

import pytest
from django.db import transaction
from django.http import QueryDict

from reviewapp.models import Flag, Run
from reviewapp.outputs.filters import Filters, parse, parse_query
from reviewapp.outputs.queries import filtered
from tests.make import make_grader, make_human_grade, make_judge_grade, make_output, make_task, make_user
from tests.outputs.listing import names, page

pytestmark = pytest.mark.django_db
GOOD, BAD = (
    dict.fromkeys(("viability", "upside", "success", "novelty"), 9.0),
    dict.fromkeys(("viability", "upside", "success", "novelty"), 2.0),
)


def test_an_older_version_is_not_listed(as_admin):
    make_output(make_task(), external_id="twice", is_latest=False, content="old")
    make_output(external_id="twice", version=2, content="new")
    assert names(as_admin) == ["twice"]


@pytest.fixture(scope="module")
def workspace(django_db_setup, django_db_blocker):
    """Three ideas (judged good, bad, and by people only) and a plain output of another task: made once, as nothing here changes it."""
    with django_db_blocker.unblock(), transaction.atomic():
        yield make_workspace()
        transaction.set_rollback(True)


def make_workspace() -> dict[str, str | int]:
    ideas, other = make_task("ideas"), make_task("reviews")
    ana, ben = make_user("ana-r"), make_user("ben-r")
    run = Run.objects.create(kind="import", title="March")
    good = make_output(ideas, external_id="good", model="m1", run=run)
    bad = make_output(ideas, external_id="bad", model="m2", is_sample=True)
    people = make_output(ideas, external_id="people", model="m2")
    make_output(other, external_id="plain", model="m1")
    make_judge_grade(good, GOOD)
    make_judge_grade(bad, BAD, make_grader("strict"), failure_category="too_vague")
    make_human_grade(bad, ana, GOOD)
    make_human_grade(people, ana, GOOD)
    make_human_grade(people, ben, BAD)
    Flag.objects.create(output=people, reviewer=ana)
    return {"run": run.pk, "ids": f"{good.pk}.{people.pk}"}


CASES = [
    ("", {"good", "bad", "people", "plain"}),
    ("task=ideas", {"good", "bad", "people"}),
    ("task=ideas&task=reviews", {"good", "bad", "people", "plain"}),
    ("model=m1", {"good", "plain"}),
    ("task=ideas&model=m1", {"good"}),
    ("variant=default", {"good", "bad", "people", "plain"}),
    ("run={run}", {"good"}),
    ("grader=judge", {"good"}),
    ("grader=strict", {"bad"}),
    ("grader=human", {"bad", "people"}),
    ("passed=pass", {"good", "bad"}),
    ("passed=undecided", {"people"}),
    ("judge=fail", {"bad"}),
    ("judge=pass", {"good"}),
    ("score_min=8", {"good", "bad"}),
    ("score_of=judge&score_max=3", {"bad"}),
    ("score_of=human&score_min=5&score_max=6", {"people"}),
    ("label=none", {"good", "plain"}),
    ("label=labelled", {"bad", "people"}),
    ("label=conflict", {"people"}),
    ("reviewer=ana-r", {"bad", "people"}),
    ("reviewer=ben-r", {"people"}),
    ("disagreement_min=7", {"bad"}),
    ("failure=too_vague", {"bad"}),
    ("sample=yes", {"bad"}),
    ("sample=no", {"good", "people", "plain"}),
    ("flagged=yes", {"people"}),
    ("flagged=no", {"good", "bad", "plain"}),
    ("ids={ids}", {"good", "people"}),
]


@pytest.mark.parametrize(("query", "kept"), CASES)
def test_a_filter_keeps_what_it_says(workspace, as_admin, query, kept):
    assert set(names(as_admin, query.format(**workspace))) == kept


@pytest.mark.parametrize(("query", "kept"), CASES)
def test_a_query_string_gives_the_same_outputs_outside_of_the_page(workspace, query, kept):
    filters, problems = parse_query(query.format(**workspace))
    assert not problems
    assert set(filtered(filters).values_list("external_id", flat=True)) == kept


@pytest.mark.parametrize(("query", "kept"), [case for case in CASES if case[0]])
def test_many_rows_are_filtered_by_another_plan_with_the_same_result(workspace, as_admin, monkeypatch, query, kept):
    monkeypatch.setattr("reviewapp.outputs.queries.MANY", 0)
    assert set(names(as_admin, query.format(**workspace))) == kept


def test_me_is_who_asks(workspace, as_reviewer, reviewer):
    mine = make_output(external_id="mine")
    make_human_grade(mine, reviewer, GOOD)
    assert names(as_reviewer, "reviewer=me") == ["mine"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("task=nope", "task is &#x27;nope&#x27;, allowed: ideas, reviews"),
        ("label=maybe", "label is &#x27;maybe&#x27;, allowed: none, labelled, conflict, adjudicated"),
        ("score_min=high", "score_min is &#x27;high&#x27;, allowed: a number"),
        ("score_min=nan", "score_min is &#x27;nan&#x27;, allowed: a number"),
        ("disagreement_min=1e400", "disagreement_min is &#x27;1e400&#x27;"),
        ("score_min=8&score_max=2", "score_min is &#x27;8&#x27;, allowed: at most score_max, which is 2"),
        ("run=99999999999999999999", "run is &#x27;99999999999999999999&#x27;, allowed: a whole number"),
        ("run=4711", "run is &#x27;4711&#x27;, allowed: the id of a run"),
        ("ids=1.x", "ids of outputs with dots between them"),
        ("modle=m1", "&#x27;modle&#x27; is no filter"),
        ("sort=price", "sort is &#x27;price&#x27;, allowed: -id, id, -judge"),
        ("after=here", "no place in a list"),
        ("q=%00", "text without null characters"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_and_the_rest_holds(workspace, as_admin, query, told):
    response = as_admin.get(f"/outputs/?model=m1&{query}")
    assert response.status_code == 422
    assert told in response.content.decode()
    assert 'href="/outputs/?" hx-get' in response.content.decode()  # the chip of model=m1, to take it off
    assert set(names(as_admin, f"model=m1&{query}")) == {"good", "plain"}


def test_every_filter_in_force_can_be_taken_off_by_itself(workspace, as_admin):
    text = page(as_admin, "task=ideas&model=m2&score_of=judge&score_min=1&score_max=9")
    assert "Judge score: 1 to 9" in text
    assert 'href="/outputs/?task=ideas&amp;model=m2"' in text
    assert 'href="/outputs/?model=m2&amp;score_of=judge&amp;score_min=1&amp;score_max=9"' in text


def test_facets_count_what_a_further_filter_would_keep(workspace, as_admin):
    text = page(as_admin, "task=ideas")
    assert '>m2</a> <span class="count">2</span>' in text
    assert '>Labelled by people</a> <span class="count">2</span>' in text


def test_filters_come_back_from_their_query_string_as_they_were():
    filters = Filters(model="a&b=c", score_of="human", score_min=-1e-7, score_max=6.05, ids=(3, 1), q='"x y" z*', sample="no")
    assert parse(QueryDict(filters.query))[0] == filters


def test_empty_fields_of_the_form_are_no_filters():
    filters, problems = parse_query("q=&task=&model=&score_min=&score_of=")
    assert not filters
    assert not problems
