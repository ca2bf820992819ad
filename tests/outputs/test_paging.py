"""Sorting and paging by key: each row exactly once, in order, whatever the ties, the gaps and what is added meanwhile."""

import random
from datetime import UTC, datetime, timedelta
from itertools import cycle

import pytest

from reviewapp.models import Output
from tests.make import make_output, make_task
from tests.outputs.listing import names, next_query, page, walk

pytestmark = pytest.mark.django_db
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def task(db):
    return make_task()


def make_many(task, n=130):
    """Values with many ties, and gaps in every column that may have them."""
    rng = random.Random(7)
    variant = task.variants.get()
    rows = []
    for number in range(n):
        judge, human = rng.choice([None, 0.0, 2.5, 2.5, 6.05, 10.0]), rng.choice([None, 1 / 3, 7.0])
        fields = {"external_id": f"o{number}", "content_hash": f"{number:064d}", "model": "model-a", "length": rng.choice([1, 5, 900])}
        differ = abs(judge - human) if judge is not None and human is not None else None
        created = DAY + timedelta(days=rng.randrange(3), microseconds=1)
        rows.append(
            Output(task=task, variant=variant, judge_score=judge, human_score=human, disagreement=differ, created_at=created, **fields)
        )
    Output.objects.bulk_create(rows)
    return list(Output.objects.all())


FIELDS = {
    "judge": "judge_score",
    "human": "human_score",
    "disagreement": "disagreement",
    "length": "length",
    "date": "created_at",
    "id": "id",
}
SORTS = [f"{sign}{key}" for key in FIELDS for sign in ("-", "")]


def expected(rows, sort):
    field, sign = FIELDS[sort.lstrip("-")], -1 if sort.startswith("-") else 1
    with_value = [row for row in rows if getattr(row, field) is not None]
    gaps = sorted((row for row in rows if getattr(row, field) is None), key=lambda row: sign * row.pk)
    in_order = sorted(with_value, key=lambda row: (getattr(row, field), row.pk), reverse=sign < 0)
    return [row.external_id for row in in_order + gaps]


# Each order of all outputs, and each with a filter: of one task, or of a model.
WALKS = [
    *zip(SORTS, cycle([""])),
    *zip(SORTS, cycle(["task=ideas&", "model=model-a&sample=no&", "model=model-a&sample=no&", "task=ideas&"])),
]


@pytest.mark.parametrize(("sort", "query"), WALKS)
def test_every_order_shows_each_row_once_and_those_without_a_value_last(task, as_admin, sort, query):
    rows = make_many(task)
    pages = walk(as_admin, f"{query}sort={sort}")
    assert [len(names) for names in pages] == [50, 50, 30]
    assert [name for names in pages for name in names] == expected(rows, sort)


@pytest.mark.parametrize("sort", ["-id", "-judge", "human", "-date"])
def test_rows_that_come_in_while_one_pages_neither_repeat_nor_hide_any(task, as_admin, sort):
    rows = make_many(task)
    seen, query = [], f"sort={sort}"
    while query:
        text = page(as_admin, query)
        seen += names(as_admin, query)
        query = next_query(text)
        make_output(task, external_id=f"new{len(seen)}", judge_score=10.0, human_score=0.0, created_at=DAY + timedelta(days=9))
    old = [name for name in seen if not name.startswith("new")]
    assert old == expected(rows, sort)
    assert len(seen) == len(set(seen))


def test_the_row_that_a_page_begins_after_may_change_its_value(task, as_admin):
    rows = [make_output(task, external_id=f"o{n}", judge_score=float(n)) for n in range(60)]
    query = next_query(page(as_admin, "sort=-judge"))
    Output.objects.filter(pk=rows[10].pk).update(judge_score=99)
    assert names(as_admin, query) == [f"o{n}" for n in range(9, -1, -1)]


def test_a_page_of_exactly_fifty_has_no_next_one(task, as_admin):
    for _ in range(50):
        make_output(task)
    assert [len(p) for p in walk(as_admin)] == [50]


def test_htmx_gets_only_the_next_rows(task, as_admin):
    make_many(task)
    query = next_query(page(as_admin))
    text = page(as_admin, query, HX_Request="true", HX_Target="more")
    assert text.lstrip().startswith("<tr")
    assert "<form" not in text


def test_a_cursor_of_another_order_is_refused_with_the_first_page(task, as_admin):
    make_many(task, 3)
    response = as_admin.get("/outputs/?sort=-date&after=6.05~12")
    assert response.status_code == 422
    assert "no place in a list sorted by date" in response.content.decode()
