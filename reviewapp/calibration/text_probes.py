"""Do the looks of a text, or words addressed to the judge, move it? Reads the labelled outputs' contents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graders.calibration import probes
from graders.calibration.arrays import Floats
from graders.calibration.texts import formatting_density
from graders.judge.injection import find_attempts
from reviewapp.calibration.figures import NOT_A_SCALE, Figure, figure, missing
from reviewapp.calibration.grades import Grades
from reviewapp.calibration.items import Items
from reviewapp.models import OutputBody

MOST_CHARS = 50_000  # of each text; words to a judge stand at its ends or its start
BATCH = 500
MOST_CHARS_ON_PAGE = 2_000_000  # of all texts: about two seconds


@dataclass(frozen=True)
class Looks:
    """Of every output of the task (o,): marks a thousand characters, and 1 where it tries to steer its judge. NaN: not read."""

    density: Floats
    speaks: Floats


def read_looks(grades: Grades, most_chars: float = np.inf) -> Looks:
    """Of the labelled outputs; of some at even distances where all would be too much to read."""
    labelled, length = grades.labelled, np.minimum(np.nan_to_num(grades.outputs.length[grades.labelled]), MOST_CHARS)
    labelled = labelled[:: max(1, int(np.ceil(length.sum() / most_chars)))]
    density, speaks = np.full(len(grades.outputs), np.nan), np.full(len(grades.outputs), np.nan)
    ids = grades.outputs.id[labelled]
    place = {int(pk): int(i) for pk, i in zip(ids, labelled, strict=True)}
    for pk, content in _contents(ids.tolist()):
        if content:
            text = content[: MOST_CHARS // 2] + content[-MOST_CHARS // 2 :] if len(content) > MOST_CHARS else content
            density[place[pk]], speaks[place[pk]] = formatting_density(text), float(bool(find_attempts(text)))
    return Looks(density, speaks)


def text_group(items: Items, looks: Looks) -> dict[str, Figure]:
    if items.is_categorical:
        return {"formatting": missing(NOT_A_SCALE), "injection": missing(NOT_A_SCALE)}
    density, speaks = looks.density[items.output], looks.speaks[items.output]
    if np.isnan(density).all():
        why = "not defined, because no labelled output has a text"
        return {"formatting": missing(why), "injection": missing(why)}
    return {
        "formatting": figure(probes.formatting_bias(items.judge, items.human, density, items.clusters)),
        "injection": figure(probes.injection_bias(items.judge, items.human, speaks, items.clusters)),
    }


def _contents(ids: list[int]) -> Iterator[tuple[int, str]]:
    for start in range(0, len(ids), BATCH):
        yield from OutputBody.objects.filter(pk__in=ids[start : start + BATCH]).values_list("output_id", "content")
