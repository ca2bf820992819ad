"""Blind work in the list: a reviewer does not see what others said of an output that they have yet to grade."""

from __future__ import annotations

from reviewapp.models import User
from reviewapp.outputs.filters import TELLING, Filters
from reviewapp.outputs.paging import DEFAULT_ORDER, Order


def is_all_graded(filters: Filters, user: User) -> bool:
    """Whether the filters keep only what this person has graded, so that there is nothing to hide."""
    return filters.reviewer in ("me", user.username)


def without_telling(filters: Filters, order: Order) -> tuple[Filters, Order, list[str]]:
    """What may hold while the judge is hidden: which rows are kept, and their order, must not tell either."""
    told = [name for name in TELLING if getattr(filters, name) not in ("", None) and name != "score_of"]
    for name in told:
        filters = filters.without("score_of" if name.startswith("score_") else name)
    notes = [f"The filter {name} would tell what the judge said. It was left out while the judge is hidden." for name in told]
    if order.column.is_telling:
        notes.append(f"Sorted by {order.key} the list would tell what was said. It is sorted by the newest while the judge is hidden.")
        order = DEFAULT_ORDER
    return filters, order, notes


def without_labels(filters: Filters, user: User) -> tuple[Filters, list[str]]:
    """What may hold for who must not find the gold items of a queue: which outputs people have labelled would tell them."""
    told = ["label"] if filters.label else []
    told += ["reviewer"] if filters.reviewer and not is_all_graded(filters, user) else []
    for name in told:
        filters = filters.without(name)
    return filters, [f"The filter {name} would tell which items of a queue have a known answer. It was left out." for name in told]
