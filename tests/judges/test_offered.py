"""Judges that people wrote are offered wherever one grades."""

import io
import json

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from graders import registry
from graders.judge.judge import Judge
from reviewapp.jobs import batch
from reviewapp.judges import versions
from reviewapp.models import Grade, Job, Promotion, Run
from tests.jobs.judged import judges, make_ideas
from tests.make import make_grader, make_judge_grade
from tests.messages_api import MessagesApi

pytestmark = pytest.mark.django_db(transaction=True)
SCORES = dict.fromkeys(("viability", "upside", "success", "novelty"), 5)


@pytest.fixture
def api(monkeypatch, tmp_path):
    with MessagesApi(otherwise=judges(8)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        settings_dir, settings.DATA_DIR = settings.DATA_DIR, tmp_path
        registry.all_graders.cache_clear()
        yield server
        settings.DATA_DIR = settings_dir
    registry.all_graders.cache_clear()


def strict(**changed):
    judge = Judge(**{"name": "strict", "model": "m", "effort": None, "thinking": False, "votes": 1, "max_tokens": 4000, **changed})
    return versions.save_version(judge)[0].grader


def named(grader):
    return f"{grader.name}@{grader.version}"


def test_the_review_page_grades_with_a_saved_judge(api, as_reviewer):
    (output,) = make_ideas(1)
    grader = strict()
    page = as_reviewer.get(f"/outputs/{output.pk}/").content.decode()
    assert f'<option value="{named(grader)}">' in page and "Grade with judge" in page
    response = as_reviewer.post(f"/outputs/{output.pk}/grade/", {"grader": named(grader)})
    job = Job.objects.get()
    assert (response.url, job.grader) == (f"/jobs/{job.pk}/", grader)
    batch.work_here([job.pk], lambda counts: None)
    assert output.grades.get().grader == grader


def test_the_outputs_page_grades_a_selection_with_a_saved_judge(api, as_admin):
    outputs = make_ideas(3)
    grader = strict()
    assert f"<option>{named(grader)}</option>" in as_admin.get("/outputs/?task=idea_proposal").content.decode()
    as_admin.post("/outputs/selection/grade", {"scope": "ticked", "ids": [outputs[0].pk, outputs[1].pk], "grader": named(grader)})
    assert sorted(Run.objects.get().jobs.values_list("output_id", "grader")) == [(o.pk, grader.pk) for o in outputs[:2]]


def test_a_saved_judge_that_grades_a_selection_does_not_take_over_what_counts(api, as_admin):
    (output,) = make_ideas(1)
    make_judge_grade(output, SCORES, make_grader("judge", "1"))
    tried = strict(name="judge")
    as_admin.post("/outputs/selection/grade", {"scope": "all", "query": "", "grader": named(tried)})
    assert Promotion.objects.get().primary_grader == "judge@1"


def grade(grader, *options, task="idea_proposal"):
    out = io.StringIO()
    call_command("grade", "--task", task, "--grader", grader, "--here", "--json", *options, stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def test_the_command_takes_a_saved_judge_by_version_and_by_name_its_newest(api):
    make_ideas(2)
    first, second = strict(), strict(max_tokens=5000)
    assert grade(named(first))["done"] == 2
    told = grade("strict")
    assert (told["version"], told["done"]) == (second.version, 2)
    assert set(Grade.objects.values_list("grader", flat=True)) == {first.pk, second.pk}
    with pytest.raises(CommandError, match="no grader strict@0") as error:
        grade("strict@0")
    assert error.value.returncode == 2


def test_a_new_run_grades_with_a_saved_judge(api, as_admin):
    make_ideas(2)
    grader = strict()
    assert f'value="{named(grader)}"' in as_admin.get("/runs/new/?kind=grade&task=idea_proposal").content.decode()
    as_admin.post("/runs/new/", {"kind": "grade", "task": "idea_proposal", "grader": named(grader), "which": "ungraded"})
    assert set(Run.objects.get().jobs.values_list("grader", flat=True)) == {grader.pk}


def test_a_judge_that_is_not_there_is_refused_with_those_that_are(api, as_reviewer):
    (output,) = make_ideas(1)
    grader = strict()
    response = as_reviewer.post(f"/outputs/{output.pk}/grade/", {"grader": "strict@0"})
    assert response.status_code == 422
    assert named(grader) in response.content.decode()


def test_without_a_model_what_was_graded_before_stays_usable(as_admin, monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (output,) = make_ideas(1)
    make_judge_grade(output, SCORES, make_grader("judge", "1"))
    assert "The judge on viability." in as_admin.get(f"/outputs/{output.pk}/?tab=evidence").content.decode()
    for address in (
        "/outputs/?judge=fail",
        "/calibration/idea_proposal/",
        "/judges/judge/1/",
        "/runs/ablations/?task=idea_proposal",
        "/",
        "/datasets/",
    ):
        assert as_admin.get(address).status_code == 200, address
