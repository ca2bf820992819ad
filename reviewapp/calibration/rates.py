"""Pass rates of a study: the judge's, people's, and the judge's corrected by people."""

from __future__ import annotations

from typing import Any

import numpy as np

from graders.calibration.arrays import Floats
from graders.calibration.inference import corrected_rate
from graders.calibration.passes import pass_at_k
from graders.calibration.rates import wilson
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from reviewapp.calibration.figures import figure
from reviewapp.calibration.grades import Grades

KS = (1, 5, 10)


def pass_rate_group(judge: Floats, human: Floats, grades: Grades) -> dict[str, Any]:
    """`judge` and `human` (o,): verdicts on every output of the task, 1, 0 or NaN; human is the majority's.

    raw: the judge's rate over all that it graded. wilson: people's, over what they labelled. human: the same, outputs of a
    prompt taken together. ppi: the judge's corrected by people. pass_at_k: by the judge, or by people where there is none.
    """
    clusters = np.array(grades.clusters, dtype=np.int64)
    labelled, judged = ~np.isnan(human), ~np.isnan(judge)
    both = labelled & judged
    verdicts = judge if judged.any() else human
    return {
        "raw": figure(_wilson(judge[judged])),
        "wilson": figure(_wilson(human[labelled])),
        "human": figure(_people_alone(human[labelled], clusters[labelled])),
        "ppi": figure(
            corrected_rate(judge[judged], judge[both], human[both], clusters_all=clusters[judged], clusters_labelled=clusters[both])
        ),
        "pass_at_k": _pass_at_k(verdicts, grades),
    }


def _wilson(verdicts: Floats) -> Estimate:
    return wilson(int(verdicts.sum()), len(verdicts))


def _people_alone(human: Floats, clusters: np.ndarray) -> Estimate:
    """The corrected rate of a judge who is people themselves, and has nothing to add."""
    if not len(human):
        return Estimate.missing("no output has a human label")
    return corrected_rate(human, human, human, clusters_all=clusters, clusters_labelled=clusters)


def _pass_at_k(verdicts: Floats, grades: Grades) -> dict[str, Any]:
    by_prompt: dict[int, list[float]] = {}
    for output, verdict in zip(grades.outputs, verdicts, strict=True):
        if not np.isnan(verdict):
            by_prompt.setdefault(output["prompt_id"] or -output["id"], []).append(verdict)
    n, passes = [len(v) for v in by_prompt.values()], [int(sum(v)) for v in by_prompt.values()]
    draws = Resamples(range(len(n)), rng=np.random.default_rng(0))
    return {str(k): figure(pass_at_k(n, passes, k, draws)) for k in KS}
