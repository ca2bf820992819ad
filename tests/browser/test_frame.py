"""The frame of every page, in a real browser."""

import pytest

from tests.browser.conftest import keep_screenshot, sign_in_by_form
from tests.make import make_user

pytestmark = pytest.mark.browser


def test_signing_in_leads_home_and_the_theme_is_kept(page):
    make_user("ana")
    sign_in_by_form(page, "ana")
    page.get_by_role("button", name="Switch between light and dark").click()
    theme = page.locator("html").get_attribute("data-theme")
    page.goto("/tasks/")
    assert page.locator("html").get_attribute("data-theme") == theme


def test_an_empty_workspace_shows_whole_pages_without_errors(signed_in):
    for path in ("/", "/outputs/", "/review/next", "/tasks/", "/datasets/", "/styleguide/"):
        signed_in.goto(path)
        assert signed_in.locator("h1, h2").first.is_visible(), path
        keep_screenshot(signed_in, f"empty{path.replace('/', '-')}")


def test_no_page_is_wider_than_a_tablet(signed_in):
    signed_in.set_viewport_size({"width": 820, "height": 1180})
    for path in ("/", "/outputs/", "/tasks/", "/datasets/", "/styleguide/"):
        signed_in.goto(path)
        assert signed_in.evaluate("document.documentElement.scrollWidth") <= 820, path
