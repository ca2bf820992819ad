"""Published studies come in whole, once, with the figures that their authors publish."""

import os
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db.models import Avg, Count

from reviewapp.interchange.public import load_public
from reviewapp.models import CriterionScore, Grade, Output, Task
from tests.interchange.files import counts

SHARED = Path(os.environ.get("TOUCHSTONE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
DATA = SHARED / "data"
pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(not (DATA / "alttest").is_dir(), reason=f"published studies: not in {DATA} (set TOUCHSTONE_SHARED)"),
]

# Published means by review: (Human, AI, AI_Rerank).
PUBLISHED = {
    "novelty": (4.84, 5.64, 5.81), "excitement": (4.55, 5.19, 5.46), "feasibility": (6.61, 6.34, 6.44),
    "effectiveness": (5.13, 5.47, 5.55), "overall": (4.68, 4.85, 5.34),
}  # fmt: skip


def n_grades(kind: str) -> int:
    return Grade.objects.filter(grader__kind=kind).count()


def test_summeval_has_1600_outputs_by_three_experts_and_six_judges():
    load_public("summeval", DATA)
    assert Output.objects.count() == 1600
    assert (n_grades("human"), n_grades("llm_judge")) == (3 * 1600, 6 * 1600)
    assert CriterionScore.objects.count() == 9 * 1600 * 4
    assert set(Grade.objects.filter(grader__kind="human").values_list("rater_name", "mode")) == {(f"e{i}", "blind") for i in range(3)}


def test_the_outputs_of_one_article_are_one_cluster():
    load_public("summeval", DATA)
    sizes = Output.objects.values("prompt").annotate(n=Count("id")).values_list("n", flat=True)
    assert (len(sizes), set(sizes)) == (100, {16})
    assert not Output.objects.filter(content_missing="").exists()


def test_mtbench_verdicts_are_categories_without_an_overall_score():
    load_public("mtbench", DATA / "alttest")
    assert (Output.objects.count(), n_grades("human"), n_grades("llm_judge")) == (120, 246, 6 * 120)
    assert set(CriterionScore.objects.values_list("value", flat=True)) == {"model_a", "tie", "model_b"}
    assert set(Grade.objects.values_list("overall", "unscored_reason")) == {(None, "not_numeric")}


def test_cebab_has_only_the_stars_that_were_given():
    load_public("cebab_stars", DATA / "alttest" / "cebab_stars")
    assert (Output.objects.count(), n_grades("human"), n_grades("llm_judge")) == (711, 2193, 6 * 711)
    assert Grade.objects.filter(grader__kind="human").values("rater_name").distinct().count() == 10
    assert Output.objects.values("prompt").distinct().count() == 628


def test_research_ideas_have_the_published_means():
    load_public("research_ideas", DATA)
    assert (Output.objects.count(), n_grades("human")) == (147, 337)
    rows = CriterionScore.objects.values_list("criterion__key", "grade__output__model").annotate(mean=Avg("score"))
    means = {(key, condition): round(mean, 2) for key, condition, mean in rows}
    assert means == {(key, c): mean for key, by in PUBLISHED.items() for c, mean in zip(("Human", "AI", "AI_Rerank"), by, strict=True)}


def test_a_reviewers_overall_score_is_their_own_and_six_passes():
    load_public("research_ideas", DATA)
    for grade in Grade.objects.prefetch_related("criterion_scores__criterion"):
        own = {s.criterion.key: s.score for s in grade.criterion_scores.all()}
        assert (grade.overall, grade.passed) == (own["overall"], own["overall"] >= 6)


def test_an_idea_keeps_its_title_topic_and_what_reviewers_said_of_their_review():
    load_public("research_ideas", DATA)
    metadata = Output.objects.get(external_id="research_ideas/Bias_1_Human").metadata
    assert metadata["title"] == "Mitigating first name biases in LLMs by few-shot prompting"
    assert (metadata["topic"], metadata["condition"]) == ("Bias", "Human")
    assert set(metadata["reviews"][0]) == {"rater", "confidence", "minutes", "familiarity"}


@pytest.mark.parametrize("name", ["mtbench", "cebab_stars", "research_ideas"])
def test_loading_twice_is_loading_once(name):
    load_public(name, DATA)
    before, revision = counts(), Task.objects.get().revision
    report = load_public(name, DATA)
    assert not report.changes_something
    assert (counts(), Task.objects.get().revision) == (before, revision)


def test_the_command_says_what_it_loaded(capsys):
    call_command("load_public", "mtbench", "--from", str(DATA))
    assert "outputs: 120 new" in capsys.readouterr().out
