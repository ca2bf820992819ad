"""Signing in, and what a stranger sees."""

import pytest
from django.test import Client
from django.urls import reverse

from tests.make import make_user

PAGES = ["home", "outputs", "review_next", "tasks", "datasets", "import", "styleguide"]


@pytest.mark.django_db
@pytest.mark.parametrize("name", PAGES)
def test_a_stranger_is_sent_to_sign_in(name):
    answer = Client().get(reverse(name))
    assert answer.status_code == 302
    assert answer.url.startswith(reverse("login"))


def test_a_member_signs_in_and_lands_home(reviewer):
    answer = Client().post(reverse("login"), {"username": "ana", "password": "correct horse battery"})
    assert answer.status_code == 302
    assert answer.url == reverse("home")


@pytest.mark.django_db
def test_five_wrong_passwords_lock_the_name():
    make_user("eve")
    client = Client()
    for _ in range(5):
        client.post(reverse("login"), {"username": "eve", "password": "wrong"})
    answer = client.post(reverse("login"), {"username": "eve", "password": "correct horse battery"})
    assert answer.status_code == 429
    assert b"Too many attempts" in answer.content


def test_a_form_without_its_token_is_refused(reviewer):
    client = Client(enforce_csrf_checks=True)
    client.force_login(reviewer)
    assert client.post(reverse("logout")).status_code == 403


def test_every_page_forbids_inline_scripts_and_framing(as_reviewer):
    answer = as_reviewer.get(reverse("tasks"))
    policy = answer["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.django_db
def test_the_demo_passwords_show_only_in_the_demo(settings):
    assert b"Demo accounts" not in Client().get(reverse("login")).content
    settings.DEMO = True
    assert b"Demo accounts" in Client().get(reverse("login")).content


@pytest.mark.django_db
def test_the_admin_shows_grades_but_cannot_change_them(as_admin, django_user_model):
    django_user_model.objects.filter(username="root").update(is_superuser=True)
    assert as_admin.get("/admin/reviewapp/grade/").status_code == 200
    assert as_admin.get("/admin/reviewapp/grade/add/").status_code == 403
