"""What an export would be, before it is written: its first rows exactly as they will stand in the file, and counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.db.models import Sum

from reviewapp.rewards.formats import format_named
from reviewapp.rewards.rows import Counts, Reader
from reviewapp.rewards.spec import Spec
from reviewapp.rewards.warnings import warnings_of

SHOWN_ROWS = 5
SHOWN_CHARS = 4_000
# What can be looked at while a person waits; a snapshot looks at everything.
MAX_OUTPUTS = 5_000
MAX_CHARS = 20_000_000


@dataclass(frozen=True)
class PreviewRow:
    """`text` as in the file, cut after SHOWN_CHARS; `cut` is how many characters are missing."""

    row: dict[str, Any]
    text: str
    cut: int


@dataclass(frozen=True)
class Preview:
    """`head` is what the file begins with before its first row. Counts are of the first MAX_OUTPUTS unless `is_complete`."""

    counts: Counts
    is_complete: bool
    head: str = ""
    rows: list[PreviewRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    # (what, how many); lists, because a template that asks a Counter for .items gets the count of "items".
    sources: list[tuple[str, int]] = field(default_factory=list)
    splits: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[tuple[str, int]] = field(default_factory=list)


def preview_of(spec: Spec) -> Preview:
    """Raises SpecError."""
    reader = Reader(spec, max_outputs=MAX_OUTPUTS)
    is_complete = reader.outputs[: MAX_OUTPUTS + 1].count() <= MAX_OUTPUTS
    warnings = []
    if is_complete and (reader.outputs.aggregate(chars=Sum("length"))["chars"] or 0) <= MAX_CHARS:
        reader.find_shared_texts()
    elif len(spec.shares) > 1:
        warnings.append("Prompts that share an answer are looked for when the snapshot is written; rows may then change sides.")
    rows: list[dict[str, Any]] = []
    for batch in reader.labelled():
        if len(rows) < SHOWN_ROWS and batch:
            rows += reader.build(batch[: SHOWN_ROWS - len(rows)])
    file_format = format_named(spec.format)
    head = file_format.text_of([], reader.table)
    texts = [file_format.text_of([row], reader.table)[len(head) :].rstrip("\r\n") for row in rows]
    return Preview(
        counts=reader.counts,
        is_complete=is_complete,
        head=head.rstrip("\r\n"),
        rows=[PreviewRow(row, text[:SHOWN_CHARS], max(0, len(text) - SHOWN_CHARS)) for row, text in zip(rows, texts, strict=True)],
        warnings=warnings_of(reader) + warnings,
        sources=reader.counts.source.most_common(),
        splits=[(name, reader.counts.split[name]) for name, _ in spec.shares],
        left_out=reader.counts.left_out.most_common(),
    )
