"""Every figure of the page's tables with its name, one line that says what it is, and where docs/calibration.md explains it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from graders.calibration.comparison import CORRELATIONS, Difference
from reviewapp.calibration.figures import Figure, figure
from reviewapp.calibration.words import between
from reviewapp.words import number, percent, short, signed

MOST_REVIEWERS = 50
OF_PEOPLE = ("people", "pass_rate")
BY_CHANCE = "As it would be over all outputs, by the chances of the queue's draw."
LABELLED_ALONE = " Of the labelled outputs alone."


@dataclass(frozen=True)
class Explained:
    group: str
    key: str
    title: str
    text: str
    write: Any = number
    anchor: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    text: str
    anchor: str
    value: str
    interval: str
    n: int
    why: str


TABLES: tuple[tuple[str, str, tuple[Explained, ...]], ...] = (
    (
        "people",
        "People among themselves",
        (
            Explained(
                "human", "alpha_ordinal", "Krippendorff's α, ordinal", "How far people agree beyond chance, by rank. 1 is full agreement."
            ),
            Explained("human", "alpha_interval", "Krippendorff's α, interval", "The same by squared distance in points."),
            Explained("human", "alpha_nominal", "Krippendorff's α, nominal", "The same where any two different answers differ alike."),
            Explained("human", "alpha_ordinal_weighted", "Ordinal α, by chances", BY_CHANCE),
            Explained("human", "alpha_interval_weighted", "Interval α, by chances", BY_CHANCE),
            Explained("human", "alpha_nominal_weighted", "Nominal α, by chances", BY_CHANCE),
            Explained("human", "icc", "ICC(1)", "How reliable the score of one reviewer, anyone, is.", anchor="reliability-of-reviews"),
            Explained("human", "icc_2k", "ICC(2,k)", "How reliable the mean of all reviewers is.", anchor="reliability-of-reviews"),
            Explained(
                "human",
                "reviews_needed",
                "Reviews needed",
                "Reviews an output for a reliability of 0.8 (Spearman-Brown).",
                short,
                "reviews-needed",
            ),
            Explained(
                "human",
                "spearman_second",
                "ρ of one reviewer",
                "One reviewer's ranking against the mean of the others.",
                anchor="second-reviewer",
            ),
            Explained("human", "mean", "Mean score", "Over reviews, in points.", anchor="mean-score"),
        ),
    ),
    (
        "agreement",
        "Agreement of judge and people",
        (
            Explained("judge", "weighted_kappa", "Weighted κ", "Quadratic weights, against the median person. Low on lopsided scores."),
            Explained("judge", "gwet_ac2", "Gwet's AC2", "Like κ, and not pulled down by lopsided scores. Read both."),
            Explained("judge", "alpha", "α with single people", "Set it beside people's own α: the judge as one more person."),
            Explained("judge", "weighted_kappa_weighted", "Weighted κ, by chances", BY_CHANCE),
            Explained("judge", "gwet_ac2_weighted", "Gwet's AC2, by chances", BY_CHANCE),
            Explained("judge", "alpha_weighted", "α with single people, by chances", BY_CHANCE),
        ),
    ),
    (
        "rank",
        "Ranking",
        (
            Explained(
                "judge", "spearman_within", "ρ within criteria", "Spearman's rank correlation with the mean person, inside each criterion."
            ),
            Explained("judge", "spearman", "ρ over all", "The same over all items at once: criteria alone can make it.", anchor="ranking"),
            Explained("judge", "kendall_b", "Kendall's τ-b", "Pairs in the same order less pairs in opposite order.", anchor="ranking"),
            Explained("judge", "pearson", "Pearson's r", "How far the scores lie on a line.", anchor="ranking"),
            Explained("judge", "spearman_within_weighted", "ρ within criteria, by chances", BY_CHANCE, anchor="ranking"),
            Explained("judge", "spearman_weighted", "ρ over all, by chances", BY_CHANCE, anchor="ranking"),
            Explained("judge", "pearson_weighted", "Pearson's r, by chances", BY_CHANCE, anchor="ranking"),
            Explained(
                "judge",
                "spearman_second",
                "ρ as a second reviewer",
                "The judge's ranking against the mean of all but one person.",
                anchor="second-reviewer",
            ),
            Explained(
                "judge",
                "spearman_gap",
                "Judge less reviewer",
                "That ρ less the one of the person left out. Above 0 the judge ranks better.",
                anchor="second-reviewer",
            ),
        ),
    ),
    (
        "error",
        "Error and bias, in points",
        (
            Explained("judge", "bias", "Bias", "Mean of judge less people. Above 0 the judge is generous."),
            Explained("judge", "mae", "Mean absolute error", "How far off the judge is on average."),
            Explained("judge", "bias_weighted", "Bias, by chances", BY_CHANCE),
            Explained("judge", "mae_weighted", "Mean absolute error, by chances", "The same for the error."),
            Explained("judge", "rmse_weighted", "Root mean squared error, by chances", "The same; large errors count for more."),
            Explained("judge", "loa", "Limits of agreement", "95 of 100 differences lie between them, were they normal (Bland-Altman)."),
        ),
    ),
    (
        "decision",
        "Pass or fail",
        (
            Explained("judge", "agreement", "Same verdict", "Share of outputs on which judge and majority decide alike.", percent),
            Explained("judge", "agreement_weighted", "Same verdict, by chances", BY_CHANCE, percent),
            Explained("judge", "precision", "Precision", "Of what the judge passes, people pass so much.", percent),
            Explained("judge", "recall", "Recall", "Of what people pass, the judge passes so much.", percent),
            Explained("judge", "f1", "F1", "Harmonic mean of precision and recall."),
            Explained("judge", "false_pass_rate", "False pass rate", "Of what people fail, the judge passes so much.", percent),
        ),
    ),
    (
        "chance",
        "The score read as a chance of passing",
        (
            Explained(
                "judge", "ece", "Calibration error", "Mean gap of stated chance and share that people pass, corrected for its upward bias."
            ),
            Explained("judge", "brier", "Brier score", "Mean squared gap of stated chance and outcome; 0.25 for always a half."),
        ),
    ),
    (
        "pass_rate",
        "Pass rates",
        (
            Explained("pass_rate", "raw", "Judge alone", "Of everything that the judge decided.", percent),
            Explained("pass_rate", "wilson", "People alone", "Of what they labelled, outputs taken as independent (Wilson).", percent),
            Explained("pass_rate", "human", "People alone, by prompt", "The same with outputs of a prompt taken together.", percent),
            Explained(
                "pass_rate", "ppi", "Judge corrected by people", "What people would pass had they graded everything (PPI++).", percent
            ),
        ),
    ),
    (
        "recalibration",
        "Recalibration, on prompts not seen",
        (
            Explained("calibrator", "mae_before", "Error before", "Mean absolute error of the judge as it is."),
            Explained("calibrator", "mae_after", "Error after", "The same when its score is mapped to the score that people would give."),
            Explained("calibrator", "bias_before", "Bias before", "Points too generous on average; below 0 too harsh."),
            Explained("calibrator", "bias_after", "Bias after", "The same after the map."),
            Explained("calibrator", "log_loss_before", "Log-loss before", "Of the score read as a chance of passing. Less is better."),
            Explained("calibrator", "log_loss_after", "Log-loss after", "The same after the map."),
            Explained(
                "calibrator", "half_width", "One prediction, ±", "About 95 of 100 mean human scores lie so near to their prediction."
            ),
        ),
    ),
    (
        "influences",
        "What else moves the judge",
        (
            Explained("bias", "length", "Length", "Points for one standard deviation of log length, at equal human score."),
            Explained("bias", "self_preference", "Own family", "Points for outputs of the judge's own model family, at equal human score."),
            Explained("bias", "position", "First answer", "How much more often than people it prefers the first of two answers.", percent),
            Explained(
                "bias",
                "formatting",
                "Formatting",
                "Points for one standard deviation of Markdown marks a thousand characters, at equal human score.",
            ),
            Explained("bias", "injection", "Words to the judge", "Points for texts that try to steer their judge, at equal human score."),
            Explained("bias", "reviewer", "Spread of reviewers", "Standard deviation of how generous reviewers are, in points."),
        ),
    ),
)

# Of two judges: a group of its own, in the order of graders.calibration.comparison.
COMPARED = (
    Explained("", "mae", "Mean absolute error", "How far off the judge is on average, in points. Less is better.", anchor="error-and-bias"),
    Explained("", "abs_bias", "Size of the bias", "Points too generous or too harsh on average. Less is better.", anchor="error-and-bias"),
    Explained(
        "", "weighted_kappa", "Weighted κ", "Agreement with the median person beyond chance.", anchor="agreement-of-judge-and-people"
    ),
    Explained("", "spearman", "Spearman's ρ", "Rank correlation with the mean person.", anchor="ranking"),
    Explained("", "kendall_b", "Kendall's τ-b", "Pairs in the same order less pairs in opposite order.", anchor="ranking"),
    Explained("", "pearson", "Pearson's r", "How far the scores lie on a line.", anchor="ranking"),
    Explained(
        "",
        "same_answer",
        "Same category",
        "The share of an output's people who give it the judge's category.",
        partial(percent, decimals=1),
        "comparing-two-judges",
    ),
)


@dataclass(frozen=True)
class ComparedRow:
    """A figure of two judges, in words; `interval` is that of the difference, and `better` a, b or neither."""

    title: str
    text: str
    anchor: str
    a: str
    b: str
    difference: str
    interval: str
    why: str
    better: str


def compared_rows(differences: Iterable[Difference], *, n_criteria: int) -> list[ComparedRow]:
    """A row a figure, with a third decimal: judges may differ by little. Of several criteria, correlations are those within them."""
    return [_compared_row(found, " within criteria" if n_criteria > 1 and found.name in CORRELATIONS else "") for found in differences]


def _compared_row(found: Difference, where: str) -> ComparedRow:
    line = next(line for line in COMPARED if line.key == found.name)
    write = partial(number, decimals=3) if line.write is number else line.write
    a, b = ("" if value is None else write(value) for value in (found.a, found.b))
    apart = found.difference
    difference = "" if apart.value is None else signed(apart.value, write)
    interval = between(figure(apart), write)
    return ComparedRow(f"{line.title}{where}", line.text, line.anchor, a, b, difference, interval, apart.why_missing, found.better)


def tables(figures: dict[str, Any], *, has_judge: bool) -> list[dict[str, Any]]:
    """Each table with its rows, in the order of the page; without a judge, those about people.

    Where chances differed, a figure that takes each label alike says that it is of the labelled outputs alone.
    """
    is_weighted = "alpha_nominal_weighted" in figures["human"]
    return [
        {
            "id": name,
            "title": title,
            "rows": [
                _row(figures[line.group][line.key], line, name, LABELLED_ALONE if is_weighted and _takes_each_alike(line) else "")
                for line in lines
                if line.key in figures[line.group]
            ],
        }
        for name, title, lines in TABLES
        if has_judge or name in OF_PEOPLE
    ]


def _takes_each_alike(line: Explained) -> bool:
    return not line.key.endswith("_weighted") and line.group not in ("pass_rate", "mean_score")


def rows_of(table: str, figures: dict[str, Any]) -> list[Row]:
    """The rows of one table whose figures are in `figures`."""
    lines = next(lines for name, _, lines in TABLES if name == table)
    return [_row(figures[line.key], line, table) for line in lines if line.key in figures]


def severities(figures: dict[str, Any]) -> list[Row]:
    """How generous each reviewer is, a row each."""
    by_reviewer = figures["bias"]["reviewer"].get("by_reviewer", {})
    if len(by_reviewer) > MOST_REVIEWERS or all(found["value"] is None for found in by_reviewer.values()):
        by_reviewer = {name: found for name, found in by_reviewer.items() if found["value"] is not None}
    return [_row(found, Explained("bias", name, name, ""), "influences") for name, found in by_reviewer.items()]


def _row(found: Figure, line: Explained, table: str, note: str = "") -> Row:
    value = found["value"]
    if isinstance(value, list):
        shown = f"{line.write(value[0])} to {line.write(value[1])}"
        interval = "; ".join(f"{line.write(low)} to {line.write(high)}" for low, high in found["ci"] or ())
    else:
        shown, interval = "" if value is None else line.write(value), between(found, line.write)
    why = found["why_missing"] or ""
    return Row(line.title, f"{line.text}{note}", line.anchor or ANCHORS[table], shown, interval, found["n"], why)


# Where a figure's own heading is not named, that of its table in docs/calibration.md.
ANCHORS = {
    "people": "agreement-among-people",
    "agreement": "agreement-of-judge-and-people",
    "rank": "ranking",
    "error": "error-and-bias",
    "decision": "pass-or-fail",
    "chance": "the-score-as-a-chance",
    "pass_rate": "pass-rates",
    "recalibration": "recalibration",
    "influences": "what-else-moves-the-judge",
}
