"""Labels that were drawn with unequal probabilities: how many outputs each stands for, and what figures are made of.

Tables and sums of the labels, of the whole and of each resample, and the interval of a figure that is made from them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from graders.calibration.arrays import Floats, Ints, cluster_numbers, stratum_numbers
from graders.calibration.jackknife import Kind
from graders.calibration.resample import Mask, Resamples, with_interval
from graders.calibration.result import Estimate
from graders.calibration.weighted import merged_strata


@dataclass(frozen=True)
class Population:
    """The N outputs that the labels were drawn from: the stratum and the prompt of each (N,), and where each label lies (n,)."""

    strata: Iterable[Hashable]
    clusters: Iterable[Hashable]
    places: Ints


@dataclass(frozen=True)
class _Layers:
    """The outputs drawn from: how many of each stratum each prompt has (P, H), and that prompt's place among the resamples' (P,).

    Prompts without a label have places of their own.
    """

    outputs: Floats
    places: Ints


@dataclass(frozen=True)
class Drawn:
    """The labels used: how many outputs each stands for (n,), the stratum of each if there are any, and the resamples of them.

    In each resample a stratum keeps its weight: its labels that are there stand for those that are not. With `layers`, H more
    rows come after those of the resamples: all labels, were there one output less of each of H strata.
    """

    sizes: Floats
    strata: Ints | None
    resamples: Resamples
    layers: _Layers | None

    def of(self, rows: Mask) -> Drawn:
        return Drawn(self.sizes[rows], None if self.strata is None else self.strata[rows], self.resamples.of(rows), self.layers)

    def tables(self, cells: Ints, n_cells: int) -> tuple[Floats, Floats]:
        """How many outputs lie in each cell, (n_cells,) and of each resample (n_boot, n_cells)."""
        whole = np.bincount(cells, self.sizes, minlength=n_cells).astype(np.float64)
        drawn = [part.counts_of(cells[rows], n_cells, self.sizes[rows]) * times for rows, part, times in self._parts()]
        of_strata = [np.bincount(cells[rows], self.sizes[rows], minlength=n_cells).astype(np.float64) for rows in self._strata()]
        return whole, self._with_one_less(whole, np.asarray(sum(drawn[1:], drawn[0])), of_strata)

    def sums(self, columns: Floats) -> tuple[Floats, Floats]:
        """Sums of columns (n, k), each output as often as it stands for: (k,), and of each resample (n_boot, k)."""
        heavy = columns * self.sizes[:, None]
        drawn = [part.sums(heavy[rows]) * times for rows, part, times in self._parts()]
        whole, of_strata = heavy.sum(axis=0), [heavy[rows].sum(axis=0) for rows in self._strata()]
        return whole, self._with_one_less(whole, np.asarray(sum(drawn[1:], drawn[0])), of_strata)

    def _strata(self) -> Iterator[Mask]:
        if self.layers is not None and self.strata is not None:
            yield from (self.strata == stratum for stratum in range(self.layers.outputs.shape[1]))

    def _with_one_less(self, whole: Floats, drawn: Floats, of_strata: list[Floats]) -> Floats:
        if self.layers is None:
            return drawn
        outputs = self.layers.outputs.sum(axis=0)
        less = [whole - mine / max(count, 1.0) for mine, count in zip(of_strata, outputs.tolist(), strict=True)]
        return np.concatenate([drawn, np.stack(less)])

    def _parts(self) -> Iterator[tuple[Mask, Resamples, Floats | float]]:
        """Each stratum: its rows, their resamples, and by how much it is made up for what each resample lacks of it."""
        if self.strata is None:
            yield np.ones(len(self.sizes), dtype=bool), self.resamples, 1.0
            return
        for stratum in np.unique(self.strata):
            rows = self.strata == stratum
            part, n = self.resamples.of(rows), int(rows.sum())
            there = part.counts_of(np.zeros(n, dtype=np.int64), 1)
            yield rows, part, np.divide(n, there, out=np.zeros_like(there), where=there > 0)

    def scaled(self, value: float, drawn: Floats) -> Floats:
        """What a figure is without each prompt, each change scaled to (n - 1) / n of its stratum and not of all prompts.

        With `layers`, all changes are made larger by what the strata's shares of outputs vary by.
        """
        n_boot = self.resamples.n_boot
        drawn, less = drawn[:n_boot], drawn[n_boot:]
        if self.strata is None or self.resamples.is_drawn:
            return drawn if self.layers is None else value + (drawn - value) * self._larger(drawn - value, less - value)
        clusters, count, n_prompts = self.resamples.clusters, np.bincount(self.strata), max(self.resamples.n_drawn_from, 2)
        factor = np.sqrt((1 - 1 / np.maximum(count, 1)) * n_prompts / (n_prompts - 1))[self.strata]
        of_prompt = np.bincount(clusters, factor, minlength=len(drawn)) / np.maximum(np.bincount(clusters, minlength=len(drawn)), 1)
        changes = (drawn - value) * of_prompt
        return np.asarray(value + changes * (1.0 if self.layers is None else self._larger(changes, less - value)))

    def _larger(self, changes: Floats, less: Floats) -> float:
        """The root of the variance in both phases over that in the second, 1 at least.

        Without each prompt a figure changes by `changes`, and by `less` (H,) for each output less of a stratum.
        """
        assert self.layers is not None
        first = self.layers.outputs @ np.nan_to_num(less)
        changes = changes[np.isfinite(changes)] if self.resamples.is_drawn else np.nan_to_num(changes)
        if self.resamples.is_drawn:  # a resample is of many prompts: both phases are taken as independent
            second = float(changes.var())
            both = second + float((first**2).sum())
        else:
            second = float((changes**2).sum())
            by_prompt = np.bincount(self.layers.places, first).astype(np.float64)
            by_prompt[: len(changes)] += changes
            both = float((by_prompt**2).sum())
        return max(both / second, 1.0) ** 0.5 if second > 0 else 1.0

    def estimate(self, value: float, drawn: Floats, n_dropped: int, kind: Kind, unseen: Floats | None = None) -> Estimate:
        return with_interval(value, self.scaled(value, drawn), self.resamples, len(self.sizes), n_dropped, kind=kind, unseen=unseen)


def drawn_labels(
    weights: Floats, used: Mask, resamples: Resamples, strata: Iterable[Hashable] | None, population: Population | None
) -> Drawn:
    part = resamples.of(used)
    if population is not None:
        return _labels_of(weights, used, part, population)
    layers = None
    if strata is not None:
        layers = merged_strata(stratum_numbers("strata", strata, len(used))[used], np.arange(int(used.sum())))
    return Drawn(_sizes(weights[used]), layers, part, None)


def _labels_of(weights: Floats, used: Mask, resamples: Resamples, population: Population) -> Drawn:
    if len(population.places) != len(used):
        raise ValueError(f"population.places has {len(population.places)} entries, must have one a label: {len(used)}")
    places, prompts = np.asarray(population.places)[used], population.clusters
    prompts = prompts if isinstance(prompts, np.ndarray) else list(prompts)
    strata = merged_strata(stratum_numbers("strata", population.strata, len(prompts)), places)
    clusters = cluster_numbers("clusters", prompts, len(prompts))
    n_prompts, n_strata = int(clusters.max()) + 1, int(strata.max()) + 1
    outputs = np.bincount(clusters * n_strata + strata, minlength=n_prompts * n_strata).reshape(n_prompts, n_strata)
    of_prompt = resamples.counts.shape[1] + np.arange(n_prompts)
    of_prompt[clusters[places]] = resamples.clusters
    return Drawn(_sizes(weights[used]), strata[places], resamples, _Layers(outputs.astype(np.float64), of_prompt))


def _sizes(weights: Floats) -> Floats:
    """Return how many outputs each label stands for: weights that sum to the effective number of labels."""
    return np.asarray(weights * (weights.sum() / (weights**2).sum())) if len(weights) else weights
