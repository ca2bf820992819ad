"""Published studies, through the import and the database, give the figures that their data are known to give.

Figures: Fabbri et al. (TACL 2021) and Calderon et al. (ACL 2025) for the scores, published.txt for the alternative annotator
test (printed by the authors' notebook), Si et al. (ICLR 2025) for the research ideas.
"""

import json
import os
import re
from html import unescape
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import transaction

from reviewapp.calibration.grades import judges_of
from reviewapp.calibration.study import study
from reviewapp.interchange.public import load_public
from reviewapp.models import Task

SHARED = Path(os.environ.get("TOUCHSTONE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
DATA = SHARED / "data"
PUBLISHED = DATA / "alttest" / "published.txt"
pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"published studies: not in {DATA} (set TOUCHSTONE_SHARED)"),
]

STUDIES = ("summeval", "mtbench", "cebab_stars", "research_ideas")
EPSILON = {"summeval": 0.2, "mtbench": 0.2, "cebab_stars": 0.1}
PEOPLE = {  # alpha ordinal, alpha interval
    "pooled": (0.6953, 0.7187), "coherence": (0.5537, 0.5591), "consistency": (0.7964, 0.8993),
    "fluency": (0.5878, 0.7262), "relevance": (0.3967, 0.4526),
}  # fmt: skip
GPT_4O = {  # Spearman, Kendall b, Pearson, MAE, bias against the mean of three experts, weighted kappa against their median
    "coherence": (0.5345, 0.4443, 0.5506, 0.7310, -0.2456, 0.4590),
    "consistency": (0.5315, 0.4846, 0.6436, 0.7992, -0.7154, 0.4661),
    "fluency": (0.4583, 0.4195, 0.4760, 1.2869, -1.2335, 0.1744),
    "relevance": (0.4503, 0.3813, 0.4651, 1.2173, -1.1727, 0.1981),
}
FIGURES = ("spearman", "kendall_b", "pearson", "mae", "bias", "weighted_kappa")
IDEAS = {"novelty": 0.1861, "excitement": 0.1378, "feasibility": 0.0863, "effectiveness": 0.0560, "overall": 0.1044}
IDEA_MEANS = {
    "novelty": (4.84, 5.64, 5.81), "excitement": (4.55, 5.19, 5.46), "feasibility": (6.61, 6.34, 6.44),
    "effectiveness": (5.13, 5.47, 5.55), "overall": (4.68, 4.85, 5.34),
}  # fmt: skip


def published_rows() -> list[tuple[str, str, str, str]]:
    """(data set, judge, winning rate, advantage probability) as printed."""
    if not PUBLISHED.is_file():
        return []
    lines = [line.split() for line in PUBLISHED.read_text().splitlines() if not line.startswith("#")]
    return [(w[0], w[1], w[4].removeprefix("Rate="), w[6].removeprefix("Probability=")) for w in lines]


@pytest.fixture(scope="module")
def studies(django_db_setup, django_db_blocker):
    """All four, loaded once; what they wrote is rolled back."""
    with django_db_blocker.unblock(), transaction.atomic():
        for name in STUDIES:
            load_public(name, DATA)
        yield {name: Task.objects.get(slug=name) for name in STUDIES}
        transaction.set_rollback(True)


def calibrate(*arguments: str) -> dict:
    out = StringIO()
    call_command("calibrate", *arguments, "--json", stdout=out)
    (line,) = out.getvalue().splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def gpt_4o(studies):
    return calibrate("--task", "summeval", "--judge", "gpt-4o")


@pytest.fixture(scope="module")
def ideas(studies):
    return calibrate("--task", "research_ideas")


def of(found: dict, name: str) -> dict:
    return found["pooled"] if name == "pooled" else found["criteria"][name]


@pytest.mark.parametrize("name", PEOPLE)
def test_summeval_experts_agree_as_far_as_krippendorffs_alpha_says(gpt_4o, name):
    human = of(gpt_4o, name)["human"]
    found = (human["alpha_ordinal"]["value"], human["alpha_interval"]["value"])
    assert tuple(round(value, 4) for value in found) == PEOPLE[name]


@pytest.mark.parametrize("aspect", GPT_4O)
def test_gpt_4o_follows_the_experts_of_summeval_as_far_as_known(gpt_4o, aspect):
    judge = of(gpt_4o, aspect)["judge"]
    assert tuple(round(judge[name]["value"], 4) for name in FIGURES) == GPT_4O[aspect]


def test_limits_of_agreement_of_gpt_4o_on_coherence(gpt_4o):
    assert [round(end, 3) for end in of(gpt_4o, "coherence")["judge"]["loa"]["value"]] == [-1.993, 1.502]


def test_the_study_says_what_it_is_about(gpt_4o):
    head = {key: gpt_4o[key] for key in ("task", "judge", "mode", "n_outputs", "n_humans")}
    assert head == {"task": "summeval", "judge": "gpt-4o@1", "mode": "blind", "n_outputs": 1600, "n_humans": 3}
    assert of(gpt_4o, "pooled")["judge"]["mae"]["n"] == 6400


def test_every_figure_has_its_interval_or_says_why_not(gpt_4o):
    for name in PEOPLE:
        for group in ("human", "judge", "calibrator", "bias"):
            for figure in of(gpt_4o, name)[group].values():
                if isinstance(figure, dict) and "ci" in figure and figure["ci"] is None:
                    assert figure["why_missing"]
                elif isinstance(figure, dict) and "ci" in figure and not isinstance(figure["value"], list):
                    assert figure["ci"][0] <= figure["value"] <= figure["ci"][1]


@pytest.mark.parametrize("data, judge, winning_rate, advantage", published_rows(), ids=lambda value: value)
def test_the_alternative_annotator_test_comes_out_as_its_authors_print_it(studies, data, judge, winning_rate, advantage):
    task = studies[data]
    grader = next(g for g in judges_of(task) if g.name == judge)
    test = study(task, grader, epsilon=EPSILON[data], n_boot=20)["pooled"]["alt_test"]
    assert (f"{test['winning_rate']:.2f}", f"{test['advantage_probability']:.2f}") == (winning_rate, advantage)


def test_all_eighteen_published_rows_are_compared():
    assert len(published_rows()) == 18


@pytest.mark.parametrize("data, epsilon, winning_rate", [("mtbench", "0.2", 0.0), ("cebab_stars", "0.1", 0.9)])
def test_the_command_prints_the_alternative_annotator_test(studies, data, epsilon, winning_rate):
    test = calibrate("--task", data, "--judge", "gpt-4o@1", "--epsilon", epsilon)["pooled"]["alt_test"]
    assert test["winning_rate"] == winning_rate
    assert test["passes"] is (winning_rate >= 0.5)


def test_the_judge_with_the_best_advantage_may_rank_worst(studies):
    found = study(studies["summeval"], next(g for g in judges_of(studies["summeval"]) if g.name == "mistral-v03"), n_boot=20)["pooled"]
    assert round(found["alt_test"]["advantage_probability"], 2) == 0.62
    assert round(found["judge"]["spearman"]["value"], 2) == 0.09


@pytest.mark.parametrize("criterion", IDEAS)
def test_experts_hardly_agree_on_research_ideas(ideas, criterion):
    human = of(ideas, criterion)["human"]
    means = tuple(round(human["mean_by_model"][c]["value"], 2) for c in ("Human", "AI", "AI_Rerank"))
    assert (round(human["alpha_interval"]["value"], 4), means) == (IDEAS[criterion], IDEA_MEANS[criterion])


def test_research_ideas_need_many_more_reviews_than_they_have(ideas):
    needed = [of(ideas, criterion)["human"]["reviews_needed"] for criterion in IDEAS]
    assert min(figure["value"] for figure in needed) >= 20
    assert ideas["judge"] is None and of(ideas, "overall")["judge"]["mae"]["why_missing"]


def page_text(client, path: str, **query: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", client.get(path, query).content.decode())))


def test_the_page_shows_the_published_figures_of_gpt_4o(studies, as_viewer):
    said = page_text(as_viewer, "/calibration/summeval/", judge="gpt-4o", criterion="coherence")
    for title, value in {"Krippendorff's α, ordinal": "0.55", "ρ over all": "0.53", "Kendall's τ-b": "0.44", "Pearson's r": "0.55"}.items():
        assert f"{title} {value} " in said
    assert "gpt-4o v1 is 0.25 points (0.17 to 0.32) too harsh on coherence." in said
    assert "Limits of agreement −1.99 to 1.50 " in said


def test_the_page_tells_a_good_advantage_from_a_good_judge(studies, as_viewer):
    said = page_text(as_viewer, "/calibration/summeval/", judge="mistral-v03")
    assert "may not stand in for a reviewer: the alternative annotator test has it win against 0 of 3" in said
    assert "Its advantage probability alone looks good, 0.62" in said
    assert "A judge that gives every output a 5 would have 0.71." in said
    assert "less well than a second reviewer would" in said


def test_two_judges_are_compared_by_their_ranking_within_criteria(studies, as_viewer):
    """Pooled, gemini_pro has 0.53 and llama-31 0.37: by which aspects score high."""
    said = page_text(as_viewer, "/calibration/summeval/compare/", a="gemini_pro@1", b="llama-31@1")
    assert "B is better than A in error and agreement. In ranking no difference shows." in said
    assert re.search(r"within criteria .{0,60}0\.386 0\.382 \S0\.004 \S0\.037 to 0\.028 not told apart", said)


def test_two_judges_that_compare_answers_are_held_to_what_people_prefer(studies, as_viewer):
    said = page_text(as_viewer, "/calibration/mtbench/compare/", a="gpt-4o@1", b="llama-31@1")
    assert "A gives the category that people give more often than B." in said


def test_the_page_says_how_many_reviews_research_ideas_would_need(studies, as_viewer):
    said = page_text(as_viewer, "/calibration/research_ideas/")
    assert "too low to validate any judge. It would take 55 reviews an output" in said
    assert "Novelty 0.16" in said
