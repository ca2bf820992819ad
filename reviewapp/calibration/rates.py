"""Pass rates of a study: the judge's, people's, and the judge's corrected by people."""

from __future__ import annotations

from typing import Any

import numpy as np

from graders.calibration.arrays import Floats, Ints, cluster_numbers
from graders.calibration.inference import corrected_rate
from graders.calibration.passes import pass_at_k
from graders.calibration.rates import wilson
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from reviewapp.calibration.figures import figure
from reviewapp.calibration.grades import Grades, Outputs

KS = (1, 5, 10)


def pass_rate_group(judge: Floats, human: Floats, grades: Grades) -> dict[str, Any]:
    """`judge` (o,) and `human` (l,): verdicts on every output of the task, and the majority's on those with a person's grade.

    1, 0 or NaN. raw: the judge's rate over all that it graded. wilson: people's, over what they labelled. human: the same, outputs of a
    prompt taken together. ppi: the judge's corrected by people. pass_at_k: by the judge, or by people where there is none.
    """
    clusters, by_people = grades.clusters, np.full(len(judge), np.nan)
    by_people[grades.labelled] = human
    labelled, judged = ~np.isnan(by_people), ~np.isnan(judge)
    both, rest = labelled & judged, judged & ~labelled
    corrected = corrected_rate(
        judge[rest],
        judge[both],
        by_people[both],
        clusters_all=clusters[rest],
        clusters_labelled=clusters[both],
        labelled_in_all=False,
    )
    return {
        "raw": figure(_wilson(judge[judged])),
        "wilson": figure(_wilson(by_people[labelled])),
        "human": figure(_people_alone(by_people[labelled], clusters[labelled])),
        "ppi": figure(corrected),
        "pass_at_k": _pass_at_k(judge if judged.any() else by_people, grades.outputs),
    }


def _wilson(verdicts: Floats) -> Estimate:
    return wilson(int(verdicts.sum()), len(verdicts))


def _people_alone(human: Floats, clusters: Ints) -> Estimate:
    """The corrected rate of a judge who is people themselves, and has nothing to add."""
    if not len(human):
        return Estimate.missing("no output has a human label")
    return corrected_rate([], human, human, clusters_all=clusters[:0], clusters_labelled=clusters, labelled_in_all=False)


def _pass_at_k(verdicts: Floats, outputs: Outputs) -> dict[str, Any]:
    is_decided = ~np.isnan(verdicts)
    prompts = np.where(outputs.prompt > 0, outputs.prompt, -outputs.id)[is_decided]
    number = cluster_numbers("prompts", prompts, len(prompts))
    n, passes = np.bincount(number), np.bincount(number, weights=verdicts[is_decided]).astype(np.int64)
    draws = Resamples(np.arange(len(n)), rng=np.random.default_rng(0))
    return {str(k): figure(pass_at_k(n, passes, k, draws)) for k in KS}
