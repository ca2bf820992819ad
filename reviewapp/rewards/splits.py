"""Which side of a split an output falls on: decided by its prompt, never by the row.

Outputs of one prompt are on one side. So are outputs with the same text, whatever their prompts: the clusters of
prompts that share a text are joined. A cluster's side follows from the seed and the prompt's hash alone, so a
prompt stays where it is when data is added (unless a shared text joins it to another).
"""

from __future__ import annotations

import math
from array import array
from functools import lru_cache
from hashlib import blake2b, sha256

import numpy as np

NAMES = {1: ("train",), 2: ("train", "test"), 3: ("train", "validation", "test")}
# Shorter texts ("B", "I don't know") are alike by chance: joining on them would chain all prompts to one cluster.
MIN_SHARED_CHARS = 32


class SplitError(ValueError):
    """A split that can't be read."""


@lru_cache(maxsize=32)
def parse_split(text: str) -> tuple[tuple[str, float], ...]:
    """(name, share) of each side: "0.9,0.05,0.05" is train, validation, test; two are train, test; "1" is all in train."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in NAMES:
        raise SplitError(f"split is {text!r}: {len(parts)} parts, allowed: 1 to 3 shares that sum to 1, such as 0.9,0.05,0.05")
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        raise SplitError(f"split is {text!r}, must be numbers with commas between, such as 0.9,0.05,0.05") from None
    if not all(0 < share <= 1 for share in shares):
        raise SplitError(f"split is {text!r}: each share must be above 0 and at most 1")
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise SplitError(f"split is {text!r}: the shares sum to {sum(shares):g}, must be 1")
    return tuple(zip(NAMES[len(shares)], shares, strict=True))


def prompt_key(prompt_sha256: str | None, fallback: str) -> int:
    """A prompt's key, 64 bits of its hash. An output without a prompt is a cluster of its own, by `fallback`."""
    return int((prompt_sha256 or sha256(fallback.encode()).hexdigest())[:16], 16)


def normalise(content: str) -> str:
    """What makes two texts the same: letters in any case, white space of any kind and length."""
    return " ".join(content.casefold().split())


class SharedTexts:
    """Finds the prompts that share a text. 16 bytes an output."""

    def __init__(self) -> None:
        self._texts, self._keys = array("Q"), array("Q")

    def add(self, key: int, content: str) -> None:
        text = normalise(content)
        if len(text) >= MIN_SHARED_CHARS:
            self._texts.append(int.from_bytes(blake2b(text.encode(), digest_size=8).digest()))
            self._keys.append(key)

    def roots(self) -> dict[int, int]:
        """prompt key -> its cluster's smallest key, for the prompts that share a text with another prompt."""
        texts, keys = np.array(self._texts), np.array(self._keys)
        order = np.lexsort((keys, texts))
        texts, keys = texts[order], keys[order]
        joins = np.flatnonzero((texts[1:] == texts[:-1]) & (keys[1:] != keys[:-1]))
        parents: dict[int, int] = {}
        for i in joins:
            a, b = sorted((_root(parents, int(keys[i])), _root(parents, int(keys[i + 1]))))
            parents[b] = parents.setdefault(a, a)
        return {key: _root(parents, key) for key in parents}


def _root(parents: dict[int, int], key: int) -> int:
    while (parent := parents.setdefault(key, key)) != key:
        parents[key] = parents[parent]
        key = parent
    return key


class Splitter:
    """Says on which side a prompt is."""

    def __init__(self, shares: tuple[tuple[str, float], ...], seed: int, roots: dict[int, int] | None = None) -> None:
        self._shares, self._seed, self.roots = shares, seed, roots or {}

    def split_of(self, key: int) -> str:
        if len(self._shares) == 1:
            return self._shares[0][0]
        root = self.roots.get(key, key)
        digest = blake2b(f"{self._seed}:{root:016x}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        for name, share in self._shares:
            if place < share:
                return name
            place -= share
        return self._shares[-1][0]

    @property
    def joined(self) -> int:
        """How many prompts stand in a cluster with another one."""
        return len(self.roots)
