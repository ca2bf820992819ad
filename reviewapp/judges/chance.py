"""An order by chance that is the same each time: every version of a judge meets the same outputs."""

from __future__ import annotations

import hashlib


def by_chance(pk: int) -> bytes:
    """The key that outputs are sorted by."""
    return hashlib.sha256(str(pk).encode()).digest()
