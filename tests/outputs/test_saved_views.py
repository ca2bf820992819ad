"""Saved views: filters and order under a name, each member's own."""

import pytest

from reviewapp.models import SavedView
from tests.conftest import signed_in
from tests.make import make_output, make_user
from tests.outputs.listing import page

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def output(db):
    return make_output()


def test_a_view_keeps_filters_and_order_as_a_link(as_admin):
    response = as_admin.post("/outputs/views", {"name": " My  ideas ", "query": "sort=-judge&task=ideas&after=1~2&q="})
    assert response.url == "/outputs/?task=ideas&sort=-judge"
    assert 'href="/outputs/?task=ideas&amp;sort=-judge">My ideas</a>' in page(as_admin)


def test_the_same_name_replaces_the_view(as_admin):
    for query in ("task=ideas", "model=m1"):
        as_admin.post("/outputs/views", {"name": "one", "query": query})
    assert list(SavedView.objects.values_list("query", flat=True)) == ["model=m1"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\x00b"])
def test_a_view_without_a_good_name_is_refused(as_admin, name):
    response = as_admin.post("/outputs/views", {"name": name, "query": "task=ideas"})
    assert response.status_code == 422
    assert "must have 1 to 100 characters" in response.content.decode()
    assert not SavedView.objects.exists()


def test_views_are_each_member_s_own(as_admin, admin):
    as_admin.post("/outputs/views", {"name": "mine", "query": ""})
    view = SavedView.objects.get()
    other = signed_in(make_user("zoe", role="admin"))
    assert "mine" not in page(other)
    assert other.post(f"/outputs/views/{view.pk}/delete").status_code == 404
    assert as_admin.post(f"/outputs/views/{view.pk}/delete", {"query": "task=ideas"}).url == "/outputs/?task=ideas"
    assert not SavedView.objects.exists()


def test_a_view_is_saved_and_deleted_by_post_only(as_admin):
    assert as_admin.get("/outputs/views").status_code == 405
    assert as_admin.get("/outputs/views/1/delete").status_code == 405
