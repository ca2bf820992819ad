"""A judge's label as people would give it, by the calibrator of that judge's version; the judge's own where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reviewapp.calibration.calibrators import Fit, current_fit
from reviewapp.models import Task
from reviewapp.rewards.labels import Label

CALIBRATED_POLICY = "human-then-calibrated"


class Calibration:
    """The calibrators of one export, fitted when the first label asks for one."""

    def __init__(self, graders: Mapping[int, tuple[str, str, str]]) -> None:
        self._graders = graders
        # (task slug, judge's name, version) -> its fit
        self.fits: dict[tuple[str, str, str], Fit] = {}
        self._by_id: dict[tuple[str, int], Fit] = {}

    def label(self, label: Label, slug: str, grader_id: int) -> Label:
        """The label with the score that people would give, and their spread about it."""
        fit = self._by_id.get((slug, grader_id)) or self._fit(slug, grader_id)
        if fit.calibrator is None or label.score is None:
            return label
        score, passed, spread = fit.predict(label.score)
        return label._replace(score=score, passed=passed, sd=spread, source="calibrated_judge")

    def _fit(self, slug: str, grader_id: int) -> Fit:
        found = self._by_id[slug, grader_id] = self._fit_of(slug, *self._graders[grader_id][:2])
        return found

    def _fit_of(self, slug: str, name: str, version: str) -> Fit:
        if (slug, name, version) not in self.fits:
            self.fits[slug, name, version] = current_fit(Task.objects.select_related("rubric").get(slug=slug), name, version)
        return self.fits[slug, name, version]

    def told(self) -> list[tuple[str, str, str, str]]:
        """What `agrees` compares: task, judge, version and what they came to, of each fit so far."""
        return [(*names, _identity(fit)) for names, fit in self.fits.items()]

    def agrees(self, told: Iterable[tuple[str, str, str, str]]) -> bool:
        """Did another process that writes this export come to the same calibrators?"""
        return all(_identity(self._fit_of(slug, name, version)) == identity for slug, name, version, identity in told)

    def to_json(self) -> list[dict[str, Any]]:
        """For the manifest: each calibrator that was used, by its hash."""
        return [
            {"task": slug, "judge": name, "judge_version": version, "sha256": c.sha256}
            | {key: c.map[key] for key in ("method", "n", "half_width", "level", "spread")}
            for (slug, name, version), fit in sorted(self.fits.items())
            if (c := fit.calibrator)
        ]

    def refusals(self) -> list[str]:
        """Why a judge's labels stayed its own."""
        return [
            f"{name} v{version} on {slug}: {fit.why_missing}."
            for (slug, name, version), fit in sorted(self.fits.items())
            if fit.why_missing
        ]


def _identity(fit: Fit) -> str:
    return fit.calibrator.sha256 if fit.calibrator else fit.why_missing
