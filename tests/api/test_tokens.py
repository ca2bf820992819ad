"""Tokens: made on a page and shown once, kept as a hash, ended by people or by time, and never worth more than their member."""

import time
from datetime import timedelta

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from reviewapp.api import auth
from reviewapp.api.tokens import hash_of, make_token
from reviewapp.models import ApiToken, User
from tests.api.calling import Caller, caller_for
from tests.conftest import signed_in
from tests.make import make_user

PAGE = "/settings/tokens/"


def text_of(page) -> str:
    return page.content.decode().partition('id="new-token"')[2].partition('value="')[2].partition('"')[0]


def make(client, name="trainer", scopes=("read",), **more):
    return client.post(PAGE, {"name": name, "scopes": list(scopes), "expires": "90", **more})


def test_a_token_made_on_the_page_reads_outputs_and_is_shown_only_then(as_reviewer, reviewer):
    page = make(as_reviewer)
    token = text_of(page)
    assert token.startswith("tst_")
    assert "no-store" in page["Cache-Control"]
    assert Caller(token).get("outputs") == {"outputs": [], "next": None, "total": 0, "total_is_at_least": False}
    assert token not in as_reviewer.get(PAGE).content.decode()
    row = ApiToken.objects.get()
    assert (row.user, row.name, row.scopes, row.sha256, row.hint) == (reviewer, "trainer", ["read"], hash_of(token), token[-4:])
    assert token not in "".join(str(value) for value in vars(row).values())


def test_the_page_without_tokens_says_what_they_are_for(as_viewer):
    page = as_viewer.get(PAGE).content.decode()
    assert "No tokens yet" in page
    assert 'value="read"' in page
    assert 'value="grade"' not in page, "a viewer is not offered what a viewer may not do"


def test_a_form_sent_twice_makes_one_token(as_reviewer):
    make(as_reviewer)
    again = make(as_reviewer)
    assert (again.status_code, ApiToken.objects.count()) == (422, 1)
    assert "You have a token named trainer already" in again.content.decode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": ""}, "Give it a name"),
        ({"scopes": []}, "Choose at least one"),
        ({"scopes": ["import"]}, "import is not a scope that your role allows"),
        ({"expires": "7000"}, "7000"),
    ],
)
def test_a_bad_form_makes_nothing_and_says_why(as_reviewer, given, told):
    page = make(as_reviewer, **{"name": "n", "scopes": ("read",), **given})
    assert (page.status_code, ApiToken.objects.count()) == (422, 0)
    assert told in page.content.decode()


def test_a_revoked_token_is_refused_from_then_on(as_reviewer, reviewer):
    api = caller_for(reviewer, "read")
    assert as_reviewer.post(reverse("revoke_token", args=[ApiToken.objects.get().pk])).status_code == 302
    told = api.get("outputs")
    assert (api.status, api.response["WWW-Authenticate"]) == (401, 'Bearer realm="Touchstone API"')
    assert "was revoked on" in told["error"]
    assert "revoked" in as_reviewer.get(PAGE).content.decode()


def test_nobody_revokes_the_token_of_another(reviewer, as_admin):
    caller_for(reviewer, "read")
    assert as_admin.post(reverse("revoke_token", args=[ApiToken.objects.get().pk])).status_code == 404


def test_an_expired_token_is_refused(reviewer):
    _, text = make_token(reviewer, "old", ["read"], expires_at=timezone.now() - timedelta(seconds=1))
    api = Caller(text)
    assert "expired on" in api.get("outputs")["error"]
    assert api.status == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer tst_unknown", "Basic dDp0", "Token x", "Bearer \xff"])
def test_without_a_token_that_is_known_the_answer_is_401_in_json_and_no_redirect(db, header):
    api = Caller(**({"Authorization": header} if header else {}))
    told = api.get("outputs")
    assert (api.status, api.response["Content-Type"]) == (401, "application/json")
    assert told["problems"][0]["where"] == "header.Authorization"
    assert "Bearer" in api.response["WWW-Authenticate"]


def test_a_session_cookie_opens_nothing_and_no_cookie_is_set(as_admin, admin):
    assert as_admin.get("/api/v1/outputs").status_code == 401
    assert as_admin.post("/api/v1/import", b"", content_type="application/x-ndjson").status_code == 401
    api = caller_for(admin)
    api.get("outputs")
    assert not api.response.cookies


def test_a_token_does_only_what_its_scopes_say(admin):
    api = caller_for(admin, "grade")
    told = api.get("outputs")
    assert api.status == 403
    assert told["problems"] == [{"where": "token.scopes", "seen": "grade", "allowed": "read"}]


def test_a_member_who_lost_the_role_has_tokens_that_lost_it_too(reviewer):
    api = caller_for(reviewer, "grade", "import")
    User.objects.filter(pk=reviewer.pk).update(role="viewer")
    for path in ("outputs/1/grades", "import"):
        assert "the token's member ana is viewer" in api.post(path)["error"]
        assert api.status == 403


def test_the_token_of_a_member_who_left_is_refused(reviewer):
    api = caller_for(reviewer, "read")
    User.objects.filter(pk=reviewer.pk).update(is_active=False)
    api.get("outputs")
    assert api.status == 401


def test_when_it_was_last_used_is_noted_once_a_minute(reviewer, django_assert_num_queries):
    api = caller_for(reviewer, "read")
    api.get("calibration/none")
    used = ApiToken.objects.get().last_used_at
    assert timezone.now() - used < timedelta(seconds=10)
    api.get("calibration/none")
    assert ApiToken.objects.get().last_used_at == used


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite has one writer at a time")
def test_reading_does_not_wait_for_a_long_import():
    api = caller_for(make_user("ana"), "read")
    other = connection.copy("other")
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            assert api.get("outputs")["outputs"] == []
            assert time.monotonic() - began < 20, "the writer would be waited for a minute"
            cursor.execute("ROLLBACK")
    finally:
        other.close()
    assert ApiToken.objects.get().last_used_at is None
    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA busy_timeout").fetchone() == (60_000,)


def test_a_program_that_runs_wild_is_told_when_to_come_again(reviewer, monkeypatch):
    monkeypatch.setattr(auth, "A_MINUTE", 2)
    api = caller_for(reviewer, "read")
    statuses = [(api.get("outputs"), api.status)[1] for _ in range(4)]
    assert statuses in ([200, 200, 429, 429], [200, 200, 200, 429], [200, 200, 200, 200])  # a minute may end in between
    if api.status == 429:
        assert 1 <= int(api.response["Retry-After"]) <= 60


def test_openapi_lists_the_calls_with_their_bearer_token_and_needs_none_itself(db):
    told = Caller().get("openapi.json")
    assert told["openapi"].startswith("3.")
    assert {"/api/v1/outputs", "/api/v1/calibration/{task}"} <= set(told["paths"])
    assert told["paths"]["/api/v1/outputs"]["get"]["security"]
    assert told["paths"]["/api/v1/reward"]["post"]["description"].startswith("Scope: reward. One reward in [0, 1]")
    assert "default" in told["paths"]["/api/v1/import"]["post"]["responses"]
    assert {p["name"] for p in told["paths"]["/api/v1/outputs"]["get"]["parameters"]} >= {"task", "model", "after", "sort", "limit"}


def test_an_address_that_is_no_call_and_a_wrong_method_are_told_in_json(reviewer):
    api = caller_for(reviewer)
    assert "/api/v1/outputs" in api.get("putputs")["error"]
    assert api.status == 404
    told = api.post("outputs")
    assert (api.status, api.response["Allow"], told["error"]) == (405, "GET", "POST is not allowed here, allowed: GET")


def test_a_stranger_is_led_to_the_sign_in_page_and_a_wrong_method_is_refused(client, as_viewer):
    assert client.get(PAGE).url.startswith("/login/")
    assert as_viewer.put(PAGE).status_code == 405
    assert as_viewer.get(reverse("revoke_token", args=[1])).status_code == 405


def test_the_account_menu_leads_to_the_page(db):
    assert f'href="{PAGE}"' in signed_in(make_user("mia")).get("/").content.decode()
