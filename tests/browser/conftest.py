"""A real Chromium against a real server. Whatever a page asks of another host, or logs as an error, fails the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, Page, sync_playwright

from reviewapp.models import User
from tests.make import make_user
from tests.programs import require_program

# Playwright keeps an event loop in this thread; the ORM in tests is used between its calls only.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"

PASSWORD = "correct horse battery"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each module: as long as it is there, an event loop runs in this thread, and other tests start their own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=require_program("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


class Watched:
    """What a page did that it must not: requests elsewhere, dialogs, errors in the console."""

    def __init__(self, page: Page, origin: str) -> None:
        self.elsewhere: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda r: self.elsewhere.append(r.url) if not r.url.startswith((origin, "data:", "blob:")) else None)
        page.on("dialog", lambda d: (self.dialogs.append(d.message), d.dismiss()))
        page.on("pageerror", lambda e: self.errors.append(str(e)))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)


@pytest.fixture
def page(browser: Browser, live_server, transactional_db) -> Iterator[Page]:
    context = browser.new_context(base_url=live_server.url, viewport={"width": 1280, "height": 720}, accept_downloads=True)
    context.set_default_timeout(10_000)
    page = context.new_page()
    watched = Watched(page, live_server.url)
    page.watched, page.origin = watched, live_server.url
    yield page
    context.close()
    assert not watched.elsewhere
    assert not watched.dialogs
    assert not watched.errors


@pytest.fixture
def signed_in(page: Page) -> Page:
    """The page, signed in as the reviewer ana, before it has opened anything."""
    make_user("ana")
    sign_in(page, "ana")
    return page


def sign_in(page: Page, username: str) -> None:
    """By its cookie, which takes a second less than the form."""
    client = Client()
    client.force_login(User.objects.get(username=username))
    name = settings.SESSION_COOKIE_NAME
    page.context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": page.origin}])


def sign_in_by_form(page: Page, username: str) -> None:
    page.goto("/login/")
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")


def keep_screenshot(page: Page, name: str) -> None:
    """For people to look at, when TOUCHSTONE_SCREENSHOTS names a folder."""
    if folder := os.environ.get("TOUCHSTONE_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))
