"""What a study says, in plain sentences, the uncomfortable ones first among equals.

Each has a topic, a kind that colours it (good, bad, unsure, or "" for a plain fact) and the text. A sentence that the
figures don't bear is not made up: with too little data it says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graders.calibration.noise import spearman_brown
from graders.calibration.resample import ROUNDING, all_agree
from reviewapp.calibration.words import between, is_above, is_below, with_interval
from reviewapp.words import counted, listed, number, percent, points, short

ENOUGH, TOO_LITTLE = 0.8, 0.5  # reliability of the mean review: good; too low to hold a judge to
ALIKE = 0.1  # difference of rank correlations that counts as none, where the whole interval lies in it
FEW_OUTPUTS, FEW_PROMPTS = 30, 10
NO_BIAS = 1 / 40  # of the scale: one so small moves hardly any decision, and none larger is there where the whole interval lies in it
LOW_KAPPA, SKEWED = 0.4, 0.25  # a low kappa, and AC2 above it by so much: scores lie close together


@dataclass(frozen=True)
class Sentence:
    topic: str
    kind: str
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Scope:
    """What the sentences are about. `figures` are the groups of this scope; `overview` has a row a criterion."""

    judge: str  # "" without one
    name: str  # the criterion in words, "" for all together
    figures: dict[str, Any]
    overview: tuple[dict[str, Any], ...]
    scale: tuple[float, float]
    is_binary: bool
    is_categorical: bool
    n_labelled: int
    n_studied: int  # of these, those that the judge scored
    n_prompts: int
    reviews: float  # people's scores an output, on average
    constant: dict[str, Any] | None = None  # what a judge that always gives one score would reach in the annotator test

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """The criteria that the scope is about: all, or the one."""
        return tuple(row for row in self.overview if self.name in ("", row["title"]))

    @property
    def smallest_bias(self) -> float:
        """In points: what counts as none."""
        return NO_BIAS * (self.scale[1] - self.scale[0])


def sentences(scope: Scope) -> list[Sentence]:
    if not scope.n_labelled:
        return [_no_labels(scope)]
    found = [ceiling(scope)]
    if scope.judge and not scope.n_studied:
        found.append(no_overlap(scope))
    if scope.judge and scope.n_studied:
        found += [bias(scope), ranking(scope), agreement(scope), decision(scope), annotator_test(scope), *influences(scope)]
    found += [few_labels(scope), reviewers(scope)]
    return [sentence for sentence in found if sentence]


def over_all(group: dict[str, Any], name: str) -> dict[str, Any]:
    """A figure as it would be over all outputs, where chances differed; else the plain one."""
    found: dict[str, Any] = group.get(f"{name}_weighted", group[name])
    return found


def _no_labels(scope: Scope) -> Sentence:
    who = f"how far {scope.judge} agrees with people" if scope.judge else "how far people agree with each other"
    return Sentence("Labels", "unsure", f"No output has a score by a person in this mode, so nobody can say {who}.")


def no_overlap(scope: Scope) -> Sentence:
    """Judge and people on different outputs: what it takes to hold the one to the other."""
    labelled = f"the {scope.n_labelled:,} outputs" if scope.n_labelled > 1 else "the one output"
    text = (
        f"{scope.judge} and people share no graded output: it scored none of {labelled} that people graded, so nothing can be said of it. "
        "Grade outputs that it graded, or have it grade those that people did."
    )
    return Sentence("Judge", "unsure", text)


def ceiling(scope: Scope) -> Sentence:
    """How far people agree: what no judge can be asked to beat, and how many reviews would make it a fair bar."""
    human = scope.figures["human"]
    if scope.is_categorical:
        return _categorical_ceiling(over_all(human, "alpha_nominal"))
    rows = [row for row in scope.rows if row["icc"]["value"] is not None and row["human_alpha"]["value"] is not None]
    if not rows:
        why = (human["icc"]["why_missing"] or human["alpha_ordinal"]["why_missing"]).removeprefix("not defined, because ")
        text = f"How far people agree with each other is not known, because {why}. Without it nobody can say how good a judge could be."
        return Sentence("Ceiling", "unsure", text, "people")
    weakest = min(rows, key=lambda row: row["icc"]["value"])
    single, needed = weakest["icc"], weakest["reviews_needed"]
    head, where = _agreement_of_people(rows), f" on {weakest['title'].lower()}, where they agree least," if len(rows) > 1 else ""
    if single["value"] <= 0:
        text = f"{head} Less than chance{where.rstrip(',')}: no number of such reviews could validate a judge."
        return Sentence("Ceiling", "bad", text, "people")
    now = spearman_brown(single["value"], max(scope.reviews, 1.0))
    body = f" The mean of {counted_reviews(scope.reviews)} an output{where} has a reliability of {number(now)}"
    if now >= ENOUGH:
        return Sentence("Ceiling", "good", f"{head}{body}: firm ground to hold a judge to.", "people")
    interval = f" ({between(needed, short)})" if needed["ci"] else f" ({needed['why_missing']})"
    more = f"It would take {short(needed['value'])} reviews an output{interval} for a reliability of {ENOUGH} (Spearman-Brown)."
    if now < TOO_LITTLE:
        return Sentence("Ceiling", "bad", f"{head}{body}: too low to validate any judge. {more}", "people")
    return Sentence("Ceiling", "unsure", f"{head}{body}: read every figure of the judge beside that. {more}", "people")


def _agreement_of_people(rows: list[dict[str, Any]]) -> str:
    if len(rows) == 1:
        return f"Reviewers agree with each other at α {with_interval(rows[0]['human_alpha'])}."
    low, *_, high = sorted(rows, key=lambda row: row["human_alpha"]["value"])
    ends = [f"{with_interval(row['human_alpha'])} on {row['title'].lower()}" for row in (low, high)]
    return f"Reviewers agree with each other at α from {ends[0]} to {ends[1]}."


def counted_reviews(mean: float) -> str:
    return "1 review" if short(mean) == "1" else f"{short(mean)} reviews"


def _categorical_ceiling(alpha: dict[str, Any]) -> Sentence:
    if alpha["value"] is None:
        return Sentence("Ceiling", "unsure", f"How far people agree with each other is {alpha['why_missing']}.", "people")
    return Sentence("Ceiling", "", f"People agree with each other at α {with_interval(alpha)}, where 1 is full and 0 is chance.", "people")


def bias(scope: Scope) -> Sentence | None:
    if scope.is_categorical:
        return None
    rows = [row for row in scope.rows if row["bias"]["value"] is not None]
    if not rows:
        return Sentence("Bias", "unsure", f"Whether {scope.judge} is generous or harsh is {scope.figures['judge']['bias']['why_missing']}.")
    if len(rows) == 1:
        return _one_bias(scope, rows[0])
    generous = [row for row in rows if is_above(row["bias"])]
    harsh = [row for row in rows if is_below(row["bias"])]
    level = [row for row in rows if row not in generous and row not in harsh and _is_level(scope, row["bias"])]
    untold = [row for row in rows if row not in generous and row not in harsh and row not in level]
    if len(level) == len(rows):
        text = f"{scope.judge} is off in no one direction on any of the {len(rows)} criteria, to within {_tolerance(scope)}."
        return Sentence("Bias", "good", text, "error")
    parts = [f"too {word} on {_biases(scope, some)}" for word, some in (("harsh", harsh), ("generous", generous)) if some]
    said = [f"{scope.judge} is {', and '.join(parts)}."] if parts else []
    if level:
        said.append(f"No bias shows on {_named(level)}, to within {_tolerance(scope)}.")
    if untold:
        said.append(_untold_biases(scope, untold))
    kind = "bad" if any(_matters(scope, row["bias"]) for row in (*harsh, *generous)) else "unsure" if untold else ""
    return Sentence("Bias", kind, " ".join(said), "error")


def _is_level(scope: Scope, found: dict[str, Any]) -> bool:
    return found["ci"] is not None and max(abs(end) for end in found["ci"]) <= scope.smallest_bias


def _matters(scope: Scope, found: dict[str, Any]) -> bool:
    """With many labels the smallest bias shows."""
    return abs(found["value"]) >= scope.smallest_bias


def _tolerance(scope: Scope) -> str:
    return _unit(scope)(scope.smallest_bias) if scope.is_binary else points(scope.smallest_bias)


def _untold_biases(scope: Scope, rows: list[dict[str, Any]]) -> str:
    why = next((row["bias"]["why_missing"] for row in rows if row["bias"]["ci"] is None), "")
    return f"Whether {scope.judge} is generous or harsh on {_named(rows)} can't be told yet{f' ({why})' if why else ''}."


def _one_bias(scope: Scope, row: dict[str, Any]) -> Sentence:
    found, of = row["bias"], f" on {row['title'].lower()}" if len(scope.overview) > 1 else ""
    if is_above(found) or is_below(found):
        word = "generous" if is_above(found) else "harsh"
        kind = "bad" if _matters(scope, found) else ""
        return Sentence("Bias", kind, f"{scope.judge} is {_size(scope, found)} too {word}{of}.", "error")
    if found["why_missing"] == all_agree(found["n"]):
        return _unvaried_bias(scope, found, of)
    differs = f"differs from people by {with_interval(found, _unit(scope))}"
    if _is_level(scope, found):
        return Sentence("Bias", "good", f"No bias shows{of}, to within {_tolerance(scope)}: {scope.judge} {differs}.", "error")
    why = f"; {found['why_missing']}" if found["ci"] is None else ""
    text = f"Whether {scope.judge} is generous or harsh{of} can't be told yet: it {differs}{why}."
    return Sentence("Bias", "unsure", text, "error")


def _unvaried_bias(scope: Scope, found: dict[str, Any], of: str) -> Sentence:
    """The judge is off by the same on every score, which says nothing of how sure the figure is."""
    size, each = abs(found["value"]), f"each of {counted(found['n'], 'score')}"
    if size <= ROUNDING:
        text = f"{scope.judge} says{of} what people say, on {each}"
    else:
        much = _unit(scope)(size) if scope.is_binary else points(size)
        text = f"{scope.judge} is {much} too {'generous' if found['value'] > 0 else 'harsh'}{of}, on {each}"
    return Sentence("Bias", "unsure", f"{text}: with no difference among them there is no interval.", "error")


def _named(rows: list[dict[str, Any]]) -> str:
    return listed([row["title"].lower() for row in rows])


def _biases(scope: Scope, rows: list[dict[str, Any]]) -> str:
    return listed([f"{row['title'].lower()}: {_size(scope, row['bias'])}" for row in rows])


def _size(scope: Scope, found: dict[str, Any]) -> str:
    """The size of a bias without its sign, and its interval from small to large."""
    write = _unit(scope)
    low, high = sorted(abs(end) for end in found["ci"])
    value = abs(found["value"])
    head = write(value) if scope.is_binary else points(value)
    return f"{head} ({number(low) if not scope.is_binary else write(low)} to {number(high) if not scope.is_binary else write(high)})"


def _unit(scope: Scope) -> Any:
    """Points of the scale; of pass or fail the share of outputs."""
    span = scope.scale[1] - scope.scale[0]
    return (lambda value: f"{number(100 * value / span, 0)} %") if scope.is_binary else number


def ranking(scope: Scope) -> Sentence | None:
    if scope.is_categorical or scope.is_binary:
        return None
    judge, people = scope.figures["judge"]["spearman_second"], scope.figures["human"]["spearman_second"]
    gap = scope.figures["judge"]["spearman_gap"]
    if gap["value"] is None:
        alone = over_all(scope.figures["judge"], "spearman_within")
        if alone["value"] is None:
            return Sentence("Ranking", "unsure", f"How {scope.judge} ranks outputs is {alone['why_missing']}.", "rank")
        text = f"The rank correlation of {scope.judge} with people is ρ {with_interval(alone)}. There is no second reviewer beside it."
        return Sentence("Ranking", "", text, "rank")
    rhos = f"ρ {number(judge['value'])}, reviewers among themselves {number(people['value'])}"
    by = f"({rhos}; difference {number(gap['value'])}{_comma(gap)})"
    where = " within each criterion" if not scope.name and len(scope.rows) > 1 else ""
    if gap["ci"] and max(abs(end) for end in gap["ci"]) <= ALIKE:
        kind, verdict = "good", f"as well as a second reviewer would, to within {ALIKE:g}"
    elif is_above(gap):
        kind, verdict = "good", "better than a second reviewer would"
    elif is_below(gap):
        kind, verdict = "bad", "less well than a second reviewer would"
    else:
        text = f"Whether {scope.judge} ranks outputs as well as a second reviewer would can't be told yet {by}."
        return Sentence("Ranking", "unsure", text, "rank")
    return Sentence("Ranking", kind, f"{scope.judge} ranks outputs{where} {verdict} {by}.", "rank")


def _comma(found: dict[str, Any]) -> str:
    """The interval inside brackets that are open already."""
    return f", {between(found)}" if found["ci"] else ""


def agreement(scope: Scope) -> Sentence | None:
    judge = scope.figures["judge"]
    if scope.is_categorical:
        found = over_all(judge, "alpha")
        if found["value"] is None:
            return Sentence("Agreement", "unsure", f"How far {scope.judge} agrees with people is {found['why_missing']}.", "agreement")
        return Sentence("Agreement", "", f"{scope.judge} agrees with single people at α {with_interval(found)}.", "agreement")
    kappa, ac2, pooled, within = (over_all(judge, name) for name in ("weighted_kappa", "gwet_ac2", "spearman", "spearman_within"))
    if None not in (kappa["value"], ac2["value"]) and kappa["value"] < LOW_KAPPA and ac2["value"] - kappa["value"] > SKEWED:
        text = (
            f"Scores lie close together, so κ is low, {with_interval(kappa)}, where AC2 is high, {with_interval(ac2)}: "
            "agreement that is hard to tell from habit. Read both."
        )
        return Sentence("Agreement", "unsure", text, "agreement")
    if not scope.name and len(scope.rows) > 1 and pooled["value"] is not None and within["value"] is not None:
        if abs(pooled["value"] - within["value"]) > ALIKE:
            text = (
                f"Over all criteria at once ρ is {number(pooled['value'])}, inside the criteria {number(within['value'])}: "
                "part of the first comes from which criteria score high. Read the second."
            )
            return Sentence("Agreement", "unsure", text, "rank")
    return None


def decision(scope: Scope) -> Sentence | None:
    judge = scope.figures["judge"]
    wrong, recall = judge["false_pass_rate"], judge["recall"]
    if wrong["value"] is None or recall["value"] is None:
        return None
    missed = {"value": 1 - recall["value"], "ci": recall["ci"] and [1 - recall["ci"][1], 1 - recall["ci"][0]]}
    text = (
        f"Of what people fail, {scope.judge} passes {with_interval(wrong, percent)}; "
        f"of what people pass, it fails {with_interval(missed, percent)}."
    )
    return Sentence("Pass or fail", "", text, "decision")


def annotator_test(scope: Scope) -> Sentence | None:
    test = scope.figures["alt_test"]
    if test["winning_rate"] is None:
        return None
    won, n = round(test["winning_rate"] * len(test["p_values"])), len(test["p_values"])
    may = "may" if test["passes"] else "may not"
    against = f"the alternative annotator test has it win against {won} of {n} (ε {test['epsilon']:g})"
    text = f"{scope.judge} {may} stand in for a reviewer: {against}."
    if test["passes"] or test["advantage_probability"] <= 0.5:
        return Sentence("Stand-in", "good" if test["passes"] else "bad", text, "alt_test")
    advantage = {"value": test["advantage_probability"], "ci": test["advantage_probability_ci"]}
    text += (
        f" Its advantage probability alone looks good, {with_interval(advantage)}, and misleads: "
        "it says only how often the judge lands as near to the others as a person does."
    )
    if scope.constant:
        text += f" A judge that gives every output a {short(scope.constant['score'])} would have {number(scope.constant['advantage'])}."
    return Sentence("Stand-in", "bad", text, "alt_test")


def influences(scope: Scope) -> list[Sentence]:
    """What moves the judge other than quality, where the interval shows it."""
    found, bias_of = [], scope.figures["bias"]
    probes = (
        ("length", "outputs one standard deviation longer get", "at equal human score"),
        ("self_preference", "models of its own family get", "at equal human score"),
    )
    for name, who, how in probes:
        figure = bias_of[name]
        if is_above(figure) or is_below(figure):
            word = "more" if figure["value"] > 0 else "fewer"
            text = f"From {scope.judge}, {who} {_size(scope, figure)} {word}, {how}."
            found.append(Sentence("Influence", "bad", text, "influences"))
    position = bias_of["position"]
    if is_above(position) or is_below(position):
        side = "first" if position["value"] > 0 else "second"
        both = {"value": abs(position["value"]), "ci": sorted(abs(end) for end in position["ci"])}
        text = f"{scope.judge} prefers the {side} answer more often than people do, by {with_interval(both, percent)} of comparisons."
        found.append(Sentence("Influence", "bad", text, "influences"))
    return found


def few_labels(scope: Scope) -> Sentence | None:
    missing = scope.figures["calibrator"]["labels_missing"]
    if not scope.judge or not 0 < scope.n_studied:
        return None
    if scope.n_studied >= FEW_OUTPUTS and scope.n_prompts >= FEW_PROMPTS and not missing:
        return None
    what = f"{counted(scope.n_studied, 'output')} of {counted(scope.n_prompts, 'prompt')}"
    text = f"{what} {'has' if scope.n_studied == 1 else 'have'} both scores: too few to lean on any figure here."
    if missing:
        text += f" Label {missing} more before the judge's scores can be recalibrated."
    return Sentence("Labels", "unsure", text, "labels")


def reviewers(scope: Scope) -> Sentence | None:
    """Who is plainly more generous or harsher than the others: to tell a harsh reviewer from a bad judge."""
    by_reviewer = scope.figures["bias"]["reviewer"].get("by_reviewer", {})
    apart = [(name, f) for name, f in by_reviewer.items() if f["value"] is not None and (is_above(f) or is_below(f))]
    if not apart or scope.is_categorical:
        return None
    name, figure = max(apart, key=lambda pair: abs(pair[1]["value"]))
    word = "more generous" if figure["value"] > 0 else "harsher"
    text = f"Reviewers differ among themselves too: {name} is {_size(scope, figure)} {word} than their mean on the same outputs."
    return Sentence("Reviewers", "", text, "reviewers")
