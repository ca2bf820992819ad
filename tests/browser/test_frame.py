"""The frame of every page, in a real browser."""

import pytest

from tests.browser.conftest import keep_screenshot

pytestmark = pytest.mark.browser


def test_signing_in_leads_home_and_the_theme_is_kept(signed_in):
    signed_in.get_by_role("button", name="Switch between light and dark").click()
    theme = signed_in.locator("html").get_attribute("data-theme")
    signed_in.goto("/tasks/")
    assert signed_in.locator("html").get_attribute("data-theme") == theme


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
