"""A judge's label as people would give it, by the calibrator of that judge's version; the judge's own where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reviewapp.calibration.calibrators import Fit, current_fit
from reviewapp.models import Calibrator, Task
from reviewapp.rewards.labels import Label
from reviewapp.words import version_word

CALIBRATED_POLICY = "human-then-calibrated"
# task slug, judge's name, version
Key = tuple[str, str, str]
# the three, the calibrator's hash, and where there is none, why
ToldFit = tuple[str, str, str, str, str]


class Calibration:
    """The calibrators of one export, fitted when the first label asks for one."""

    def __init__(self, graders: Mapping[int, tuple[str, str, str]]) -> None:
        self._graders = graders
        # Those that labels have asked for, and those that are known besides.
        self.fits: dict[Key, Fit] = {}
        self._ahead: dict[Key, Fit] = {}
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
        key = slug, name, version
        if key not in self.fits:
            self.fits[key] = self._ahead.get(key) or _current(*key)
        return self.fits[key]

    def fit_ahead(self, slug: str, grader_id: int) -> None:
        """Fit what labels are expected to ask for."""
        key = slug, *self._graders[grader_id][:2]
        self._ahead[key] = _current(*key)

    def known(self) -> list[ToldFit]:
        """For `learn` of another process that writes this export."""
        return _told(self._ahead | self.fits)

    def used(self) -> list[ToldFit]:
        """For `takes_over`."""
        return _told(self.fits)

    def learn(self, told: Iterable[ToldFit]) -> None:
        """Take the other process's calibrators for those that this one has not fitted."""
        for slug, name, version, sha256, why in told:
            if (key := (slug, name, version)) not in self._ahead | self.fits:
                self._ahead[key] = Fit(_kept(*key, sha256) if sha256 else None, why)

    def takes_over(self, told: Sequence[ToldFit]) -> bool:
        """Count what the other process used as used; False if it came to another calibrator, or to one that is not here."""
        try:
            self.learn(told)
        except Calibrator.DoesNotExist:
            return False
        known = self._ahead | self.fits
        used = {(slug, name, version): known[slug, name, version] for slug, name, version, *_ in told}
        if sorted(_told(used)) != sorted(map(tuple, told)):
            return False
        self.fits |= used
        return True

    def to_json(self) -> list[dict[str, Any]]:
        """For the manifest: each calibrator that was used, by its hash."""
        return [
            {"task": slug, "judge": name, "judge_version": version, "sha256": c.sha256}
            | {key: c.map[key] for key in ("method", "n", "half_width", "level", "spread")}
            | {"half_width": c.half_width}
            for (slug, name, version), fit in sorted(self.fits.items())
            if (c := fit.calibrator)
        ]

    def refusals(self) -> list[str]:
        """Why a judge's labels stayed its own."""
        return [
            f"{name} {version_word(version)} on {slug}: {fit.why_missing}."
            for (slug, name, version), fit in sorted(self.fits.items())
            if fit.why_missing
        ]


def _told(fits: Mapping[Key, Fit]) -> list[ToldFit]:
    return [(*key, fit.calibrator.sha256 if fit.calibrator else "", fit.why_missing) for key, fit in fits.items()]


def _current(slug: str, name: str, version: str) -> Fit:
    return current_fit(Task.objects.select_related("rubric").get(slug=slug), name, version)


def _kept(slug: str, name: str, version: str, sha256: str) -> Calibrator:
    return Calibrator.objects.get(task__slug=slug, judge_name=name, judge_version=version, sha256=sha256)
