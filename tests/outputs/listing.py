"""What the tests of the outputs page read off it."""

from __future__ import annotations

import html
import re
from typing import Any

from django.test import Client

NAME = re.compile(r'<td class="name"><a href="/outputs/\d+/">([^<]+)</a>')
NEXT = re.compile(r'<tr id="more" hx-get="/outputs/\?([^"]+)"')


def page(client: Client, query: str = "", **headers: Any) -> str:
    return client.get(f"/outputs/?{query}", headers=headers).content.decode()


def names(client: Client, query: str = "") -> list[str]:
    """The external ids in the order of the page."""
    return NAME.findall(page(client, query))


def next_query(text: str) -> str:
    found = NEXT.search(text)
    return html.unescape(found[1]) if found else ""


def walk(client: Client, query: str = "") -> list[list[str]]:
    """Every page's external ids, by following "More outputs" to the end."""
    pages, text = [], page(client, query)
    while True:
        pages.append(NAME.findall(text))
        if not (query := next_query(text)):
            return pages
        text = page(client, query)
