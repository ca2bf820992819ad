"""Full-text search over contents and external ids: FTS5 on SQLite, a GIN index on PostgreSQL.

A search is a list of words; "several words" in quotes stand one after the other, and word* is the beginning of a word.
All must be found, in the content or in the external id. A word is a run of letters and digits, so that surprise_gate
and nn.Module are phrases of two words. Nothing that a person types is syntax of the database.

On PostgreSQL the index is part of the insert. On SQLite that would halve the speed of an import (docs/outputs.md),
so `index_new` follows behind it in the background; the newest few outputs that it has not reached yet are read as
they are, and of more than a few the page says that they can't be found yet. Beyond the first 200,000 characters
a content is not searched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from time import monotonic

from django.db import connection, transaction
from django.db.models import Model, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.functions import Left
from django.utils.html import format_html
from django.utils.safestring import SafeString

from reviewapp.models import OutputBody

CHARS = 200_000
MAX_TERMS = 16
# The beginning of a word has at least as many letters: one letter begins words in nearly every text.
MIN_PREFIX = 2
# Outputs that the SQLite index may be behind and still all be found.
TAIL = 200
BATCH = 500
BEFORE, AFTER = 60, 120

TOKEN = re.compile(r"[^\W_]+")
# PostgreSQL takes nn.Module, a/b and x-y for single words; with spaces for these they are two, as they are in FTS5.
SEPARATORS = """!"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~–—“”‘’«»…·"""
SPACES = " " * len(SEPARATORS)


def postgres_vector(column: str) -> str:
    """The indexed expression, which a query must repeat to the letter (the migration made its index by it)."""
    separators = SEPARATORS.replace("'", "''")
    return f"to_tsvector('simple', translate(left({column}, {CHARS}), '{separators}', '{SPACES}'))"


@dataclass(frozen=True)
class Term:
    """A word or a phrase as it was typed, without quotes; `is_prefix` if its last word is only the beginning of one."""

    text: str
    is_prefix: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression that finds it, for the words that it has."""
        words = r"[\W_]+".join(re.escape(word) for word in TOKEN.findall(self.text))
        return rf"(?<![^\W_]){words}" + ("" if self.is_prefix else r"(?![^\W_])")


def terms_of(text: str) -> list[Term]:
    """What there is to search for. Empty when the text has no letter and no digit."""
    found = []
    for phrase, word in re.findall(r'"([^"]*)"?|([^\s"]+)', text.replace("\x00", " ")):
        typed = phrase or word
        if TOKEN.search(typed):
            is_prefix = typed.rstrip().endswith("*") and len(TOKEN.findall(typed)[-1]) >= MIN_PREFIX
            found.append(Term(typed.rstrip("* "), is_prefix))
    return found[:MAX_TERMS]


def matching(outputs: QuerySet, text: str) -> QuerySet:
    """Those of these outputs that the text is found in; all of them when it has no word."""
    ids = matching_ids(text)
    return outputs.filter(pk__in=ids) if ids else outputs


def matching_ids(text: str) -> RawSQL | None:
    """The ids of the outputs that the text is found in, as a subquery; None when it has no word."""
    terms = terms_of(text)
    if not terms:
        return None
    if connection.vendor == "postgresql":
        return _postgres(terms)
    sql = "SELECT rowid FROM reviewapp_search WHERE reviewapp_search MATCH %s"
    words = " AND ".join(f'"{term.text}"' + (" *" if term.is_prefix else "") for term in terms)
    params: list[object] = [f"({{content}} : ({words})) OR ({{external_id}} : ({words}))"]
    if tail := _in_tail(terms):
        sql += f" UNION SELECT value FROM json_each('{tail}')"  # noqa: S608 - integers
    return RawSQL(sql, params)  # noqa: S611


def _postgres(terms: list[Term]) -> RawSQL:
    query = " && ".join(
        "(nullif(phraseto_tsquery('simple', translate(%s, %s, %s))::text, '') || ':*')::tsquery"
        if term.is_prefix
        else "phraseto_tsquery('simple', translate(%s, %s, %s))"
        for term in terms
    )
    params = [value for term in terms for value in (term.text, SEPARATORS, SPACES)]
    content, external_id = (postgres_vector(name).replace("%", "%%") for name in ("content", "external_id"))
    sql = (
        f"SELECT output_id FROM reviewapp_outputbody WHERE {content} @@ ({query}) "  # noqa: S608 - our own expressions
        f"UNION SELECT id FROM reviewapp_output WHERE {external_id} @@ ({query})"
    )
    return RawSQL(sql, params * 2)  # noqa: S611


def _in_tail(terms: list[Term]) -> list[int]:
    """Matches among the outputs that the index has not reached; none when there are too many to read."""
    rows = list(_unindexed().values_list("output_id", Left("content", CHARS), "output__external_id")[: TAIL + 1])
    if len(rows) > TAIL:
        return []
    patterns = [re.compile(term.pattern, re.IGNORECASE) for term in terms]
    return [pk for pk, *texts in rows if any(all(p.search(text) for p in patterns) for text in texts)]


def snippet(content: str, text: str) -> SafeString:
    """The first place that the search is found at, marked; empty when it is in the external id only."""
    for term in terms_of(text):
        if found := re.search(term.pattern, content, re.IGNORECASE):
            start, end = max(0, found.start() - BEFORE), min(len(content), found.end() + AFTER)
            before, after = ("…" if start else "") + content[start : found.start()], content[found.end() : end]
            return format_html("{}<mark>{}</mark>{}{}", before, found[0], after, "…" if end < len(content) else "")
    return SafeString("")


# --- the SQLite index ---


def create_index() -> None:
    """For the migration. Positions are kept for phrases, the text itself is not: it stands in OutputBody."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            for table, column in (("outputbody", "content"), ("output", "external_id")):
                cursor.execute(f"CREATE INDEX reviewapp_{table}_search ON reviewapp_{table} USING gin (({postgres_vector(column)}))")
            return
        cursor.execute(
            "CREATE VIRTUAL TABLE reviewapp_search USING fts5"
            "(content, external_id, content='', columnsize=0, tokenize='unicode61 remove_diacritics 0')"
        )
        cursor.execute("CREATE TABLE reviewapp_searchmark (indexed_to bigint NOT NULL)")
        cursor.execute("INSERT INTO reviewapp_searchmark VALUES (0)")


def drop_index() -> None:
    tables = ("reviewapp_search", "reviewapp_searchmark")
    indexes = ("reviewapp_outputbody_search", "reviewapp_output_search")
    with connection.cursor() as cursor:
        for name in indexes if connection.vendor == "postgresql" else tables:
            cursor.execute(f"DROP {'INDEX' if connection.vendor == 'postgresql' else 'TABLE'} IF EXISTS {name}")


def index_new(most_s: float = math.inf) -> int:
    """Take the outputs that came since the last time into the index; how many. Any number may run at once."""
    if connection.vendor == "postgresql":
        return 0
    count, end = 0, monotonic() + most_s
    # Looked at before the transaction: where there is nothing to do, it would only wait for others who write.
    while _unindexed().exists() and monotonic() < end:
        count += _index_batch()
    return count


def count_unindexed(limit: int = 1_000_000) -> int:
    """Outputs that a search can't find yet: none when they are few enough to be read."""
    if connection.vendor == "postgresql":
        return 0
    count = _unindexed()[:limit].count()
    return count if count > TAIL else 0


def _unindexed() -> QuerySet[Model]:
    mark = RawSQL("SELECT indexed_to FROM reviewapp_searchmark", ())
    return OutputBody.objects.filter(output_id__gt=mark).order_by("output_id")


@transaction.atomic
def _index_batch() -> int:
    """A short transaction, so that others who write get their turn between batches."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexed_to FROM reviewapp_searchmark")
        mark = cursor.fetchone()[0]
        rows = _unindexed().values_list("output_id", Left("content", CHARS), "output__external_id")[:BATCH]
        found = list(rows)
        cursor.executemany("INSERT INTO reviewapp_search (rowid, content, external_id) VALUES (%s, %s, %s)", found)
        cursor.execute("UPDATE reviewapp_searchmark SET indexed_to = %s", [max([mark, *(row[0] for row in found)])])
    return len(found)
