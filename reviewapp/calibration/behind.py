"""The outputs behind a mark of a chart or a cell of a table."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from django.http import QueryDict

from graders.calibration.arrays import Floats
from graders.calibration.resample import Mask
from reviewapp.calibration.charts import rounded
from reviewapp.calibration.grades import Grades
from reviewapp.calibration.items import Items
from reviewapp.models import Grade, User

NEAR = 1e-3
MOST = 400  # what the outputs page takes by number


class BadMark(ValueError):
    """The query names no mark, with what is allowed."""


def items_behind(items: Items, grades: Grades, params: QueryDict, names: tuple[str, ...]) -> Mask:
    """Which items all given conditions hold for; `names` are parts of the address that are none."""
    judge, human = rounded(items)
    own: dict[str, Callable[[str], Mask]] = {
        "said": lambda v: _near(judge, v, "said"),
        "human": lambda v: _near(human, v, "human"),
        "said_min": lambda v: items.judge >= _number("said_min", v) - NEAR,
        "said_max": lambda v: items.judge <= _number("said_max", v) + NEAR,
        "length_min": lambda v: grades.outputs.length[items.output] >= _number("length_min", v),
        "length_max": lambda v: grades.outputs.length[items.output] <= _number("length_max", v),
        "judge_passes": lambda v: items.judge_passes == _verdict("judge_passes", v),
        "human_passes": lambda v: items.human_passes == _verdict("human_passes", v),
        "model": lambda v: grades.outputs.model[items.output] == (grades.outputs.models.index(v) if v in grades.outputs.models else -1),
        "variant": lambda v: grades.outputs.variant[items.output] == _number("variant", v),
        "reviewer": lambda v: ~np.isnan(items.human[:, grades.people.index(v)]) if v in grades.people else np.zeros(len(judge), dtype=bool),
    }
    given = [(name, value) for name, value in params.items() if name not in names]
    if unknown := [name for name, _ in given if name not in own]:
        raise BadMark(f"{', '.join(unknown)[:60]!r} says nothing of an output here, allowed: {', '.join(own)}")
    mask = ~np.isnan(human) if np.isnan(judge).all() else ~np.isnan(judge) & ~np.isnan(human)
    for name, value in given:
        mask &= own[name](value)
    return mask


def outputs_behind(items: Items, grades: Grades, mask: Mask, user: User) -> list[int]:
    """Ids of the outputs, the largest differences first; for who works blind those only that they have graded."""
    judge, human = rounded(items)
    places = np.flatnonzero(mask)
    order = places[np.argsort(-np.nan_to_num(np.abs(judge - human))[places], kind="stable")]
    ids = list(dict.fromkeys(grades.outputs.id[items.output[order]].tolist()))
    return graded_only(ids, user)


def graded_only(ids: list[int], user: User) -> list[int]:
    """All of them, or for who works blind those that they have graded: which outputs differ would tell what was said."""
    if not user.hides_judges:
        return ids
    graded = set(Grade.objects.filter(rater=user, retraction__isnull=True, output__in=ids[: 10 * MOST]).values_list("output_id", flat=True))
    return [pk for pk in ids if pk in graded]


def _near(scores: Floats, value: str, name: str) -> Mask:
    return np.asarray(np.abs(scores - _number(name, value)) < NEAR)


def _number(name: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadMark(f"{name} is {value[:60]!r}, allowed: a number such as 3.5")
    return found


def _verdict(name: str, value: str) -> float:
    if value not in ("0", "1"):
        raise BadMark(f"{name} is {value[:60]!r}, allowed: 0 and 1")
    return float(value)
