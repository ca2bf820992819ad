"""A ranking from comparisons in pairs, ties among them: Bradley-Terry strengths with intervals.

The fit is evalica's (Rust; takes ties and weights). Resamples of prompts are fits with other weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graders.calibration.arrays import Floats, Scores, score_array
from graders.calibration.resample import Resamples, with_interval
from graders.calibration.result import Estimate

PRIOR_TIES = 0.5  # of each player with a made-up average one, so that who never lost has a finite strength
MAX_PLAYERS = 200
MAX_STEPS = 1000


@dataclass(frozen=True)
class Rating:
    """A player's strength: the log odds to beat an average one. `beats_average`: the same as a chance, 0 to 1."""

    name: str
    strength: Estimate
    beats_average: Estimate


def bradley_terry(first: Sequence[str], second: Sequence[str], outcome: Scores, resamples: Resamples | None = None) -> tuple[Rating, ...]:
    """Return the strength of every player, the strongest first.

    Parameters
    ----------
    first, second : sequence of str (n,)
        The two that were compared, such as models or variants.
    outcome : array (n,)
        1 where the first was preferred, 0 where the second, 0.5 a tie; NaN or None is left out.
    resamples : Resamples of the n comparisons, optional
        By prompt, for the intervals.

    Returns
    -------
    tuple of Rating
        A tie counts as half a win of each. Strengths sum to 0. Half a tie of each player with a made-up average one is
        added: it keeps a player that won everything finite, and shrinks all a little. Not defined for players whose
        comparisons link them with no other group of players: a rating across groups would be made up.

    References
    ----------
    Bradley and Terry (1952), Biometrika 39:324-345. Newman (2023), Journal of Machine Learning Research 24(238):1-25, for
    the fit. Ustalov (2025), Reliable, Reproducible, and Really Fast Leaderboards with Evalica, COLING.

    Examples
    --------
    >>> ratings = bradley_terry(["a", "a", "b", "a"], ["b", "b", "a", "b"], [1, 1, 1, 0.5])
    >>> [r.name for r in ratings], round(sum(r.strength.value for r in ratings), 6)
    (['a', 'b'], 0.0)
    """
    results = score_array("outcome", outcome)
    if not len(first) == len(second) == len(results):
        raise ValueError(f"first has {len(first)} entries, second {len(second)}, outcome {len(results)}: one each a comparison")
    wrong = results[~np.isnan(results) & ~np.isin(results, (0.0, 0.5, 1.0))]
    if wrong.size:
        raise ValueError(f"outcome has {wrong[0]:g}, allowed: 1 the first, 0.5 a tie, 0 the second")
    players = sorted({*first, *second})
    if len(players) > MAX_PLAYERS:
        raise ValueError(f"{len(players)} players, at most {MAX_PLAYERS} can be ranked")
    used = ~np.isnan(results)
    used &= np.array([a != b for a, b in zip(first, second, strict=True)], dtype=bool)
    n, n_dropped = int(used.sum()), int((~used).sum())
    place = {name: i for i, name in enumerate(players)}
    x, y = (np.array([place[name] for name in side], dtype=np.int64)[used] for side in (first, second))
    counts = np.bincount(np.concatenate([x, y]), minlength=len(players))
    if why := _why_undefined(x, y, len(players)):
        none = Estimate.missing(why, n, n_dropped)
        return tuple(Rating(name, none, none) for name in players)
    fit = _Fit(x, y, results[used], len(players))
    values = fit.strengths(np.ones(n))
    drawn = None if resamples is None else _drawn(fit, resamples.of(used))
    ratings = []
    for name, i in place.items():
        part = resamples and resamples.of(used)
        column = None if drawn is None else drawn[:, i]
        strength = with_interval(float(values[i]), column, part, int(counts[i]), n_dropped)
        chance = with_interval(
            _chance(float(values[i])), None if column is None else 1 / (1 + np.exp(-column)), part, int(counts[i]), n_dropped
        )
        ratings.append(Rating(name, strength, chance))
    return tuple(sorted(ratings, key=lambda r: -(r.strength.value or 0.0)))


class _Fit:
    """The comparisons, ready to be fitted with different weights."""

    def __init__(self, x: np.ndarray, y: np.ndarray, outcome: Floats, n_players: int) -> None:
        import evalica  # noqa: PLC0415 - brings pandas, 1 s to import

        self._evalica, self._n = evalica, n_players
        average = np.full(n_players, n_players)
        self._x, self._y = np.concatenate([x, np.arange(n_players)]).tolist(), np.concatenate([y, average]).tolist()
        winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
        self._winners = [winner[r] for r in outcome.tolist()] + [evalica.Winner.Draw] * n_players

    def strengths(self, weights: Floats) -> Floats:
        """Log strengths that sum to 0 (n_players,); `weights` (n,) of the comparisons."""
        every = np.concatenate([weights, np.full(self._n, PRIOR_TIES)]).tolist()
        found = self._evalica.bradley_terry(self._x, self._y, self._winners, weights=every, tolerance=1e-8, limit=MAX_STEPS)
        logs = np.log(np.array([found.scores[i] for i in range(self._n)], dtype=np.float64))
        return np.asarray(logs - logs.mean())


def _drawn(fit: _Fit, resamples: Resamples) -> Floats:
    """Return the strengths of each resample (n_boot, players)."""
    return np.stack([fit.strengths(resamples.counts[b][resamples.clusters]) for b in range(resamples.n_boot)])


def _why_undefined(x: np.ndarray, y: np.ndarray, n_players: int) -> str:
    if not len(x):
        return "not defined, because nothing was compared"
    group = np.arange(n_players)
    for _ in range(n_players):
        low = np.minimum(group[x], group[y])
        before = group.copy()
        np.minimum.at(group, x, low)
        np.minimum.at(group, y, low)
        if (group == before).all():
            break
    if len(np.unique(group)) > 1:
        return "not defined, because not all players are linked by comparisons"
    return ""


def _chance(strength: float) -> float:
    return float(1 / (1 + np.exp(-strength)))
