"""The Tokens page in a real browser: reached by the account menu, a token made, copied and revoked."""

import pytest

from reviewapp.models import ApiToken
from tests.api.calling import Caller
from tests.browser.conftest import keep_screenshot

pytestmark = pytest.mark.browser


def test_a_token_is_made_copied_and_revoked(signed_in):
    signed_in.context.grant_permissions(["clipboard-read", "clipboard-write"])
    signed_in.goto("/")
    signed_in.get_by_label("Account of ana").click()
    signed_in.get_by_role("link", name="Tokens").click()
    signed_in.get_by_role("textbox", name="Name").fill("my script")
    signed_in.get_by_role("checkbox", name="read").first.check()
    signed_in.get_by_role("button", name="Make token").click()
    token = signed_in.get_by_label("The new token").input_value()
    signed_in.get_by_role("button", name="Copy").click()
    signed_in.get_by_role("button", name="Copied").wait_for()
    assert signed_in.evaluate("navigator.clipboard.readText()") == token
    keep_screenshot(signed_in, "tokens")
    assert Caller(token).get("outputs")["outputs"] == []
    signed_in.get_by_role("button", name="Revoke my script").click()
    signed_in.get_by_text("my script is revoked").wait_for()
    assert token not in signed_in.content()
    assert ApiToken.objects.get().state == "revoked"
