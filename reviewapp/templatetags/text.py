"""Plain text of ours (rubrics, task descriptions) for reading."""

from __future__ import annotations

import re

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

register = template.Library()
CODE = re.compile(r"`([^`\n]+)`")


@register.filter
def ticks(value: str) -> SafeString:
    """Escaped text with `code` in code type and its line breaks kept."""
    marked = CODE.sub(r"<code>\1</code>", escape(value))
    return mark_safe(marked.replace("\n", "<br>"))  # noqa: S308 - escaped above; only our two tags are added
