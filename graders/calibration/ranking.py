"""A ranking from comparisons in pairs, ties among them: Bradley-Terry strengths with intervals.

The fit is evalica's (Rust; takes ties and weights). Intervals go by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, score_array, sums_by
from graders.calibration.jackknife import degrees_left, spread_of
from graders.calibration.resample import FEW_PROMPTS, NO_RESAMPLES, ROUNDING, Resamples, all_agree
from graders.calibration.result import Estimate
from graders.calibration.student import student_quantile

PRIOR_TIES = 0.5  # of each player with a made-up average one, so that who never lost has a finite strength
MAX_PLAYERS = 200
MAX_STEPS = 1000
ONE_PROMPT = "no interval: all comparisons belong to one prompt"


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

    Notes
    -----
    Intervals come from what each prompt adds to a strength (its influence, as in a sandwich variance). Student's quantile has
    the degrees of freedom that the comparisons leave, were their results as the fit says (McCaffrey and Bell); with more
    than 200 prompts those that the parts show (`jackknife.spread_of`). The interval of `beats_average` is that of the
    strength, on its scale.

    References
    ----------
    Bradley and Terry (1952), Biometrika 39:324-345. Newman (2023), Journal of Machine Learning Research 24(238):1-25, for
    the fit. White (1982), Econometrica 50:1-25, for the sandwich; MacKinnon and White (1985), Journal of Econometrics
    29:305-325, HC2, for its use with few comparisons. McCaffrey and Bell (2006), Statistics in Medicine 25:4081-4098, for
    the degrees of freedom. Ustalov (2025), Reliable, Reproducible, and Really Fast
    Leaderboards with Evalica, COLING.

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
    games = _Games(x, y, results[used], len(players))
    values = games.strengths()
    part = None if resamples is None else resamples.of(used)
    found = None if part is None else _added(games, values, part)
    ratings = []
    for name, i in place.items():
        added = None if found is None else (found[0][:, i], float(found[1][i]))
        strength = _with_interval(float(values[i]), added, int(counts[i]), n_dropped=n_dropped, level=part.level if part else 0.95)
        ratings.append(Rating(name, strength, _as_chance(strength)))
    return tuple(sorted(ratings, key=lambda r: -(r.strength.value or 0.0)))


class _Games:
    """The comparisons; those of one kind (who, against whom, with what result) are fitted as one with a weight."""

    def __init__(self, x: Ints, y: Ints, outcome: Floats, n_players: int) -> None:
        self.x, self.y, self.outcome, self.n_players = x, y, outcome, n_players

    def strengths(self) -> Floats:
        """Log strengths that sum to 0 (n_players,)."""
        import evalica  # noqa: PLC0415 - brings pandas, 1 s to import

        n, winner = self.n_players, (evalica.Winner.Y, evalica.Winner.Draw, evalica.Winner.X)
        kinds, times = np.unique((self.x * n + self.y) * 3 + (2 * self.outcome).astype(np.int64), return_counts=True)
        found = evalica.bradley_terry(
            (kinds // 3 // n).tolist() + list(range(n)),
            (kinds // 3 % n).tolist() + [n] * n,
            [winner[r] for r in (kinds % 3).tolist()] + [evalica.Winner.Draw] * n,
            weights=times.tolist() + [PRIOR_TIES] * n,
            tolerance=1e-8,
            limit=MAX_STEPS,
        )
        logs = np.log(np.array([found.scores[i] for i in range(n)], dtype=np.float64))
        return np.asarray(logs - logs.mean())


def _added(games: _Games, values: Floats, resamples: Resamples) -> tuple[Floats, Floats]:
    """Return what each prompt adds to each strength, to first order (prompts, players), and each strength's degrees of freedom.

    What is added are scores times the inverse information. A comparison draws the strengths towards itself, so it seems less
    off than it is: by the root of 1 less its leverage.
    """
    n, (_, number) = len(games.x), np.unique(resamples.clusters, return_inverse=True)
    rows, sides = np.arange(n), np.zeros((n, games.n_players))
    sides[rows, games.x], sides[rows, games.y] = 1.0, -1.0
    expected, of_average = (1 / (1 + np.exp(-gap)) for gap in (values[games.x] - values[games.y], values))
    spread = expected * (1 - expected)
    information = sides.T @ (sides * spread[:, None])
    inverse = np.linalg.inv(information + np.diag(PRIOR_TIES * of_average * (1 - of_average)))
    leverage = np.minimum(spread * np.einsum("ij,jk,ik->i", sides, inverse, sides), 0.9)
    reach = sides @ (inverse - inverse.mean(axis=1, keepdims=True)) / np.sqrt(1 - leverage)[:, None]
    added = sums_by(number, reach * (games.outcome - expected)[:, None])
    if len(added) > FEW_PROMPTS:
        return added, np.array([spread_of(column).degrees for column in added.T])
    pulled = np.asarray(2 * inverse - inverse @ information @ inverse, dtype=np.float64)
    return added, np.array([_degrees(column, sides, spread, number, pulled) for column in reach.T])


def _degrees(reach: Floats, sides: Floats, spread: Floats, number: Ints, pulled: Floats) -> float:
    """Return the degrees of freedom of a strength's variance, were the results as the fit says.

    What each prompt adds is a linear form of the results less expected, whose variances are `spread`; `pulled` (players, players)
    is how these go together as the fit follows them.
    """
    own = np.asarray(np.bincount(number, reach**2 * spread), dtype=np.float64)
    return degrees_left(own, sums_by(number, sides * (reach * spread)[:, None]), pulled)


def _with_interval(value: float, found: tuple[Floats, float] | None, n: int, *, n_dropped: int, level: float) -> Estimate:
    """Return a strength with its interval from what each prompt adds to it, and its degrees of freedom."""
    if found is None or len(found[0]) < 2:
        return Estimate(value, None, None, n, why_missing=NO_RESAMPLES if found is None else ONE_PROMPT, n_dropped=n_dropped)
    added, degrees = found
    error = spread_of(value - added * len(added) / (len(added) - 1)).error
    if error <= ROUNDING * max(1.0, abs(value)):
        return Estimate(value, None, None, n, why_missing=all_agree(n), n_dropped=n_dropped)
    half = error * student_quantile(max(degrees, 1.0), (1 + level) / 2)
    method = f"what each of {len(added)} prompts adds"
    return Estimate(value, value - half, value + half, n, method=method, n_dropped=n_dropped)


def _why_undefined(x: Ints, y: Ints, n_players: int) -> str:
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


def _as_chance(strength: Estimate) -> Estimate:
    """The chance that goes with a strength, and so with the ends of its interval."""
    low, value, high = (None if end is None else float(1 / (1 + np.exp(-end))) for end in (strength.low, strength.value, strength.high))
    return replace(strength, low=low, value=value, high=high)
